"""The wrapped modules between the matrices: nonlinearities, sums and the pool, each with its quantizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from imc_ssm.fixedpoint import Format
from imc_ssm.kernels import Constant, Grid, add, gate, look_up, mean
from imc_ssm.quantization.quantizer import Quantizer

__all__ = ["AddSite", "GeluSite", "GluSite", "PiecewiseGelu", "QuantizedPool", "Site"]


class PiecewiseGelu(nn.Module):
    """x min(max(0, x + 2), 4) / 4: the GELU of quantized S4D, an addition, a clamp, a product and a shift.

    Source: Zhao et al. 2025 (arXiv:2506.12480).
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * (x + 2).clamp(0, 4) / 4


class Site(nn.Module):
    """A module whose output is quantized.

    It is computed in float64: float32's erf and sigmoid differ in the last bit between a long and a short
    vector, which would move a code now and then (0.2 % of 16-bit GELU outputs).
    """

    def __init__(self, inner: nn.Module, output: Quantizer) -> None:
        super().__init__()
        self.inner, self.output = inner, output

    def forward(self, *inputs: Tensor) -> Tensor:
        wide = self.inner(*(x.double() for x in inputs))
        return torch.as_tensor(self.output(wide.to(inputs[0].dtype)))


class TableSite(Site):
    """A nonlinearity between two grids, read from a table between calibrated quantizers.

    The table has one entry per head and code of the input, made with the float64 module that it stands for.
    """

    MOST = 1 << 22
    """Entries up to which a table is made."""

    def __init__(self, inner: nn.Module, source: Quantizer, output: Quantizer) -> None:
        super().__init__(inner, output)
        self._source = [source]  # owned by the module before
        self._made: tuple[Any, ...] = (None, None)

    def table(self, channels: int) -> tuple[Any, ...] | None:
        """What `_tables` made for the formats in force, or None where the module itself has to run."""
        source, output = self._source[0].fixed(), self.output.fixed()
        if source is None or output is None:
            return None
        if channels << source.bits > self.MOST:
            return None
        if self._made[:2] != (source, output):
            self._made = (source, output, *self._tables(source, output, channels))
        return self._made[2:]

    def _tables(self, source: Format, output: Format, channels: int) -> tuple[Any, ...]:
        raise NotImplementedError


def _values(grid: Grid, bits: int, first: int = 0) -> Tensor:
    """The real values of a grid's codes, (channels from `first`, codes) float64, single precision's products."""
    codes = torch.arange(1 << bits) + torch.from_numpy(grid.low[first:, None])
    return (codes.float() * torch.from_numpy(grid.scale[first:, None])).double()


class GeluSite(TableSite):
    """The GELU, exact or piecewise, rounded: x (..., head)."""

    def _tables(self, source: Format, output: Format, channels: int) -> tuple[Any, ...]:
        grid = Grid.of(source, channels)
        x = _values(grid, source.bits).requires_grad_()
        with torch.enable_grad():
            y = self.inner(x)
            (slope,) = torch.autograd.grad(y.sum(), x)
        table, inside = Grid.of(output, channels).round(y.detach().float().numpy())
        return grid, Constant(table), Constant((slope.numpy() * inside).astype("float32"))

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        made = self.table(x.shape[-1])
        if made is None:
            return super().forward(x)
        return look_up(x, *made)


class GluSite(TableSite):
    """The gated linear unit x_1 sigmoid(x_2), rounded: (..., 2 heads) -> (..., heads)."""

    def _tables(self, source: Format, output: Format, channels: int) -> tuple[Any, ...]:
        grid = Grid.of(source, channels)
        y = torch.sigmoid(_values(grid, source.bits, channels // 2))
        return grid, Constant(y.numpy()), Constant((y * (1 - y)).float().numpy()), output

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        made = self.table(x.shape[-1])
        return super().forward(x) if made is None else gate(x, *made)


class AddSite(Site):
    """The residual sum, rounded."""

    def forward(self, *inputs: Tensor) -> Tensor:
        x, y = inputs
        fmt = self.output.fixed()
        return super().forward(x, y) if fmt is None else add(x, y, fmt)


class QuantizedPool(nn.Module):
    """Mean over time in float64 (exact to rounding, whatever the order of the sum), then quantized."""

    def __init__(self, inner: nn.Module, output: Quantizer) -> None:
        super().__init__()
        self.inner, self.output = inner, output

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return torch.as_tensor(self.output(mean(x, lengths).to(x.dtype)))
