"""A cell beside the measurements that it was fitted to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imc_ssm.plots.reading import GREY
from imc_ssm.units import duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from imc_ssm.devices import CellFit
    from imc_ssm.devices.generic import Generic

__all__ = ["drift_over_time", "error_against_target", "read_against_target"]

_BLUE, _RED, _ORANGE = "#0072B2", "#CC3311", "#E69F00"
MICRO = 1e6
Floats = npt.NDArray[np.float64]


def read_against_target(fit: CellFit, ax: Axes) -> Axes:
    """What was read right after programming against the target: devices, stuck ones, and the fit's 95 %."""
    data, first = fit.data, fit.first
    ax.set_title("Right after programming")
    ax.set_xlabel("Target (µS)")
    ax.set_ylabel("Measured (µS)")
    for values, colour, marker, size, label in (
        ((0,), GREY, ".", 4, "devices"),
        ((-1, 1), _RED, "x", 6, "stuck"),
        ((2,), _ORANGE, "+", 7, "outliers"),
    ):
        rows = first & np.isin(fit.stuck, values)
        if rows.any():
            text = f"{label} ({int(rows.sum())})"
            ax.plot(
                MICRO * data.target[rows], MICRO * data.measured[rows], marker, color=colour, ms=size, label=text
            )
    g = np.linspace(fit.cell.g_min.value, fit.cell.g_max.value, 200)
    _, sigma = _deviations(fit.cell, g)
    low = np.maximum(g - 1.96 * sigma, 0)
    ax.fill_between(
        MICRO * g,
        MICRO * low,
        MICRO * (g + 1.96 * sigma),
        color=_BLUE,
        alpha=0.35,
        lw=0,
        zorder=3,
        label="fit, 95 %",
    )
    ax.plot(MICRO * g, MICRO * g, color=_BLUE, lw=1, zorder=4)
    ax.set_ylim(
        top=1.4 * MICRO * float(max(data.measured[first].max(), fit.cell.g_max.value))
    )  # room for the legend
    ax.legend(frameon=False, loc="upper left")
    return ax


def _deviations(cell: Generic, g: Floats) -> tuple[Floats, Floats]:
    """Deviation of what was written about the target, and of one reading of it, S."""
    at = g.astype(np.float32)
    none = np.zeros_like(g)
    written = none if cell.programming_error is None else cell.programming_error.at(at).astype(float)
    read = none if cell.read_noise is None else cell.read_noise.at(at).astype(float)
    return written, np.hypot(written, read)


def error_against_target(fit: CellFit, ax: Axes) -> Axes:
    """Standard deviation about the target, in groups of devices with its 95 % interval, and the fit."""
    from imc_ssm.devices.fitting import groups_of

    use = fit.first & (fit.stuck == 0)
    ax.set_title("Programming error")
    ax.set_xlabel("Target (µS)")
    ax.set_ylabel("Standard deviation (µS)")
    at, sigma, half = groups_of(fit.data.target[use], fit.data.measured[use])
    ax.errorbar(
        MICRO * at, MICRO * sigma, MICRO * half, fmt="o", color=GREY, ms=5, capsize=3, label="measured, 95 %"
    )
    g = np.linspace(fit.cell.g_min.value, fit.cell.g_max.value, 200)
    written, read = _deviations(fit.cell, g)
    ax.plot(MICRO * g, MICRO * written, color=_BLUE, lw=2, label="fit: what was written")
    if fit.cell.read_noise is not None:
        ax.plot(MICRO * g, MICRO * read, "--", color=_BLUE, lw=1.5, label="fit: one reading of it")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, loc="best")
    return ax


def drift_over_time(fit: CellFit, ax: Axes) -> Axes:
    """Conductance over its target against time: median and middle 68 % of the devices, and the fit."""
    data, cell = fit.data, fit.cell
    ax.set_title("After programming")
    ax.set_xlabel("Time")
    ax.set_ylabel("Measured / target")
    if data.time is None or not data.time.max() > data.time.min():
        ax.text(0.5, 0.5, "one time was measured", transform=ax.transAxes, ha="center", color=GREY)
        return ax
    clear = (fit.stuck == 0) & (data.target > 0.3 * data.target.max())
    time, ratio = data.time[clear], data.measured[clear] / data.target[clear]
    edges = np.unique(time)
    if len(edges) > 24:
        edges = np.geomspace(time.min(), time.max() * 1.001, 13)
        place = np.digitize(time, edges)
    else:
        place = np.searchsorted(edges, time)
    at, quantiles = [], []
    for i in np.unique(place):
        at.append(float(np.exp(np.log(time[place == i]).mean())))
        quantiles.append(np.quantile(ratio[place == i], [0.16, 0.5, 0.84]))
    low, middle, high = np.transpose(quantiles)
    ax.errorbar(
        at,
        middle,
        [middle - low, high - middle],
        fmt="o",
        color=GREY,
        ms=5,
        capsize=3,
        label="median, middle 68 %",
    )
    t = np.geomspace(min(at), max(at), 100)
    if cell.drift is not None:
        nu, spread = cell.drift.exponent.value, cell.drift.spread.value if cell.drift.spread else 0.0
        log = np.log(np.maximum(t, cell.drift.t_0.value) / cell.drift.t_0.value)
        mean = float(np.mean(data.target[clear]))
        left = np.exp(-t / cell.retention.value) if cell.retention is not None else np.ones_like(t)
        floor = cell.g_min.value / mean
        sigma = 0.0
        if cell.programming_error is not None:
            values = cell.programming_error.at(data.target[clear].astype(np.float32)) / data.target[clear]
            sigma = float(np.sqrt(np.square(values).mean()))
        curve = floor + (np.exp(-nu * log) - floor) * left
        wide = np.sqrt((spread * log) ** 2 + sigma**2) * curve
        ax.plot(t, curve, color=_BLUE, lw=2, label="fit")
        ax.fill_between(t, curve - wide, curve + wide, color=_BLUE, alpha=0.2, lw=0, label="fit, one deviation")
    ax.set_xscale("log")
    known = [m for m in (1e-3, 1.0, 60.0, 3600.0, 86400.0, 2592000.0, 31557600.0) if min(at) <= m <= max(at)]
    if len(known) > 1:
        ax.set_xticks(known, [duration(m) for m in known])
        ax.minorticks_off()
    ax.legend(frameon=False, loc="best")
    return ax
