"""Which figure a dataset is drawn as, whoever made it."""

from __future__ import annotations

from typing import Literal

import xarray as xr

from imc_ssm.errors import ConfigError
from imc_ssm.plots.reading import METRICS

__all__ = ["Kind", "kind_of"]

Kind = Literal["inspection", "training", "models", "cost", "schedule", "swings", "advice", "grid"]
_OF_MODELS = {"model", "chip", "time", "component", "part", "class", "quantile", "above", "bound"}


def kind_of(ds: xr.Dataset) -> Kind:
    """What a dataset is, by what it holds.

    "inspection" of `inspect_model`; "training", curves over `epoch`; "models", a metric on chips, with or without
    costs; "cost", components without a metric; "schedule", rows with a start and an end; "swings", over constants;
    "advice", over changes of a design; "grid", anything else that was varied, such as a study.

    Raises `ConfigError` for a dataset without a number over any dimension.
    """
    names = {str(name) for name in ds.data_vars}
    dims = {str(dim) for dim in ds.dims}
    if "layer" in dims and "kernel_error" in names:
        return "inspection"
    if "epoch" in dims and "loss_train" in names and dims == {"epoch"}:
        return "training"
    if {"constant", "end"} <= dims:
        return "swings"
    if "change" in dims and {"worth", "energy_change"} <= names:
        return "advice"
    if {"start", "end"} <= names and "row" in dims:
        return "schedule"
    measured = names & {*METRICS, *(f"{name}_digital" for name in METRICS)}
    if dims <= _OF_MODELS and measured:
        return "models"
    if "component" in dims and "energy" in names and dims <= _OF_MODELS and "bound" not in ds["energy"].dims:
        return "cost"
    if any(ds[name].dims and ds[name].dtype.kind in "biuf" for name in names):
        return "grid"
    held = ", ".join(sorted(names)) or "none"
    raise ConfigError(
        f"nothing of this dataset can be drawn (variables: {held}); give one that evaluate, cost, inspect_model "
        "or a study returned"
    )
