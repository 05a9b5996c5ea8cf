"""Scales that are powers of two: of every format, exactly, in whatever way its range is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_runs import check_batch_stream_and_partition, check_oracle, some, ssm_of

from imc_ssm import load_model, save_model
from imc_ssm.datasets import SequenceDataset
from imc_ssm.fixedpoint import Format, Multipliers, plan_scan
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import (
    MinMax,
    Mse,
    Observer,
    Percentile,
    Rule,
    Scheme,
    calibration_batch,
    formats_of,
    quantize,
)
from imc_ssm.training import TrainConfig, train


def powers(scale: np.ndarray) -> bool:
    return bool(np.all(np.frexp(scale)[0] == 0.5))


ENDS = st.floats(-1e6, 1e6, allow_subnormal=False)


class TestRange:
    @given(ENDS, ENDS, st.integers(2, 16), st.booleans())
    def test_holds_it_with_the_next_power(self, one: float, other: float, bits: int, symmetric: bool) -> None:
        low, high = min(one, other, 0.0), max(one, other, 0.0)
        free = Format.from_range(low, high, bits, symmetric=symmetric)
        fmt = Format.from_range(low, high, bits, symmetric=symmetric, power_of_two=True)
        assert powers(fmt.scale)
        assert free.scale <= fmt.scale < 2 * free.scale
        ends = np.array([low, high])
        assert np.all(np.abs(fmt.dequantize(fmt.quantize(ends)) - ends) <= 0.5001 * fmt.scale)
        assert fmt.dequantize(fmt.quantize(0.0)) == 0

    @pytest.mark.parametrize("bits", [2, 4, 8, 16])
    @pytest.mark.parametrize("exponent", [-20, 0, 7])
    def test_one_that_is_a_power_already_stays(self, bits: int, exponent: int) -> None:
        step = 2.0**exponent
        for symmetric, codes in ((False, 2**bits - 1), (True, 2 ** (bits - 1) - 1)):
            fmt = Format.from_range(0, codes * step, bits, symmetric=symmetric, power_of_two=True)
            assert fmt.scale == step
        assert Format.from_range(0, (2**bits - 1) * step, bits, power_of_two=True).zero_point == -(2 ** (bits - 1))

    def test_example(self) -> None:
        """4 / 255 is just above 2^-6: half of the codes are free."""
        fmt = Format.from_range(-1.0, 3.0, 8, power_of_two=True)
        assert (float(fmt.scale), int(fmt.zero_point)) == (2.0**-5, -32)
        assert fmt.quantize([-1.0, 0.0, 3.0]).tolist() == [-64, -32, 64]

    def test_free_codes_lie_on_both_sides(self) -> None:
        fmt = Format.from_range(-1.0, 1.1, 8, power_of_two=True)
        below, above = -1.0 / fmt.scale - (fmt.low - fmt.zero_point), (fmt.high - fmt.zero_point) - 1.1 / fmt.scale
        assert abs(below - above) <= 1
        assert below > 50

    def test_empty_ranges(self) -> None:
        assert Format.from_range(0.0, 0.0, 8, power_of_two=True).zero_point == -128
        fmt = Format.from_range([0.0, -1.0], [0.0, 1.0], 8, power_of_two=True)
        assert powers(fmt.scale)


class TestObservers:
    @pytest.mark.parametrize("observer", [Percentile(), MinMax(), Mse()])
    def test_say_the_same_with_free_scales(self, observer: Observer) -> None:
        assert Scheme.parse({"rules": [Rule(bits=8, observer=observer)]}).spec("gelu").observer == observer

    @settings(deadline=None)
    @given(st.integers(0, 10_000), st.integers(2, 8), st.booleans())
    def test_percentiles_take_the_smaller_error(self, seed: int, bits: int, symmetric: bool) -> None:
        values = np.random.default_rng(seed).standard_normal((3, 500)) * np.array([[0.3], [1.0], [40.0]])
        plain = Percentile(percent=99.0)
        ends = plain.for_powers_of_two().range(values, bits, symmetric)
        rules = {"symmetric": symmetric, "power_of_two": True}
        chosen, above = (
            Format.from_range(*e, bits, **rules) for e in (ends, plain.range(values, bits, symmetric))
        )
        ratio = above.scale / chosen.scale
        assert set(ratio.tolist()) <= {1.0, 2.0}

        def error(fmt: Format) -> np.ndarray:
            return np.square(fmt.dequantize(fmt.quantize(values)) - values).mean(1)

        assert np.all(error(chosen) <= error(above))

    def test_percentiles_saturate_a_little_rather_than_double_the_step(self) -> None:
        values = np.linspace(-1, 1, 1001)[None] * np.array([[127.0], [130.0], [200.0]]) * 2.0**-7
        ends = Percentile(percent=100.0).for_powers_of_two().range(values, 8, True)
        fmt = Format.from_range(*ends, 8, symmetric=True, power_of_two=True)
        assert fmt.scale.tolist() == [2.0**-7, 2.0**-7, 2.0**-6]

    def test_mean_square_errors_are_those_of_the_powers(self) -> None:
        values = np.random.default_rng(1).standard_normal((4, 2000)) * np.array([[1.0], [1.3], [1.6], [2.0]])
        made = {}
        for name, observer in (("free", Mse()), ("powers", Mse().for_powers_of_two())):
            fmt = Format.from_range(*observer.range(values, 4, False), 4, power_of_two=True)
            made[name] = np.square(fmt.dequantize(fmt.quantize(values)) - values).mean(1)
        assert np.all(made["powers"] <= made["free"])
        assert np.any(made["powers"] < made["free"])


STATE = Rule(path="state", granularity="state")
SCHEMES = {
    "head": Scheme(scales="power_of_two"),
    "state": Scheme(scales="power_of_two", rules=(*Scheme().rules, STATE)),
    "w4a6, symmetric": Scheme.w4a6(scales="power_of_two", symmetric=True),
    "dithered, log-polar": Scheme(
        scales="power_of_two", rounding="dithered", pole_form="log_polar", rules=(*Scheme().rules, STATE)
    ),
    "least error": Scheme(scales="power_of_two", rules=(*Scheme().rules, Rule(observer=Mse(steps=4)))),
    "tensor": Scheme(scales="power_of_two", granularity="tensor"),
}


@pytest.mark.parametrize("name", SCHEMES)
@torch.no_grad()
def test_every_scale_and_every_requantization(
    name: str, quantized: Callable[[Scheme], Classifier], digits: SequenceDataset
) -> None:
    model = quantized(SCHEMES[name])
    for path, fmt in formats_of(model).items():
        assert powers(fmt.scale), path
    ssm = ssm_of(model)
    plan = plan_scan(ssm.scan_formats(), *ssm.shape)
    assert plan.m_y is not None
    assert all(powers(m.astype(float)) for m in (plan.m_a, plan.m_b, plan.m_c, plan.m_y))
    own = Multipliers.of(plan)
    assert (own.a, own.b) == (1, 1)
    if SCHEMES[name].rounding == "half_even":
        check_oracle(model, some(digits))
    check_batch_stream_and_partition(model, some(digits))


@pytest.mark.parametrize("granularity", ["tensor", "head", "state"])
@torch.no_grad()
def test_states_fill_their_words(
    granularity: str, trained: Classifier, quantized: Callable[[Scheme], Classifier], digits: SequenceDataset
) -> None:
    """They are counted in units of their own: B and C say so, and what the layer computes is the same."""
    rule = Rule(path="state", granularity=granularity, observer=MinMax())
    model = quantized(Scheme(scales="power_of_two", rules=(*Scheme().rules, rule)))
    ssm, before = ssm_of(model), trained.blocks[0].ssm
    gain = (ssm.inner.B / before.B)[..., 0]
    assert torch.all((gain >= 1) & (gain < 2))
    assert torch.any(gain > 1.1)
    rows = 1 if granularity == "tensor" else len(gain)
    assert torch.allclose(gain.reshape(rows, -1), gain.reshape(rows, -1)[:, :1]) == (granularity != "state")
    assert torch.allclose(ssm.inner.B * ssm.inner.C, before.B * before.C, rtol=1e-5)
    calibration, _ = calibration_batch(digits, 8, most=200)
    seen: list[torch.Tensor] = []
    handle = ssm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(calibration)
    handle.remove()
    # The input of the recurrence is rounded now: the ranges are nearly those of the calibration.
    ends = ssm._states(seen[0].transpose(1, 2).contiguous(), *ssm.exact()[:2], None)
    free = Format.from_range(*ends, 8).scale
    assert np.all((free > 0.9 * ssm.state.format().scale) & (free < 1.1 * ssm.state.format().scale))


def test_a_state_does_not_pass_its_clip(quantized: Callable[[Scheme], Classifier]) -> None:
    plain = ssm_of(quantized(Scheme(granularity="tensor", state_clip=None))).state.format()
    reach = float(np.max(plain.magnitude() * plain.scale))
    model = quantized(Scheme(scales="power_of_two", granularity="tensor", state_clip=1.01 * reach))
    ssm = ssm_of(model)
    assert not ssm.state.clipped
    assert float(ssm.state.format().scale) < 2 * float(plain.scale)


@torch.no_grad()
def test_free_scales_are_what_they_were(quantized: Callable[[Scheme], Classifier]) -> None:
    assert not any(powers(fmt.scale) for fmt in formats_of(quantized(Scheme())).values() if fmt.scale.ndim)


def test_training_stays_on_powers(quantized: Callable[[Scheme], Classifier], digits: SequenceDataset) -> None:
    """Scales of parameters follow the current values, those of activations stay."""
    model = quantized(SCHEMES["state"])
    before = formats_of(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    tripled = formats_of(model)
    assert all(powers(fmt.scale) for fmt in tripled.values())
    weight = next(p for p in before if p.endswith("mixing.weight"))
    assert set((tripled[weight].scale / before[weight].scale).ravel().tolist()) <= {2.0, 4.0}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.div_(3.0)
    train(model, digits, TrainConfig(epochs=1, batch=256, learning_rate=1e-2))
    after = formats_of(model.eval())
    assert all(powers(fmt.scale) for fmt in after.values())
    assert np.array_equal(after["blocks.0.gelu"].scale, before["blocks.0.gelu"].scale)
    check_batch_stream_and_partition(model, some(digits))


@torch.no_grad()
def test_dynamic_ranges_too(quantized: Callable[[Scheme], Classifier], digits: SequenceDataset) -> None:
    model = quantized(Scheme(scales="power_of_two", calibration="dynamic", state_calibration="dynamic"))
    for factor in (1.0, 0.3):
        model(factor * some(digits))
        assert all(powers(fmt.scale) for fmt in formats_of(model).values())


@torch.no_grad()
def test_other_layers_and_files(digits: SequenceDataset, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = Classifier(ModelConfig.parse({"heads": 6, "norm": "layer", "layer": {"type": "s5"}}))
    model = quantize(plain, Scheme(scales="power_of_two"), digits)
    assert all(powers(fmt.scale) for fmt in formats_of(model).values())
    save_model(tmp_path / "s5.safetensors", model)
    again = load_model(tmp_path / "s5.safetensors").model
    assert torch.equal(again(some(digits)), model(some(digits)))
