"""Functions that are tables, on the CPU (Numba): look-up and gate.

An activation on a grid has few values, so a function of it is a table: one read instead of an evaluation in
double precision, and the same code whatever the length of the vector. Arrays are rows, (batch, channel, time); a
grid is (3, channel): step, lowest and highest centred code.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from imc_ssm.kernels.compiling import compiled, kernel
from imc_ssm.kernels.grid import Array
from imc_ssm.kernels.pointwise import clip_row, f32, mask

__all__ = ["gate", "gate_backward", "look_up", "look_up_backward"]


@compiled
def _places(x: Array, scale: float, low: float, entries: int, places: Array) -> None:
    """The places of x's codes in a table; a value beyond the grid reads the table's end."""
    last = f32(entries - 1)
    for t in range(len(x)):
        q = np.int32(min(max(np.rint(x[t] / scale) - low, f32(0)), last))
        places[t] = min(max(q, 0), entries - 1)  # whatever is not a number becomes a place all the same


@kernel
def _look_up(x: Array, source: Array, table: Array, out: Array) -> None:
    """out = table[h, code of x], (batch, head, time)."""
    batch, heads, time = x.shape
    for row in prange(batch * heads):
        b, h = row // heads, row % heads
        places = np.empty(time, np.int32)
        _places(x[b, h], source[0, h], source[1, h], table.shape[1], places)
        own, to = table[h], out[b, h]
        for t in range(time):
            to[t] = own[places[t]]


@kernel
def _look_up_back(grad: Array, x: Array, source: Array, slope: Array, to_x: Array) -> None:
    batch, heads, time = x.shape
    for row in prange(batch * heads):
        b, h = row // heads, row % heads
        places = np.empty(time, np.int32)
        _places(x[b, h], source[0, h], source[1, h], slope.shape[1], places)
        own, given, to = slope[h], grad[b, h], to_x[b, h]
        for t in range(time):
            to[t] = given[t] * own[places[t]]


@kernel
def _gate(x: Array, source: Array, table: Array, grid: Array, out: Array, inside: Array) -> None:
    """out = round(code of x[h] table[h, code of x[heads + h]]) on the grid; x (batch, 2 heads, time).

    The table holds integers times a power of two.
    """
    step, least, most = grid[0], grid[1], grid[2]
    batch, heads, time = out.shape
    for row in prange(batch * heads):
        b, h = row // heads, row % heads
        places, codes = np.empty(time, np.int32), np.empty(time, np.float64)
        _places(x[b, heads + h], source[0, heads + h], source[1, heads + h], table.shape[1], places)
        own, value, per = table[h], x[b, h], f32(1) / source[0, h]
        for t in range(time):
            codes[t] = own[places[t]]
        for t in range(time):
            codes[t] = np.rint(np.float64(np.rint(value[t] * per)) * codes[t])
        free = inside[b, h] if inside.size > 0 else inside[:0, 0, 0]
        clip_row(codes, step[h], np.float64(least[h]), np.float64(most[h]), out[b, h], free)


@kernel
def _gate_back(
    grad: Array, inside: Array, x: Array, source: Array, table: Array, slope: Array, to_x: Array
) -> None:
    batch, heads, time = grad.shape
    for row in prange(batch * heads):
        b, h = row // heads, row % heads
        places, one, two = np.empty(time, np.int32), np.empty(time, f32), np.empty(time, f32)
        _places(x[b, heads + h], source[0, heads + h], source[1, heads + h], table.shape[1], places)
        own, rise, value = table[h], slope[h], x[b, h]
        for t in range(time):
            one[t] = own[places[t]]
        for t in range(time):
            two[t] = rise[places[t]]
        given, free, to, other = grad[b, h], inside[b, h], to_x[b, h], to_x[b, heads + h]
        for t in range(time):
            g = given[t] * f32(free[t])
            to[t] = g * one[t]
            other[t] = g * value[t] * two[t]


def look_up(x: Tensor, source: Tensor, table: Tensor) -> Tensor:
    out = torch.empty(x.shape, dtype=torch.float32)
    _look_up(x.numpy(), source.numpy(), table.numpy(), out.numpy())
    return out


def look_up_backward(grad: Tensor, x: Tensor, source: Tensor, slope: Tensor) -> Tensor:
    to_x = torch.empty(x.shape, dtype=torch.float32)
    _look_up_back(grad.contiguous().numpy(), x.numpy(), source.numpy(), slope.numpy(), to_x.numpy())
    return to_x


def gate(x: Tensor, source: Tensor, table: Tensor, grid: Tensor, trained: bool) -> tuple[Tensor, Tensor]:
    out = torch.empty(len(x), len(table), x.shape[2], dtype=torch.float32)
    inside = mask(trained, out.shape)
    _gate(x.numpy(), source.numpy(), table.numpy(), grid.numpy(), out.numpy(), inside.numpy())
    return out, inside


def gate_backward(grad: Tensor, inside: Tensor, x: Tensor, source: Tensor, table: Tensor, slope: Tensor) -> Tensor:
    to_x = torch.empty(x.shape, dtype=torch.float32)
    arrays = (z.numpy() for z in (grad.contiguous(), inside, x, source, table, slope, to_x))
    _gate_back(*arrays)
    return to_x
