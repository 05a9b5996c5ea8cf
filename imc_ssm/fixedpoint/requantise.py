"""Requantisation: from a sum of integer products to a code, by integer multipliers and one shift."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint.formats import Format, ScanFormats

__all__ = ["MULTIPLIER_BITS", "Requantiser", "ScanPlan", "plan_scan", "requantise", "round_shift"]

MULTIPLIER_BITS = 24
"""Widest multiplier of the unit."""
_NARROW_BITS = 12
"""A 32-bit accumulator is used where it leaves the first multiplier at least this many bits."""
_POLE_BITS = 9
"""Fewest bits of the poles' multiplier: its rounding moves every pole of a head by up to 2^-9 of itself."""

Ints = NDArray[np.int64]


def round_shift(value: Ints, shift: Ints) -> Ints:
    """value / 2^shift rounded half to even, by an arithmetic shift:

    (value + 2^(shift-1) - 1 + ((value >> shift) & 1)) >> shift; shift 0 leaves the value.
    """
    value, shift = np.asarray(value, np.int64), np.asarray(shift, np.int64)
    half = np.where(shift > 0, (np.int64(1) << np.maximum(shift - 1, 0)) - 1, 0)
    odd = np.where(shift > 0, (value >> shift) & 1, 0)
    return np.asarray((value + half + odd) >> shift, np.int64)


@dataclass(frozen=True, eq=False)
class Requantiser:
    """code = round_half_even((sum_k multiplier_k * p_k) / 2^shift), for products p_k of k kinds.

    `multipliers` (k, head) and `shift` (head,) int64; one shift serves all kinds, because their products are
    added before it. `word` is the accumulator's length, 32 or 64 bits.
    """

    multipliers: Ints
    shift: Ints
    word: int


def requantise(ratios: NDArray[np.float64], bounds: Ints, *, allow_narrow: bool = True) -> Requantiser:
    """Integer multipliers and a common shift for real ratios.

    `ratios` (k, head): the scale of each kind of product over the scale of the result; `bounds` (k, head):
    the largest |p_k|. multiplier_k = round(ratio_k * 2^shift) with the largest shift such that every
    multiplier has at most 24 bits and sum_k multiplier_k * bound_k + 2^(shift-1) fits the accumulator: 32
    bits where that leaves every head's first multiplier, the poles', at least 12 bits (its relative error is
    then at most 2^-12; the largest one may be the input's, and would say nothing about the poles), 63 of 64
    bits otherwise.

    Raises `FormatError` where a word could exceed 63 bits or a ratio is too large for a 24-bit multiplier.
    """
    if allow_narrow:
        narrow = _fit(ratios, bounds, word=32)
        if narrow is not None and np.all(narrow.multipliers[0] >= 2 ** (_NARROW_BITS - 1)):
            return narrow
    wide = _fit(ratios, bounds, word=64)
    if wide is None:
        worst = float(ratios.max())
        raise FormatError(
            f"requantisation by a ratio of {worst:.4g} needs words of more than 63 bits or a multiplier of more "
            f"than {MULTIPLIER_BITS} bits; use fewer bits or a coarser result format"
        )
    return wide


def _fit(ratios: NDArray[np.float64], bounds: Ints, word: int) -> Requantiser | None:
    """The largest shift per head whose words fit, or None where not even shift 0 does."""
    limit = np.uint64(2**31 - 1 if word == 32 else 2**62 - 1)
    with np.errstate(divide="ignore"):
        by_multiplier = MULTIPLIER_BITS - np.log2(ratios.max(axis=0))
        by_word = np.log2(float(limit)) - np.log2((ratios * bounds).sum(axis=0))
    shift = np.clip(np.floor(np.minimum(by_multiplier, by_word)) + 1, -1, 61).astype(np.int64)
    # The estimate is at most one too large; unsigned words hold that excess while it is checked.
    for _ in range(4):
        # Ratios that no multiplier holds are cut to one that is too wide as well: the words below stay defined.
        scaled = np.minimum(np.rint(ratios * np.exp2(np.maximum(shift, 0))), 2.0 ** (MULTIPLIER_BITS + 1))
        total = (scaled.astype(np.uint64) * bounds.astype(np.uint64)).sum(axis=0)
        total += np.uint64(1) << np.maximum(shift - 1, 0).astype(np.uint64)
        fits = (scaled.max(axis=0) < 2**MULTIPLIER_BITS) & (total <= limit)
        if np.all(fits | (shift < 0)):
            break
        shift = np.where(fits, shift, shift - 1)
    if np.any(~fits | (shift < 0)):
        return None
    return Requantiser(scaled.astype(np.int64), shift, word)


@dataclass(frozen=True, eq=False)
class ScanPlan:
    """All integers of one diagonal update, per head, as the kernels and the oracle read them.

    State update (codes centred on their zero points: a' = a - zero_a and so on):
        acc   = m_a (a'_re x'_re - a'_im x'_im) + m_b (b'_re u')          (and the imaginary part likewise)
        x'    = clamp(round_half_even(acc / 2^shift), low, high)           one rounding, then saturation
    Output, from the stored, saturated state:
        sum   = sum_n (c'_re x'_re - c'_im x'_im)
        y     = clamp(round_half_even(m_y sum / 2^shift_y) + zero_y, low_y, high_y)   or the bare sum
    """

    formats: ScanFormats
    heads: int
    states: int
    m_a: Ints
    m_b: Ints
    shift: Ints
    low: Ints
    high: Ints
    word: int
    m_y: Ints | None
    shift_y: Ints | None
    sum_scale: NDArray[np.float64]
    """Real value of one unit of `sum`: 2 scale_c scale_x, shape (head,)."""

    def zero(self, part: str) -> Ints:
        """Zero points (head,) of part "a", "b", "c", "u", "x" or "y" (0 for an absent format)."""
        fmt: Format | None = getattr(self.formats, part)
        return np.zeros(self.heads, np.int64) if fmt is None else _per_head(fmt.zero_point, self.heads)


def _per_head(x: NDArray[np.generic], heads: int) -> Ints:
    return np.ascontiguousarray(np.broadcast_to(x, (heads,))).astype(np.int64)


def plan_scan(formats: ScanFormats, heads: int, states: int) -> ScanPlan:
    """Multipliers, shifts and bounds of a recurrence of `heads` heads with `states` complex states each.

    Raises `FormatError` if a format is per head for another number of heads, a word would overflow, or the
    poles' multiplier would keep fewer than 9 bits.
    """
    for part in ("a", "b", "c", "u", "x", "y"):
        fmt = getattr(formats, part)
        if fmt is not None and fmt.heads not in (None, heads):
            raise FormatError(f"format of {part} is for {fmt.heads} heads, the recurrence has {heads}")

    def scale(fmt: Format | None) -> NDArray[np.float64]:
        value = np.float64(1.0) if fmt is None else fmt.scale.astype(np.float64)
        return np.broadcast_to(value, (heads,)).astype(np.float64)

    def magnitude(fmt: Format | None) -> Ints:
        return np.ones(heads, np.int64) if fmt is None else _per_head(fmt.magnitude(), heads)

    s_a, s_b, s_c, s_u, s_x = (scale(getattr(formats, p)) for p in "abcux")
    p_a, p_b, p_c, p_u, p_x = (magnitude(getattr(formats, p)) for p in "abcux")
    sum_bound = states * 2 * p_c * p_x
    update = requantise(
        np.stack([s_a, s_b * s_u / s_x]),
        np.stack([2 * p_a * p_x, p_b * p_u]),
        allow_narrow=bool(np.all(sum_bound < 2**31)),
    )
    if np.any(update.multipliers[0] < 2 ** (_POLE_BITS - 1)):
        raise FormatError(
            f"the state is so much finer than its input that the poles' multiplier keeps fewer than {_POLE_BITS} "
            "bits; give the state or the poles fewer bits, or b and the input (encoder) more"
        )
    if np.any(sum_bound >= 2**62):  # pragma: no cover - needs more than 2^28 states
        raise FormatError(f"the output sum of {states} states exceeds 63 bits; use fewer bits")
    m_y = shift_y = None
    sum_scale = 2.0 * s_c * s_x
    if formats.y is not None:
        out = requantise((sum_scale / scale(formats.y))[None], sum_bound[None], allow_narrow=False)
        m_y, shift_y = out.multipliers[0], out.shift
    zero_x = _per_head(formats.x.zero_point, heads)
    return ScanPlan(
        formats,
        heads,
        states,
        update.multipliers[0],
        update.multipliers[1],
        update.shift,
        _per_head(formats.x.low, heads) - zero_x,
        _per_head(formats.x.high, heads) - zero_x,
        update.word,
        m_y,
        shift_y,
        sum_scale,
    )
