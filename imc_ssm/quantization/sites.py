"""The quantized modules between the matrices: input, nonlinearities, sums and the pool, each with its
quantizer.

From grid to grid they compute in integers (`fixedpoint.operators`). Where one of the formats is not fixed (full
precision, dynamic, still calibrating) they compute in floating point and round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imc_ssm.fixedpoint import Format, function_table, gate_table, grid_values
from imc_ssm.fixedpoint.operators import plan_gate, plan_scale_add, plan_sum
from imc_ssm.graph import Signal
from imc_ssm.kernels import (
    DeviceArray,
    GateConstants,
    Grid,
    MeanConstants,
    SumConstants,
    add,
    gate,
    look_up,
    mean,
    mean_on_grids,
)
from imc_ssm.kernels import scale_add as scale_add_on_grid
from imc_ssm.kernels.functions import trained
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
from imc_ssm.quantization.context import Context, all_fixed, fits, quantizes
from imc_ssm.quantization.kept import Kept
from imc_ssm.quantization.modules import ParameterGrid, centred
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


class GridSite(Site):
    """A site between grids; `quantizers`: of all that enters, owned by the modules before, then its own."""

    def __init__(self, inner: Any, *quantizers: Quantizer | None) -> None:
        *sources, output = quantizers
        assert output is not None
        super().__init__(inner, output)
        self._quantizers = quantizers if sources else (None, output)
        self._kept: Kept[Any] = Kept()

    @classmethod
    def of(cls, module: nn.Module, context: Context) -> Self:
        """Between the quantizers of what enters and one for the module's signal."""
        return cls(module, *context.sources(), context.output())

    def made(self, x: Tensor) -> Any:
        """What `_constants` made for the formats in force and x (..., channels); None: not all are fixed."""
        formats, channels = all_fixed(self._quantizers), x.shape[-1]
        if formats is None or not all(fits(fmt, channels) for fmt in formats[:-1]):
            return None
        return self._kept.get([], formats, lambda: self._constants(*formats, channels=channels))

    def _constants(self, *formats: Format, channels: int) -> Any:
        raise NotImplementedError


class TableSite(GridSite):
    """A site with a table of its function, one entry for each channel and code."""

    MOST = 1 << 22
    """Entries up to which tables are made for the kernels."""

    def _constants(self, *formats: Format, channels: int) -> Any:
        source, output = formats
        return self._tables(source, output, channels) if channels << source.bits <= self.MOST else None

    def _tables(self, source: Format, output: Format, channels: int) -> Any:
        raise NotImplementedError

    def words(self) -> dict[str, Any]:
        """The "table" of its codes (rows, codes), from the lowest code upwards; one row where all are equal.

        Empty where one of the two formats is not fixed.
        """
        formats = all_fixed(self._quantizers)
        return {} if formats is None else {"table": self._codes(*formats)}

    def _codes(self, source: Format, output: Format) -> NDArray[np.int32]:
        raise NotImplementedError


def _blocks(channels: int) -> Iterator[slice]:
    """Some channels after the other: tables of long words are large."""
    return (slice(start, start + 64) for start in range(0, channels, 64))


def _part(fmt: Format, at: slice) -> Format:
    """The format of some channels."""
    return replace(fmt, scale=fmt.scale[at], zero_point=fmt.zero_point[at]) if fmt.scale.ndim else fmt


@quantizes(Gelu, Gelu2, PiecewiseGelu, Relu, Sigmoid)
class QuantizedGelu(TableSite):
    """A function of one code: GELU, exact or piecewise, ReLU, sigmoid; rounded: x (..., head).

    It is a table with one entry per channel and code, made with the float64 module that it stands for.
    """

    @classmethod
    def of(cls, module: nn.Module, context: Context) -> Self:
        """The form that the scheme asks for."""
        piecewise = isinstance(module, Gelu) and context.scheme.gelu == "piecewise"
        return super().of(PiecewiseGelu() if piecewise else module, context)

    def _tables(self, source: Format, output: Format, channels: int) -> tuple[Grid, DeviceArray, DeviceArray]:
        grid = Grid.of(output, channels)
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.from_numpy(grid_values(source, channels)).requires_grad_()
            y = self.inner(x)
            (slope,) = torch.autograd.grad(y.sum(), x)
        _, inside = grid.round(y.detach().float().numpy())
        centred = self._codes(source, output) - np.broadcast_to(output.zero_point, channels)[:, None]
        table = centred.astype(np.float32) * grid.scale[:, None]
        return (
            Grid.of(source, channels),
            DeviceArray(table),
            DeviceArray((slope.numpy() * inside).astype("float32")),
        )

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
        made, seen = self.made(x), x.detach()
        if made is None:
            return self._computed(mask, x)
        return self.output.learned(look_up(x, *made), lambda: self.inner(seen))


@quantizes(Glu)
class QuantizedGlu(TableSite):
    """The gated linear unit x_1 sigmoid(x_2), rounded: (..., 2 heads) -> (..., heads)."""

    def _tables(self, source: Format, output: Format, channels: int) -> GateConstants:
        return GateConstants(source, output, channels // 2, self._codes(source, output))

    def _codes(self, source: Format, output: Format) -> NDArray[np.int32]:
        half = source.scale.size // 2
        gates = _part(source, slice(half, None)) if half else source
        parts = []
        for at in _blocks(max(half, 1)):
            of = _part(gates, at)
            parts.append(gate_table(grid_values(of, of.scale.size)).astype(np.int32))
        return np.concatenate(parts)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        made, seen = self.made(x), x.detach()
        if made is None:
            formats = all_fixed(self._quantizers)
            if formats is None or not fits(formats[0], x.shape[-1]):
                return self._computed(mask, x)
            y = self._without_table(x, *formats)
        else:
            y = gate(x, made)
        return self.output.learned(y, lambda: self.inner(seen))

    def _without_table(self, x: Tensor, source: Format, output: Format) -> Tensor:
        """The same integers, where tables would be too large."""
        heads = x.shape[-1] // 2
        plan, grid = plan_gate(source, output, heads), Grid.of(output, heads)
        value, opened = x.detach().cpu().double().numpy().reshape(-1, 2, heads).swapaxes(0, 1)
        codes = np.rint(value / Grid.of(source, 2 * heads).scale[:heads]) * gate_table(opened)
        nearest = np.rint(codes * np.ldexp(plan.multiplier.astype(np.float64), -plan.shift))
        kept = np.clip(nearest, grid.low, grid.high)
        rounded = torch.from_numpy(kept.astype(np.float32) * grid.scale).reshape(*x.shape[:-1], heads).to(x)
        if not trained(x):
            return rounded
        smooth = nn.functional.glu(x, -1) * torch.from_numpy(kept == nearest).reshape(rounded.shape).to(x)
        return rounded + (smooth - smooth.detach())


@quantizes(Residual)
class QuantizedSum(GridSite):
    """The residual sum, rounded."""

    def _constants(self, *formats: Format, channels: int) -> SumConstants:
        first, second, output = formats
        return SumConstants(plan_sum(first, second, output, channels), first, second, output)

    def forward(self, x: Tensor, straight: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        made, seen = self.made(x), (x.detach(), straight.detach())
        if made is None:
            return self._computed(mask, x, straight)
        return self.output.learned(add(x, straight, made), lambda: seen[0] + seen[1])


@quantizes(Direct)
class QuantizedDirect(nn.Module):
    """y + D u with D on its grid, rounded."""

    def __init__(self, inner: Direct, grid: ParameterGrid, *quantizers: Quantizer | None) -> None:
        """`quantizers` of y and u, which the modules before own, and of the output."""
        super().__init__()
        *sources, output = quantizers
        assert output is not None
        self.inner, self.grid, self.output = inner, grid, output
        self._quantizers = quantizers if sources else (None, output)
        self._kept: Kept[tuple[Tensor, SumConstants]] = Kept()

    @classmethod
    def of(cls, module: Direct, context: Context) -> Self:
        """D shares one format: one for every value would be exact."""
        return cls(module, ParameterGrid(context.spec("d")), *context.sources(), context.output())

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
        rows = y.transpose(-1, -2), u.transpose(-1, -2)
        return scale_add(*rows, self.inner.D, self.grid, self._quantizers, self._kept, mask).transpose(-1, -2)

    def graph(self, *signals: Any) -> Signal:
        """As in full precision."""
        return self.inner.graph(*signals)


def scale_add(
    y: Tensor,
    u: Tensor,
    direct: Tensor,
    grid: ParameterGrid,
    quantizers: tuple[Quantizer | None, ...],
    kept: Kept[tuple[Tensor, SumConstants]],
    mask: Tensor | None,
) -> Tensor:
    """y + D u, rounded; y, u (batch, head, time) or (head, batch), D (head,) on its grid.

    `quantizers` of y, u and the result.
    """
    formats, output = all_fixed(quantizers), quantizers[-1]
    assert output is not None
    if formats is None or grid.spec.bits is None or not all(fits(fmt, len(direct)) for fmt in formats[:-1]):
        return torch.as_tensor(output((y + grid(direct)[:, None] * u).transpose(-1, -2), mask)).transpose(-1, -2)

    def make() -> tuple[Tensor, SumConstants]:
        d, fmt = grid.on_grid(direct)
        of_y, of_u, of_sum = formats
        assert fmt is not None
        plan = plan_scale_add(of_y, fmt, of_u, of_sum, len(d))
        return d, SumConstants(plan, of_y, of_u, of_sum, centred(direct, fmt))

    d, constants = kept.get([direct], formats, make)
    if y.ndim == 2:  # one step: (head, batch)
        return scale_add_on_grid(y[None], u[None], d, constants)[0]
    seen = y.detach(), u.detach(), d.detach()
    return output.learned(scale_add_on_grid(y, u, d, constants), lambda: seen[0] + seen[2][:, None] * seen[1], 1)


@quantizes(MeanPool)
class QuantizedPool(GridSite):
    """Mean over time, rounded; from no fixed grid in float64, exact to rounding, whatever the order of the sum."""

    def _constants(self, *formats: Format, channels: int) -> MeanConstants:
        source, output = formats
        return MeanConstants(source, output, channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        made, lengths, seen = self.made(x), None if mask is None else mask.sum(1), x.detach()
        if made is not None:
            return self.output.learned(mean_on_grids(x, lengths, made), lambda: mean(seen, lengths).to(seen.dtype))
        return torch.as_tensor(self.output(mean(x, lengths).to(x.dtype)))

    def step(self, x: Tensor, total: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """As `MeanPool.step`; the sum counts codes where both grids are fixed."""
        made = self.made(x)
        if made is None:
            y, total = self.inner.step(x, total, count)
            return torch.as_tensor(self.output(y)), total
        total = total + made.codes(x)
        return made.finish(total, made.factor(count + 1, x.device))[0].to(x.dtype), total


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

    def step(self, x: Tensor, total: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """As in full precision."""
        stepped: tuple[Tensor, Tensor] = self.inner.step(x, total, count)
        return stepped

    def graph(self, *signals: Any) -> Signal:
        """As in full precision."""
        return self.inner.graph(*signals)
