"""Pictures of a design space: points with their front, and what every change of a design is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from imc_ssm.plots.reading import GREY, MODELS
from imc_ssm.units import duration, prefix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["front_points", "worth_of_changes"]

_ROWS = 14
"""Fields of a tornado plot, at most."""


def front_points(
    x: xr.DataArray,
    y: xr.DataArray,
    kept: npt.NDArray[np.bool_],
    ax: Axes,
    *,
    colour: xr.DataArray | None = None,
    names: Sequence[str] | None = None,
) -> Axes:
    """All points in grey, those of the front joined, where two numbers decide, or coloured by a third one.

    `x`, `y`, `colour`: a number of every point, with `units` and `long_name`; `kept`: which are in front; `names`:
    a word at every point of the front.
    """
    across, x_name = _scaled(x)
    up, y_name = _scaled(y)
    ax.set_xlabel(x_name)
    ax.set_ylabel(y_name)
    ax.set_title("Pareto front")
    rest = ~kept & np.isfinite(across) & np.isfinite(up)
    ax.plot(across[rest], up[rest], "o", color="#BBBBBB", ms=5, mew=0, label=f"beaten: {rest.sum()}", zorder=1)
    order = np.flatnonzero(kept)[np.argsort(across[kept])]
    said = f"front: {len(order)}"
    if colour is None:
        ax.plot(across[order], up[order], "-", color=MODELS[0], lw=1.2, alpha=0.7, zorder=2)
        ax.plot(across[order], up[order], "o", color=MODELS[0], ms=8, label=said, zorder=3)
    else:
        third, name = _scaled(colour)
        style: Any = {"c": third[order], "cmap": "viridis", "s": 60, "edgecolors": GREY, "linewidths": 0.6}
        dots = ax.scatter(across[order], up[order], label=said, zorder=3, **style)
        figure = ax.get_figure()
        assert figure is not None
        figure.colorbar(dots, ax=ax, label=name)
    for i, word in zip(order, names or (), strict=False):
        ax.annotate(word, (across[i], up[i]), xytext=(7, -13), textcoords="offset points", fontsize=10, color=GREY)
    ax.margins(0.08)
    ax.legend(frameon=False, loc="best")
    return ax


def _scaled(values: xr.DataArray) -> tuple[npt.NDArray[np.float64], str]:
    """Numbers in a readable unit, and the label of their axis."""
    units, text = str(values.attrs.get("units", "1")), str(values.attrs.get("long_name", values.name))
    found = np.asarray(values.values, np.float64)
    if units == "percent":
        return found, f"{text} (%)"
    if units == "m2":
        return found * 1e6, f"{text} (mm$^2$)"
    if units == "1":
        return found, text
    largest = float(np.nanmax(np.abs(found))) if np.isfinite(found).any() else 1.0
    factor, name = prefix(largest or 1.0, units)
    return found * factor, f"{text} ({name})"


PANELS = (
    ("accuracy", "Accuracy (points)"),
    ("energy", "Energy (%)"),
    ("latency", "Latency (%)"),
    ("area", "Area (%)"),
)


def worth_of_changes(ds: xr.Dataset, axes: Sequence[Axes]) -> None:
    """What every change of a design is worth, one row a field, in four panels: accuracy, energy, latency, area.

    Reads what `imc_ssm.sweeps.advise` returns; the field whose best change is worth most is at the top, two
    changes a field. Right of zero in the first panel, and left of it in the others, is what one wants.
    """
    fields, worth = ds["field"].values, ds["worth"].values
    shown = list(dict.fromkeys(fields[np.argsort(-worth, kind="stable")]))[:_ROWS][::-1]
    labels = []
    for row, field in enumerate(shown):
        own = np.flatnonzero(fields == field)
        own = own[np.argsort(-worth[own], kind="stable")][:2]
        after = " / ".join(str(ds["after"].values[i]) for i in own)
        labels.append(f"{field}: {ds['before'].values[own[0]]} → {after}")
        for place, i in enumerate(own):
            at, height = (row, 0.6) if len(own) == 1 else (row + (0.2, -0.2)[place], 0.38)
            for (name, _), ax in zip(PANELS, axes, strict=True):
                error = float(ds["accuracy_error"].values[i]) if name == "accuracy" else np.nan
                bars: Any = {"xerr": error} if np.isfinite(error) else {}
                bars |= {"color": MODELS[place], "ecolor": GREY, "error_kw": {"lw": 1}}
                ax.barh(at, float(ds[f"{name}_change"].values[i]), height, **bars)
    metric = str(ds.attrs["metric"])
    titles = [title for _, title in PANELS]
    titles[0] = titles[0] if metric == "accuracy" else f"{metric} (hundredths)"
    for k, (title, ax) in enumerate(zip(titles, axes, strict=True)):
        ax.axvline(0.0, color="black", lw=0.8)
        ax.set_title(title.split(" (")[0])
        ax.set_xlabel(f"change {title[title.index('(') :]}")
        ax.margins(x=0.08)
        low, high = ax.get_xlim()
        ax.set_xlim(min(low, -0.1 * high, -1.0), max(high, -0.1 * low, 1.0))
        ax.set_yticks(range(len(shown)), labels if k == 0 else [""] * len(shown))
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(-0.6, len(shown) - 0.4)
        ax.grid(axis="x", color="#DDDDDD", lw=0.6)
        ax.set_axisbelow(True)
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    named = ("the first value named", "the second")
    handles = [Patch(color=colour, label=word) for colour, word in zip(MODELS, named, strict=False)]
    when = duration(float(ds.attrs["time_s"]))
    figure = axes[0].get_figure()
    assert isinstance(figure, Figure)
    figure.legend(handles=handles, frameon=False, loc="outside lower center", ncols=2)
    figure.suptitle(f"{ds.attrs['title']}: one change at a time, {metric} after {when}, {ds.attrs['chips']} chips")
