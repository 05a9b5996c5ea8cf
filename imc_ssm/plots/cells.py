"""Memory cells side by side: what `devices.behaviour` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.units import DAY, HOUR, duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["AT", "over_level", "over_time"]

AT = 0.75
"""The level at which cells are shown over time."""
COLOURS = (
    "#4477AA",
    "#EE6677",
    "#228833",
    "#CCBB44",
    "#66CCEE",
    "#AA3377",
    "#888888",
    "#EE7733",
    "#000000",
    "#009988",
)
MARKERS = "osD^v<>P*X"


def _style(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "lw": 1.8, "ms": 5}


def over_level(ds: xr.Dataset, ax: Axes) -> Axes:
    """Standard deviation of what is written against the place in the range, in percent of it."""
    for i, name in enumerate(ds["cell"].values):
        ax.plot(ds["level"], 100 * ds["programming_error"].isel(cell=i), **_style(i), label=str(name))
    ax.set_title("Programming error")
    ax.set_xlabel("Share of the conductance range")
    ax.set_ylabel("Standard deviation (% of range)")
    ax.set_ylim(bottom=0)
    return ax


def over_time(ds: xr.Dataset, name: str, ax: Axes) -> Axes:
    """`shift` or `spread` over time at three quarters of the range, in percent of it."""
    values = ds[name].sel(read_level=AT)
    for i in range(ds.sizes["cell"]):
        known = np.isfinite(values.isel(cell=i).values)
        ax.plot(ds["time"].values[known], 100 * values.isel(cell=i).values[known], **_style(i))
    ax.set_title("Mean error over time" if name == "shift" else "Spread over time")
    ax.set_xscale("log")
    ticks = (1.0, 60.0, HOUR, DAY, 30 * DAY)
    ax.set_xticks(ticks, [duration(t) for t in ticks])
    ax.minorticks_off()
    ax.set_xlabel("Time after programming")
    ax.set_ylabel("Mean (% of range)" if name == "shift" else "Standard deviation (% of range)")
    if name == "spread":
        ax.set_ylim(bottom=0)
    return ax
