"""`prune(model, ...)`: rank, take out, train, and again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from imc_ssm.datasets import SequenceDataset, dataset_of
from imc_ssm.errors import ConfigError
from imc_ssm.layers import Classifier, classifier_of
from imc_ssm.pruning.criteria import AXES, Case, Part, Scores, scores_of
from imc_ssm.pruning.greedy import Greedy
from imc_ssm.pruning.selection import Schedule, Scope, best_states, fractions, left
from imc_ssm.pruning.structure import Keep, Structure, smaller
from imc_ssm.pruning.zeros import kept_zeros, matching, zero_weights
from imc_ssm.training import History, TrainConfig, train

__all__ = ["Pruning", "Rounds", "prune"]

USUAL: dict[Part, tuple[str, str]] = {
    "heads": ("saliency", "magnitude"),
    "states": ("saliency", "energy"),
    "columns": ("saliency", "magnitude"),
    "rows": ("saliency", "magnitude"),
    "weights": ("saliency", "magnitude"),
}
"""Criterion of each part, with data and without; in the order in which they are taken out."""

Progress = Callable[[int, int, str], None]
Training = Callable[[Classifier, int], History]


@dataclass(frozen=True)
class Pruning:
    """How much of what is taken out, and by what it is chosen."""

    states: float = 0.0
    """Fraction of the states, 0 to 1."""
    heads: float = 0.0
    """Fraction of the heads of every stream."""
    weights: float = 0.0
    """Fraction of the weights of every one of `matrices` that become 0."""
    columns: float = 0.0
    """Fraction of their columns (outputs) that become 0, and are not mapped on tiles."""
    rows: float = 0.0
    """Fraction of their rows (inputs)."""
    criterion: str | None = None
    """Name of a criterion; None: `USUAL`."""
    scope: Scope = "block"
    """What the fraction of the states is one of."""
    matrices: str | Sequence[str] = "blocks.*"
    """Patterns of the paths of the matrices whose weights may become 0."""
    rounds: int = 1
    """Times that something is taken out; with training in between."""
    schedule: Schedule = "cubic"
    """How the fractions grow (`fractions`)."""
    tolerance: float | None = None
    """Greedy: points of accuracy on validation data that may be lost in each round; None: the fractions decide."""
    seed: int = 0
    """Of the sequences that criteria draw."""

    def __post_init__(self) -> None:
        """`ConfigError` for fractions that are none."""
        for name in USUAL:
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ConfigError(f"{name} = {value}; give the fraction that goes, 0 <= {name} < 1, such as 0.5")
        if not self.parts:
            raise ConfigError(f"nothing to prune: give a fraction of {', '.join(USUAL)}, such as states=0.5")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ConfigError(f"tolerance = {self.tolerance}; give points of accuracy that may be lost, such as 1")

    @property
    def parts(self) -> tuple[Part, ...]:
        """What is pruned, in the order in which it is."""
        return tuple(part for part in USUAL if getattr(self, part))

    @property
    def zeros(self) -> bool:
        """Whether weights of matrices become 0."""
        return any(part in AXES for part in self.parts)


@dataclass
class Rounds:
    """A model after pruning, and what happened."""

    model: Classifier
    histories: list[History] = field(default_factory=list)
    """Of the training of each round."""
    tried: int = 0
    """Greedy: models that were evaluated."""


def prune(
    model: Any,
    *,
    states: float = 0.0,
    heads: float = 0.0,
    weights: float = 0.0,
    columns: float = 0.0,
    rows: float = 0.0,
    criterion: str | None = None,
    scope: Scope = "block",
    matrices: str | Sequence[str] = "blocks.*",
    data: SequenceDataset | str | None = None,
    training: TrainConfig | None = None,
    rounds: int = 1,
    schedule: Schedule = "cubic",
    tolerance: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Classifier:
    """A smaller model: of `model`, in full precision or quantized, without a fraction of its parts.

        >>> import imc_ssm
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=8, n_state=16))
        >>> imc_ssm.prune(model, states=0.5, heads=0.25, scope="head").config
        ModelConfig(heads=6, layer=S4DConfig(n_state=8))

    `states`: complex states (a conjugate pair with its pole, B and C), of every head, block or of the whole model
    as
    `scope` says; where heads then have different numbers, `ModelConfig.states` holds them. `heads`: of every
    stream (`pruning.streams`), with their rows and columns in every matrix, recurrences, D and norms. `weights`:
    of each matrix that `matrices` matches, set to 0: the matrix keeps its size.

    What goes is what a `criterion` finds least ("magnitude", "energy", "saliency", or one of your own); None:
    saliency with data, else energy of states and magnitude of heads and weights. With `tolerance` what would cost
    more points of accuracy on the validation split stays, and the fractions are bounds (`pruning.Greedy`).

    `training`: how the model is trained on `data` after each of `rounds`; None: not at all. A quantized model
    learns with its formats (QAT). Weights that became 0 stay 0. The model that comes in is left as it is.

    Raises `ConfigError` for fractions, names or data that do not fit, `ImcSsmError` for a layer that cannot be
    pruned so. Greedy criterion: Siegel et al. 2025 (arXiv:2507.06079).
    """
    plan = Pruning(
        states, heads, weights, columns, rows, criterion, scope, matrices, rounds, schedule, tolerance, seed
    )
    known = None if data is None else dataset_of(data)
    if training is not None and known is None:
        raise ConfigError("training needs data; give data=..., or leave training out")
    teacher = classifier_of(model, "prune") if training is not None and training.distill else None

    def trained(made: Classifier, number: int) -> History:
        assert training is not None
        assert known is not None
        config = training.with_(seed=training.seed + number)
        return train(made, known, config, progress=progress, device=device, teacher=teacher)

    return run(model, plan, known, None if training is None else trained).model


def run(given: Any, plan: Pruning, data: SequenceDataset | None = None, trained: Training | None = None) -> Rounds:
    """`prune` by a plan; `trained(model, round)` trains in place, and answers with its history."""
    model = copy.deepcopy(classifier_of(given, "prune"))
    if plan.zeros:
        matching(model, plan.matrices)
    done = Rounds(model)
    structure = Structure(model)
    widths, first = structure.widths, [list(own) for own in structure.counts]
    if plan.states and not first[0]:
        structure.config.layer.with_states(())  # says that it has none
    steps = {part: fractions(getattr(plan, part), plan.rounds, plan.schedule) for part in plan.parts}
    greedy = None
    if plan.tolerance is not None:
        if data is None:
            raise ConfigError("a tolerance is one of accuracy on validation data; give data=...")
        greedy = Greedy(data.split("validation"), plan.tolerance)
    for number in range(plan.rounds):
        if greedy is not None:
            greedy.start(done.model)
        for part in plan.parts:
            structure = Structure(done.model)
            scores = scores_of(_criterion(plan, part, data), Case(structure, data, plan.seed), part)
            if part in AXES:
                target = scores, steps[part][number], plan.matrices, part
                if greedy is not None:
                    greedy.weights(done.model, *target)
                else:
                    zero_weights(done.model, *target)
                continue
            if part == "heads":
                keep = Keep(_best_heads(scores, widths, steps[part][number]), {})
            else:
                keep = Keep({}, best_states(structure, scores, first, steps[part][number], plan.scope))
            if greedy is not None:
                keep = greedy.keep(structure, keep, scores)
            if part == "heads":
                first = [
                    [own[h] for h in keep.heads[stream]] if len(own) > 1 else own
                    for own, stream in zip(first, structure.streams, strict=True)
                ]
            done.model = smaller(structure, keep)
        if trained is not None:
            held = kept_zeros(done.model, plan.matrices) if plan.zeros else nullcontext()
            with held:
                done.histories.append(trained(done.model, number))
    done.tried = 0 if greedy is None else greedy.tried
    if isinstance(given, nn.Module) and not given.training:
        done.model.eval()
    return done


def _criterion(plan: Pruning, part: Part, data: SequenceDataset | None) -> str:
    return USUAL[part][data is None] if plan.criterion is None else plan.criterion


def _best_heads(scores: Scores, widths: Sequence[int], fraction: float) -> dict[int, list[int]]:
    """Stream -> the heads with the highest scores; `widths`: heads of it before the first round."""
    found: Mapping[int, Any] = {
        k: np.argsort(-own, kind="stable")[: left(widths[k], fraction)] for k, own in scores.items()
    }
    return {k: sorted(own.tolist()) for k, own in found.items()}
