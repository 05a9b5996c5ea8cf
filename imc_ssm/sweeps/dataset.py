"""The labelled dataset of a sweep, made of the cells that are there: NaN where nothing is yet."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm import results
from imc_ssm.sweeps.objective import Objective, shape_of
from imc_ssm.sweeps.store import Found, Status

if TYPE_CHECKING:
    from imc_ssm.study.jobs.base import Variable
    from imc_ssm.sweeps.search import Search
    from imc_ssm.sweeps.space import Space

__all__ = ["assembled", "flattened", "unflattened", "width_of"]

TRIAL = "trial"
_TOLD = 20
"""Refusals that the attributes repeat."""


def width_of(variables: tuple[Variable, ...]) -> int:
    """Numbers of all variables."""
    return sum(int(np.prod(shape_of(variable))) for variable in variables)


def flattened(variables: tuple[Variable, ...], found: dict[str, Any]) -> np.ndarray[Any, Any]:
    """What was found as one row of numbers; NaN for what was not."""
    parts = [
        np.asarray(found.get(v.name, np.full(shape_of(v), np.nan)), np.float64).reshape(-1) for v in variables
    ]
    return np.concatenate(parts)


def unflattened(variables: tuple[Variable, ...], row: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Variable -> values (..., own dimensions) of rows (..., numbers)."""
    out, start = {}, 0
    for variable in variables:
        shape = shape_of(variable)
        size = int(np.prod(shape))
        out[variable.name] = row[..., start : start + size].reshape((*row.shape[:-1], *shape))
        start += size
    return out


def assembled(
    space: Space, search: Search, objective: Objective, cells: list[Found], about: dict[str, Any]
) -> xr.Dataset:
    """One dataset: over the axes of a grid, else over `trial` with the axes as coordinates.

    `status` says what became of a cell (`Status`); attributes: the configuration with its hash (`about`),
    versions, `cells`, `cells_done`, `refused` (JSON: cell -> why, of the first), `compute_time_s` over all cells.
    """
    grid = search.method == "grid"
    shape = space.shape if grid else (_trials(search, cells),)
    count = int(np.prod(shape))
    variables = objective.variables
    rows = np.full((count, width_of(variables)), np.nan)
    status = np.zeros(count, np.int8)
    for cell in cells:
        if cell.number < count:
            rows[cell.number], status[cell.number] = cell.values, int(cell.status)
    coords = (
        _grid_coordinates(space, objective) if grid else _trial_coordinates(space, search, objective, cells, count)
    )
    dims = tuple(space.axes) if grid else (TRIAL,)
    ds = xr.Dataset(coords=coords)
    for variable in variables:
        for dimension in variable.dimensions:
            if dimension.name not in ds.coords:
                attrs = {"units": dimension.units, "long_name": dimension.long_name}
                ds.coords[dimension.name] = (dimension.name, np.asarray(dimension.labels), attrs)
    told = objective.about()
    for variable in variables:
        values = unflattened(variables, rows)[variable.name].reshape(*shape, *shape_of(variable))
        attrs = {"units": variable.units, "long_name": variable.long_name}
        attrs |= {n: told[n] for n in ("n_test", "split") if variable.test and n in told}
        ds[variable.name] = ((*dims, *(d.name for d in variable.dimensions)), values, attrs)
    ds["status"] = (
        dims,
        status.reshape(shape),
        {
            "units": "1",
            "long_name": "What became of the cell",
            "flag_values": " ".join(str(int(s)) for s in Status),
            "flag_meanings": " ".join(s.name.lower() for s in Status),
        },
    )
    seen = [cell for cell in cells if cell.number < count]
    refused = {str(cell.number): cell.message for cell in seen if cell.status is Status.REFUSED}
    ds.attrs |= results.provenance(about["configuration"], search.seed, sum(cell.seconds for cell in seen))
    ds.attrs |= {"title": about.get("title", "Sweep"), "cells": count, "cells_done": len(seen)}
    ds.attrs |= told | {"refused": json.dumps(dict(list(refused.items())[:_TOLD])), "n_refused": len(refused)}
    return ds


def _trials(search: Search, cells: list[Found]) -> int:
    """How many trials the dataset has: those that were asked for; of a guided search those that are known."""
    known = 1 + max((cell.number for cell in cells), default=-1)
    return known if search.guided else max(search.trials or 0, known)


def _attributes(space: Space, objective: Objective, name: str) -> dict[str, Any]:
    axis = space.axes[name]
    units, text = objective.coordinate(axis.fields[0] if axis.fields else name)
    if len(axis.fields) > 1:
        text = f"{name.replace('_', ' ').capitalize()}: {', '.join(f.split('.', 1)[-1] for f in axis.fields)}"
    return {"units": units if axis.numeric else "1", "long_name": text}


def _grid_coordinates(space: Space, objective: Objective) -> dict[str, Any]:
    return {
        name: (name, _array([axis.label(v) for v in axis.grid()]), _attributes(space, objective, name))
        for name, axis in space.axes.items()
    }


def _trial_coordinates(
    space: Space, search: Search, objective: Objective, cells: list[Found], count: int
) -> dict[str, Any]:
    """Of drawn points all are known, of a guided search those that were tried."""
    if search.guided:
        found = {cell.number: space.point(cell.point) for cell in cells}
        drawn = [found.get(i) for i in range(count)]
    else:
        drawn = list(search.with_(trials=count).points(space)) if count else []
    coords: dict[str, Any] = {TRIAL: (TRIAL, np.arange(count), {"units": "1", "long_name": "Trial"})}
    for name, axis in space.axes.items():
        gap: Any = np.nan if axis.numeric else ""
        labels = [gap if point is None else axis.label(point[name]) for point in drawn]
        coords[name] = (TRIAL, _array(labels), _attributes(space, objective, name))
    return coords


def _array(labels: list[Any]) -> np.ndarray[Any, Any]:
    return np.asarray(labels) if labels else np.asarray([], np.float64)
