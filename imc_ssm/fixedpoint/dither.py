"""What is added before a state is truncated: the words of dithered and of stochastic rounding.

Both are functions of (update number of the head, number of the register): no memory, the same wherever a sequence
is cut, for every sequence of a batch. In hardware the first is a 16-bit counter and an adder for each word.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["HASH", "OFFSET", "QUARTER", "STEP", "WORD", "dither_words", "fractions", "registers"]
__all__ += ["stochastic_words"]

WORD = 16
"""Length of a word."""
STEP = 40503
"""What the counter advances by: 2^16 over the golden ratio, to the nearest odd integer. The words of 65,536
updates are then all words, and those of a few updates in a row lie evenly."""
OFFSET = 49471
"""What the words of neighbouring states differ by: 2^16 over the plastic number, nearest odd integer."""
QUARTER = 2 ** (WORD - 2)
"""What the word of an imaginary part is ahead of its real part's. The two errors are then a phasor that turns
against the poles, whose angles are positive: they hardly answer it."""
HASH = (0x9E3779B9, 0x85EBCA6B, 0x7FEB352D, 0x846CA68B)
"""Of the stochastic words: factors of update and register, then of the two rounds of the mixing."""

Ints = NDArray[np.int64]
_MASK = 2**WORD - 1
_LONG = np.uint64(0xFFFFFFFF)


def registers(heads: int, states: int) -> Ints:
    """The registers' numbers 2 (h N + n) + part, (head, state, 2)."""
    return np.arange(heads * states * 2, dtype=np.int64).reshape(heads, states, 2)


def dither_words(update: ArrayLike, register: ArrayLike) -> Ints:
    """w = (40503 j + 49471 floor(i / 2) + 16384 (i mod 2)) mod 2^16 for update j and register i (broadcast)."""
    j, i = np.asarray(update, np.int64), np.asarray(register, np.int64)
    return np.asarray((STEP * j + OFFSET * (i >> 1) + QUARTER * (i & 1)) & _MASK)


def stochastic_words(update: ArrayLike, register: ArrayLike) -> Ints:
    """The upper 16 bits of a mixed 32-bit word: x = (0x9E3779B9 j + 0x85EBCA6B i) mod 2^32, then

    x ^= x >> 16; x = 0x7FEB352D x mod 2^32; x ^= x >> 15; x = 0x846CA68B x mod 2^32; x ^= x >> 16.

    Mixing constants: C. Wellons, "hash-prospector" (lowbias32), public domain.
    """
    of_update, of_register, first, second = (np.uint64(v) for v in HASH)
    j, i = (np.asarray(v, np.int64).astype(np.uint64) & _LONG for v in (update, register))
    x = (of_update * j + of_register * i) & _LONG  # below 2^65 before the sum wraps at 2^64: 2^32 divides it
    x ^= x >> np.uint64(16)
    x = (first * x) & _LONG
    x ^= x >> np.uint64(15)
    x = (second * x) & _LONG
    x ^= x >> np.uint64(16)
    return (x >> np.uint64(32 - WORD)).astype(np.int64)


def fractions(words: Ints, shift: Ints) -> Ints:
    """r = floor((2 w + 1) 2^shift / 2^17): what is added to an accumulator before its shift, 0 <= r < 2^shift.

    For shifts up to 16 these are the upper bits of w. Over all words the mean of floor((v + r) / 2^shift) is then
    v / 2^shift itself; for longer shifts to 2^-17.
    """
    odd, shift = 2 * np.asarray(words, np.int64) + 1, np.asarray(shift, np.int64)
    up = np.maximum(shift - WORD - 1, 0)
    return np.asarray((odd << up) >> np.maximum(WORD + 1 - shift, 0))
