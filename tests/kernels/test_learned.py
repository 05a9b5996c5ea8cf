"""Gradients of ranges: those of the straight-through surrogate, of one rounding and of the whole recurrence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imc_ssm.fixedpoint import Format, ScanFormats
from imc_ssm.kernels import ScanUnit, quantize, using
from imc_ssm.kernels.learned import Ranges, dots, ranged, step_size

BATCH, HEADS, STATES, TIME = 3, 4, 3, 40


def through(v: Tensor, scale: Tensor, low: Any, high: Any, codes: Tensor | None = None, slack: int = 0) -> Tensor:
    """A quantizer's values with the derivatives of the straight-through estimator; `codes`: what it rounds to, at
    most `slack` from the nearest unless it saturates."""
    ratio = v / scale
    kept = torch.clamp(torch.round(ratio), low, high) if codes is None else codes
    inside = (torch.round(ratio) - kept).abs() <= slack
    return scale * (kept.detach() + inside * (ratio - ratio.detach()))


class TestRounding:
    @pytest.mark.parametrize("symmetric", [False, True])
    @pytest.mark.parametrize(("shape", "axis"), [((), -1), ((5,), -1), ((5,), 1)])
    def test_is_that_of_the_frozen_surrogate(self, shape: Any, axis: int, symmetric: bool) -> None:
        """By differences: with codes and saturation held, Q(v; s) = v + s (q - v / s0) inside, s q outside."""
        rng = np.random.default_rng(0)
        sizes = (6, 7, 5) if axis == -1 else (6, 5, 7)
        x = torch.from_numpy(rng.standard_normal(sizes).astype(np.float32))
        grad = torch.from_numpy(rng.standard_normal(sizes).astype(np.float32))
        low, high = -rng.uniform(0.5, 1.5, shape), rng.uniform(0.5, 1.5, shape)  # a good part saturates
        fmt = Format.from_range(low, high, 4, symmetric=symmetric)
        factor = torch.zeros(shape, dtype=torch.float32, requires_grad=True)
        out = quantize(x, fmt, axis)
        ranged(out, factor, fmt, axis, lambda: x).backward(grad)
        spread = [*shape, 1] if axis == 1 else shape
        s0, lo, hi = (
            torch.from_numpy(np.asarray(z, np.float64)).reshape(spread)
            for z in (fmt.scale, fmt.low - fmt.zero_point, fmt.high - fmt.zero_point)
        )
        v = x.double()
        codes = torch.clamp(torch.round(v / s0), lo, hi)
        inside = torch.round(v / s0) == codes
        assert 0.05 < float(inside.double().mean()) < 0.95
        found, eps = [], 1e-6
        for sign in (1, -1):
            s = s0 * np.exp(sign * eps)
            found.append(grad.double() * torch.where(inside, v + s * (codes - v / s0), s * codes))
        slope = (found[0] - found[1]) / (2 * eps)
        slope = slope.sum((0, 1) if axis == -1 else (0, 2)) if shape else slope.sum()
        wanted = step_size(4, x[0].numel() / max(1, int(np.prod(shape)))) * slope
        torch.testing.assert_close(factor.grad.double(), wanted, rtol=1e-4, atol=1e-5)

    def test_parts_share_a_range(self) -> None:
        x = torch.randn(3, 9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
        fmt = Format.from_range(np.full(4, -1.0), np.full(4, 1.0), 4)
        own, shared = torch.zeros(4, requires_grad=True), torch.zeros(2, requires_grad=True)
        for factor in (own, shared):
            ranged(quantize(x, fmt, -1), factor, fmt, -1, lambda: x).sum().backward()
        assert own.grad is not None
        torch.testing.assert_close(shared.grad, (own.grad[:2] + own.grad[2:]) / 2**0.5)

    def test_the_reference_is_the_same(self) -> None:
        rng = np.random.default_rng(1)
        x, y = (torch.from_numpy(rng.standard_normal((4, 5, 300)).astype(np.float32)) for _ in range(2))
        fmt = Format.from_range(np.full(5, -1.0), np.full(5, 1.0), 5)
        found = []
        for backend in ("auto", "reference"):
            with using(backend):
                factor = torch.zeros(5, dtype=torch.float32, requires_grad=True)
                ranged(quantize(x, fmt, 1), factor, fmt, 1, lambda: x).backward(y)
                found.append((factor.grad, dots(x, y)))
        torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-9, atol=1e-9)


def recurrence(rules: dict[str, Any], wide: float, per_state: bool) -> tuple[ScanFormats, list[Tensor], Tensor]:
    """Formats, coefficients on their grids, and an input on its own; `wide`: ranges, in deviations."""
    rng = np.random.default_rng(3)
    decay, angle = rng.uniform(0.5, 0.95, (HEADS, STATES)), rng.uniform(0, 1, (HEADS, STATES))
    a = decay * np.exp(1j * angle)
    b, c = ((rng.standard_normal((HEADS, STATES, 2)) @ (1, 1j)) for _ in range(2))
    u = rng.standard_normal((BATCH, HEADS, TIME))
    size = np.abs(b) / np.sqrt(1 - decay**2) * 0.7
    size = size if per_state else size.max(1)
    out = 2 * (np.abs(c * b) / np.sqrt(1 - decay**2)).sum(1) * 0.6
    one, heads = np.ones(HEADS), np.ones(HEADS)
    formats = {
        "a": Format.from_range(-one, one, 10),
        "b": Format.from_range(-3 * one, 3 * one, 9),
        "c": Format.from_range(-3 * one, 3 * one, 9),
        "u": Format.from_range(-3 * heads, 3 * heads, 8),
        "x": Format.from_range(-wide * size, 0.8 * wide * size, 6),
        "y": Format.from_range(-wide * out, 0.7 * wide * out, 6),
    }
    if per_state:
        registers = formats["x"].scale.astype(np.float64)
        scale = 3 / 255 / registers * registers.max(1, keepdims=True)
        formats["c"] = Format(12, scale.astype(np.float32), np.zeros((HEADS, STATES), np.int64))
    made = ScanFormats(**formats, **rules)
    on_grid = []
    for z, fmt in ((a, made.a), (b, made.b), (c, made.c)):
        assert fmt is not None
        pairs = np.stack([z.real, z.imag], -1)
        on_grid.append(torch.view_as_complex(torch.from_numpy(fmt.dequantize(fmt.quantize(pairs)))))
    signal = torch.from_numpy(made.u.dequantize(made.u.quantize(u, 1), 1))
    return made, on_grid, signal


def column(z: Any) -> Tensor:
    """A format's part (head,) or (head, state) beside states and parts."""
    z = torch.from_numpy(np.asarray(z, np.float64))
    return z.reshape(*z.shape, *[1] * (3 - z.ndim))


def surrogate(
    formats: ScanFormats,
    z: list[Tensor],
    u: Tensor,
    x_codes: list[Tensor],
    y_codes: Tensor,
    factors: list[Tensor],
) -> Tensor:
    """y (batch, head, time) with derivatives, in double precision, through the codes that the unit had."""
    (a, b, c), of_x, of_y = z, formats.x, formats.y
    assert of_y is not None
    scale = column(of_x.scale) * torch.exp(factors[0]).reshape(*factors[0].shape, *[1] * (3 - factors[0].ndim))
    out = torch.from_numpy(of_y.scale.astype(np.float64)) * torch.exp(factors[1])
    low, high = column(of_x.low - of_x.zero_point), column(of_x.high - of_x.zero_point)
    x, ys = torch.zeros(BATCH, HEADS, STATES, dtype=torch.complex128), []
    separate, slack = formats.rounding_placement == "separate", int(formats.rounding != "half_even")
    periods = torch.tensor(formats.periods or (1,) * HEADS)
    held = torch.zeros(BATCH, HEADS, dtype=torch.complex128)
    sums = torch.zeros(BATCH, HEADS, dtype=torch.float64)
    for t in range(TIME):
        sums = sums + u[:, :, t]
        due = ((t + 1) % periods == 0)[None, :]
        kept, driven = a * x, b * (sums / periods)[..., None]
        if separate:
            parts = [through(torch.view_as_real(v), scale, low, high) for v in (kept, driven)]
            total = parts[0] + parts[1]
            new = torch.where((total > scale * high) | (total < scale * low), scale * x_codes[t], total)
        else:
            new = through(torch.view_as_real(kept + driven), scale, low, high, x_codes[t], slack)
        x = torch.where(due[..., None], torch.view_as_complex(new.contiguous()), x)
        held = torch.where(due, 2 * (c * x).sum(-1), held)
        sums = torch.where(due, torch.zeros_like(sums), sums)
        ys.append(through(held.real, out, None, None, y_codes[..., t]))  # all of them nearest
    return torch.stack(ys, -1)


CASES = {
    "joint": {},
    "separate": {"rounding_placement": "separate"},
    "half_away": {"rounding": "half_away"},
    "dithered": {"rounding": "dithered"},
    "stochastic": {"rounding": "stochastic"},
    "slow": {"periods": (1, 4, 2, 1)},
    "slow and dithered": {"periods": (1, 4, 2, 1), "rounding": "dithered"},
}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("per_state", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_of_the_recurrence(case: str, per_state: bool, backend: str) -> None:
    """Saturation counts where rounding is to nearest: in the other cases ranges hold everything."""
    nearest = case in ("joint", "separate")
    formats, z, u = recurrence(CASES[case], 1.0 if nearest else 6.0, per_state)
    unit = ScanUnit(*(v.to(torch.complex64) for v in z), formats=formats)
    codes, state = [], None
    zero = torch.from_numpy(np.asarray(formats.x.zero_point))
    zero = zero.reshape(*zero.shape, *[1] * (3 - zero.ndim))
    for t in range(TIME):
        _, state = unit(u[:, :, t : t + 1].float(), state)
        codes.append((getattr(state, "x", state) - zero).double())
    assert formats.y is not None
    shapes = (formats.x.scale.shape, (HEADS,))
    factors = [torch.zeros(s, dtype=torch.float32, requires_grad=True) for s in shapes]
    y, _ = unit(u.float(), None, ranges=Ranges(*factors), backend=backend)
    scale = torch.from_numpy(formats.y.scale)[:, None]
    y_codes = torch.round(y.detach() / scale).double()
    weight = torch.from_numpy(np.random.default_rng(5).standard_normal(y.shape))
    (weight * y).sum().backward()
    wide = [torch.zeros(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    same = surrogate(formats, z, u, codes, y_codes, wide)
    torch.testing.assert_close(same.detach(), y.detach().double(), rtol=1e-5, atol=1e-6)
    (weight * same).sum().backward()
    bounds = column(formats.x.low - formats.x.zero_point), column(formats.x.high - formats.x.zero_point)
    ended = torch.stack([(q == bounds[0]) | (q == bounds[1]) for q in codes]).double().mean()
    assert (float(ended) > 0.02) == nearest
    shared = (2 * TIME * (1 if per_state else STATES), TIME)
    for found, wanted, values in zip(factors, wide, shared, strict=True):
        assert found.grad is not None
        assert wanted.grad is not None
        assert float(wanted.grad.abs().min()) > 0
        torch.testing.assert_close(
            found.grad.double(),
            step_size(6, values) * wanted.grad,
            rtol=2e-3,
            atol=2e-3 * float(step_size(6, values) * wanted.grad.abs().max()),
        )
