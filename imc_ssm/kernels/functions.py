"""What happens between two grids: operators with straight-through gradients, on any device.

The gradient is that of the function where the output did not saturate, zero where it did. Activations are (batch,
time, channel), and lie in memory as rows, (batch, channel, time): one format and one table per row, and the order
in which the recurrence reads and writes. So nothing is transposed between two operators.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from imc_ssm.fixedpoint import Format
from imc_ssm.kernels import dense, plain, pointwise, tables
from imc_ssm.kernels.grid import DeviceArray, Grid, from_rows, rows_of
from imc_ssm.kernels.operators import Pass

__all__ = ["add", "gate", "linear", "look_up", "mean", "quantize", "scale_add", "trained"]

QUANTIZE = Pass(
    "quantize(Tensor x, Tensor grid, bool trained) -> (Tensor, Tensor)", plain.quantize, pointwise.quantize
)
MASKED = Pass("masked(Tensor grad, Tensor inside) -> Tensor", plain.masked, pointwise.masked)
ADD = Pass("add(Tensor x, Tensor y, Tensor grid, bool trained) -> (Tensor, Tensor)", plain.add, pointwise.add)
SCALE_ADD = Pass(
    "scale_add(Tensor y, Tensor u, Tensor d, Tensor grid, bool trained) -> (Tensor, Tensor)",
    plain.scale_add,
    pointwise.scale_add,
)
SCALE_ADD_BACKWARD = Pass(
    "scale_add_backward(Tensor grad, Tensor inside, Tensor u, Tensor d) -> (Tensor, Tensor, Tensor)",
    plain.scale_add_backward,
    pointwise.scale_add_backward,
)
LOOK_UP = Pass("look_up(Tensor x, Tensor source, Tensor table) -> Tensor", plain.look_up, tables.look_up)
LOOK_UP_BACKWARD = Pass(
    "look_up_backward(Tensor grad, Tensor x, Tensor source, Tensor slope) -> Tensor",
    plain.look_up_backward,
    tables.look_up_backward,
)
GATE = Pass(
    "gate(Tensor x, Tensor source, Tensor table, Tensor grid, bool trained) -> (Tensor, Tensor)",
    plain.gate,
    tables.gate,
)
GATE_BACKWARD = Pass(
    "gate_backward(Tensor grad, Tensor inside, Tensor x, Tensor source, Tensor table, Tensor slope) -> Tensor",
    plain.gate_backward,
    tables.gate_backward,
)
LINEAR = Pass(
    "linear(Tensor x, Tensor weight, Tensor? bias, Tensor? grid, bool trained) -> (Tensor, Tensor)",
    plain.linear,
    dense.linear,
)
LINEAR_BACKWARD = Pass(
    "linear_backward(Tensor grad, Tensor inside, Tensor x, Tensor weight, bool wanted)"
    " -> (Tensor, Tensor, Tensor)",
    plain.linear_backward,
    dense.linear_backward,
)
MEAN = Pass("mean(Tensor x, Tensor ends) -> Tensor", plain.mean, dense.mean)
MEAN_BACKWARD = Pass(
    "mean_backward(Tensor grad, Tensor ends, int time) -> Tensor",
    plain.mean_backward,
    dense.mean_backward,
    dtype=torch.float64,
)


def trained(*inputs: Tensor | None) -> bool:
    """Whether a gradient is wanted of one of them."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        out, inside = QUANTIZE(x.detach(), grid, True)
        ctx.save_for_backward(inside)
        return torch.as_tensor(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return MASKED(grads[0], inside), None


def quantize(x: Tensor, fmt: Format, axis: int) -> Tensor:
    """scale clamp(round_half_even(x / scale), low, high), the quotient in x's precision, channels on `axis`.

    A format per state takes the next axis as well. The result lies in memory as x does.
    """
    axis %= max(x.ndim, 1)
    if x.ndim == 3 and axis == 2 and not x.is_contiguous():
        return quantize(x.transpose(1, 2), fmt, 1).transpose(1, 2)
    if not fmt.scale.ndim:
        flat = x.reshape(1, 1, -1)
    elif x.ndim == 2 and axis == 1:
        flat = x
    else:
        end = axis + fmt.scale.ndim
        before = math.prod(x.shape[:axis])
        flat = x.reshape(before, -1) if end == x.ndim else x.reshape(before, math.prod(x.shape[axis:end]), -1)
    grid = Grid.of(fmt, flat.shape[1]).on(x.device)
    flat = flat.contiguous()
    if trained(x):
        out: Tensor = _Quantize.apply(flat, grid)  # type: ignore[no-untyped-call]
    else:
        out = QUANTIZE(flat, grid, False)[0]
    return out if flat is x else out.reshape(x.shape)


class _ScaleAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, u: Tensor, d: Tensor, grid: Tensor) -> Tensor:
        out, inside = SCALE_ADD(y.detach(), u.detach(), d.detach(), grid, True)
        ctx.save_for_backward(inside, u, d)
        return torch.as_tensor(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *SCALE_ADD_BACKWARD(grads[0], *ctx.saved_tensors), None


def scale_add(y: Tensor, u: Tensor, d: Tensor, fmt: Format) -> Tensor:
    """y + d u on the format's grid, in single precision; y, u (batch, head, time), d (head,)."""
    grid, y, u = Grid.of(fmt, len(d)).on(y.device), y.contiguous(), u.contiguous()
    if trained(y, u, d):
        return torch.as_tensor(_ScaleAdd.apply(y, u, d, grid))  # type: ignore[no-untyped-call]
    return torch.as_tensor(SCALE_ADD(y, u, d, grid, False)[0])


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, table: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, source, slope)
        return torch.as_tensor(LOOK_UP(x.detach(), source, table))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return LOOK_UP_BACKWARD(grads[0], *ctx.saved_tensors), None, None, None


def look_up(x: Tensor, source: Grid, table: DeviceArray, slope: DeviceArray) -> Tensor:
    """table[h, code of x] for x (..., head) on the grid; `slope` is the table of the derivative.

    table, slope (head, codes) float32, from the lowest code upwards.
    """
    rows, grid, values = rows_of(x), source.on(x.device), table.on(x.device)
    if trained(x):
        out: Tensor = _LookUp.apply(rows, grid, values, slope.on(x.device))  # type: ignore[no-untyped-call]
    else:
        out = LOOK_UP(rows, grid, values)
    return from_rows(out, x.shape)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, table: Tensor, slope: Tensor, grid: Tensor) -> Tensor:
        out, inside = GATE(x.detach(), source, table, grid, True)
        ctx.save_for_backward(inside, x, source, table, slope)
        return torch.as_tensor(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return GATE_BACKWARD(grads[0], *ctx.saved_tensors), None, None, None, None


def gate(x: Tensor, source: Grid, table: DeviceArray, slope: DeviceArray, fmt: Format) -> Tensor:
    """x_1 f(x_2) on the format's grid, for x (..., 2 heads) on the grid `source` and f given as a table.

    table float64 and slope float32, (head, codes), from the lowest code of x_2 upwards; the product is rounded to
    single precision before it is quantized.
    """
    device = x.device
    grid = Grid.of(fmt, x.shape[-1] // 2).on(device)
    rows, of_x, values = rows_of(x), source.on(device), table.on(device)
    if trained(x):
        out: Tensor = _Gate.apply(rows, of_x, values, slope.on(device), grid)  # type: ignore[no-untyped-call]
    else:
        out = GATE(rows, of_x, values, grid, False)[0]
    return from_rows(out, x.shape)


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, grid: Tensor) -> Tensor:
        out, inside = ADD(x.detach(), y.detach(), grid, True)
        ctx.save_for_backward(inside)
        return torch.as_tensor(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        both = MASKED(grads[0], *ctx.saved_tensors)
        return both, both, None


def add(x: Tensor, y: Tensor, fmt: Format) -> Tensor:
    """x + y (..., channels) on the format's grid; the sum of two floats is rounded once."""
    one, two, grid = rows_of(x), rows_of(y), Grid.of(fmt, x.shape[-1]).on(x.device)
    if trained(x, y):
        out: Tensor = _Add.apply(one, two, grid)  # type: ignore[no-untyped-call]
    else:
        out = ADD(one, two, grid, False)[0]
    return from_rows(out, x.shape)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, grid: Tensor | None) -> Tensor:
        out, inside = LINEAR(x.detach(), weight.detach(), None if bias is None else bias.detach(), grid, True)
        ctx.save_for_backward(inside, x, weight)
        ctx.biased = bias is not None
        return torch.as_tensor(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[0]
        to_x, to_weight, to_bias = LINEAR_BACKWARD(grads[0], *ctx.saved_tensors, wanted)
        return to_x if wanted else None, to_weight, to_bias if ctx.biased else None, None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, fmt: Format | None = None) -> Tensor:
    """W x + b in double precision, rounded once to single, then to the format's grid, if there is one.

    x (..., inputs) float32, weight (outputs, inputs), bias (outputs,); formats per output or for all.
    """
    rows, grid = rows_of(x), None if fmt is None else Grid.of(fmt, len(weight)).on(x.device)
    if trained(x, weight, bias):
        out: Tensor = _Linear.apply(rows, weight, bias, grid)  # type: ignore[no-untyped-call]
    else:
        out = LINEAR(rows, weight, bias, grid, False)[0]
    return from_rows(out, x.shape)


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ends: Tensor) -> Tensor:
        ctx.save_for_backward(ends)
        ctx.time, ctx.dtype = x.shape[2], x.dtype
        return torch.as_tensor(MEAN(x.detach(), ends))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return MEAN_BACKWARD(grads[0], *ctx.saved_tensors, ctx.time).to(ctx.dtype), None


@lru_cache(maxsize=64)
def _whole(batch: int, time: int, device: torch.device) -> Tensor:
    """The ends of sequences that are not padded."""
    return torch.full((batch,), time, dtype=torch.int64, device=device)


def mean(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The mean over time of x (batch, time, channel), over the first `lengths` steps where given.

    Returns (batch, channel) float64. Eight partial sums, added at the end: exact, as long as the sum of the grid
    values fits 53 bits.
    """
    if lengths is None:
        ends = _whole(len(x), x.shape[1], x.device)
    else:
        ends = lengths.to(x.device, torch.int64)
    rows = rows_of(x)
    out: Tensor = _Mean.apply(rows, ends) if trained(x) else MEAN(rows, ends)  # type: ignore[no-untyped-call]
    return out
