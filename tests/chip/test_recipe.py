"""`training_for`: the recipe reacts to the design."""

from __future__ import annotations

from typing import Any

import pytest
from chip_cases import chip_of

from imc_ssm.chip import DAY, HOUR, training_for, weight_error
from imc_ssm.devices import load_cell
from imc_ssm.errors import ConfigError, DesignError
from imc_ssm.training import TrainConfig


def test_the_period_is_that_of_the_cell_or_given():
    assert (training_for("pcm-256").disturbance.earliest, training_for("pcm-256").disturbance.latest) == (
        1,
        30 * DAY,
    )
    wan = training_for("reram-wan-64").disturbance
    assert (wan.earliest, wan.latest) == (1, 2 * DAY)
    day = training_for("pcm-256", earliest="1h", latest="1d")
    assert (day.disturbance.earliest, day.disturbance.latest) == (HOUR, DAY)
    assert "1 h to 1 d" in day.written["age"]


def test_noise_grows_with_that_of_the_cell_and_with_age():
    quiet, loud = (chip_of(cell={"programming_scale": scale}) for scale in (0.1, 3.0))
    assert weight_error(quiet, 1.0) < weight_error("pcm-256", 1.0) < weight_error(loud, 1.0)
    assert weight_error("pcm-256", 1.0) < weight_error("pcm-256", 30 * DAY)


def test_what_is_written_is_measured():
    loud, quiet = (chip_of(cell={"programming_scale": scale}) for scale in (3.0, 0.1))
    for chip in (loud, quiet):
        ends = [f"{100 * weight_error(chip, time):.1f} %" for time in (1.0, 30 * DAY)]
        assert all(end in training_for(chip).written["weights"] for end in ends)
    assert training_for(loud).written["weights"] != training_for(quiet).written["weights"]


def test_a_ramp_is_the_configs():
    assert training_for("pcm-256", TrainConfig(noise_ramp=2.0)).config.noise_ramp == 2.0
    assert training_for("pcm-256", TrainConfig(noise_ramp=2.0)).written["schedule"] == "rises over 2 epochs"
    assert training_for("pcm-256").written["schedule"] == "constant"


def test_input_ranges_are_learned_where_noise_grows_with_them():
    assert training_for("pcm-256").config.input_ranges == "learned"
    assert training_for("pcm-256", quantized=False).config.input_ranges == "calibrated"
    assert training_for(chip_of(noise=0.0)).config.input_ranges == "calibrated"


def test_the_chips_replace_the_noise_of_the_config_and_nothing_else():
    given = TrainConfig(epochs=3, batch=17, learning_rate=0.003, noise=0.06, noise_output=0.04, clip_input=99.0)
    found = training_for("pcm-256", given).config
    assert (found.noise, found.noise_output) == (0.0, 0.0)
    assert (found.epochs, found.batch, found.learning_rate) == (3, 17, 0.003)


def test_stuck_devices_are_written_down():
    chip = chip_of("reram-128").with_(cell=load_cell("generic-reram"))
    assert training_for(chip).written["stuck devices"] == "0.5 %, others in every step"
    assert training_for(chip, devices="fixed").written["stuck devices"] == "0.5 %, the same in every step"
    assert "stuck devices" not in training_for("pcm-256").written


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"design": "pcm-25"}, "pcm-256"),
        ({"latest": "soon"}, "'soon'"),
        ({"earliest": "1d", "latest": "1h"}, "before earliest"),
        ({"latest": 1e13}, "no model at 1e"),
        ({"config": {"epochs": 3}}, "give a TrainConfig"),
        ({"devices": "none"}, "devices"),
    ],
)
def test_wrong_inputs(given: dict[str, Any], said: str):
    with pytest.raises((ConfigError, DesignError), match=said) as caught:
        training_for(**({"design": "pcm-256"} | given))
    assert "\n" not in str(caught.value)
