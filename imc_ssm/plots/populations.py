"""A population of chips over time: quantiles of its metric, and the share that is good enough."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.plots import reading as read
from imc_ssm.plots.panels import NAMES, absent, accuracy_over_time, legend_below, log_positions, time_axis
from imc_ssm.plots.reading import GREY, MARKERS, MODELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["quantiles_over_time", "yield_over_time"]

_BANDS = ((0.05, 0.95, 0.16), (0.25, 0.75, 0.32))
"""Quantiles that a band joins, and how dark it is."""


def quantiles_over_time(ds: xr.Dataset, ax: Axes) -> Axes:
    """The metric of one model's chips against time: every chip (dots), median (line), quantiles (bands).

    The digital value is dashed. Where sequences were drawn, a bar at the median is twice their standard error, the
    mean over chips, both ways. Several models are drawn by `accuracy_over_time`.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    own = read.of_models(ds)
    name, names = read.metric(own), read.model_names(own)
    found = read.chip_accuracy(own)
    if len(names) != 1 or found is None or not bool(found.notnull().any()) or found.sizes["chip"] < 2:
        return accuracy_over_time(ds, ax)
    ax.set_title(f"{NAMES[name]} of {found.sizes['chip']} chips")
    ax.set_ylabel(read.accuracy_label(ds))
    ax.set_xlabel("Time since programming")
    chips = found.sel(model=names[0]).dropna("time", how="all").transpose("chip", "time")
    colour, times = MODELS[0], chips["time"].values
    at = log_positions(times)
    table = chips.values
    ax.plot(np.tile(at, (len(table), 1)).T, table.T, ".", color=colour, alpha=0.25, ms=5, mew=0, zorder=2)
    handles: list[Any] = []
    middle = np.nanmedian(table, axis=0)
    for low, high, dark in _BANDS:
        ends = np.nanquantile(table, [low, high], axis=0)
        if len(at) > 1:
            ax.fill_between(at, *ends, color=colour, alpha=dark, lw=0, zorder=1)
        else:
            ax.vlines(at, *ends, color=colour, lw=2 + 12 * dark, alpha=0.5, zorder=1)
        handles.append(Patch(color=colour, alpha=dark, lw=0, label=f"{100 * low:g} to {100 * high:g} %"))
    ax.plot(at, middle, "-", marker="o", color=colour, lw=2, ms=6, zorder=4)
    handles.insert(0, Line2D([], [], color=colour, marker="o", lw=2, ms=6, label="median"))
    error = f"{name}_error"
    if error in own and bool((own[error] > 0).any()):
        spread = 2 * own[error].sel(time=times, model=names[0]).mean("chip").values.reshape(-1)
        ax.errorbar(at, middle, spread, fmt="none", color="black", capsize=4, lw=1.3, zorder=5)
        handles.append(Line2D([], [], color="black", lw=1.3, label="±2 s.e. of the subset"))
    digital = read.digital_accuracy(own, names[0])
    if digital is not None:
        ax.axhline(digital, color=GREY, ls="--", lw=1.5, zorder=3)
        handles.append(Line2D([], [], color=GREY, ls="--", lw=1.5, label="digital"))
    time_axis(ax, times, at)
    legend_below(ax, handles, columns=2)
    return ax


def yield_over_time(ds: xr.Dataset, ax: Axes) -> Axes:
    """The share of chips above a threshold against time, with its interval, as `analysis.chip_yield` finds them.

    A line for each model and threshold.
    """
    ax.set_title("Yield")
    ax.set_xlabel("Time since programming")
    if "yield" not in ds or "time" not in ds["yield"].dims:
        return absent(ax, "yield over time")
    attrs = ds["yield"].attrs
    percent = "%" if attrs.get("metric") == "accuracy" else ""
    rest = [str(dim) for dim in ds["yield"].dims if dim != "time"]
    alone = "" if "above" in rest else f" above {float(ds['above']):g}{f' {percent}' if percent else ''}"
    ax.set_ylabel(f"Chips{alone} (%)")
    ax.set_ylim(-4, 104)
    times = ds["time"].values
    at = log_positions(times)
    rows = [dict(zip(rest, row, strict=True)) for row in itertools.product(*(ds[d].values.tolist() for d in rest))]
    rows = [place for place in rows if bool(ds["yield"].sel(place).notnull().any())]
    for index, place in enumerate(rows):
        share, low, high = (ds[f"yield{end}"].sel(place).values for end in ("", "_low", "_high"))
        words = [str(value) if dim != "above" else f"above {value:g} {percent}" for dim, value in place.items()]
        colour, marker = MODELS[index % len(MODELS)], MARKERS[index % len(MARKERS)]
        if rest == ["model"]:
            colour, marker = read.look(ds, str(place["model"]))
        shift = at * 1.07 ** (index if len(at) > 1 else 0)
        errors = np.array([share - low, high - share])
        ax.errorbar(
            shift,
            share,
            np.maximum(errors, 0),
            fmt="-",
            marker=marker,
            color=colour,
            capsize=4,
            lw=2,
            ms=6,
            elinewidth=1.5,
            label=", ".join(words) if len(rows) > 1 else "chips",
        )
    time_axis(ax, times, at)
    chips = ds.sizes.get("chip", 0)
    many = f"{chips} chips, " if chips else ""
    sampled = f"{attrs.get('confidence', 0.95):.0%} interval (Wilson)".replace("%", " %")
    legend_below(ax, columns=2, title=f"{many}{sampled}")
    return ax
