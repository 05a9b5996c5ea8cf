"""Requantization: from a sum of integer products to a code, by integer multipliers and a shift."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint.formats import Nearest

__all__ = ["CONSTANT_BITS", "MULTIPLIER_BITS", "WORD_BITS", "Requantizer", "requantize", "round_shift"]

MULTIPLIER_BITS = 24
"""Widest multiplier of the unit, in significant bits."""
SHIFT_BITS = 6
"""Length of a stored shift (0 to 52)."""
CONSTANT_BITS = MULTIPLIER_BITS + SHIFT_BITS
"""Length of a stored requantization constant: a multiplier and a shift (m_b's: a left shift, of m_b or of m_a)."""
WORD_BITS = 53
"""Widest word of the unit, sign included. Twice such an integer is exact in double precision, and so is its
half: the fused kernels compute in doubles without a single rounding."""
NARROW_BITS = 32
"""The narrow accumulator, sign included."""
_PRECISE_BITS = 12
"""The narrow accumulator is used where it leaves the first multiplier at least this many bits."""
_PART, _CODES = 2.0**-8, 2.0**-4
"""What the rounding of another multiplier may do to its product: so much of itself, or so many codes."""

Ints = NDArray[np.int64]


def round_shift(value: Ints, shift: Ints, rounding: Nearest = "half_even") -> Ints:
    """value / 2^shift as an integer, by an arithmetic shift; shift 0 leaves the value.

    half_even: (value + 2^(shift-1) - 1 + ((value >> shift) & 1)) >> shift;
    half_up:   (value + 2^(shift-1)) >> shift;
    half_away: (value + 2^(shift-1) - (value < 0)) >> shift.
    """
    value, shift = np.asarray(value, np.int64), np.asarray(shift, np.int64)
    half = np.int64(1) << np.maximum(shift - 1, 0)
    if rounding == "half_even":
        half = half - 1 + ((value >> shift) & 1)
    elif rounding == "half_away":
        half = half - (value < 0)
    return np.asarray((value + np.where(shift > 0, half, 0)) >> shift, np.int64)


@dataclass(frozen=True, eq=False)
class Requantizer:
    """code = round((sum_k multiplier_k p_k) / 2^shift), for products p_k of k kinds.

    `multipliers` (k, ...) and `shift` (...) int64; one shift serves all kinds, because their products are
    added before it. `word` is the accumulator's length in bits, sign included: 32 or 53. `lost`: not even 53 bits
    keep every kind. `exact`: every multiplier is a power of two and the ratio itself.
    """

    multipliers: Ints
    shift: Ints
    word: int
    lost: bool = False
    exact: bool = False


def requantize(
    ratios: NDArray[np.float64],
    bounds: Ints,
    *,
    allow_narrow: bool = True,
    added: float = 0.5,
    by_shifts: bool = False,
) -> Requantizer:
    """Integer multipliers and a common shift for real ratios.

    `ratios` (k, ...): the scale of each kind of product over the scale of the result; `bounds` (k, ...): the
    largest |p_k|, at least 1. multiplier_0 = round(ratio_0 2^shift); multiplier_k of the other kinds likewise,
    kept to its 24 leading bits (a multiplier of 24 bits and a left shift). The shift is the largest for which
    multiplier_0 has at most 24 bits and sum_k multiplier_k bound_k + added 2^shift fits the accumulator (`added`:
    1/2, rounding's half, or 1, where up to 2^shift is added before the value is truncated): 32 bits
    where that leaves every multiplier_0, the poles', at least 12 bits (its relative error is then at most
    2^-12; the largest one may be the input's, and would say nothing about the poles) and keeps the other kinds,
    else 53 bits. A kind is kept where the rounding of its multiplier moves its products by at most 2^-8 of
    themselves or 2^-4 of a code: products of long words that are worth little have a small multiplier, and would
    vanish. Where 53 bits do not keep one, the shift is the largest for which the sum fits, and multiplier_0 is the
    one with 24 leading bits and a left shift.

    `by_shifts`: where all ratios are powers of two, the shift is the smallest for which every multiplier is an
    integer: nothing is multiplied, and the accumulator is as short as it can be.

    Raises `FormatError` where not even shift 0 fits 53 bits.
    """
    if by_shifts and (shifts := _powers(ratios, bounds, allow_narrow, added)) is not None:
        return shifts
    if allow_narrow:
        narrow = _fit(ratios, bounds, NARROW_BITS, added)
        precise = narrow is not None and np.all(narrow.multipliers[0] >= 2 ** (_PRECISE_BITS - 1))
        if narrow is not None and precise and not _lost(narrow, ratios, bounds).any():
            return narrow
    wide = _fit(ratios, bounds, WORD_BITS, added)
    if wide is not None and (lost := _lost(wide, ratios, bounds)).any():
        wide = _fit(ratios, bounds, WORD_BITS, added, lost)
        if wide is not None:
            wide = replace(wide, lost=bool(_lost(wide, ratios, bounds).any()))
    if wide is None:
        worst = float(ratios.max())
        raise FormatError(
            f"requantization by a ratio of {worst:.4g} needs words of more than {WORD_BITS} bits or a multiplier "
            f"of more than {MULTIPLIER_BITS} bits; use fewer bits or a coarser result format"
        )
    return wide


def _powers(ratios: NDArray[np.float64], bounds: Ints, allow_narrow: bool, added: float) -> Requantizer | None:
    """The smallest shifts for ratios that are powers of two; None where one is not, or the words do not fit."""
    mantissa, exponent = np.frexp(ratios)
    if not np.all(mantissa == 0.5):
        return None
    shift = np.maximum(0, (1 - exponent).max(axis=0)).astype(np.int64)
    multipliers = np.exp2(np.minimum(shift + exponent - 1, WORD_BITS))
    # Not exact beyond 2^53, where it is too large in any case.
    most = float(((multipliers * bounds).sum(axis=0) + np.exp2(shift) * added).max(initial=0.0))
    if most > 2 ** (WORD_BITS - 1) - 1 or shift.max(initial=0) >= WORD_BITS:
        return None
    word = NARROW_BITS if allow_narrow and most <= 2 ** (NARROW_BITS - 1) - 1 else WORD_BITS
    return Requantizer(multipliers.astype(np.int64), shift, word, exact=True)


def _lost(found: Requantizer, ratios: NDArray[np.float64], bounds: Ints) -> NDArray[np.bool_]:
    """Where the multiplier of another kind than the first is too coarse, elementwise."""
    unit = np.exp2(found.shift)
    exact = ratios[1:] * unit
    error = np.abs(found.multipliers[1:] - exact)
    return np.asarray(np.any((error > _PART * exact) & (error * bounds[1:] > _CODES * unit), axis=0))


def _fit(
    ratios: NDArray[np.float64],
    bounds: Ints,
    word: int,
    added: float,
    free: NDArray[np.bool_] | None = None,
) -> Requantizer | None:
    """The largest shift whose words fit, elementwise, or None where not even shift 0 does.

    Where `free`, the first multiplier may have a left shift, like the others.
    """
    limit = 2 ** (word - 1) - 1
    loose = np.zeros(ratios.shape[1:], np.bool_) if free is None else free
    with np.errstate(divide="ignore"):
        by_multiplier = np.where(loose, np.inf, MULTIPLIER_BITS - np.log2(ratios[0]))
        by_word = np.log2(float(limit)) - np.log2((ratios * bounds).sum(axis=0))
    # The estimate is at most one too large, as is what is added beside the limit.
    shift = np.clip(np.floor(np.minimum(by_multiplier, by_word)) + 1, -1, word - 1).astype(np.int64)
    for _ in range(4):
        # Ratios that no multiplier holds are cut to one that is too wide as well: int64 holds what follows.
        scaled = np.minimum(ratios * np.exp2(np.maximum(shift, 0)), 2.0 ** (word + 1))
        left = np.maximum(np.floor(np.log2(np.maximum(scaled, 1.0))) + 1 - MULTIPLIER_BITS, 0)
        left[0] = np.where(loose, left[0], 0)
        multipliers = np.rint(scaled / np.exp2(left)) * np.exp2(left)
        # Exact below 2^53, and where it is not exact it is far above the limit.
        total = (multipliers * bounds).sum(axis=0) + np.where(shift > 0, added * np.exp2(shift), 0)
        fits = (loose | (multipliers[0] < 2**MULTIPLIER_BITS)) & (total <= limit)
        if np.all(fits | (shift < 0)):
            break
        shift = np.where(fits, shift, shift - 1)
    if np.any(~fits | (shift < 0)):
        return None
    return Requantizer(multipliers.astype(np.int64), shift, word)
