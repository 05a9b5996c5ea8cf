"""The quantized matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from imc_ssm.fixedpoint import Format, broadcast_heads
from imc_ssm.fixedpoint.operators import plan_linear
from imc_ssm.graph import Place, Signal
from imc_ssm.kernels import MatrixConstants, linear_on_grids
from imc_ssm.kernels import linear as product
from imc_ssm.kernels.grid import Array
from imc_ssm.layers import Dense
from imc_ssm.quantization.context import Context, fits, quantizes
from imc_ssm.quantization.kept import Kept
from imc_ssm.quantization.quantizer import Quantizer, fake_quantize, parameter_format, rounded_codes
from imc_ssm.quantization.rules import FormatSpec

__all__ = ["DigitalMatrix", "ParameterGrid", "QuantizedDense", "centred"]


class ParameterGrid(nn.Module):
    """A parameter on the grid over its current values: one format per row, or per tensor.

    Rows of one value share a format: one each would hold every value exactly, at any word length.
    """

    def __init__(self, spec: FormatSpec) -> None:
        super().__init__()
        self.spec = spec
        self._kept: Kept[tuple[Tensor, Format | None]] = Kept()

    def format(self, value: Tensor) -> Format | None:
        """The format in force; None in full precision."""
        spec = self.spec
        if spec.bits is None:
            return None
        alone = value.ndim == 1 or value.shape[1] == 1
        rows = "tensor" if spec.granularity == "tensor" or alone else "head"
        return parameter_format(value, spec.bits, rows, symmetric=spec.symmetric, power_of_two=spec.power_of_two)

    def codes(self, value: Tensor) -> Array:
        """Codes int64 of what `forward` gives; in full precision its values."""
        fmt, array = self.format(value), value.detach().cpu().numpy()
        return array if fmt is None else rounded_codes(array, fmt)

    def on_grid(self, value: Tensor) -> tuple[Tensor, Format | None]:
        """What `forward` gives, and its format; None in full precision."""
        if self.spec.bits is None:
            return value, None
        return self._kept.get([value], (), lambda: self._rounded(value))

    def forward(self, value: Tensor) -> Tensor:
        return self.on_grid(value)[0]

    def _rounded(self, value: Tensor) -> tuple[Tensor, Format | None]:
        fmt = self.format(value)
        return value if fmt is None else fake_quantize(value, fmt, 0), fmt


def centred(value: Tensor, fmt: Format) -> Array:
    """Centred codes int64 of a parameter as a `ParameterGrid` rounds it."""
    array = value.detach().cpu().numpy()
    return np.asarray(rounded_codes(array, fmt) - broadcast_heads(fmt.zero_point, array.ndim, 0))


class DigitalMatrix(nn.Module):
    """W x + b with W and b on their grids.

    From a fixed grid to one it is computed in integers; so it is where nothing rounds the outputs (`last`), which
    are the sums themselves then. Elsewhere the product is summed in float64, so that the result does not depend on
    the order of the sum: batched and streaming inference give the same codes. The weight passes through `grid`:
    the place of a hook that disturbs it. `log_input_range`: logarithm of the full scale of its inputs on a chip,
    where training learned it; a digital product does not clip.
    """

    groups: ClassVar[dict[str, str]] = {"log_input_range": "dynamics"}

    takes_format = True
    """Whether `forward` rounds its outputs where asked: what does the product on a chip may, too."""

    def __init__(
        self,
        linear: Dense,
        weight: FormatSpec,
        bias: FormatSpec,
        source: Quantizer | None = None,
        *,
        last: bool = False,
    ) -> None:
        """`source`: of what enters, owned by the module before; None: it has none."""
        super().__init__()
        self.linear, self.last = linear, last
        self._source = None if source is None else (source,)
        self._kept: Kept[tuple[Tensor, Tensor | None, MatrixConstants]] = Kept()
        self.grid, self.bias_grid = ParameterGrid(weight), ParameterGrid(bias)
        self.log_input_range: nn.Parameter | None = None

    def learn_input_range(self, start: float) -> None:
        """Make the full scale of its inputs a parameter, at first `start`."""
        self.log_input_range = nn.Parameter(
            torch.tensor(math.log(start), dtype=self.weight.dtype, device=self.weight.device)
        )

    @property
    def input_range(self) -> float | None:
        """The full scale of its inputs that training learned; None: it learned none."""
        return None if self.log_input_range is None else math.exp(float(self.log_input_range.detach()))

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, *more: Any) -> None:
        if f"{prefix}log_input_range" in state and self.log_input_range is None:
            self.learn_input_range(1.0)
        super()._load_from_state_dict(state, prefix, *more)

    @property
    def weight(self) -> Tensor:
        """The weights as trained, (outputs, inputs)."""
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias on its grid, (outputs,)."""
        bias: Tensor | None = self.linear.bias
        return None if bias is None else self.bias_grid(bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, fmt: Format | None = None) -> Tensor:
        """The product, on the grid of `fmt` if one is given."""
        inside, linear = self._modules, self.linear  # a look at a module's module costs a microsecond
        grid, weight, bias = inside["grid"], linear.weight, linear.bias
        assert isinstance(grid, ParameterGrid)
        source = None if self._source is None else self._source[0].fixed()
        # What comes through a dropout lies on no grid, and neither does what a hook disturbs.
        disturbed = (
            (linear.dropped and self.training) or grid._forward_hooks or (self.last and self._forward_hooks)
        )
        apart = disturbed or grid.spec.bits is None or (fmt is None and not self.last)
        if source is None or apart or not fits(source, weight.shape[1]):
            return product(x, grid(weight), self.bias, fmt)
        held = [weight] if bias is None else [weight, bias]
        return linear_on_grids(x, *self._kept.get(held, (source, fmt), lambda: self._integers(source, fmt)))

    def _integers(self, source: Format, output: Format | None) -> tuple[Tensor, Tensor | None, MatrixConstants]:
        """Weight and bias on their grids, and what is computed with."""
        (weight, fmt), bias, offset = self.grid.on_grid(self.weight), None, None
        assert fmt is not None
        if self.linear.bias is not None:
            bias, of_bias = self.bias_grid.on_grid(self.linear.bias)
            offset = bias.detach().cpu().double().numpy()
            if of_bias is not None:  # the codes' values, in double precision
                offset = of_bias.scale.astype(np.float64) * centred(self.linear.bias, of_bias)
        outputs, inputs = weight.shape
        plan = plan_linear(fmt, source, output, (outputs, inputs), offset)
        return weight, bias, MatrixConstants(plan, centred(self.weight, fmt), source, output)

    def words(self) -> dict[str, Array]:
        """Codes of "weight" and "bias" (without bits: its values)."""
        made = {"weight": self.grid.codes(self.weight)}
        return made if self.linear.bias is None else {**made, "bias": self.bias_grid.codes(self.linear.bias)}

    def formats(self) -> dict[str, Format]:
        """Those of "weight" and "bias", where they have bits."""
        pairs = {"weight": (self.grid, self.weight), "bias": (self.bias_grid, self.linear.bias)}
        made = {name: grid.format(value) for name, (grid, value) in pairs.items() if value is not None}
        return {name: fmt for name, fmt in made.items() if fmt is not None}


@quantizes(Dense)
class QuantizedDense(nn.Module):
    """A dense matrix with quantized weights and output.

    `matrix` does the product: digital here; a compiled model puts analog tiles in its place.
    """

    def __init__(
        self,
        linear: Dense,
        weight: FormatSpec,
        bias: FormatSpec,
        output: Quantizer | None,
        source: Quantizer | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.complex_output, self.biased = linear.complex_output, linear.bias is not None
        self.output = output
        self.matrix: nn.Module = DigitalMatrix(linear, weight, bias, source, last=output is None)

    @property
    def inner(self) -> nn.Module:
        """The matrix in full precision."""
        assert isinstance(self.matrix, DigitalMatrix)
        return self.matrix.linear

    @classmethod
    def of(cls, module: Dense, context: Context) -> QuantizedDense:
        """A matrix whose output nothing reads (a decoder's logits) has no quantizer for it."""
        bias = context.spec("bias") if module.bias is not None else FormatSpec()
        read = any(s.name == context.path for op in context.graph for s in op.inputs)
        output = context.output() if read else None
        return cls(module, context.spec("weight"), bias, output, *context.sources())

    def quantizers(self) -> dict[str, Quantizer]:
        """The output's."""
        return {} if self.output is None else {"": self.output}

    def words(self) -> dict[str, Array]:
        """Codes of weights and bias; none where something else does the product."""
        return self.matrix.words() if isinstance(self.matrix, DigitalMatrix) else {}

    def formats(self) -> dict[str, Format]:
        """Of the output, weights and bias."""
        made = self.matrix.formats() if isinstance(self.matrix, DigitalMatrix) else {}
        if self.output is not None and self.output.bits is not None:
            made[""] = self.output.format()
        return made

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        matrix = self.matrix
        fmt = None if self.output is None else self.output.fixed()
        # One pass for product and rounding, unless someone looks at, or disturbs, what is between the two.
        if fmt is not None and getattr(matrix, "takes_format", False) and not matrix._forward_hooks:
            learned = self.output is not None and self.output.log_factor is not None
            if not learned:
                return torch.as_tensor(matrix(x, mask, fmt))
            if isinstance(matrix, DigitalMatrix) and "forward" not in vars(matrix):
                return self._with_range(matrix, torch.as_tensor(matrix(x, mask, fmt)), x.detach())
        y = torch.as_tensor(matrix(x, mask))
        return y if self.output is None else torch.as_tensor(self.output(y, mask))

    def _with_range(self, matrix: DigitalMatrix, y: Tensor, x: Tensor) -> Tensor:
        """y, rounded, with the gradient of its range."""
        assert self.output is not None

        def before() -> Tensor:
            return nn.functional.linear(x, matrix.grid(matrix.weight), matrix.bias)

        return self.output.learned(y, before)

    def graph(self, x: Signal, at: Place) -> Signal:
        """One matrix, as in full precision."""
        return Dense.graph(self, x, at)  # type: ignore[arg-type]
