"""Bars with intervals, and what each constant does, say what their datasets hold."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from imc_ssm.errors import ConfigError
from imc_ssm.plots import component_stacks, draw, kind_of, tornado


def costs(high: float = 5.0) -> xr.Dataset:
    """Two designs of two components, 3 and 6 uJ."""
    text = {"units": "J", "long_name": "Energy per inference"}
    parts = 1e-6 * np.array([[[0.5, 1.0, 2.0], [1.0, 2.0, 3.0]], [[1.0, 2.0, 4.0], [3.0, 4.0, 5.0]]])
    totals = 1e-6 * np.array([[2.0, 3.0, high], [4.0, 6.0, 9.0]])
    return xr.Dataset(
        {
            "energy_bounds": (("design", "component", "bound"), parts, text),
            "energy_total_bounds": (("design", "bound"), totals, text),
        },
        {"design": ["a", "b"], "component": ["adc", "memories"], "bound": ["low", "nominal", "high"]},
    )


def swung() -> xr.Dataset:
    out = {}
    for name, units in (("energy", "J"), ("latency", "s"), ("area", "m2")):
        values = 1e-6 * np.array([[1.9, 2.1], [1.0, 8.0], [2.0, 2.0]])
        out[name] = (("constant", "end"), values, {"units": units, "long_name": name})
        out[f"{name}_total"] = ((), 2e-6, {"units": units, "long_name": name})
    return xr.Dataset(out, {"constant": ["little", "much", "none"], "end": ["low", "high"]}, {"title": "Swings"})


def test_bars_are_the_components_on_top_of_each_other() -> None:
    ax = component_stacks(costs(), "energy", Figure().subplots())
    bars = [bar for part in ax.containers[:2] for bar in part]
    assert [bar.get_x() for bar in bars] == pytest.approx([0.0, 0.0, 1.0, 2.0])
    assert [bar.get_width() for bar in bars] == pytest.approx([1.0, 2.0, 2.0, 4.0])
    assert ax.get_xlabel() == "Energy per inference (µJ)"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert not ax.texts  # both intervals end on the axis


def test_an_interval_that_leaves_the_axis_says_how_far_it_goes() -> None:
    ax = component_stacks(costs(high=200.0), "energy", Figure().subplots())
    assert [text.get_text() for text in ax.texts] == ["to 200"]
    assert ax.get_xlim()[1] < 20


def test_the_widest_constant_is_at_the_top_and_none_that_moves_nothing() -> None:
    ax = tornado(swung(), "energy", Figure().subplots())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["much", "little"]
    ends = [bar.get_x() + bar.get_width() for bar in ax.patches]
    assert ends == pytest.approx([1.0, 1.9, 8.0, 2.1])
    assert kind_of(swung()) == "swings"
    assert len(draw(swung()).axes) == 3


def test_refusals() -> None:
    ax = Figure().subplots()
    with pytest.raises(ConfigError, match="no latency_bounds"):
        component_stacks(costs(), "latency", ax)
    with pytest.raises(ConfigError, match="one more dimension"):
        component_stacks(costs().isel(design=0), "energy", ax)
    with pytest.raises(ConfigError, match=r"give what imc_ssm\.costs\.swings returned"):
        tornado(costs(), "energy", ax)
