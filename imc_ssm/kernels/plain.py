"""The reference of the operators between two grids, in plain PyTorch operations: any device, any precision.

Arguments as the operators have them (`functions`). What saturates is marked where
`trained`; else the mask is empty.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "combine",
    "gate",
    "gate_backward",
    "linear",
    "linear_backward",
    "linear_codes",
    "look_up",
    "look_up_backward",
    "masked",
    "mean",
    "mean_backward",
    "quantize",
    "scale_add_backward",
    "sums",
]


def _rounded(x: Tensor, grid: Tensor, trained: bool) -> tuple[Tensor, Tensor]:
    """x (batch, channel, time) or (row, channel) on the grid (3, channel); any other kind of rows has one."""
    return _clipped(torch.round(x / (grid[0] if x.ndim == 2 else grid[0, :, None])), grid, trained, x.dtype)


def _clipped(codes: Tensor, grid: Tensor, trained: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Integers on the grid."""
    scale, low, high = grid if codes.ndim == 2 else grid[..., None]
    kept = torch.maximum(torch.minimum(codes, high.to(codes.dtype)), low.to(codes.dtype))
    inside = (codes == kept) if trained else codes.new_empty((0,) * codes.ndim)
    return (kept.to(torch.promote_types(dtype, scale.dtype)) * scale).to(dtype), inside.to(torch.uint8)


def _codes(x: Tensor, steps: Tensor) -> Tensor:
    """The codes of x (batch, channel, time) on a grid with these steps (channel,), float64."""
    return torch.round(x * (1 / steps)[:, None]).double()


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


def combine(x: Tensor, y: Tensor, factors: Tensor, grid: Tensor, trained: bool) -> tuple[Tensor, Tensor]:
    of_x, of_y, p, q = factors[..., None]
    codes = p * torch.round(x * of_x.float()).double() + q * torch.round(y * of_y.float()).double()
    return _clipped(torch.round(codes), grid, trained, x.dtype)


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
    codes = torch.round(_codes(x[:, :heads], source[0, :heads]) * factors)
    return _clipped(codes, grid, trained, x.dtype)


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


def linear_codes(
    x: Tensor, source: Tensor, weight: Tensor, bias: Tensor, grid: Tensor | None, trained: bool
) -> tuple[Tensor, Tensor]:
    of_x, align = source[..., None]
    rows = weight.transpose(1, 2).flatten(0, 1)[: len(bias)]  # they come in the CPU's order, `dense.packed`
    sums = rows @ torch.round(torch.round(x * of_x.float()).double() * align) + bias[:, None]
    if grid is None:
        return sums.to(x.dtype), x.new_empty((0, 0, 0), dtype=torch.uint8)
    return _clipped(torch.round(sums), grid, trained, x.dtype)


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


def sums(x: Tensor, source: Tensor, ends: Tensor) -> Tensor:
    return torch.where(_within(ends, x.shape[2]), _codes(x, source[0]), 0.0).sum(-1)


def mean_backward(grad: Tensor, ends: Tensor, time: int) -> Tensor:
    each = (grad / ends[:, None]).float()[..., None]
    return torch.where(_within(ends, time), each, torch.zeros_like(each))
