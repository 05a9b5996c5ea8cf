"""Noise that moves while products run: what a stream of products sees of 1/f and telegraph noise.

A product has a number; it runs `step` s after the one before. Noise is a function of (key, device, number):
however many products are computed at a time, number 1000 sees the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import prange

from imc_ssm.devices.processes import (
    SAME,
    flicker_lines,
    octaves,
    telegraph_state,
    uniform,
    word,
)
from imc_ssm.kernels.compiling import kernel

__all__ = ["add_flicker", "add_telegraph"]

Array = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
u64 = np.uint64
BLOCK = 128
"""Products between two places where the phases of the lines, and the states of telegraph noise, are made anew."""


@kernel
def _flicker(
    out: Any, drive: Any, density: Any, weights: Any, key: Any, high: float, step: float, starts: Any
) -> None:
    streams, products, inputs = drive.shape
    outputs, lines = density.shape[1], weights.size
    for job in prange(streams * (products // BLOCK + 2)):
        s, number = job // (products // BLOCK + 2), job % (products // BLOCK + 2)
        begin = (starts[s] // BLOCK + number) * BLOCK
        first, last = max(begin, starts[s]), min(begin + BLOCK, starts[s] + products)
        if first >= last:
            continue
        real, imaginary = np.empty((lines, outputs), np.float32), np.empty((lines, outputs), np.float32)
        cosine, sine = np.empty((lines, outputs), np.float32), np.empty((lines, outputs), np.float32)
        total = np.empty(outputs, np.float32)
        for i in range(inputs):
            for line in range(lines):
                for o in range(outputs):
                    amplitude, turns, f = flicker_lines(key, i * outputs + o, line, high, begin * step)
                    size, angle = weights[line] * amplitude * density[i, o], 2.0 * math.pi * turns
                    real[line, o], imaginary[line, o] = size * math.cos(angle), size * math.sin(angle)
                    angle = 2.0 * math.pi * f * step
                    cosine[line, o], sine[line, o] = math.cos(angle), math.sin(angle)
            for n in range(begin, last):
                total[:] = 0.0
                for line in range(lines):
                    for o in range(outputs):
                        a, b, c, d = real[line, o], imaginary[line, o], cosine[line, o], sine[line, o]
                        total[o] += a
                        real[line, o], imaginary[line, o] = a * c - b * d, a * d + b * c
                if n >= first:
                    size = drive[s, n - starts[s], i]
                    for o in range(outputs):
                        out[s, n - starts[s], o] += size * total[o]


@kernel
def _telegraph(
    out: Any,
    drive: Any,
    device: Any,
    row: Any,
    column: Any,
    deviation: Any,
    rate: Any,
    key: Any,
    step: float,
    starts: Any,
    same: Any,
) -> None:
    streams, products, _ = drive.shape
    for job in prange(streams * (products // BLOCK + 2)):
        s, number = job // (products // BLOCK + 2), job % (products // BLOCK + 2)
        begin = (starts[s] // BLOCK + number) * BLOCK
        first, last = max(begin, starts[s]), min(begin + BLOCK, starts[s] + products)
        if first >= last:
            continue
        left = np.empty(BLOCK + 1)  # correlation over so many products
        for k in range(device.size):
            own = word(~key, u64(device[k]))
            state = telegraph_state(key, device[k], rate[k], begin * step, same)
            end = telegraph_state(key, device[k], rate[k], (begin + BLOCK) * step, same)
            kept = math.exp(-2.0 * rate[k] * step)
            left[0] = 1.0
            for m in range(BLOCK):
                left[m + 1] = left[m] * kept
            for n in range(begin, last):
                if n > begin:  # a step of the chain, given where it ends
                    m = begin + BLOCK - n + 1
                    agree = 1.0 if state == end else -1.0
                    stay = (1.0 + kept) * (1.0 + agree * left[m - 1]) / (2.0 * (1.0 + agree * left[m]))
                    if uniform(word(own, u64(n))) >= stay:
                        state = -state
                if n >= first:
                    out[s, n - starts[s], column[k]] += drive[s, n - starts[s], row[k]] * deviation[k] * state


def add_flicker(
    out: Array,
    drive: Array,
    density: Array,
    key: int,
    band: tuple[float, float],
    step: float,
    starts: Places,
) -> None:
    """out[s, n, j] += sum_i drive[s, n, i] density[i, j] N_ij(t),  t = (starts[s] + n) step.

    N_ij are independent, of the one-sided spectrum 1 / f within `band`, Hz, which ends at half the rate of the
    products or below: they are correlated along a stream as that spectrum says. drive (streams, products, inputs),
    density (inputs, outputs), out (streams, products, outputs), float32; starts: number of the first product of
    each stream.
    """
    weights = octaves(*band, (0.0, math.inf)).astype(np.float32)
    if weights.size and out.size:
        _flicker(out, drive, density, weights, u64(key), band[1], step, starts)


def add_telegraph(
    out: Array,
    drive: Array,
    devices: tuple[Places, Places, Places],
    deviation: Array,
    rate: Array,
    key: int,
    step: float,
    starts: Places,
) -> None:
    """out[s, n, j] += sum over devices k at j of drive[s, n, i_k] deviation_k T_k(t),  t = (starts[s] + n) step.

    T_k = +1 or -1 switches `rate[k]` times a second (`processes.telegraph`). `devices`: of each its number, which
    seeds it, its input and its output; a number that stands there more than once is one device.
    """
    if deviation.size and out.size:
        _telegraph(out, drive, *devices, deviation, rate.astype(np.float64), u64(key), step, starts, SAME)
