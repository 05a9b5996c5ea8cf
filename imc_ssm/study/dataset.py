"""The dataset of an experiment, made from the ledger: what is there, and NaN where nothing is yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm import results
from imc_ssm.config import Config
from imc_ssm.errors import ConfigError, FileError
from imc_ssm.plots import save_figure
from imc_ssm.study.declare import Experiment, GridCell, Study, inside
from imc_ssm.study.jobs.base import Dimension, Variable
from imc_ssm.study.ledger import Record, locked
from imc_ssm.study.workplace import Workplace

if TYPE_CHECKING:
    from imc_ssm.study.jobs.base import Job

__all__ = ["assemble", "write"]


def write(place: Workplace, experiment: Experiment, *, draw: bool = False) -> xr.Dataset:
    """Assemble the dataset, write it to `results/`, with `draw` its figure if a cell is done, and return it.

    Under a lock from reading to writing, so that no process overwrites another's cells with an older state.
    """
    path = place.result_path(experiment)
    with locked(place.runs / f"{experiment.name}.lock"):
        ds = assemble(place, experiment, place.ledger.records())
        if not _written(path, ds):
            results.save(ds, path)
        if draw and experiment.figure is not None and ds.attrs["cells_done"]:
            save_figure(experiment.figure(ds), path.with_suffix(".png"))
    return ds


def _written(path: Path, ds: xr.Dataset) -> bool:
    """Whether the file holds the same already, but for when it was written."""
    try:
        old = results.load(path)
    except FileError:
        return False
    kept = {name: value for name, value in old.attrs.items() if name in ds.attrs and name != "created"}
    return results.values_equal(old, ds) and kept == {k: v for k, v in ds.attrs.items() if k != "created"}


def assemble(place: Workplace, experiment: Experiment, records: dict[str, Record]) -> xr.Dataset:
    """Every variable of the experiment over its dimensions and `seed`; missing cells are NaN.

    Attributes: `missing`, JSON of the cells that exist but are not done (their coordinates and `seeds`),
    `cells`, `cells_done`, `n_test`, `computed` (JSON: versions, threads and days of the jobs; `versions` is of the
    process that wrote the file), and those of `results.provenance`; `compute_time_s` counts every job of the cells
    once, and those that they start from.
    """
    cells = experiment.cells()
    found = [(cell, place.done(cell, records)) for cell in cells]
    done = [(cell, those) for cell, those in found if those is not None]
    ds = xr.Dataset(coords=_coordinates(place.study, experiment))
    for variable in experiment.measured.values():
        _fill(ds, variable, experiment, done)
    _add_paper(ds, experiment)
    _add_constants(ds, experiment)
    n_test = int(place.shape["splits"]["test"])
    for name in ds.data_vars:
        if name == "accuracy_paper":
            ds[name].attrs["n_test"] = n_test
        elif name in experiment.measured and experiment.measured[str(name)].test:
            least = min(
                job.tested(place.shape) for cell in cells for job in cell.jobs if _measures(job, str(name))
            )
            ds[name].attrs["n_test"] = least
    ds.attrs["title"] = experiment.title
    if place.study.source:
        ds.attrs["source"] = place.study.source
    jobs = {json.dumps(job.declared(), sort_keys=True) for cell in cells for job in cell.jobs}
    models = {job.name for cell in cells for job in cell.jobs} & set(place.study.models)
    config = {
        "study": place.study.name,
        "experiment": experiment.name,
        "task": place.study.task,
        "dimensions": {name: list(values) for name, values in experiment.dimensions.items()},
        "seeds": experiment.seeds if isinstance(experiment.seeds, int) else list(experiment.seeds),
        "jobs": [json.loads(job) for job in sorted(jobs)],
        "recipe": place.study.recipe.model_dump(mode="json"),
        "recipes": {name: recipe.model_dump(mode="json") for name, recipe in place.study.recipes.items()},
        "models": {name: place.study.model(name).model_dump(mode="json") for name in sorted(models)},
    }
    ds.attrs |= results.provenance(config, None, place.spent(cells, records))
    ds.attrs |= {"cells": len(cells), "cells_done": len(done), "n_test": n_test}
    ds.attrs["computed"] = json.dumps(_computed([r for _, those in done for r in those]), sort_keys=True)
    ds.attrs["missing"] = json.dumps(_missing([cell for cell, those in found if those is None]))
    return ds


def _measures(job: Job, name: str) -> bool:
    return any(variable.name == name for variable in job.variables)


def _coordinates(study: Study, experiment: Experiment) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, values in {**experiment.dimensions, "seed": experiment.all_seeds}.items():
        units, text = study.coordinates.get(name) or _of_field(experiment, name)
        out[name] = (name, np.array(list(values)), {"units": units, "long_name": text})
    return out


def _of_field(experiment: Experiment, name: str) -> tuple[str, str]:
    """Units and long name of a dimension that the study does not describe: those of the field that it varies."""
    _, jobs = next(experiment.grid())
    for job in jobs if "." in name else ():
        path = inside(job, name)
        if path is None:
            continue
        owner: Any = job
        text, units = "", "1"
        for part in path.split("."):
            if not isinstance(owner, Config):
                break
            units = getattr(owner, "unit", "1")
            if not hasattr(owner, "unit"):  # of a cited number, its owner says what it is
                text = owner.described(part)
            owner = getattr(owner, part, None)
        if text:
            return units, text.split(";")[0].split(".")[0].replace("\n", " ").strip()
    return "1", name.capitalize()


def _fill(
    ds: xr.Dataset, variable: Variable, experiment: Experiment, done: list[tuple[GridCell, list[Record]]]
) -> None:
    """Add a variable; dimensions of its own are as long as the longest result.

    Raises `ConfigError` where results of two cells have other coordinates there.
    """
    name, own = variable.name, [dimension.name for dimension in variable.dimensions]
    measured: list[tuple[GridCell, np.ndarray[Any, Any]]] = []
    labels: dict[str, list[Any]] = {}
    for cell, those in done:
        record = next((r for r in those if name in r.measured), None)
        values = np.asarray([] if record is None else record.measured[name], float)
        if record is None or (own and not values.size):
            continue
        measured.append((cell, values))
        for dim, marks in record.labels.items():
            if dim in own and labels.setdefault(dim, marks) != marks:
                raise ConfigError(f"{experiment.name}: cells differ in {dim}: {labels[dim]} and {marks}")
    size = tuple(max((values.shape[i] for _, values in measured), default=0) for i in range(len(own)))
    dims = (*experiment.dimensions, "seed")
    out = np.full((*(ds.sizes[dim] for dim in dims), *size), np.nan)
    places = {dim: {v: i for i, v in enumerate(ds[dim].values.tolist())} for dim in dims}
    for cell, values in measured:
        at = {**cell.at, "seed": cell.seed}
        index: list[int | slice] = [places[dim][at[dim]] for dim in dims]
        out[tuple(index + [slice(0, n) for n in values.shape])] = values
    ds[name] = ((*dims, *own), out, {"units": variable.units, "long_name": variable.long_name})
    for dimension, count in zip(variable.dimensions, size, strict=True):
        if dimension.name not in ds.coords:
            _label(ds, dimension, labels.get(dimension.name), count)


def _label(ds: xr.Dataset, dimension: Dimension, marks: list[Any] | None, count: int) -> None:
    fixed = None if dimension.labels is None or not count else dimension.labels[:count]
    attrs = {"units": dimension.units, "long_name": dimension.long_name}
    ds.coords[dimension.name] = (dimension.name, np.asarray(marks or fixed or np.arange(count)), attrs)


def _add_paper(ds: xr.Dataset, experiment: Experiment) -> None:
    if not experiment.paper:
        return
    dims = tuple(experiment.dimensions)
    numbers = np.full((2, *(ds.sizes[dim] for dim in dims)), np.nan)
    for key, pair in experiment.paper.items():
        numbers[0][_index(experiment, key)], numbers[1][_index(experiment, key)] = pair
    for name, values, text in (
        ("accuracy_paper", numbers[0], "Published test accuracy, mean over seeds"),
        ("deviation_paper", numbers[1], "Published deviation of the test accuracy over seeds"),
    ):
        ds[name] = (dims, values, {"units": "percent", "long_name": text})


def _add_constants(ds: xr.Dataset, experiment: Experiment) -> None:
    dims = tuple(experiment.dimensions)
    for name, constant in experiment.constants.items():
        ours = np.full(tuple(ds.sizes[dim] for dim in dims), np.nan)
        paper = ours.copy()
        for at, _ in experiment.grid():
            ours[_index(experiment, tuple(at.values()))] = constant.value(at)
        for key, value in constant.paper.items():
            paper[_index(experiment, key)] = value
        attrs = {"units": constant.units, "long_name": constant.long_name}
        ds[name] = (dims, ours, attrs)
        ds[f"{name}_paper"] = (dims, paper, attrs | {"long_name": f"{constant.long_name}, published"})


def _index(experiment: Experiment, key: tuple[Any, ...]) -> tuple[int, ...]:
    pairs = zip(experiment.dimensions.values(), key, strict=True)
    return tuple(list(values).index(value) for values, value in pairs)


def _computed(records: list[Record]) -> dict[str, list[str]]:
    """Every version, number of threads and day that the jobs have."""
    out: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.about.items():
            out.setdefault(name, set()).add(str(value)[:10] if name == "created" else str(value))
    return {name: sorted(values) for name, values in out.items()}


def _missing(cells: list[GridCell]) -> list[dict[str, Any]]:
    """Cells by coordinates, with the seeds that are missing."""
    out: dict[str, dict[str, Any]] = {}
    for cell in cells:
        entry = out.setdefault(json.dumps(cell.at), {**cell.at, "seeds": []})
        entry["seeds"].append(cell.seed)
    return list(out.values())
