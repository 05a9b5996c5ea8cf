"""A point of a sweep from what its dataset says of it: what it was, and the same numbers again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.devices.designs import CHOICES, PLAIN, design_toml
from imc_ssm.errors import ConfigError, FileError, ImcSsmError
from imc_ssm.files import atomic_path
from imc_ssm.sweeps.candidate import ChipObjective
from imc_ssm.sweeps.fronts import points
from imc_ssm.sweeps.objective import Objective
from imc_ssm.sweeps.plan import Plan, plan_of
from imc_ssm.sweeps.point import ChipPoint
from imc_ssm.sweeps.store import DATASET, Store
from imc_ssm.sweeps.workshop import Workshop

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["again", "load", "made", "values_at", "written"]

_DEPLOYED = (
    *("chips", "times", "seed", "sequences", "refresh", "recalibrate", "within", "recurrence"),
    "heads_per_tile",
)
"""Fields of a point that are options of `imc-ssm deploy`."""


def load(folder: str | Path) -> xr.Dataset:
    """The dataset of a sweep's folder: of all cells that are there now (of a function's sweep, and of one whose
    cells another version wrote: that were there when it was last written). Raises `FileError` where there is none.
    """
    store = Store.open(Path(folder))
    try:
        plan: Plan | None = plan_of(store.about)
    except ConfigError:
        plan = None
    if plan is None or plan.width != store.width:
        path = store.folder / DATASET
        if not path.exists():
            raise FileError(f"{folder} has no dataset yet; run the sweep first") from None
        with xr.open_dataset(path, engine="zarr", decode_times=False, decode_timedelta=False) as ds:
            return ds.load()
    return plan.dataset(store)


def _plan(ds: xr.Dataset) -> Plan:
    try:
        configuration = json.loads(ds.attrs["configuration"])
        _ = configuration["space"], configuration["objective"], configuration["search"]
    except (KeyError, TypeError, ValueError):
        raise ImcSsmError("this dataset is not of a sweep: it has no configuration of one") from None
    return plan_of({"configuration": configuration, "title": ds.attrs.get("title", "Sweep")})


def values_at(ds: xr.Dataset, plan: Plan) -> dict[str, Any]:
    """Axis -> value, of a dataset of one point; `ConfigError` where it has several, or lacks an axis."""
    if any(dim in ds.dims for dim in ("trial", *plan.space.axes)):
        flat = points(ds)
        if flat.sizes["trial"] != 1:
            raise ConfigError(f"{flat.sizes['trial']} points were given; choose one, such as ds.isel(trial=0)")
        ds = flat.isel(trial=0)
    missing = [name for name in plan.space.axes if name not in ds.coords]
    if missing:
        raise ConfigError(f"the point has no coordinate {missing[0]!r}; choose it by isel or sel, which keep it")
    return {name: axis.labelled(ds[name].values) for name, axis in plan.space.axes.items()}


def _made(ds: xr.Dataset) -> tuple[ChipPoint, dict[str, Any], str | None]:
    """The base of a point of a sweep or of `advise`, what was changed, and the digest of its model file, where it
    was kept and not varied."""
    try:
        advice = json.loads(ds.attrs["configuration"])["advise"]
    except (KeyError, TypeError, ValueError):
        plan = _plan(ds)
        assert isinstance(plan.objective, ChipObjective)
        known = None if "start" in plan.space.axes else json.loads(ds.attrs["configuration"])["objective"]
        changes = plan.space.changes(values_at(ds, plan))
        return plan.objective.base, changes, None if known is None else known.get("start_sha256")
    if ds["path"].ndim:
        raise ConfigError(f"{ds.sizes['change']} changes were given; choose one, such as ds.isel(change=0)")
    return ChipPoint.parse(advice), {str(ds["path"].values): json.loads(str(ds["value"].values))}, None


def made(ds: xr.Dataset) -> ChipPoint:
    """The configuration of one point: `made(best(ds, ...)).design` is its chip design.

    Raises `ConfigError` for several points, or the sweep of a function.
    """
    base, changes, _ = _made(ds)
    return base.at(changes)


def again(
    ds: xr.Dataset,
    *,
    start: str | Path | None = None,
    folder: str | Path | None = None,
    data_dir: Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Measure one point once more, from its coordinates and the attributes alone: the same numbers.

    `ds`: one point, such as `best(ds, ...)`, `ds.isel(trial=3)` or `ds.sel({"design.adc.bits": 6})`; of `advise`
    one change. `start`:
    where the model file lies now. `folder`: the sweep's, whose models are taken; None: they are trained once more.
    `changes`: other values of fields, for another look at the same point (`{"split": "test", "chips": 50}`).

    Raises `ConfigError` for several points, or a model file that is not the one that the sweep had.
    """
    base, varied, known = _made(ds)
    point = base.at(varied)
    if start is not None:
        point = point.with_(start=str(start))
    objective = ChipObjective(point)
    if known is not None and objective.described()["start_sha256"] != known:
        raise ConfigError(f"{point.start} is not the model file of this sweep; give start = the one that it had")
    return _measured(ChipObjective(objective.base.at(changes)) if changes else objective, folder, data_dir)


def written(ds: xr.Dataset, path: str | Path) -> list[str]:
    """Write the chip design of one point as TOML, beside it its cell where the sweep changed that, and return
    the commands that put the point's model on it.

    The design is named as the file; what the sweep varied says so in the place of its source. Raises as `made`,
    and `FileError` where the file cannot be written.
    """
    import tomli_w

    (base, varied, _), path = _made(ds), Path(path)
    point = base.at(varied)
    fields = {name.split(".")[1] for name in varied if name.startswith("design.")} & {*PLAIN, *CHOICES}
    design = point.design.with_(
        name=path.stem,
        description=f"A point of {str(ds.attrs.get('title', ''))!r}, from {point.design.name}",
        sources=point.design.sources | dict.fromkeys(sorted(fields), "chosen by a sweep"),
    )
    if point.cell:
        cell = point.chip().cell
        beside = path.with_name(f"{path.stem}-cell.toml")
        with atomic_path(beside) as temporary:
            temporary.write_text(tomli_w.dumps(cell.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
        design = design.with_(cell=str(beside))
    with atomic_path(path) as temporary:
        temporary.write_text(design_toml(design, path.parent), encoding="utf-8")
    return _commands(point, path)


def _commands(point: ChipPoint, design: Path) -> list[str]:
    """Commands that prune the model of a point as it says, and put it on a design."""
    model, out = str(point.start), []
    if point.start is None:
        model = "q.safetensors"
        out.append(f"# train, prune and quantize the model as the point says into {model}, then")
    else:
        if point.prune.any:
            words = ["imc-ssm", "prune", model, "--seed", str(point.seed)]
            for name, value in point.prune.model_dump(exclude_defaults=True).items():
                words += [f"--{name}", str(value)]
            model = "pruned.safetensors"
            out.append(shlex.join([*words, "--dataset", str(point.task), "--out", model]))
        if point.scheme is not None:
            out.append(f"# quantize {model} as the point says into q.safetensors, then")
            model = "q.safetensors"
    words = ["imc-ssm", "deploy", model, "--design", str(design), "--dataset", str(point.task)]
    usual = ChipPoint.model_fields
    for name in _DEPLOYED:
        value = getattr(point, name)
        if name in ("chips", "times", "seed") or value != usual[name].default:
            said = ",".join(f"{time:g}" for time in value) if name == "times" else str(value)
            words += [f"--{name.replace('_', '-')}", said]
    return [*out, shlex.join([*words, "--out", str(design.with_suffix(".nc"))])]


def _measured(objective: Objective, folder: str | Path | None, data_dir: Path | None) -> xr.Dataset:
    def found(place: Path) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for piece in objective.measure({}, Workshop(place, data_dir)):
            out |= piece
        return out

    if folder is not None:
        values = found(Path(folder))
    else:
        with TemporaryDirectory(prefix="imc-ssm-again-") as place:
            values = found(Path(place))
    out = xr.Dataset()
    for variable in objective.variables:
        attrs = {"units": variable.units, "long_name": variable.long_name}
        out[variable.name] = ([d.name for d in variable.dimensions], values[variable.name], attrs)
        for dimension in variable.dimensions:
            about = {"units": dimension.units, "long_name": dimension.long_name}
            out.coords[dimension.name] = (dimension.name, np.asarray(dimension.labels), about)
    return out.assign_attrs(objective.about())
