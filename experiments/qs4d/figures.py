"""The figures of the studies after QS4D."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from imc_ssm.units import duration

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"ptq": "tab:grey", "qat": "tab:blue", "noise": "tab:orange", "chip": "tab:green"}
WORDS = {
    "ptq": "calibrated alone",
    "qat": "QAT",
    "noise": "Gaussian noise in training",
    "chip": "trained for the chip",
}
TITLES = {"poles": "noise on poles", "matrices": "noise on matrices"}


def noise(ds: xr.Dataset) -> Figure:
    """Accuracy over the noise at test: a row for each part, a column for each word length."""
    bits = ds["bits"].values
    figure, axes = plt.subplots(2, len(bits), figsize=(2.6 * len(bits), 5.6), sharey=True, squeeze=False)
    for row, part in zip(axes, ds["part"].values, strict=True):
        for axis, word in zip(row, bits, strict=True):
            for training in ds["training"].values:
                found = ds["accuracy_disturbed"].sel(part=part, bits=word, training=training).mean("draw")
                kept = found.dropna("noise", how="all").dropna("seed", how="all")
                if not kept.size:
                    continue
                x = 100 * kept["noise"].values
                name = "no noise in training" if word == 32 and training == "ptq" else WORDS[str(training)]
                colour = "black" if word == 32 and training == "ptq" else COLOURS[str(training)]
                axis.plot(x, kept.mean("seed"), "o-", ms=3, lw=1.3, color=colour, label=name)
                if kept.sizes["seed"] > 1:
                    spread = kept.std("seed", ddof=1)
                    axis.fill_between(
                        x, kept.mean("seed") - spread, kept.mean("seed") + spread, color=colour, alpha=0.15
                    )
            axis.set_title(
                f"{TITLES[str(part)]}, " + ("full precision" if word == 32 else f"{word} bits"), fontsize=9
            )
            axis.grid(alpha=0.3)
            axis.set_ylim(0, 101)
        row[0].set_ylabel("Test accuracy (%)")
    for axis in axes[-1]:
        axis.set_xlabel("Noise at test (% of range)")
    return _with_legend(figure, axes)


def _with_legend(figure: Figure, axes: Any) -> Figure:
    """One legend below, of all axes."""
    found = {
        label: handle
        for axis in axes.flat
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(found.values(), found.keys(), loc="lower center", ncols=len(found), frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    return figure


def devices(ds: xr.Dataset) -> Figure:
    """Accuracy over time after programming: a row for each design, a column for each compensation."""
    designs, ways = ds["design"].values, ds["compensation"].values
    figure, axes = plt.subplots(
        len(designs),
        len(ways),
        figsize=(3.3 * len(ways), 2.8 * len(designs) + 0.4),
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    for row, design in zip(axes, designs, strict=True):
        for axis, way in zip(row, ways, strict=True):
            for training in ds["training"].values:
                at = ds.sel(design=design, compensation=way, training=training)
                each = at["accuracy"].stack(each=("seed", "chip")).dropna("each", how="all")
                if not each.size:
                    continue
                colour, mean, spread = COLOURS[str(training)], each.mean("each"), each.std("each", ddof=1)
                axis.errorbar(
                    ds["time"],
                    mean,
                    spread,
                    fmt="o-",
                    ms=3,
                    lw=1.3,
                    capsize=2,
                    color=colour,
                    label=WORDS[str(training)],
                )
                axis.axhline(float(at["accuracy_digital"].mean()), color=colour, ls="--", lw=0.9)
            axis.set_xscale("log")
            axis.set_title(f"{design}, compensation {way}", fontsize=9)
            axis.grid(alpha=0.3)
        row[0].set_ylabel("Accuracy of chips (%)")
    times = np.asarray(ds["time"].values)
    for axis in axes[-1]:
        axis.set_xticks(times, [duration(float(t)) for t in times])
        axis.minorticks_off()
        axis.set_xlabel("Time after programming")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    handles.append(Line2D([], [], color="black", ls="--", lw=0.9))
    labels.append("with digital matrices")
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    return figure


def _curve(axis: Axes, values: xr.DataArray, along: str, colour: str, label: str) -> None:
    """Mean over the seeds, with their deviation where there are several."""
    spread = values.std("seed", ddof=1) if values.notnull().sum("seed").max() > 1 else None
    style = {"fmt": "o-", "ms": 4, "lw": 1.3, "capsize": 2, "color": colour, "label": label}
    axis.errorbar(values[along], values.mean("seed"), spread, **style)


def parts(ds: xr.Dataset) -> Figure:
    """Accuracy over the word length of one part: calibrated and trained from scratch."""
    names = [str(part) for part in ds["part"].values]
    figure, axes = plt.subplots(2, -(-len(names) // 2), figsize=(10, 5.2), sharex=True, sharey=True, squeeze=False)
    exact = ds["accuracy"].sel(part="all", bits=32, training="ptq")
    for axis, part in zip(axes.flat, names, strict=False):
        axis.axhline(float(exact.mean()), color="black", lw=1, ls="--", label="full precision")
        for training, word in (("ptq", "calibrated alone"), ("scratch", "trained from scratch")):
            found = ds["accuracy"].sel(part=part, training=training).where(ds["bits"] < 32, drop=True)
            kept = found.dropna("bits", how="all")
            if not kept.size:
                continue
            _curve(axis, kept, "bits", "tab:grey" if training == "ptq" else "tab:blue", word)
        axis.set_title(part, fontsize=9)
        axis.set_ylim(0, 101)
        axis.set_xticks([int(b) for b in ds["bits"].values if b < 32])
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("Word length (bits)")
    for row in axes:
        row[0].set_ylabel("Test accuracy (%)")
    return _with_legend(figure, axes)


def sizes(ds: xr.Dataset) -> Figure:
    """Accuracy over heads, and over states of a head, at every word length."""
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.6), sharey=True, squeeze=False)
    usual = {"heads": 16, "n_state": 64}
    colours = {32: "black", 8: "tab:blue", 4: "tab:orange"}
    for axis, (along, other) in zip(axes.flat, (("heads", "n_state"), ("n_state", "heads")), strict=True):
        for bits in ds["bits"].values:
            kept = ds["accuracy"].sel({other: usual[other], "bits": bits}).dropna(along, how="all")
            if not kept.size:
                continue
            label = "full precision" if bits == 32 else f"QAT, {bits} bits"
            _curve(axis, kept, along, colours[int(bits)], label)
        axis.set_xscale("log", base=2)
        axis.set_xticks(ds[along].values, [str(value) for value in ds[along].values])
        axis.set_xlabel("Heads" if along == "heads" else "Real states of a head")
        axis.set_title(f"{usual[other]} {'real states a head' if other == 'n_state' else 'heads'}", fontsize=9)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("Test accuracy (%)")
    return _with_legend(figure, axes)
