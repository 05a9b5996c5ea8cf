"""Figures of the study `experiments/zhao2025`, after Zhao et al. 2025 (arXiv:2506.12480).

Each takes the dataset of one experiment. Lines are means over the seeds that are there, bands their range.
Cells that are not computed leave a gap; where nothing is, the panel says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.plots import styled
from imc_ssm.plots.panels import absent, legend_below
from imc_ssm.plots.poles import median_head, pole_plane, show_all, zoom
from imc_ssm.plots.reading import GREY, accuracy_label
from imc_ssm.units import deviation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "fig2a",
    "fig2b",
    "fig2c",
    "fig2d",
    "fig3",
    "fig4a",
    "fig4b",
    "fig5ab",
    "fig5c",
    "kernel_headline",
    "order",
    "rates",
    "table1",
    "table3",
    "validation_headline",
]

_COLOURS = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#CCBB44", "#66CCEE")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_PAPER = "#222222"
_FULL = 32
"""The word length that stands for full precision."""
_CHANCE = 10.0
"""Accuracy of guessing among ten classes, percent."""
_NAMES = {
    "W": "W (encoder, mixing, decoder)",
    "x": "state x",
    "parameters": "all parameters",
    "all": "everything",
    "activations": "other activations",
    "tensor": "per tensor",
    "head": "per head",
    "state": "per state (ours)",
    "separate": "A x and B u apart",
    "joint": "their sum once (ours)",
}


def table1(ds: xr.Dataset) -> Figure:
    """Accuracy in full precision over the width, beside the paper's."""
    with styled(7.5, 5.0) as figure:
        ax = figure.subplots()
        models = [str(name) for name in ds["model"].values]
        _beside_paper(ax, ds["accuracy"], ds, models)
        ax.set_xticks(range(len(models)), models)
        ax.set_xlabel("Model")
        ax.set_ylabel(accuracy_label(ds))
        ax.set_title("Full precision")
        legend_below(ax, columns=2)
    return figure


def table3(ds: xr.Dataset) -> Figure:
    """Accuracy (top) and memory saving (bottom) of every column of the table, one pair of panels a model."""
    models = ds["model"].values
    with styled(6.6 * len(models), 8.0) as figure:
        panels = figure.subplots(2, len(models), squeeze=False, sharex=True, height_ratios=(2.0, 1.0))
        schemes = [str(name) for name in ds["scheme"].values]
        for model, (top, bottom) in zip(models, panels.T, strict=True):
            here = ds.sel(model=model)
            _beside_paper(top, here["accuracy"], here, schemes, numbers=True)
            top.set_title(str(model))
            top.set_ylabel(accuracy_label(ds))
            top.set_ylim(0, 104)
            at = np.arange(len(schemes))
            if "memory_saving" in here:
                shown = here["memory_saving"].values
                bottom.bar(at, shown, width=0.55, color=_COLOURS[0], label="ours: saving")
                published = here["memory_saving_paper"].values
                bottom.plot(at, published, "_", color=_PAPER, ms=26, mew=2.5, label="paper: saving")
            else:
                absent(bottom, "memory saving")
            bottom.set_ylabel("Memory saving (%)")
            bottom.set_ylim(0, 100)
            bottom.set_xticks(at, [name.replace(" ", "\n", 2) for name in schemes])
        parts = [ax.get_legend_handles_labels() for ax in panels[:, 0]]
        handles, labels = ([item for part in parts for item in part[i]] for i in (0, 1))
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def fig2a(ds: xr.Dataset) -> Figure:
    """Accuracy over the word length of one matrix at a time, and of all parameters."""
    return _over_bits(ds, line="part", title="PTQ of one matrix, and of all parameters")


def fig2b(ds: xr.Dataset) -> Figure:
    """Accuracy over the word length of the state and of the other activations, by kind of range."""
    return _over_bits(ds, line="calibration", panel="part")


def fig2c(ds: xr.Dataset) -> Figure:
    """Accuracy over the word length by what shares a scale."""
    return _over_bits(ds, line="granularity", panel="part")


def fig2d(ds: xr.Dataset) -> Figure:
    """Accuracy over the word length with and without a zero point."""
    return _over_bits(ds, line="symmetry", panel="part")


def order(ds: xr.Dataset, what: str) -> Figure:
    """Accuracy over the word length by order of the roundings."""
    return _over_bits(ds, line="order", panel="granularity", title=f"{what},")


def fig3(ds: xr.Dataset) -> Figure:
    """Accuracy over the word length of everything, one line a width."""
    return _over_bits(ds, line="model", title="PTQ, everything rounded")


def fig4a(ds: xr.Dataset) -> Figure:
    """Poles of one head of the first seed as trained and rounded, near the unit circle; a panel a word length.

    The head is the one with the median number of poles outside at the largest word length.
    """
    widths = [int(bits) for bits in ds["bits"].values if bits != _FULL]
    with styled(5.2 * len(widths), 5.6) as figure:
        panels = figure.subplots(1, len(widths), squeeze=False)[0]
        there = _first_seed(ds["pole"].isel(model=0), _FULL)
        head: int | None = None
        shown: np.ndarray | None = None
        for bits, ax in zip(widths, panels, strict=True):
            if there is None or not bool(there.sel(bits=bits).notnull().any()):
                ax.set_title(f"{bits} bits")
                ax.set_xlabel("Re a")
                ax.set_ylabel("Im a")
                absent(ax, "poles")
                continue
            stages = _stages(there, bits)
            head = median_head(stages) if head is None else head  # the same in all panels
            shown = zoom(stages, head) if shown is None else shown
            pole_plane(stages, ax, head, shown).set_aspect("auto")
            seeds = ds["poles_outside"].isel(model=0).sel(bits=bits).values
            legend = ax.get_legend()
            assert legend is not None
            everywhere = f"{np.nanmean(seeds):.1f} % outside in all heads, {_seeds(int(np.isfinite(seeds).sum()))}"
            legend.set_title(f"{legend.get_title().get_text()}\n{everywhere}")
            ax.set_title(f"{bits} bits")
        if there is not None and head is not None and shown is not None:
            which = f"{ds['model'].values[0]}, seed {int(there['seed'])}, head {head}"
            seen = f"{len(shown)} of its {there.sizes['state']} poles, several marks can be at one place"
            figure.suptitle(f"{which} (the median head): {seen}; Re and Im have different scales")
            same = there.isel(head=head, state=shown).transpose("part", ...).values.reshape(2, -1)
            for ax in panels:
                show_all(ax, same)
    return figure


def _stages(poles: xr.DataArray, bits: int) -> xr.Dataset:
    """Poles (bits, head, state, part) of one seed, before and after rounding, as `pole_plane` reads them."""
    dims = ("stage", "head", "state", "part")
    pair = np.stack([poles.sel(bits=b).transpose(*dims[1:]).values for b in (_FULL, bits)])
    distance = 1 - np.hypot(pair[..., 0], pair[..., 1])
    return xr.Dataset(
        {
            "pole": (dims, pair),
            "circle_distance": (dims[:3], distance),
            "poles_outside": (dims[:2], (distance <= 0).sum(-1)),
        },
        coords={"stage": ["before", "after"]},
    )


def _first_seed(values: xr.DataArray, bits: int) -> xr.DataArray | None:
    """The first seed that has something at a word length."""
    for seed in values["seed"].values:
        if bool(values.sel(seed=seed, bits=bits).notnull().any()):
            return values.sel(seed=seed)
    return None


def kernel_headline(ds: xr.Dataset) -> xr.DataArray:
    """Error of the whole kernel, median head, all coefficients rounded, at the largest number of steps."""
    errors = ds["kernel_error"]
    if not errors.size:
        return errors
    chosen = errors.sel(rounded="all", quantile=0.5).isel(step=-1)
    steps = int(chosen["step"])
    return chosen.assign_attrs(long_name=f"Relative error of the kernel's first {steps} steps, median head")


def fig4b(ds: xr.Dataset) -> Figure:
    """Kernel error over the number of steps with A alone and with A, B, C rounded; median over heads and seeds."""
    with styled(11.0, 5.4) as figure:
        kinds = (("a", "A alone rounded (in it from L = 2)"), ("all", "A, B and C rounded"))
        for ax, (rounded, title) in zip(figure.subplots(1, 2, sharey=True), kinds, strict=True):
            ax.set_title(f"{ds['model'].values[0]}, {title}")
            ax.set_xlabel("Number of steps L")
            ax.set_ylabel("Relative error of the first L steps")
            if not ds["kernel_error"].size or not bool(ds["kernel_error"].notnull().any()):
                absent(ax, "kernel error")
                continue
            errors = ds["kernel_error"].isel(model=0).sel(rounded=rounded)
            counts = []
            for index, bits in enumerate(ds["bits"].values):
                seeds = errors.sel(bits=bits).dropna("seed", how="all")
                if not seeds.size:
                    continue
                counts.append(seeds.sizes["seed"])
                there = seeds.transpose("seed", "quantile", "step").values
                # medians over seeds: an infinite error of one seed is not one of all
                low, middle, high = np.quantile(there, 0.5, axis=0, method="nearest")
                # A has no part in the first step: no error there, and no place for it on this axis
                middle = np.where(np.isfinite(middle) & (middle > 0), middle, np.nan)
                low, high = (np.where(middle > 0, edge, np.nan) for edge in (low, high))
                colour, steps = _COLOURS[index], ds["step"].values
                low, high = np.maximum(low, 1e-9), np.minimum(high, 1e9)
                ax.fill_between(steps, low, high, color=colour, alpha=0.13, lw=0)
                ax.plot(steps, middle, f"-{_MARKERS[index]}", color=colour, lw=2, ms=5, label=f"{bits} bits")
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_ylim(1e-6, 1e3)
            ax.set_xlim(0.8, 1.25 * float(ds["step"][-1]))
            ax.axhline(1.0, color=GREY, ls=":", lw=1.2)
            count = _seeds(min(counts)) if len(set(counts)) == 1 else f"{min(counts)} to {_seeds(max(counts))}"
            legend_below(ax, columns=4, title=f"median of heads and {count}, band: 10 to 90 % of the heads")
    return figure


def fig5ab(ds: xr.Dataset, line: str = "parameterisation", title: str = "QAT at 8 bits", word: str = "") -> Figure:
    """Validation accuracy over the epochs of QAT, and, at the right, test accuracy after the last one.

    One line a value of the dimension `line`, `word` before it in the legend.
    """
    with styled(8.4, 5.6) as figure:
        ax = figure.subplots()
        ax.set_xlabel("Epoch of QAT (0: PTQ)")
        ax.set_ylabel("Accuracy, validation and test (%)")
        ax.set_title(f"{title}, {ds['model'].item() if ds.sizes['model'] == 1 else 'all widths'}")
        curves = ds["accuracy_validation"].isel(model=0)
        if not bool(curves.notnull().any()):
            absent(ax, "finished QAT")
            return figure
        last = int(curves["epoch"][-1])
        for index, name in enumerate(ds[line].values):
            there = curves.sel({line: name}).dropna("seed", how="all").transpose("seed", "epoch").values
            if not len(there):
                ax.plot([], [], color=_COLOURS[index], label=f"{word}{name}: not computed yet")
                continue
            final = ds["accuracy"].isel(model=0).sel({line: name}).values
            final = final[np.isfinite(final)]
            colour, marker = _COLOURS[index], _MARKERS[index]
            label = f"{word}{name}: test {_spread(final)} %, {_seeds(len(final))}"
            _band(ax, curves["epoch"].values, there, index, label)
            ax.errorbar(
                last + 0.8 + 0.35 * index,
                final.mean(),
                deviation(final) if len(final) > 1 else None,
                fmt=marker,
                color=colour,
                mec="black",
                ms=9,
                capsize=4,
            )
        ax.axvline(last + 0.5, color=GREY, ls=":", lw=1)
        ax.set_xlim(-0.3, last + 1.9)
        ax.set_xticks([*range(last + 1), last + 1.15], [*map(str, range(last + 1)), "test"])
        legend_below(ax, columns=1, title="lines: mean over seeds, band: their range")
    return figure


def fig5c(ds: xr.Dataset) -> Figure:
    """Test accuracy over word lengths of A and x as a map; cells that are not computed are grey."""
    values = ds["accuracy"].isel(model=0, parameterisation=0)
    counts = values.notnull().sum("seed").transpose("bits_poles", "bits_state").values
    table = values.mean("seed").transpose("bits_poles", "bits_state").values
    with styled(7.2, 6.0) as figure:
        ax = figure.subplots()
        ax.set_title(f"QAT, {ds['model'].values[0]}, A {ds['parameterisation'].values[0]}")
        ax.set_xlabel("Word length of the state x (bit)")
        ax.set_ylabel("Word length of A (bit)")
        a, x = ds["bits_poles"].values, ds["bits_state"].values
        ax.set_xticks(range(len(x)), [str(v) for v in x])
        ax.set_yticks(range(len(a)), [str(v) for v in a])
        ax.set_facecolor("#EEEEEE")
        floor = min(float(np.nanmin(table)), 90.0) if counts.any() else 0.0
        image = ax.imshow(table, origin="lower", cmap="viridis", vmin=floor, vmax=100)
        for (i, j), value in np.ndenumerate(table):
            if np.isnan(value):
                ax.annotate("not\ncomputed", (j, i), ha="center", va="center", color=GREY, fontsize=10)
                continue
            dark = (value - floor) < 0.6 * (100 - floor)
            text = f"{value:.1f}\n" + ("1 seed" if counts[i, j] == 1 else f"{counts[i, j]} seeds")
            ax.annotate(text, (j, i), ha="center", va="center", color="white" if dark else "black", fontsize=12)
        if counts.any():
            figure.colorbar(image, ax=ax, label="Test accuracy, mean over seeds (%)", shrink=0.85)
        for side in ax.spines.values():
            side.set_visible(False)
    return figure


def validation_headline(ds: xr.Dataset) -> xr.DataArray:
    """Validation accuracy after the last epoch that a cell has."""
    curves = ds["accuracy_validation"]
    last = curves.isel(epoch=0, drop=True)
    for epoch in range(1, curves.sizes["epoch"]):
        now = curves.isel(epoch=epoch, drop=True)
        last = now.where(now.notnull(), last)
    return last.assign_attrs(units="percent", long_name="Validation accuracy after the last epoch")


def rates(ds: xr.Dataset, paper: Mapping[str, tuple[float, float]]) -> Figure:
    """Validation accuracy over the learning rate, one panel a training, one line a batch size.

    `paper`: training -> mean and deviation of the published test accuracy, percent.
    """
    with styled(11.0, 5.4) as figure:
        for ax, stage in zip(figure.subplots(1, ds.sizes["stage"]), ds["stage"].values, strict=True):
            here = ds.isel(model=0).sel(stage=stage)
            title = str(ds["model"].values[0])
            ax.set_title(f"{title}, {stage}")
            ax.set_xlabel("Peak learning rate")
            ax.set_ylabel("Validation accuracy, last epoch (%)")
            if not ds.sizes.get("epoch") or not bool(here["accuracy"].notnull().any()):
                absent(ax, "accuracy")
                continue
            reached = validation_headline(here)
            ax.set_xscale("log")
            ax.set_xlim(0.5 * float(here["rate"].min()), 2 * float(here["rate"].max()))
            for index, batch in enumerate(here["batch"].values):
                there = reached.sel(batch=batch).transpose("seed", "rate").values
                if np.isfinite(there).any():
                    _band(ax, here["rate"].values, there, index, f"batch {batch}")
            if str(stage) in paper:
                mean, spread = paper[str(stage)]
                ax.axhspan(mean - spread, mean + spread, color=_PAPER, alpha=0.15, lw=0)
                ax.axhline(mean, color=_PAPER, lw=1.2, label="paper, test: mean, deviation")
            legend_below(ax, columns=3)
    return figure


def _over_bits(ds: xr.Dataset, *, line: str, panel: str | None = None, title: str | None = None) -> Figure:
    """Accuracy over the word length: one line a value of `line`, one panel a value of `panel`."""
    models = [None] if line == "model" else list(ds["model"].values)
    unfinished = json.loads(ds.attrs.get("missing", "[]"))
    panels: list[tuple[Any, Any]] = [(m, p) for m in models for p in (ds[panel].values if panel else [None])]
    with styled(max(7.4, 5.4 * len(panels)), 5.4) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        entries: dict[str, Any] = {}
        for (model, part), ax in zip(panels, axes, strict=True):
            here = ds["accuracy"] if model is None else ds["accuracy"].sel(model=model)
            here = here if panel is None else here.sel({panel: part})
            model_words = [] if model is None else [f"{model}:"]
            words = [*model_words, *([title] if title else []), *([_name(part)] if panel else [])]
            ax.set_title(" ".join(words))
            at = {name: value for name, value in (("model", model), (panel, part)) if value is not None}
            _lines(ax, here, line, {cell.get(line) for cell in unfinished if at.items() <= cell.items()})
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                entries.setdefault(label, handle)
            ax.set_ylabel(accuracy_label(ds) if ax is axes[0] else "")
            ax.set_ylim(0, 104)
        if entries:
            note, columns = "mean over seeds, band: their range", min(len(entries), 4)
            where = {"loc": "outside lower center", "ncols": columns, "frameon": False, "title": note}
            figure.legend(list(entries.values()), list(entries), **where)
    return figure


def _lines(ax: Axes, values: xr.DataArray, line: str, gaps: set[Any]) -> None:
    """Accuracy (line, bits, seed) over equally spaced word lengths, the widest at the left.

    `gaps`: lines with cells that are still to be computed; one that has none, and no values, does not exist.
    """
    bits = values["bits"].values
    at = np.arange(len(bits))
    ax.set_xticks(at, ["full" if b == _FULL else str(b) for b in bits])
    ax.set_xlabel("Word length (bit)")
    if not bool(values.notnull().any()):
        absent(ax, "accuracy")
        ax.set_xticks([])
        return
    missing: list[str] = []
    for index, name in enumerate(values[line].values):
        there = values.sel({line: name}).transpose("seed", "bits").values
        if not np.isfinite(there[:, bits != _FULL]).any():  # full precision is every line's
            missing += [f"{_name(name)}: not computed"] if name in gaps else []
            if not np.isfinite(there).any():
                continue
        _band(ax, at, there, index, _name(name))
    if missing:
        # few bits are never the most accurate: nothing else is in that corner
        words = "\n".join(missing)
        ax.text(0.99, 0.9, words, transform=ax.transAxes, ha="right", va="top", color=GREY, fontsize=11)
    ax.axhline(_CHANCE, color=GREY, ls=":", lw=1.2)
    ax.annotate("guessing", (0, _CHANCE), xytext=(0, 3), textcoords="offset points", color=GREY, fontsize=10)


def _band(ax: Axes, at: np.ndarray, table: np.ndarray, index: int, label: str) -> None:
    """Mean over seeds (axis 0) as a line with the range as a band; NaN leaves gaps.

    Lines are drawn over each other: the first is the widest and whole, so that it shows between later dashes.
    """
    mean, low, high = (_over_seeds(f, table) for f in (np.mean, np.min, np.max))
    style: dict[str, Any] = {"color": _COLOURS[index], "marker": _MARKERS[index], "label": label}
    style |= {"lw": 2.0, "ls": (0, (4, 2)), "ms": 6, "zorder": 4} if index else {"lw": 3.5, "ms": 9, "zorder": 3}
    ax.fill_between(at, low, high, color=_COLOURS[index], alpha=0.18, lw=0, zorder=2)
    ax.plot(at, mean, **style)


def _over_seeds(function: Callable[..., Any], table: np.ndarray) -> np.ndarray:
    """A function of the seeds that are there, column by column; NaN where there are none."""
    columns = (column[np.isfinite(column)] for column in table.T)
    return np.array([function(column) if column.size else np.nan for column in columns])


def _beside_paper(
    ax: Axes, accuracy: xr.DataArray, ds: xr.Dataset, names: list[str], *, numbers: bool = False
) -> None:
    """Ours (mean, deviation, every seed) beside the paper's (mean, deviation), one place a name.

    `numbers`: our mean and the number of seeds in words at the bottom.
    """
    dim = next(str(d) for d in accuracy.dims if d != "seed")
    table = accuracy.transpose(dim, "seed").values
    at = np.arange(len(names))
    if "accuracy_paper" in ds:
        ax.errorbar(
            at + 0.12,
            ds["accuracy_paper"].values,
            ds["deviation_paper"].values,
            fmt="D",
            color=_PAPER,
            mfc="white",
            ms=8,
            capsize=4,
            label="paper: mean, deviation",
        )
    there = [row[np.isfinite(row)] for row in table]
    mean = np.array([row.mean() if row.size else np.nan for row in there])
    spread = np.array([deviation(row) if row.size > 1 else 0.0 for row in there])
    style: dict[str, Any] = {"fmt": "o", "color": _COLOURS[0], "ms": 8, "capsize": 4}
    ax.errorbar(at - 0.12, mean, spread, **style, label="ours: mean, deviation")
    label: str | None = "ours: seeds"
    for place, row in zip(at, there, strict=True):
        if row.size:
            ax.plot(
                np.full(row.size, place - 0.28), row, ".", color=_COLOURS[0], alpha=0.5, ms=6, mew=0, label=label
            )
            label = None  # once in the legend
            if numbers:
                words = f"{row.mean():.1f} %\n{_seeds(row.size)}"
                ax.annotate(
                    words, (place, 0.015), xycoords=("data", "axes fraction"), ha="center", color=_COLOURS[0],
                    fontsize=10,
                )  # fmt: skip
        else:
            ax.annotate(
                "not computed", (place - 0.12, 0.03), xycoords=("data", "axes fraction"), rotation=90,
                ha="center", va="bottom", color=GREY, fontsize=10,
            )  # fmt: skip
    ax.set_xlim(-0.6, len(names) - 0.4)


def _name(value: Any) -> str:
    return _NAMES.get(str(value), str(value))


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.2f}" + (f" ± {deviation(values):.2f}" if len(values) > 1 else "")


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"
