"""Panels of a population: quantiles over time, and yield with its interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from imc_ssm.analysis import chip_yield
from imc_ssm.plots import draw, quantiles_over_time, save_figure, yield_over_time

TIMES = [1.0, 3600.0, 86400.0]


def population(chips: int = 30, times: list[float] = TIMES) -> xr.Dataset:
    values = np.random.default_rng(0).normal([[96.0, 95.0, 93.0][: len(times)]], 0.5, (chips, len(times)))
    attrs = {"units": "percent", "long_name": "Accuracy", "n_test": 200}
    return xr.Dataset(
        {"accuracy": (("chip", "time"), values, attrs), "accuracy_digital": ((), 97.0, attrs)},
        coords={"chip": np.arange(chips), "time": times},
    )


def legend(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def axes() -> Any:
    return Figure().subplots()


def test_quantiles_are_those_of_the_chips() -> None:
    ds = population()
    ax = quantiles_over_time(ds, axes())
    (middle,) = [line for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(middle.get_ydata(), np.median(ds["accuracy"], axis=0))
    ends = [np.quantile(ds["accuracy"], pair, axis=0) for pair in ([0.05, 0.95], [0.25, 0.75])]
    for band, (low, high) in zip(ax.collections[:2], ends, strict=True):
        corners = band.get_paths()[0].vertices[:, 1]
        assert (corners.min(), corners.max()) == pytest.approx((low.min(), high.max()))
    assert legend(ax) == ["median", "5 to 95 %", "25 to 75 %", "digital"]
    assert "200 test sequences (%)" in ax.get_ylabel()


def test_what_the_subset_leaves_open_is_a_bar() -> None:
    ds = population()
    ds["accuracy_error"] = ds["accuracy"] * 0 + 0.25
    ax = quantiles_over_time(ds, axes())
    assert "±2 s.e. of the subset" in legend(ax)
    bars = ax.containers[0].lines[2][0].get_segments()
    assert [float(np.ptp(bar[:, 1])) for bar in bars] == pytest.approx([1.0] * 3)
    ds["accuracy_error"] *= 0  # all of the split
    assert "±2 s.e. of the subset" not in legend(quantiles_over_time(ds, axes()))


def test_yield_and_its_interval() -> None:
    ds = population()
    ds = ds.merge(chip_yield(ds, 95.0))
    ax = yield_over_time(ds, axes())
    points, _, (bars,) = ax.containers[0].lines
    np.testing.assert_allclose(points.get_ydata(), ds["yield"])
    for i, bar in enumerate(bars.get_segments()):
        assert bar[:, 1] == pytest.approx([float(ds[f"yield_{end}"][i]) for end in ("low", "high")])
    assert ax.get_ylabel() == "Chips above 95 % (%)"
    assert ax.get_legend().get_title().get_text() == "30 chips, 95 % interval (Wilson)"
    several = population().merge(chip_yield(population(), [94, 95]))
    assert legend(yield_over_time(several, axes())) == ["above 94 %", "above 95 %"]


@pytest.mark.parametrize("times", [TIMES, [1.0]])
@pytest.mark.parametrize("chips", [1, 30])
def test_drawn_as_what_they_are(chips: int, times: list[float], tmp_path: Any) -> None:
    ds = population(chips, times)
    assert len(draw(ds).axes) == 1
    both = ds.merge(chip_yield(ds, 95.0))
    figure = draw(both)
    assert [ax.get_title() for ax in figure.axes][1] == "Yield"
    save_figure(figure, tmp_path / "figure.png")
    models = xr.concat([both.expand_dims(model=[name]) for name in "ab"], "model")
    assert len(draw(models).axes) == 2
    assert legend(draw(models).axes[1]) == ["a", "b"]


def test_without_yield_the_panel_says_so() -> None:
    ax = yield_over_time(population(), axes())
    assert [text.get_text() for text in ax.texts] == ["yield over time:\nnot in this dataset"]
