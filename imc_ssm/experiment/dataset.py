"""The dataset of an experiment, made from the ledger: what is there, and NaN where nothing is yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from imc_ssm import results
from imc_ssm.errors import FileError
from imc_ssm.experiment.declare import Cell, Experiment
from imc_ssm.experiment.jobs import DIMENSIONS, LABELS, VARIABLES
from imc_ssm.experiment.ledger import Entry, locked
from imc_ssm.experiment.workplace import Workplace
from imc_ssm.plots import save_figure

__all__ = ["assemble", "write"]


def write(place: Workplace, experiment: Experiment, *, draw: bool = False) -> xr.Dataset:
    """Assemble the dataset, write it to `results/`, with `draw` its figure if a cell is done, and return it.

    Under a lock from reading to writing, so that no process overwrites another's cells with an older state.
    """
    path = place.result_path(experiment)
    with locked(place.runs / f"{experiment.name}.lock"):
        ds = assemble(place, experiment, place.ledger.entries())
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


def assemble(place: Workplace, experiment: Experiment, entries: dict[str, Entry]) -> xr.Dataset:
    """Every variable of the experiment over its dimensions and `seed`; missing cells are NaN.

    Attributes: `missing`, JSON of the cells that exist but are not done (their coordinates and `seeds`),
    `cells`, `cells_done`, `n_test`, `computed` (JSON: versions, threads and days of the jobs; `versions` is of the
    process that wrote the file), and those of `results.provenance`; `compute_time_s` counts every job of the cells
    once, and the full-precision trainings that they start from.
    """
    cells = experiment.cells()
    found = [(cell, place.find(cell.job, cell.seed, entries)) for cell in cells]
    done = [(cell, entry) for cell, entry in found if entry is not None]
    ds = xr.Dataset(coords=_coordinates(place, experiment))
    for name in experiment.variables:
        _fill(ds, name, experiment, done)
    _add_paper(ds, experiment)
    _add_constants(ds, experiment)
    n_test = int(place.shape["splits"]["test"])
    for name in ("accuracy", "accuracy_paper"):
        if name in ds:
            ds[name].attrs["n_test"] = n_test
    ds.attrs["title"] = experiment.title
    if place.study.source:
        ds.attrs["source"] = place.study.source
    jobs = {json.dumps(cell.job.model_dump(mode="json", exclude_defaults=True), sort_keys=True) for cell in cells}
    config = {
        "study": place.study.name,
        "experiment": experiment.name,
        "task": place.study.task,
        "dimensions": {name: list(values) for name, values in experiment.dimensions.items()},
        "seeds": experiment.seeds,
        "jobs": [json.loads(job) for job in sorted(jobs)],
        "recipe": place.study.recipe.model_dump(mode="json"),
        "recipes": {name: recipe.model_dump(mode="json") for name, recipe in place.study.recipes.items()},
        "models": {
            name: place.study.model(name).model_dump(mode="json")
            for name in sorted({cell.job.model for cell in cells})
        },
    }
    ds.attrs |= results.provenance(config, None, place.spent(cells, entries))
    ds.attrs |= {"cells": len(cells), "cells_done": len(done), "n_test": n_test}
    ds.attrs["computed"] = json.dumps(_computed([entry for _, entry in done]), sort_keys=True)
    ds.attrs["missing"] = json.dumps(_missing([cell for cell, entry in found if entry is None]))
    return ds


def _coordinates(place: Workplace, experiment: Experiment) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, values in {**experiment.dimensions, "seed": range(experiment.seeds)}.items():
        units, text = place.study.coordinates.get(name, ("1", name.capitalize()))
        out[name] = (name, np.array(list(values)), {"units": units, "long_name": text})
    return out


def _fill(ds: xr.Dataset, name: str, experiment: Experiment, done: list[tuple[Cell, Entry]]) -> None:
    """Add a variable; dimensions of its own are as long as the longest result."""
    extra, units, text = VARIABLES[name]
    measured = [(cell, np.asarray(e.measured[name], float)) for cell, e in done if name in e.measured]
    shapes = [values.shape for _, values in measured]
    size = tuple(max((shape[i] for shape in shapes), default=0) for i in range(len(extra)))
    dims = (*experiment.dimensions, "seed")
    out = np.full((*(ds.sizes[dim] for dim in dims), *size), np.nan)
    places = {dim: {v: i for i, v in enumerate(experiment.dimensions[dim])} for dim in experiment.dimensions}
    for cell, values in measured:
        index: list[int | slice] = [places[dim][cell.at[dim]] for dim in experiment.dimensions]
        index += [cell.seed, *(slice(0, n) for n in values.shape)]
        out[tuple(index)] = values
    ds[name] = ((*dims, *extra), out, {"units": units, "long_name": text})
    for i, dim in enumerate(extra):
        if dim not in ds.coords:
            label = next((e.labels[dim] for _, e in done if dim in e.labels), None)
            fixed = LABELS.get(dim) if size[i] else None
            marks = label or (fixed and fixed[: size[i]]) or np.arange(size[i])
            ds.coords[dim] = (dim, marks, {"units": "1", "long_name": DIMENSIONS[dim]})


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


def _computed(entries: list[Entry]) -> dict[str, list[str]]:
    """Every version, number of threads and day that the jobs have."""
    out: dict[str, set[str]] = {}
    for entry in entries:
        for name, value in entry.about.items():
            out.setdefault(name, set()).add(str(value)[:10] if name == "created" else str(value))
    return {name: sorted(values) for name, values in out.items()}


def _missing(cells: list[Cell]) -> list[dict[str, Any]]:
    """Cells by coordinates, with the seeds that are missing."""
    out: dict[str, dict[str, Any]] = {}
    for cell in cells:
        entry = out.setdefault(json.dumps(cell.at), {**cell.at, "seeds": []})
        entry["seeds"].append(cell.seed)
    return list(out.values())
