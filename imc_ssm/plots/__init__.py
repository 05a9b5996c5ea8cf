"""Pictures of a result: accuracy over time after programming, energy by component, accuracy against energy.

`draw(ds)` takes what `evaluate`, `cost`, `inspect_model`, `train` or a study returned and chooses the figure.
Each panel is also a function of (dataset, axes) for notebooks. Matplotlib's object-oriented interface is used
throughout: no global state, no backend to choose. A panel whose variables are absent or all NaN says so in
place of a plot.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.errors import ConfigError
from imc_ssm.plots.cells import AT, over_level, over_time
from imc_ssm.plots.comparing import together
from imc_ssm.plots.crossings import over_machines
from imc_ssm.plots.fits import drift_over_time, error_against_target, read_against_target
from imc_ssm.plots.grid import shown_of, varied
from imc_ssm.plots.kinds import kind_of
from imc_ssm.plots.panels import absent, accuracy_energy, accuracy_over_time, component_bars, energy_breakdown
from imc_ssm.plots.pareto import worth_of_changes
from imc_ssm.plots.poles import kernel_error, pole_plane, word_lengths
from imc_ssm.plots.populations import quantiles_over_time, yield_over_time
from imc_ssm.plots.reading import GREY
from imc_ssm.plots.spreads import component_stacks, tornado
from imc_ssm.plots.timelines import timeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from imc_ssm.devices import CellFit

__all__ = [
    "accuracy_energy",
    "accuracy_over_time",
    "advised",
    "cell_fit",
    "cells_compared",
    "chips",
    "component_bars",
    "component_stacks",
    "costs",
    "curves",
    "draw",
    "energy_breakdown",
    "grid",
    "inspection",
    "kernel_error",
    "kind_of",
    "made_here",
    "over_machines",
    "pole_plane",
    "population",
    "quantiles_over_time",
    "save_figure",
    "scheduled",
    "styled",
    "summary",
    "swung",
    "timeline",
    "together",
    "tornado",
    "training",
    "word_lengths",
    "yield_over_time",
]

MADE = "imc-ssm:"
"""What a figure's file says of who made it."""
_LOSSES = {"r2": "Mean squared error", "mae": "Mean squared error"}
_STYLE: dict[str, Any] = {
    "font.size": 13,
    "axes.titlesize": 14,
    "axes.titleweight": "bold",
    "legend.fontsize": 11.5,
    "legend.title_fontsize": 11.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


def summary(ds: xr.Dataset) -> Figure:
    """The three panels of a demo or deployment dataset in one figure of 14 x 4.9 inches.

    Reads `accuracy_digital` (model), `accuracy` (model, chip, time) in percent, `energy` (model, component)
    in J, `bits_state` (model), the coordinate `time` in s and, if present, the attribute `n_test`.
    """
    with styled(14.0, 4.9, "summary") as figure:
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.0, 1.05, 1.0))
        accuracy_over_time(ds, left)
        energy_breakdown(ds, middle)
        accuracy_energy(ds, right)
    return figure


def inspection(ds: xr.Dataset) -> Figure:
    """Poles, kernel error and word lengths of every recurrence, one row of 14 x 5.1 inches for each layer.

    Reads what `imc_ssm.analysis.inspect_model` returns, or one layer of it.
    """
    layers = [ds] if "layer" not in ds.dims else [ds.isel(layer=i) for i in range(ds.sizes["layer"])]
    with styled(14.0, 5.1 * len(layers), "inspection") as figure:
        rows = figure.subfigures(len(layers), 1, squeeze=False)[:, 0]
        for row, layer in zip(rows, layers, strict=True):
            left, middle, right = row.subplots(1, 3, width_ratios=(1.0, 1.0, 1.0))
            pole_plane(layer, left)
            kernel_error(layer, middle)
            word_lengths(layer, right)
            if "layer" in layer.coords:
                title = f"{ds.attrs['title']}: " if "title" in ds.attrs else ""
                row.suptitle(f"{title}{layer['layer'].item()}")
    return figure


def draw(result: xr.Dataset | Mapping[str, Any] | Any) -> Figure:
    """The figure of a result, whatever it is: of `evaluate`, `cost`, `inspect_model`, `train` or a study.

    A metric on chips is drawn over time, with energy beside it where it is there (`summary`), and with the yield
    where that is there (`population`). Several datasets by
    name, {"4 bits": ..., "6 bits": ...}, are compared (`together`).

    Raises `ConfigError` for a dataset in which there is nothing to draw.
    """
    if not isinstance(result, xr.Dataset):
        named: dict[str, Any] = {str(k): v for k, v in result.items()} if isinstance(result, Mapping) else {}
        if named and all(isinstance(one, xr.Dataset) for one in named.values()):
            return draw(together(named) if len(named) > 1 else next(iter(named.values())))
        if isinstance(result, Mapping) or hasattr(result, "loss_train"):
            return training(result)
        raise ConfigError(
            f"a {type(result).__name__} cannot be drawn; give what evaluate, cost, inspect_model, train or a "
            "study returned"
        )
    ds = result
    kind = kind_of(ds)
    if kind == "inspection":
        return inspection(ds)
    if kind == "training":
        return training(ds)
    if kind == "cost":
        return costs(ds)
    if kind == "schedule":
        return scheduled(ds)
    if kind == "swings":
        return swung(ds)
    if kind == "advice":
        return advised(ds)
    if kind == "grid":
        return grid(ds)
    if "yield" in ds:
        return population(ds)
    return summary(ds) if "energy" in ds else chips(ds)


def cell_fit(fit: CellFit) -> Figure:
    """Measurements and the cell that was fitted to them (`devices.fit_cell`), three panels, 14 x 4.9 inches."""
    with styled(14.0, 4.9, "cell fit") as figure:
        left, middle, right = figure.subplots(1, 3)
        read_against_target(fit, left)
        error_against_target(fit, middle)
        drift_over_time(fit, right)
        figure.suptitle(f"{fit.cell.name}: {len(fit.data)} readings of {fit.data.source}")
    return figure


def cells_compared(ds: xr.Dataset) -> Figure:
    """What `devices.behaviour` returns: programming error of cells, and their error over time, 14 x 5.6 inches."""
    with styled(14.0, 5.6, "cells") as figure:
        left, middle, right = figure.subplots(1, 3)
        over_level(ds, left)
        over_time(ds, "shift", middle)
        over_time(ds, "spread", right)
        count = ds.sizes["cell"]
        if count > 1:
            figure.legend(loc="outside lower center", ncols=min(5, count), frameon=False)
        title = "Memory cells" if count > 1 else str(ds["cell"].values[0])
        figure.suptitle(
            f"{title}: {ds.attrs['devices']:,} devices a point, over time at {100 * AT:g} % of the range"
        )
    return figure


def chips(ds: xr.Dataset) -> Figure:
    """What `evaluate` returns: the metric on chips over the time since programming, 7 x 5.2 inches."""
    with styled(7.0, 5.2, "chips") as figure:
        accuracy_over_time(ds, figure.subplots())
    return figure


def population(ds: xr.Dataset) -> Figure:
    """Quantiles of the metric over chips, their yield and, if it is there, energy; 4.9 inches high.

    Reads what `evaluate` returns merged with what `analysis.chip_yield` does.
    """
    parts = [quantiles_over_time, yield_over_time] + [energy_breakdown] * ("energy" in ds)
    with styled(4.7 * len(parts), 4.9, "population") as figure:
        for ax, part in zip(figure.subplots(1, len(parts)), parts, strict=True):
            part(ds, ax)
    return figure


def costs(ds: xr.Dataset) -> Figure:
    """What `cost` returns: energy, latency, area and memory by component, one panel each, 14 x 4.9 inches."""
    with styled(14.0, 4.9, "costs") as figure:
        panels = figure.subplots(1, 4, sharey=True)
        for ax, name in zip(panels, ("energy", "latency", "area", "memory"), strict=True):
            component_bars(ds, name, ax)
    return figure


def swung(ds: xr.Dataset) -> Figure:
    """What `costs.swings` returns: which constants move energy, time and area, one panel each, 15 x 4.6 inches."""
    with styled(15.0, 4.6, "swings") as figure:
        for ax, name in zip(figure.subplots(1, 3), ("energy", "latency", "area"), strict=True):
            tornado(ds, name, ax)
        figure.suptitle(str(ds.attrs["title"]))
    return figure


def advised(ds: xr.Dataset) -> Figure:
    """What `sweeps.advise` returns: what every change of a design is worth, four panels, 18 x 8 inches."""
    with styled(18.0, 8.0, "advice") as figure:
        worth_of_changes(ds, figure.subplots(1, 4))
    return figure


def scheduled(ds: xr.Dataset) -> Figure:
    """What `Schedule.to_dataset` returns: a row a stage, 12 inches wide."""
    stages = len(set(ds["stage"].values.tolist()))
    with styled(12.0, 2.0 + 0.3 * stages, "schedule") as figure:
        timeline(ds, figure.subplots())
        figure.suptitle(str(ds.attrs["title"]))
    return figure


def grid(ds: xr.Dataset) -> Figure:
    """Anything that was varied, such as the dataset of a study: one panel a variable, at most four."""
    names = shown_of(ds)
    rows = max(1, math.ceil(len(names) / 2))
    with styled(8.0 * min(2, max(1, len(names))), 4.6 * rows + 0.4, "grid") as figure:
        panels = figure.subplots(rows, min(2, max(1, len(names))), squeeze=False).ravel()
        for ax, name in zip(panels, names, strict=False):
            varied(ds, name, ax)
        for ax in panels[len(names) :]:
            ax.set_visible(False)
        if "title" in ds.attrs:
            figure.suptitle(textwrap.fill(str(ds.attrs["title"]), 66 * min(2, max(1, len(names)))))
    return figure


def training(history: xr.Dataset | Mapping[str, Sequence[float]] | Any) -> Figure:
    """Loss and validation metric of a training run over its epochs.

    `history`: what `train` returns, or its entries by name (each one number an epoch), or a dataset of them over
    `epoch`. `loss_train` is drawn left, and what begins with a metric's name (`accuracy_validation`) right.
    """
    ds = curves(history)
    metric = next((str(name) for name in ds.data_vars if str(name).endswith("_validation")), "accuracy_validation")
    what = metric.removesuffix("_validation")
    percent = what == "accuracy"
    with styled(9.0, 3.9, "training") as figure:
        panels = figure.subplots(1, 2)
        for ax, name, title, label, colour in (
            (panels[0], "loss_train", "Training loss", _LOSSES.get(what, "Cross-entropy"), "#4477AA"),
            (panels[1], metric, f"Validation {what}", "Accuracy (%)" if percent else what.upper(), "#EE6677"),
        ):
            ax.set_title(title)
            ax.set_ylabel(label)
            ax.set_xlabel("Epoch")
            if name not in ds or bool(ds[name].isnull().all()):
                absent(ax, name)
                continue
            values = ds[name].squeeze(drop=True)
            x = values["epoch"].values if "epoch" in values.coords else np.arange(1, values.size + 1)
            ax.plot(np.atleast_1d(x), np.atleast_1d(values.values), "o-", color=colour, lw=2, ms=4, label=title)
            ax.xaxis.get_major_locator().set_params(integer=True)
            if name == metric:
                best = np.nanmin if what in ("mae", "loss") else np.nanmax
                top = float(best(np.atleast_1d(values.values)))
                text = f"best: {top:.2f} %" if percent else f"best: {top:.4g}"
                ax.axhline(top, color=GREY, ls="--", lw=1, label=text)
                ax.legend(loc="best", frameon=False)
    return figure


def curves(history: xr.Dataset | Mapping[str, Sequence[float]] | Any) -> xr.Dataset:
    """What `train` returns as a dataset over `epoch`, counted from 1, with units and long names."""
    if isinstance(history, xr.Dataset):
        return history
    entries = history if isinstance(history, Mapping) else vars(history)
    ds = xr.Dataset({n: ("epoch", np.asarray(v, float)) for n, v in entries.items() if len(v)})
    ds = ds.assign_coords(epoch=("epoch", np.arange(1, ds.sizes.get("epoch", 0) + 1), {"units": "1"}))
    ds["epoch"].attrs["long_name"] = "Epoch"
    for name in ds.data_vars:
        words = str(name).split("_")
        units = "s" if name == "time" else "percent" if "accuracy" in words else "1"
        ds[name].attrs |= {"units": units, "long_name": " ".join([*words[1:], words[0]]).capitalize()}
    return ds


def save_figure(fig: Figure, path: str | Path) -> None:
    """Write a figure, whole or not at all; the suffix says how (.png, .pdf, .svg).

    Raises `ConfigError` for another suffix, `FileError` if the path cannot be written.
    """
    from imc_ssm.files import atomic_path

    suffix = Path(path).suffix.lower()
    # No dates and versions inside: equal figures give equal files.
    made = f"{MADE} {fig.get_label()}".strip()
    metadata: dict[str, dict[str, Any]] = {
        ".png": {"Software": made},
        ".pdf": {"CreationDate": None, "Subject": made},
        ".svg": {"Date": None, "Description": made},
    }
    if suffix not in metadata:
        raise ConfigError(
            f"cannot write a figure as {str(path)!r}; give a name that ends in {', '.join(metadata)}"
        )
    with atomic_path(path) as temporary:
        fig.savefig(temporary, dpi=150, format=suffix[1:], metadata=metadata[suffix])


def made_here(path: str | Path) -> bool:
    """Whether a figure is one of this room's (`draw` makes it again), and not a study's, a user's or another's."""
    try:
        head = Path(path).read_bytes()
    except OSError:
        return False
    kinds = ("summary", "chips", "population", "costs", "grid", "training", "inspection", "schedule", "swings")
    return any(f"{MADE} {kind}".encode() in head for kind in kinds)


@contextmanager
def styled(width: float, height: float, name: str = "") -> Iterator[Figure]:
    """A figure of our style; the style holds for what is drawn inside the block. `name`: which one it is."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06), label=name)
