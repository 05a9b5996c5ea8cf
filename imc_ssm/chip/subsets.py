"""Metrics from some sequences of a split: which are drawn, and how far that is from all of them."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np

from imc_ssm.datasets.sequence import Split
from imc_ssm.devices import stream_seed
from imc_ssm.errors import ConfigError, DataError, unknown
from imc_ssm.units import whole

__all__ = ["Subset", "drawn", "standard_errors"]

Subset = Literal["paired", "fresh"]
"""Whether all chips see the same drawn sequences, or each its own."""
_Metrics = dict[str, float]


def drawn(split: Split, sequences: Any, subset: Subset, seed: int, chip: int) -> Split:
    """`sequences` of a split, drawn for a chip by simple random sampling without replacement, in their order.

    "paired": by the seed, the same for all chips, designs and times. "fresh": by the seed and the chip's number,
    the same for all designs and times. None: all of the split.

    Raises `ConfigError` for more than there are or another `subset`, `DataError` where none has an answer.
    """
    if subset not in get_args(Subset):
        raise ConfigError(unknown("subset", subset, get_args(Subset)))
    if sequences is None:
        return split
    number = whole(sequences, "sequences", least=1)
    if number > len(split):
        raise ConfigError(f"sequences = {number}; the split has {len(split)}, give at most so many")
    rng = np.random.default_rng(seed if subset == "paired" else stream_seed(seed, chip, "subset"))
    part = split.sample(number, rng)
    if not part.counted:
        raise DataError(f"none of the {number} sequences that were drawn has an answer; draw more")
    return part


def standard_errors(found: np.ndarray[Any, Any], part: Split, total: int) -> _Metrics:
    """How far metrics of `part`, drawn from `total` sequences, are from those of all: one standard deviation.

        s = sqrt((1 - n / N) n / (n - 1) sum_i e_i^2)        e_i: what sequence i adds to the metric's deviation

    For accuracy with one answer a sequence, e_i = (c_i - p) / n with c_i 0 or 1, so that s^2 = (1 - n / N)
    p (1 - p) / (n - 1), without bias (Cochran, Sampling Techniques, 3rd ed. 1977, chapter 3). The others, and
    accuracy over steps, are ratios of sums over sequences, sum a / sum b: e_i = (a_i - ratio b_i) / sum b (the
    same, chapter 6), right for many sequences. Sequences, not steps, are what is drawn. 0 where all are in, NaN
    for one.

    `found` as `training.predict` returns it. `accuracy` (percent) and `f1_macro`, or `mae` and `r2`.
    """
    n = len(part)
    added = _of_values(found, part) if part.goal == "values" else _of_classes(found, part)
    scale = 0.0 if n == total else math.nan if n == 1 else (1 - n / total) * n / (n - 1)
    return {name: math.sqrt(scale * float(np.square(each).sum())) for name, each in added.items()}


def _of_classes(found: np.ndarray[Any, Any], part: Split) -> dict[str, np.ndarray[Any, Any]]:
    y, p = part.labels.reshape(len(part), -1), found.reshape(len(part), -1)
    there = y >= 0
    right = ((y == p) & there).sum(1)
    count = there.sum(1)
    accuracy = (right - right.sum() / count.sum() * count) / count.sum()
    macro, classes = np.zeros(len(part)), 0
    for k in range(max(part.outputs, int(y.max()) + 1, int(p.max()) + 1)):
        hit = 2 * ((y == k) & (p == k)).sum(1)
        either = (y == k).sum(1) + ((p == k) & there).sum(1)
        if either.sum():
            classes += 1
            macro += (hit - hit.sum() / either.sum() * either) / either.sum()
    return {"accuracy": 100 * accuracy, "f1_macro": macro / classes}


def _of_values(found: np.ndarray[Any, Any], part: Split) -> dict[str, np.ndarray[Any, Any]]:
    shape = (len(part), -1, part.labels.shape[-1])
    y, p = part.labels.reshape(shape).astype(np.float64), found.reshape(shape).astype(np.float64)
    there = np.isfinite(y[..., :1])
    count = there.sum((1, 2))
    y, p = np.where(there, y, 0), np.where(there, p, 0)
    error = np.abs(y - p).mean(-1).sum(1)
    squares = np.square(y - p).sum(1)
    about = np.where(there, np.square(y - y.sum((0, 1)) / count.sum()), 0).sum(1)
    total = about.sum(0)
    varies = total > 0
    squares, about, total = squares[:, varies], about[:, varies], total[varies]
    r2 = (squares.sum(0) / total * about - squares) / total
    return {
        "mae": (error - error.sum() / count.sum() * count) / count.sum(),
        "r2": r2.mean(1) if varies.any() else np.full(len(part), math.nan),
    }
