"""The dataset of anything that was varied, as tables for the terminal."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from imc_ssm.units import deviation, duration, quantity

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

__all__ = ["grid_tables"]

ROWS = 40
"""Longest table; what has more is in the file."""


def grid_tables(ds: xr.Dataset) -> list[RenderableType]:
    """One table for each variable that is drawn: mean and deviation over seeds and chips, components summed."""
    from imc_ssm.plots.grid import shown_of

    return [part for name in shown_of(ds) for part in _table(ds[name])]


def _table(values: xr.DataArray) -> tuple[str, Table]:
    """A title, and the last dimension across, all others down."""
    text, units = str(values.attrs.get("long_name", values.name)), str(values.attrs.get("units", "1"))
    if "component" in values.dims:
        values = values.sum("component", skipna=True, min_count=1)
    over = [dim for dim in ("seed", "chip") if dim in values.dims]
    grid = [str(dim) for dim in values.dims if dim not in over]
    *down, across = grid or [""]
    over_text = f"; mean ± deviation over {' and '.join(f'{values.sizes[d]} {d}s' for d in over)}" if over else ""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for dim in down:
        table.add_column(dim, no_wrap=True)
    columns: list[Any] = values[across].values.tolist() if across else [0]
    for column in columns:
        name = duration(float(column)) if across == "time" else f"{across}={column}" if across else "value"
        table.add_column(name, justify="right", no_wrap=True)
    rows = list(itertools.product(*(values[dim].values.tolist() for dim in down)))
    for row in rows[:ROWS]:
        here = values.sel(dict(zip(down, row, strict=True)))
        cells = [_cell(here.sel({across: c}).values if across else here.values, units) for c in columns]
        table.add_row(*map(str, row), *cells)
    if len(rows) > ROWS:
        table.caption = f"{ROWS} of {len(rows)} lines; `--csv` writes all"
    return f"{text} ({units}){over_text}", table


def _cell(values: np.ndarray, units: str) -> str:
    there = np.asarray(values)[np.isfinite(values)]
    if not there.size:
        return "-"
    mean, spread = float(there.mean()), deviation(there.ravel())
    if units in ("J", "s", "m2", "bit"):
        return quantity(mean, units)
    text = f"{mean:.2f}" if units == "percent" else f"{mean:.4g}"
    return text if np.isnan(spread) else f"{text} ± {spread:.2g}"
