"""Gradients of ranges: how a loss changes with the scale of a format, zero point and codes' bounds fixed.

By the straight-through estimator a quantizer Q(v) = s q, q = clamp(round(v / s), low, high), has

    dQ/dlog s = s q - v    where v did not saturate: its rounding error
                s q        where it did: the bound moves with the scale

Source: Esser et al. 2020 (arXiv:1902.08153), with the logarithm in the place of the scale. The forward pass is
that of the integers; what they were rounded from is computed again here, in single precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import prange
from torch import Tensor

from imc_ssm.fixedpoint import Format
from imc_ssm.kernels.compiling import kernel
from imc_ssm.kernels.grid import Array, Grid, rows_of
from imc_ssm.kernels.operators import Pass

__all__ = ["CALIBRATED", "Ranges", "dots", "moved", "ranged", "step_size"]

f32 = np.float32


@kernel
def _range_sums(grad: Array, out: Array, before: Array, grid: Array, sums: Array) -> None:
    """Sums over time of grad dQ / d log s, (batch, channel) float64."""
    scale, low, high = grid[0], grid[1], grid[2]
    batch, channels, time = grad.shape
    for row in prange(batch * channels):
        b, c = row // channels, row % channels
        s, lo, hi, total = scale[c], low[c], high[c], 0.0
        one, two, three, parts = grad[b, c], out[b, c], before[b, c], np.empty(time, f32)
        for t in range(time):
            v = three[t]
            q = np.rint(v / s)
            parts[t] = one[t] * (two[t] - (v if (q >= lo) & (q <= hi) else f32(0)))
        for t in range(time):
            total += parts[t]
        sums[b, c] = total


@kernel
def _dots(x: Array, y: Array, sums: Array) -> None:
    """Sums over time of x y, (batch, channel) float64."""
    batch, channels, time = x.shape
    for row in prange(batch * channels):
        b, c = row // channels, row % channels
        one, two, total = x[b, c], y[b, c], 0.0
        for t in range(time):
            total += np.float64(one[t]) * np.float64(two[t])
        sums[b, c] = total


def _dots_cpu(x: Tensor, y: Tensor) -> Tensor:
    sums = torch.empty(x.shape[:2], dtype=torch.float64)
    _dots(*(z.numpy() for z in (x, y, sums)))
    return sums.sum(0)


def _dots_plain(x: Tensor, y: Tensor) -> Tensor:
    return (x.double() * y.double()).sum((0, 2))


def _sums_cpu(grad: Tensor, out: Tensor, before: Tensor, grid: Tensor) -> Tensor:
    sums = torch.empty(grad.shape[:2], dtype=torch.float64)
    _range_sums(*(z.numpy() for z in (grad, out, before, grid, sums)))
    return sums.sum(0)


def _sums(grad: Tensor, out: Tensor, before: Tensor, grid: Tensor) -> Tensor:
    scale, low, high = grid[..., None]
    q = torch.round(before / scale)
    error = out - torch.where((q >= low) & (q <= high), before, torch.zeros_like(before))
    return (grad.double() * error.double()).sum((0, 2))


RANGE = Pass("range_sums(Tensor grad, Tensor out, Tensor before, Tensor grid) -> Tensor", _sums, _sums_cpu)

DOTS = Pass("dots(Tensor x, Tensor y) -> Tensor", _dots_plain, _dots_cpu)


def dots(x: Tensor, y: Tensor) -> Tensor:
    """Sums over batch and time of x y, both (batch, channel, time): (channel,) float64."""
    return torch.as_tensor(DOTS(x.contiguous(), y.contiguous()))


def step_size(bits: int, values: float) -> float:
    """What a gradient of a range is multiplied by, 1 / sqrt(N Q): N values share the range, of words up to code Q.
    Source: Esser et al. 2020, Sec. 2.2."""
    return 1 / math.sqrt(max(values, 1.0) * (2 ** (bits - 1) - 1))


def _rows(x: Tensor, axis: int) -> Tensor:
    """x as (outer, channel, inner), contiguous."""
    axis %= max(x.ndim, 1)
    if axis == x.ndim - 1:
        return rows_of(x)
    return x.reshape(math.prod(x.shape[:axis]), x.shape[axis], -1).contiguous()


class _Ranged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, factor: Tensor, axis: int, size: float, sums: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rest = factor.shape, factor.dtype, axis, size, sums
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        shape, dtype, axis, size, sums = ctx.rest
        with torch.no_grad():
            found = sums(_rows(grads[0].to(x.dtype), axis), _rows(x, axis))
        # Channels that are parts of one share its range; one for all has them all.
        found = found.sum() if not shape else found.reshape(-1, *shape).sum(0)
        return grads[0], (size * found).to(dtype), None, None, None


def _size(x: Tensor, factor: Tensor, bits: int) -> float:
    return step_size(bits, x.numel() / max(len(x), 1) / factor.numel())


def ranged(out: Tensor, factor: Tensor, fmt: Format, axis: int, before: Callable[[], Tensor]) -> Tensor:
    """`out`, a batch of values on the format's grid, with a gradient of `factor`, the logarithms of its scales (of
    all channels, of each, or of each part of them).

    `before()`: what it was rounded from, in its shape; asked for in the backward pass, where gradients are off.
    """

    def sums(grad: Tensor, rows: Tensor) -> Tensor:
        value = _rows(before().to(rows.dtype), axis)
        return torch.as_tensor(RANGE(grad, rows, value, Grid.of(fmt, rows.shape[1]).on(rows.device)))

    size = _size(out, factor, fmt.bits)
    found: Tensor = _Ranged.apply(out, factor, axis, size, sums)  # type: ignore[no-untyped-call]
    return found


def moved(x: Tensor, factor: Tensor, bits: int, axis: int, sign: float) -> Tensor:
    """x, with the gradient sign <x, dL / dx> of `factor`: a part of a range's gradient where it is a difference of
    two such products (`quantization.states`)."""

    def sums(grad: Tensor, rows: Tensor) -> Tensor:
        return sign * dots(grad, rows)

    found: Tensor = _Ranged.apply(x, factor, axis, _size(x, factor, bits), sums)  # type: ignore[no-untyped-call]
    return found


class Ranges(NamedTuple):
    """The logarithms of the scales of a recurrence's state and output that are learned; None: it is not."""

    x: Tensor | None = None
    """(), (head,) or (head, state)."""
    y: Tensor | None = None
    """() or (head,)."""

    @property
    def wanted(self) -> bool:
        """Whether there is a gradient to find."""
        return torch.is_grad_enabled() and (self.x is not None or self.y is not None)

    def gradients(
        self, of_x: Tensor, of_y: Tensor, bits: tuple[int, int], time: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """From sums (head, state) and (head,), as `unit.Scales.ranges` finds them, to gradients of `x` and `y`."""

        def shared(found: Tensor, factor: Tensor | None, word: int, values: float) -> Tensor | None:
            if factor is None:
                return None
            while found.ndim > factor.ndim:
                found = found.sum(-1)
            return (step_size(word, values / factor.numel()) * found).to(factor.dtype)

        heads, states = of_x.shape
        return (
            shared(of_x, self.x, bits[0], 2.0 * heads * states * time),
            shared(of_y, self.y, bits[1], float(heads * time)),
        )


CALIBRATED = Ranges()
"""None is learned."""
