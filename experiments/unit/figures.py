"""Figures of the study `experiments/unit`. Lines are means over the seeds that are there, bands their range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.plots import styled
from imc_ssm.plots.reading import GREY, accuracy_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#CCBB44", "#66CCEE")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_CHANCE = 10.0
_WORDS = "Bits of weights and activations (W4A6), poles (A) and state (x)"
_NAMES = {
    "half_even": "to nearest",
    "stochastic": "stochastic",
    "feedback": "error feedback, 8 bits",
    "dithered": "dithered",
    "head": "one range per head",
    "state": "one range per register",
    "slow heads": "and slow heads",
    "recommended": "recommended (and powers of two)",
    "free": "free scales",
    "power_of_two": "powers of two",
    "cartesian": "real and imaginary part",
    "polar": "|a| and phase",
    "log-polar": "log-polar",
    "log-polar, decay of 3 bits": "log-polar, 3 bits of decay",
}


def _name(value: Any) -> str:
    return _NAMES.get(str(value), str(value))


def _lines(ax: Axes, values: xr.DataArray, over: str, line: str) -> None:
    """One line for each value of `line`, over the positions of `over`."""
    at = np.arange(values.sizes[over])
    for k, one in enumerate(values[line].values):
        here = values.sel({line: one}).transpose(over, "seed").values
        there = ~np.isnan(here).all(axis=1)
        if not there.any():
            continue
        colour, shown = _COLOURS[k % len(_COLOURS)], here[there]
        mean = np.nanmean(shown, axis=1)
        ax.plot(at[there], mean, marker=_MARKERS[k % len(_MARKERS)], color=colour, label=_name(one))
        ax.fill_between(at[there], np.nanmin(shown, 1), np.nanmax(shown, 1), color=colour, alpha=0.15, lw=0)
    zero = "every\nstep" if over == "rate_limit" else "0"
    ax.set_xticks(at, [f"{v:g}" if v else zero for v in values[over].values])
    ax.set_xlabel(_axis(values[over]))


def _axis(coordinate: xr.DataArray) -> str:
    units = coordinate.attrs.get("units", "1")
    return f"{coordinate.attrs.get('long_name', coordinate.name)}{'' if units == '1' else f' ({units})'}"


def _panels(ds: xr.Dataset, panel: str, over: str, line: str, title: str) -> Figure:
    """Accuracy: a panel for each value of `panel`, side by side."""
    values, kinds = ds["accuracy"], ds[panel].values
    with styled(5.6 * len(kinds), 5.2) as figure:
        for ax, kind in zip(figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0], kinds, strict=True):
            _lines(ax, values.sel({panel: kind}), over, line)
            ax.axhline(_CHANCE, color=GREY, ls=":", lw=1)
            ax.set_ylim(0, 102)
            ax.set_title(_name(kind) if isinstance(kind, str) else f"State of {kind:g} bits")
        figure.axes[0].set_ylabel(accuracy_label(ds))
        figure.suptitle(title)
        fullest = max((ax.get_legend_handles_labels() for ax in figure.axes), key=lambda found: len(found[1]))
        figure.legend(*fullest, loc="outside lower center", ncols=4, frameon=False)
    return figure


def rounding(ds: xr.Dataset) -> Figure:
    """Accuracy over the word length of the state, by rounding and by what shares a range."""
    return _panels(ds, "granularity", "bits_state", "rounding", "Everything else at 8 bits, no training")


def rates(ds: xr.Dataset) -> Figure:
    """Accuracy over the rate rule, by rounding; a panel for each word length."""
    return _panels(ds, "bits_state", "rate_limit", "rounding", "Slow heads, no training")


def poles(ds: xr.Dataset) -> Figure:
    """Accuracy over the word length of the poles by their form; on the right the forms that lie together."""
    with styled(11.2, 5.2) as figure:
        whole, near = figure.subplots(1, 2)
        for ax in (whole, near):
            _lines(ax, ds["accuracy"], "bits_poles", "form")
        whole.axhline(_CHANCE, color=GREY, ls=":", lw=1)
        whole.set_ylim(0, 102)
        whole.set_ylabel(accuracy_label(ds))
        decays = ds["accuracy"].sel(form=[form for form in ds["form"].values if form != "cartesian"])
        near.set_ylim(float(decays.min()) - 0.5, float(decays.max()) + 0.5)
        whole.set_title("All forms")
        near.set_title("The upper end")
        figure.suptitle("State dithered, 8 bits; no training")
        figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def scales(ds: xr.Dataset) -> Figure:
    """Accuracy with free scales and powers of two."""
    return _bars(ds, ds["accuracy"], accuracy_label(ds), "scales", "Dithered, no training")


def unit_energy(ds: xr.Dataset) -> xr.DataArray:
    """Energy of the recurrence, its memories included, per time step."""
    return (ds["energy_recurrence"] * 1e12).assign_attrs(units="pJ", long_name="Energy of the recurrence per step")


def energy_rates(ds: xr.Dataset) -> Figure:
    """Energy of the recurrence by rate rule."""
    return _energy(ds, "rate_limit")


def energy_scales(ds: xr.Dataset) -> Figure:
    """Energy of the recurrence by scales."""
    return _bars(ds, unit_energy(ds), "Recurrence, per time step (pJ)", "scales", "Dithered")


def _energy(ds: xr.Dataset, over: str) -> Figure:
    values = unit_energy(ds)
    with styled(5.6 * values.sizes["bits_state"], 5.0) as figure:
        panels = figure.subplots(1, values.sizes["bits_state"], squeeze=False, sharey=True)[0]
        for ax, bits in zip(panels, values["bits_state"].values, strict=True):
            _lines(ax, values.sel(bits_state=bits), over, "rounding")
            ax.set_ylim(0, 1.08 * float(values.max()))
            ax.set_title(f"State of {bits} bits")
        panels[0].set_ylabel("Recurrence, per time step (pJ)")
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _bars(ds: xr.Dataset, values: xr.DataArray, label: str, line: str, title: str) -> Figure:
    """Bars over every other dimension, one for each value of `line`; dots are seeds."""
    values = values.squeeze(
        [d for d in values.dims if d not in ("seed", line) and values.sizes[d] == 1], drop=True
    )
    rest = [str(d) for d in values.dims if d not in ("seed", line)]
    stacked = values.stack(case=rest).transpose("case", line, "seed")
    names = ["\n".join(_case(name, v) for name, v in zip(rest, case, strict=True)) for case in stacked.case.values]
    count = stacked.sizes[line]
    with styled(max(6.4 if count == 1 else 9.0, 1.5 * len(names)), 5.4) as figure:
        ax = figure.subplots()
        for k, one in enumerate(stacked[line].values):
            here = stacked.sel({line: one}).values
            at = np.arange(len(names)) + (k - (count - 1) / 2) * 0.8 / count
            means = np.nanmean(np.where(np.isnan(here).all(1, keepdims=True), 0.0, here), axis=1)
            ax.bar(at, means, width=0.72 / count, color=_COLOURS[k % len(_COLOURS)], label=_name(one))
            ax.plot(np.repeat(at, here.shape[1]), here.ravel(), ".", color="#222222", ms=4)
            if count == 1:  # few, wide and alike: the number says more than the height
                for x, mean in zip(at, means, strict=True):
                    ax.text(x, mean / 2, f"{mean:.1f} %", ha="center", color="white", fontsize=16)
        ax.set_xticks(np.arange(len(names)), names)
        ax.set_xlabel("; ".join(_WORDS if name == "words" else _axis(values[name]) for name in rest))
        ax.set_ylabel(label)
        ax.set_ylim(0, 1.04 * float(values.max()) if values.notnull().any() else 1)
        ax.set_title(title)
        if count > 1:
            figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _case(name: str, value: Any) -> str:
    if name == "bits_state":
        return f"{value} bits"
    if name == "rate_limit":
        return "every step" if value == 0 else f"{value:g} rad"
    return {"head": "per head", "state": "per register"}.get(str(value), str(value))


def rows(ds: xr.Dataset) -> Figure:
    """Published rows by form of the unit."""
    return _bars(ds, ds["accuracy"], accuracy_label(ds), "unit", "No training")


def qat(ds: xr.Dataset) -> Figure:
    """Published rows after QAT."""
    return _bars(ds, ds["accuracy"], accuracy_label(ds), "unit", "Dithered, after QAT")


def grid(ds: xr.Dataset) -> Figure:
    """Accuracy over the word length by rounding: a panel for every other choice."""
    values = ds["accuracy"]
    rest = ("granularity", "scales", "form")
    cases = values.stack(case=rest)["case"].values
    with styled(16.0, 7.6) as figure:
        panels = figure.subplots(2, 4, sharex=True, sharey=True)
        for ax, case in zip(panels.ravel(), cases, strict=True):
            at = dict(zip(rest, case, strict=True))
            _lines(ax, values.sel(at), "bits_state", "rounding")
            ax.axhline(_CHANCE, color=GREY, ls=":", lw=1)
            ax.set_ylim(0, 102)
            ax.set_title(
                ", ".join(_case(n, v).replace("power_of_two", "powers of two") for n, v in at.items()), fontsize=12
            )
            ax.label_outer()
        for ax in panels[:, 0]:
            ax.set_ylabel(accuracy_label(ds))
        figure.suptitle("No training; bands where there is more than one seed")
        figure.legend(
            *panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
        )
    return figure


def spoken(ds: xr.Dataset) -> Figure:
    """Accuracy of long sequences by form of the unit: a bar for each word length, full precision dashed."""
    ds = ds.isel(model=0)
    values, at = ds["accuracy"], np.arange(ds.sizes["unit"])
    with styled(9.0, 5.4) as figure:
        ax = figure.subplots()
        for k, bits in enumerate(values["bits_state"].values):
            here = values.sel(bits_state=bits).values
            place = at + (k - (values.sizes["bits_state"] - 1) / 2) * 0.4
            ax.barh(place, here, height=0.36, color=_COLOURS[k], label=f"state of {bits} bits")
            for y, value in zip(place, here, strict=True):
                ax.text(value - 0.8, y, f"{value:.1f}", va="center", ha="right", color="white", fontsize=13)
        exact = float(ds["accuracy_exact"])
        ax.axvline(exact, color=GREY, ls="--", lw=1.5, label=f"full precision, {exact:.1f} %")
        ax.axvline(_CHANCE, color=GREY, ls=":", lw=1, label="chance")
        ax.set_yticks(at, values["unit"].values)
        ax.invert_yaxis()
        ax.set_xlim(0, 102)
        ax.set_xlabel(accuracy_label(ds))
        ax.set_title("Spoken digits, 4,096 steps, no training")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure
