"""The options of `imc-ssm quantize`: schemes, what they do to the model that is written, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_runs import done

from imc_ssm import results
from imc_ssm.modelfile import load_model
from imc_ssm.quantization import Bits, DiscreteS4D, Scheme

STUDY = Path(__file__).parents[2] / "experiments" / "zhao2025" / "results"


PLAIN = ("--scheme", "uniform")


@pytest.mark.parametrize(
    ("words", "scheme"),
    [
        ((), Scheme.recommended()),
        (("--poles", 6, "--weights", 4), Scheme.recommended(poles=6, weights=4)),
        (("--scheme", "uniform"), Scheme()),
        (("--scheme", "w4a6", "--poles", 6), Scheme.w4a6(poles=6)),
        (("--scheme", "w8a8", "--biases", 16), Scheme(rounding_placement="separate", gelu="piecewise")),
        (
            (*PLAIN, "--granularity", "state", "--symmetric"),
            Scheme(granularity="state", symmetric=True),
        ),
        (
            (
                "--scheme",
                "uniform",
                "--calibration",
                "dynamic",
                "--state-calibration",
                "dynamic",
                "--percentile",
                99.9,
            ),
            Scheme(calibration="dynamic", state_calibration="dynamic", percentile=99.9),
        ),
        (
            (*PLAIN, "--order", "separate", "--rounding", "half_up", "--gelu", "piecewise"),
            Scheme(rounding_placement="separate", rounding="half_up", gelu="piecewise"),
        ),
        (
            (*PLAIN, "--parameterisation", "discrete", "--state-clip", 0, "--grad-clamp", 5),
            Scheme(parameterisation="discrete", state_clip=None, grad_clamp=5.0),
        ),
        (("--only", "poles, c", "--poles", 5), Scheme(bits=Bits.only(poles=5, c=8))),
        (
            (*PLAIN, "--weights", 4, "--activations", 6, "--biases", 0),
            Scheme.uniform(weights=4, activations=6),
        ),
        (
            (*PLAIN, "--rounding", "dithered", "--rate-limit", 1.5, "--max-period", 8),
            Scheme(rounding="dithered", rate_limit=1.5, max_period=8),
        ),
        (
            (
                "--scheme",
                "uniform",
                "--rounding",
                "feedback",
                "--residual-bits",
                6,
                "--scales",
                "power_of_two",
                "--rate-limit",
                0,
            ),
            Scheme(rounding="feedback", residual_bits=6, scales="power_of_two"),
        ),
        (
            (
                "--scheme",
                "uniform",
                "--pole-form",
                "log_polar",
                "--pole-decay-bits",
                4,
                "--pole-multiplier-bits",
                12,
            ),
            Scheme(pole_form="log_polar", pole_decay_bits=4, pole_multiplier_bits=12),
        ),
    ],
)
def test_schemes(chain, tmp_path, words, scheme):
    if words[-2:] == ("--biases", 0):
        scheme = Scheme(bits=scheme.bits.model_copy(update={"biases": None}))
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


def test_a_shipped_model_is_quantized_by_its_name(tmp_path):
    # on the digits, which need no download: another task, but the same channels and classes
    done("quantize", "s4d-16h-seed1", "--dataset", "digits", "--out", tmp_path / "q.safetensors")
    stored = load_model(tmp_path / "q.safetensors")
    assert stored.scheme == Scheme.recommended()
    assert stored.info["quantized_from"] == "s4d-16h-seed1.safetensors"
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
        (("--order", "jiont"), "'rounding_placement' = 'jiont'"),
        (("--rounding", "nearest"), "'rounding' = 'nearest'"),
        (("--rounding", "feedback", "--order", "separate"), "use 'joint', or another rounding"),
        (("--residual-bits", 4), "--residual-bits 4 does nothing without --rounding feedback"),
        ((*PLAIN, "--max-period", 4), "--max-period 4 does nothing without --rate-limit"),
        (("--rate-limit", -1), "'rate_limit' = -1.0: allowed is more than 0"),
        (("--rate-limit", 1, "--max-period", 12), "'max_period' = 12: allowed is a power of two, 1 to 256"),
        (("--rate-limit", 1, "--state-calibration", "dynamic"), "use static calibration, or leave rate_limit out"),
        (("--rate-limit", 1, "--only", "c"), "heads are slow in the integer unit only"),
        (
            (*PLAIN, "--pole-decay-bits", 4),
            "--pole-decay-bits 4 does nothing without --pole-form polar or log_polar",
        ),
        (("--pole-form", "log"), "'pole_form' = 'log'"),
        (("--scales", "pow2"), "'scales' = 'pow2'"),
        (("--parameterisation", "free"), "'parameterisation' = 'free'"),
        (("--gelu", "tanh"), "'gelu' = 'tanh'"),
        (("--only", "poles,statee"), "unknown part 'statee'; did you mean 'state'?"),
        (("--only", "poles,norm"), "unknown part of this model 'norm'"),
        (("--only", "poles", "--state", 4), "--state 4 is of no part in --only poles"),
        (("--only", "c", "--activations", 4), "--activations 4 is of no part in --only c"),
        (("--only", "c", "--biases", 12), "--biases 12 is of no part in --only c"),
        (("--biases", 17), "'biases' = 17: allowed is at least 2 and at most 16"),
        (("--poles", 1), "'poles' = 1"),
        (("--state-clip", -3), "'state_clip' = -3"),
        (("--percentile", 20), "'percentile' = 20"),
    ],
)
def test_refusals(refused, chain, words, naming):
    refused("quantize", chain["m.safetensors"], *words, "--out", "new.safetensors", naming=naming)


def test_a_chip_has_no_full_precision(refused, chain, tmp_path):
    model = tmp_path / "q.safetensors"
    printed = done("quantize", chain["m.safetensors"], "--scheme", "w4a6", "--out", model).out
    assert "for a chip quantize with --biases 16" in printed
    biases = "encoder.bias, blocks.0.mixing.bias, decoder.bias"
    naming = f"give bits to {biases} and quantize again (imc-ssm quantize --biases 16)"
    refused("cost", model, "--out", "c.nc", naming=naming)
    printed = done("quantize", chain["m.safetensors"], "--scheme", "w4a6", "--biases", 16, "--out", model).out
    assert "--biases" not in printed
    done("cost", model, "--out", tmp_path / "c.nc")


def test_what_is_drawn_follows_the_seed(chain, tmp_path):
    """The sequences of the calibration: the same seed gives the same file."""
    files = {}
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        files[name] = tmp_path / f"{name}.safetensors"
        done("quantize", chain["m.safetensors"], "--seed", seed, "--out", files[name])
    assert files["one"].read_bytes() == files["again"].read_bytes()
    models = [load_model(files[name]).model.state_dict() for name in ("one", "other")]
    assert any(not value.equal(models[1][name]) for name, value in models[0].items())


def test_the_command_quantizes_as_the_study_does(tmp_path, mnist_folder):
    """Table III's PTQ cell of a shipped model, computed by another process: the same accuracy."""
    done(
        "quantize",
        "s4d-16h-seed2",
        "--scheme",
        "w4a6",
        "--seed",
        2,
        "--data-dir",
        mnist_folder,
        "--out",
        tmp_path / "q.safetensors",
    )
    table = results.load(STUDY / "table3.nc")["accuracy"]
    cell = table.sel(model="s4d-16h", scheme="PTQ W4A6 A8 x8", seed=2)
    # The same codes, but for ranges that are found in floats: another processor may move one of 10,000 images.
    assert load_model(tmp_path / "q.safetensors").info["accuracy_test"] == pytest.approx(float(cell), abs=0.05)


def test_a_chip_cannot_follow_the_batch(refused, chain, tmp_path):
    model = tmp_path / "dynamic.safetensors"
    done("quantize", chain["m.safetensors"], "--calibration", "dynamic", "--out", model)
    naming = "a chip needs fixed formats, but the ranges of input, encoder, blocks.0.ssm.recurrent and 6 more are"
    refused("deploy", model, "--out", "d.nc", naming=naming)
    refused("cost", model, "--out", "c.nc", naming=naming)
    refused("inspect", model, "--out", "i.nc", naming="the analysis needs fixed formats")
