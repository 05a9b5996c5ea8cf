"""The reference of the operators between two grids, in plain PyTorch operations: any device, any precision.

Arguments as the operators have them (`functions`). What saturates is marked where
`trained`; else the mask is empty.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "add",
    "gate",
    "gate_backward",
    "linear",
    "linear_backward",
    "look_up",
    "look_up_backward",
    "masked",
    "mean",
    "mean_backward",
    "quantize",
    "scale_add",
    "scale_add_backward",
]


def _rounded(x: Tensor, grid: Tensor, trained: bool) -> tuple[Tensor, Tensor]:
    """x (batch, channel, time) or (row, channel) on the grid (3, channel); any other kind of rows has one."""
    scale, low, high = grid if x.ndim == 2 else grid[..., None]
    nearest = torch.round(x / scale)
    kept = torch.maximum(torch.minimum(nearest, high), low)
    inside = (nearest == kept).to(torch.uint8) if trained else x.new_empty((0,) * x.ndim, dtype=torch.uint8)
    return (kept * scale).to(x.dtype), inside


def _places(x: Tensor, source: Tensor, entries: int) -> Tensor:
    """The places of the codes of x (batch, head, time) in a table; a value beyond the grid reads its end."""
    scale, low = source[0, :, None], source[1, :, None]
    return torch.nan_to_num(torch.round(x / scale) - low).clamp(0, entries - 1).long()


def _read(table: Tensor, places: Tensor) -> Tensor:
    """table[h, place], (batch, head, time)."""
    return table[torch.arange(len(table), device=table.device)[:, None], places]


def quantize(x: Tensor, grid: Tensor, trained: bool) -> tuple[Tensor, Tensor]:
    return _rounded(x, grid, trained)


def masked(grad: Tensor, inside: Tensor) -> Tensor:
    return grad * inside.to(grad.dtype)


def add(x: Tensor, y: Tensor, grid: Tensor, trained: bool) -> tuple[Tensor, Tensor]:
    return _rounded(x + y, grid, trained)


def scale_add(y: Tensor, u: Tensor, d: Tensor, grid: Tensor, trained: bool) -> tuple[Tensor, Tensor]:
    return _rounded(y + d[:, None] * u, grid, trained)


def scale_add_backward(grad: Tensor, inside: Tensor, u: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    to_y = masked(grad, inside)
    to_d = (to_y.double() * u.double()).sum((0, 2)).to(d.dtype)
    return to_y, to_y * d[:, None], to_d


def look_up(x: Tensor, source: Tensor, table: Tensor) -> Tensor:
    return _read(table, _places(x, source, table.shape[1])).to(x.dtype)


def look_up_backward(grad: Tensor, x: Tensor, source: Tensor, slope: Tensor) -> Tensor:
    return grad * look_up(x, source, slope)


def gate(x: Tensor, source: Tensor, table: Tensor, grid: Tensor, trained: bool) -> tuple[Tensor, Tensor]:
    heads = len(table)
    factors = _read(table, _places(x[:, heads:], source[:, heads:], table.shape[1]))
    return _rounded((x[:, :heads] * factors).to(x.dtype), grid, trained)


def gate_backward(grad: Tensor, inside: Tensor, x: Tensor, source: Tensor, table: Tensor, slope: Tensor) -> Tensor:
    heads = len(table)
    places = _places(x[:, heads:], source[:, heads:], table.shape[1])
    free = masked(grad, inside)
    parts = free * _read(table, places).to(x.dtype), free * x[:, :heads] * _read(slope, places)
    return torch.cat(parts, dim=1).to(x.dtype)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, grid: Tensor | None, trained: bool
) -> tuple[Tensor, Tensor]:
    sums = weight.double() @ x.double()
    if bias is not None:
        sums = sums + bias.double()[:, None]
    out = sums.to(x.dtype)
    if grid is None:
        return out, x.new_empty((0, 0, 0), dtype=torch.uint8)
    return _rounded(out, grid, trained)


def linear_backward(
    grad: Tensor, inside: Tensor, x: Tensor, weight: Tensor, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if inside.numel():
        grad = masked(grad, inside)
    to_x = weight.T @ grad if wanted else x.new_empty(0)
    return to_x, torch.bmm(grad, x.transpose(1, 2)).sum(0), grad.sum((0, 2))


def _within(ends: Tensor, time: int) -> Tensor:
    return (torch.arange(time, device=ends.device) < ends[:, None])[:, None]


def mean(x: Tensor, ends: Tensor) -> Tensor:
    total = torch.where(_within(ends, x.shape[2]), x.double(), 0.0).sum(-1)
    return total / ends[:, None]


def mean_backward(grad: Tensor, ends: Tensor, time: int) -> Tensor:
    each = (grad / ends[:, None]).float()[..., None]
    return torch.where(_within(ends, time), each, torch.zeros_like(each))
