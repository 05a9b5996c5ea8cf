"""From a result dataset to plain numbers, labels and colours for the panels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr

from imc_ssm.units import DAY, duration

__all__ = [
    "COMPONENT_COLOURS",
    "GREY",
    "MARKERS",
    "METRICS",
    "MODELS",
    "Point",
    "accuracy_label",
    "chip_accuracy",
    "digital_accuracy",
    "energy_parts",
    "is_full",
    "look",
    "metric",
    "model_names",
    "of_models",
    "points",
    "short",
    "spread",
    "spread_name",
]

# Paul Tol's "bright" scheme for models, Okabe and Ito's for components: both hold for colour-blind readers,
# and they differ, because the colours of the middle panel mean nothing in the others.
MODELS = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#CCBB44", "#66CCEE")
MARKERS = ("o", "s", "^", "D", "v", "P")
COMPONENT_COLOURS = {
    "cells": "#D55E00",
    "lines": "#882255",
    "dac": "#E69F00",
    "adc": "#F0E442",
    "control": "#AAAAAA",
    "digital update": "#0072B2",
    "memories": "#56B4E9",
    "nonlinearity": "#CC79A7",
    "movement": "#009E73",
    "leakage": "#444444",
}
GREY = "#555555"
METRICS = ("accuracy", "r2", "mae")
"""Variables over chips and times, the one that is drawn first; each with `NAME_digital`."""


def of_models(ds: xr.Dataset) -> xr.Dataset:
    """The dataset with a dimension `model`: what `evaluate` or `cost` return of one deployment has none."""
    if "model" in ds.coords:
        return ds
    return ds.expand_dims(model=[str(ds.attrs.get("model", "model"))])


def metric(ds: xr.Dataset) -> str:
    """The variable that says how well chips do: the first of `METRICS` that is there; "accuracy" without any."""
    return next((name for name in METRICS if name in ds or f"{name}_digital" in ds), METRICS[0])


def model_names(ds: xr.Dataset) -> list[str]:
    """Names along `model`, in the order of the dataset."""
    return [str(name) for name in np.atleast_1d(ds["model"].values)] if "model" in ds.coords else []


def is_full(name: str) -> bool:
    """Whether a model is the full-precision reference ("fp32")."""
    return name.startswith("fp")


def look(ds: xr.Dataset, name: str) -> tuple[str, str]:
    """Colour and marker of a model: by its place among the models that are not full precision."""
    if is_full(name):
        return GREY, "X"
    place = [other for other in model_names(ds) if not is_full(other)].index(name)
    # After one round the colours meet other markers.
    return MODELS[place % len(MODELS)], MARKERS[(place + place // len(MODELS)) % len(MARKERS)]


def accuracy_label(ds: xr.Dataset) -> str:
    """Axis label of the metric, with the number of test sequences, if the dataset says it."""
    name = metric(ds)
    about = {} if name not in ds else ds[name].attrs
    n_test = ds.attrs.get("n_test", about.get("n_test"))
    if name == "accuracy":
        return "Test accuracy (%)" if n_test is None else f"Accuracy, {int(n_test):,} test sequences (%)"
    what, units = str(about.get("long_name", name)), str(about.get("units", "1"))
    many = "" if n_test is None else f", {int(n_test):,} test sequences"
    return f"{what}{many}" + ("" if units == "1" else f" ({units})")


def chip_accuracy(ds: xr.Dataset) -> xr.DataArray | None:
    """The metric over (model, chip, time), absent dimensions added; None if there is none."""
    name = metric(ds)
    if name not in ds or "model" not in ds.coords:
        return None
    values = ds[name]
    for dim in ("model", "chip", "time"):
        if dim not in values.dims:
            values = values.expand_dims(dim)
    if "time" not in values.coords:
        return None
    return values.sortby("time")


def digital_accuracy(ds: xr.Dataset, name: str) -> float | None:
    """The metric without analog noise; None where there is none."""
    digital = f"{metric(ds)}_digital"
    if digital not in ds:
        return None
    value = float(_of_model(ds[digital], name))
    return None if math.isnan(value) else value


def energy_parts(ds: xr.Dataset, name: str) -> np.ndarray | None:
    """Energy by component, J; None where the model has none."""
    if "energy" not in ds or "component" not in ds["energy"].dims:
        return None
    values = np.asarray(_of_model(ds["energy"], name).values, dtype=float)
    return None if np.isnan(values).all() else values


def _of_model(values: xr.DataArray, name: str) -> xr.DataArray:
    return values.sel(model=name) if "model" in values.dims else values


def spread(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the band over chips (axis 0): all chips, or 5 to 95 % from 20 chips on."""
    if len(table) < 20:
        return np.nanmin(table, axis=0), np.nanmax(table, axis=0)
    return np.nanpercentile(table, 5, axis=0), np.nanpercentile(table, 95, axis=0)


def spread_name(chips: int) -> str:
    """What the band of `spread` means."""
    return "min to max" if chips < 20 else "5 to 95 %"


@dataclass(frozen=True)
class Point:
    """One model in the plane of energy and accuracy."""

    name: str
    """Name of the model."""
    energy: float
    """Energy per inference, J."""
    digital: float | None
    """Accuracy without analog noise, percent."""
    chips: tuple[float, float, float] | None
    """Mean over chips and ends of their spread, percent."""
    count: int
    """Number of chips."""
    when: str
    """Time since programming, in words."""
    label: str
    """What varies, as in "x8" for the bits of the state; empty where nothing does."""

    @property
    def accuracy(self) -> float:
        """Mean over chips or, without chips, the digital accuracy, percent."""
        if self.chips is not None:
            return self.chips[0]
        return math.nan if self.digital is None else self.digital


def points(ds: xr.Dataset) -> list[Point]:
    """The models with both energy and accuracy; chips one day after programming, or at the last time."""
    chips = chip_accuracy(ds)
    out = []
    labels = _labels(ds)
    for name in model_names(ds):
        energy, digital = energy_parts(ds, name), digital_accuracy(ds, name)
        row, when, count = None, "", 0
        if chips is not None and bool(chips.sel(model=name).notnull().any()):
            table = chips.sel(model=name).dropna("time", how="all")
            times = table["time"].values
            index = int(np.flatnonzero(times == DAY)[0]) if DAY in times else len(times) - 1
            values = table.isel(time=index).values.ravel()
            values = values[~np.isnan(values)]
            low, high = spread(values[:, None])
            row = (float(values.mean()), float(low[0]), float(high[0]))
            when, count = duration(float(times[index])), len(values)
        if energy is None or (row is None and digital is None):
            continue
        out.append(Point(name, float(np.nansum(energy)), digital, row, count, when, labels[name]))
    return out


def _labels(ds: xr.Dataset) -> dict[str, str]:
    """What stands beside the point of a model: what varies (`varied`), else the bits of the state where they do.

    Where all have the same bits, they say nothing: the legend names the models.
    """
    names = model_names(ds)
    if "varied" in ds:
        return {name: str(_of_model(ds["varied"], name).item()) for name in names}
    bits = [float(_of_model(ds["bits_state"], name)) if "bits_state" in ds else math.nan for name in names]
    if len(names) > 1 and len({value for value in bits if not math.isnan(value)}) < 2:
        return dict.fromkeys(names, "")
    return {n: "" if math.isnan(value) else f"x{value:g}" for n, value in zip(names, bits, strict=True)}


def short(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
