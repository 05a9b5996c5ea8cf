"""Weights that are zero one by one: a matrix keeps its size, and its cells sit at their lowest conductance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from imc_ssm.errors import ConfigError, unknown
from imc_ssm.layers import Classifier
from imc_ssm.pruning.criteria import Scores, weights_of

__all__ = ["kept_zeros", "matching", "sparsity", "zero_weights"]


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


@torch.no_grad()
def zero_weights(model: Classifier, scores: Scores, fraction: float, matrices: str | Sequence[str]) -> None:
    """Set the fraction of the weights of each matrix that has the lowest scores to 0, in place."""
    for path, weight in matching(model, matrices).items():
        count = round(fraction * weight.numel())
        order = torch.from_numpy(scores[path]).reshape(-1).argsort(stable=True)
        weight.view(-1)[order[:count].to(weight.device)] = 0


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
