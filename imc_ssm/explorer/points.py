"""A dataset as points: one for every combination of what was varied, with one number a point for every
quantity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from imc_ssm.errors import ConfigError, unknown
from imc_ssm.explorer.quantities import Quantity, label_of, labels_along, worst
from imc_ssm.units import prefix

__all__ = [
    "INNER",
    "POINT",
    "ROW",
    "Points",
    "Scaled",
    "Varied",
    "name_of",
    "scale_of",
    "table_of",
    "varied_dims",
]

POINT, ROW, TRIAL = "point", "row", "trial"
"""Dimensions of points: here, of several results together, and of a search."""
INNER = ("chip", "time", "component", "bound", "class", "quantile", "above", "operation", "part")
"""Dimensions of a variable that no point is made of, unless there are no others."""
MOST = 200_000
"""Points, at most."""
Array = npt.NDArray[Any]
_METRICS = ("accuracy", "f1_macro", "r2", "mae", "f1", "accuracy_digital", "ratio")
_COSTS = ("energy_total", "energy", "power", "latency_total", "latency", "area_total", "area", "memory")
_COST_WORDS = ("energy", "power", "latency", "area", "memory")
"""How the names of costs begin."""
_SIZED = ("J", "s", "W", "bit", "Hz", "m", "F", "V", "A", "ohm", "S")


@dataclass(frozen=True)
class Varied:
    """Something that tells points apart."""

    name: str
    """Coordinate."""
    text: str
    """Name for people, with its unit."""
    values: tuple[Any, ...]
    """Its values, each once, sorted (texts in their order)."""
    numeric: bool
    """Whether they are numbers."""


@dataclass(frozen=True)
class Scaled:
    """Numbers of all points, in a unit that keeps them readable."""

    values: Array
    """(points,), in `unit`."""
    text: str
    """What they are, with the unit, for an axis."""
    unit: str
    """With its prefix; "" for a pure number."""
    factor: float
    """`values` = factor x the dataset's."""


def varied_dims(ds: xr.Dataset) -> tuple[str, ...]:
    """The dimensions that points are made of, in the dataset's order.

    Those of what was varied: of all sets of dimensions of a variable (without `INNER`, and those of one value) the
    one that most variables stay within, of equals the larger. Where nothing was varied, chips and times, or
    components.
    """
    numbers = [ds[n] for n in ds.data_vars if ds[n].dtype.kind in "biuf" and ds[n].dims]
    if not numbers:
        raise ConfigError("this dataset has no numbers over any dimension; there is nothing to explore")
    for inner in (INNER, INNER[2:], INNER[3:]):
        sets = [frozenset(str(d) for d in v.dims if d not in inner and ds.sizes[d] != 1) for v in numbers]
        found = [s for s in sets if s]
        if found:
            best = max(
                found, key=lambda s: (sum(t <= s for t in found), len(s), math.prod(ds.sizes[d] for d in s))
            )
            return tuple(str(dim) for v in numbers for dim in v.dims if dim in best)[: len(best)]
    return tuple(str(dim) for dim in numbers[0].dims)[:1]


class Points:
    """A dataset, flattened: `ds` has the dimension "point" in the place of those that were varied."""

    def __init__(self, ds: xr.Dataset, over: Sequence[str] | None = None) -> None:
        """`over`: the dimensions whose every value is a point; None: `varied_dims`.

        Raises `ConfigError` for a dimension that is not there, and for more than `MOST` points.
        """
        dims = varied_dims(ds) if over is None else tuple(over)
        for dim in dims:
            if dim not in ds.dims:
                raise ConfigError(unknown("dimension", dim, map(str, ds.dims)))
        if len(set(dims)) < len(dims) or not dims:
            raise ConfigError(f"points over {', '.join(dims) or 'nothing'}; give dimensions, each once")
        count = math.prod(ds.sizes[dim] for dim in dims)
        if count > MOST:
            raise ConfigError(
                f"{count:,} points over {', '.join(dims)}; at most {MOST:,}: choose fewer dimensions"
            )
        if count == 0:
            raise ConfigError(
                f"there is nothing yet: {', '.join(d for d in dims if not ds.sizes[d])} has no values"
            )
        self.source, self.over = ds, dims
        self._labels: dict[str, list[str]] = {}
        self.title = str(ds.attrs.get("title") or "Results")
        if POINT in ds.dims:
            raise ConfigError(f"a dimension is called {POINT!r}, as points are here; rename it")
        named = ds.assign_coords(
            {d: (d, np.arange(ds.sizes[d]), {"units": "1", "long_name": d}) for d in dims if d not in ds.coords}
        )
        about = {str(name): dict(variable.attrs) for name, variable in named.variables.items()}
        flat = named.stack({POINT: dims}).reset_index(POINT).transpose(POINT, ...)
        for name, attrs in about.items():
            if name in flat.variables:
                flat[name].attrs = attrs
        self.ds = flat.assign_coords({POINT: np.arange(count)})

    def __len__(self) -> int:
        return int(self.ds.sizes[POINT])

    @cached_property
    def varied(self) -> list[Varied]:
        """Coordinates with more than one value, those of the points alone."""
        out = []
        for name, coordinate in self.ds.coords.items():
            if name in (POINT, ROW) or coordinate.dims != (POINT,):
                continue
            values = coordinate.values
            numeric = values.dtype.kind in "iuf"
            kept = values[np.isfinite(values)] if numeric else values
            each = np.unique(kept).tolist() if numeric else list(dict.fromkeys(map(str, kept.tolist())))
            if len(each) > 1:
                out.append(Varied(str(name), _text_of(coordinate), tuple(each), numeric))
        order = {name: place for place, name in enumerate((*self.over, *map(str, self.source.coords)))}
        return sorted(out, key=lambda field: (field.name == TRIAL, order.get(field.name, 0)))

    @cached_property
    def names(self) -> list[str]:
        """Variables and coordinates that are one number a point, or can be made one; those without any left
        out."""
        found = []
        for name in (*self.ds.data_vars, *(field.name for field in self.varied if field.numeric)):
            values = self.ds[name]
            if POINT in values.dims and values.dtype.kind in "biuf" and bool(values.notnull().any()):
                found.append(str(name))
        return found

    def quantity(self, text: str | Quantity) -> Quantity:
        """A quantity of these points; `ConfigError` names the nearest for one that is not there."""
        made = text if isinstance(text, Quantity) else Quantity.of(text, self.ds)
        if made.name not in self.names:
            raise ConfigError(unknown("quantity", made.name, self.names))
        return made

    def choices(self, name: str) -> dict[str, list[str]]:
        """Dimension -> its values in words, for those that a variable has beside the points."""
        return {str(d): labels_along(self.ds[name], str(d)) for d in self.ds[name].dims if d != POINT}

    def numbers(self, quantity: str | Quantity) -> Array:
        """(points,) in the dataset's units."""
        made = self.quantity(quantity)
        return np.asarray(made(self.ds[made.name], POINT).values, np.float64)

    def scaled(self, quantity: str | Quantity) -> Scaled:
        """The same in a readable unit, with a label for an axis."""
        made = self.quantity(quantity)
        values = self.ds[made.name]
        numbers = self.numbers(made)
        units = str(values.attrs.get("units") or "1")
        there = np.abs(numbers[np.isfinite(numbers) & (numbers != 0)])
        typical = float(np.median(there)) if there.size else 1.0
        factor, unit = scale_of(typical if made.name in self.ds.data_vars else 1.0, units)
        words = made.words(values, POINT)
        text = _named(values) + (f", {words}" if words else "") + (f" ({unit})" if unit else "")
        return Scaled(numbers * factor, text, unit, factor)

    def places(self, index: int) -> dict[str, int]:
        """Dimension -> place of a point along it."""
        found = np.unravel_index(index, [self.source.sizes[dim] for dim in self.over])
        return {dim: int(place) for dim, place in zip(self.over, found, strict=True)}

    def wide(self, quantity: str | Quantity) -> bool:
        """Whether it wants a logarithmic axis: all above 0, and over more than a factor of 30."""
        numbers = self.numbers(quantity)
        there = numbers[np.isfinite(numbers)]
        return bool(there.size and there.min() > 0 and there.max() > 30 * there.min())

    def labels(self, name: str) -> list[str]:
        """A coordinate of every point in words."""
        if name not in self._labels:
            self._labels[name] = [label_of(name, value) for value in self.ds[name].values.tolist()]
        return self._labels[name]

    def kept(self, filters: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
        """Which points pass: field -> (low, high), both included, or a set of values (texts, or numbers)."""
        mask = np.ones(len(self), bool)
        for name, wanted in filters.items():
            field = next((f for f in self.varied if f.name == name), None)
            if field is None:
                raise ConfigError(unknown("field", name, [f.name for f in self.varied]))
            values = self.ds[name].values
            if isinstance(wanted, tuple):
                low, high = wanted
                mask &= (values >= low) & (values <= high)
            elif field.numeric:
                mask &= np.isin(values, np.asarray(sorted(wanted), values.dtype))
            else:
                mask &= np.isin(np.asarray(values, str), sorted(map(str, wanted)))
        return mask

    def front(
        self,
        minimise: Sequence[str | Quantity] = (),
        maximise: Sequence[str | Quantity] = (),
        mask: npt.NDArray[np.bool_] | None = None,
    ) -> Array:
        """Numbers of the points (of `mask`) that no other one beats in everything, in rising order of the first
        goal.

        Raises `ConfigError` where there is nothing to look for.
        """
        from imc_ssm.sweeps import undominated

        goals = [self.numbers(q) for q in minimise] + [-self.numbers(q) for q in maximise]
        if not goals:
            raise ConfigError("nothing to look for; give what is to be minimised or maximised")
        rows = np.stack(goals, -1)
        if mask is not None:
            rows[~mask] = np.nan
        found = np.flatnonzero(undominated(rows))
        return found[np.lexsort(rows[found].T[::-1])]

    def usual(self) -> tuple[str, str, str | None]:
        """What the axes and the colour show at first: a cost (or a varied number) across, a metric up, a field."""
        names = self.names
        own = [n for n in names if n in self.ds.data_vars and not n.endswith("_bounds")]
        others = [n for n in own if not n.startswith(_COST_WORDS)]
        up = next((n for n in (*_METRICS, *others, "area", *own) if n in own), names[0])
        numeric = sorted(
            (f.name for f in self.varied if f.numeric),
            key=lambda n: (n in ("seed", "chip", TRIAL), not self.is_goal(n)),
        )
        across = next((n for n in (*_COSTS, *numeric, *names) if n in names and n != up), up)
        fields = [field.name for field in self.varied if field.name not in (across, up, TRIAL)]
        fields.sort(key=lambda name: name == "seed")
        return across, up, next(iter(fields), None)

    def is_goal(self, quantity: str | Quantity) -> bool:
        """Whether anybody wants it large or small by itself: what was measured, and word lengths."""
        name = self.quantity(quantity).name
        return name in self.ds.data_vars or self.ds[name].attrs.get("units") == "bit"

    def goals(self, *quantities: str | Quantity) -> tuple[list[Quantity], list[Quantity]]:
        """Which of them are to be minimised, and which maximised, where nobody said so."""
        asked = dict.fromkeys(self.quantity(q) for q in quantities if self.is_goal(q))
        small = [q for q in asked if worst(q.name) == "max"]
        return small, [q for q in asked if q not in small]


def scale_of(typical: float, units: str) -> tuple[float, str]:
    """Factor and unit for numbers of this size: J as nJ, m2 as mm2, percent as %; "" for a pure number."""
    if units == "percent":
        return 1.0, "%"
    if units == "m2":
        return 1e6, "mm²"
    if units in _SIZED and typical > 0:
        return prefix(typical, units)
    return 1.0, "" if units == "1" else units


def name_of(values: xr.DataArray, most: int = 60) -> str:
    """What a variable is, for people: its long name, or its own where that is long."""
    text = str(values.attrs.get("long_name") or values.name).split(";")[0].strip()
    return text if len(text) <= most else str(values.name).replace("_", " ").capitalize()


def _named(values: xr.DataArray) -> str:
    """The same; of a path, whose long name others may share, with the path beside it, or the path alone where both
    are too long for the side of the page."""
    text, path = name_of(values), str(values.name)
    if "." not in path:
        return text
    short = path.removeprefix("design.")
    same = text.lower().replace(" ", "_") == path.replace(" ", "_").lower()
    both = f"{text}, {short}"
    return short if same or len(both) > 34 else both


def _text_of(coordinate: xr.DataArray) -> str:
    """Name of a field with its unit."""
    units = str(coordinate.attrs.get("units") or "1")
    unit = {"percent": "%", "1": ""}.get(units, units)
    return _named(coordinate) + (f" ({unit})" if unit else "")


def table_of(
    points: Points, quantities: Sequence[str | Quantity], rows: Sequence[int] | Array
) -> list[dict[str, Any]]:
    """Rows for a table: the number of the point, the quantities in readable units, and what was varied."""
    columns = {}
    for quantity in quantities:
        scaled = points.scaled(quantity)
        columns[scaled.text] = [f"{value:.5g}" if np.isfinite(value) else "-" for value in scaled.values]
    columns |= {f.text: points.labels(f.name) for f in points.varied if f.text not in columns}
    return [{"point": int(row), **{name: values[row] for name, values in columns.items()}} for row in rows]
