"""Norms on the CPU (Numba): the integers of `fixedpoint.norms` in doubles, which hold all of them exactly.

Arrays are rows, (batch, channel, time); grids are (3, channel): step, lowest and highest centred code. `channel`
holds (4, channel): alignment, gain, offset, 2^-shift; `plan` 2^-align_shift, whether the mean is taken off,
reciprocal, 2^-reciprocal_shift, eps.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from imc_ssm.kernels.compiling import compiled, kernel
from imc_ssm.kernels.grid import Array
from imc_ssm.kernels.pointwise import f32, mask

__all__ = ["affine", "affine_backward", "norm", "norm_backward"]

BLOCK = 64
"""Steps that are worked on at a time: their vectors stay in the first-level cache."""
CHUNK = 1024
"""Steps of one task of the backward pass, a multiple of BLOCK."""


@compiled
def _root(squares: float, table: Array) -> tuple[float, float]:
    """(r, 2^-(n + 2)) with 1 / sqrt(squares) = r 2^(-24-n), as `fixedpoint.norms.reciprocal_root` has them."""
    if not squares >= 1.0:  # also what is not a number
        squares = 1.0
    n = (math.frexp(squares)[1] - 1) // 2
    m = np.int64(math.floor(math.ldexp(squares, 22 - 2 * n)))
    place: Any = min(max((m >> 15) - 128, 0), 383)
    first = table[place]
    error = np.float64(3 * (np.int64(1) << 46) - m * np.int64(np.rint(first * first * 2.0**-8)))
    return np.rint(first * np.rint(error * 2.0**-22) * 2.0**-17), math.ldexp(1.0, -n - 2)


@compiled
def _finish(
    values: Array, gain: float, offset: float, fraction: float, grid: Array, c: int, out: Array, inside: Array
) -> None:
    """clamp(round((gain v + offset) fraction)) of one row, and where nothing was clamped."""
    step, low, high = grid[0, c], np.float64(grid[1, c]), np.float64(grid[2, c])
    for t in range(len(out)):
        q = np.rint((gain * values[t] + offset) * fraction)
        out[t] = f32(min(max(q, low), high)) * step
    if len(inside) > 0:
        for t in range(len(out)):
            q = np.rint((gain * values[t] + offset) * fraction)
            inside[t] = (q >= low) & (q <= high)


@kernel
def _norm(
    x: Array, source: Array, channel: Array, plan: Array, table: Array, grid: Array, out: Array, inside: Array
) -> None:
    batch, channels, time = x.shape
    blocks = (time + BLOCK - 1) // BLOCK
    for task in prange(batch * blocks):
        b, first = task // blocks, (task % blocks) * BLOCK
        size = min(BLOCK, time - first)
        v, total, squares = np.empty((channels, BLOCK)), np.zeros(BLOCK), np.zeros(BLOCK)
        root, fraction = np.empty(BLOCK), np.empty(BLOCK)
        for c in range(channels):
            row, own, align = x[b, c, first : first + size], v[c], channel[0, c] * plan[0]
            step, low, high = source[0, c], source[1, c], source[2, c]
            for t in range(size):
                own[t] = np.rint(np.float64(min(max(np.rint(row[t] / step), low), high)) * align)
            for t in range(size):
                total[t] += own[t]
        for t in range(size):
            total[t] = np.rint(total[t] * plan[2] * plan[3]) * plan[1]
        for c in range(channels):
            own = v[c]
            for t in range(size):
                own[t] -= total[t]
                squares[t] += own[t] * own[t]
        for t in range(size):
            root[t], fraction[t] = _root(squares[t] + plan[4], table)
        for c in range(channels):
            own = v[c]
            for t in range(size):
                own[t] = np.rint(own[t] * root[t] * fraction[t])
            free = inside[b, c, first : first + size] if inside.size > 0 else inside[:0, 0, 0]
            _finish(
                own, channel[1, c], channel[2, c], channel[3, c], grid, c, out[b, c, first : first + size], free
            )


@kernel
def _norm_back(
    grad: Array, inside: Array, x: Array, gain: Array, eps: float, centred: float, to_x: Array, to_gain: Array,
    to_offset: Array,
) -> None:  # fmt: skip
    """The gradient of the real function; to_gain, to_offset (task, channel), with CHUNK steps a task."""
    batch, channels, time = x.shape
    chunks = (time + CHUNK - 1) // CHUNK
    for task in prange(batch * chunks):
        b, start = task // chunks, (task % chunks) * CHUNK
        of_gain, of_offset = np.zeros((channels, BLOCK)), np.zeros((channels, BLOCK))
        z, g = np.empty((channels, BLOCK)), np.empty((channels, BLOCK))
        for first in range(start, min(start + CHUNK, time), BLOCK):
            size = min(BLOCK, time - first)
            mean, squares, one, two = np.zeros(BLOCK), np.zeros(BLOCK), np.zeros(BLOCK), np.zeros(BLOCK)
            for c in range(channels):
                row = x[b, c, first : first + size]
                for t in range(size):
                    mean[t] += np.float64(row[t])
            for t in range(size):
                mean[t] = mean[t] / channels * centred
            for c in range(channels):
                row, own = x[b, c, first : first + size], z[c]
                for t in range(size):
                    own[t] = np.float64(row[t]) - mean[t]
                    squares[t] += own[t] * own[t]
            for t in range(size):
                squares[t] = 1.0 / np.sqrt(squares[t] / channels + eps)
            for c in range(channels):
                own, given, factor = z[c], g[c], np.float64(gain[c])
                source, free = grad[b, c, first : first + size], inside[b, c, first : first + size]
                with_gain, with_offset = of_gain[c], of_offset[c]
                for t in range(size):
                    passed = np.float64(source[t]) * np.float64(free[t])
                    own[t] *= squares[t]
                    with_gain[t] += passed * own[t]
                    with_offset[t] += passed
                    given[t] = passed * factor
                    one[t] += given[t]
                    two[t] += given[t] * own[t]
            for t in range(size):
                one[t] = one[t] / channels * centred
                two[t] = two[t] / channels
            for c in range(channels):
                own, given, to = z[c], g[c], to_x[b, c, first : first + size]
                for t in range(size):
                    to[t] = f32(squares[t] * (given[t] - one[t] - own[t] * two[t]))
        for c in range(channels):
            to_gain[task, c] = of_gain[c].sum()
            to_offset[task, c] = of_offset[c].sum()


@kernel
def _affine(x: Array, source: Array, channel: Array, grid: Array, out: Array, inside: Array) -> None:
    batch, channels, time = x.shape
    for row in prange(batch * channels):
        b, c = row // channels, row % channels
        step, low, high, values, given = source[0, c], source[1, c], source[2, c], np.empty(time), x[b, c]
        for t in range(time):
            values[t] = np.float64(min(max(np.rint(given[t] / step), low), high))
        free = inside[b, c] if inside.size > 0 else inside[:0, 0, 0]
        _finish(values, channel[1, c], channel[2, c], channel[3, c], grid, c, out[b, c], free)


@kernel
def _affine_back(
    grad: Array, inside: Array, x: Array, gain: Array, to_x: Array, to_gain: Array, to_offset: Array
) -> None:
    """to_gain, to_offset (batch, channel)."""
    batch, channels, time = x.shape
    for row in prange(batch * channels):
        b, c = row // channels, row % channels
        one, two, factor = np.zeros(BLOCK), np.zeros(BLOCK), gain[c]
        for first in range(0, time, BLOCK):
            size = min(BLOCK, time - first)
            end = first + size
            source, free, given, to = (
                grad[b, c, first:end],
                inside[b, c, first:end],
                x[b, c, first:end],
                to_x[b, c],
            )
            for t in range(size):
                passed = source[t] * f32(free[t])
                one[t] += np.float64(passed) * np.float64(given[t])
                two[t] += np.float64(passed)
                to[first + t] = passed * factor
        to_gain[b, c], to_offset[b, c] = one.sum(), two.sum()


def norm(
    x: Tensor, source: Tensor, channel: Tensor, plan: Tensor, table: Tensor, grid: Tensor, trained: bool
) -> tuple[Tensor, Tensor]:
    out, inside = torch.empty(x.shape, dtype=torch.float32), mask(trained, x.shape)
    _norm(*(z.numpy() for z in (x, source, channel, plan, table, grid, out, inside)))
    return out, inside


def norm_backward(
    grad: Tensor, inside: Tensor, x: Tensor, gain: Tensor, eps: float, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    tasks = len(x) * ((x.shape[2] + CHUNK - 1) // CHUNK)
    to_x = torch.empty(x.shape, dtype=torch.float32)
    parts = torch.empty((2, tasks, x.shape[1]), dtype=torch.float64)
    arrays = [z.numpy() for z in (grad.contiguous(), inside, x, gain)]
    _norm_back(*arrays, eps, float(centred), to_x.numpy(), *parts.numpy())
    return to_x, *parts.sum(1).float()


def affine(x: Tensor, source: Tensor, channel: Tensor, grid: Tensor, trained: bool) -> tuple[Tensor, Tensor]:
    out, inside = torch.empty(x.shape, dtype=torch.float32), mask(trained, x.shape)
    _affine(*(z.numpy() for z in (x, source, channel, grid, out, inside)))
    return out, inside


def affine_backward(grad: Tensor, inside: Tensor, x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    to_x = torch.empty(x.shape, dtype=torch.float32)
    parts = torch.empty((2, *x.shape[:2]), dtype=torch.float64)
    _affine_back(*(z.numpy() for z in (grad.contiguous(), inside, x, gain, to_x)), *parts.numpy())
    return to_x, *parts.sum(1).float()
