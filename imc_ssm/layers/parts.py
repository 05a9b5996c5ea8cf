"""What stands around a layer: dense matrices, nonlinearities, sums, norms and the pool.

Every operation that makes an activation is a module, takes the padding mask, and adds its operator to the graph,
so that quantization can wrap it and a chip can price it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from imc_ssm.errors import ConfigError, unknown
from imc_ssm.graph import (
    Affine,
    Gate,
    Join,
    Last,
    LookUp,
    Matrix,
    Mean,
    Normalize,
    Piecewise,
    Place,
    Rectify,
    Scale,
    Signal,
    Source,
    Sum,
)

__all__ = [
    "Both",
    "Dense",
    "Direct",
    "Gelu",
    "Gelu2",
    "Glu",
    "Input",
    "LastPool",
    "MeanPool",
    "Norm",
    "PiecewiseGelu",
]
__all__ += ["Relu", "Residual"]


class Input(nn.Module):
    """The sequence as it comes in."""

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        return u

    def graph(self, channels: int, at: Place) -> Signal:
        """The signal "input" of so many channels."""
        return at.emit(Source("input", at.path, (), at.signal(width=channels)))


class Dense(nn.Linear):
    """y = W x + b: a matrix-vector product, which belongs on crossbar tiles.

    The weight passes through `grid` on its way to the product: the place of a hook that disturbs it.
    `complex_output`: the first half of the outputs are real parts, the second half imaginary parts. `dropped`: its
    inputs pass a dropout in training.
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = True, complex_output: bool = False, dropped: bool = False
    ) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.complex_output, self.biased, self.dropped = complex_output, bias, dropped
        self.grid = nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return nn.functional.linear(x, self.grid(self.weight), self.bias)

    def graph(self, x: Signal, at: Place) -> Signal:
        """One matrix."""
        y = at.signal(width=self.out_features, rate=x.rate, complex=self.complex_output)
        return at.emit(Matrix(at.label(), at.path, (x,), y, biased=self.biased))


class Gelu(nn.GELU):
    """The Gaussian error linear unit, x Phi(x)."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x)

    def graph(self, x: Signal, at: Place) -> Signal:
        """A table."""
        return at.emit(LookUp(at.label(), at.path, (x,), at.signal(width=x.width)))


class Gelu2(nn.Module):
    """The GELU of a GELU, as in the S4Block of state-spaces/s4 4.0: its convolution has one, the block another."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return nn.functional.gelu(nn.functional.gelu(x))

    def graph(self, x: Signal, at: Place) -> Signal:
        """One table."""
        return at.emit(LookUp(at.label(), at.path, (x,), at.signal(width=x.width), "GELU of GELU"))


class PiecewiseGelu(nn.Module):
    """x min(max(0, x + 2), 4) / 4: the GELU of quantized S4D, an addition, a clamp, a product and a shift.

    Source: Zhao et al. 2025 (arXiv:2506.12480).
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x * (x + 2).clamp(0, 4) / 4

    def graph(self, x: Signal, at: Place) -> Signal:
        """Arithmetic alone."""
        return at.emit(Piecewise(at.label(), at.path, (x,), at.signal(width=x.width)))


class Relu(nn.ReLU):
    """max(0, x)."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x)

    def graph(self, x: Signal, at: Place) -> Signal:
        """A comparison, between two grids."""
        return at.emit(Rectify(at.label(), at.path, (x,), at.signal(width=x.width)))


class Glu(nn.GLU):
    """The gated linear unit x_1 sigmoid(x_2), (..., 2 H) -> (..., H)."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x)

    def graph(self, x: Signal, at: Place) -> Signal:
        """A gate."""
        return at.emit(Gate(at.label(), at.path, (x,), at.signal(width=x.width // 2)))


class Residual(nn.Module):
    """The sum of a branch and what went around it."""

    def forward(self, x: Tensor, straight: Tensor, mask: Tensor | None = None) -> Tensor:
        return x + straight

    def graph(self, x: Signal, straight: Signal, at: Place) -> Signal:
        """One sum a channel."""
        return at.emit(Sum(at.label(), at.path, (x, straight), at.signal(width=x.width)))


class Both(Residual):
    """The sum of two directions of time."""

    def graph(self, x: Signal, straight: Signal, at: Place, entering: Signal) -> Signal:  # type: ignore[override]
        """One sum a channel, of sequences that have waited for each other, and for what enters both."""
        return at.emit(Join(at.label(), at.path, (x, straight), at.signal(width=x.width), entering=entering))


class Direct(nn.Module):
    """y + D u, with one D per channel."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.D = nn.Parameter(torch.randn(heads))

    def forward(self, y: Tensor, u: Tensor, mask: Tensor | None = None) -> Tensor:
        return y + self.D * u

    def graph(self, y: Signal, u: Signal, at: Place) -> Signal:
        """One product and one sum a channel."""
        return at.emit(Scale(at.label(), at.path, (y, u), at.signal(width=y.width)))


NORMS: dict[str, Any] = {"layer": nn.LayerNorm, "rms": nn.RMSNorm, "batch": nn.BatchNorm1d}
"""Names of the norms."""


class Norm(nn.Module):
    """LayerNorm or RMSNorm over channels, or BatchNorm per channel over batch and time; (..., H).

    No statistics see the padding, and what is there is taken as 0.
    """

    def __init__(self, kind: str, heads: int) -> None:
        super().__init__()
        if kind not in NORMS:
            raise ConfigError(unknown("norm", kind, NORMS))
        self.kind, self.channels, self.eps = kind, heads, 1e-5
        self.norm: nn.Module = NORMS[kind](heads, eps=self.eps)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None and x.ndim == 3:
            x = torch.where(mask[..., None], x, 0)
            if self.training and self.kind == "batch":  # its statistics are of all steps
                out = x.clone()
                out[mask] = self.norm(x[mask])
                return out
        return torch.as_tensor(self.norm(x.reshape(-1, x.shape[-1]))).reshape(x.shape)

    def graph(self, x: Signal, at: Place) -> Signal:
        """Statistics, scale and shift; of a batch norm the last two."""
        y = at.signal(width=x.width)
        if self.kind == "batch":
            return at.emit(Affine(at.label(), at.path, (x,), y))
        return at.emit(Normalize(at.label(), at.path, (x,), y, centred=self.kind == "layer"))


class MeanPool(nn.Module):
    """Mean over time, (B, T, H) -> (B, H), of the steps within each sequence where there is a mask."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return x.mean(1)
        # not a product with the mask: what is not a number in the padding must not reach the sum
        return torch.where(mask[..., None], x, 0).sum(1) / mask.sum(1, keepdim=True)

    def step(self, x: Tensor, total: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """(mean, sum) after one step more: x (B, H), `total` the float64 sum of the `count` steps before it."""
        total = total + x
        return (total / (count + 1)).to(x.dtype), total

    def graph(self, x: Signal, at: Place) -> Signal:
        """A running sum, and a product at the end."""
        return at.emit(Mean(at.label(), at.path, (x,), at.signal(width=x.width, rate="sequence")))


class LastPool(nn.Module):
    """The last step of each sequence, (B, T, H) -> (B, H): the last within it where there is a mask."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return x[:, -1]
        return x[torch.arange(len(x), device=x.device), mask.sum(1) - 1]

    def step(self, x: Tensor, total: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """(x, total): the step is the last so far."""
        return x, total

    def graph(self, x: Signal, at: Place) -> Signal:
        """What is in the buffer at the end."""
        return at.emit(Last(at.label(), at.path, (x,), at.signal(width=x.width, rate="sequence")))
