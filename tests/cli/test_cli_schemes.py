"""The options of `imc-ssm quantize`: schemes, what they do to the model that is written, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from cli_runs import done

from imc_ssm.modelfile import load_model
from imc_ssm.quantize import Bits, DiscreteS4D, Scheme


@pytest.mark.parametrize(
    ("words", "scheme"),
    [
        ((), Scheme()),
        (("--scheme", "w4a6", "--poles", 6), Scheme.w4a6(poles=6)),
        (("--scheme", "w8a8", "--biases", 16), Scheme.w8a8().model_copy(update={"bits": Bits()})),
        (("--granularity", "state", "--symmetric"), Scheme(granularity="state", symmetric=True)),
        (
            ("--calibration", "dynamic", "--state-calibration", "dynamic", "--percentile", 99.9),
            Scheme(calibration="dynamic", state_calibration="dynamic", percentile=99.9),
        ),
        (
            ("--order", "separate", "--rounding", "half_up", "--gelu", "piecewise"),
            Scheme(order="separate", rounding="half_up", gelu="piecewise"),
        ),
        (
            ("--parameterisation", "discrete", "--state-clip", 0, "--grad-clamp", 5),
            Scheme(parameterisation="discrete", state_clip=None, grad_clamp=5.0),
        ),
        (("--only", "poles, c", "--poles", 5), Scheme(bits=Bits.only(poles=5, c=8))),
        (("--weights", 4, "--activations", 6, "--biases", 0), Scheme.uniform(weights=4, activations=6)),
    ],
)
def test_schemes(chain, tmp_path, words, scheme):
    if words[-2:] == ("--biases", 0):
        scheme = scheme.model_copy(update={"bits": scheme.bits.model_copy(update={"biases": None})})
    done("quantize", chain["m.safetensors"], *words, "--out", tmp_path / "q.safetensors")
    stored = load_model(tmp_path / "q.safetensors")
    assert stored.scheme == scheme
    assert stored.info["accuracy_test"] > 50


def test_frozen_poles_stay_through_training(chain, tmp_path):
    quiet = ("--noise", 0, "--noise-output", 0, "--parameterisation", "frozen")
    done("quantize", chain["m.safetensors"], *quiet, "--out", tmp_path / "p.safetensors")
    done("quantize", chain["m.safetensors"], *quiet, "--epochs", 1, "--out", tmp_path / "q.safetensors")
    before, after = (load_model(tmp_path / f"{name}.safetensors").model.blocks[0].ssm.inner for name in "pq")
    assert isinstance(after, DiscreteS4D)
    assert np.array_equal(before.A.detach(), after.A.detach())
    assert not np.array_equal(before.B.detach(), after.B.detach())


def test_a_shipped_model_is_quantised_by_its_name(tmp_path):
    # on the digits, which need no download: another task, but the same channels and classes
    done("quantize", "s4d-16h-seed1", "--dataset", "digits", "--out", tmp_path / "q.safetensors")
    stored = load_model(tmp_path / "q.safetensors")
    assert stored.scheme == Scheme()
    assert stored.info["quantised_from"] == "s4d-16h-seed1.safetensors"
    assert stored.info["training"]["seed"] == 1


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        (("--scheme", "w4a"), "unknown scheme 'w4a'; did you mean 'w4a6'?"),
        (("--scheme", "w4a6", "--weights", 5), "--scheme w4a6 sets the bits of weights"),
        (("--scheme", "w8a8", "--activations", 5), "--scheme w8a8 sets the bits of activations"),
        (("--granularity", "channel"), "'granularity' = 'channel'"),
        (("--calibration", "on"), "'calibration' = 'on'"),
        (("--state-calibration", "off"), "'state_calibration' = 'off'"),
        (("--order", "jiont"), "'order' = 'jiont'"),
        (("--rounding", "nearest"), "'rounding' = 'nearest'"),
        (("--parameterisation", "free"), "'parameterisation' = 'free'"),
        (("--gelu", "tanh"), "'gelu' = 'tanh'"),
        (("--only", "poles,statee"), "unknown part 'statee'; did you mean 'state'?"),
        (("--biases", 17), "'biases' = 17"),
        (("--poles", 1), "'poles' = 1"),
        (("--state-clip", -3), "'state_clip' = -3"),
        (("--percentile", 20), "'percentile' = 20"),
    ],
)
def test_refusals(refused, chain, words, naming):
    refused("quantize", chain["m.safetensors"], *words, "--out", "new.safetensors", naming=naming)


def test_a_chip_cannot_follow_the_batch(refused, chain, tmp_path):
    model = tmp_path / "dynamic.safetensors"
    done("quantize", chain["m.safetensors"], "--calibration", "dynamic", "--out", model)
    naming = "a chip needs fixed formats, but the ranges of the activations are dynamic"
    refused("deploy", model, "--out", "d.nc", naming=naming)
    refused("cost", model, "--out", "c.nc", naming=naming)
    refused("inspect", model, "--out", "i.nc", naming="the analysis needs fixed formats")
