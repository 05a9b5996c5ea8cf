"""Numbers of a point, the best point, and the front: the points that no other one beats in everything."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from imc_ssm.errors import ConfigError, ImcSsmError, unknown
from imc_ssm.sweeps.search import Constraint
from imc_ssm.units import seconds

__all__ = ["Reading", "best", "feasible", "front", "points", "undominated", "value"]

OVER_CHIPS = ("mean", "min", "max", "std", "q05", "q25", "median", "q75", "q95")
"""What can be asked of a population of chips."""
_FORM = re.compile(r"([A-Za-z_]\w*)(?:@([^:@]+))?(?::(\w+))?")
_TRIAL = "trial"
_BLOCK = 512


@dataclass(frozen=True)
class Reading:
    """How one number is read of a point: "accuracy", "accuracy@1d", "accuracy@1d:q05", "energy@adc",
    "energy_total_bounds@high"."""

    name: str
    """A variable."""
    at: str | None = None
    """A time, such as "1d", a component, or a bound; None: the latest time, the sum over components, nominal."""
    over: str = "mean"
    """What over chips (`OVER_CHIPS`)."""

    @classmethod
    def of(cls, text: str) -> Reading:
        """Read `text`; `ConfigError` for what is none."""
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ConfigError(f"{text!r} names no number of a point; give one such as accuracy@1d or energy_total")
        over = match[3] or "mean"
        if over not in OVER_CHIPS:
            raise ConfigError(unknown("number over chips", over, OVER_CHIPS, sort=False))
        return cls(match[1], match[2], over)

    def __call__(self, values: xr.DataArray) -> xr.DataArray:
        """The number of a variable, over the dimensions of the points alone."""
        at = self.at
        if "time" in values.dims:
            values = values.isel(time=-1) if at is None else values.sel(time=_nearest(values["time"], at))
            at = None
        if "component" in values.dims:
            if at is None:
                values = values.sum("component", skipna=False, keep_attrs=True)
            else:
                if at not in values["component"].values:
                    raise ConfigError(unknown("component", at, map(str, values["component"].values)))
                values = values.sel(component=at)
            at = None
        if "bound" in values.dims:
            if (at or "nominal") not in values["bound"].values:
                raise ConfigError(unknown("bound", str(at), map(str, values["bound"].values), sort=False))
            values, at = values.sel(bound=at or "nominal"), None
        if at is not None:
            raise ConfigError(f"{self.name}@{at}: {self.name!r} has no times, components or bounds")
        if "chip" in values.dims:
            values = _over_chips(values, self.over)
        elif self.over != "mean":
            raise ConfigError(f"{self.name}:{self.over}: {self.name!r} is not over chips; leave :{self.over} out")
        return values.drop_vars([n for n in ("time", "component", "bound") if n in values.coords])


def _nearest(times: xr.DataArray, at: str) -> float:
    wanted = seconds(at)
    found = float(times.values[np.argmin(np.abs(times.values - wanted))])
    if not np.isclose(found, wanted, rtol=1e-6):
        known = ", ".join(f"{t:g} s" for t in times.values)
        raise ConfigError(f"there is nothing at {at!r}; the times are {known}")
    return found


def _over_chips(values: xr.DataArray, what: str) -> xr.DataArray:
    if what == "median":
        what = "q50"
    if what.startswith("q"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)  # points without a number have none
            return values.quantile(int(what[1:]) / 100, "chip", keep_attrs=True).drop_vars("quantile")
    if what == "std":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Degrees of freedom", RuntimeWarning)  # of one chip, or none
            return values.std("chip", ddof=1, keep_attrs=True)
    made: xr.DataArray = getattr(values, what)("chip", keep_attrs=True)
    return made


def value(ds: xr.Dataset, text: str) -> xr.DataArray:
    """A number of every point: "energy_total", "accuracy" (mean of the chips at the latest time),
    "accuracy@1d:q05" (after a day, the 5 % quantile over chips), "energy@adc" (of a component),
    "area_total_bounds@high" (the end of an interval).

    Raises `ConfigError` for a name, a time, a component or a bound that is not there.
    """
    reading = Reading.of(text)
    if reading.name not in ds.data_vars:
        raise ConfigError(unknown("variable", reading.name, map(str, ds.data_vars)))
    found = reading(ds[reading.name])
    said = str(ds[reading.name].attrs.get("long_name", reading.name))
    more = [part for part in (reading.at, reading.over if reading.over != "mean" else None) if part]
    return found.assign_attrs(long_name=", ".join([said, *more])).rename(text)


def feasible(ds: xr.Dataset, constraints: Iterable[Any] = ()) -> xr.DataArray:
    """Which points keep all constraints; none that has no number."""
    kept = xr.ones_like(value(ds, str(_first(ds))), dtype=bool)
    for given in constraints:
        constraint = Constraint.of(given)
        number = value(ds, constraint.name)
        kept = kept & (number <= constraint.bound if constraint.relation == "<=" else number >= constraint.bound)
    return kept


def _first(ds: xr.Dataset) -> str:
    if "status" in ds.data_vars:
        return "status"
    if not ds.data_vars:
        raise ConfigError("the dataset has no variables; give that of a sweep")
    return str(next(iter(ds.data_vars)))


def points(ds: xr.Dataset) -> xr.Dataset:
    """The same with one dimension of points, `trial`: of a grid its cells, the last axis fastest."""
    dims = [str(dim) for dim in ds[_first(ds)].dims if dim not in ("chip", "time", "component", "bound")]
    if dims == [_TRIAL]:
        return ds
    if not dims:
        return ds.expand_dims(_TRIAL).assign_coords({n: (_TRIAL, [c.item()], c.attrs) for n, c in _scalars(ds)})
    attrs = {dim: ds[dim].attrs for dim in dims}
    out = ds.stack({_TRIAL: dims}).reset_index(_TRIAL)
    count = np.arange(out.sizes[_TRIAL])
    out = out.assign_coords({_TRIAL: (_TRIAL, count, {"units": "1", "long_name": "Cell of the grid"})})
    for dim in dims:
        out[dim].attrs = dict(attrs[dim])
    return out.transpose(_TRIAL, ...)


def _scalars(ds: xr.Dataset) -> list[tuple[str, xr.DataArray]]:
    return [(str(n), c) for n, c in ds.coords.items() if not c.dims]


def undominated(numbers: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which rows of (points, goals), all to be small, no other row beats: is nowhere larger and somewhere smaller.

    A row with NaN is beaten; equal rows stand together. What beats a row comes before it in lexicographic order,
    and one of those that stand does; so rows are compared, block by block, with those that stand so far: time
    grows as rows times the front.
    """
    rows = np.asarray(numbers, np.float64)
    there = np.flatnonzero(np.all(np.isfinite(rows), axis=1))
    there = there[np.lexsort(rows[there].T[::-1])]
    standing = there[:0]
    for start in range(0, len(there), _BLOCK):
        block = there[start : start + _BLOCK]
        block = block[~_beaten(rows[block], rows[standing])]
        standing = np.concatenate([standing, block[~_beaten(rows[block], rows[block])]])
    kept = np.zeros(len(rows), bool)
    kept[standing] = True
    return kept


def _beaten(rows: npt.NDArray[np.float64], by: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which rows are beaten by a row of `by`."""
    nowhere = np.ones((len(rows), len(by)), bool)
    somewhere = np.zeros((len(rows), len(by)), bool)
    for own, other in zip(rows.T, by.T, strict=True):
        nowhere &= other <= own[:, None]
        somewhere |= other < own[:, None]
    found: npt.NDArray[np.bool_] = np.any(nowhere & somewhere, axis=1)
    return found


def _goals(
    ds: xr.Dataset, minimise: Sequence[str] | str, maximise: Sequence[str] | str
) -> list[tuple[float, xr.DataArray]]:
    small = [minimise] if isinstance(minimise, str) else list(minimise)
    large = [maximise] if isinstance(maximise, str) else list(maximise)
    if not small and not large:
        raise ConfigError("nothing to look for; give minimise = ['energy_total'] or maximise = ['accuracy']")
    return [(1.0, value(ds, name)) for name in small] + [(-1.0, value(ds, name)) for name in large]


def front(
    ds: xr.Dataset,
    *,
    minimise: Sequence[str] | str = (),
    maximise: Sequence[str] | str = (),
    constraints: Iterable[Any] = (),
) -> xr.Dataset:
    """The Pareto front: of the points that keep the constraints those that no other one beats in everything.

        >>> import numpy as np, xarray as xr
        >>> ds = xr.Dataset({"energy": ("trial", [1.0, 2.0, 3.0]), "accuracy": ("trial", [90.0, 89.0, 95.0])})
        >>> front(ds, minimise="energy", maximise="accuracy")["trial"].values.tolist()
        [0, 2]

    Numbers as `value` takes them; points in rising order of the first one. The dataset has the dimension `trial`,
    with what was varied as coordinates. Raises `ConfigError` where there is nothing to look for.
    """
    flat = points(ds)
    if _TRIAL not in flat.coords:
        flat = flat.assign_coords({_TRIAL: np.arange(flat.sizes[_TRIAL])})
    goals = _goals(flat, minimise, maximise)
    rows = np.stack([sign * number.values for sign, number in goals], -1)
    rows[~feasible(flat, constraints).values] = np.nan
    kept = np.flatnonzero(undominated(rows))
    return flat.isel({_TRIAL: kept[np.lexsort(rows[kept].T[::-1])]})


def best(
    ds: xr.Dataset,
    *,
    minimise: Sequence[str] | str = (),
    maximise: Sequence[str] | str = (),
    constraints: Iterable[Any] = (),
) -> xr.Dataset:
    """The one point that is best in one number, among those that keep the constraints.

    Where several are equally good the first one. Raises `ConfigError` for more than one number (`front`), and
    `ImcSsmError` where no point keeps the constraints.
    """
    flat = points(ds)
    goals = _goals(flat, minimise, maximise)
    if len(goals) > 1:
        raise ConfigError("best looks for one number; give the others as constraints, or ask for the front")
    sign, number = goals[0]
    row = np.where(feasible(flat, constraints).values, sign * number.values, np.nan)
    if not np.isfinite(row).any():
        words = ", ".join(str(Constraint.of(c)) for c in constraints)
        raise ImcSsmError(
            f"no point of {len(row)} keeps {words or 'what was asked'}; allow more, or sweep further"
        )
    return flat.isel({_TRIAL: int(np.nanargmin(row))})


def scalar(variables: Mapping[str, Any], found: Mapping[str, Any], text: str) -> float | None:
    """A number of one point from what was found of it so far; None: not known yet."""
    reading = Reading.of(text)
    if reading.name not in variables:
        raise ConfigError(unknown("variable", reading.name, variables))
    if reading.name not in found or not np.isfinite(found[reading.name]).all():
        return None
    own = variables[reading.name].dimensions
    coords = {d.name: np.asarray(d.labels) for d in own}
    return float(reading(xr.DataArray(found[reading.name], coords, [d.name for d in own])))
