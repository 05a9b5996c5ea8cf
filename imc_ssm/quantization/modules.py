"""The wrapped matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imc_ssm.fixedpoint import Format
from imc_ssm.kernels import linear as product
from imc_ssm.quantization.kept import Kept, parameters_of
from imc_ssm.quantization.quantizer import Quantizer, fake_quantize, parameter_format
from imc_ssm.quantization.scheme import Scheme

__all__ = ["DigitalMatrix", "QuantizedLinear"]


class DigitalMatrix(nn.Module):
    """W x + b with W and b on their grids.

    The product is summed in float64, so that the result does not depend on the order of the sum: batched and
    streaming inference give the same codes.
    """

    def __init__(self, linear: nn.Linear, scheme: Scheme) -> None:
        super().__init__()
        self.linear, self.scheme = linear, scheme
        self.noise: Tensor | None = None
        self._weights: Kept[tuple[Tensor, Tensor | None]] = Kept()

    def weights(self) -> tuple[Tensor, Tensor | None]:
        """W (outputs, inputs) and b (outputs,) on their grids (one format per output row, or per tensor), plus the
        noise on W, if there is some.

        Rows of one value share a format: one each would hold every value exactly, at any word length.
        """
        weight, bias = self._weights.get(parameters_of(self.linear), (), self._rounded)
        return weight if self.noise is None else weight + self.noise, bias

    def _rounded(self) -> tuple[Tensor, Tensor | None]:
        scheme = self.scheme
        weight: Tensor = self.linear.weight
        rows = "tensor" if scheme.granularity == "tensor" or weight.shape[1] == 1 else "head"
        bias: Tensor | None = self.linear.bias
        if scheme.bits.weights is not None:
            fmt = parameter_format(weight, scheme.bits.weights, rows, symmetric=scheme.symmetric)
            weight = fake_quantize(weight, fmt, 0)
        if bias is not None and scheme.bits.biases is not None:
            fmt = parameter_format(bias, scheme.bits.biases, "tensor", symmetric=scheme.symmetric)
            bias = fake_quantize(bias, fmt, 0)
        return weight, bias

    def forward(self, x: Tensor, fmt: Format | None = None) -> Tensor:
        """The product, on the grid of `fmt` if one is given."""
        weight, bias = self.weights()
        return product(x, weight, bias, fmt)


class QuantizedLinear(nn.Module):
    """A dense matrix with quantized input (where it is the first of the model), weights and output.

    `matrix` does the product: digital here; a compiled model puts the analog tiles in its place.
    """

    def __init__(
        self, linear: nn.Linear, scheme: Scheme, source: Quantizer | None, output: Quantizer | None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.input, self.output = source, output
        self.matrix: nn.Module = DigitalMatrix(linear, scheme)

    @property
    def weight(self) -> Tensor:
        """The weights as trained, (outputs, inputs)."""
        linear = getattr(self.matrix, "linear", None)
        assert isinstance(linear, nn.Linear)
        return linear.weight

    def forward(self, x: Tensor) -> Tensor:
        if self.input is not None:
            x = self.input(x)
        matrix = self.matrix
        fmt = None if self.output is None else self.output.fixed()
        # One pass for product and rounding, unless someone looks at, or disturbs, what is between the two.
        if fmt is not None and isinstance(matrix, DigitalMatrix) and not matrix._forward_hooks:
            return torch.as_tensor(matrix(x, fmt))
        y = torch.as_tensor(matrix(x))
        return y if self.output is None else torch.as_tensor(self.output(y))
