"""The reference of the tiles' product, in plain PyTorch operations: any device, any precision.

Its noise are the numbers of the compiled one, up to the rounding of logarithm, root and sine. Number (seed,
product, output) comes from Philox4x32-10 with the counter (product, output // 4, 0) and the seed as key: words
w0 ... w3.
Outputs 4 g and 4 g + 1 take the first two, the other two the rest, by Box and Muller's transform:

    r = sqrt(-2 log u),  u = (floor(w0 / 2) + 1/2) / 2^31            at most 6.66
    v = (floor(w1 / 4) + 1/2) / 2^30                                  an angle, in quarter turns
    z = +-r cos(pi v / 2), +-r sin(pi v / 2)                          signs: bits 0 and 1 of w1
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from imc_ssm.fixedpoint.normal import MULTIPLIERS, ROUNDS, WEYL

__all__ = ["GROUP", "converted", "normals", "tile_product"]

MASK = 0xFFFFFFFF
GROUP = 4
"""Outputs of a counter."""
PIECE = 1 << 20
"""Numbers drawn at a time."""


def _words(seeds: Tensor, number: Tensor, group: Tensor) -> list[Tensor]:
    """Four words as int64, (chip, product, group); int64 holds a product of two words bit for bit."""
    shape = (len(seeds), number.shape[1], group.shape[2])
    x = [word.expand(shape) for word in (number & MASK, (number >> 32) & MASK, group, torch.zeros_like(group))]
    keys = [(seeds & MASK)[:, None, None], ((seeds >> 32) & MASK)[:, None, None]]
    for _ in range(ROUNDS):
        p0, p1 = MULTIPLIERS[0] * x[0], MULTIPLIERS[1] * x[2]
        high = [(p >> 32) & MASK for p in (p0, p1)]
        x = [high[1] ^ x[1] ^ keys[0], p1 & MASK, high[0] ^ x[3] ^ keys[1], p0 & MASK]
        keys = [(k + w) & MASK for k, w in zip(keys, WEYL, strict=True)]
    return x


def normals(seeds: Tensor, first: int, products: int, outputs: int) -> Tensor:
    """Standard normal numbers (chip, product, output) float32 of products `first` ... and seeds (chip,) int64."""
    device = seeds.device
    number = torch.arange(first, first + products, device=device)[None, :, None]
    group = torch.arange(-(-outputs // GROUP), device=device)[None, None, :]
    w = _words(seeds, number, group)
    parts = []
    for one, two in ((w[0], w[1]), (w[2], w[3])):
        u = ((one >> 1).float() + 0.5) * 2.0**-31
        v = ((two >> 2).float() + 0.5) * 2.0**-30
        radius = torch.sqrt(-2.0 * torch.log(u))
        for bit, angle in ((0, 1.0 - v), (1, v)):
            parts.append(radius * torch.sin(angle * (math.pi / 2)) * (1 - 2 * ((two >> bit) & 1)))
    return torch.stack(parts, dim=-1).reshape(len(seeds), products, -1)[..., :outputs]


def converted(x: Tensor, converters: list[float]) -> Tensor:
    """Codes of the DAC, (chips, products, inputs), for x (chips, sequence, step, inputs)."""
    # Divided by tensors: a GPU would multiply by the reciprocal of a number.
    full, step, low, high = torch.tensor(converters[:4], dtype=x.dtype, device=x.device)
    ratio = x.reshape(len(x), -1, x.shape[-1]) / full / step
    return torch.clamp(ratio.round_(), low, high)


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
    chips, _, outputs = weight.shape
    drive, (low, high) = converted(x, converters), converters[4:]
    base = None if bias is None else bias[None, None]
    if add:
        there = out.reshape(chips, -1, outputs)
        base = there if base is None else there + base
    products, y = drive.shape[1], []
    rows = max(1, PIECE // max(chips * outputs, 1))
    for start in range(0, products, rows):
        part = drive[:, start : start + rows]
        sums = part @ weight
        if offset is not None:
            sums = sums + offset[:, None]
        if variance is not None or spread is not None:
            sigma = 0.0 if spread is None else spread[:, None]
            if variance is not None:
                sigma = torch.sqrt(
                    part.square() @ variance + (0.0 if spread is None else spread.square()[:, None])
                )
            sums = sums + sigma * normals(seeds, position + start, part.shape[1], outputs)
        # In double precision, where the products of codes are exact: rounded once, as a fused multiply-add is.
        exact = sums.round().clamp(low, high).double() * factor.double()[:, None]
        if base is not None:
            exact = exact + (base[:, start : start + rows] if add else base).double()
        value = exact.float()
        if grid is not None:
            step, least, most = grid
            value = torch.maximum(torch.minimum(torch.round(value / step), most), least) * step
        y.append(value)
    if y:
        out.copy_(torch.cat(y, dim=1).reshape(out.shape))
