"""Pictures of what quantization does to a recurrence: poles, kernel error, word lengths of the state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from imc_ssm.plots.panels import absent, legend_below
from imc_ssm.plots.reading import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["kernel_error", "median_head", "pole_plane", "show_all", "word_lengths", "worst_head", "zoom"]

_BEFORE, _AFTER = "#4477AA", "#EE6677"
_PARTS = {
    "all": ("#999999", "-", 4.5),
    "a": ("#EE6677", "-", 2.0),
    "b": ("#4477AA", "--", 2.0),
    "c": ("#228833", "-.", 2.0),
}
_NAMES = {"all": "a, b and c", "a": "a alone", "b": "b alone", "c": "c alone"}
_BOUNDS = (("#228833", "o"), (_BEFORE, "^"), (_AFTER, "s"))
_SHOWN = 16
"""Poles in the zoom."""


def worst_head(ds: xr.Dataset) -> int:
    """Of the heads with the most poles outside after rounding, the one with the median distance."""
    outside = ds["poles_outside"].sel(stage="after").values
    near = np.median(ds["circle_distance"].sel(stage="before").values, axis=-1)
    heads = np.flatnonzero(outside == outside.max())
    return int(heads[np.argsort(near[heads], kind="stable")[len(heads) // 2]])


def median_head(ds: xr.Dataset) -> int:
    """The head in the middle when they are sorted by their poles outside after rounding."""
    outside = ds["poles_outside"].sel(stage="after").values
    return int(np.argsort(outside, kind="stable")[len(outside) // 2])


def pole_plane(ds: xr.Dataset, ax: Axes, head: int | None = None, shown: np.ndarray | None = None) -> Axes:
    """Poles of one head before and after rounding, near the unit circle; both axes have one scale.

    `ds` is one layer of an inspection; `head` None: see `worst_head`; `shown`: states in view, None: see `zoom`.
    """
    ax.set_title("Poles near the unit circle")
    ax.set_xlabel("Re a")
    ax.set_ylabel("Im a")
    if not {"pole", "circle_distance", "poles_outside"} <= set(ds.data_vars):
        return absent(ax, "poles")
    head = worst_head(ds) if head is None else head
    before, after = (ds["pole"].isel(head=head).sel(stage=stage).values for stage in ("before", "after"))
    outside = ds["circle_distance"].isel(head=head).sel(stage="after").values <= 0
    shown = zoom(ds, head) if shown is None else shown
    angle = np.linspace(-np.pi, np.pi, 20001)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    ax.fill(*circle, color="#E9EFF6", zorder=0, label="inside")
    ax.plot(*circle, color=GREY, lw=1.5, zorder=1, label="unit circle")
    moves = np.stack([before, after], axis=1)  # (state, 2, part)
    ax.plot(*moves.transpose(2, 1, 0), color="#999999", lw=1.2, zorder=2)
    ax.plot(*before.T, "o", mfc="white", mec=_BEFORE, mew=1.8, ms=10, zorder=3, label="as trained")
    ax.plot(*after[~outside].T, "s", color=_AFTER, ms=5.5, zorder=4, label="rounded")
    if outside.any():
        ax.plot(*after[outside].T, "X", color="#AA1122", mec="white", mew=0.6, ms=9.5, zorder=5, label="outside")
    show_all(ax, np.concatenate([before[shown], after[shown]]).T)
    _square(ax)
    ax.locator_params(nbins=5)
    legend_below(ax, columns=3, title=f"head {head}: {int(outside.sum())} of {len(outside)} poles outside")
    return ax


def show_all(ax: Axes, points: np.ndarray) -> None:
    """Limits that hold all points (2, n), those that are not there (NaN) aside."""
    low, high = np.nanmin(points, axis=1), np.nanmax(points, axis=1)
    pad = np.where(high > low, 0.1 * (high - low), 0.01)
    ax.set_xlim(low[0] - pad[0], high[0] + pad[0])
    ax.set_ylim(low[1] - pad[1], high[1] + pad[1])


def _square(ax: Axes) -> None:
    """One scale for both axes, so that a circle is a circle: the shorter side becomes as long as the other."""
    half = max(np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())) / 2
    for limits, place in ((ax.get_xlim(), ax.set_xlim), (ax.get_ylim(), ax.set_ylim)):
        place(np.mean(limits) - half, np.mean(limits) + half)
    ax.set_aspect("equal", adjustable="box")


def zoom(ds: xr.Dataset, head: int) -> np.ndarray:
    """The `_SHOWN` neighbours in angle with the most poles outside after rounding; of equal ones the middle."""
    poles = ds["pole"].isel(head=head).sel(stage="before").values
    outside = ds["circle_distance"].isel(head=head).sel(stage="after").values <= 0
    order = np.argsort(np.arctan2(poles[:, 1], poles[:, 0]), kind="stable")
    size = min(_SHOWN, len(order))
    counts = np.convolve(outside[order], np.ones(size, int), mode="valid")
    best = np.flatnonzero(counts == counts.max())
    start = int(best[len(best) // 2])
    return np.asarray(order[start : start + size])


def kernel_error(ds: xr.Dataset, ax: Axes) -> Axes:
    """Relative error of the kernel's first L steps over L: median (line) and 10 to 90 % over heads (band).

    Where the poles leave the unit circle the error grows without end; the axis stops at 100.
    """
    ax.set_title("Error of the kernel")
    ax.set_xlabel("Number of steps L")
    ax.set_ylabel("Relative error of the first L steps")
    if "kernel_error" not in ds or not bool((ds["kernel_error"] > 0).any()):
        return absent(ax, "kernel error")
    steps = ds["step"].values
    lowest, highest = np.inf, 0.0
    for part, (colour, style, width) in _PARTS.items():
        errors = ds["kernel_error"].sel(rounded=part).transpose("head", "step").values
        if not np.any(errors > 0):
            continue
        # The nearest rank: an infinite error must not become NaN between two ranks.
        low, middle, high = np.quantile(errors, [0.1, 0.5, 0.9], axis=0, method="nearest")
        drawn = np.where((middle > 0) & np.isfinite(middle), middle, np.nan)
        lowest = min(lowest, np.nanmin(drawn, initial=np.inf))
        highest = max(highest, float(np.max(high[np.isfinite(high)], initial=0.0)))
        floor = np.maximum(low, 1e-30)
        ax.fill_between(steps, floor, np.minimum(high, 1e30), color=colour, alpha=0.13, lw=0, zorder=1)
        ax.plot(steps, drawn, style, color=colour, lw=width, zorder=3, label=_NAMES[part])
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(max(lowest / 4, 1e-8), min(max(3 * highest, 10 * lowest), 100.0))
    ax.set_xlim(steps[0], steps[-1])
    if "steps" in ds.attrs and steps[0] < ds.attrs["steps"] < steps[-1]:
        length = int(ds.attrs["steps"])
        ax.axvline(length, color=GREY, ls=":", lw=1.5, label=f"a sequence: {length}")
    legend_below(ax, columns=3, title="rounded: median, 10 to 90 % of heads")
    return ax


def word_lengths(ds: xr.Dataset, ax: Axes) -> Axes:
    """Share of the states (real and imaginary parts) that a word of so many bits holds, by bound.

    A curve that does not reach 100 % has states without a bound (|a| >= 1). Beside the register's word
    length, and with what saturates in it on data.
    """
    from matplotlib.ticker import MaxNLocator

    ax.set_title("Word length of the state")
    ax.set_xlabel("Word length (bit)")
    ax.set_ylabel("States that fit (%)")
    if not {"bits_guaranteed", "bits_calibrated"} <= set(ds.data_vars):
        return absent(ax, "word lengths")
    needed = {
        "calibrated": ds["bits_calibrated"].values.ravel(),
        "guaranteed, as trained": ds["bits_guaranteed"].sel(stage="before").values.ravel(),
        "guaranteed, rounded": ds["bits_guaranteed"].sel(stage="after").values.ravel(),
    }
    finite = np.concatenate([bits[np.isfinite(bits)] for bits in needed.values()])
    if not finite.size:
        return absent(ax, "word lengths")
    register = float(ds["bits_state"]) if "bits_state" in ds else np.nan
    longest = int(max(finite.max(), np.nan_to_num(register)))
    words = np.arange(1, longest + 2)
    notes = 0
    for (name, bits), (colour, marker) in zip(needed.items(), _BOUNDS, strict=True):
        share = [100.0 * np.mean(bits <= word) for word in words]
        ax.plot(words, share, f"-{marker}", drawstyle="steps-post", color=colour, lw=2, ms=5, zorder=3, label=name)
        unbounded = 100.0 * np.mean(np.isinf(bits))
        if unbounded > 0:
            ax.annotate(
                f"{unbounded:.0f} % have\nno bound" if unbounded >= 1 else "some have\nno bound",
                (words[-1], 28 + 20 * notes),  # low at the right: all curves are high there
                xytext=(-4, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                color=colour,
            )
            notes += 1
    if np.isfinite(register):
        kind = "assumed" if ds.attrs.get("register") == "assumed" else "register"
        ax.axvline(register, color=GREY, ls="--", lw=1.8, zorder=2, label=f"{kind}: {register:.0f} bit")
    ax.set_xlim(1, words[-1])
    ax.set_ylim(0, 104)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(ax, columns=2, title=_saturated(ds))
    return ax


def _saturated(ds: xr.Dataset) -> str | None:
    """What saturates on data, in words: means over heads and the worst head."""
    parts = []
    for name, word in (("saturated_state", "states"), ("saturated_output", "outputs")):
        if name in ds and bool(ds[name].notnull().any()):
            values = ds[name].values
            parts.append(f"{np.nanmean(values):.2g} % of {word} (worst head {np.nanmax(values):.2g} %)")
    return "saturated: " + ",\n".join(parts) if parts else None
