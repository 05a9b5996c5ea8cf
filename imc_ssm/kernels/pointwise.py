"""What happens between two grids on the CPU, one pass each (Numba), with gradients.

An activation on a grid has few values, so a function of it is a table: one read instead of an evaluation in
double precision, and the same code whatever the length of the vector. Gradients are straight-through: that of
the function where the output did not saturate, zero where it did.

Activations are (batch, time, channel), and lie in memory as rows, (batch, channel, time): one format and one table
per row, and the order in which the recurrence reads and writes. So nothing is transposed between two operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from imc_ssm.fixedpoint import Format, broadcast_heads
from imc_ssm.kernels.vector import LANES, broadcast, fma, load, pointer, store, wide

__all__ = ["Array", "Grid", "add", "from_rows", "gate", "look_up", "quantize", "rows_of"]
__all__ += ["scale_add"]

BLOCK = 256
"""Numbers of a row that are worked on at a time."""

Array = NDArray[Any]
f32 = np.float32


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function whose `prange` loops run on all threads."""
    made: Callable[..., Any] = njit(parallel=True, cache=True, error_model="numpy")(function)
    return made


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a part of a kernel."""
    made: Callable[..., Any] = njit(cache=True, error_model="numpy")(function)
    return made


class Grid:
    """A format's step and lowest and highest centred code per channel, (channels,) float32."""

    def __init__(self, fmt: Format, channels: int) -> None:
        parts = fmt.scale, fmt.low - fmt.zero_point, fmt.high - fmt.zero_point
        self.scale, self.low, self.high = (np.broadcast_to(v.ravel(), channels).astype(f32) for v in parts)

    def round(self, x: Array) -> tuple[Array, Array]:
        """The nearest values of x (channels, ...) on the grid, float32, and where x lies inside it."""
        scale, low, high = (broadcast_heads(v, x.ndim, 0) for v in (self.scale, self.low, self.high))
        nearest = np.rint(x.astype(f32) / scale)
        kept = np.clip(nearest, low, high)
        return kept * scale, nearest == kept

    def arrays(self) -> tuple[Array, Array, Array]:
        """(scale, low, high), as the kernels take them."""
        return self.scale, self.low, self.high


def rows_of(x: Tensor) -> Tensor:
    """x (batch, time, channel) as contiguous rows (batch, channel, time): no copy where it lies so in memory.

    Any other number of axes before the channels counts as time of one sequence.
    """
    whole = x if x.ndim == 3 else x.reshape(1, -1, x.shape[-1])
    return whole.transpose(1, 2).contiguous()


def from_rows(rows: Tensor, shape: torch.Size) -> Tensor:
    """Rows (batch, channel, time) as the activation they are, all axes but the channels from `shape`."""
    return rows.transpose(1, 2).reshape(*shape[:-1], rows.shape[1])


def mask(wanted: bool, shape: tuple[int, ...]) -> Array:
    """Room for "did not saturate", or an empty array where no gradient is wanted."""
    return np.empty(shape if wanted else (0,) * len(shape), np.uint8)


@kernel
def _quantize_last(x: Array, grid: Any, out: Array, inside: Array) -> None:
    """x, out (row, channel)."""
    scale, low, high = grid
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
def _quantize_rows(x: Array, grid: Any, out: Array, inside: Array) -> None:
    """x, out (outer, channel, inner)."""
    scale, low, high = grid
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


def masked(grad: Tensor, inside: Array) -> Tensor:
    """The gradient where `inside` is 1, 0 where it is 0."""
    grad = grad.contiguous()
    out = torch.empty(grad.shape)
    rows = (-1, grad.shape[-1])
    _masked(grad.numpy().reshape(rows), inside.reshape(rows), out.numpy().reshape(rows))
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


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid) -> Tensor:
        out = torch.empty(x.shape)
        inside = mask(ctx.needs_input_grad[0], x.shape)
        run = _quantize_last if x.ndim == 2 else _quantize_rows
        run(x.detach().numpy(), grid.arrays(), out.numpy(), inside)
        ctx.inside = inside
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return masked(grads[0], ctx.inside), None


def quantize(x: Tensor, fmt: Format, axis: int) -> Tensor:
    """scale clamp(round_half_even(x / scale), low, high) in single precision, channels on `axis`.

    A format per state takes the next axis as well. The result lies in memory as x does.
    """
    axis %= max(x.ndim, 1)
    if x.ndim == 3 and axis == 2 and not x.is_contiguous():
        return quantize(x.transpose(1, 2), fmt, 1).transpose(1, 2)
    if not fmt.scale.ndim:
        flat = x.reshape(1, 1, -1)
    else:
        end = axis + fmt.scale.ndim
        before = int(np.prod(x.shape[:axis]))
        flat = x.reshape(before, -1) if end == x.ndim else x.reshape(before, int(np.prod(x.shape[axis:end])), -1)
    grid = Grid(fmt, 1 if not fmt.scale.ndim else flat.shape[1])
    out: Tensor = _Quantize.apply(flat.contiguous(), grid)  # type: ignore[no-untyped-call]
    return out.reshape(x.shape)


@kernel
def _scale_add(y: Array, u: Array, d: Array, grid: Any, out: Array, inside: Array) -> None:
    """y + d u (batch, head, time) on the grid."""
    scale, low, high = grid
    batch, heads, time = y.shape
    for row in prange(batch * heads):
        b, h = row // heads, row % heads
        s, lo, hi, k = scale[h], low[h], high[h], d[h]
        if inside.size == 0:
            for t in range(time):
                out[b, h, t] = min(max(np.rint((y[b, h, t] + k * u[b, h, t]) / s), lo), hi) * s
        else:
            for t in range(time):
                q = np.rint((y[b, h, t] + k * u[b, h, t]) / s)
                out[b, h, t] = min(max(q, lo), hi) * s
                inside[b, h, t] = (q >= lo) & (q <= hi)


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


class _ScaleAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, u: Tensor, d: Tensor, grid: Grid) -> Tensor:
        out = torch.empty(y.shape)
        inside = mask(any(ctx.needs_input_grad), y.shape)
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


def scale_add(y: Tensor, u: Tensor, d: Tensor, fmt: Format) -> Tensor:
    """y + d u on the format's grid, in single precision; y, u (batch, head, time), d (head,)."""
    out: Tensor = _ScaleAdd.apply(y.contiguous(), u.contiguous(), d, Grid(fmt, len(d)))  # type: ignore[no-untyped-call]
    return out


@compiled
def _places(x: Array, scale: Any, low: Any, entries: int, places: Array) -> None:
    """The places of x's codes in a table; a value beyond the grid reads the table's end."""
    last = f32(entries - 1)
    for t in range(len(x)):
        q = np.int32(min(max(np.rint(x[t] / scale) - low, f32(0)), last))
        places[t] = min(max(q, 0), entries - 1)  # whatever is not a number becomes a place all the same


@kernel
def _look_up(x: Array, scale: Array, low: Array, table: Array, out: Array) -> None:
    """out = table[h, code of x], (batch, head, time)."""
    batch, heads, time = x.shape
    for row in prange(batch * heads):
        b, h = row // heads, row % heads
        places = np.empty(time, np.int32)
        _places(x[b, h], scale[h], low[h], table.shape[1], places)
        own, to = table[h], out[b, h]
        for t in range(time):
            to[t] = own[places[t]]


@kernel
def _look_up_back(grad: Array, x: Array, scale: Array, low: Array, slope: Array, to_x: Array) -> None:
    batch, heads, time = x.shape
    for row in prange(batch * heads):
        b, h = row // heads, row % heads
        places = np.empty(time, np.int32)
        _places(x[b, h], scale[h], low[h], slope.shape[1], places)
        own, source, to = slope[h], grad[b, h], to_x[b, h]
        for t in range(time):
            to[t] = source[t] * own[places[t]]


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid, table: Array, slope: Array) -> Tensor:
        out = torch.empty(x.shape)
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
    """table[h, code of x] for x (..., head) on the grid; `slope` is the table of the derivative.

    table, slope (head, codes) float32, from the lowest code upwards.
    """
    out: Tensor = _LookUp.apply(rows_of(x), grid, table, slope)  # type: ignore[no-untyped-call]
    return from_rows(out, x.shape)


@kernel
def _gate(x: Array, scale: Array, low: Array, table: Array, grid: Any, out: Array, inside: Array) -> None:
    """out = x[h] table[h, code of x[heads + h]] on the grid; x (batch, 2 heads, time)."""
    step, least, most = grid
    batch, heads, time = out.shape
    for row in prange(batch * heads):
        b, h = row // heads, row % heads
        places, factors, products = np.empty(time, np.int32), np.empty(time, np.float64), np.empty(time, f32)
        _places(x[b, heads + h], scale[h], low[h], table.shape[1], places)
        own, value = table[h], x[b, h]
        for t in range(time):
            factors[t] = own[places[t]]
        for t in range(time):
            products[t] = f32(value[t] * factors[t])
        free = inside[b, h] if inside.size > 0 else inside[:0, 0, 0]
        round_row(products, step[h], least[h], most[h], out[b, h], free)


@kernel
def _gate_back(
    grad: Array, inside: Array, x: Array, scale: Array, low: Array, table: Array, slope: Array, to_x: Array
) -> None:
    batch, heads, time = grad.shape
    for row in prange(batch * heads):
        b, h = row // heads, row % heads
        places, one, two = np.empty(time, np.int32), np.empty(time, f32), np.empty(time, f32)
        _places(x[b, heads + h], scale[h], low[h], table.shape[1], places)
        own, rise, value = table[h], slope[h], x[b, h]
        for t in range(time):
            one[t] = own[places[t]]
        for t in range(time):
            two[t] = rise[places[t]]
        source, free, to, other = grad[b, h], inside[b, h], to_x[b, h], to_x[b, heads + h]
        for t in range(time):
            g = source[t] * f32(free[t])
            to[t] = g * one[t]
            other[t] = g * value[t] * two[t]


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Grid, table: Array, slope: Array, grid: Grid) -> Tensor:
        batch, both, time = x.shape
        heads = both // 2
        out = torch.empty(batch, heads, time)
        inside = mask(ctx.needs_input_grad[0], (batch, heads, time))
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
    single precision before it is quantized.
    """
    grid = Grid(fmt, x.shape[-1] // 2)
    out: Tensor = _Gate.apply(rows_of(x), source, table, slope, grid)  # type: ignore[no-untyped-call]
    return from_rows(out, x.shape)


@kernel
def _add(x: Array, y: Array, grid: Any, out: Array, inside: Array) -> None:
    """x + y (batch, channel, time) on the grid."""
    scale, low, high = grid
    batch, channels, time = x.shape
    for row in prange(batch * channels):
        b, c = row // channels, row % channels
        s, lo, hi = scale[c], low[c], high[c]
        if inside.size == 0:
            for t in range(time):
                out[b, c, t] = min(max(np.rint((x[b, c, t] + y[b, c, t]) / s), lo), hi) * s
        else:
            for t in range(time):
                q = np.rint((x[b, c, t] + y[b, c, t]) / s)
                out[b, c, t] = min(max(q, lo), hi) * s
                inside[b, c, t] = (q >= lo) & (q <= hi)


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, grid: Grid) -> Tensor:
        out = torch.empty(x.shape)
        inside = mask(any(ctx.needs_input_grad), x.shape)
        _add(x.detach().numpy(), y.detach().numpy(), grid.arrays(), out.numpy(), inside)
        ctx.inside = inside
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        both = masked(grads[0], ctx.inside)
        return both, both, None


def add(x: Tensor, y: Tensor, fmt: Format) -> Tensor:
    """x + y (..., channels) on the format's grid; the sum of two floats is rounded once."""
    out: Tensor = _Add.apply(rows_of(x), rows_of(y), Grid(fmt, x.shape[-1]))  # type: ignore[no-untyped-call]
    return from_rows(out, x.shape)
