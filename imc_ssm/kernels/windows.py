"""Slow heads in the fused CPU kernels: inputs summed over windows, outputs held, and words of dither.

A head of period k is updated at the steps t with (t + 1) mod k = 0. So a stretch of steps that begins `phase`
steps after an update has (phase + steps) // k updates; update i is in step (i + 1) k - phase - 1 of the stretch.
All are pointers, to (step, lane): an array counts its references, and these run once a head or a state, maybe for
one step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from imc_ssm.fixedpoint.dither import HASH, OFFSET, QUARTER, STEP, WORD
from imc_ssm.kernels.codes import COLUMNS, DITHERED, SEPARATE
from imc_ssm.kernels.compiling import compiled
from imc_ssm.kernels.vector import LANES, ahead, broadcast, load, store

__all__ = ["WORDS", "collect", "dither", "early_gradient", "hold", "hold_gradient", "pick"]
__all__ += ["sum_gradient"]

WORDS = 8
"""Words of two states in one update: of a x (real, imaginary) and b u, then those of the second state."""
i64, f32 = np.int64, np.float32
LONG, LOW = 2**32 - 1, 2**WORD - 1
EDGE = 2.0 ** -(WORD + 1)
STRIDE = 256
TURNS = (STEP * np.arange(STRIDE) % 2**WORD) / 2.0**WORD
"""Words of dither over 2^16 of a register whose word begins with 0; those of others begin elsewhere."""
OF_UPDATE, OF_REGISTER, FIRST, SECOND = HASH


@compiled
def _weyl(word: int, count: int, row: Any) -> None:
    """(2 w + 1) / 2^17 of the words of dither that begin with `word`; all exact, and a loop without integers."""
    for begin in range(0, count, STRIDE):
        first = ((word + STEP * i64(begin)) & LOW) / 2.0**WORD + EDGE
        part = ahead(row, begin)
        for j in range(min(STRIDE, count - begin)):
            turned = TURNS[j] + first
            part[j] = turned - 1.0 if turned >= 1.0 else turned


@compiled
def _mixed(word: int, count: int, row: Any) -> None:
    """(2 w + 1) / 2^17 of the stochastic words whose mixing begins with `word`."""
    for j in range(count):
        x = (word + OF_UPDATE * i64(j)) & LONG
        x = ((x ^ (x >> 16)) * FIRST) & LONG
        x = ((x ^ (x >> 15)) * SECOND) & LONG
        row[j] = (2 * ((x ^ (x >> 16)) >> (32 - WORD)) + 1) * EDGE


@compiled
def _words(kind: int, register: int, first: int, count: int, row: Any) -> None:
    """(2 w + 1) / 2^17 of one register, w its word in every update."""
    if kind == DITHERED:
        offset = STEP * i64(first) + OFFSET * i64(register >> 1) + QUARTER * i64(register & 1)
        _weyl(offset & LOW, count, row)
    else:
        _mixed(OF_UPDATE * i64(first) + OF_REGISTER * i64(register), count, row)


@compiled
def _cut(unit: float, count: int, row: Any) -> None:
    """floor(row unit) / unit: nothing to do where the unit is finer than what is added."""
    if unit < 1.0 / EDGE:
        part = 1.0 / unit
        for j in range(count):
            row[j] = np.floor(row[j] * unit) * part


@compiled
def dither(kind: int, order: int, register: int, first: int, count: int, k: Any, d: Any, pitch: int) -> None:
    """Fractions of a code that updates `first` ... of two states add, the first of whose registers is `register`,
    into d (WORDS, pitch).

    floor((2 w + 1) 2^shift / 2^17) / 2^shift, w the words of `fixedpoint.dither`; of b u, which is rounded apart
    in the separate order, for the complement of w. k and d are pointers, k to the coefficients of the first state.
    """
    for at in range(2):
        for part in range(2):
            row = ahead(d, (4 * at + part) * pitch)
            _words(kind, register + 2 * at + part, first, count, row)
            if order == SEPARATE:
                apart = ahead(d, (4 * at + 2 + part) * pitch)
                for j in range(count):
                    apart[j] = 1.0 - row[j]  # of the complement, 65535 - w
                _cut(k[at * COLUMNS + 10], count, apart)
            _cut(k[at * COLUMNS + 9], count, row)


@compiled
def collect(drive: Any, sums: Any, steps: int, period: int, phase: int) -> int:
    """Sums of the inputs of every window in place of the inputs; `sums` (lane,) goes on from window to window.

    Returns the number of updates.
    """
    total = load(sums, 0)
    t, count, left = 0, 0, period - phase
    while t < steps:
        end = min(t + left, steps)
        left -= end - t
        while t < end:
            total = total + load(drive, t * LANES)
            t += 1
        if left == 0:
            store(drive, count * LANES, total)
            total = broadcast(f32(0))
            count, left = count + 1, period
    store(sums, 0, total)
    return count


@compiled
def pick(z: Any, width: int, steps: int, period: int, phase: int) -> None:
    """Of numbers (step, width) those of the steps with an update, in place."""
    count = (phase + steps) // period
    for i in range(count):
        t = (i + 1) * period - phase - 1
        for j in range(width):
            z[i * width + j] = z[t * width + j]


@compiled
def hold(total: Any, held: Any, steps: int, period: int, phase: int) -> None:
    """Of the sums of every update those that hold in every step, in place; before the first one `held` (lane,).

    `held` receives those of the last step.
    """
    count = (phase + steps) // period
    last = load(total, (count - 1) * LANES) if count else load(held, 0)
    end = steps
    for back in range(count):  # from the end: nothing is overwritten that is still needed
        i = count - 1 - back
        value, first = load(total, i * LANES), (i + 1) * period - phase - 1
        for t in range(first, end):
            store(total, t * LANES, value)
        end = first
    value = load(held, 0)
    for t in range(end):
        store(total, t * LANES, value)
    store(held, 0, last)


@compiled
def early_gradient(grad: Any, steps: int, x: Any, states: int, room: Any, sums: Any) -> None:
    """The gradient of c from the steps before the first update, whose outputs are those of the first state.

    x (state, part, lane), sums (state, 6, lane) of `reverse`.
    """
    for lane in range(LANES):
        room[lane] = 0
    for t in range(steps):
        for lane in range(LANES):
            room[lane] += grad[t * LANES + lane]
    for n in range(states):
        for lane in range(LANES):
            sums[(6 * n + 4) * LANES + lane] += room[lane] * x[2 * n * LANES + lane]
            sums[(6 * n + 5) * LANES + lane] -= room[lane] * x[(2 * n + 1) * LANES + lane]


@compiled
def sum_gradient(grad: Any, steps: int, period: int, phase: int) -> int:
    """The gradient of every update's output: the sum over the steps that hold it, in place; number of updates."""
    count = (phase + steps) // period
    for i in range(count):
        first = (i + 1) * period - phase - 1
        total = load(grad, first * LANES)
        for t in range(first + 1, min(first + period, steps)):
            total = total + load(grad, t * LANES)
        store(grad, i * LANES, total)
    return count


@compiled
def hold_gradient(grad: Any, steps: int, period: int, phase: int) -> None:
    """The gradient of every input: that of its window's sum, in place; of a window that has not ended 0."""
    count = (phase + steps) // period
    value, end = broadcast(f32(0)), steps
    for back in range(count + 1):
        i = count - back
        first = max(i * period - phase, 0)
        if i < count:
            value = load(grad, i * LANES)
        for t in range(first, end):
            store(grad, t * LANES, value)
        end = first
