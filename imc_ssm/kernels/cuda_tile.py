"""The product of tiles on a GPU: codes and sums by PyTorch, noise, ADC and scale in one pass of Triton's.

Without Triton, and for converters of more than 2^22 codes, it is the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from imc_ssm.kernels import cuda, plain_tile

__all__ = ["tile_product"]

BLOCK = 256
INTERPRETED_BLOCK = 2**14
"""Through the interpreter a program takes milliseconds whatever its size."""
PIECE = 1 << 26
"""Sums that are in memory at a time."""


def tile_product(
    x: Tensor,
    weight: Tensor,
    variance: Tensor | None,
    offset: Tensor | None,
    spread: Tensor | None,
    factor: Tensor,
    bias: Tensor | None,
    grid: Tensor | None,
    seeds: Tensor,
    position: int,
    converters: list[float],
    out: Tensor,
    add: bool,
) -> None:
    low, high = converters[4:]
    if cuda.unavailable() is not None or max(-low, high) >= 2**22 or x.dtype != torch.float32:
        plain_tile.tile_product(
            x, weight, variance, offset, spread, factor, bias, grid, seeds, position, converters, out, add
        )
        return
    chips, _, outputs = weight.shape
    _, batch, time, _ = x.shape
    rows = max(1, PIECE // max(chips * time * outputs, 1))
    for start in range(0, batch, rows):
        end = min(batch, start + rows)
        drive = plain_tile.converted(x[:, start:end], converters)
        sums = drive @ weight if offset is None else drive @ weight + offset[:, None]
        squares = sums if variance is None else drive.square() @ variance
        noisy = spread is not None or variance is not None
        width = torch.zeros_like(factor) if spread is None else spread
        first = position + start * time
        rest = (seeds, first, converters, out[:, start:end], add, noisy, variance)
        _decode(sums, squares, width, factor, bias, grid, *rest)


def _decode(
    sums: Tensor,
    squares: Tensor,
    spread: Tensor,
    factor: Tensor,
    bias: Tensor | None,
    grid: Tensor | None,
    seeds: Tensor,
    position: int,
    converters: list[float],
    out: Tensor,
    add: bool,
    noisy: bool,
    variance: Tensor | None,
) -> None:
    from imc_ssm.kernels import triton_tile

    chips, products, outputs = sums.shape
    groups = -(-outputs // plain_tile.GROUP)
    total = chips * products * groups
    if not total:
        return
    block = INTERPRETED_BLOCK if cuda.interpreting() else BLOCK
    with torch.cuda.device_of(sums):  # type: ignore[no-untyped-call]
        triton_tile.decode[(-(-total // block),)](
            sums.contiguous(),
            squares.contiguous(),
            spread.contiguous(),
            factor.contiguous(),
            factor if bias is None else bias.contiguous(),
            factor if grid is None else grid.contiguous(),
            seeds,
            out,
            position,
            products,
            out.shape[2],
            outputs,
            groups,
            total,
            *converters[4:],
            *out.stride(),
            NOISE=noisy,
            VARIES=variance is not None,
            BIAS=bias is not None,
            GRID=grid is not None,
            ADD=add,
            BLOCK=block,
        )
