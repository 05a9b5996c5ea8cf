"""The gated state against the integers of its specification, and its gradient against the real recurrence."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from imc_ssm.fixedpoint import Format
from imc_ssm.kernels import gated_scan

BATCH, TIME, CHANNELS = 3, 40, 4
ROUNDINGS = {
    "half_even": round,
    "half_up": lambda x: math.floor(x + Fraction(1, 2)),
    "half_away": lambda x: int(math.copysign(math.floor(abs(x) + Fraction(1, 2)), x)),
}


def drawn(seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    z, v = rng.uniform(0, 1, (BATCH, TIME, CHANNELS)), rng.normal(size=(BATCH, TIME, CHANNELS))
    return torch.from_numpy(z.astype(np.float32)), torch.from_numpy(v.astype(np.float32))


def formats(bits: int) -> tuple[Format, Format]:
    """Of the gate, one format a channel, and of a state that saturates now and then."""
    gate = Format.from_range(np.zeros(CHANNELS), np.linspace(0.3, 1, CHANNELS), bits)
    state = Format.from_range(np.full(CHANNELS, -1.5), np.linspace(0.8, 2, CHANNELS), bits)
    return gate, state


def on_grid(x: Tensor, fmt: Format) -> Tensor:
    codes = fmt.quantize(x.numpy(), -1) - fmt.zero_point
    return torch.from_numpy((codes * fmt.scale).astype(np.float32))


def by_hand(z: Tensor, v: Tensor, gate: Format, state: Format, rounding: str) -> np.ndarray:
    """Centred codes of every state, in integers and fractions alone."""
    q_z = np.rint(z.numpy() / gate.scale).astype(int)
    q_v = state.quantize(v.numpy(), -1) - state.zero_point
    out = np.zeros(v.shape, int)
    for b in range(BATCH):
        for c in range(CHANNELS):
            s, h = Fraction(float(gate.scale[c])), 0
            low, high = int((state.low - state.zero_point)[c]), int((state.high - state.zero_point)[c])
            for t in range(TIME):
                change = ROUNDINGS[rounding](s * int(q_z[b, t, c]) * (int(q_v[b, t, c]) - h))
                h = min(max(h + change, low), high)
                out[b, t, c] = h
    return out


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", [4, 8, 12])
def test_codes_are_those_of_the_specification(bits: int, rounding: str) -> None:
    gate, state = formats(bits)
    z, v = drawn()
    z, v = on_grid(z, gate), on_grid(v, state)
    h, last = gated_scan(z, v, torch.zeros(BATCH, CHANNELS), gate=gate, state=state, rounding=rounding)  # type: ignore[arg-type]
    codes = by_hand(z, v, gate, state, rounding)
    assert len(np.unique(codes)) > 4
    assert np.array_equal(np.rint(h.numpy() / state.scale), codes)
    assert np.array_equal(last.numpy(), codes[:, -1])


def test_pieces_are_the_whole() -> None:
    gate, state = formats(8)
    z, v = drawn(1)
    z = on_grid(z, gate)
    start = torch.zeros(BATCH, CHANNELS)
    whole, last = gated_scan(z, v, start, gate=gate, state=state)
    first, middle = gated_scan(z[:, :13], v[:, :13], start, gate=gate, state=state)
    rest, end = gated_scan(z[:, 13:], v[:, 13:], middle, gate=gate, state=state)
    assert torch.equal(torch.cat([first, rest], 1), whole)
    assert torch.equal(end, last)


def test_full_precision_is_the_recurrence() -> None:
    z, v = (x.double() for x in drawn(2))
    h = torch.zeros(BATCH, CHANNELS, dtype=torch.float64)
    got = gated_scan(z, v, h)[0]
    for t in range(TIME):
        h = (1 - z[:, t]) * h + z[:, t] * v[:, t]
        assert torch.allclose(got[:, t], h, rtol=1e-12, atol=1e-14)


def test_the_gradient_is_that_of_the_recurrence() -> None:
    z, v = (x[:, :6].double().requires_grad_() for x in drawn(3))
    start = torch.zeros(BATCH, CHANNELS, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z, v: gated_scan(z, v, start)[0], (z, v))


def test_a_candidate_that_saturates_has_no_gradient() -> None:
    gate, state = formats(8)
    z, v = drawn(4)
    z = on_grid(z, gate)
    v = v.requires_grad_()
    gated_scan(z, v, torch.zeros(BATCH, CHANNELS), gate=gate, state=state)[0].sum().backward()
    codes = np.rint(v.detach().numpy() / state.scale)
    outside = (codes < state.low - state.zero_point) | (codes > state.high - state.zero_point)
    assert outside.any()
    assert not v.grad.numpy()[outside].any()
    assert (v.grad.numpy()[~outside] > 0).sum() > 0.9 * (~outside).sum()
