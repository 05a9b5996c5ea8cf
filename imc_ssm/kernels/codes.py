"""Codes of operands, and the numbers of an update as the kernels of every backend read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Format, Noise, ScanPlan, UnitState, broadcast_heads
from imc_ssm.fixedpoint.normal import GAUSSIAN_ONE
from imc_ssm.kernels.ends import Ends
from imc_ssm.kernels.grid import Array

__all__ = ["COLUMNS", "HOW", "Coefficient", "Ints", "Tables", "codes_of", "draws_of", "input_codes", "pair"]
__all__ += ["states_of", "through"]

Ints = np.ndarray[Any, np.dtype[np.int64]]

COLUMNS = 11
"""Columns of k: a_re, a_im (times 2^-shift), b_re, b_im (times 2^-shift_b), c_re, -c_im, lowest and highest
centred state code, noise (times 2^-shift), 2^shift, 2^shift_b."""
JOINT, SEPARATE = 0, 1
HALF_EVEN, HALF_UP, HALF_AWAY, NONE, DITHERED, STOCHASTIC, FEEDBACK = 0, 1, 2, 3, 4, 5, 6
HOW: dict[str, int] = {
    "joint": JOINT,
    "separate": SEPARATE,
    "half_even": HALF_EVEN,
    "half_up": HALF_UP,
    "half_away": HALF_AWAY,
    "dithered": DITHERED,
    "stochastic": STOCHASTIC,
    "feedback": FEEDBACK,
}
"""Numbers of the rounding placements and the roundings; NONE: full precision."""


def pair(z: Tensor) -> Array:
    """A complex tensor (...,) as a contiguous real array (..., 2) on the host."""
    return torch.view_as_real(z.detach().resolve_conj()).cpu().contiguous().numpy()


def codes_of(value: Array, fmt: Format) -> tuple[Ints, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Codes of a coefficient (head, ...) and where it saturated (its straight-through gradient is zero)."""
    value = np.asarray(value, np.float64)
    codes = fmt.quantize(value)
    scale, zero = (broadcast_heads(x, value.ndim, 0) for x in (fmt.scale.astype(np.float64), fmt.zero_point))
    return codes, np.rint(value / scale) + zero != codes


def input_codes(u: Array, plan: ScanPlan) -> Ints:
    """Codes (batch, head, time) of a float32 input: clip(round_half_even(u / scale) + zero, low, high).

    The division is single precision's, correctly rounded, as in the kernels.
    """
    fmt = plan.formats.u
    scale, zero, low, high = (broadcast_heads(x, 3, 1) for x in (fmt.scale, fmt.zero_point, fmt.low, fmt.high))
    with np.errstate(over="ignore"):  # an infinite quotient saturates like any other
        nearest = np.rint(np.asarray(u, np.float32) / scale).astype(np.float64)
    return np.asarray(np.clip(nearest + zero, low, high), np.int64)


@dataclass(frozen=True, eq=False)
class Coefficient:
    """The codes (head, state, 2) of a, b or c and where they saturated; codes None: exactly 1."""

    codes: Ints | None
    lost: Array | None = None

    @classmethod
    def of(cls, z: Tensor | None, fmt: Format | None) -> Coefficient:
        """A complex tensor (head, state), rounded to its format."""
        return cls(None) if z is None or fmt is None else cls(*codes_of(pair(z), fmt))


@dataclass(frozen=True, eq=False)
class Tables:
    """The numbers of one update, as tensors on one device.

    The multipliers are folded into the coefficients, m_a (a'_re x'_re - a'_im x'_im) = (m_a a'_re) x'_re - ...,
    and divided by 2^shift: a kernel multiplies once, and in double precision all of it is exact. So the numbers of
    `fixedpoint.ScanPlan` and of full precision have one form; states are filled up to an even number.
    """

    k: Tensor
    """(head, state, COLUMNS) float64"""
    g: Tensor
    """(head, state, 8) float32: a, b, c (real, imaginary) on their grids, and k's bounds; for gradients"""
    inp: Tensor
    """(head, 4) float32: scale, lowest and highest centred code of the input, steps between two updates"""
    out: Tensor
    """(head, 5) float64: m_y / 2^shift_y, lowest and highest centred code and scale of the output, 2^shift_y;
    the first 0: y is the scale times the bare sum"""
    how: tuple[int, ...]
    """rounding placement, rounding, length of the word, whether the output has a format, steps done before, bits
    of a residual, whether there are slow heads"""
    clip: float = math.inf
    """Bound of a state in full precision."""

    @classmethod
    def integer(cls, plan: ScanPlan, a: Coefficient, b: Coefficient, c: Coefficient) -> Tables:
        """From codes, on the host."""
        f = plan.formats
        one = np.zeros((plan.heads, plan.states, 2), np.int64)
        one[..., 0] = 1
        folded, real = [], []
        for name, given, m in zip("abc", (a, b, c), (plan.m_a, plan.m_b, plan.m_c), strict=True):
            fmt: Format | None = getattr(f, name)
            centred, scale = one, np.ones((), np.float32)
            if given.codes is not None and fmt is not None:
                centred, scale = given.codes - plan.zero(name)[..., None], fmt.scale
            folded.append(m[..., None] * centred)
            real.append(np.asarray(broadcast_heads(scale, 3, 0) * centred, np.float32))
        states = plan.states + plan.states % 2
        k, g = np.zeros((plan.heads, states, COLUMNS)), np.zeros((plan.heads, states, 8), np.float32)
        k[..., 9:] = 1.0
        own = k[:, : plan.states]
        own[..., 9], own[..., 10] = np.exp2(plan.shift), np.exp2(plan.shift_b)
        own[..., 0:2] = folded[0] / own[..., 9:10]
        own[..., 2:4] = folded[1] / own[..., 10:11]
        own[..., 4:6] = folded[2] * (1, -1)
        own[..., 6], own[..., 7] = plan.low, plan.high
        if plan.m_z is not None:
            own[..., 8] = plan.m_z / own[..., 9]
        per_sum = plan.periods[:, None, None].astype(np.float32)
        real[1] = np.asarray(real[1] / per_sum, np.float32)  # the input is the sum of so many
        g[:, : plan.states] = np.concatenate([*real, own[..., 6:8]], axis=-1)
        parts = (f.u.scale, f.u.low - f.u.zero_point, f.u.high - f.u.zero_point, plan.periods)
        inp = np.stack([np.broadcast_to(v, plan.heads) for v in parts], axis=1).astype(np.float32)
        if f.y is None or plan.m_y is None or plan.shift_y is None:
            ends: tuple[Any, ...] = (0.0, 0.0, 0.0, plan.sum_scale, 1.0)
        else:
            unit = np.exp2(plan.shift_y)
            ends = (plan.m_y / unit, f.y.low - f.y.zero_point, f.y.high - f.y.zero_point, f.y.scale, unit)
        out = np.stack([np.broadcast_to(np.asarray(v, np.float64), plan.heads) for v in ends], axis=1)
        how = (
            HOW[f.rounding_placement],
            HOW[f.rounding],
            plan.word,
            int(f.y is not None),
            0,
            f.residual_bits,
            int(f.slow),
        )
        k_, g_, inp_, out_ = (torch.from_numpy(np.ascontiguousarray(z)) for z in (k, g, inp, out))
        return cls(k_, g_, inp_, out_, how)

    @classmethod
    def real(cls, a: Tensor, b: Tensor, c: Tensor, noise: float, clip: float | None) -> Tables:
        """Full precision, where a, b, c (head, state) complex lie; `noise`: deviation of the state's noise."""
        heads, states = a.shape
        bound = math.inf if clip is None else clip
        k = torch.zeros(heads, states + states % 2, COLUMNS, dtype=torch.float64, device=a.device)
        own = k[:, :states]
        parts = torch.cat([torch.view_as_real(z.detach().resolve_conj()) for z in (a, b, c)], dim=-1)
        own[..., :6] = parts
        own[..., 5].neg_()
        own[..., 6], own[..., 7] = -bound, bound
        own[..., 8] = noise / GAUSSIAN_ONE
        g = torch.zeros(heads, states + states % 2, 8, device=a.device, dtype=torch.float32)
        g[:, :states, :6] = parts
        g[..., 6:] = k[..., 6:8]
        inp = torch.tensor([[1.0, -math.inf, math.inf, 1.0]], device=a.device, dtype=torch.float32).repeat(
            heads, 1
        )
        out = torch.tensor([[0.0, 0.0, 0.0, 2.0, 1.0]], dtype=torch.float64, device=a.device).repeat(heads, 1)
        return cls(k, g, inp, out, (JOINT, NONE, 53, 0, 0, 1, 0), bound)

    def to(self, device: torch.device) -> Tables:
        """These on a device."""
        k, g, inp, out = (z.to(device) for z in (self.k, self.g, self.inp, self.out))
        return Tables(k, g, inp, out, self.how, self.clip)

    def at(self, time: int) -> Tables:
        """These for a call that begins after so many steps of its sequence."""
        how = self.how
        if time == how[4]:
            return self
        return Tables(self.k, self.g, self.inp, self.out, (*how[:4], time, *how[5:]), self.clip)

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[int, ...]]:
        """k, g, inp, out, how."""
        return self.k, self.g, self.inp, self.out, self.how


def states_of(rows: int, how: Sequence[int]) -> int:
    """The number of states in a packed state (`ends.Ends`) of so many rows."""
    return (rows - how[6]) // (2 if how[1] == FEEDBACK else 1)


def draws_of(noise: Noise | None) -> list[int]:
    """Noise of the state as operators take it: seed (signed), first sample, first step; empty: none."""
    if noise is None or noise.state == 0:
        return []
    seed = int(noise.seed)
    return [seed - (1 << 64 if seed >> 63 else 0), int(noise.sample), int(noise.time)]


def through(
    run: Callable[..., tuple[Tensor, Tensor, Tensor]],
    plan: ScanPlan,
    u: Ints,
    a: Ints,
    b: Ints | None = None,
    c: Ints | None = None,
    x0: Ints | UnitState | None = None,
    noise: Noise | None = None,
    device: str = "cpu",
) -> tuple[Ints, Any]:
    """`fixedpoint.scan_codes` by another implementation of the operator `scan`: same codes, no counters.

    Raises `FormatError` if u is not (any, head, any).
    """
    if u.ndim != 3 or u.shape[1] != plan.heads:
        raise FormatError(f"u has shape {u.shape}; needed is (any, {plan.heads}, any)")
    if noise is not None:
        noise.check(u.shape[0], u.shape[2])
    tables = Tables.integer(plan, *(Coefficient(z) for z in (a, b, c))).to(torch.device(device))
    # Codes come in and go out: a scale of 1 at both ends. Double precision holds the bare sums.
    tables.inp[:, 0] = 1.0
    tables.out[:, 3] = 1.0
    zero_y, ends = plan.zero("y")[:, None] if plan.formats.y is not None else 0, Ends(plan)
    given = UnitState._make(torch.from_numpy(z) if isinstance(z, np.ndarray) else z for z in _whole(x0))
    signal = torch.from_numpy((u - plan.zero("u")[:, None]).astype(np.float64)).to(device)
    start, time = ends.start(given, (len(u), plan.heads, plan.states, 2), signal.device)
    draws = draws_of(noise) if plan.m_z is not None else []
    y, packed, _ = run(signal, start, *tables.at(time).parts, draws, False, tables.clip)
    last = _whole(ends.last(packed, time + u.shape[2]))
    arrays = UnitState._make(z.cpu().numpy().astype(np.int64) if isinstance(z, Tensor) else z for z in last)
    return y.cpu().numpy().astype(np.int64) + zero_y, arrays if plan.formats.timed else arrays.x


def _whole(state: Any) -> UnitState:
    """Codes alone, or None, as the state at a sequence's beginning."""
    return state if isinstance(state, UnitState) else UnitState(state)
