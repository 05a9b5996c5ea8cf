"""Norms as plain PyTorch operations: the reference of every device; arguments as in `norm_rows`.

All integers in doubles, which hold them exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["affine", "affine_backward", "norm", "norm_backward"]


def _codes(x: Tensor, source: Tensor) -> Tensor:
    """Centred codes (batch, channel, time) float64 of single-precision values."""
    step, low, high = source[..., None]
    return torch.maximum(torch.minimum(torch.round(x.to(step.dtype) / step), high), low).double()


def _finished(values: Tensor, channel: Tensor, grid: Tensor, trained: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    _, gain, offset, fraction = channel[..., None]
    step, low, high = grid[..., None]
    nearest = torch.round((gain * values + offset) * fraction)
    kept = torch.maximum(torch.minimum(nearest, high.double()), low.double())
    inside = (nearest == kept).to(torch.uint8) if trained else like.new_empty((0, 0, 0), dtype=torch.uint8)
    return (kept.to(step.dtype) * step).to(like.dtype), inside


def norm(
    x: Tensor, source: Tensor, channel: Tensor, plan: Tensor, table: Tensor, grid: Tensor, trained: bool
) -> tuple[Tensor, Tensor]:
    v = torch.round(_codes(x, source) * channel[0, :, None] * plan[0])
    v = v - torch.round(v.sum(1, keepdim=True) * plan[2] * plan[3]) * plan[1]
    squares = torch.nan_to_num((v * v).sum(1, keepdim=True) + plan[4], nan=1.0).clamp(min=1.0)
    n = torch.div(torch.frexp(squares).exponent - 1, 2, rounding_mode="floor")
    m = torch.floor(torch.ldexp(squares, 22 - 2 * n)).long()
    first = table[((m >> 15) - 128).clamp(0, 383)]
    error = 3 * (1 << 46) - m * torch.round(first.double() ** 2 * 2.0**-8).long()
    root = torch.round(first * torch.round(error.double() * 2.0**-22) * 2.0**-17)
    values = torch.round(torch.ldexp(v * root, -n - 2))
    return _finished(values, channel, grid, trained, x)


def norm_backward(
    grad: Tensor, inside: Tensor, x: Tensor, gain: Tensor, eps: float, centred: bool
) -> tuple[Tensor, Tensor, Tensor]:
    passed, z = grad.double() * inside, x.double()
    if centred:
        z = z - z.mean(1, keepdim=True)
    rise = 1 / torch.sqrt(z.square().mean(1, keepdim=True) + eps)
    z, given = z * rise, passed * gain.double()[:, None]
    along = given - z * (given * z).mean(1, keepdim=True)
    if centred:
        along = along - given.mean(1, keepdim=True)
    to_x = (rise * along).to(x.dtype)
    return to_x, (passed * z).sum((0, 2)).to(x.dtype), passed.sum((0, 2)).to(x.dtype)


def affine(x: Tensor, source: Tensor, channel: Tensor, grid: Tensor, trained: bool) -> tuple[Tensor, Tensor]:
    return _finished(_codes(x, source), channel, grid, trained, x)


def affine_backward(grad: Tensor, inside: Tensor, x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    passed = grad * inside.to(grad.dtype)
    wide = passed.double()
    return passed * gain[:, None], (wide * x.double()).sum((0, 2)).to(x.dtype), wide.sum((0, 2)).to(x.dtype)
