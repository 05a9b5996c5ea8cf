"""Yield and its interval against the formula, counted by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import xarray as xr

from imc_ssm.analysis import chip_yield
from imc_ssm.errors import ConfigError, DataError


def wilson(k: int, n: int, z: float = 1.959963985) -> tuple[float, float]:
    """Wilson, JASA 22:209 (1927)."""
    p = k / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return tuple((p + z * z / (2 * n) + sign * half) / (1 + z * z / n) for sign in (-1, 1))  # type: ignore[return-value]


def result(chips: int = 50) -> xr.Dataset:
    values = np.random.default_rng(0).normal(95, 1, (chips, 3))
    attrs = {"units": "percent", "n_test": 360}
    return xr.Dataset(
        {"accuracy": (("chip", "time"), values, attrs), "accuracy_digital": 96.0},
        coords={"chip": np.arange(chips), "time": [1.0, 3600.0, 86400.0]},
    )


def test_it_counts_chips() -> None:
    ds = result()
    found = chip_yield(ds, 95.0)
    assert found["yield"].dims == ("time",)
    assert found["yield"].attrs["units"] == "percent"
    assert "above 95 % accuracy" in found["yield"].attrs["long_name"]
    for i in range(3):
        k = int((ds["accuracy"].values[:, i] > 95).sum())
        assert 0 < k < 50
        low, high = wilson(k, 50)
        assert float(found["yield"][i]) == pytest.approx(2 * k)
        assert float(found["yield_low"][i]) == pytest.approx(100 * low)
        assert float(found["yield_high"][i]) == pytest.approx(100 * high)


@pytest.mark.parametrize(("above", "expected"), [(0.0, 100.0), (100.0, 0.0)])
def test_all_or_none_is_not_certain(above: float, expected: float) -> None:
    found = chip_yield(result(20), above)
    assert (found["yield"] == expected).all()
    low, high = wilson(int(expected / 5), 20)
    np.testing.assert_allclose(found["yield_low"], 100 * low, atol=1e-9)
    np.testing.assert_allclose(found["yield_high"], 100 * high)


def test_several_thresholds_missing_chips_and_models() -> None:
    ds = result().expand_dims(model=["a"])
    ds["accuracy"][0, :10, 2] = np.nan
    found = chip_yield(ds, [94.0, 95.0, 96.0])
    assert dict(found["yield"].sizes) == {"model": 1, "time": 3, "above": 3}
    assert (found["yield"].diff("above") <= 0).all()
    alone = chip_yield(ds, 95.0, confidence=0.95)
    np.testing.assert_array_equal(found["yield"].sel(above=95.0), alone["yield"])
    k = int((ds["accuracy"].values[0, 10:, 2] > 95).sum())
    assert float(alone["yield"][0, 2]) == pytest.approx(100 * k / 40)
    assert float(alone["yield_low"][0, 2]) == pytest.approx(100 * wilson(k, 40)[0])


def test_chips_that_a_subset_does_not_decide_on() -> None:
    ds = result()
    assert "yield_undecided" not in chip_yield(ds, 95.0)
    ds["accuracy_error"] = ds["accuracy"] * 0 + [0.0, 0.2, 5.0]
    found = chip_yield(ds, [94.0, 95.0])
    assert found["yield_undecided"].dims == found["yield"].dims == ("time", "above")
    near = (np.abs(ds["accuracy"].values[:, 1] - 95) < 0.4).mean()
    assert 0 < near < 0.5
    assert found["yield_undecided"].sel(above=95.0).values == pytest.approx([0, 100 * near, 100])
    assert "within 2 standard errors" in chip_yield(ds, 95.0)["yield_undecided"].attrs["long_name"]


def test_the_interval_covers_the_truth() -> None:
    """95 % intervals of 50 chips whose true yield is 0.9 hold it in 95 % of 400 trials, give or take 3.5 sigma."""
    rng = np.random.default_rng(3)
    good = np.where(rng.random((50, 400)) < 0.9, 97.0, 90.0)
    found = chip_yield(xr.Dataset({"accuracy": (("chip", "trial"), good)}), 95)
    covered = int(((found["yield_low"] <= 90) & (found["yield_high"] >= 90)).sum())
    assert abs(covered - 0.95 * 400) < 3.5 * math.sqrt(400 * 0.95 * 0.05)


@pytest.mark.parametrize("above", ["95", None, np.nan, [[1.0]]])
def test_a_wrong_threshold_is_refused(above: Any) -> None:
    if above == "95":
        assert chip_yield(result(), above)["yield"].size == 3  # a word that is a number
        return
    with pytest.raises(ConfigError, match="above = "):
        chip_yield(result(), above)


def test_a_dataset_without_chips_is_refused() -> None:
    with pytest.raises(DataError, match=r"no 'f1' on chips \(on chips: accuracy\)"):
        chip_yield(result(), 95, metric="f1")
    with pytest.raises(ConfigError, match="confidence = 95"):
        chip_yield(result(), 95, confidence=95)
