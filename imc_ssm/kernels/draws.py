"""Noise of the fused CPU kernels: Philox4x32-10 and the table of integers, the twin of `fixedpoint.normal`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from imc_ssm.fixedpoint.normal import MULTIPLIERS, OCTAVE_BITS, ROUNDS, WEYL
from imc_ssm.kernels.vector import LANES

__all__ = ["draw"]

u64 = np.uint64
MASK, HALF = u64(0xFFFFFFFF), u64(32)
M0, M1 = (u64(m) for m in MULTIPLIERS)
W0, W1 = (u64(w) for w in WEYL)
REST = 23 - OCTAVE_BITS
FIRST = 127 << OCTAVE_BITS
PIECE = 64 * LANES
"""Numbers drawn at a time."""


@njit(error_model="numpy")
def _words(noise: Any, first: int, head: int, state: int, start: int, count: int, one: Any, two: Any) -> None:
    """The first two Philox words of (sample, head, state, time), position = (step, lane).

    One loop without branches or calls, so that the compiler makes vector instructions of it.
    """
    _, seed, sample, time = noise
    for j in range(count):
        x0, x1 = u64(sample + first + (j & (LANES - 1))), u64(head)
        x2, x3 = u64(state), u64(time + start + j // LANES)
        k0, k1 = seed & MASK, seed >> HALF
        for _ in range(ROUNDS):
            p0, p1 = M0 * (x0 & MASK), M1 * (x2 & MASK)
            x0, x1, x2, x3 = (p1 >> HALF) ^ x1 ^ k0, p1 & MASK, (p0 >> HALF) ^ x3 ^ k1, p0 & MASK
            k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
        one[j] = x0
        two[j] = x1


@njit(error_model="numpy")
def _gaussian(words: Any, table: Any, count: int, number: Any, bits: Any, z: Any, at: int) -> None:
    """Gaussian integers of words, to the four-fold wider rows of z; `bits` is the memory of `number` as int32."""
    for j in range(count):
        number[j] = np.float32((words[j] >> np.uint32(9)) * np.uint32(2) + np.uint32(1))
    for j in range(count):
        index = (bits[j] >> REST) - FIRST
        low = table[index]
        # At most 2^14 between neighbours, times at most 2^17.
        value = low + (((table[index + 1] - low) * (bits[j] & ((1 << REST) - 1))) >> REST)
        sign = 1 - 2 * np.int64(words[j] & np.uint32(1))
        z[4 * (j - j % LANES) + at + j % LANES] = sign * value


@njit(error_model="numpy")
def draw(noise: Any, first: int, head: int, n: int, start: int, steps: int, z: Any) -> None:
    """Gaussian integers of states n and n + 1 to the pointer `z`, (step, state, part, lane) float32 (exact).

    noise = (table, seed, sample, time): sample and time are the numbers of the first sequence and step.
    """
    one, two = np.empty(PIECE, np.uint32), np.empty(PIECE, np.uint32)
    number = np.empty(PIECE, np.float32)
    bits = number.view(np.int32)
    for begin in range(0, steps * LANES, PIECE):
        count = min(PIECE, steps * LANES - begin)
        for state in range(2):
            _words(noise, first, head, n + state, start + begin // LANES, count, one, two)
            to = 4 * begin + 2 * state * LANES
            _gaussian(one, noise[0], count, number, bits, z, to)
            _gaussian(two, noise[0], count, number, bits, z, to + LANES)
