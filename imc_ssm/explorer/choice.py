"""One chosen point: where its energy goes, its accuracy over time and over chips, its design, how to make it
again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.errors import ImcSsmError
from imc_ssm.explorer.points import POINT, Points, name_of, scale_of
from imc_ssm.explorer.quantities import label_of
from imc_ssm.units import seconds

if TYPE_CHECKING:
    from imc_ssm.devices import Design
    from imc_ssm.sweeps import ChipPoint

__all__ = ["Ageing", "Breakdown", "ageing", "breakdown", "command_of", "described", "design_of", "toml_of"]

METRICS = ("accuracy", "f1_macro", "r2", "mae")
COSTS = ("energy", "energy_step", "latency", "area", "memory")
DEPLOYED = (
    "chips",
    "times",
    "sequences",
    "refresh",
    "recalibrate",
    "within",
    "recurrence",
    "heads_per_tile",
    "seed",
)


@dataclass(frozen=True)
class Breakdown:
    """What every component takes of a cost."""

    text: str
    """The cost with its unit."""
    unit: str
    """The unit alone."""
    components: tuple[str, ...]
    """Those that take anything, the largest first."""
    values: tuple[float, ...]
    """In the unit of `text`."""
    low: tuple[float, ...]
    """At the lower end of the constants' ranges; `values` where there are none."""
    high: tuple[float, ...]
    """At the upper end."""
    total: float
    """Their sum."""


@dataclass(frozen=True)
class Ageing:
    """A metric of one point on its chips over time."""

    text: str
    """The metric with its unit."""
    times: np.ndarray[Any, Any]
    """s (times,), rising."""
    values: np.ndarray[Any, Any]
    """(chips, times)."""
    digital: float | None
    """Without analog noise."""
    larger: bool
    """Whether larger is better."""


def _own(points: Points, index: int, name: str, whole: tuple[str, ...]) -> xr.DataArray:
    """A variable at a point, all of it along the dimensions `whole`, those too that points are made of."""
    values = points.source[name]
    return values.isel({d: p for d, p in points.places(index).items() if d in values.dims and d not in whole})


def costs_of(points: Points) -> list[str]:
    """The costs that a dataset has by component."""
    return [name for name in COSTS if name in points.source and "component" in points.source[name].dims]


def breakdown(points: Points, index: int, name: str = "energy") -> Breakdown | None:
    """A cost by component; None where the dataset has none, or this point has no number."""
    if name not in points.source or "component" not in points.source[name].dims:
        return None
    bounds = f"{name}_bounds"
    with_ends = bounds if bounds in points.source and "component" in points.source[bounds].dims else name
    values = _own(points, index, with_ends, ("component", "bound"))
    other = [str(d) for d in values.dims if d not in ("component", "bound")]
    values = values.mean(other)
    ends = {
        end: values.sel(bound=end).values if "bound" in values.dims else values.values
        for end in ("low", "nominal", "high")
    }
    middle = np.nan_to_num(ends["nominal"])
    if not middle.any():
        return None
    factor, unit = scale_of(float(middle.max()), str(points.source[name].attrs.get("units", "1")))
    order = [i for i in np.argsort(-middle, kind="stable") if middle[i] > 0]
    low, mid, high = (tuple((np.nan_to_num(ends[end]) * factor)[order].tolist()) for end in ends)
    names = [str(c) for c in values["component"].values[order]]
    text = f"{name_of(points.source[name])} ({unit})"
    return Breakdown(text, unit, tuple(names), mid, low, high, float(middle.sum() * factor))


def ageing(points: Points, index: int) -> Ageing | None:
    """The metric on chips over time; None where the dataset has none over chips."""
    for name in METRICS:
        if name not in points.source or not {"chip", "time"} & set(map(str, points.source[name].dims)):
            continue
        values = _own(points, index, name, ("chip", "time"))
        for dim in ("chip", "time"):
            if dim not in values.dims:
                values = values.expand_dims(dim)
        values = values.mean([d for d in values.dims if d not in ("chip", "time")]).transpose("chip", "time")
        times = np.atleast_1d(np.asarray(values["time"].values if "time" in values.coords else [0.0], float))
        order = np.argsort(times)
        table = np.asarray(values.values, float)[:, order]
        table = table[np.isfinite(table).any(1)]
        if not table.size:
            continue
        digital = f"{name}_digital"
        clean = float(_own(points, index, digital, ()).mean()) if digital in points.source else None
        units = str(points.source[name].attrs.get("units", "1"))
        text = name_of(points.source[name]) + {"percent": " (%)", "1": ""}.get(units, f" ({units})")
        reached = None if clean is None or not np.isfinite(clean) else clean
        return Ageing(text, times[order], table, reached, name != "mae")
    return None


def described(points: Points, index: int) -> dict[str, str]:
    """What was varied, in words: name -> value at this point."""
    return {field.text: points.labels(field.name)[index] for field in points.varied}


def _made_by(points: Points, index: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration that a point comes from, and coordinate, or variable of texts, -> value; of a dimension
    that is reduced, nothing."""
    own = points.ds.isel({POINT: index})
    told = [*own.coords, *(n for n in own.data_vars if own[n].dtype.kind in "UO")]
    at = {str(n): own[n].values.item() for n in told if not own[n].dims and n != POINT}
    try:
        found = json.loads(points.source.attrs["configuration"])
    except (KeyError, TypeError, ValueError):
        found = {}
    if isinstance(found, dict) and isinstance(found.get("results"), dict):  # several results together
        found = found["results"].get(str(at.get("result")))
    return found if isinstance(found, dict) else {}, at


def design_of(points: Points, index: int) -> Design:
    """The chip design of a point, from what the dataset says of itself.

    Of a sweep, or of `advise`, its base with what was varied; of one deployment its own; of a study the one design
    among its jobs that the coordinates fit. Raises `ImcSsmError` where they do not say which, and where the
    design's cell or component table is a file of one's own that is not there.
    """
    from imc_ssm.devices import resolve

    configuration, at = _made_by(points, index)
    if not configuration:
        raise ImcSsmError("the dataset has no configuration, so no design can be made of it")
    if "objective" in configuration or "advise" in configuration:
        design = _of_sweep(configuration, at)
    elif isinstance(configuration.get("design"), dict | str):
        design = _designed(configuration["design"])
    elif isinstance(configuration.get("jobs"), list):
        design = _of_study(configuration["jobs"], at)
    else:
        raise ImcSsmError("the dataset's configuration has no chip design")
    try:
        resolve(design)
    except ImcSsmError as error:
        raise ImcSsmError(f"the design names a file of one's own that is not here: {error}") from None
    return design


def _designed(given: Any) -> Design:
    from imc_ssm.devices import Design, load_design

    return load_design(given) if isinstance(given, str) else Design.parse(given)


def _of_sweep(configuration: Mapping[str, Any], at: Mapping[str, Any]) -> Design:
    point = _point_of(configuration, at)
    if point.cell:
        names = ", ".join(point.cell)
        raise ImcSsmError(
            f"this point has constants of its own for its cell ({names}), which a design does not hold"
        )
    return point.design


def _point_of(configuration: Mapping[str, Any], at: Mapping[str, Any]) -> ChipPoint:
    """The configuration of a point of a sweep, or of `advise`: its base with what was varied."""
    from imc_ssm.sweeps import ChipPoint, Space

    if "advise" in configuration:
        if "path" not in at or "value" not in at:
            raise ImcSsmError("the changes do not say their values; let each be a point, or run advise again")
        return ChipPoint.parse(configuration["advise"]).at({at["path"]: json.loads(at["value"])})
    base = configuration["objective"].get("point")
    if not isinstance(base, dict):
        raise ImcSsmError("the objective of this sweep was a function, which says no chip design")
    axes = configuration["space"]["axes"]
    space = Space.of({name: axes[name] for name in configuration["space"]["order"]})
    for name in space.axes:
        if name not in at:
            raise ImcSsmError(f"points that differ in {name!r} are taken together; let each be a point of its own")
        if at[name] == "" or (isinstance(at[name], float) and np.isnan(at[name])):
            raise ImcSsmError("this trial was not tried yet")
    values = {name: axis.labelled(at[name]) for name, axis in space.axes.items()}
    return ChipPoint.parse(base).at(space.changes(values))


def _word(value: Any) -> str:
    """A value of a field as coordinates write it."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _of_study(jobs: list[Any], at: Mapping[str, Any]) -> Design:
    each = {json.dumps(d, sort_keys=True): d for job in jobs if isinstance(d := job.get("design"), dict | str)}
    found = [_designed(one) for one in each.values()]
    if not found:
        raise ImcSsmError("no job of this study was put on a chip of a design that it names")
    for name, value in at.items():
        if name == "design":
            named = [one for one in found if one.name == value]
            found = named or found
        elif name.startswith("design."):
            found = [one for one in found if _word(_field(one, name.removeprefix("design."))) == _word(value)]
    if len(found) != 1:
        raise ImcSsmError(f"{len(found)} designs of this study fit the point; its coordinates do not say which")
    return found[0]


def _field(design: Any, path: str) -> Any:
    for part in path.split("."):
        design = getattr(design, part, None)
    return getattr(design, "value", design)


def toml_of(design: Design, title: str) -> str:
    """A design as a TOML that `load_design` and `--design` read; `title`: where it comes from, for its first
    line."""
    from imc_ssm.devices.designs import design_toml

    return f"# {' '.join(title.split())}\n{design_toml(design)}"


def command_of(points: Points, index: int, design: str = "point.toml", source: str = "RESULTS") -> str:
    """The command, or the lines of Python, that make the numbers of a point again.

    `design`: the file that `toml_of` was written to. `source`: where the dataset lies. Raises `ImcSsmError`
    where the dataset does not say.
    """
    configuration, at = _made_by(points, index)
    seed = configuration.get("seed", points.source.attrs.get("seed"))
    if "objective" in configuration or "advise" in configuration:
        return _again(points, index, configuration, at, source)
    if "study" in configuration and isinstance(configuration.get("study"), dict):
        named = {n: configuration.get(n) for n in ("design", "chips", "times")} | {"seed": seed}
        return _words("imc-ssm demo", named, "again.nc")
    if "experiment" in configuration:
        name = "/".join(str(configuration[n]) for n in ("study", "experiment") if configuration.get(n))
        return f"imc-ssm experiment run {shlex.quote(name)}"
    if "model" in configuration and "design" in configuration:
        if "chips" not in configuration:
            return _words(f"imc-ssm cost {shlex.quote(configuration['model'])}", {"design": design}, "again.nc")
        given: dict[str, Any] = {n: configuration.get(n) for n in DEPLOYED}
        given |= {"seed": seed, "dataset": configuration.get("task")}
        return _words(
            f"imc-ssm deploy {shlex.quote(configuration['model'])}", {"design": design, **given}, "again.nc"
        )
    raise ImcSsmError("the dataset does not say which command made it")


def _again(
    points: Points, index: int, configuration: Mapping[str, Any], at: Mapping[str, Any], source: str
) -> str:
    """A sweep's point once more, from its coordinates."""
    if isinstance(objective := configuration.get("objective"), dict) and "point" not in objective:
        raise ImcSsmError("the objective of this sweep was a function, which no file holds; call it at the point")
    if "result" in at:
        raise ImcSsmError("several results are shown together; open the one of this point alone")
    place = json.dumps(points.places(index))
    opener = "imc_ssm.open_results" if source.endswith(".nc") else "sweeps.load"
    opened = f"{opener}({json.dumps(source)})"
    code = f"import imc_ssm; from imc_ssm import sweeps; print(sweeps.again({opened}.isel({place})))"
    return f"python -c {shlex.quote(code)}"


def _words(command: str, options: Mapping[str, Any], out: str) -> str:
    parts = [command]
    for name, value in options.items():
        if value is None or _USUAL.get(name) == value:
            continue
        if name == "times":
            value = ",".join(_moment(t) for t in value)
        elif name in ("refresh", "recalibrate", "step") and not isinstance(value, str):
            value = _moment(value)
        parts.append(f"--{name.replace('_', '-')} {shlex.quote(str(value))}")
    return " ".join([*parts, f"--out {out}"])


def _moment(time: Any) -> str:
    """A time as options take it: "30d" where that is exact, else in s."""
    short = label_of("time", float(time))
    return short if seconds(short) == time else f"{float(time)!r}s"


_USUAL = {"within": "held", "recurrence": "digital", "heads_per_tile": 1, "subset": "paired"}
