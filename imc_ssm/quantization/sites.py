"""The quantized modules between the matrices: input, nonlinearities, sums and the pool, each with its
quantizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imc_ssm.fixedpoint import Format, function_table, gate_table, grid_values
from imc_ssm.graph import Signal
from imc_ssm.kernels import DeviceArray, Grid, add, gate, look_up, mean
from imc_ssm.kernels import scale_add as scale_add_on_grid
from imc_ssm.layers import (
    Direct,
    Gelu,
    Gelu2,
    Glu,
    Input,
    LastPool,
    MeanPool,
    PiecewiseGelu,
    Relu,
    Residual,
    Sigmoid,
)
from imc_ssm.quantization.context import Context, quantizes
from imc_ssm.quantization.modules import ParameterGrid
from imc_ssm.quantization.quantizer import Quantizer

__all__ = ["QuantizedDirect", "QuantizedGelu", "QuantizedGlu", "QuantizedInput", "QuantizedLast", "QuantizedPool"]
__all__ += ["QuantizedSum"]


class Site(nn.Module):
    """A module whose output is quantized; `inner` computes it.

    It is computed in float64: float32's erf and sigmoid differ in the last bit between a long and a short
    vector, which would move a code now and then (0.2 % of 16-bit GELU outputs).
    """

    def __init__(self, inner: Any, output: Quantizer) -> None:
        super().__init__()
        self.inner, self.output = inner, output

    @classmethod
    def of(cls, module: nn.Module, context: Context) -> Self:
        """With a quantizer for the module's signal."""
        return cls(module, context.output())

    def quantizers(self) -> dict[str, Quantizer]:
        """The output's."""
        return {"": self.output}

    def formats(self) -> dict[str, Format]:
        """Of the output."""
        return {} if self.output.bits is None else {"": self.output.format()}

    def _computed(self, mask: Tensor | None, *inputs: Tensor) -> Tensor:
        wide = self.inner(*(x.double() for x in inputs), mask)
        return torch.as_tensor(self.output(wide.to(inputs[0].dtype), mask))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._computed(mask, x)

    def graph(self, *signals: Any) -> Signal:
        """As of what it computes."""
        return self.inner.graph(*signals)  # type: ignore[no-any-return]


@quantizes(Input)
class QuantizedInput(Site):
    """The sequence, rounded."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.as_tensor(self.output(x, mask))


class TableSite(Site):
    """A nonlinearity between two grids, read from a table where both are fixed.

    The table has one entry per channel and code of the input, made with the float64 module that it stands for.
    """

    MOST = 1 << 22
    """Entries up to which a table is made."""

    def __init__(self, inner: nn.Module, source: Quantizer, output: Quantizer) -> None:
        super().__init__(inner, output)
        self._source = [source]  # owned by the module before
        self._made: tuple[Any, ...] = (None, None)

    @classmethod
    def of(cls, module: nn.Module, context: Context) -> Self:
        """Between the quantizer of what enters and one for the module's signal."""
        return cls(module, context.source(), context.output())

    def table(self, x: Tensor) -> tuple[Any, ...] | None:
        """What `_tables` made for the formats in force, or None where the module itself has to run."""
        source, output, channels = self._source[0].fixed(), self.output.fixed(), x.shape[-1]
        if source is None or output is None:
            return None
        if channels << source.bits > self.MOST:
            return None
        made = self._made
        if made[:2] != (source, output):
            # In one step, so that threads that share a model never see half of it.
            self._made = made = (source, output, *self._tables(source, output, channels))
        return made[2:]

    def _tables(self, source: Format, output: Format, channels: int) -> tuple[Any, ...]:
        raise NotImplementedError

    def words(self) -> dict[str, Any]:
        """The "table" of its codes (rows, codes), from the lowest code upwards; one row where all are equal.

        Empty where one of the two formats is not fixed.
        """
        source, output = self._source[0].fixed(), self.output.fixed()
        return {} if source is None or output is None else {"table": self._codes(source, output)}

    def _codes(self, source: Format, output: Format) -> NDArray[np.int32]:
        raise NotImplementedError


def _blocks(channels: int) -> Iterator[slice]:
    """Some channels after the other: tables of long words are large."""
    return (slice(start, start + 64) for start in range(0, channels, 64))


def _part(fmt: Format, at: slice) -> Format:
    """The format of some channels."""
    return replace(fmt, scale=fmt.scale[at], zero_point=fmt.zero_point[at]) if fmt.scale.ndim else fmt


def _values(grid: Grid, bits: int, first: int = 0) -> Tensor:
    """The real values of a grid's codes, (channels from `first`, codes) float64, single precision's products."""
    codes = torch.arange(1 << bits) + torch.from_numpy(grid.low[first:, None])
    return (codes.float() * torch.from_numpy(grid.scale[first:, None])).double()


@quantizes(Gelu, Gelu2, PiecewiseGelu, Relu, Sigmoid)
class QuantizedGelu(TableSite):
    """A function of one code: GELU, exact or piecewise, ReLU, sigmoid; rounded: x (..., head)."""

    @classmethod
    def of(cls, module: nn.Module, context: Context) -> Self:
        """The form that the scheme asks for."""
        piecewise = isinstance(module, Gelu) and context.scheme.gelu == "piecewise"
        return super().of(PiecewiseGelu() if piecewise else module, context)

    def _tables(self, source: Format, output: Format, channels: int) -> tuple[Any, ...]:
        grid = Grid.of(source, channels)
        with torch.inference_mode(False), torch.enable_grad():
            x = _values(grid, source.bits).requires_grad_()
            y = self.inner(x)
            (slope,) = torch.autograd.grad(y.sum(), x)
        table, inside = Grid.of(output, channels).round(y.detach().float().numpy())
        return grid, DeviceArray(table), DeviceArray((slope.numpy() * inside).astype("float32"))

    def _codes(self, source: Format, output: Format) -> NDArray[np.int32]:
        parts = []
        with torch.no_grad():
            for at in _blocks(max(fmt.scale.size for fmt in (source, output))):
                of, to = (_part(fmt, at) for fmt in (source, output))
                values = grid_values(of, max(of.scale.size, to.scale.size))
                real = self.inner(torch.from_numpy(values)).numpy()
                parts.append(function_table(real, to).astype(np.int32))
        return np.concatenate(parts)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        made, seen = self.table(x), x.detach()
        if made is None:
            return self._computed(mask, x)
        return self.output.learned(look_up(x, *made), lambda: self.inner(seen))


@quantizes(Glu)
class QuantizedGlu(TableSite):
    """The gated linear unit x_1 sigmoid(x_2), rounded: (..., 2 heads) -> (..., heads)."""

    def _tables(self, source: Format, output: Format, channels: int) -> tuple[Any, ...]:
        grid = Grid.of(source, channels)
        y = torch.sigmoid(_values(grid, source.bits, channels // 2))
        return grid, DeviceArray(y.numpy()), DeviceArray((y * (1 - y)).float().numpy()), output

    def _codes(self, source: Format, output: Format) -> NDArray[np.int32]:
        half = source.scale.size // 2
        gates = _part(source, slice(half, None)) if half else source
        parts = []
        for at in _blocks(max(half, 1)):
            of = _part(gates, at)
            parts.append(gate_table(grid_values(of, of.scale.size)).astype(np.int32))
        return np.concatenate(parts)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        made, seen = self.table(x), x.detach()
        if made is None:
            return self._computed(mask, x)
        return self.output.learned(gate(x, *made), lambda: self.inner(seen))


@quantizes(Residual)
class QuantizedSum(Site):
    """The residual sum, rounded."""

    def forward(self, x: Tensor, straight: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        fmt, seen = self.output.fixed(), (x.detach(), straight.detach())
        if fmt is None:
            return self._computed(mask, x, straight)
        return self.output.learned(add(x, straight, fmt), lambda: seen[0] + seen[1])


@quantizes(Direct)
class QuantizedDirect(nn.Module):
    """y + D u with D on its grid, rounded."""

    def __init__(self, inner: Direct, grid: ParameterGrid, output: Quantizer) -> None:
        super().__init__()
        self.inner, self.grid, self.output = inner, grid, output

    @classmethod
    def of(cls, module: Direct, context: Context) -> Self:
        """D shares one format: one for every value would be exact."""
        return cls(module, ParameterGrid(context.spec("d")), context.output())

    def quantizers(self) -> dict[str, Quantizer]:
        """The output's."""
        return {"": self.output}

    def words(self) -> dict[str, Any]:
        """Codes of "d" (head,)."""
        return {"d": self.grid.codes(self.inner.D)}

    def formats(self) -> dict[str, Format]:
        """Of the output and D."""
        made = {"": self.output.format()} if self.output.bits is not None else {}
        d = self.grid.format(self.inner.D)
        return made if d is None else {**made, "d": d}

    def forward(self, y: Tensor, u: Tensor, mask: Tensor | None = None) -> Tensor:
        rows = scale_add(y.transpose(-1, -2), u.transpose(-1, -2), self.grid(self.inner.D), self.output, mask)
        return rows.transpose(-1, -2)

    def graph(self, *signals: Any) -> Signal:
        """As in full precision."""
        return self.inner.graph(*signals)


def scale_add(y: Tensor, u: Tensor, d: Tensor, output: Quantizer, mask: Tensor | None) -> Tensor:
    """y + d u, rounded; y, u (batch, head, time) or (head, batch), d (head,)."""
    fmt = output.fixed()
    if fmt is None:
        return torch.as_tensor(output((y + d[:, None] * u).transpose(-1, -2), mask)).transpose(-1, -2)
    if y.ndim == 2:  # one step: (head, batch)
        return scale_add_on_grid(y[None], u[None], d, fmt)[0]
    seen = y.detach(), u.detach(), d.detach()
    return output.learned(scale_add_on_grid(y, u, d, fmt), lambda: seen[0] + seen[2][:, None] * seen[1], 1)


@quantizes(MeanPool)
class QuantizedPool(Site):
    """Mean over time in float64 (exact to rounding, whatever the order of the sum), then quantized."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        pooled = mean(x, None if mask is None else mask.sum(1))
        return torch.as_tensor(self.output(pooled.to(x.dtype)))


@quantizes(LastPool)
class QuantizedLast(nn.Module):
    """The last step: nothing is rounded, so that its format is that of what enters, whatever the rules say."""

    def __init__(self, inner: LastPool, source: Quantizer) -> None:
        super().__init__()
        self.inner = inner
        self._source = [source]  # owned by the module before

    @classmethod
    def of(cls, module: LastPool, context: Context) -> Self:
        """With the quantizer of what enters."""
        return cls(module, context.source())

    def quantizers(self) -> dict[str, Quantizer]:
        """That of what enters."""
        return {"": self._source[0]}

    def formats(self) -> dict[str, Format]:
        """Likewise."""
        (source,) = self._source
        return {} if source.bits is None else {"": source.format()}

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.as_tensor(self.inner(x, mask))

    def graph(self, *signals: Any) -> Signal:
        """As in full precision."""
        return self.inner.graph(*signals)
