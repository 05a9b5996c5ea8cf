"""A sequence classifier around any registered layer.

    encoder -> [ layer -> GELU -> mixing to 2H -> GLU -> + residual -> norm ] x layers -> mean over time -> decoder

Shapes: B batch, T time, D input channels, H heads (channels of every layer), K classes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from torch import Tensor, nn

from imc_ssm.config import Config
from imc_ssm.errors import ConfigError, ImcSsmError, unknown
from imc_ssm.graph import Graph, Place, Signal
from imc_ssm.layers.parts import Dense, Gelu, Glu, Input, MeanPool, Norm, Residual
from imc_ssm.layers.registry import LAYER_CONFIGS, LAYERS, LayerConfig, Mode
from imc_ssm.layers.s4d import S4DConfig

__all__ = ["PRESETS", "Block", "Classifier", "ModelConfig", "padding_mask", "preset"]


class ModelConfig(Config):
    """The architecture of a classifier. Fields of the layer may be given beside the others: `n_state=16`.

    >>> import imc_ssm
    >>> config = imc_ssm.ModelConfig(heads=64, layers=4, n_state=16)
    >>> config.with_(layer="s5").layer.type
    's5'
    """

    inputs: int = Field(1, ge=1)
    """D, input channels."""
    heads: int = Field(16, ge=1)
    """H, heads (features) of every layer."""
    layers: int = Field(1, ge=1)
    """Number of blocks."""
    classes: int = Field(10, ge=2)
    """K, classes of the decoder."""
    layer: Annotated[SerializeAsAny[LayerConfig], BeforeValidator(LAYER_CONFIGS.of)] = S4DConfig()
    """The sequence layer of every block: the configuration of a registered one, with its `type`, or just its
    name."""
    norm: Literal["none", "layer", "batch"] = "none"
    """Normalisation at the end of each block."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping an activation after the GELU, in training."""

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, data: Any) -> Any:
        """Fields that are the layer's are moved there."""
        if not isinstance(data, dict):
            return data
        layer = data.get("layer", {})
        given = layer.model_dump() if isinstance(layer, LayerConfig) else layer
        given = {"type": given} if isinstance(given, str) else {"type": "s4d", **given}
        kind = LAYER_CONFIGS.known.get(str(given["type"]))
        fields = set() if kind is None else set(kind.model_fields) - {"type"}
        known = [*cls.model_fields, *sorted(fields)]
        for name in data:
            if name not in known:
                raise ConfigError(unknown("field", str(name), known))
        own = {name: data[name] for name in fields & set(data)}
        rest = {name: value for name, value in data.items() if name not in own}
        return rest | {"layer": given | own}

    def described(self, name: str) -> str:
        """As `Config.described`, also of the layer's fields."""
        return super().described(name) if name in type(self).model_fields else self.layer.described(name)


PRESETS: dict[str, ModelConfig] = {f"s4d-{h}h": ModelConfig(heads=h) for h in (16, 64, 256, 512)}
"""One layer, N = 64, no norm: 2 H^2 + 208 H + 10 parameters for one input channel and ten classes."""


def preset(name: str) -> ModelConfig:
    """The configuration of a preset; `ImcSsmError` names the nearest one if there is none."""
    if name not in PRESETS:
        raise ImcSsmError(unknown("model", name, PRESETS))
    return PRESETS[name]


def padding_mask(lengths: Tensor | None, time: int) -> Tensor | None:
    """(batch, time), True within the sequences; None: none is padded."""
    if lengths is None:
        return None
    return torch.arange(time, device=lengths.device) < lengths[:, None]


class Block(nn.Module):
    """u -> norm(glu(mixing(gelu(layer(u)))) + u), (B, T, H)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads = config.heads
        self.ssm: Any = LAYERS[config.layer.type](heads, config.layer)
        self.gelu: Any = Gelu()
        self.dropout = nn.Dropout(config.dropout)
        self.mixing: Any = Dense(heads, 2 * heads)
        self.glu: Any = Glu(dim=-1)
        self.residual: Any = Residual()
        self.norm: Any = None if config.norm == "none" else Norm(config.norm, heads)

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._after(self.ssm(u, mask), u, mask)

    def _after(self, y: Tensor, u: Tensor, mask: Tensor | None) -> Tensor:
        y = self.mixing(self.dropout(self.gelu(y, mask)), mask)
        y = self.residual(self.glu(y, mask), u, mask)
        return torch.as_tensor(y if self.norm is None else self.norm(y, mask))

    def init_state(self, batch: int) -> Any:
        """The layer's."""
        return self.ssm.init_state(batch)

    def step(self, u: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One time step: u (B, H) -> (B, H), next state."""
        y, state = self.ssm.step(u, state)
        return self._after(y, u, None), state

    def graph(self, u: Signal, at: Place) -> Signal:
        """Everything in it, in order."""
        y = self.gelu.graph(self.ssm.graph(u, at / "ssm"), at / "gelu")
        y = self.glu.graph(self.mixing.graph(y, at / "mixing"), at / "glu")
        y = self.residual.graph(y, u, at / "residual")
        return y if self.norm is None else self.norm.graph(y, at / "norm")  # type: ignore[no-any-return]


class Classifier(nn.Module):
    """The whole model: u (B, T, D) -> logits (B, K).

    `lengths` (B,) gives the number of valid steps of each sequence; what follows them cannot reach the logits,
    because the layers are causal and the pool stops there.

    Raises `ImcSsmError` for an input of another shape or precision, or lengths outside 1 .. T.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.input: Any = Input()
        self.encoder: Any = Dense(config.inputs, config.heads)
        self.blocks: Any = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.pool: Any = MeanPool()
        self.decoder: Any = Dense(config.heads, config.classes)

    def forward(self, u: Tensor, lengths: Tensor | None = None) -> Tensor:
        self.check(u, lengths)
        mask = padding_mask(lengths, u.shape[1])
        x = self.encoder(self.input(u, mask), mask)
        for block in self.blocks:
            x = block(x, mask)
        return torch.as_tensor(self.decoder(self.pool(x, mask)))

    def check(self, u: Tensor, lengths: Tensor | None, what: str = "the input") -> None:
        """`ImcSsmError` for what `forward` would refuse, named as `what`."""
        given: Any = u
        if not isinstance(given, Tensor):
            kind = "NumPy array" if isinstance(given, np.ndarray) else type(given).__name__
            raise ImcSsmError(f"{what} is a {kind}; give a tensor: torch.from_numpy(x)")
        if u.ndim != 3 or u.shape[-1] != self.config.inputs or 0 in u.shape:
            raise ImcSsmError(
                f"{what}: shape {tuple(u.shape)}; needed is (sequences, time, {self.config.inputs}) with at "
                "least one sequence and one step"
            )
        precision = next(self.parameters()).dtype
        if u.dtype != precision:
            raise ImcSsmError(f"{what}: dtype {u.dtype}, the model has {precision}; convert with .to({precision})")
        if lengths is None:
            return
        if lengths.shape != (len(u),) or lengths.is_floating_point():
            raise ImcSsmError(
                f"lengths have shape {tuple(lengths.shape)} and dtype {lengths.dtype}; needed is one integer for "
                f"each of the {len(u)} sequences"
            )
        if lengths.min() < 1 or lengths.max() > u.shape[1]:
            raise ImcSsmError(
                f"lengths run from {int(lengths.min())} to {int(lengths.max())}; allowed is 1 to {u.shape[1]}, "
                "the steps of the input"
            )

    def set_mode(self, mode: Mode) -> Classifier:
        """Run every layer that can by "convolution" or in "recurrent" mode; returns the model."""
        for module in self.modules():
            if hasattr(module, "mode"):
                module.mode = mode  # type: ignore[assignment]
        return self

    def init_state(self, batch: int) -> tuple[list[Any], Tensor, int]:
        """The state of a stream: of every block, the sum of the pooled features so far, and their count."""
        # float64, so that the order of the sum does not show in the mean.
        total = torch.zeros(batch, self.config.heads, dtype=torch.float64, device=next(self.parameters()).device)
        return [block.init_state(batch) for block in self.blocks], total, 0

    def step(
        self, u: Tensor, state: tuple[list[Any], Tensor, int]
    ) -> tuple[Tensor, tuple[list[Any], Tensor, int]]:
        """One time step: u (B, D) -> logits (B, K) of the sequence so far, next state."""
        states, total, count = state
        x = self.encoder(self.input(u))
        after = []
        for block, block_state in zip(self.blocks, states, strict=True):
            x, next_state = block.step(x, block_state)
            after.append(next_state)
        total, count = total + x, count + 1
        logits = self.decoder(self.pool((total / count).to(x.dtype)[:, None]))
        return torch.as_tensor(logits), (after, total, count)

    def graph(self) -> Graph:
        """Every operator of one inference, in order."""
        at = Place()
        x = self.encoder.graph(self.input.graph(self.config.inputs, at / "input"), at / "encoder")
        for i, block in enumerate(self.blocks):
            x = block.graph(x, at / "blocks" / str(i))
        self.decoder.graph(self.pool.graph(x, at / "pool"), at / "decoder")
        return Graph(tuple(at.operators))
