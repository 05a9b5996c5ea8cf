"""The block around a layer, whole.

    post-norm   y = norm(u + branch(u))              pre-norm   y = u + branch(norm(u))
    branch      layer (both directions, or one) -> activation -> dropout -> mixing -> gate

Shapes: B batch, T time, H channels that enter, J that leave.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from imc_ssm.errors import ConfigError, ImcSsmError, unknown
from imc_ssm.graph import Place, Signal
from imc_ssm.layers.parts import Both, Dense, Gelu, Gelu2, Glu, Norm, Relu, Residual
from imc_ssm.layers.registry import LAYERS, LayerConfig

__all__ = ["Activation", "Block", "Gating", "NormKind", "reversed_in_time"]

NormKind = Literal["none", "layer", "rms", "batch"]
Activation = Literal["gelu", "gelu2", "relu", "none"]
Gating = Literal["glu", "none"]
ACTIVATIONS: dict[str, tuple[str, Any]] = {
    "gelu": ("gelu", Gelu),
    "gelu2": ("gelu", Gelu2),
    "relu": ("relu", Relu),
}
"""Name of an activation -> name of the module in a block, and its class."""


def reversed_in_time(x: Tensor, mask: Tensor | None) -> Tensor:
    """x (B, T, H) from the end of each sequence to its start; what follows the end stays where it is."""
    if mask is None:
        return x.flip(1)
    time, lengths = torch.arange(x.shape[1], device=x.device), mask.sum(1, keepdim=True)
    places = torch.where(mask, lengths - 1 - time, time)
    return x.gather(1, places[..., None].expand_as(x))


class Block(nn.Module):
    """(B, T, H) -> (B, T, J); without a residual sum where H and J differ.

    Parts that it has not are None, or not there: `gelu` and `relu`, `glu`, `residual`, `norm`, `reverse` (the
    layer that runs from the end) and `both` (the sum of both directions).
    """

    def __init__(
        self,
        layer: LayerConfig,
        inputs: int,
        outputs: int,
        *,
        norm: NormKind = "none",
        prenorm: bool = False,
        activation: Activation = "gelu",
        gate: Gating = "glu",
        residual: bool = True,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.prenorm = prenorm
        self.ssm: Any = LAYERS[layer.type](inputs, layer)
        self.reverse: Any = LAYERS[layer.type](inputs, layer) if bidirectional else None
        self.both: Any = Both() if bidirectional else None
        if activation != "none":
            if activation not in ACTIVATIONS:
                raise ConfigError(unknown("activation", activation, (*ACTIVATIONS, "none")))
            name, made = ACTIVATIONS[activation]
            self.add_module(name, made())
        self.dropout = nn.Dropout(dropout)
        self.mixing: Any = Dense(inputs, 2 * outputs if gate == "glu" else outputs, dropped=dropout > 0)
        if gate == "glu":
            self.glu: Any = Glu(dim=-1)
        self.residual: Any = Residual() if residual and inputs == outputs else None
        self.norm: Any = None if norm == "none" else Norm(norm, inputs if prenorm else outputs)
        self._branch = tuple(name for name in ("gelu", "relu", "mixing", "glu") if hasattr(self, name))

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.norm(u, mask) if self._first else u
        y = self.ssm(x, mask)
        if self.reverse is not None:
            back = self.reverse(reversed_in_time(x, mask), mask)
            y = self.both(y, reversed_in_time(back, mask), mask)
        return self._after(y, u, mask)

    @property
    def _first(self) -> bool:
        return self.prenorm and self.norm is not None

    def _after(self, y: Tensor, u: Tensor, mask: Tensor | None) -> Tensor:
        for name in self._branch:
            if name == "mixing":
                y = self.dropout(y)
            y = getattr(self, name)(y, mask)
        if self.residual is not None:
            y = self.residual(y, u, mask)
        return torch.as_tensor(y if self.norm is None or self.prenorm else self.norm(y, mask))

    def init_state(self, batch: int) -> Any:
        """The layer's. `ImcSsmError` for a bidirectional block."""
        if self.reverse is not None:
            raise ImcSsmError(
                "a bidirectional model reads a sequence from its end too and cannot stream; give it whole "
                "sequences, or build it with bidirectional=False"
            )
        return self.ssm.init_state(batch)

    def step(self, u: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One time step: u (B, H) -> (B, J), next state."""
        y, state = self.ssm.step(self.norm(u, None) if self._first else u, state)
        return self._after(y, u, None), state

    def graph(self, u: Signal, at: Place) -> Signal:
        """Everything in it, in order."""
        x: Signal = self.norm.graph(u, at / "norm") if self._first else u
        y: Signal = self.ssm.graph(x, at / "ssm")
        if self.reverse is not None:
            back = self.reverse.graph(x, replace(at / "reverse", reverse=True))
            y = self.both.graph(y, back, at / "both", x)
        for name in self._branch:
            y = getattr(self, name).graph(y, at / name)
        if self.residual is not None:
            y = self.residual.graph(y, u, at / "residual")
        if self.norm is not None and not self.prenorm:
            y = self.norm.graph(y, at / "norm")
        return y
