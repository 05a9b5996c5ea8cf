"""The wall of layers: what a layer must have, its configuration, and the names under which layers are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

from torch import Tensor, nn

from imc_ssm.config import Config, Kinds
from imc_ssm.errors import ConfigError
from imc_ssm.graph import Place, Signal

__all__ = ["LAYERS", "LAYER_CONFIGS", "Layer", "LayerConfig", "Mode", "register"]

Mode = Literal["convolution", "recurrent"]
"""How a linear recurrence runs over a whole sequence: by its convolution kernel, or step by step."""


class LayerConfig(Config):
    """What every layer's configuration is made from; `type` is the name under which the layer is registered."""

    type: str = ""

    def state_counts(self, heads: int) -> tuple[int, ...]:
        """Complex states of each of the systems of a layer of so many heads; none where states cannot be
        counted."""
        return ()

    def with_states(self, counts: tuple[int, ...]) -> Self:
        """The same layer with so many complex states in each of its systems: what pruning leaves.

        Raises `ConfigError` where the layer has no states that could be left out.
        """
        raise ConfigError(
            f"layer {self.type!r} has no states that can be pruned; prune heads or weights, or give its "
            "configuration the methods state_counts and with_states"
        )


class Layer(Protocol):
    """A sequence layer of H channels, a `torch.nn.Module`; built as `Layer(heads, config)`.

    Its modules may have
      * `groups`: parameter name -> optimiser group, for those that are not weights ("dynamics");
      * `mode`: `Mode`, if it can run in several.
    """

    groups: ClassVar[dict[str, str]]

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """u (batch, time, H) -> (batch, time, H), causal; `mask` (batch, time) is False in the padding."""
        ...

    def init_state(self, batch: int) -> Any:
        """The state before the first step."""
        ...

    def step(self, u: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One time step: u (batch, H) -> (batch, H), next state; the same numbers as `forward`."""
        ...

    def graph(self, u: Signal, at: Place) -> Signal:
        """Add the layer's operators at its place; the signal that comes out."""
        ...


LAYER_CONFIGS: Kinds[LayerConfig] = Kinds("layer")
"""Configurations of the registered layers."""
LAYERS: dict[str, Callable[[int, Any], nn.Module]] = {}
"""Name -> class of every registered layer, called with the number of heads and the configuration."""

M = TypeVar("M", bound=type[nn.Module])


def register(config: type[LayerConfig]) -> Callable[[M], M]:
    """Class decorator: make a layer known under its configuration's `type`. `ConfigError` for a name that is
    taken."""
    LAYER_CONFIGS.register(config)

    def known(layer: M) -> M:
        LAYERS[str(config.model_fields["type"].default)] = layer
        return layer

    return known
