"""The product of vectors with the weights of crossbar tiles of many chips, with converters and noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from imc_ssm.errors import DataError
from imc_ssm.kernels import cuda_tile, plain_tile, tile_cpu
from imc_ssm.kernels.operators import Pass

__all__ = ["room_for", "tile_product"]

TILE = Pass(
    "tile_product(Tensor x, Tensor weight, Tensor? variance, Tensor? offset, Tensor? spread, Tensor factor, "
    "Tensor? bias, Tensor? grid, Tensor seeds, int position, float[] converters, Tensor(a!) out, bool add) -> ()",
    plain_tile.tile_product,
    tile_cpu.tile_product,
    cuda_tile.tile_product,
)


def tile_product(
    x: Tensor,
    weight: Tensor,
    *,
    full_scale: float,
    step_in: float,
    codes_in: tuple[int, int],
    codes_out: tuple[int, int],
    factor: Tensor,
    bias: Tensor | None = None,
    grid: Tensor | None = None,
    spread: Tensor | float = 0.0,
    offset: Tensor | None = None,
    variance: Tensor | None = None,
    seed: Tensor | None = None,
    position: int = 0,
    out: Tensor | None = None,
    add: bool = True,
) -> Tensor:
    """One tile of every chip: DAC, column sums with noise, ADC, and the factor from its codes to the output.

        d_i = clip(round(x_i / full_scale / step_in), codes_in)
        s_j = offset_j + sum_i d_i w_ij + sigma_j N(0, 1)           sigma_j^2 = spread_j^2 + sum_i d_i^2 v_ij
        y_j = factor_j clip(round(s_j), codes_out) + bias_j         rounded once (fma); round: half to even

    x (chips or 1, ..., inputs), weight and variance (chips, inputs, outputs) in ADC codes per DAC code, spread,
    offset (ADC codes) and factor (chips, outputs), bias (outputs,), all float32; seed (chips,) int64. Returns
    (chips, ..., outputs) in the memory order of x (channels last, or time last of x (chips, batch, time, inputs)).
    Where `out` is given, which may be a part of a larger tensor, y is written there, or with `add` the product is
    added to it (out_j + bias_j stands for bias_j). With a `grid` (3, outputs), the steps, lowest and highest codes
    of the outputs (`Grid`), y comes to the nearest value on it, as `quantize` would bring it.

    The noise of a product is a function of seed, number of the product and output: `position` is the number of the
    first vector of x, of every chip, the others follow in order. So it does not depend on how many are computed at
    a time. Without seeds there is no noise, whatever the spread. No gradient flows.

    Raises `DataError` where shapes, types, devices or numbers do not fit.
    """
    chips = _checked(x, weight, full_scale, step_in, position)
    inputs, outputs = weight.shape[1:]
    drawn, width = seed is not None, None
    if drawn and isinstance(spread, Tensor):
        width = spread
    elif drawn and spread > 0:
        width = torch.full((chips, outputs), float(spread), dtype=torch.float32, device=x.device)
    variance = variance if drawn else None
    seeds = torch.zeros(chips, dtype=torch.int64, device=x.device) if seed is None else seed
    for name, value, shape, dtype in (
        ("factor", factor, (chips, outputs), torch.float32),
        ("bias", bias, (outputs,), torch.float32),
        ("grid", grid, (3, outputs), torch.float32),
        ("spread", width, (chips, outputs), torch.float32),
        ("offset", offset, (chips, outputs), torch.float32),
        ("variance", variance, (chips, inputs, outputs), torch.float32),
        ("seed", seeds, (chips,), torch.int64),
        ("out", out, (chips, *x.shape[1:-1], outputs), torch.float32),
    ):
        if value is not None and (value.shape != shape or value.dtype != dtype or value.device != x.device):
            raise DataError(
                f"{name} of the tiles is {value.dtype} {tuple(value.shape)} on {value.device}; needed is {dtype} "
                f"{shape} on {x.device}"
            )
    with torch.no_grad():
        drive, target = _planes(x), None if out is None else _part(out)
        y = _like(drive, chips, outputs) if target is None else target
        converters = [float(v) for v in (full_scale, step_in, *codes_in, *codes_out)]
        tables = (weight.detach(), variance, offset, width, factor, bias, grid, seeds.contiguous())
        TILE(drive, *tables, int(position), converters, y, target is not None and add)
        if out is None:
            return y.reshape(chips, *x.shape[1:-1], outputs)
        if target is None:
            y = y.reshape(out.shape)
            return out.add_(y) if add else out.copy_(y)
        return out


def room_for(x: Tensor, chips: int, outputs: int) -> Tensor:
    """An empty tensor (chips, ..., outputs) in the memory order in which `tile_product` of x returns its own."""
    return _like(_planes(x), chips, outputs).reshape(chips, *x.shape[1:-1], outputs)


def _checked(x: Tensor, weight: Tensor, full_scale: float, step_in: float, position: int) -> int:
    """The number of chips."""
    if weight.ndim != 3 or weight.dtype != torch.float32 or weight.device != x.device or 0 in weight.shape:
        raise DataError(
            f"weights of tiles are {weight.dtype} {tuple(weight.shape)} on {weight.device}; needed is "
            f"torch.float32 (chips, inputs, outputs) on {x.device}"
        )
    chips, inputs, _ = weight.shape
    if x.ndim < 2 or x.shape[0] not in (1, chips) or x.shape[-1] != inputs or x.dtype != torch.float32:
        raise DataError(
            f"x is {x.dtype} {tuple(x.shape)}; needed is torch.float32 (1 or {chips} chips, ..., {inputs} inputs)"
        )
    for name, value in (("full_scale", full_scale), ("step_in", step_in)):
        if not (math.isfinite(value) and value > 0):
            raise DataError(f"{name} of the tiles is {value!r}; needed is a number above 0")
    if not 0 <= position < 2**62:
        raise DataError(f"the first product has number {position!r}; allowed is 0 to 2^62 - 1")
    return chips


def _planes(x: Tensor) -> Tensor:
    """x (chips, ..., channels) as (chips, sequence, step, channel); a copy only where memory has another order."""
    x = x.detach()
    made = _part(x)
    if made is None or 1 not in (made.stride(2), made.stride(3)):
        made = x.reshape(x.shape[0], 1, -1, x.shape[-1])
    return made


def _part(x: Tensor) -> Tensor | None:
    """x as (chips, sequence, step, channel) where it lies; None: it has other axes."""
    if x.ndim == 4:
        return x if x.shape[2] > 1 else x.transpose(1, 2)
    return x[:, None] if x.ndim == 3 else None


def _like(x: Tensor, chips: int, outputs: int) -> Tensor:
    """Room for the outputs of x (chips, sequence, step, channel), in its order."""
    _, batch, time, _ = x.shape
    if time > 1 and x.stride(2) == 1:
        return torch.empty(chips, batch, outputs, time, dtype=torch.float32, device=x.device).transpose(2, 3)
    return torch.empty(chips, batch, time, outputs, dtype=torch.float32, device=x.device)
