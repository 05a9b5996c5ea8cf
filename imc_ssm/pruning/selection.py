"""From scores and a fraction to what is kept; how the fraction grows from round to round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from imc_ssm.errors import ConfigError, unknown
from imc_ssm.pruning.structure import Structure

__all__ = ["SCHEDULES", "Schedule", "Scope", "best_states", "fractions", "left"]

Scope = Literal["head", "block", "model"]
"""What a fraction of the states is taken of: every head, so that all keep as many; every block; or all of it."""
Schedule = Literal["cubic", "linear"]
SCHEDULES = get_args(Schedule)
Floats = NDArray[np.float64]


def fractions(final: float, rounds: int, schedule: Schedule = "cubic") -> list[float]:
    """The fraction that is gone after each round, the last one `final`.

        linear  f i / R
        cubic   f (1 - (1 - i / R)^3)    most of it first, while there is much to choose from

    Source: Zhu and Gupta 2017, "To prune, or not to prune" (arXiv:1710.01878), from nothing.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(unknown("schedule", schedule, SCHEDULES))
    if rounds < 1:
        raise ConfigError(f"rounds = {rounds}; give at least 1")
    steps = [i / rounds for i in range(1, rounds + 1)]
    return [final * (s if schedule == "linear" else 1 - (1 - s) ** 3) for s in steps[:-1]] + [final]


def left(count: int, fraction: float) -> int:
    """How many of `count` stay when a fraction goes: the nearest number, and one at least."""
    return max(1, count - round(fraction * count))


def best_states(
    structure: Structure,
    scores: Mapping[str, Floats],
    first: Sequence[Sequence[int]],
    fraction: float,
    scope: Scope,
) -> dict[str, list[list[int]]]:
    """Path of a layer -> of every system the states with the highest scores.

    `first`: states of every system of every block before the first round, which the fraction is one of. The two
    directions of a block keep as many in each system: what the k-th best of it is worth in both decides.
    """
    ranked: dict[int, list[Floats]] = {}
    for block, counts in enumerate(structure.counts):
        paths = [p for p, b in structure.layers.items() if b == block]
        ranked[block] = [
            np.sum([np.sort(scores[p][s, :n])[::-1] for p in paths], axis=0) for s, n in enumerate(counts)
        ]
    sizes = _sizes(ranked, first, fraction, scope)
    return {
        path: [
            sorted(np.argsort(-scores[path][s, :n], kind="stable")[: sizes[block][s]].tolist())
            for s, n in enumerate(structure.counts[block])
        ]
        for path, block in structure.layers.items()
    }


def _sizes(
    ranked: Mapping[int, list[Floats]], first: Sequence[Sequence[int]], fraction: float, scope: Scope
) -> dict[int, list[int]]:
    """States that every system of every block keeps."""
    if scope not in get_args(Scope):
        raise ConfigError(unknown("scope", scope, get_args(Scope)))
    if scope == "head":
        return {
            block: [
                min(len(own), left(n, fraction)) if len(own) else 0
                for own, n in zip(of, first[block], strict=True)
            ]
            for block, of in ranked.items()
        }
    groups = [[block] for block in ranked] if scope == "block" else [list(ranked)]
    sizes = {block: [0] * len(of) for block, of in ranked.items()}
    for blocks in groups:
        places = [(b, s) for b in blocks for s, own in enumerate(ranked[b]) for _ in own]
        worth = np.concatenate([own for b in blocks for own in ranked[b]])
        best = np.argsort(-worth, kind="stable")
        for block in blocks:  # a layer without a state is none
            top = next(int(i) for i in best if places[i][0] == block)
            best = np.concatenate([[top], best[best != top]])
        for i in best[: max(len(blocks), left(sum(sum(first[b]) for b in blocks), fraction))]:
            block, system = places[int(i)]
            sizes[block][system] += 1
    return sizes
