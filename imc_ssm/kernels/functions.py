"""What happens between two grids: operators with straight-through gradients, on any device.

Forward they are the integers of `fixedpoint.operators`, from codes to codes (docs/integer_model.md); matrices and
means have a form in floating point as well, for what lies on no grid. The gradient is that of the function where
the output did not saturate, zero where it did. Activations are (batch,
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
from imc_ssm.kernels.integers import GateConstants, MatrixConstants, MeanConstants, SumConstants
from imc_ssm.kernels.operators import Pass

__all__ = ["add", "gate", "linear", "linear_on_grids", "look_up", "mean", "mean_on_grids", "quantize"]
__all__ += ["scale_add", "trained"]

QUANTIZE = Pass(
    "quantize(Tensor x, Tensor grid, bool trained) -> (Tensor, Tensor)", plain.quantize, pointwise.quantize
)
MASKED = Pass("masked(Tensor grad, Tensor inside) -> Tensor", plain.masked, pointwise.masked)
COMBINE = Pass(
    "combine(Tensor x, Tensor y, Tensor factors, Tensor grid, bool trained) -> (Tensor, Tensor)",
    plain.combine,
    pointwise.combine,
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
LINEAR_CODES = Pass(
    "linear_codes(Tensor x, Tensor source, Tensor packed, Tensor bias, Tensor? grid, bool trained)"
    " -> (Tensor, Tensor)",
    plain.linear_codes,
    dense.linear_codes,
)
LINEAR_BACKWARD = Pass(
    "linear_backward(Tensor grad, Tensor inside, Tensor x, Tensor weight, bool wanted)"
    " -> (Tensor, Tensor, Tensor)",
    plain.linear_backward,
    dense.linear_backward,
)
MEAN = Pass("mean(Tensor x, Tensor ends) -> Tensor", plain.mean, dense.mean)
SUMS = Pass("sums(Tensor x, Tensor source, Tensor ends) -> Tensor", plain.sums, dense.sums)
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
    def forward(ctx: Any, y: Tensor, u: Tensor, d: Tensor, factors: Tensor, grid: Tensor) -> Tensor:
        out, inside = COMBINE(y.detach(), u.detach(), factors, grid, True)
        ctx.save_for_backward(inside, u, d)
        return torch.as_tensor(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *SCALE_ADD_BACKWARD(grads[0], *ctx.saved_tensors), None, None


def scale_add(y: Tensor, u: Tensor, d: Tensor, plan: SumConstants) -> Tensor:
    """y + d u in the plan's integers; y, u (batch, head, time) and, for the gradient, d (head,) on their grids."""
    y, u = y.contiguous(), u.contiguous()
    factors, grid = plan.factors.on(y.device), plan.grid.on(y.device)
    if trained(y, u, d):
        return torch.as_tensor(_ScaleAdd.apply(y, u, d, factors, grid))  # type: ignore[no-untyped-call]
    return torch.as_tensor(COMBINE(y, u, factors, grid, False)[0])


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
    def forward(
        ctx: Any, x: Tensor, source: Tensor, factors: Tensor, table: Tensor, slope: Tensor, grid: Tensor
    ) -> Tensor:
        out, inside = GATE(x.detach(), source, factors, grid, True)
        ctx.save_for_backward(inside, x, source, table, slope)
        return torch.as_tensor(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return GATE_BACKWARD(grads[0], *ctx.saved_tensors), None, None, None, None, None


def gate(x: Tensor, plan: GateConstants) -> Tensor:
    """x_1 f(x_2) in the plan's integers, for x (..., 2 heads) on its grid; f and its slope are tables."""
    device = x.device
    source, factors, grid = plan.source.on(device), plan.factors.on(device), plan.grid.on(device)
    rows = rows_of(x)
    if trained(x):
        tables = plan.table.on(device), plan.slope.on(device)
        out: Tensor = _Gate.apply(rows, source, factors, *tables, grid)  # type: ignore[no-untyped-call]
    else:
        out = GATE(rows, source, factors, grid, False)[0]
    return from_rows(out, x.shape)


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, factors: Tensor, grid: Tensor) -> Tensor:
        out, inside = COMBINE(x.detach(), y.detach(), factors, grid, True)
        ctx.save_for_backward(inside)
        return torch.as_tensor(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        both = MASKED(grads[0], *ctx.saved_tensors)
        return both, both, None, None


def add(x: Tensor, y: Tensor, plan: SumConstants) -> Tensor:
    """x + y (..., channels) in the plan's integers."""
    one, two = rows_of(x), rows_of(y)
    factors, grid = plan.factors.on(x.device), plan.grid.on(x.device)
    if trained(x, y):
        out: Tensor = _Add.apply(one, two, factors, grid)  # type: ignore[no-untyped-call]
    else:
        out = COMBINE(one, two, factors, grid, False)[0]
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


class _LinearCodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, plan: MatrixConstants) -> Tensor:
        out, inside = LINEAR_CODES(x.detach(), *plan.on(x.device), True)
        ctx.save_for_backward(inside, x, weight)
        ctx.biased = bias is not None
        return torch.as_tensor(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _Linear.backward(ctx, *grads)


def linear_on_grids(x: Tensor, weight: Tensor, bias: Tensor | None, plan: MatrixConstants) -> Tensor:
    """W x + b in the plan's integers, x (..., inputs) on its grid; weight and bias, on theirs, for the gradient.

    Without a grid for the result it is the sums themselves, rounded once to single precision.
    """
    rows = rows_of(x)
    if trained(x, weight, bias):
        out: Tensor = _LinearCodes.apply(rows, weight, bias, plan)  # type: ignore[no-untyped-call]
    else:
        out = LINEAR_CODES(rows, *plan.on(x.device), False)[0]
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


def _ends(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Steps of each sequence of x (batch, time, channel)."""
    if lengths is None:
        return _whole(len(x), x.shape[1], x.device)
    return lengths.to(x.device, torch.int64)


def mean(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The mean over time of x (batch, time, channel), over the first `lengths` steps where given.

    Returns (batch, channel) float64. Eight partial sums, added at the end: exact, as long as the sum of the grid
    values fits 53 bits.
    """
    rows, ends = rows_of(x), _ends(x, lengths)
    out: Tensor = _Mean.apply(rows, ends) if trained(x) else MEAN(rows, ends)  # type: ignore[no-untyped-call]
    return out


class _MeanCodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ends: Tensor, factors: Tensor, plan: MeanConstants) -> Tensor:
        sums = SUMS(x.detach(), plan.source.on(x.device), ends)
        out, nearest, kept = plan.finish(sums, factors)
        ctx.save_for_backward(ends, nearest == kept)
        ctx.time, ctx.dtype = x.shape[2], x.dtype
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ends, inside = ctx.saved_tensors
        return MEAN_BACKWARD(grads[0].double() * inside, ends, ctx.time).to(ctx.dtype), None, None, None


def mean_on_grids(x: Tensor, lengths: Tensor | None, plan: MeanConstants) -> Tensor:
    """The mean over time of x (batch, time, channel) in the plan's integers, (batch, channel) on its grid."""
    rows, ends = rows_of(x), _ends(x, lengths)
    factors = plan.factor(x.shape[1], x.device) if lengths is None else plan.factors(ends)
    if trained(x):
        return torch.as_tensor(_MeanCodes.apply(rows, ends, factors, plan))  # type: ignore[no-untyped-call]
    sums = SUMS(rows, plan.source.on(x.device), ends)
    return plan.finish(sums, factors)[0].to(x.dtype)
