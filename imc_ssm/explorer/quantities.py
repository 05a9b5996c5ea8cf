"""How one number a point is read of a variable: at one time, of one component, the worst of the chips."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from imc_ssm.errors import ConfigError, unknown
from imc_ssm.units import duration, seconds

__all__ = ["LARGE", "OVER", "Quantity", "label_of", "labels_along", "usual", "worst"]

OVER = ("mean", "worst", "median", "min", "max", "std", "q05", "q25", "q75", "q95", "sum")
"""What can be asked of the values along a dimension, beside one of them."""
LARGE = ("accuracy", "f1", "r2", "yield", "saving", "throughput", "efficiency", "per_second", "margin")
"""What is better the larger it is, by how its name begins or ends; of all else the small is better."""
_FORM = re.compile(r"([^@:]+)(?:@([^:]+))?(?::(\w+))?")
_POINTS = "point"
"""The dimension of points themselves."""


def worst(name: str) -> str:
    """ "min" of what is better the larger it is, else "max"."""
    words = name.split("@")[0]
    return "min" if any(words.startswith(word) or words.endswith(word) for word in LARGE) else "max"


def label_of(dim: str, value: Any) -> str:
    """A value of a coordinate in words: times as "1 d", other numbers short."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return duration(float(value)).replace(" ", "") if dim == "time" else f"{value:.6g}"
    return str(value)


def labels_along(values: xr.DataArray, dim: str) -> list[str]:
    """The values along a dimension in words, in its order; numbers from 0 where it has no coordinate."""
    along = values[dim].values if dim in values.coords else np.arange(values.sizes[dim])
    return [label_of(dim, value) for value in along]


def usual(dim: str, labels: list[str]) -> str:
    """What is taken along a dimension where nobody chose: the last time, the nominal bound, the sum of the
    components, of everything else the mean."""
    if dim == "time":
        return labels[-1]
    if dim == "bound" and "nominal" in labels:
        return "nominal"
    return "sum" if dim == "component" else "mean"


@dataclass(frozen=True)
class Quantity:
    """A variable or coordinate, and what is taken of each dimension that the points do not have.

    accuracy                the mean of the chips at the last time
    accuracy@1d:worst       the worst chip after a day
    energy@adc              the converters' energy; energy alone is that of all components
    energy@adc,high         at the upper end of the constants' ranges
    accuracy@seed=3         by the name of the dimension, where only that says what is meant
    """

    name: str
    """Variable or coordinate."""
    at: tuple[tuple[str, str], ...] = ()
    """(dimension, one of `OVER` or one of its values in words), sorted; the usual for those that are not there."""

    def __str__(self) -> str:
        over = [how for dim, how in self.at if dim == "chip" and how in OVER]
        parts = [
            how if dim in ("time", "component", "bound") and how not in OVER else f"{dim}={how}"
            for dim, how in self.at
            if not (dim == "chip" and how in OVER)
        ]
        return self.name + (f"@{','.join(parts)}" if parts else "") + (f":{over[0]}" if over else "")

    @classmethod
    def of(cls, text: str, ds: xr.Dataset) -> Quantity:
        """Read what `str` writes, of a dataset; `ConfigError` for a name, a time or a component that is not
        there."""
        names = [str(n) for n in ds.variables]
        if text in names:
            return cls(text)
        match = _FORM.fullmatch(text.strip())
        if match is None or match[1] not in names:
            raise ConfigError(unknown("quantity", (match[1] if match else text), names))
        values = ds[match[1]]
        at: dict[str, str] = {}
        for part in (match[2] or "").split(","):
            if part:
                dim, how = _meant(values, part.strip())
                at[dim] = how
        if match[3]:
            if "chip" not in values.dims:
                raise ConfigError(f"{text}: {match[1]!r} is not over chips; leave :{match[3]} out")
            at["chip"] = match[3]
        return cls(match[1]).with_(at, values)

    def with_(self, at: Mapping[str, str], values: xr.DataArray) -> Quantity:
        """With other choices; those that are the usual are left out. `ConfigError` for one that is not there."""
        kept = {}
        for dim, how in {**dict(self.at), **at}.items():
            labels = labels_along(values, dim)
            if how not in OVER and how not in labels:
                raise ConfigError(unknown(f"value along {dim!r}", how, (*OVER, *labels), sort=False))
            if how != usual(dim, labels):
                kept[dim] = how
        return Quantity(self.name, tuple(sorted(kept.items())))

    def chosen(self, values: xr.DataArray, points: str) -> dict[str, str]:
        """Dimension -> what is taken of it, for all that the points do not have."""
        given = dict(self.at)
        dims = [str(dim) for dim in values.dims if dim != points]
        return {dim: given.get(dim) or usual(dim, labels_along(values, dim)) for dim in dims}

    def __call__(self, values: xr.DataArray, points: str) -> xr.DataArray:
        """One number a point, in float64."""
        for dim, how in self.chosen(values, points).items():
            labels = labels_along(values, dim)
            if how in OVER:
                values = _over(values, dim, worst(self.name) if how == "worst" else how)
            else:
                values = values.isel({dim: labels.index(how)}, drop=True)
        return values.astype(np.float64)

    def words(self, values: xr.DataArray, points: str) -> str:
        """What is taken, for people: "1 d, worst of 10 chips"; where points have different numbers of them, "worst
        of the chips"."""
        said = []
        for dim, how in self.chosen(values, points).items():
            if how == "sum" and dim == "component":
                continue
            if dim == "bound" and how == "nominal":
                continue
            size = values.sizes[dim]
            if how not in OVER:
                where = dim in ("time", "component", "bound")
                said.append(f"after {how}" if dim == "time" else how if where else f"{dim} {how}")
            elif size > 1:
                of = dim if dim.endswith("s") else f"{dim}s"
                there = np.unique(values.count(dim))
                there = there[there > 0]
                said.append(f"{how} of {there[0] if there.size == 1 else 'the'} {of}")
        return ", ".join(said)


def _over(values: xr.DataArray, dim: str, how: str) -> xr.DataArray:
    if how == "sum":
        return values.sum(dim, skipna=True, min_count=1)
    with warnings.catch_warnings():  # points without numbers have none
        warnings.filterwarnings("ignore", "All-NaN slice|Degrees of freedom", RuntimeWarning)
        if how == "median":
            return values.median(dim, skipna=True)
        if how.startswith("q"):
            return values.quantile(int(how[1:]) / 100, dim, skipna=True).drop_vars("quantile")
        if how == "std":
            return values.std(dim, ddof=1)
    made: xr.DataArray = getattr(values, how)(dim)
    return made


def _meant(values: xr.DataArray, part: str) -> tuple[str, str]:
    """The dimension that "1d", "adc" or "seed=3" is of, and its value in words."""
    dims = [str(dim) for dim in values.dims if dim != _POINTS]
    if "=" in part:
        dim, how = part.split("=", 1)
        if dim not in dims:
            raise ConfigError(unknown("dimension", dim, dims))
        return dim, how
    for dim in sorted(dims, key=lambda d: d not in ("time", "component", "bound")):
        labels = labels_along(values, dim)
        if part in labels:
            return dim, part
        if dim == "time":
            try:
                near = np.flatnonzero(np.isclose(values["time"].values, seconds(part), rtol=1e-6))
            except ConfigError:
                near = np.array([], int)
            if near.size:
                return dim, labels[int(near[0])]
    known = [f"{dim}: {', '.join(labels_along(values, dim)[:12])}" for dim in dims]
    raise ConfigError(f"{values.name} has nothing at {part!r}; there are {'; '.join(known) or 'no dimensions'}")
