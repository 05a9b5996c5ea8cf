"""A sequence classifier around any registered layer.

    encoder -> block x layers -> mean over time -> decoder             block: `imc_ssm.layers.block`

Shapes: B batch, T time, D input channels, H heads (channels of a layer), K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
import torch
from pydantic import BeforeValidator, Discriminator, Field, SerializeAsAny, Tag, model_validator
from torch import Tensor, nn

from imc_ssm.config import Config
from imc_ssm.errors import ConfigError, ImcSsmError, shown, unknown
from imc_ssm.graph import Graph, Place
from imc_ssm.kernels.device import device_of, precision_of, single_precision
from imc_ssm.kernels.operators import eager
from imc_ssm.layers.block import Activation, Block, Gating, NormKind
from imc_ssm.layers.parts import Dense, Input, LastPool, MeanPool, Norm
from imc_ssm.layers.registry import LAYER_CONFIGS, LayerConfig, Mode
from imc_ssm.layers.s4d import S4DConfig
from imc_ssm.units import card, card_html

__all__ = ["PRESETS", "Block", "Classifier", "ModelConfig", "padding_mask", "preset"]


Width = Annotated[int, Field(ge=1)]
Widths = Annotated[
    Annotated[Width, Tag("int")] | Annotated[tuple[Width, ...], Tag("tuple[int]")],
    Discriminator(lambda given: "tuple[int]" if isinstance(given, list | tuple) else "int"),
]
"""One for all blocks, or one a block; told apart beforehand, so that an error is about one of the two."""


class ModelConfig(Config):
    """The architecture of a classifier. Fields of the layer may be given beside the others: `n_state=16`.

    >>> import imc_ssm
    >>> config = imc_ssm.ModelConfig(heads=64, layers=4, n_state=16)
    >>> config.with_(layer="s5").layer.type
    's5'
    """

    inputs: int = Field(1, ge=1)
    """D, input channels."""
    heads: Widths = 16
    """H, heads (features) of every layer, or of each: block i maps heads[i] to heads[i + 1] channels, the last one
    keeps its own."""
    layers: int = Field(1, ge=1)
    """Number of blocks."""
    outputs: int = Field(10, ge=1)
    """K, outputs of the decoder: classes, or values of a regression."""
    layer: Annotated[SerializeAsAny[LayerConfig], BeforeValidator(LAYER_CONFIGS.of)] = S4DConfig()
    """The sequence layer of every block: the configuration of a registered one, with its `type`, or just its
    name."""
    norm: NormKind = "none"
    """Normalisation of each block: LayerNorm or RMSNorm over its channels, BatchNorm over batch and time."""
    prenorm: bool = False
    """The norm stands at the start of the block's branch, or behind the residual sum."""
    final_norm: bool = False
    """One more norm behind the last block."""
    activation: Activation = "gelu"
    """Nonlinearity behind the layer."""
    gate: Gating = "glu"
    """The mixing matrix makes 2 H channels for a gated linear unit, or H."""
    residual: bool = True
    """What enters a block is added to what leaves it, where it has as many channels."""
    bidirectional: bool = False
    """A second layer in each block runs from the end of the sequence; such a model cannot stream."""
    pool: Literal["mean", "last", "none"] = "mean"
    """What the decoder reads: the mean over time, the last step, or every step (logits (B, T, K))."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping an activation in front of the mixing matrix, in training."""
    states: tuple[tuple[int, ...], ...] | None = None
    """Complex states of every system of every block (S4D: a system a head; S5: one), where pruning left different
    ones; None: as the layer says, N/2."""

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, data: Any) -> Any:
        """Fields that are the layer's are moved there."""
        if not isinstance(data, dict):
            return data
        if "classes" in data:  # the old name, as in files of earlier versions
            if "outputs" in data:
                raise ConfigError("classes is the old name of outputs; give one of the two")
            data = {("outputs" if name == "classes" else name): value for name, value in data.items()}
        if isinstance(data.get("heads"), (list, tuple)) and "layers" not in data:
            data = data | {"layers": len(data["heads"])}
        layer = data.get("layer", {})
        given = layer.model_dump() if isinstance(layer, LayerConfig) else layer
        if not isinstance(given, str | dict):
            raise ConfigError(f"layer = {shown(given)}; give a layer's configuration or its name")
        given = {"type": given} if isinstance(given, str) else {"type": "s4d", **given}
        kind = LAYER_CONFIGS.known.get(str(given["type"]))
        if kind is None:
            raise ConfigError(unknown("layer", str(given["type"]), LAYER_CONFIGS.known))
        fields = set(kind.model_fields) - {"type"}
        known = [*cls.model_fields, *sorted(fields)]
        for name in data:
            if name not in known:
                others = [other for other, one in LAYER_CONFIGS.known.items() if name in one.model_fields]
                if others:
                    raise ConfigError(
                        f"field {name!r} is one of layer {others[0]!r}, not of {given['type']!r}, which has "
                        f"{', '.join(sorted(fields))}; leave it out or take that layer"
                    )
                raise ConfigError(unknown("field", str(name), known))
        own = {name: data[name] for name in fields & set(data)}
        rest = {name: value for name, value in data.items() if name not in own}
        return rest | {"layer": given | own}

    @model_validator(mode="after")
    def _one_width_a_block(self) -> ModelConfig:
        if isinstance(self.heads, tuple) and len(self.heads) != self.layers:
            raise ValueError(
                f"heads = {self.heads} are widths of {len(self.heads)} blocks, layers = {self.layers}; give one "
                "width for all, or one a block"
            )
        if self.final_norm and self.norm == "none":
            raise ValueError("final_norm = True, but norm = 'none'; name the norm: layer, rms or batch")
        return self

    @model_validator(mode="after")
    def _states_of_systems(self) -> ModelConfig:
        if self.states is None:
            return self
        if len(self.states) != self.layers:
            raise ValueError(
                f"states are those of {len(self.states)} blocks, layers = {self.layers}; give one list a block"
            )
        for block, (own, heads) in enumerate(zip(self.states, self.widths, strict=True)):
            self.layer.with_states(own)  # says what cannot be
            systems = len(self.layer.state_counts(heads))
            if systems != len(own):
                raise ValueError(
                    f"states of block {block} are {len(own)} numbers, its layer {self.layer.type!r} has {systems} "
                    "systems; give one number for each"
                )
        return self

    def layer_of(self, block: int) -> LayerConfig:
        """The layer of a block, with the states that it has."""
        return self.layer if self.states is None else self.layer.with_states(self.states[block])

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each block's layer."""
        return self.heads if isinstance(self.heads, tuple) else (self.heads,) * self.layers

    @property
    def width(self) -> int:
        """Channels of the widest block."""
        return max(self.widths)

    @property
    def classes(self) -> int:
        """The old name of `outputs`."""
        return self.outputs

    def with_(self, changes: Mapping[str, Any] | None = None, /, **fields: Any) -> Self:
        """As `Config.with_`, under the old name `classes` too."""
        given = dict(changes or {}) | fields
        return super().with_({("outputs" if name == "classes" else name): v for name, v in given.items()})

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


POOLS: dict[str, type[nn.Module]] = {"mean": MeanPool, "last": LastPool}
"""Names of what stands between the blocks and the decoder."""


def _block(config: ModelConfig, index: int, inputs: int, outputs: int) -> Block:
    return Block(
        config.layer_of(index),
        inputs,
        outputs,
        norm=config.norm,
        prenorm=config.prenorm,
        activation=config.activation,
        gate=config.gate,
        residual=config.residual,
        bidirectional=config.bidirectional,
        dropout=config.dropout,
    )


def padding_mask(lengths: Tensor | None, time: int) -> Tensor | None:
    """(batch, time), True within the sequences; None: none is padded."""
    if lengths is None:
        return None
    return torch.arange(time, device=lengths.device) < lengths[:, None]


class Classifier(nn.Module):
    """The whole model: u (B, T, D) -> logits (B, K), or (B, T, K) without a pool.

    `lengths` (B,) gives the number of valid steps of each sequence; what follows them cannot reach the logits of
    these, because the layers are causal (or turn round at the end) and the pool stops there.

    Parameters are float32, whatever torch's default type is; `.double()` makes others. Raises `ImcSsmError` for an
    input of another shape or precision, or lengths outside 1 .. T.
    """

    @torch.inference_mode(False)  # it can be trained, wherever it was built
    @single_precision()
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.input: Any = Input()
        self.encoder: Any = Dense(config.inputs, widths[0])
        pairs = zip(widths, (*widths[1:], widths[-1]), strict=True)
        self.blocks: Any = nn.ModuleList(_block(config, i, *pair) for i, pair in enumerate(pairs))
        self.norm: Any = Norm(config.norm, widths[-1]) if config.final_norm else None
        self.pool: Any = POOLS[config.pool]() if config.pool in POOLS else None
        self.decoder: Any = Dense(widths[-1], config.outputs)

    @eager
    def forward(self, u: Tensor, lengths: Tensor | None = None) -> Tensor:
        self.check(u, lengths)
        mask = padding_mask(lengths, u.shape[1])
        if mask is not None:  # whatever stands behind an end, a Fourier transform would mix it with what counts
            u = torch.where(mask[..., None], u, 0)
        x = self.encoder(self.input(u, mask), mask)
        for block in self.blocks:
            x = block(x, mask)
        if self.norm is not None:
            x = self.norm(x, mask)
        return torch.as_tensor(self.decoder(x, mask) if self.pool is None else self.decoder(self.pool(x, mask)))

    def _card(self) -> tuple[str, dict[str, object]]:
        config = self.config
        scheme = getattr(self, "scheme", None)
        rows: dict[str, object] = {
            "config": config,
            "parameters": f"{sum(p.numel() for p in self.parameters()):,}",
            "precision": "full" if scheme is None else f"quantized, {getattr(scheme, 'label', scheme)}",
            "modules": ", ".join(name for name, _ in self.named_children()),
        }
        return f"Classifier: {config.layers} x {config.layer.type}", rows

    def __repr__(self) -> str:
        """A few lines; `torch.nn.Module.__repr__(model)` prints every module."""
        return card(*self._card())

    def _repr_html_(self) -> str:
        return card_html(*self._card())

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
        precision = precision_of(self)
        if u.dtype != precision:
            raise ImcSsmError(f"{what}: dtype {u.dtype}, the model has {precision}; convert with .to({precision})")
        if lengths is None:
            return
        given = lengths
        if not isinstance(given, Tensor):
            raise ImcSsmError(f"lengths are a {type(given).__name__}; give a tensor: torch.as_tensor(lengths)")
        if lengths.shape != (len(u),) or lengths.is_floating_point() or lengths.dtype == torch.bool:
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
        """Run every layer that can by "convolution" or in "recurrent" mode; returns the model. `ConfigError` for
        another mode."""
        if mode not in get_args(Mode):
            raise ConfigError(unknown("mode", mode, get_args(Mode)))
        for module in self.modules():
            if hasattr(module, "mode"):
                module.mode = mode  # type: ignore[assignment]
        return self

    def init_state(self, batch: int) -> tuple[list[Any], Tensor, int]:
        """The state of a stream: of every block, what the pool has summed so far, and the number of steps."""
        # float64, so that the order of the sum does not show in the mean.
        total = torch.zeros(batch, self.config.widths[-1], dtype=torch.float64, device=device_of(self))
        return [block.init_state(batch) for block in self.blocks], total, 0

    @eager
    def step(
        self, u: Tensor, state: tuple[list[Any], Tensor, int]
    ) -> tuple[Tensor, tuple[list[Any], Tensor, int]]:
        """One time step: u (B, D) -> logits (B, K) of the sequence so far (without a pool: of the step), next
        state."""
        states, total, count = state
        x = self.encoder(self.input(u))
        after = []
        for block, block_state in zip(self.blocks, states, strict=True):
            x, next_state = block.step(x, block_state)
            after.append(next_state)
        if self.norm is not None:
            x = self.norm(x, None)
        if self.pool is not None:
            x, total = self.pool.step(x, total, count)
        return torch.as_tensor(self.decoder(x)), (after, total, count + 1)

    def graph(self) -> Graph:
        """Every operator of one inference, in order."""
        at = Place()
        x = self.encoder.graph(self.input.graph(self.config.inputs, at / "input"), at / "encoder")
        for i, block in enumerate(self.blocks):
            x = block.graph(x, at / "blocks" / str(i))
        if self.norm is not None:
            x = self.norm.graph(x, at / "norm")
        if self.pool is not None:
            x = self.pool.graph(x, at / "pool")
        self.decoder.graph(x, at / "decoder")
        return Graph(tuple(at.operators))
