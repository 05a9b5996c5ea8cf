"""Weights that are zero. One by one: the matrix keeps its size, and its cells sit at their lowest conductance.
Whole columns and rows: what is mapped on tiles leaves them out (`chip.mapping.Wired`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from imc_ssm.errors import ConfigError, unknown
from imc_ssm.layers import Classifier
from imc_ssm.pruning.criteria import Part, Scores, weights_of
from imc_ssm.pruning.selection import left

__all__ = ["kept_zeros", "least", "matching", "sparsity", "zero", "zero_weights"]


def matching(model: Classifier, matrices: str | Sequence[str]) -> dict[str, Tensor]:
    """Path -> weight of the matrices whose paths match one of the patterns ("blocks.*", "*.mixing", "*").

    `ConfigError` where none does.
    """
    patterns = [matrices] if isinstance(matrices, str) else list(matrices)
    known = weights_of(model)
    found = {path: w for path, w in known.items() if any(fnmatchcase(path, p) for p in patterns)}
    if not found:
        raise ConfigError(unknown("matrix", ", ".join(patterns), known))
    return found


def least(scores: Scores, fraction: float, part: Part) -> dict[str, NDArray[np.int64]]:
    """Path of a matrix -> numbers of the weights, columns or rows with the lowest scores; a column stays, or a
    row."""
    found = {}
    for path, own in scores.items():
        count = round(fraction * own.size) if part == "weights" else own.size - left(own.size, fraction)
        found[path] = np.argsort(own.reshape(-1), kind="stable")[:count]
    return found


@torch.no_grad()
def zero(weight: Tensor, numbers: ArrayLike, part: Part) -> None:
    """Set single weights of (outputs, inputs), counted row by row, or whole columns (outputs) or rows (inputs) to
    0."""
    index = torch.as_tensor(np.asarray(numbers, np.int64), device=weight.device)
    if part == "weights":
        weight.view(-1)[index] = 0
    elif part == "columns":
        weight[index] = 0
    else:
        weight[:, index] = 0


def zero_weights(
    model: Classifier, scores: Scores, fraction: float, matrices: str | Sequence[str], part: Part = "weights"
) -> None:
    """Set the fraction of the weights, columns or rows of each matrix that has the lowest scores to 0, in
    place."""
    chosen = least(scores, fraction, part)
    for path, weight in matching(model, matrices).items():
        zero(weight, chosen[path], part)


def sparsity(model: Classifier, matrices: str | Sequence[str] = "*") -> float:
    """Share of the weights of matrices that are 0, as trained."""
    found = matching(model, matrices).values()
    return sum(int((w == 0).sum()) for w in found) / sum(w.numel() for w in found)


@contextmanager
def kept_zeros(model: Classifier, matrices: str | Sequence[str] = "*") -> Iterator[None]:
    """While it is entered, weights of these matrices that are 0 get no gradient: training leaves them 0.

    AdamW moves a parameter by its moments, which stay 0, and by its decay, which is a multiple of it.
    """
    handles = []
    for weight in matching(model, matrices).values():
        if weight.requires_grad:
            there = weight.detach() != 0
            masked = lambda grad, there=there: grad * there.to(grad.device)  # noqa: E731
            handles.append(weight.register_hook(masked))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
