"""Where heads and states lie in the tensors of a model, and a smaller model of those that are kept.

Nothing is declared for it, and no layer is known by name: a model of the same configuration with one head more, or
one state more in each system, is built and its shapes are compared. An axis that has grown by m holds m such
numbers a head, block after block (the two halves in front of a gated linear unit; real and imaginary parts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imc_ssm.errors import ConfigError, ImcSsmError, shown
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.layers.s4d import S4D
from imc_ssm.quantization import wrap

__all__ = ["Keep", "Structure", "smaller", "streams"]

Ints = NDArray[np.int64]
Shapes = dict[str, tuple[int, ...]]
DIRECTIONS = ("ssm", "reverse")
"""Names of a block's layers."""


def streams(config: ModelConfig) -> tuple[int, ...]:
    """Number of the stream that each block reads: blocks that a residual sum joins share one.

    The last block's output has its input's width, so it belongs to the same stream, residual or not.
    """
    numbers = [0]
    for before, after in zip(config.widths, config.widths[1:], strict=False):
        numbers.append(numbers[-1] + (not config.residual or before != after))
    return tuple(numbers)


@dataclass(frozen=True)
class Keep:
    """What stays of a model; what is not named stays whole."""

    heads: Mapping[int, Sequence[int]]
    """Stream -> heads, rising."""
    states: Mapping[str, Sequence[Sequence[int]]]
    """Path of a layer -> of every system (of the heads before any is taken out) its states, rising."""


@dataclass(frozen=True, eq=False)
class Structure:
    """A model, and where its heads and states lie."""

    model: Classifier

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self.model.config

    @cached_property
    def streams(self) -> tuple[int, ...]:
        """Number of the stream of each block (`streams`)."""
        return streams(self.config)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Heads of each stream."""
        return tuple(self.config.widths[self.streams.index(k)] for k in range(self.streams[-1] + 1))

    @cached_property
    def counts(self) -> tuple[tuple[int, ...], ...]:
        """States of every system of every block; () where a layer counts none."""
        config = self.config
        return tuple(config.layer_of(i).state_counts(heads) for i, heads in enumerate(config.widths))

    @cached_property
    def layers(self) -> dict[str, int]:
        """Path of every layer -> its block."""
        return {
            f"blocks.{i}.{name}": i
            for i, block in enumerate(self.model.blocks)
            for name in DIRECTIONS
            if getattr(block, name) is not None
        }

    @cached_property
    def rectangle(self) -> ModelConfig:
        """The configuration in which every system of a block has as many states as the one that has most."""
        return self._with_most([max(own, default=0) for own in self.counts])

    def _with_most(self, most: Sequence[int]) -> ModelConfig:
        if not self.counts[0]:
            return self.config
        return with_states(self.config, [(n,) * len(own) for n, own in zip(most, self.counts, strict=True)])

    @cached_property
    def axes(self) -> dict[str, tuple[dict[str, int], ...]]:
        """Tensor of the rectangle -> for each axis what lies along it ("heads 0" of stream 0, "states 1" of block
        1), and how many blocks of it."""
        base = self._shapes(self.rectangle)
        found: dict[str, tuple[dict[str, int], ...]] = {
            name: tuple({} for _ in shape) for name, shape in base.items()
        }
        for what, size, step, config in self._larger():
            for name, shape in self._shapes(config).items():
                for axis, (now, then) in enumerate(zip(base[name], shape, strict=True)):
                    if then != now:
                        blocks = (then - now) // step
                        found[name][axis][what] = blocks
                        if blocks * size != now or len(found[name][axis]) > 1:
                            raise ImcSsmError(
                                f"axis {axis} of {name} has {now} numbers and {then} with {step} more of {what} "
                                f"(there are {size}); what belongs to which cannot be told, so this layer cannot "
                                "be pruned"
                            )
        return found

    def _larger(self) -> list[tuple[str, int, int, ModelConfig]]:
        """What there is, how much of it, how many more there are in the next configuration, and this."""
        config, out = self.rectangle, []
        for stream, width in enumerate(self.widths):
            for step in (1, 2):
                widths = tuple(w + step * (k == stream) for w, k in zip(config.widths, self.streams, strict=True))
                if streams(config.with_(heads=widths, states=None)) == self.streams:  # no two became alike
                    break
            out.append((f"heads {stream}", width, step, self._wider(widths)))
        most = [max(own, default=0) for own in self.counts]
        for block, n in enumerate(most):
            if n:
                more = self._with_most([m + (i == block) for i, m in enumerate(most)])
                out.append((f"states {block}", n, 1, more))
        return out

    def _wider(self, widths: tuple[int, ...]) -> ModelConfig:
        config = self.rectangle
        if config.states is None:
            return config.with_(heads=widths)
        ends = [own[0] for own in config.states]
        whole = config.with_(states=None)
        counts = [(n,) * len(whole.layer.state_counts(width)) for n, width in zip(ends, widths, strict=True)]
        return config.with_(heads=widths, states=tuple(counts))

    def _shapes(self, config: ModelConfig) -> Shapes:
        return {name: tuple(value.shape) for name, value in self.built(config).state_dict().items()}

    def built(self, config: ModelConfig) -> Classifier:
        """A model like this one, quantized or not, of another configuration; its numbers mean nothing."""
        scheme = getattr(self.model, "scheme", None)
        with torch.random.fork_rng(devices=[]):
            made = Classifier(config)
        return made if scheme is None else wrap(made, scheme)

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """The model's tensors as the rectangle has them; states that a head has not are 0."""
        held = {name: value.detach() for name, value in self.model.state_dict().items()}
        for path, module in ragged(self.model):
            held |= {f"{path}.{name}": module.spread(held[f"{path}.{name}"]) for name in module.packed_names}
        return {name: value.cpu() for name, value in held.items()}

    def layer_at(self, path: str) -> nn.Module:
        """The layer of a path."""
        return self.model.get_submodule(path)

    def totals(self, numbers: Mapping[str, Tensor], what: str, path: str = "") -> Tensor:
        """Sums of numbers, one of each entry of the rectangle's tensors, over all that belongs to each of `what`.

        "heads 0": (head,); "states 1": (system, state), of the layer at `path` alone.
        """
        own = [n for n in numbers if n in self.axes and (not path or n.startswith(f"{path}."))]
        block = what.partition(" ")[2]
        heads = f"heads {self.streams[int(block)]}" if what.startswith("states") else ""
        total: Any = 0.0
        for name in own:
            places = self.axes[name]
            for axis, along in enumerate(places):
                if what not in along:
                    continue
                beside = [i for i, a in enumerate(places) if heads in a and i != axis]
                grouped = _grouped(numbers[name], axis, along[what])
                if heads and beside:
                    moved = grouped.movedim((beside[0], axis), (0, 1))
                    total = total + moved.reshape(*moved.shape[:2], -1).sum(-1)
                elif heads:
                    total = total + grouped.movedim(axis, 0).reshape(grouped.shape[axis], -1).sum(-1)[None]
                else:
                    total = total + grouped.movedim(axis, 0).reshape(grouped.shape[axis], -1).sum(-1)
            twice = [axis for axis, along in enumerate(places) if what in along]
            if len(twice) == 2:  # a matrix from heads to heads: what lies in the head's row and column, once
                both = numbers[name]
                for axis in twice:
                    both = _grouped(both, axis, places[axis][what])
                total = total - both.diagonal(0, *twice).reshape(-1, both.shape[twice[0]]).sum(0)
        if not isinstance(total, Tensor):
            raise ImcSsmError(f"no parameter of the model belongs to {what}; it cannot be ranked")
        return total


def _grouped(values: Tensor, axis: int, blocks: int) -> Tensor:
    """The blocks along an axis added up."""
    if blocks == 1:
        return values
    shape = (*values.shape[:axis], blocks, -1, *values.shape[axis + 1 :])
    return values.reshape(shape).sum(axis)


def ragged(model: nn.Module) -> list[tuple[str, S4D]]:
    """The parts whose heads have different numbers of states."""
    return [(p, m) for p, m in model.named_modules() if isinstance(m, S4D) and m.there is not None]


def with_states(config: ModelConfig, counts: Sequence[tuple[int, ...]]) -> ModelConfig:
    """The configuration with so many states in every system of every block; as a number of the layer where all are
    alike."""
    most = max(max(own, default=0) for own in counts)
    if most < 1:
        raise ConfigError("no block has a state left; prune fewer")
    bare = config.with_(states=None, layer=config.layer.with_states((most,) * len(counts[0])))
    if all(n == most for own in counts for n in own):
        return bare
    return bare.with_(states=tuple(tuple(own) for own in counts))


def smaller(structure: Structure, keep: Keep) -> Classifier:
    """The model of what is kept: fewer heads and states in its configuration and in every tensor.

    A conjugate pair goes with its pole, B and C; a head with its rows and columns in every matrix that reads or
    writes it, its recurrence, D and norm. Formats of activations and states stay as they were calibrated; those of
    parameters are, as ever, of the values that are there.

    Raises `ConfigError` where nothing of a stream or layer would stay, or two streams became equally wide (a
    residual sum would appear), `ImcSsmError` for a layer that this cannot be done to.
    """
    model, config = structure.model, structure.config
    heads = {k: np.arange(width) for k, width in enumerate(structure.widths)}
    heads |= {k: _indices(own, structure.widths[k], f"heads of stream {k}") for k, own in keep.heads.items()}
    states = {path: _states(structure, keep, path) for path in structure.layers}
    widths = tuple(len(heads[k]) for k in structure.streams)
    made = config.with_(states=None, heads=widths[0] if len(set(widths)) == 1 else widths)
    if streams(made) != structure.streams:
        raise ConfigError(
            f"blocks would have {widths} heads, and a residual sum would appear between two that are alike; prune "
            "them to different widths"
        )
    if structure.counts[0]:
        made = with_states(made, _counted(structure, heads, states))
    new = structure.built(made).to(next(model.parameters()).dtype)
    values = {name: _taken(structure, name, value, heads, states) for name, value in structure.values.items()}
    for path, module in ragged(new):
        values |= {f"{path}.{name}": module.packed(values[f"{path}.{name}"]) for name in module.packed_names}
    for name, value in new.state_dict().items():
        if name not in values or values[name].shape != value.shape:
            have = tuple(values[name].shape) if name in values else "none"
            raise ImcSsmError(f"{name} would be {have}, the smaller model needs {tuple(value.shape)}")
    new.load_state_dict(values)
    return _like(new, model)


def _like(new: Classifier, model: Classifier) -> Classifier:
    """The new model in the mode, and on the device, of the old one; what took no gradient takes none."""
    old = dict(model.named_parameters())
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(old[name].requires_grad)
    modes = {path: module.mode for path, module in model.named_modules() if hasattr(module, "mode")}
    for path, mode in modes.items():
        new.get_submodule(path).mode = mode
    return new.to(next(model.parameters()).device).train(model.training)


def _indices(kept: Sequence[int], size: int, what: str) -> Ints:
    found = np.unique(np.asarray(kept, np.int64))
    if found.size == 0 or found.size != len(kept) or found[0] < 0 or found[-1] >= size:
        raise ConfigError(f"{what} to keep are {shown(list(kept))}; give different numbers from 0 to {size - 1}")
    return found


def _states(structure: Structure, keep: Keep, path: str) -> list[Ints]:
    """Of every system of a layer the states that are kept."""
    counts = structure.counts[structure.layers[path]]
    if path not in keep.states:
        return [np.arange(n) for n in counts]
    given = keep.states[path]
    if len(given) != len(counts):
        raise ConfigError(f"states of {path} to keep are of {len(given)} systems, there are {len(counts)}")
    return [
        np.empty(0, np.int64) if len(own) == 0 else _indices(own, n, f"states of system {i} of {path}")
        for i, (own, n) in enumerate(zip(given, counts, strict=True))
    ]


def _counted(
    structure: Structure, heads: Mapping[int, Ints], states: Mapping[str, list[Ints]]
) -> list[tuple[int, ...]]:
    """States of every system that is kept, block by block; both directions of a block have as many."""
    out = []
    for block, stream in enumerate(structure.streams):
        alike = []
        for path, own in structure.layers.items():
            if own == block:
                sizes = [len(kept) for kept in states[path]]
                alike.append(tuple(sizes[h] for h in heads[stream]) if len(sizes) > 1 else tuple(sizes))
        if len(set(alike)) > 1:
            raise ConfigError(
                f"the two directions of block {block} would have different states; keep as many of both"
            )
        out.append(alike[0])
    return out


def _taken(
    structure: Structure, name: str, value: Tensor, heads: Mapping[int, Ints], states: Mapping[str, list[Ints]]
) -> Tensor:
    """What is kept of a tensor of the rectangle; states that a head has not are copies of its last one, or 0."""
    places = structure.axes.get(name, ())  # none: a number that training added, such as a learned range
    path = next((p for p in structure.layers if name.startswith(f"{p}.")), "")
    along_heads: int | None = None
    for axis, along in enumerate(places):
        for what, blocks in along.items():
            kind, _, number = what.partition(" ")
            if kind == "heads":
                along_heads = axis if along_heads is None else along_heads
                value = value.index_select(axis, _tiled(heads[int(number)], value.shape[axis] // blocks, blocks))
    for axis, along in enumerate(places):
        for what, blocks in along.items():
            kind, _, number = what.partition(" ")
            if kind != "states":
                continue
            own = states[path]
            if len(own) == 1:
                value = value.index_select(axis, _tiled(own[0], value.shape[axis] // blocks, blocks))
            elif along_heads is None or blocks != 1:
                raise ImcSsmError(
                    f"{name} has states of all heads on axis {axis}; they cannot be taken one by one"
                )
            else:
                value = _per_head(
                    value, along_heads, axis, [own[h] for h in heads[structure.streams[int(number)]]]
                )
    return value.contiguous()


def _tiled(kept: Ints, size: int, blocks: int) -> Tensor:
    return torch.from_numpy(np.concatenate([kept + size * k for k in range(blocks)]))


def _per_head(value: Tensor, head: int, state: int, kept: list[Ints]) -> Tensor:
    """Each head's own states, as many places as the one that has most; the others repeat the last, or state 0."""
    most = max(len(own) for own in kept)
    index = np.zeros((len(kept), most), np.int64)
    for row, own in zip(index, kept, strict=True):
        if len(own):
            row[:] = np.concatenate([own, np.full(most - len(own), own[-1])])
    moved = value.movedim((head, state), (0, 1))
    found = moved[torch.arange(len(kept))[:, None], torch.from_numpy(index)]
    return found.movedim((0, 1), (head, state))
