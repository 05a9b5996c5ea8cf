"""Yield: the share of chips that are good enough, and what so many chips say about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from imc_ssm.errors import ConfigError, DataError

__all__ = ["chip_yield"]


def chip_yield(
    result: xr.Dataset, above: Any, *, metric: str = "accuracy", confidence: float = 0.95
) -> xr.Dataset:
    """P(metric > above) of chips over time, with the Wilson interval of so many chips.

        >>> import imc_ssm, xarray as xr
        >>> from imc_ssm.analysis import chip_yield
        >>> result = xr.Dataset({"accuracy": (("chip", "time"), [[96.0], [94.0], [97.0], [98.0]])})
        >>> found = chip_yield(result, 95)
        >>> [round(float(found[name]), 1) for name in ("yield", "yield_low", "yield_high")]
        [75.0, 30.1, 95.4]

    `result`: what `evaluate` or `deploy` returns. `above`: in the unit of the metric (percent for an accuracy); an
    array of thresholds becomes a dimension `above`. The variables `yield`, `yield_low` and `yield_high`, in
    percent, keep the dimensions of the metric but `chip`; chips that are NaN do not count. The interval is that of
    so many chips; where sequences were drawn (`accuracy_error`), `yield_undecided` is the share of the chips that
    lie within two standard errors of the threshold, on either side: the whole split may decide otherwise on them.

    Wilson: (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4 n^2)) / (1 + z^2 / n), by `scipy.stats`.

    Raises `DataError` where the dataset has no such metric on chips, `ConfigError` for a threshold or a confidence
    that is no number, or a confidence outside (0, 1).
    """
    if metric not in result or "chip" not in result[metric].dims:
        held = ", ".join(str(name) for name, v in result.data_vars.items() if "chip" in v.dims) or "none"
        raise DataError(f"the dataset has no {metric!r} on chips (on chips: {held}); give what evaluate returns")
    try:
        thresholds = np.asarray(above, dtype=np.float64)
    except (TypeError, ValueError):
        thresholds = np.array(np.nan)
    if thresholds.ndim > 1 or not np.isfinite(thresholds).all():
        raise ConfigError(f"above = {above!r}; give a number in the unit of {metric!r}, or several")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence = {confidence!r}; allowed is more than 0 and less than 1")
    units = result[metric].attrs.get("units", "1")
    about = {"units": units, "long_name": f"Threshold of {metric}"}
    limit = xr.DataArray(thresholds, dims=("above",)[: thresholds.ndim], attrs=about)
    values = result[metric]
    good = (values > limit).sum("chip")
    chips = values.notnull().sum("chip") + xr.zeros_like(good)
    # the bounds of each count of good chips, looked up
    low, high = np.full(good.shape, np.nan), np.full(good.shape, np.nan)
    for place in np.ndindex(*good.shape):
        n = int(chips.values[place])
        if n:
            found = stats.binomtest(int(good.values[place]), n).proportion_ci(confidence, method="wilson")
            low[place], high[place] = found.low, found.high
    share = (good / chips.where(chips > 0)).astype(np.float64)
    said = f"% {metric}" if units == "percent" else f"{metric}"
    names = {"yield": "Share of chips", "yield_low": "Lower bound", "yield_high": "Upper bound"}
    over = f" above {float(thresholds):g} {said}" if thresholds.ndim == 0 else ""
    attrs = {"units": "percent", "confidence": confidence, "metric": metric}
    out = xr.Dataset(
        {
            name: (good.dims, 100 * data, {**attrs, "long_name": f"{names[name]}{over}"})
            for name, data in (("yield", share.values), ("yield_low", low), ("yield_high", high))
        },
        coords={name: c for name, c in good.coords.items() if name != "above"},
    )
    if f"{metric}_error" in result:
        open_ = (abs(values - limit) < 2 * result[f"{metric}_error"]).sum("chip") / chips.where(chips > 0)
        said = f"Share of chips within 2 standard errors of {metric}{over.replace(' above', ' from')}"
        out["yield_undecided"] = (100 * open_).transpose(*good.dims).astype(np.float64)
        out["yield_undecided"].attrs = {"units": "percent", "metric": metric, "long_name": said}
    return out.assign_coords(above=limit)
