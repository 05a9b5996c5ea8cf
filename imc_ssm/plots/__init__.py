"""Pictures of a result: accuracy over time after programming, energy by component, accuracy against energy.

`summary(ds)` draws all three; `inspection(ds)` draws poles, kernel error and word lengths of an inspection.
Each panel is also a function of (dataset, axes) for notebooks. Matplotlib's object-oriented interface is used
throughout: no global state, no backend to choose. A panel whose variables are absent or all NaN says so in
place of a plot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.errors import ConfigError
from imc_ssm.plots.panels import absent, accuracy_energy, accuracy_over_time, energy_breakdown
from imc_ssm.plots.poles import kernel_error, pole_plane, word_lengths
from imc_ssm.plots.reading import GREY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "accuracy_energy",
    "accuracy_over_time",
    "energy_breakdown",
    "inspection",
    "kernel_error",
    "pole_plane",
    "save_figure",
    "styled",
    "summary",
    "training",
    "word_lengths",
]

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
    with styled(14.0, 4.9) as figure:
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
    with styled(14.0, 5.1 * len(layers)) as figure:
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


def training(history: xr.Dataset) -> Figure:
    """Loss and validation accuracy of a training run over its epochs.

    Reads `loss_train` (epoch) and `accuracy_validation` (epoch) in percent.
    """
    with styled(9.0, 3.6) as figure:
        panels = figure.subplots(1, 2)
        for ax, name, title, label, colour in (
            (panels[0], "loss_train", "Training loss", "Cross-entropy", "#4477AA"),
            (panels[1], "accuracy_validation", "Validation accuracy", "Accuracy (%)", "#EE6677"),
        ):
            ax.set_title(title)
            ax.set_ylabel(label)
            ax.set_xlabel("Epoch")
            if name not in history or bool(history[name].isnull().all()):
                absent(ax, name)
                continue
            values = history[name].squeeze(drop=True)
            x = values["epoch"].values if "epoch" in values.coords else np.arange(1, values.size + 1)
            ax.plot(np.atleast_1d(x), np.atleast_1d(values.values), "o-", color=colour, lw=2, ms=4, label=title)
            ax.xaxis.get_major_locator().set_params(integer=True)
            if name == "accuracy_validation":
                best = int(np.nanargmax(np.atleast_1d(values.values)))
                top = float(np.atleast_1d(values.values)[best])
                ax.axhline(top, color=GREY, ls="--", lw=1, label=f"best: {top:.2f} %")
                ax.legend(loc="lower right", frameon=False)
    return figure


def save_figure(fig: Figure, path: str | Path) -> None:
    """Write a figure, whole or not at all; the suffix says how (.png, .pdf, .svg).

    Raises `ConfigError` for another suffix, `FileError` if the path cannot be written.
    """
    from imc_ssm.files import atomic_path

    suffix = Path(path).suffix.lower()
    # No dates and versions inside: equal figures give equal files.
    metadata: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None},
        ".svg": {"Date": None},
    }
    if suffix not in metadata:
        raise ConfigError(
            f"cannot write a figure as {str(path)!r}; give a name that ends in {', '.join(metadata)}"
        )
    with atomic_path(path) as temporary:
        fig.savefig(temporary, dpi=150, format=suffix[1:], metadata=metadata[suffix])


@contextmanager
def styled(width: float, height: float) -> Iterator[Figure]:
    """A figure of our style; the style holds for what is drawn inside the block."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06))
