"""What every design that ships must do: hold a model, compute what it computes to some points, and price it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from imc_ssm.chip import compile, evaluate
from imc_ssm.costs import cost
from imc_ssm.datasets import SequenceDataset
from imc_ssm.devices import device_names, load_cell, load_design, resolve
from imc_ssm.layers import Classifier
from imc_ssm.pricing import nominal_tiles
from imc_ssm.quantization import Scheme, calibration_batch


@pytest.mark.parametrize("name", device_names("designs"))
def test_a_model_runs_on_it(name: str, quantized: Callable[[Scheme], Classifier], digits: SequenceDataset) -> None:
    """Three chips right after programming keep more than half of the accuracy (chance is a tenth).

    With ideal cells only the converters are left.
    """
    placed = compile(quantized(Scheme()), name, *calibration_batch(digits, 8, most=50))
    time = placed.chip.cell.usual_times()[0]
    ds = evaluate(placed, digits, 3, [time])
    assert float(ds["accuracy"].mean()) > 0.5 * float(ds["accuracy_digital"])
    bill = cost(placed)
    for quantity in ("energy_total", "latency_total", "area_total"):
        assert float(bill[quantity]) > 0
    perfect = resolve(load_design(name).with_(cell="ideal", read_noise__value=0.0, drift_compensation="none"))
    same = evaluate(
        compile(quantized(Scheme()), perfect, *calibration_batch(digits, 8, most=50)), digits, 1, [1.0]
    )
    assert abs(float(same["accuracy_digital"] - same["accuracy"][0].mean())) < 4  # converters alone


def test_each_cell_is_on_a_design_or_an_example() -> None:
    used = {resolve(name).cell.name for name in device_names("designs")}
    examples = {"generic-reram", "ideal", "state-independent"}
    assert used | examples == set(device_names("cells"))
    assert not used & examples


def test_the_cells_of_hermes_are_halves_and_wholes() -> None:
    """Two devices in parallel have twice the conductance, area and reading energy of one."""
    one, two = load_cell("pcm-hermes-single"), load_cell("pcm-hermes-dual")
    assert two.g_max.value == pytest.approx(2 * one.g_max.value)
    assert two.area.value == pytest.approx(2 * one.area.value)
    assert two.read_energy(two.g_max.value, 1.0) == pytest.approx(2 * one.read_energy(one.g_max.value, 1.0))
    single, dual = resolve("hermes-256-single"), resolve("hermes-256")
    areas = [nominal_tiles(chip).law.area_cell * chip.design.bit_lines for chip in (single, dual)]
    assert areas[1] == pytest.approx(2 * areas[0])
