"""What a state, a head or a weight is worth: the registry of criteria.

A criterion is one function of a `Case` and a part ("states", "heads" or "weights") to `Scores`: what has the
lowest is taken out first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imc_ssm.answers import inputs_on
from imc_ssm.datasets import SequenceDataset
from imc_ssm.errors import ConfigError, unknown
from imc_ssm.kernels.device import device_of
from imc_ssm.layers import Classifier
from imc_ssm.losses import Loss
from imc_ssm.noise import matrices_of
from imc_ssm.pruning.energy import head_energy, mode_energy, modes
from imc_ssm.pruning.structure import Structure, ragged

__all__ = ["CRITERIA", "Case", "Criterion", "Part", "Scores", "criterion", "scores_of", "weights_of"]

Part = Literal["states", "heads", "columns", "rows", "weights"]
Scores = dict[Any, NDArray[np.float64]]
"""states: path of a layer -> (system, state); heads: number of a stream -> (head,); of paths of matrices
columns: (outputs,), rows: (inputs,), weights: (outputs, inputs). Not negative."""
AXES: dict[Part, int | None] = {"columns": 1, "rows": 0, "weights": None}
"""Parts of matrices -> axis of a weight (outputs, inputs) along which they lie."""
SEQUENCES, BATCH = 512, 32
"""Training sequences of a saliency, and at a time."""


@dataclass(frozen=True, eq=False)
class Case:
    """What a criterion sees."""

    structure: Structure
    data: SequenceDataset | None = None
    """Its training split may be looked at."""
    seed: int = 0
    """Of the sequences that are drawn."""

    @property
    def model(self) -> Classifier:
        """The model."""
        return self.structure.model

    def summed(self, numbers: Mapping[str, Tensor], part: Part) -> dict[Any, Tensor]:
        """Numbers, one of each entry of parameters, added up over all that belongs to a state, or a head.

        For "columns" and "rows" over those of the matrices, for "weights" these as they are.
        """
        structure = self.structure
        if part in AXES:
            found = {path: numbers[name].cpu() for path, name in weight_names(self.model).items()}
            return {path: w if AXES[part] is None else w.sum(AXES[part]) for path, w in found.items()}
        whole = {name: value.cpu() for name, value in numbers.items()}
        for path, module in ragged(self.model):
            for own in module.packed_names:
                if (name := f"{path}.{own}") in whole:
                    whole[name] = module.spread(numbers[name]).cpu()
        if part == "heads":
            return {k: structure.totals(whole, f"heads {k}") for k in range(len(structure.widths))}
        return {path: structure.totals(whole, f"states {b}", path) for path, b in structure.layers.items()}


Criterion = Callable[[Case, Part], Scores]
CRITERIA: dict[str, Criterion] = {}
"""Name -> criterion."""


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Decorator: make a criterion known. `ConfigError` for a name that is taken."""

    def known(function: Criterion) -> Criterion:
        if name in CRITERIA:
            raise ConfigError(f"criterion {name!r} exists already; take another name")
        CRITERIA[name] = function
        return function

    return known


def scores_of(name: str, case: Case, part: Part) -> Scores:
    """What a criterion says; `ConfigError` for one that is not known."""
    if name not in CRITERIA:
        raise ConfigError(unknown("criterion", name, CRITERIA))
    return CRITERIA[name](case, part)


def weights_of(model: Classifier) -> dict[str, Tensor]:
    """Path of every matrix of the graph -> its weight (outputs, inputs), the parameter itself."""
    return {path: model.get_parameter(name) for path, name in weight_names(model).items()}


def weight_names(model: Classifier) -> dict[str, str]:
    """Path of every matrix -> name of its weight among the model's parameters."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for path, owner in matrices_of(model).items():
        weight: Any = getattr(owner, "linear", owner).weight
        found[path] = names[id(weight)]
    return found


@criterion("magnitude")
def _magnitude(case: Case, part: Part) -> Scores:
    """states: |c b|, of several inputs and outputs the root of the sum of its squares; others: the root of the sum
    of the squares of its rows and columns in every matrix; weights: |w|.
    """
    if part == "states":
        return {path: np.sqrt(modes(case.structure.layer_at(path)).power) for path in case.structure.layers}
    weights = {name: case.structure.values[name].square() for name in weight_names(case.model).values()}
    return {key: np.sqrt(value.double().numpy()) for key, value in case.summed(weights, part).items()}


@criterion("energy")
def _energy(case: Case, part: Part) -> Scores:
    """states: energy of the mode's impulse response (`mode_energy`); heads: that of the head's recurrence and D
    (`head_energy`), times the squares of the weights that read it in the mixing matrix, added up over blocks.
    """
    structure = case.structure
    if part == "states":
        return {path: mode_energy(modes(structure.layer_at(path))) for path in structure.layers}
    if part in AXES:
        raise ConfigError(f"criterion 'energy' ranks states and heads; {part} have magnitude and saliency")
    weights = weights_of(case.model)
    out: Scores = {k: np.zeros(width) for k, width in enumerate(structure.widths)}
    for path, block in structure.layers.items():
        layer: Any = structure.layer_at(path)
        layer = getattr(layer, "inner", layer)
        if not hasattr(layer, "D"):
            raise ConfigError(
                f"criterion 'energy' does not rank the heads of {path} ({type(layer).__name__}), which share one "
                "system; take magnitude, or saliency"
            )
        with torch.no_grad():
            parts = [z.resolve_conj().cpu().numpy() for z in (*layer.discrete(), layer.D)]
            read = weights[f"blocks.{block}.mixing"].square().sum(0).cpu().double().numpy()
        out[structure.streams[block]] += head_energy(*parts) * read
    return out


def _scaling(model: Classifier) -> dict[str, nn.Parameter]:
    """The parameters that are trained and say how strong something is."""
    found = {}
    for path, module in model.named_modules():
        groups = getattr(module, "groups", {})
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and groups.get(name) != "dynamics":
                found[f"{path}.{name}" if path else name] = parameter
    return found


@criterion("saliency")
def _saliency(case: Case, part: Part) -> Scores:
    """First-order estimate of what the loss changes by: |sum g w| over the parameters of a state or head, |g w| of
    a weight, the mean over batches of training sequences, with g the gradient of the loss.

    Parameters that say how fast something is, not how strong (the optimiser group "dynamics"), do not count.
    Source: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning" (arXiv:1906.10771), there
    squared.
    """
    if case.data is None:
        raise ConfigError(
            "criterion 'saliency' needs training data; give data=..., or take 'energy' or 'magnitude'"
        )
    model, split = case.model, case.data.split("train")
    split = split.sample(min(SEQUENCES, len(split)), np.random.default_rng(case.seed))
    loss_of = Loss(split, device_of(model))
    own = _scaling(model)
    was, batches = model.training, 0
    total: dict[Any, NDArray[np.float64]] = {}
    model.eval()
    try:
        for values, wanted, lengths in split.batches(BATCH):
            with torch.enable_grad():
                loss = loss_of(model(*inputs_on(values, lengths, device_of(model))), wanted, None)
                grads = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
            change = {
                name: (torch.zeros_like(p) if g is None else g * p).detach()
                for (name, p), g in zip(own.items(), grads, strict=True)
            }
            for key, value in case.summed(change, part).items():
                total[key] = total.get(key, 0.0) + value.double().abs().numpy()
            batches += 1
    finally:
        model.train(was)
    return {key: np.asarray(value / batches) for key, value in total.items()}
