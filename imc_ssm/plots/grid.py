"""The figure of anything that was varied: one panel a variable, its mean over seeds and chips, one line a rest."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.plots.panels import absent, legend_beside, log_positions, time_axis
from imc_ssm.plots.reading import GREY, MARKERS, MODELS
from imc_ssm.units import prefix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LINES", "PANELS", "shown_of", "varied"]

PANELS, LINES = 4, 12
"""At most so many variables, and lines in each."""
_OVER, _SUMMED = ("seed", "chip"), ("component",)
_PREFIXED = ("J", "s", "bit")


def shown_of(ds: xr.Dataset) -> list[str]:
    """The variables that are drawn: numbers over what was varied, those with few lines alone if there are any.

    Published numbers (`*_paper`) are drawn beside ours, not alone.
    """
    names = [str(n) for n in ds.data_vars if ds[n].dims and ds[n].dtype.kind in "biuf"]
    names = [n for n in names if n.removesuffix("_step") == n or n.removesuffix("_step") not in names]
    names = [n for n in names if not n.endswith("_paper") and bool(ds[n].notnull().any())]
    few = [n for n in names if _lines(_reduced(ds[n])[0]) <= LINES]
    return (few or names)[:PANELS]


def varied(ds: xr.Dataset, name: str, ax: Axes) -> Axes:
    """One variable over its longest numeric dimension (time, where it has it); a line for each of the others.

    Mean (line) and range (band) over seeds and chips; components are summed. The paper's mean is dashed.
    """
    values = ds[name]
    text, units = str(values.attrs.get("long_name", name)), str(values.attrs.get("units", "1"))
    mean, low, high = _reduced(values)
    ax.set_title(text if len(text) <= 40 else name.replace("_", " ").capitalize())
    if not mean.dims or not bool(mean.notnull().any()):
        return absent(ax, name)
    factor, unit = _scaled(high, units)
    ax.set_ylabel(f"{name.replace('_', ' ').capitalize()}" + ("" if unit == "1" else f" ({unit})"))
    across, others = _across(mean)
    places, kind = _places(mean[across], ax)
    rows = list(itertools.product(*(mean[dim].values.tolist() for dim in others)))
    paper = ds.get(f"{name}_paper")
    style = "" if kind == "names" else "-"  # nothing lies between two names
    handles: list[Any] = []
    for index, row in enumerate(rows[:LINES]):
        at = dict(zip(others, row, strict=True))
        y = mean.sel(at).values * factor
        if np.isnan(y).all():
            continue
        # Names side by side, so that bars of equal ones stay visible.
        x = places + (0.0 if style else 0.5 * ((index + 0.5) / min(len(rows), LINES) - 0.5))
        colour, marker = MODELS[index % len(MODELS)], MARKERS[(index + index // len(MODELS)) % len(MARKERS)]
        label = ", ".join(f"{dim.rsplit('.', 1)[-1]} {_short(value)}" for dim, value in at.items())
        handles += ax.plot(
            x, y, marker=marker, ls=style, color=colour, lw=2, ms=6, label=label or "mean", zorder=3
        )
        ends = low.sel(at).values * factor, high.sel(at).values * factor
        if style:
            ax.fill_between(x, *ends, color=colour, alpha=0.15, lw=0)
        else:
            ax.vlines(x, *ends, color=colour, lw=2)
        if paper is not None and set(paper.dims) == {across, *others}:
            theirs = paper.sel(at).transpose(across).values * factor
            ax.plot(x, theirs, "--" if style else "_", color=colour, lw=1.5, ms=14, mew=2, alpha=0.8, zorder=2)
    if paper is not None:
        line = {"ls": "--"} if style else {"ls": "", "marker": "_", "ms": 14, "mew": 2}
        handles += ax.plot([], [], color=GREY, lw=1.5, label="published", **line)
    if kind == "times":
        time_axis(ax, mean[across].values, places)
    positive = high.values[np.isfinite(high.values) & (high.values > 0)]
    if units == "1" and positive.size and positive.max() > 1e3 * np.median(positive):
        ax.set_yscale("log")
    notes = [f"{values.sizes[dim]} {dim}s" for dim in _OVER if values.sizes.get(dim, 1) > 1]
    if notes:
        notes = [", ".join(notes) + ":\nmean, min to max"]
    if len(rows) > LINES:
        notes.append(f"{LINES} of {len(rows)} lines")
    if others or notes or paper is not None:
        legend_beside(ax, handles, title="\n".join(notes) or None)
    return ax


def _reduced(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Mean, lowest and highest over seeds and chips, components summed; dimensions of one value dropped."""
    summed = [dim for dim in _SUMMED if dim in values.dims]
    if summed:
        values = values.sum(summed, skipna=True, min_count=1)
    over = [dim for dim in _OVER if dim in values.dims]
    out = (values.mean(over), values.min(over), values.max(over)) if over else (values, values, values)
    mean, low, high = (a.squeeze(drop=True) if max(a.shape, default=0) > 1 else a for a in out)
    return mean, low, high


def _across(mean: xr.DataArray) -> tuple[str, list[str]]:
    """The dimension along the axis, and those that make the lines."""
    dims = [str(dim) for dim in mean.dims]
    numeric = [d for d in dims if mean.sizes[d] > 1 and d in mean.coords and mean[d].dtype.kind in "iuf"]
    across = (
        "time" if "time" in numeric else max(numeric, key=lambda d: (mean.sizes[d], dims.index(d)), default="")
    )
    across = across or max(dims, key=lambda d: mean.sizes[d])
    return across, [dim for dim in dims if dim != across]


def _lines(mean: xr.DataArray) -> int:
    if not mean.dims:
        return LINES + 1
    across, _ = _across(mean)
    return int(mean.size / mean.sizes[across])


def _places(coordinate: xr.DataArray, ax: Axes) -> tuple[np.ndarray[Any, Any], str]:
    """Where the values stand on the axis, which gets its label and ticks; and whether they are times or names."""
    text = str(coordinate.attrs.get("long_name") or coordinate.name).split(";")[0]
    text = text if len(text) <= 44 else str(coordinate.name)
    units = str(coordinate.attrs.get("units", "1"))
    if coordinate.name == "time":
        ax.set_xlabel("Time since programming")
        return log_positions(coordinate.values), "times"
    ax.set_xlabel(text if units == "1" else f"{text} ({units})")
    values = coordinate.values
    if values.dtype.kind not in "iuf":
        slant = {"rotation": 20, "ha": "right"} if len(values) > 4 else {}
        ax.set_xticks(range(len(values)), [_short(v) for v in values], **slant)  # type: ignore[arg-type]
        ax.set_xlim(-0.5, len(values) - 0.5)
        return np.arange(len(values)), "names"
    places = values.astype(float)
    if (places > 0).all() and places.max() > 50 * places.min():
        ax.set_xscale("log")
    elif len(places) <= 8:
        ax.set_xticks(places, [f"{v:g}" for v in places])
    return places, "numbers"


def _scaled(highest: xr.DataArray, units: str) -> tuple[float, str]:
    if units == "percent":
        return 1.0, "%"
    if units == "m2":
        return 1e6, "mm2"
    return prefix(float(highest.max()), units) if units in _PREFIXED else (1.0, units)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
