"""What happens between two grids on the CPU, one pass each (Numba), with gradients.

An activation on a grid has few values, so a function of it is a table: one read instead of an evaluation in
double precision, and the same code whatever the length of the vector. Gradients are straight-through: that of
the function where the output did not saturate, zero where it did. All arrays are contiguous.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from imc_ssm.fixedpoint import Format, spread

__all__ = ["Grid", "add_quantised", "gate", "linear", "look_up", "quantise", "scale_add_quantised"]

ROWS = 256
"""Rows that one task takes."""

Array = NDArray[Any]
f32 = np.float32
kernel = njit(parallel=True, cache=True, error_model="numpy")


class Grid:
    """A format's step and lowest and highest centred code per channel, (channels,) float32."""

    def __init__(self, fmt: Format, channels: int) -> None:
        parts = fmt.scale, fmt.low - fmt.zero_point, fmt.high - fmt.zero_point
        self.scale, self.low, self.high = (np.broadcast_to(v, channels).astype(f32) for v in parts)

    def round(self, x: Array) -> tuple[Array, Array]:
        """The nearest values of x (channels, ...) on the grid, float32, and where x lies inside it."""
        scale, low, high = (spread(v, x.ndim, 0) for v in (self.scale, self.low, self.high))
        nearest = np.rint(x.astype(f32) / scale)
        kept = np.clip(nearest, low, high)
        return kept * scale, nearest == kept

    def arrays(self) -> tuple[Array, Array, Array]:
        """(scale, low, high), as the kernels take them."""
        return self.scale, self.low, self.high


def _mask(wanted: bool, shape: tuple[int, ...]) -> Array:
    """Room for "did not saturate", or an empty array where no gradient is wanted."""
    return np.empty(shape if wanted else (0,) * len(shape), np.uint8)


@kernel
def _quantise_last(x: Array, grid: Any, out: Array, inside: Array) -> None:
    """x, out (row, channel)."""
    scale, low, high = grid
    rows, channels = x.shape
    for task in prange((rows + ROWS - 1) // ROWS):
        for r in range(task * ROWS, min(rows, (task + 1) * ROWS)):
            for c in range(channels):
                out[r, c] = min(max(np.rint(f32(x[r, c]) / scale[c]), low[c]), high[c]) * scale[c]
            if inside.size > 0:
                for c in range(channels):
                    q = np.rint(f32(x[r, c]) / scale[c])
                    inside[r, c] = (q >= low[c]) & (q <= high[c])


@kernel
def _quantise_rows(x: Array, grid: Any, out: Array, inside: Array) -> None:
    """x, out (outer, channel, inner)."""
    scale, low, high = grid
    outer, channels, inner = x.shape
    for row in prange(outer * channels):
        o, c = row // channels, row % channels
        s, lo, hi = scale[c], low[c], high[c]
        for t in range(inner):
            out[o, c, t] = min(max(np.rint(f32(x[o, c, t]) / s), lo), hi) * s
        if inside.size > 0:
            for t in range(inner):
                q = np.rint(f32(x[o, c, t]) / s)
                inside[o, c, t] = (q >= lo) & (q <= hi)


class _Quantise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid) -> Tensor:
        out = torch.empty(x.shape)
        inside = _mask(ctx.needs_input_grad[0], x.shape)
        run = _quantise_last if x.ndim == 2 else _quantise_rows
        run(x.detach().numpy(), grid.arrays(), out.numpy(), inside)
        ctx.inside = torch.from_numpy(inside)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.inside, None


def quantise(x: Tensor, fmt: Format, axis: int) -> Tensor:
    """scale clamp(round_half_even(x / scale), low, high) in single precision, channels on `axis`."""
    axis %= max(x.ndim, 1)
    if not fmt.scale.ndim:
        channels, flat = 1, x.reshape(1, 1, -1)
    elif axis == x.ndim - 1:
        channels, flat = x.shape[-1], x.reshape(-1, x.shape[-1])
    else:
        channels, flat = x.shape[axis], x.reshape(int(np.prod(x.shape[:axis])), x.shape[axis], -1)
    flat = flat.contiguous()
    out: Tensor = _Quantise.apply(flat, Grid(fmt, channels))  # type: ignore[no-untyped-call]
    return out.reshape(x.shape)


@kernel
def _scale_add(y: Array, u: Array, d: Array, grid: Any, out: Array, inside: Array) -> None:
    """y + d u (batch, head, time) on the grid."""
    scale, low, high = grid
    batch, heads, time = y.shape
    for row in prange(batch * heads):
        b, h = row // heads, row % heads
        s, lo, hi, k = scale[h], low[h], high[h], d[h]
        for t in range(time):
            out[b, h, t] = min(max(np.rint((y[b, h, t] + k * u[b, h, t]) / s), lo), hi) * s
        if inside.size > 0:
            for t in range(time):
                q = np.rint((y[b, h, t] + k * u[b, h, t]) / s)
                inside[b, h, t] = (q >= lo) & (q <= hi)


@kernel
def _scale_add_back(grad: Array, inside: Array, u: Array, d: Array, to_y: Array, to_u: Array, to_d: Array) -> None:
    batch, heads, time = grad.shape
    for row in prange(batch * heads):
        b, h = row // heads, row % heads
        total = 0.0
        for t in range(time):
            g = grad[b, h, t] * f32(inside[b, h, t])
            to_y[b, h, t] = g
            to_u[b, h, t] = g * d[h]
        for t in range(time):
            total += to_y[b, h, t] * u[b, h, t]
        to_d[b, h] = total


class _ScaleAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, u: Tensor, d: Tensor, grid: Grid) -> Tensor:
        out = torch.empty(y.shape)
        inside = _mask(any(ctx.needs_input_grad), y.shape)
        arrays = (z.detach().numpy() for z in (y, u, d))
        _scale_add(*arrays, grid.arrays(), out.numpy(), inside)
        ctx.save_for_backward(u, d)
        ctx.inside = inside
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, d = ctx.saved_tensors
        to_y, to_u = torch.empty(u.shape), torch.empty(u.shape)
        to_d = torch.empty(u.shape[:2], dtype=torch.float64)
        arrays = (z.numpy() for z in (u, d, to_y, to_u, to_d))
        _scale_add_back(grads[0].contiguous().numpy(), ctx.inside, *arrays)
        return to_y, to_u, to_d.sum(0).float(), None


def scale_add_quantised(y: Tensor, u: Tensor, d: Tensor, fmt: Format) -> Tensor:
    """y + d u on the format's grid, in single precision; y, u (batch, head, time), d (head,)."""
    out: Tensor = _ScaleAdd.apply(y.contiguous(), u.contiguous(), d, Grid(fmt, len(d)))  # type: ignore[no-untyped-call]
    return out


@njit(forceinline=True, error_model="numpy")
def _entry(x: Any, scale: Any, low: Any, entries: int) -> Any:
    """The place of x's code in a table; a value beyond the grid reads the table's end."""
    return min(max(np.int32(np.rint(x / scale) - low), 0), entries - 1)


@kernel
def _look_up(x: Array, scale: Array, low: Array, table: Array, out: Array) -> None:
    """out[b, t, h] = table[h, code of x[b, h, t]]: from heads before time to time before heads."""
    batch, heads, time = x.shape
    block = 64
    pieces = (time + block - 1) // block
    for task in prange(batch * pieces):
        b, first = task // pieces, (task % pieces) * block
        for h in range(heads):
            s, lo = scale[h], low[h]
            for t in range(first, min(first + block, time)):
                out[b, t, h] = table[h, _entry(x[b, h, t], s, lo, table.shape[1])]


@kernel
def _look_up_back(grad: Array, x: Array, scale: Array, low: Array, slope: Array, to_x: Array) -> None:
    batch, heads, time = x.shape
    block = 64
    pieces = (time + block - 1) // block
    for task in prange(batch * pieces):
        b, first = task // pieces, (task % pieces) * block
        for h in range(heads):
            s, lo = scale[h], low[h]
            for t in range(first, min(first + block, time)):
                to_x[b, h, t] = grad[b, t, h] * slope[h, _entry(x[b, h, t], s, lo, slope.shape[1])]


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid, table: Array, slope: Array) -> Tensor:
        batch, heads, time = x.shape
        out = torch.empty(batch, time, heads)
        _look_up(x.detach().numpy(), grid.scale, grid.low, table, out.numpy())
        ctx.save_for_backward(x)
        ctx.grid, ctx.slope = grid, slope
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        to_x = torch.empty(x.shape)
        grad = grads[0].contiguous().numpy()
        _look_up_back(grad, x.numpy(), ctx.grid.scale, ctx.grid.low, ctx.slope, to_x.numpy())
        return to_x, None, None, None


def look_up(x: Tensor, grid: Grid, table: Array, slope: Array) -> Tensor:
    """table[h, code of x] for x (batch, time, head) on the grid; `slope` is the table of the derivative.

    table, slope (head, codes) float32, from the lowest code upwards. x is best stored with heads before time.
    """
    heads_first = x.transpose(1, 2).contiguous()
    out: Tensor = _LookUp.apply(heads_first, grid, table, slope)  # type: ignore[no-untyped-call]
    return out


@kernel
def _gate(x: Array, scale: Array, low: Array, table: Array, grid: Any, out: Array, inside: Array) -> None:
    """out = x[:, h] table[h, code of x[:, heads + h]] on the grid; x (row, 2 heads)."""
    step, least, most = grid
    rows, heads = out.shape
    for task in prange((rows + ROWS - 1) // ROWS):
        for r in range(task * ROWS, min(rows, (task + 1) * ROWS)):
            for h in range(heads):
                index = _entry(x[r, heads + h], scale[h], low[h], table.shape[1])
                q = np.rint(f32(x[r, h] * table[h, index]) / step[h])
                k = min(max(q, least[h]), most[h])
                out[r, h] = k * step[h]
                if inside.size > 0:
                    inside[r, h] = q == k


@kernel
def _gate_back(
    grad: Array, inside: Array, x: Array, scale: Array, low: Array, table: Array, slope: Array, to_x: Array
) -> None:
    rows, heads = grad.shape
    for task in prange((rows + ROWS - 1) // ROWS):
        for r in range(task * ROWS, min(rows, (task + 1) * ROWS)):
            for h in range(heads):
                g = grad[r, h] * f32(inside[r, h])
                index = _entry(x[r, heads + h], scale[h], low[h], table.shape[1])
                to_x[r, h] = g * f32(table[h, index])
                to_x[r, heads + h] = g * x[r, h] * slope[h, index]


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Grid, table: Array, slope: Array, grid: Grid) -> Tensor:
        rows, heads = x.shape[0], x.shape[1] // 2
        out = torch.empty(rows, heads)
        inside = _mask(ctx.needs_input_grad[0], (rows, heads))
        low, scale = source.low[heads:], source.scale[heads:]
        _gate(x.detach().numpy(), scale, low, table, grid.arrays(), out.numpy(), inside)
        ctx.save_for_backward(x)
        ctx.rest = inside, scale, low, table, slope
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        inside, *rest = ctx.rest
        to_x = torch.empty(x.shape)
        _gate_back(grads[0].contiguous().numpy(), inside, x.numpy(), *rest, to_x.numpy())
        return to_x, None, None, None, None


def gate(x: Tensor, source: Grid, table: Array, slope: Array, fmt: Format) -> Tensor:
    """x_1 f(x_2) on the format's grid, for x (..., 2 heads) on the grid `source` and f given as a table.

    table float64 and slope float32, (head, codes), from the lowest code of x_2 upwards; the product is rounded to
    single precision before it is quantised.
    """
    flat = x.contiguous().reshape(-1, x.shape[-1])
    out: Tensor = _Gate.apply(flat, source, table, slope, Grid(fmt, x.shape[-1] // 2))  # type: ignore[no-untyped-call]
    return out.reshape(*x.shape[:-1], -1)


@kernel
def _add(x: Array, y: Array, grid: Any, out: Array, inside: Array) -> None:
    scale, low, high = grid
    rows, channels = x.shape
    for task in prange((rows + ROWS - 1) // ROWS):
        for r in range(task * ROWS, min(rows, (task + 1) * ROWS)):
            for c in range(channels):
                out[r, c] = min(max(np.rint((x[r, c] + y[r, c]) / scale[c]), low[c]), high[c]) * scale[c]
            if inside.size > 0:
                for c in range(channels):
                    q = np.rint((x[r, c] + y[r, c]) / scale[c])
                    inside[r, c] = (q >= low[c]) & (q <= high[c])


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, grid: Grid) -> Tensor:
        out = torch.empty(x.shape)
        inside = _mask(any(ctx.needs_input_grad), x.shape)
        _add(x.detach().numpy(), y.detach().numpy(), grid.arrays(), out.numpy(), inside)
        ctx.inside = torch.from_numpy(inside)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        both = grads[0] * ctx.inside
        return both, both, None


def add_quantised(x: Tensor, y: Tensor, fmt: Format) -> Tensor:
    """x + y (..., channels) on the format's grid; the sum of two floats is rounded once."""
    flat = [z.contiguous().reshape(-1, x.shape[-1]) for z in (x, y)]
    out: Tensor = _Add.apply(*flat, Grid(fmt, x.shape[-1]))  # type: ignore[no-untyped-call]
    return out.reshape(x.shape)


@kernel
def _linear(x: Array, weight: Array, bias: Array, out: Array) -> None:
    """x (row, inputs) times weight (inputs, outputs) float64 plus bias, summed in order of the inputs."""
    rows, inputs = x.shape
    outputs = weight.shape[1]
    for task in prange((rows + ROWS - 1) // ROWS):
        total = np.empty(outputs, np.float64)
        for r in range(task * ROWS, min(rows, (task + 1) * ROWS)):
            total[:] = bias
            for i in range(inputs):
                v = np.float64(x[r, i])
                for o in range(outputs):
                    total[o] += v * weight[i, o]
            out[r] = total


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = torch.empty(x.shape[0], weight.shape[0])
        turned = weight.detach().double().T.contiguous().numpy()
        _linear(x.detach().numpy(), turned, bias.detach().double().numpy(), out.numpy())
        ctx.save_for_backward(x, weight)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0]
        to_x = grad @ weight if ctx.needs_input_grad[0] else None
        return to_x, grad.T @ x, grad.sum(0)


SMALL = 2048
"""Weights up to which the loop beats a conversion to double precision and a matrix product."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b in double precision, rounded once to single: x (..., inputs), weight (outputs, inputs)."""
    if weight.numel() > SMALL:
        wide = None if bias is None else bias.double()
        return torch.nn.functional.linear(x.double(), weight.double(), wide).to(x.dtype)
    flat = x.contiguous().reshape(-1, x.shape[-1])
    start = weight.new_zeros(len(weight)) if bias is None else bias
    out: Tensor = _Linear.apply(flat, weight, start)  # type: ignore[no-untyped-call]
    return out.reshape(*x.shape[:-1], -1)
