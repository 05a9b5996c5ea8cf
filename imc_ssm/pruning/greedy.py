"""The greedy criterion: take out what costs no more than so many points of accuracy on validation data.

Source: Siegel et al. 2025, "QS4D" (arXiv:2507.06079): parameters are set to zero one after the other, and stay
zero where accuracy does not fall by more than a point. Here candidates come in the order of another criterion,
and are tried together first: a group that costs too much is halved, until what costs it is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from imc_ssm.datasets.sequence import Split
from imc_ssm.errors import ImcSsmError
from imc_ssm.layers import Classifier
from imc_ssm.pruning.criteria import Part, Scores
from imc_ssm.pruning.structure import Keep, Structure, smaller
from imc_ssm.pruning.zeros import least, matching, zero
from imc_ssm.training import metrics

__all__ = ["Greedy", "largest_allowed"]

Item = tuple[Any, ...]


def largest_allowed(items: Sequence[Item], allowed: Callable[[list[Item]], bool], least: int = 1) -> list[Item]:
    """Of items, the most dispensable first, those that can go together, found by halving.

    `allowed` (of all that would be gone) is asked for the whole of what is left, then for its halves, down to
    groups of `least`: an item stays where a group of that size with it was not allowed.
    """
    gone: list[Item] = []
    waiting = [list(items)] if items else []
    while waiting:
        group = waiting.pop()
        if allowed([*gone, *group]):
            gone += group
        elif len(group) > least:
            half = -(-len(group) // 2)
            waiting += [group[half:], group[:half]]
    return gone


class Greedy:
    """Accuracy on a split, and what may be lost of it: points of accuracy (of values: hundredths of R2)."""

    def __init__(self, split: Split, tolerance: float) -> None:
        self.split, self.tolerance = split, tolerance
        self.tried = 0
        self._least = -np.inf

    def start(self, model: Classifier) -> None:
        """Count what may be lost from here."""
        self._least = self._measured(model) - self.tolerance

    def _measured(self, model: Classifier) -> float:
        self.tried += 1
        found = metrics(model, self.split)
        value = 100 * found["r2"] if self.split.goal == "values" else found["accuracy"]
        return float(np.nan_to_num(value, nan=-np.inf))

    def keep(self, structure: Structure, keep: Keep, scores: Scores) -> Keep:
        """Of what `keep` would take out, what can go; groups of 1/64 of it at least."""
        items = _items(structure, keep, scores)

        def allowed(gone: list[Item]) -> bool:
            return self._measured(smaller(structure, _without(structure, gone, keep))) >= self._least

        gone = largest_allowed(items, allowed, max(1, len(items) // 64))
        return _without(structure, gone, keep)

    @torch.no_grad()
    def weights(
        self, model: Classifier, scores: Scores, fraction: float, matrices: str | Sequence[str], part: Part
    ) -> None:
        """Set weights, columns or rows to 0, at most the fraction of each matrix with the lowest scores, in
        place."""
        found, chosen = matching(model, matrices), least(scores, fraction, part)
        items = [(float(scores[path].reshape(-1)[i]), path, int(i)) for path in found for i in chosen[path]]
        start = {path: weight.clone() for path, weight in found.items()}

        def allowed(gone: list[Item]) -> bool:
            for path, weight in found.items():
                weight.copy_(start[path])
                zero(weight, [i for _, p, i in gone if p == path], part)
            return self._measured(model) >= self._least

        allowed(largest_allowed(sorted(items), allowed, max(1, len(items) // 64)))


def _items(structure: Structure, keep: Keep, scores: Scores) -> list[Item]:
    """(worth, stream, head) of the heads, or (worth, path, system, state) of the states, that would go."""
    out: list[Item] = []
    for stream, kept in keep.heads.items():
        out += [(float(scores[stream][h]), stream, h) for h in set(range(structure.widths[stream])) - set(kept)]
    if keep.states and len(structure.layers) > len(structure.counts):
        raise ImcSsmError(
            "the greedy criterion takes states out one by one, and both directions of a block keep as "
            "many; prune states without a tolerance"
        )
    for path, systems in keep.states.items():
        for s, kept in enumerate(systems):
            own = set(range(structure.counts[structure.layers[path]][s])) - set(kept)
            out += [(float(scores[path][s, n]), path, s, n) for n in own]
    return sorted(out)


def _without(structure: Structure, gone: Sequence[Item], keep: Keep) -> Keep:
    """Everything but what is gone."""
    lost = {item[1:] for item in gone}
    heads = {k: [h for h in range(structure.widths[k]) if (k, h) not in lost] for k in keep.heads}
    states = {
        path: [
            [n for n in range(structure.counts[structure.layers[path]][s]) if (path, s, n) not in lost]
            for s in range(len(systems))
        ]
        for path, systems in keep.states.items()
    }
    return Keep(heads, states)
