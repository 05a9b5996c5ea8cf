"""Rounding to a grid and sums between grids on the CPU, one pass each (Numba).

Arrays are rows, (batch, channel, time); a grid is (3, channel): step, lowest and highest centred code. What comes
from a grid is read as its codes, rint(x / step): the product with the reciprocal is the same integer, since three
roundings of single precision move a code of 17 bits by less than 0.03.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from imc_ssm.kernels.compiling import compiled, kernel
from imc_ssm.kernels.grid import Array
from imc_ssm.kernels.vector import LANES, broadcast, fma, load, pointer, store, wide

__all__ = ["clip_row", "combine", "mask", "masked", "quantize", "round_row", "scale_add_backward"]

BLOCK = 256
"""Numbers of a row that are worked on at a time."""

NONE = {axes: torch.empty((0,) * axes, dtype=torch.uint8) for axes in (2, 3)}
"""Where no gradient is wanted: nothing, the same every time."""
f32 = np.float32


def mask(wanted: bool, shape: tuple[int, ...]) -> Tensor:
    """Room for "did not saturate", or an empty tensor where no gradient is wanted."""
    return torch.empty(shape, dtype=torch.uint8) if wanted else NONE[len(shape)]


@kernel
def _quantize_last(x: Array, grid: Array, out: Array, inside: Array) -> None:
    """x, out (row, channel)."""
    scale, low, high = grid[0], grid[1], grid[2]
    rows, channels = x.shape
    for task in prange((rows + BLOCK - 1) // BLOCK):
        for r in range(task * BLOCK, min(rows, (task + 1) * BLOCK)):
            for c in range(channels):
                out[r, c] = min(max(np.rint(f32(x[r, c]) / scale[c]), low[c]), high[c]) * scale[c]
            if inside.size > 0:
                for c in range(channels):
                    q = np.rint(f32(x[r, c]) / scale[c])
                    inside[r, c] = (q >= low[c]) & (q <= high[c])


@kernel
def _quantize_rows(x: Array, grid: Array, out: Array, inside: Array) -> None:
    """x, out (outer, channel, inner)."""
    scale, low, high = grid[0], grid[1], grid[2]
    outer, channels, inner = x.shape
    for row in prange(outer * channels):
        o, c = row // channels, row % channels
        s, lo, hi = scale[c], low[c], high[c]
        if inside.size == 0:
            for t in range(inner):
                out[o, c, t] = min(max(np.rint(f32(x[o, c, t]) / s), lo), hi) * s
        else:
            for t in range(inner):
                q = np.rint(f32(x[o, c, t]) / s)
                out[o, c, t] = min(max(q, lo), hi) * s
                inside[o, c, t] = (q >= lo) & (q <= hi)


@kernel
def _masked(grad: Array, inside: Array, out: Array) -> None:
    """grad where `inside`, 0 elsewhere; all (row, ...)."""
    for row in prange(len(grad)):
        source, free, to = grad[row], inside[row], out[row]
        for i in range(len(source)):
            to[i] = source[i] * f32(free[i])


def masked(grad: Tensor, inside: Tensor) -> Tensor:
    grad = grad.contiguous()
    out = torch.empty(grad.shape, dtype=torch.float32)
    rows = (-1, grad.shape[-1])
    _masked(grad.numpy().reshape(rows), inside.numpy().reshape(rows), out.numpy().reshape(rows))
    return out


@compiled
def round_row(x: Array, scale: float, low: float, high: float, out: Array, inside: Array) -> None:
    """One row on its grid; `inside`, unless empty, receives 1 where it did not saturate.

    In place it would be right, and ten times slower: the compiler vectorises only what does not overlap.
    """
    if len(inside) == 0:
        for t in range(len(x)):
            out[t] = min(max(np.rint(x[t] / scale), low), high) * scale
    else:
        for t in range(len(x)):
            q = np.rint(x[t] / scale)
            out[t] = min(max(q, low), high) * scale
            inside[t] = (q >= low) & (q <= high)


@compiled
def clip_row(codes: Array, scale: float, low: float, high: float, out: Array, inside: Array) -> None:
    """One row of integers on a grid; `inside` as above."""
    for t in range(len(codes)):
        out[t] = f32(min(max(codes[t], low), high)) * scale
    for t in range(len(inside)):
        inside[t] = (codes[t] >= low) & (codes[t] <= high)


@compiled
def _products(x: Array, y: Array, sums: Array) -> None:
    """LANES sums of the products of x and y, float64; what is left over is not taken."""
    one, two, total = pointer(x), pointer(y), broadcast(0.0)
    for t in range(0, len(x) - LANES + 1, LANES):
        total = fma(wide(load(one, t)), wide(load(two, t)), total)
    store(pointer(sums), 0, total)


@kernel
def _scale_add_back(grad: Array, inside: Array, u: Array, d: Array, to_y: Array, to_u: Array, to_d: Array) -> None:
    batch, heads, time = grad.shape
    for row in prange(batch * heads):
        b, h = row // heads, row % heads
        k, total = d[h], 0.0
        source, free, one, two, signal = grad[b, h], inside[b, h], to_y[b, h], to_u[b, h], u[b, h]
        for t in range(time):
            g = source[t] * f32(free[t])
            one[t] = g
            two[t] = g * k
        parts = np.empty(LANES, np.float64)
        _products(one, signal, parts)
        for t in range(time - time % LANES, time):
            total += np.float64(one[t]) * np.float64(signal[t])
        to_d[b, h] = total + parts.sum()


@kernel
def _combine(x: Array, y: Array, factors: Array, grid: Array, out: Array, inside: Array) -> None:
    """round(p x' + q y') on the grid, x', y' the codes of x and y (batch, channel, time).

    factors (4, channel): reciprocal steps of x and y, p and q. All integers and their sum fit 53 bits, and so do
    these multiples of a power of two.
    """
    scale, low, high = grid[0], grid[1], grid[2]
    batch, channels, time = x.shape
    for row in prange(batch * channels):
        b, c = row // channels, row % channels
        s, lo, hi, p, q = scale[c], np.float64(low[c]), np.float64(high[c]), factors[2, c], factors[3, c]
        of_x, of_y = f32(factors[0, c]), f32(factors[1, c])
        one, two, to = x[b, c], y[b, c], out[b, c]
        if inside.size == 0:
            for t in range(time):
                code = np.rint(p * np.float64(np.rint(one[t] * of_x)) + q * np.float64(np.rint(two[t] * of_y)))
                to[t] = f32(min(max(code, lo), hi)) * s
        else:
            free = inside[b, c]
            for t in range(time):
                code = np.rint(p * np.float64(np.rint(one[t] * of_x)) + q * np.float64(np.rint(two[t] * of_y)))
                to[t] = f32(min(max(code, lo), hi)) * s
                free[t] = (code >= lo) & (code <= hi)


def quantize(x: Tensor, grid: Tensor, trained: bool) -> tuple[Tensor, Tensor]:
    out, inside = torch.empty(x.shape, dtype=torch.float32), mask(trained, x.shape)
    run = _quantize_last if x.ndim == 2 else _quantize_rows
    run(x.numpy(), grid.numpy(), out.numpy(), inside.numpy())
    return out, inside


def scale_add_backward(grad: Tensor, inside: Tensor, u: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    to_y, to_u = torch.empty(u.shape, dtype=torch.float32), torch.empty(u.shape, dtype=torch.float32)
    to_d = torch.empty(u.shape[:2], dtype=torch.float64)
    arrays = (z.numpy() for z in (grad.contiguous(), inside, u, d, to_y, to_u, to_d))
    _scale_add_back(*arrays)
    return to_y, to_u, to_d.sum(0).float()


def combine(x: Tensor, y: Tensor, factors: Tensor, grid: Tensor, trained: bool) -> tuple[Tensor, Tensor]:
    out, inside = torch.empty(x.shape, dtype=torch.float32), mask(trained, x.shape)
    arrays = (z.numpy() for z in (x, y, factors, grid, out, inside))
    _combine(*arrays)
    return out, inside
