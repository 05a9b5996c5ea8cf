"""Quantized norms: integers between two grids, in QAT too.

LayerNorm and RMSNorm compute their statistics on every step's codes; BatchNorm has the statistics of its training
in full precision, frozen, and is a scale and a shift of every channel. Gains and offsets are trained on; they are
part of the multipliers that requantize the output, which have 24 bits, and so have no format of their own.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from imc_ssm.fixedpoint import Format, plan_affine, plan_norm
from imc_ssm.graph import Signal
from imc_ssm.kernels.norms import NormConstants, affine, normalize
from imc_ssm.layers import Norm
from imc_ssm.quantization.context import Context, quantizes
from imc_ssm.quantization.kept import Kept
from imc_ssm.quantization.quantizer import Quantizer

__all__ = ["QuantizedNorm"]


@quantizes(Norm)
class QuantizedNorm(nn.Module):
    """A norm from one grid to another.

    Where one of the two has no fixed format (full precision, dynamic, or still calibrating) it is computed in
    float64 and rounded.
    """

    def __init__(self, inner: Norm, source: Quantizer, output: Quantizer) -> None:
        super().__init__()
        self.inner, self.output = inner, output
        self._source = [source]  # owned by the module before
        self._kept: Kept[tuple[Tensor, Tensor, NormConstants]] = Kept()

    @classmethod
    def of(cls, module: Norm, context: Context) -> Self:
        """Between the quantizer of what enters and one for the module's signal."""
        return cls(module, context.source(), context.output())

    def quantizers(self) -> dict[str, Quantizer]:
        """The output's."""
        return {"": self.output}

    def formats(self) -> dict[str, Format]:
        """Of the output."""
        return {} if self.output.bits is None else {"": self.output.format()}

    def words(self) -> dict[str, Any]:
        """The constants that its integers are made of: "gain" and "offset" (channels,), and "eps"."""
        gain, offset = (z.detach().cpu().double().numpy() for z in self.scaled())
        return {"gain": gain, "offset": offset, "eps": np.asarray(self.inner.eps)}

    def scaled(self) -> tuple[Tensor, Tensor]:
        """(gain, offset) (channels,): of the normalized values; of a batch norm, of what enters."""
        norm: Any = self.inner.norm
        channels = self.inner.channels
        given = norm.weight, getattr(norm, "bias", None)
        like = next((z for z in (*given, getattr(norm, "running_mean", None)) if z is not None), self.output.scale)
        gain = like.new_ones(channels) if given[0] is None else given[0]
        offset = like.new_zeros(channels) if given[1] is None else given[1]
        if self.inner.kind == "batch":
            gain = gain / torch.sqrt(norm.running_var + norm.eps)
            offset = offset - norm.running_mean * gain
        return gain, offset

    def constants(self, source: Format, output: Format, gain: Tensor, offset: Tensor) -> NormConstants:
        """The integers for these formats."""
        first, second = (z.detach().cpu().double().numpy() for z in (gain, offset))
        if self.inner.kind == "batch":
            return NormConstants(plan_affine(source, output, first, second))
        centred = self.inner.kind == "layer"
        return NormConstants(plan_norm(source, output, first, second, self.inner.eps, centred=centred))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        source, output = self._source[0].fixed(), self.output.fixed()
        if source is None or output is None:
            return torch.as_tensor(self.output(self._real(x), mask))
        gain, offset, constants = self._made(source, output)
        if self.inner.kind == "batch":
            out = affine(x, gain, offset, constants)
        else:
            out = normalize(x, gain, offset, constants, self.inner.eps, centred=self.inner.kind == "layer")
        seen = x.detach()
        return self.output.learned(out, lambda: self._real(seen))

    def _made(self, source: Format, output: Format) -> tuple[Tensor, Tensor, NormConstants]:
        def make() -> tuple[Tensor, Tensor, NormConstants]:
            gain, offset = self.scaled()
            return gain, offset, self.constants(source, output, gain, offset)

        held = [*self.inner.parameters(), *self.inner.buffers()]
        return self._kept.get(held, (source, output), make)

    def _real(self, x: Tensor) -> Tensor:
        """The norm in float64."""
        (gain, offset), kind = self.scaled(), self.inner.kind
        wide = x.double()
        if kind == "layer":
            wide = wide - wide.mean(-1, keepdim=True)
        if kind != "batch":
            wide = wide / torch.sqrt(wide.square().mean(-1, keepdim=True) + self.inner.eps)
        return (wide * gain.double() + offset.double()).to(x.dtype)

    def graph(self, x: Signal, at: Any) -> Signal:
        """As in full precision."""
        return self.inner.graph(x, at)
