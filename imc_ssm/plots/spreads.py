"""Costs with their intervals: stacked components over what was compared, and what each constant does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from imc_ssm.errors import ConfigError
from imc_ssm.plots.reading import COMPONENT_COLOURS, GREY, short
from imc_ssm.units import prefix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["component_stacks", "tornado"]

MOST, LEAST = 8, 1.01
"""Constants in a tornado, and the factor that one has to move the total by."""
ROOM = 1.8
"""Length of the axis over the longest bar: an interval that is longer ends in an arrow and its number."""
LABELS = {"energy": "Energy per inference", "latency": "Time per inference", "area": "Area"}


def component_stacks(ds: xr.Dataset, name: str, ax: Axes) -> Axes:
    """`energy`, `latency` or `area` as bars stacked by component, with the interval of each total.

    Reads `NAME_bounds` and `NAME_total_bounds` as `cost` returns them, over one more dimension: a bar for each of
    its values (`xr.concat([cost(a), cost(b)], dim)`). Raises `ConfigError` where there is not exactly one.
    """
    if f"{name}_bounds" not in ds or f"{name}_total_bounds" not in ds:
        raise ConfigError(f"no {name}_bounds in this dataset; give what imc_ssm.cost returned")
    parts, totals = ds[f"{name}_bounds"], ds[f"{name}_total_bounds"]
    dims = [dim for dim in totals.dims if dim != "bound"]
    if len(dims) != 1:
        raise ConfigError(f"{name}_total_bounds is over {totals.dims}; bars need bound and one more dimension")
    (dim,) = dims
    rows = [str(value) for value in ds[dim].values]
    parts = parts.sel(bound="nominal").transpose(dim, "component")
    low, middle, high = (totals.sel(bound=bound).values for bound in ("low", "nominal", "high"))
    factor, unit = (1e6, "mm2") if name == "area" else prefix(float(middle.max()), str(parts.attrs["units"]))
    at, start = np.arange(len(rows)), np.zeros(len(rows))
    for component in ds["component"].values:
        values = np.nan_to_num(parts.sel(component=component).values) * factor
        if not values.any():
            continue
        colour = COMPONENT_COLOURS.get(str(component), "#CCCCCC")
        ax.barh(at, values, left=start, height=0.66, color=colour, label=str(component), edgecolor="white", lw=0.5)
        start = start + values
    low, middle, high = (values * factor for values in (low, middle, high))
    end = float(min(high.max() * 1.06, middle.max() * ROOM))
    for row, (a, b, c) in enumerate(zip(low, middle, high, strict=True)):
        error = [[b - a], [min(c, end) - b]]
        ax.errorbar(b, row, xerr=error, fmt="none", ecolor="black", lw=1.3, capsize=4, zorder=4)
        if c > end:  # the interval goes on: say how far
            ax.annotate(f"to {short(c)}", (end, row), xytext=(9, 0), textcoords="offset points", va="center")
            ax.plot(end, row, ">", color="black", ms=6, clip_on=False, zorder=5)
    ax.set_yticks(at, rows)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, end)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel(f"{LABELS.get(name, name)} ({unit})")
    return ax


def tornado(ds: xr.Dataset, name: str, ax: Axes) -> Axes:
    """What each constant alone does to `energy`, `latency` or `area`: those that do most, widest at the top.

    Reads what `costs.swings` returns. A line is the nominal total.
    """
    if name not in ds or "constant" not in ds.dims:
        raise ConfigError(f"no {name!r} over constants in this dataset; give what imc_ssm.costs.swings returned")
    values, total = ds[name].transpose("constant", "end").values, float(ds[f"{name}_total"])
    order = [i for i in np.argsort(values[:, 0] / values[:, 1])[:MOST] if values[i, 1] > LEAST * values[i, 0]]
    factor, unit = (1e6, "mm2") if name == "area" else prefix(total, str(ds[name].attrs["units"]))
    at = np.arange(len(order))
    low, high = (values[order, i] * factor for i in range(2))
    middle = total * factor
    ax.barh(at, low - middle, left=middle, height=0.66, color="#56B4E9", label="lower")
    ax.barh(at, high - middle, left=middle, height=0.66, color="#D55E00", label="higher")
    ax.axvline(middle, color=GREY, lw=1.3)
    ax.set_yticks(at, [str(ds["constant"].values[i]) for i in order])
    ax.set_ylim(max(len(order), MOST) - 0.4, -0.6)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel(f"{LABELS.get(name, name)} ({unit})")
    return ax
