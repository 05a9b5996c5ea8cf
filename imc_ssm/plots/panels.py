"""The three panels of a result, and the parts that they share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.plots import reading as read
from imc_ssm.plots.reading import COMPONENT_COLOURS, GREY
from imc_ssm.units import duration, prefix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "NAMES",
    "absent",
    "accuracy_energy",
    "accuracy_over_time",
    "component_bars",
    "energy_breakdown",
    "legend_below",
    "legend_beside",
    "log_positions",
    "time_axis",
]

NAMES = {"accuracy": "Accuracy", "r2": "R2", "mae": "Mean absolute error"}
"""Metrics in titles."""
_SPARE = ("#999999", "#666666", "#333333")
_TIMES = (1.0, 60.0, 3600.0, 86400.0, 2592000.0, 31557600.0)
"""Round times, s, for axes with many measured ones."""


def accuracy_over_time(ds: xr.Dataset, ax: Axes) -> Axes:
    """Accuracy on chips against the time since programming, beside the digital accuracy (dashed).

    Per model the mean over chips (line), their spread (band: all of them, or 5 to 95 % from 20 chips on) and
    every chip (dots); full precision in grey. Models without chip accuracies are left out. Without a dimension
    `model` (what `evaluate` returns) there is one; regressions are drawn by their own metric.
    """
    from matplotlib.lines import Line2D

    ax.set_title(f"{NAMES[read.metric(ds)]} after programming")
    ax.set_ylabel(read.accuracy_label(ds))
    ax.set_xlabel("Time since programming")
    ds = read.of_models(ds)
    chips = read.chip_accuracy(ds)
    names = read.model_names(ds)
    shown = [] if chips is None else [n for n in names if bool(chips.sel(model=n).notnull().any())]
    if chips is None or not shown:
        return absent(ax, "accuracy on chips")
    chips = chips.dropna("time", how="all")
    places = dict(zip(chips["time"].values.tolist(), log_positions(chips["time"].values), strict=True))
    many = 0
    handles: list[Any] = []
    for index, name in enumerate(shown):
        colour, marker = read.look(ds, name)
        own = chips.sel(model=name).dropna("chip", how="all").dropna("time", how="all")
        at = np.array([places[time] for time in own["time"].values.tolist()])
        table = own.transpose("chip", "time").values
        many = max(many, len(table))
        low, high = read.spread(table)
        ax.plot(np.tile(at, (len(table), 1)).T, table.T, ".", color=colour, alpha=0.22, ms=5, mew=0, zorder=2)
        if len(at) > 1:
            ax.fill_between(at, low, high, color=colour, alpha=0.15, lw=0, zorder=1)
        else:
            ax.vlines(at, low, high, color=colour, lw=2, zorder=2)
        ax.plot(at, np.nanmean(table, axis=0), "-", marker=marker, color=colour, lw=2, ms=6, zorder=4)
        handles.append(Line2D([], [], color=colour, marker=marker, lw=2, ms=6, label=name))
        digital = read.digital_accuracy(ds, name)
        if digital is not None:
            # Dashes shifted from model to model, so that equal values stay visible on top of each other.
            ax.axhline(digital, color=colour, ls=(4 * index, (4, 4)), lw=1.5, alpha=0.9, zorder=3)
    full = next((name for name in names if read.is_full(name) and name not in shown), None)
    if full is not None and (value := read.digital_accuracy(ds, full)) is not None:
        ax.axhline(value, color=GREY, ls="-", lw=1.5, zorder=3)
        handles.append(Line2D([], [], color=GREY, ls="-", lw=1.5, label=f"{full} (digital)"))
    handles.append(Line2D([], [], color=GREY, ls="--", lw=1.5, label="dashed: digital"))
    time_axis(ax, chips["time"].values, np.array(list(places.values())))
    title = {1: "one chip"}.get(many, f"{many} chips: mean, {read.spread_name(many)}")
    legend_below(ax, handles, columns=2, title=title)
    return ax


def energy_breakdown(ds: xr.Dataset, ax: Axes) -> Axes:
    """Energy per inference of every model as a bar stacked by component, with the total at its end."""
    ax.set_title("Energy per inference")
    ax.set_xlabel("Energy (J)")
    ds = read.of_models(ds)
    shown = [name for name in read.model_names(ds) if read.energy_parts(ds, name) is not None]
    if not shown:
        return absent(ax, "energy")
    components = [str(component) for component in ds["component"].values]
    parts = np.array([read.energy_parts(ds, name) for name in shown])  # (model, component)
    totals = np.nansum(parts, axis=1)
    factor, unit = prefix(float(totals.max()), "J")
    ax.set_xlabel(f"Energy ({unit})")
    rows = np.arange(len(shown))
    start = np.zeros(len(shown))
    spare = iter(_SPARE * (1 + len(components)))
    for index, component in enumerate(components):
        values = np.nan_to_num(parts[:, index]) * factor
        colour = COMPONENT_COLOURS.get(component) or next(spare)
        ax.barh(
            rows,
            values,
            left=start,
            height=0.62,
            color=colour,
            label=component,
            edgecolor="white",
            linewidth=0.6,
        )
        _inside(ax, rows, start, values, totals * factor, colour)
        start = start + values
    for row, total in zip(rows, totals * factor, strict=True):
        ax.annotate(
            f"{read.short(total)} {unit}",
            (total, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    ax.set_yticks(rows, shown)
    # Few bars stay bars: leave the room of at least three.
    pad = max(0.0, (3 - len(shown)) / 2)
    ax.set_ylim(len(shown) - 0.5 + pad, -0.5 - pad)
    ax.set_xlim(0, float(totals.max()) * factor * 1.3 or 1.0)
    legend_below(ax, columns=3)
    return ax


def component_bars(ds: xr.Dataset, name: str, ax: Axes) -> Axes:
    """A price (`energy`, `latency`, `area` or `memory`) by component: a bar for each model, and the totals."""
    ds = read.of_models(ds)
    ax.set_title(name.capitalize())
    if name not in ds or "component" not in ds[name].dims or bool(ds[name].isnull().all()):
        return absent(ax, name)
    models = read.model_names(ds)
    values = (
        ds[name].transpose("model", "component") if "model" in ds[name].dims else ds[name].expand_dims("model")
    )
    units = str(values.attrs.get("units", "1"))
    highest = float(values.max())
    factor, unit = (1e6, "mm2") if units == "m2" else prefix(highest, units)
    ax.set_xlabel(f"{values.attrs.get('long_name', name)!s} ({unit})")
    components = [str(component) for component in ds["component"].values]
    height = 0.8 / len(models)
    for index, model in enumerate(models):
        own = values.isel(model=index).values * factor
        rows = np.arange(len(components)) + (index - (len(models) - 1) / 2) * height
        total = float(np.nansum(own))
        label = f"{model}: {read.short(total)} {unit}" if len(models) > 1 else f"total {read.short(total)} {unit}"
        ax.barh(rows, np.nan_to_num(own), height=0.9 * height, color=read.look(ds, model)[0], label=label)
        for row, value in zip(rows, own, strict=True):
            if value > 0 and len(models) <= 2:
                share = f"{read.short(100 * value / total)} %"
                ax.annotate(
                    share, (value, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=11
                )
    ax.set_yticks(range(len(components)), components)
    ax.set_ylim(len(components) - 0.4, -0.6)
    ax.set_xlim(0, highest * factor * 1.25 or 1.0)
    legend_below(ax, columns=1)
    return ax


def accuracy_energy(ds: xr.Dataset, ax: Axes) -> Axes:
    """Accuracy against energy, one marker per model, annotated with its state bits ("x8").

    Filled: mean over chips with their spread as error bars, at one day after programming or, if that is not
    in the dataset, at the last time; hollow: digital accuracy. Models of one kind are joined by a thin line.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    ax.set_title(f"{NAMES[read.metric(ds)]} against energy")
    ax.set_ylabel(read.accuracy_label(ds))
    ax.set_xlabel("Energy (J)")
    ds = read.of_models(ds)
    points = read.points(ds)
    if not points:
        return absent(ax, "accuracy together with energy")
    factor, unit = prefix(max(point.energy for point in points), "J")
    ax.set_xlabel(f"Energy per inference ({unit})")
    extent = (min(p.energy for p in points) * factor, max(p.energy for p in points) * factor)
    kinds: dict[str, list[tuple[float, float]]] = {}
    handles: list[Any] = []
    for point in points:
        x = point.energy * factor
        colour, marker = read.look(ds, point.name)
        kinds.setdefault(point.name.rsplit("-x", 1)[0], []).append((x, point.accuracy))
        if point.digital is not None:
            ax.plot(x, point.digital, marker, mfc="white", mec=colour, mew=1.6, ms=8, zorder=3)
        if point.chips is not None:
            mean, low, high = point.chips
            error = [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]
            ax.errorbar(x, mean, error, fmt=marker, color=colour, ms=8, capsize=4, lw=1.8, zorder=4)
        if point.label:
            left = len(point.label) > 4 and 2 * x > extent[0] + extent[1]  # a long one has no room at the right
            ax.annotate(
                point.label,
                (x, point.accuracy),
                xytext=(-8 if left else 8, -16),
                ha="right" if left else "left",
                textcoords="offset points",
                color=colour,
                weight="bold",
                # Readable where an error bar of another model of the same energy passes behind it.
                path_effects=[withStroke(linewidth=4, foreground="white")],
                zorder=6,
            )
        handles.append(Line2D([], [], color=colour, marker=marker, ls="", ms=8, label=point.name))
    for line in kinds.values():
        line.sort()
        ax.plot(*zip(*line, strict=True), "-", color=GREY, lw=0.8, alpha=0.6, zorder=1)
    ax.margins(x=0.2, y=0.16)
    if any(point.digital is not None for point in points):
        hollow = Line2D([], [], color=GREY, marker="o", mfc="white", mew=1.6, ls="", ms=8, label="hollow: digital")
        handles.append(hollow)
    most = max(points, key=lambda point: point.count)
    chips = "one chip" if most.count == 1 else f"{most.count} chips: mean, {read.spread_name(most.count)}"
    legend_below(ax, handles, columns=2, title=f"after {most.when}, {chips}" if most.count else "digital only")
    return ax


def log_positions(times: np.ndarray) -> np.ndarray:
    """Places on a logarithmic axis: the times, and a tenth of the first positive one for time 0."""
    at = np.asarray(times, dtype=float).copy()
    positive = at[at > 0]
    at[at <= 0] = positive.min() / 10 if len(positive) else 1.0
    return at


def time_axis(ax: Axes, times: np.ndarray, at: np.ndarray) -> None:
    """Logarithmic axis with ticks in words: the measured times, or round ones where those are many.

    A label that would run into the one before it, or into the last, is left out; its tick stays.
    """
    ax.set_xscale("log")
    ticks = list(zip(at.tolist(), (duration(float(t)) for t in times), strict=True))
    if len(ticks) > 8:
        known = [(time, duration(time)) for time in _TIMES if at.min() <= time <= at.max()]
        ticks = known or [ticks[0], ticks[-1]]
    room = 0.1 * (math.log10(at.max() / at.min()) + 0.6)
    labels: list[str] = []
    last = -math.inf
    for place, label in ticks:
        free = math.log10(place) - last >= room
        if not free and place == ticks[-1][0]:  # where it ends is said in any case
            before = zip(labels, ticks[:-1], strict=True)
            labels = [old if math.log10(place / there) >= room else "" for old, (there, _) in before]
            free = True
        labels.append(label if free else "")
        last = math.log10(place) if free else last
    ax.set_xticks([place for place, _ in ticks], labels)
    ax.xaxis.minorticks_off()
    ax.set_xlim(at.min() / 2, at.max() * 2)


def _inside(
    ax: Axes, rows: np.ndarray, start: np.ndarray, values: np.ndarray, totals: np.ndarray, colour: str
) -> None:
    """Percentages inside the segments that are wide enough for them."""
    light = sum(w * int(colour[i : i + 2], 16) for w, i in ((0.299, 1), (0.587, 3), (0.114, 5))) > 140
    for row, left, value, total in zip(rows, start, values, totals, strict=True):
        if value > 0.15 * totals.max():
            ax.text(
                left + value / 2,
                row,
                f"{100 * value / total:.0f} %",
                ha="center",
                va="center",
                fontsize=10.5,
                color="black" if light else "white",
            )


def legend_below(ax: Axes, handles: list[Any] | None = None, *, columns: int, title: str | None = None) -> None:
    """A legend under the axis label, where no data can be; of all that has a label, unless handles are named."""
    ax.legend(
        handles=ax.get_legend_handles_labels()[0] if handles is None else handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.19),
        ncols=columns,
        frameon=False,
        title=title,
        handletextpad=0.5,
        columnspacing=1.2,
        borderaxespad=0.2,
    )


def legend_beside(ax: Axes, handles: list[Any], *, title: str | None = None) -> None:
    """A legend right of the axes, where no data and no tick can be."""
    ax.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        title=title,
        alignment="left",
        handletextpad=0.5,
        borderaxespad=0.2,
    )


def absent(ax: Axes, what: str) -> Axes:
    """Say that a panel has nothing to show."""
    for spine in ax.spines.values():
        spine.set_color("#CCCCCC")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.text(
        0.5,
        0.5,
        f"{what}:\nnot in this dataset",
        ha="center",
        va="center",
        color=GREY,
        transform=ax.transAxes,
    )
    return ax
