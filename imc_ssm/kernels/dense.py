"""Sums of a quantized model on the CPU, in double precision and in one order: matrices, and sums over time.

Between two grids the summands are integers, or integers times one power of two, and their sums fit 53 bits: no sum
is rounded, whatever its order. A product of two single-precision numbers is exact in double precision; what is
rounded at the end of their sums does not depend on how a batch is cut.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from imc_ssm.kernels.compiling import compiled, kernel
from imc_ssm.kernels.grid import Array
from imc_ssm.kernels.pointwise import clip_row, f32, mask, masked, round_row
from imc_ssm.kernels.vector import LANES, broadcast, fma, load, narrow, pointer, rint, splat, store, wide

__all__ = ["linear", "linear_backward", "linear_codes", "mean", "mean_backward"]
__all__ += ["packed", "sums"]

WIDE = 4
"""Outputs that are summed at a time: their sums stay in registers."""
CHUNK = 16
"""Tiles that one task takes."""
NO_GRID, NO_SOURCE = np.zeros((3, 0), f32), np.zeros((2, 0))
"""What there is no grid for."""
LARGE = 1 << 14
"""Weights from which the gradients' sums leave the cache, and a matrix product takes them."""


TILE = 256
"""Time steps whose sums are in cache at a time; a multiple of LANES."""


@compiled
def _product(x: Array, steps: int, weight: Array, bias: Array, whole: bool, out: Array) -> None:
    """Sums in double precision of x (inputs, TILE) float64, to integers if `whole`: out (outputs, TILE) float32.

    weight (outputs / WIDE, inputs, WIDE) and bias (outputs,) float64; every sum starts from its bias and takes the
    inputs in order.
    """
    groups, inputs, _ = weight.shape
    source, w, first, to = pointer(x), pointer(weight), pointer(bias), pointer(out)
    for t in range(0, steps, LANES):
        for g in range(groups):
            o = g * WIDE
            s0, s1, s2, s3 = splat(first, o), splat(first, o + 1), splat(first, o + 2), splat(first, o + 3)
            for i in range(inputs):
                v, p = load(source, i * TILE + t), (g * inputs + i) * WIDE
                s0, s1 = fma(splat(w, p), v, s0), fma(splat(w, p + 1), v, s1)
                s2, s3 = fma(splat(w, p + 2), v, s2), fma(splat(w, p + 3), v, s3)
            if whole:
                s0, s1, s2, s3 = rint(s0), rint(s1), rint(s2), rint(s3)
            store(to, o * TILE + t, narrow(s0))
            store(to, (o + 1) * TILE + t, narrow(s1))
            store(to, (o + 2) * TILE + t, narrow(s2))
            store(to, (o + 3) * TILE + t, narrow(s3))


@kernel
def _linear(x: Array, source: Array, weight: Array, bias: Array, grid: Array, out: Array, inside: Array) -> None:
    """x (batch, inputs, time) to out (batch, outputs, time), on the grid, where it is not empty.

    Where `source` (2, inputs) is not empty the sums are of x's codes: reciprocal steps, and what brings the codes
    to one unit; weights and bias are such that the sums are the output's codes then.
    """
    scale, low, high = grid[0], grid[1], grid[2]
    batch, inputs, time = x.shape
    outputs, pieces = out.shape[1], (time + TILE - 1) // TILE
    chunks = (batch * pieces + CHUNK - 1) // CHUNK
    codes, rounded = source.size > 0, grid.size > 0
    for chunk in prange(chunks):
        room, sums = np.zeros((inputs, TILE), np.float64), np.empty((len(bias), TILE), f32)
        for task in range(np.int64(chunk) * CHUNK, min((np.int64(chunk) + 1) * CHUNK, batch * pieces)):
            b, start = task // pieces, (task % pieces) * TILE
            end = min(start + TILE, time)
            for i in range(inputs):
                given, to = x[b, i, start:end], room[i]
                if codes:
                    per, align = f32(source[0, i]), source[1, i]
                    for t in range(len(given)):
                        to[t] = np.rint(np.float64(np.rint(given[t] * per)) * align)
                else:
                    for t in range(len(given)):
                        to[t] = given[t]
            _product(room, end - start, weight, bias, codes and rounded, sums)
            for o in range(outputs):
                if rounded:
                    free = inside[b, o, start:end] if inside.size > 0 else inside[:0, 0, 0]
                    if codes:
                        clip_row(sums[o, : end - start], scale[o], low[o], high[o], out[b, o, start:end], free)
                    else:
                        round_row(sums[o, : end - start], scale[o], low[o], high[o], out[b, o, start:end], free)
                else:
                    out[b, o, start:end] = sums[o, : end - start]


CHUNKS = 8
"""The batch is split into as many chunks, whose gradients of the weights are summed in order."""


@compiled
def _to_inputs(grad: Array, steps: int, weight: Array, out: Array) -> None:
    """Sums over the outputs, single precision: grad (outputs, TILE), weight (inputs / WIDE, outputs, WIDE)."""
    groups, outputs, _ = weight.shape
    source, w, to, none = pointer(grad), pointer(weight), pointer(out), broadcast(f32(0))
    for t in range(0, steps, LANES):
        for g in range(groups):
            s0, s1, s2, s3 = none, none, none, none
            for o in range(outputs):
                v, p = load(source, o * TILE + t), (g * outputs + o) * WIDE
                s0, s1 = fma(splat(w, p), v, s0), fma(splat(w, p + 1), v, s1)
                s2, s3 = fma(splat(w, p + 2), v, s2), fma(splat(w, p + 3), v, s3)
            i = g * WIDE
            store(to, i * TILE + t, s0)
            store(to, (i + 1) * TILE + t, s1)
            store(to, (i + 2) * TILE + t, s2)
            store(to, (i + 3) * TILE + t, s3)


@compiled
def _to_weights(grad: Array, x: Array, steps: int, sums: Array, total: Array) -> None:
    """LANES sums over time of grad (outputs, TILE) times x (inputs, TILE), added to sums (outputs, inputs, LANES);
    of grad alone, to total (outputs, LANES). What follows the steps is 0."""
    outputs, inputs, _ = sums.shape
    one, two, to, alone, none = pointer(grad), pointer(x), pointer(sums), pointer(total), broadcast(f32(0))
    for o in range(outputs):
        a0 = load(alone, o * LANES)
        for t in range(0, steps, LANES):
            a0 = a0 + load(one, o * TILE + t)
        store(alone, o * LANES, a0)
    for o in range(0, outputs, 2):
        for i in range(0, inputs, WIDE):
            a0, a1, a2, a3, b0, b1, b2, b3 = none, none, none, none, none, none, none, none
            for t in range(0, steps, LANES):
                a, b = load(one, o * TILE + t), load(one, (o + 1) * TILE + t)
                v = load(two, i * TILE + t)
                a0, b0 = fma(a, v, a0), fma(b, v, b0)
                v = load(two, (i + 1) * TILE + t)
                a1, b1 = fma(a, v, a1), fma(b, v, b1)
                v = load(two, (i + 2) * TILE + t)
                a2, b2 = fma(a, v, a2), fma(b, v, b2)
                v = load(two, (i + 3) * TILE + t)
                a3, b3 = fma(a, v, a3), fma(b, v, b3)
            p, q = (o * inputs + i) * LANES, ((o + 1) * inputs + i) * LANES
            store(to, p, load(to, p) + a0)
            store(to, p + LANES, load(to, p + LANES) + a1)
            store(to, p + 2 * LANES, load(to, p + 2 * LANES) + a2)
            store(to, p + 3 * LANES, load(to, p + 3 * LANES) + a3)
            store(to, q, load(to, q) + b0)
            store(to, q + LANES, load(to, q + LANES) + b1)
            store(to, q + 2 * LANES, load(to, q + 2 * LANES) + b2)
            store(to, q + 3 * LANES, load(to, q + 3 * LANES) + b3)


@kernel
def _linear_back(
    grad: Array, inside: Array, x: Array, weight: Array, to_x: Array, to_weight: Array, to_bias: Array
) -> None:
    """to_x (batch, inputs, time), unless empty; sums per chunk, to_weight (chunk, outputs, inputs), to_bias."""
    batch, outputs, time = grad.shape
    inputs, filled = x.shape[1], weight.shape[0] * WIDE
    for item in prange(CHUNKS):
        chunk = np.int64(item)
        part, signal = np.zeros((weight.shape[1], TILE), f32), np.zeros((filled, TILE), f32)
        sums, back = np.zeros((weight.shape[1], filled, LANES), f32), np.empty((filled, TILE), f32)
        total = np.zeros((weight.shape[1], LANES), f32)
        for b in range(batch * chunk // CHUNKS, batch * (chunk + 1) // CHUNKS):
            for start in range(0, time, TILE):
                steps = min(TILE, time - start)
                for o in range(outputs):
                    source, to = grad[b, o, start : start + steps], part[o]
                    to[steps:] = 0
                    if inside.size > 0:
                        free = inside[b, o, start : start + steps]
                        for t in range(len(source)):
                            to[t] = source[t] * f32(free[t])
                    else:
                        to[:steps] = source
                for i in range(inputs):
                    signal[i, :steps], signal[i, steps:] = x[b, i, start : start + steps], f32(0)
                if to_x.size > 0:
                    _to_inputs(part, steps, weight, back)
                    for i in range(inputs):
                        to_x[b, i, start : start + steps] = back[i, :steps]
                _to_weights(part, signal, steps, sums, total)
        for o in range(outputs):
            to_bias[chunk, o] = total[o].sum()
            for i in range(inputs):
                to_weight[chunk, o, i] = sums[o, i].sum()


def packed(weight: Array, dtype: type, even: int = 1) -> Array:
    """weight (outputs, inputs) as (outputs / WIDE, inputs, WIDE), filled up with zeros, inputs to `even`."""
    outputs, inputs = weight.shape
    full = np.zeros((-(-outputs // WIDE) * WIDE, -(-inputs // even) * even), dtype)
    full[:outputs, :inputs] = weight
    return np.ascontiguousarray(full.reshape(-1, WIDE, full.shape[1]).transpose(0, 2, 1))


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, grid: Tensor | None, trained: bool
) -> tuple[Tensor, Tensor]:
    filled = packed(weight.numpy(), np.float64)
    start = np.zeros(len(filled) * WIDE)
    if bias is not None:
        start[: len(bias)] = bias.numpy()
    out = torch.empty(x.shape[0], len(weight), x.shape[2], dtype=torch.float32)
    inside = mask(grid is not None and trained, out.shape)
    steps = NO_GRID if grid is None else grid.numpy()
    _linear(x.numpy(), NO_SOURCE, filled, start, steps, out.numpy(), inside.numpy())
    return out, inside


def linear_codes(
    x: Tensor, source: Tensor, weight: Tensor, bias: Tensor, grid: Tensor | None, trained: bool
) -> tuple[Tensor, Tensor]:
    start = np.zeros(len(weight) * WIDE)
    start[: len(bias)] = bias.numpy()
    out = torch.empty(x.shape[0], len(bias), x.shape[2], dtype=torch.float32)
    inside = mask(grid is not None and trained, out.shape)
    steps = NO_GRID if grid is None else grid.numpy()
    _linear(x.numpy(), source.numpy(), weight.numpy(), start, steps, out.numpy(), inside.numpy())
    return out, inside


def linear_backward(
    grad: Tensor, inside: Tensor, x: Tensor, weight: Tensor, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    outputs, inputs = weight.shape
    grad = grad.contiguous()
    if weight.numel() > LARGE:
        grad = masked(grad, inside) if inside.numel() else grad
        to_x = (
            torch.bmm(weight.T.expand(len(grad), -1, -1), grad) if wanted else torch.empty(0, dtype=torch.float32)
        )
        return to_x, torch.bmm(grad, x.transpose(1, 2)).sum(0), grad.sum((0, 2))
    to_x = torch.empty(x.shape if wanted else (0, 0, 0), dtype=torch.float32)
    parts = (
        torch.zeros(CHUNKS, outputs, inputs, dtype=torch.float32),
        torch.zeros(CHUNKS, outputs, dtype=torch.float32),
    )
    filled = packed(weight.numpy().T, f32, even=2)
    arrays = (z.numpy() for z in (to_x, *parts))
    _linear_back(grad.numpy(), inside.numpy(), x.numpy(), filled, *arrays)
    return to_x, parts[0].sum(0), parts[1].sum(0)


@kernel
def _mean(x: Array, ends: Array, out: Array) -> None:
    """The mean of the first `ends` steps of x (batch, channel, time), (batch, channel) float64."""
    batch, channels, time = x.shape
    for row in prange(batch * channels):
        b, c = row // channels, row % channels
        parts, steps = np.zeros(8, np.float64), np.int64(min(ends[b], time))
        for start in range(0, steps - 7, 8):
            for i in range(8):
                parts[i] += x[b, c, start + i]
        for t in range(steps - steps % 8, steps):
            parts[t % 8] += x[b, c, t]
        out[b, c] = parts.sum() / ends[b]


@compiled
def _code_sums(x: Array, per: float, sums: Array) -> None:
    """LANES sums of the codes of x, float64; what is left over is not taken."""
    source, total, reciprocal = pointer(x), broadcast(0.0), broadcast(f32(per))
    for t in range(0, len(x) - LANES + 1, LANES):
        total = total + wide(rint(load(source, t) * reciprocal))
    store(pointer(sums), 0, total)


@kernel
def _sums(x: Array, source: Array, ends: Array, out: Array) -> None:
    """The sum of the codes of the first `ends` steps of x (batch, channel, time), (batch, channel) float64."""
    batch, channels, time = x.shape
    for row in prange(batch * channels):
        b, c = row // channels, row % channels
        per, total, given = f32(1) / source[0, c], 0.0, x[b, c, : min(ends[b], time)]
        parts = np.empty(LANES, np.float64)
        _code_sums(given, per, parts)
        for t in range(len(given) - len(given) % LANES, len(given)):
            total += np.float64(np.rint(given[t] * per))
        out[b, c] = total + parts.sum()


@kernel
def _mean_back(grad: Array, ends: Array, to_x: Array) -> None:
    batch, channels, time = to_x.shape
    for row in prange(batch * channels):
        b, c = row // channels, row % channels
        each, steps = f32(grad[b, c] / ends[b]), np.int64(min(ends[b], time))
        to_x[b, c, :steps] = each
        to_x[b, c, steps:] = 0


def mean(x: Tensor, ends: Tensor) -> Tensor:
    out = torch.empty(x.shape[:2], dtype=torch.float64)
    _mean(x.numpy(), ends.numpy(), out.numpy())
    return out


def sums(x: Tensor, source: Tensor, ends: Tensor) -> Tensor:
    out = torch.empty(x.shape[:2], dtype=torch.float64)
    _sums(x.numpy(), source.numpy(), ends.numpy(), out.numpy())
    return out


def mean_backward(grad: Tensor, ends: Tensor, time: int) -> Tensor:
    to_x = torch.empty(*grad.shape, time, dtype=torch.float32)
    _mean_back(grad.contiguous().numpy(), ends.numpy(), to_x.numpy())
    return to_x
