"""Slow heads: how their periods are chosen, their coefficients and ranges against the definition, and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from quantized_runs import oracle, some, ssm_of

from imc_ssm.datasets import SequenceDataset
from imc_ssm.errors import ConfigError, FileError
from imc_ssm.files import load_tensors, save_tensors
from imc_ssm.layers import Classifier
from imc_ssm.modelfile import load_model, save_model
from imc_ssm.quantization import Bits, MinMax, Rule, Scheme, quantize
from imc_ssm.quantization.rates import groups_of, held, several_steps, slowest, windows

Make = Callable[[Scheme], Classifier]
SLOW = Scheme.uniform(rate_limit=2.0, max_period=8)


@pytest.fixture
def slow(trained: Classifier, digits: SequenceDataset) -> Make:
    """The trained model with heads from slow to fast, quantized with a scheme."""
    with torch.no_grad():
        trained.blocks[0].ssm.log_dt.copy_(torch.linspace(-6, -2, 8)[[3, 0, 5, 7, 2, 4, 1, 6]])
    return lambda scheme: quantize(trained, scheme, digits)


def poles(seed: int, heads: int = 6, states: int = 3) -> torch.Tensor:
    """Poles inside the circle with angles from 1e-3 to pi."""
    draw = np.random.default_rng(seed)
    angle = np.exp(draw.uniform(math.log(1e-3), math.log(math.pi), (heads, states)))
    return torch.from_numpy(draw.uniform(0.5, 1.0, (heads, states)) * np.exp(1j * angle))


class TestPeriods:
    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, 10**6), st.sampled_from([0.01, 0.7, 1.5, 3.0]), st.sampled_from([1, 2, 16, 256]))
    def test_the_largest_power_of_two_that_the_fastest_pole_allows(
        self, seed: int, limit: float, most: int
    ) -> None:
        a = poles(seed)
        fastest = np.abs(np.angle(a.numpy())).max(1)
        for k, angle in zip(slowest(a, limit, most).tolist(), fastest, strict=True):
            assert 1 <= k <= most
            assert k & (k - 1) == 0
            assert k == 1 or k * angle <= limit
            assert k == most or 2 * k * angle > limit

    def test_examples(self) -> None:
        angles = torch.tensor(
            [[0.0, 0.0], [0.1, -0.4], [0.75, 0.1], [0.76, 0.0], [-3.1, 0.0]], dtype=torch.float64
        )
        assert slowest(torch.exp(1j * angles), 1.5, 16).tolist() == [16, 2, 2, 1, 1]

    def test_they_are_of_the_model_and_stay(self, slow: Make, trained: Classifier) -> None:
        layer = ssm_of(slow(SLOW))
        wanted = slowest(trained.blocks[0].ssm.discrete()[0], 2.0, 8)
        assert torch.equal(layer.periods, wanted)
        assert len(set(wanted.tolist())) > 2
        assert layer.rates() == tuple(wanted.tolist())
        assert layer.scan_formats().periods == layer.rates()
        with torch.no_grad():
            layer.inner.log_dt += 3  # what training does does not choose again
        assert layer.rates() == tuple(wanted.tolist())
        layer.periods.fill_(1)
        assert layer.rates() is None

    @torch.no_grad()
    def test_no_head_waits_longer_than_a_sequence_lasts(self, trained: Classifier) -> None:
        slowest_of_all = SLOW.with_(rate_limit=1e3, max_period=16)
        for time, lengths, period in ((3, None, 2), (40, None, 16), (9, torch.tensor([7, 3]), 4), (1, None, None)):
            model = quantize(trained, slowest_of_all, torch.randn(2, time, 1), lengths)
            assert ssm_of(model).rates() == (None if period is None else (period,) * 8)
            assert torch.isfinite(model(torch.randn(2, time, 1))).all()

    def test_without_a_limit_there_is_no_buffer(self, quantized: Make) -> None:
        model = quantized(Scheme())
        assert ssm_of(model).periods is None
        assert not any("periods" in name for name in model.state_dict())


class TestCoefficients:
    @pytest.mark.parametrize("k", [1, 2, 4, 8, 256])
    def test_of_several_steps_with_the_input_held(self, k: int) -> None:
        a = poles(1)
        b = torch.exp(1j * poles(2).real)
        a_k, b_k = several_steps(a, b, torch.full((6,), k), k)
        x, u = torch.full_like(a, 0.3 - 0.2j), 1.7
        moved = x.clone()
        for _ in range(k):
            moved = a * moved + b * u
        torch.testing.assert_close(a_k * x + b_k * u, moved)

    def test_every_head_has_its_own(self) -> None:
        a, b, periods = poles(3), poles(4), torch.tensor([1, 8, 2, 1, 64, 4])
        together = several_steps(a, b, periods, 64)
        for h, k in enumerate(periods.tolist()):
            apart = several_steps(a[h : h + 1], b[h : h + 1], periods[h : h + 1], k)
            for one, other in zip(together, apart, strict=True):
                torch.testing.assert_close(one[h], other[0], rtol=1e-13, atol=0)

    def test_gradients(self) -> None:
        periods = torch.tensor([1, 4, 2])
        a, b = (poles(seed, heads=3, states=2).requires_grad_() for seed in (5, 6))
        assert torch.autograd.gradcheck(lambda a, b: several_steps(a, b, periods, 4), (a, b))


def exact(u: NDArray[Any], a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], k: int) -> tuple[Any, Any]:
    """Outputs (time,) of one head step by step, from one-step coefficients, and its states after each update."""
    x, total, y, out, states = np.zeros(len(a), complex), 0.0, 0.0, [], []
    for t, value in enumerate(u):
        total += value
        if (t + 1) % k == 0:
            for _ in range(k):
                x = a * x + b * total / k
            total, y = 0.0, 2 * (c * x).real.sum()
            states.append(x)
        out.append(y)
    return np.array(out), np.array(states).reshape(-1, len(a))


class TestFullPrecision:
    """What calibration sees: every head at its rate."""

    @pytest.mark.parametrize(("k", "time"), [(1, 5), (2, 7), (4, 3), (4, 8), (8, 21)])
    def test_windows_and_held_outputs(self, k: int, time: int) -> None:
        u = torch.arange(2.0 * time).reshape(1, 2, time) ** 2
        means = windows(u, k)
        assert means.shape == (1, 2, time // k)
        for j in range(time // k):
            torch.testing.assert_close(means[..., j], u[..., k * j : k * j + k].mean(-1))
        y = held(means, k, time)
        assert y.shape == u.shape
        for t in range(time):
            updates = (t + 1) // k
            assert torch.equal(y[..., t], means[..., updates - 1] if updates else torch.zeros(1, 2))

    @torch.no_grad()
    def test_outputs_and_ranges(self, slow: Make) -> None:
        layer = ssm_of(slow(SLOW))
        heads, _ = layer.shape
        u = torch.randn(3, heads, 45, generator=torch.Generator().manual_seed(0))
        lengths = torch.tensor([45, 7, 30])
        mask = torch.arange(45) < lengths[:, None]
        a, b, c = (z.numpy().astype(complex) for z in layer.inner.discrete())
        outputs = np.zeros((3, heads, 45))
        ends: dict[int, list[NDArray[Any]]] = {h: [] for h in range(heads)}
        for i in range(3):
            for h, k in enumerate(layer.rates() or ()):
                outputs[i, h], _ = exact(u[i, h].numpy(), a[h], b[h], c[h], k)
                _, states = exact(u[i, h, : lengths[i]].numpy(), a[h], b[h], c[h], k)
                ends[h].append(states)
        stepped = layer.exact()
        np.testing.assert_allclose(layer._exact(u, *stepped).numpy(), outputs, rtol=1e-3, atol=1e-4)
        spec = layer.specs["state"]
        for granularity in ("tensor", "head", "state"):
            layer.specs["state"] = type(spec)(8, granularity=granularity, observer=MinMax())
            low, high = layer._states(u, *stepped[:2], mask)
            values = [np.concatenate(ends[h]) for h in range(heads)]
            parts = [np.concatenate([v.real, v.imag]) for v in values]
            if granularity == "state":
                lows, highs = (np.array([f(p, 0) for p in parts]) for f in (np.min, np.max))
            else:
                lows, highs = (np.array([f(p) for p in parts]) for f in (np.min, np.max))
            if granularity == "tensor":
                lows, highs = lows.min(), highs.max()
            np.testing.assert_allclose(np.minimum(low, 0), np.minimum(lows, 0), rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(np.maximum(high, 0), np.maximum(highs, 0), rtol=1e-3, atol=1e-3)

    @torch.no_grad()
    def test_long_words_compute_it(self, slow: Make, digits: SequenceDataset) -> None:
        # 16 bits everywhere: what the unit returns is the definition in full precision, to a few codes.
        long = Scheme.uniform(poles=16, state=16, weights=16, activations=16, percentile=100.0, rate_limit=2.0)
        model = slow(long)
        layer, seen = ssm_of(model), []
        handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].transpose(1, 2)))
        try:
            model(some(digits))
        except Exception:  # the kernels
            assert seen
        handle.remove()
        u = seen[0].contiguous()
        formats = layer.scan_formats()
        y, _ = oracle(layer, formats, u)
        real = formats.y.dequantize(y, head_axis=1)
        wanted = layer._exact(u, *layer.exact()).numpy()
        assert np.abs(wanted).max() > 0.5
        np.testing.assert_allclose(real, wanted, atol=2e-3 * float(np.abs(wanted).max()))


class TestRefusals:
    @pytest.mark.parametrize(
        ("scheme", "naming"),
        [
            (Scheme(bits=Bits.only(poles=8), rate_limit=1.5), "its state is in full precision"),
            (SLOW.with_(state_calibration="dynamic"), "blocks.0.ssm.state are dynamic"),
            (
                SLOW.with_(rules=(*SLOW.rules, Rule(path="recurrent", calibration="dynamic"))),
                "ssm.recurrent are dy",
            ),
        ],
    )
    def test_of_schemes(self, quantized: Make, scheme: Scheme, naming: str) -> None:
        with pytest.raises(ConfigError, match=naming) as caught:
            quantized(scheme)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("value", [0, 3, 512, -2])
    def test_of_files(self, quantized: Make, tmp_path: Path, value: int) -> None:
        path = tmp_path / "q.safetensors"
        save_model(path, quantized(SLOW))
        tensors, header = load_tensors(path, kind="model")
        changed = np.array(tensors["blocks.0.ssm.periods"])
        changed[2] = value
        save_tensors(path, tensors | {"blocks.0.ssm.periods": changed}, header, kind="model")
        with pytest.raises(FileError, match=rf"blocks.0.ssm.periods holds {value}; allowed are powers of two"):
            load_model(path)


def test_groups() -> None:
    assert list(groups_of((4, 1, 4, 2, 1))) == [(1, [1, 4]), (2, [3]), (4, [0, 2])]
