"""How a standard deviation depends on conductance, chosen by an information criterion; parts of `fit_cell`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from imc_ssm.devices.measurements import FEWEST

__all__ = ["NODES", "STUCK", "SURE", "Law", "Line", "bins", "law_of"]

Numbers = npt.NDArray[np.float64]
STUCK = 6.0
"""Robust deviations from the target beyond which a device does not follow it (one in 5e8 by chance)."""
SURE = 1e-3
"""An effect is taken into the cell if chance makes one as large less often than this."""
NODES = 8
"""Conductances of a table of programming error, at most."""


@dataclass(frozen=True)
class Line:
    """One fitted quantity, for people."""

    what: str
    value: float | tuple[float, ...]
    unit: str
    interval: tuple[float, float] | None
    """95 % confidence; None for a table."""
    count: int
    """Readings or devices that it comes from."""
    quality: str
    """Goodness of the fit, in words and numbers."""


@dataclass(frozen=True, eq=False)
class Law:
    """A standard deviation against conductance, chosen among absolute, relative and a table."""

    name: str
    value: float | tuple[float, ...]
    against: tuple[float, ...]

    def at(self, g: Numbers) -> Numbers:
        if self.name == "table":
            return np.interp(g, self.against, self.value)
        return np.full_like(g, self.value) if self.name == "absolute" else np.asarray(self.value * g)

    @property
    def unit(self) -> str:
        return "1" if self.name == "relative" else "S"

    def fields(self, source: str) -> dict[str, Any]:
        out: dict[str, Any] = {"value": self.value, "unit": self.unit, "source": source}
        return out | ({"against": self.against} if self.against else {})


def bins(target: Numbers, most: int = NODES) -> list[npt.NDArray[np.bool_]]:
    """Readings grouped by target: the targets themselves where they are few, else as many in each group."""
    distinct = np.unique(target)
    counts = [(target == value).sum() for value in distinct]
    if len(distinct) <= most and min(counts) >= FEWEST // 2:
        return [target == value for value in distinct]
    groups = max(1, min(most, len(target) // FEWEST))
    place = np.minimum(
        np.searchsorted(np.quantile(target, np.linspace(0, 1, groups + 1)[1:-1]), target, "right"), groups
    )
    return [place == i for i in np.unique(place)]


def law_of(residual: Numbers, g: Numbers, *, tables: bool = True) -> tuple[Law, str]:
    """The law of a standard deviation with the least Bayesian information criterion, and how well it fits."""
    n, least = len(g), 1e-12 * float(g.max())
    floor = max(1e-6 * float(residual.std()), least * 1e-3, 1e-30)
    rel = g > 0.02 * g.max()
    laws = [Law("absolute", float(np.sqrt(np.square(residual).mean())), ())]
    if rel.sum() >= FEWEST // 2:
        laws.append(Law("relative", float(np.sqrt(np.square(residual[rel] / g[rel]).mean())), ()))
    groups = bins(g)
    if tables and len(groups) > 1:
        at = np.array([g[i].mean() for i in groups])
        start = np.array([np.sqrt(np.square(residual[i]).mean()) for i in groups])

        def loss(logs: Numbers) -> float:
            sigma = np.interp(g, at, np.exp(logs))
            return float((np.log(sigma) + np.square(residual / sigma) / 2).sum())

        found = optimize.minimize(loss, np.log(np.maximum(start, floor)), method="L-BFGS-B")
        rounded = tuple(float(f"{v:.4g}") for v in np.exp(found.x))
        laws.append(Law("table", rounded, tuple(float(f"{v:.6g}") for v in at)))

    def criterion(law: Law) -> float:
        sigma = np.maximum(law.at(g), floor)
        cost = 2 * float((np.log(sigma) + np.square(residual / sigma) / 2).sum())
        return cost + math.log(n) * (len(law.against) or 1)

    best = min(laws, key=criterion)
    scores = residual / np.maximum(best.at(g), floor)
    p = float(stats.kstest(scores, "norm").pvalue)
    return best, f"{best.name}; Kolmogorov-Smirnov against a normal distribution p = {p:.2g}, n = {n}"
