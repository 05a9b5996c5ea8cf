"""The int64 oracle of the diagonal update: the definition that every other implementation must equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint.dither import dither_words, fractions, registers, stochastic_words
from imc_ssm.fixedpoint.formats import NEAREST, Format, broadcast_heads
from imc_ssm.fixedpoint.normal import Noise
from imc_ssm.fixedpoint.plan import ScanPlan
from imc_ssm.fixedpoint.requantization import round_shift

__all__ = ["Overflows", "UnitState", "first_residual", "scan_codes", "state_codes"]

Ints = NDArray[np.int64]


class UnitState(NamedTuple):
    """All that a unit keeps from one step to the next, where that is more than its states (`ScanFormats.timed`).

    Arrays here, tensors in the kernels. The output that slow heads hold is not among it: it is that of `x`.
    """

    x: Any
    """(batch, head, state, 2) codes of the states"""
    time: int = 0
    """Steps done since the sequence began."""
    sums: Any = None
    """(batch, head) sums of the centred inputs since the heads' last update; None: no slow heads, or all 0"""
    residual: Any = None
    """(batch, head, state, 2) residuals of error feedback; None: another rounding, or all at their start"""


def first_residual(bits: int) -> int:
    """What a residual is before the first step: a half, so that this rounds to nearest."""
    return 1 << (bits - 1)


@dataclass(frozen=True, eq=False)
class Overflows:
    """How many words saturated, per head: state words (real and imaginary counted apart) and outputs.

    In the separate order a state word counts once, whether a x, b u or their sum saturated.
    """

    state: Ints
    output: Ints


def scan_codes(
    plan: ScanPlan,
    u: Ints,
    a: Ints,
    b: Ints | None = None,
    c: Ints | None = None,
    x0: Ints | UnitState | None = None,
    noise: Noise | None = None,
) -> tuple[Ints, Any, Overflows]:
    """Run the update on codes; codes in, codes out.

    u (batch, head, time); a, b, c (head, state, 2) with real and imaginary part last; b or c None: exactly 1.
    x0 (batch, head, state, 2) state codes, at the beginning of a sequence, a `UnitState`, or None: the code of
    zero. `noise`: drawn and added to the state where the plan has a multiplier for it. Returns y (batch, head,
    time): codes of the output format, or the bare sum where there is none; the last state, a `UnitState` where the
    formats are `timed`, else its codes; overflows (an output that is held counts once).

    Raises `FormatError` for a wrong shape, a code outside its format, b or c without its format or the reverse,
    or noise that the plan has no multiplier for. Arithmetic: see `ScanPlan`.
    """
    f = plan.formats
    for name, codes, fmt in (("b", b, f.b), ("c", c, f.c)):
        if (codes is None) != (fmt is None):
            raise FormatError(f"{name} and formats.{name} must be given together or both be None")
    if noise is not None and noise.state > 0 and plan.m_z is None:
        raise FormatError(f"noise of the state {noise.state!r}, but the plan has none; give plan_scan state_noise")
    u = _checked("u", u, f.u, (None, plan.heads, None), 1)
    shape = (u.shape[0], plan.heads, plan.states, 2)
    one = np.zeros(shape[1:], np.int64)
    one[..., 0] = 1

    def centred(name: str, codes: Ints | None, fmt: Format | None) -> Ints:
        if fmt is None or codes is None:
            return one
        return _checked(name, codes, fmt, shape[1:], 0) - plan.zero(name)[..., None]

    a_c, b_c, c_c = centred("a", a, f.a), centred("b", b, f.b), centred("c", c, f.c)
    u_c = u - plan.zero("u")[:, None]
    zero_x, periods = plan.zero("x")[..., None], plan.periods
    begin = _begun(plan, x0, shape)
    x, sums, residual, time = begin.x - zero_x, begin.sums, begin.residual, begin.time
    y, saturated = np.empty(u.shape, np.int64), np.zeros(plan.heads, np.int64)
    cut = np.zeros(plan.heads, np.int64)
    held, _ = _output(plan, x, c_c, slice(None))
    for t in range(u.shape[-1]):
        sums += u_c[:, :, t]
        due = (time + 1) % periods == 0
        if np.any(due):
            at: Any = slice(None) if np.all(due) else np.flatnonzero(due)
            update = time // periods[at]
            recurrent = plan.m_a[at, :, None] * _product(a_c[at], x[:, at])
            if plan.m_z is not None and noise is not None:
                recurrent = recurrent + plan.m_z[at, :, None] * noise.of_state(*shape[:3], t)[:, at]
            driven = plan.m_b[at, :, None] * (b_c[at] * sums[:, at, None, None])
            x[:, at], lost, residual[:, at] = _advanced(plan, recurrent, driven, update, residual[:, at], at)
            saturated[at] += lost.sum(axis=(0, 2, 3))
            held[:, at], beyond = _output(plan, x[:, at], c_c[at], at)
            cut[at] += beyond.sum(axis=0)
            sums[:, at] = 0
        y[:, :, t] = held
        time += 1
    last: Any = x + zero_x
    if f.timed:
        kept = residual if f.rounding == "feedback" else None
        last = UnitState(last, time, sums if f.slow else None, kept)
    return y, last, Overflows(saturated, cut)


def _begun(plan: ScanPlan, x0: Ints | UnitState | None, shape: tuple[int, ...]) -> UnitState:
    """The state to start from, checked, with arrays of its own in the place of everything that is not given."""
    given = x0 if isinstance(x0, UnitState) else UnitState(x0)
    zero_x, f = plan.zero("x")[..., None], plan.formats
    x = np.zeros(shape, np.int64) + zero_x if given.x is None else _checked("x0", given.x, f.x, shape, 1)
    sums = np.zeros(shape[:2], np.int64) if given.sums is None else np.array(given.sums, np.int64)
    residual = np.full(shape, first_residual(f.residual_bits), np.int64)
    if given.residual is not None:
        residual = np.array(given.residual, np.int64)
    if sums.shape != shape[:2] or residual.shape != shape or given.time < 0:
        raise FormatError(
            f"the state of a unit has sums {sums.shape}, residuals {residual.shape} and time {given.time}; needed "
            f"are {shape[:2]}, {shape} and a time that is not negative"
        )
    down = np.maximum(f.residual_bits - plan.shift, 0)[..., None]  # bits that no sum has
    return UnitState(x, int(given.time), sums, (residual >> down) << down)


def _output(plan: ScanPlan, x: Ints, c: Ints, at: Any) -> tuple[Ints, NDArray[np.bool_]]:
    """The outputs (batch, head) of centred states, and where they saturated; the bare sum without a format."""
    f = plan.formats
    total = (plan.m_c[at] * _product(c, x)[..., 0]).sum(axis=-1)
    if f.y is None or plan.m_y is None or plan.shift_y is None:
        return total, np.zeros(total.shape, np.bool_)
    codes = round_shift(plan.m_y[at] * total, plan.shift_y[at], f.nearest) + plan.zero("y")[at]
    low, high = (np.broadcast_to(v, plan.heads)[at] for v in (f.y.low, f.y.high))
    return np.clip(codes, low, high), (codes < low) | (codes > high)


def state_codes(
    plan: ScanPlan, v: Ints, a: Ints, b: Ints | None = None, x0: Ints | UnitState | None = None
) -> tuple[Ints, Any, Overflows]:
    """Run the update of a complex input on codes, one state a "head"; the states themselves are the output.

    v (batch, 2, state, time), axis 1 real and imaginary part; a, b (state, 2), b None: exactly 1; x0 (batch,
    state, 2) state codes, a `UnitState` of such, or None: the code of zero. Returns x, the codes of the states in
    every step, as v; the last state, a `UnitState` where the formats are `timed`; overflows per state.

    Raises `FormatError` for a wrong shape, a code outside its format, b without its format or the reverse, or a
    plan that is not one of a complex input. Arithmetic: see `ScanPlan`, with D = b' v' the complex product.
    """
    f, states = plan.formats, plan.heads
    if not plan.complex_drive or plan.states != 1 or f.c is not None or f.y is not None:
        raise FormatError(
            "the plan is not that of a complex input; make it by plan_scan(formats, states, 1, "
            "complex_drive=True), without formats of c and y"
        )
    if (b is None) != (f.b is None):
        raise FormatError("b and formats.b must be given together or both be None")
    v = _checked("v", v, f.u, (None, 2, states, None), 2) - plan.zero("u")[:, None]
    a_c = _checked("a", a, f.a, (states, 2), 0)[:, None] - plan.zero("a")[..., None]
    b_c = np.array([1, 0])
    if b is not None and f.b is not None:
        b_c = _checked("b", b, f.b, (states, 2), 0)[:, None] - plan.zero("b")[..., None]
    zero_x = plan.zero("x")[..., None]
    shape = (len(v), states, 1, 2)
    given = x0 if isinstance(x0, UnitState) else UnitState(x0)
    x, residual = (None if z is None else np.asarray(z)[:, :, None] for z in (given.x, given.residual))
    begin = _begun(plan, UnitState(x, given.time, None, residual), shape)
    x, residual = begin.x - zero_x, begin.residual
    out, saturated = np.empty(v.shape, np.int64), np.zeros(states, np.int64)
    for t in range(v.shape[-1]):
        driven = plan.m_b[..., None] * _product(b_c, np.moveaxis(v[..., t], 1, -1)[:, :, None])
        recurrent, update = plan.m_a[..., None] * _product(a_c, x), np.full(states, begin.time + t)
        x, lost, residual = _advanced(plan, recurrent, driven, update, residual, slice(None))
        saturated += lost.sum(axis=(0, 2, 3))
        out[..., t] = np.moveaxis((x + zero_x)[:, :, 0], -1, 1)
    last: Any = (x + zero_x)[:, :, 0]
    if f.timed:
        kept = residual[:, :, 0] if f.rounding == "feedback" else None
        last = UnitState(last, begin.time + v.shape[-1], None, kept)
    return out, last, Overflows(saturated, np.zeros(states, np.int64))


def _advanced(
    plan: ScanPlan, recurrent: Ints, driven: Ints, update: Ints, residual: Ints, at: Any
) -> tuple[Ints, NDArray[np.bool_], Ints]:
    """The stored state from the accumulators m_a P + m_z Z and m_b D, which words saturated, and the residuals.

    Of the heads `at`; `update` (head,) are the numbers of their updates.
    """
    f, shift, shift_b = plan.formats, plan.shift[at, :, None], plan.shift_b[at, :, None]
    low, high = plan.low[at, :, None], plan.high[at, :, None]

    def outside(v: Ints) -> NDArray[np.bool_]:
        return (v < low) | (v > high)

    if f.rounding == "feedback":
        bits = f.residual_bits
        up, down = np.maximum(shift - bits, 0), np.maximum(bits - shift, 0)
        total = recurrent + driven + ((residual << up) >> down)
        free = total >> shift
        return np.clip(free, low, high), outside(free), ((total - (free << shift)) >> up) << down

    words = None
    if f.rounding not in NEAREST:
        make = dither_words if f.rounding == "dithered" else stochastic_words
        words = make(update[:, None, None], registers(plan.heads, plan.states)[at])

    def rounded(v: Ints, s: Ints, words: Ints | None) -> Ints:
        if words is None:
            return round_shift(v, s, f.nearest)
        return (v + fractions(words, s)) >> s

    if f.rounding_placement == "joint":
        free = rounded(recurrent + driven, shift, words)
        return np.clip(free, low, high), outside(free), residual
    # The complement: what one rounding takes too much the other takes too little.
    parts = rounded(recurrent, shift, words), rounded(driven, shift_b, None if words is None else 65535 - words)
    free = np.clip(parts[0], low, high) + np.clip(parts[1], low, high)
    lost = outside(free) | outside(parts[0]) | outside(parts[1])
    return np.clip(free, low, high), lost, residual


def _product(k: Ints, x: Ints) -> Ints:
    """The complex product, real and imaginary part last."""
    return np.stack(
        [k[..., 0] * x[..., 0] - k[..., 1] * x[..., 1], k[..., 0] * x[..., 1] + k[..., 1] * x[..., 0]], -1
    )


def _checked(name: str, codes: Ints, fmt: Format, shape: tuple[int | None, ...], head_axis: int) -> Ints:
    """The codes as int64, after a check of shape and range."""
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iu":
        raise FormatError(f"{name} has dtype {codes.dtype}; codes are integers")
    codes = codes.astype(np.int64)
    if codes.ndim != len(shape) or any(s not in (None, n) for s, n in zip(shape, codes.shape, strict=True)):
        wanted = tuple("any" if s is None else s for s in shape)
        raise FormatError(f"{name} has shape {codes.shape}; needed is {wanted}")
    low, high = (broadcast_heads(v, codes.ndim, head_axis) for v in (fmt.low, fmt.high))
    if np.any((codes < low) | (codes > high)):
        raise FormatError(f"{name} holds codes outside its format of {fmt.bits} bits")
    return codes
