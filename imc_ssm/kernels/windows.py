"""Slow heads in the fused CPU kernels: inputs summed over windows, outputs held, and words of dither.

A head of period k is updated at the steps t with (t + 1) mod k = 0. So a stretch of steps that begins `phase`
steps after an update has (phase + steps) // k updates; update i is in step (i + 1) k - phase - 1 of the stretch.
Arrays (step, lane).
"""

from __future__ import annotations

import numpy as np

from imc_ssm.fixedpoint.dither import HASH, OFFSET, QUARTER, STEP, WORD
from imc_ssm.kernels.codes import DITHERED, SEPARATE
from imc_ssm.kernels.compiling import compiled
from imc_ssm.kernels.grid import Array
from imc_ssm.kernels.vector import LANES

__all__ = ["WORDS", "collect", "dither", "early_gradient", "hold", "hold_gradient", "pick"]
__all__ += ["sum_gradient"]

WORDS = 8
"""Words of two states in one update: of a x (real, imaginary) and b u, then those of the second state."""
i64 = np.int64
LONG, LOW = 2**32 - 1, 2**WORD - 1
EDGE = 2.0 ** -(WORD + 1)
OF_UPDATE, OF_REGISTER, FIRST, SECOND = HASH


@compiled
def _words(kind: int, register: int, complement: bool, unit: float, first: int, count: int, row: Array) -> None:
    """floor((2 w + 1) unit / 2^17) / unit of one register, w its word in every update or the complement."""
    ends, part = unit * EDGE, 1.0 / unit
    flip = LOW if complement else 0
    if kind == DITHERED:
        offset = (STEP * i64(first) + OFFSET * i64(register >> 1) + QUARTER * i64(register & 1)) & LOW
        for j in range(count):
            w = ((offset + STEP * i64(j)) & LOW) ^ flip
            row[j] = np.floor((2 * w + 1) * ends) * part
    else:
        offset = OF_UPDATE * i64(first) + OF_REGISTER * i64(register)
        for j in range(count):
            x = (offset + OF_UPDATE * i64(j)) & LONG
            x = ((x ^ (x >> 16)) * FIRST) & LONG
            x = ((x ^ (x >> 15)) * SECOND) & LONG
            w = ((x ^ (x >> 16)) >> (32 - WORD)) ^ flip
            row[j] = np.floor((2 * w + 1) * ends) * part


@compiled
def dither(kind: int, order: int, h: int, n: int, states: int, first: int, count: int, k: Array, d: Array) -> None:
    """Fractions of a code that updates `first` ... of states n and n + 1 of a head add, into d (WORDS, any).

    floor((2 w + 1) 2^shift / 2^17) / 2^shift, w the words of `fixedpoint.dither`; of b u, which is rounded apart
    in the separate order, for the complement of w. k (head, state, COLUMNS); `states`: without
    those that fill it up.
    """
    for at in range(2):
        for part in range(2):
            register = 2 * (h * states + n + at) + part
            _words(kind, register, False, k[h, n + at, 9], first, count, d[4 * at + part])
            if order == SEPARATE:
                _words(kind, register, True, k[h, n + at, 10], first, count, d[4 * at + 2 + part])


@compiled
def collect(drive: Array, sums: Array, steps: int, period: int, phase: int) -> int:
    """Sums of the inputs of every window in place of the inputs; `sums` (lane,) goes on from window to window.

    Returns the number of updates.
    """
    count, left = 0, period - phase
    for t in range(steps):
        for lane in range(LANES):
            sums[lane] += drive[t * LANES + lane]
        left -= 1
        if left == 0:
            for lane in range(LANES):
                drive[count * LANES + lane] = sums[lane]
                sums[lane] = 0
            count, left = count + 1, period
    return count


@compiled
def pick(z: Array, width: int, steps: int, period: int, phase: int) -> None:
    """Of numbers (step, width) those of the steps with an update, in place."""
    count = (phase + steps) // period
    for i in range(count):
        t = (i + 1) * period - phase - 1
        for j in range(width):
            z[i * width + j] = z[t * width + j]


@compiled
def hold(total: Array, held: Array, steps: int, period: int, phase: int) -> None:
    """Of the sums of every update those that hold in every step, in place; before the first one `held` (lane,).

    `held` receives those of the last step.
    """
    for back in range(steps):
        t = steps - 1 - back  # from the end: nothing is overwritten that is still needed
        i = (phase + t + 1) // period - 1
        for lane in range(LANES):
            total[t * LANES + lane] = held[lane] if i < 0 else total[i * LANES + lane]
    for lane in range(LANES):
        held[lane] = total[(steps - 1) * LANES + lane]


@compiled
def early_gradient(grad: Array, steps: int, x: Array, room: Array, sums: Array) -> None:
    """The gradient of c from the steps before the first update, whose outputs are those of the first state.

    x (state, part, lane), sums (state, 6, lane) of `reverse`.
    """
    room[:] = 0
    for t in range(steps):
        for lane in range(LANES):
            room[lane] += grad[t * LANES + lane]
    for n in range(len(x) // (2 * LANES)):
        for lane in range(LANES):
            sums[(6 * n + 4) * LANES + lane] += room[lane] * x[2 * n * LANES + lane]
            sums[(6 * n + 5) * LANES + lane] -= room[lane] * x[(2 * n + 1) * LANES + lane]


@compiled
def sum_gradient(grad: Array, steps: int, period: int, phase: int) -> int:
    """The gradient of every update's output: the sum over the steps that hold it, in place; number of updates."""
    count = (phase + steps) // period
    for i in range(count):
        first = (i + 1) * period - phase - 1
        for lane in range(LANES):
            total = grad[first * LANES + lane]
            for t in range(first + 1, min(first + period, steps)):
                total += grad[t * LANES + lane]
            grad[i * LANES + lane] = total
    return count


@compiled
def hold_gradient(grad: Array, steps: int, period: int, phase: int) -> None:
    """The gradient of every input: that of its window's sum, in place; of a window that has not ended 0."""
    count = (phase + steps) // period
    for back in range(steps):
        t = steps - 1 - back
        i = (phase + t) // period
        for lane in range(LANES):
            grad[t * LANES + lane] = grad[i * LANES + lane] if i < count else np.float32(0)
