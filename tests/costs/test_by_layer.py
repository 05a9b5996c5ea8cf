"""What layers take adds up to what the chip takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from imc_ssm.chip import Deployment
from imc_ssm.costs import by_layer, cost

Factory = Callable[..., Deployment]
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "packed": {"rows": 16, "columns": 16, "packing": True},
    "s5": {"layer": "s5"},
    "slow": {"scheme": {"rate_limit": 1.5}},
}


@pytest.mark.parametrize("case", CASES)
def test_layers_add_up_to_the_chip(case: str, deployment: Factory) -> None:
    placed = deployment(**CASES[case])
    whole, parts = cost(placed), by_layer(placed)
    for name in ("energy", "latency"):
        np.testing.assert_allclose(parts[name].sel(bound="nominal").sum("layer"), whole[name], rtol=1e-9, atol=0)
        each = parts[name]
        assert (each.sel(bound="low") <= each.sel(bound="nominal")).all()
        assert (each.sel(bound="nominal") <= each.sel(bound="high")).all()
    assert float(parts["memory"].sum()) == float(whole["memory_total"])
    assert float(parts["macs"].sum()) == float(whole["macs"])
    assert float(parts["devices"].sum()) == float(whole["devices"])


def test_layers_are_modules_in_order(deployment: Factory) -> None:
    """A block is one layer; nothing but the last row leaks, and the recurrence's memory is the block's."""
    parts = by_layer(deployment())
    names = [str(name) for name in parts["layer"].values]
    assert names[:2] == ["input", "encoder"]
    assert names[-2:] == ["decoder", "leakage"]
    assert len([name for name in names if name.startswith("blocks.")]) == 1
    leaks = parts["energy"].sel(component="leakage", bound="nominal")
    assert float(leaks.sel(layer="leakage")) > 0 == float(leaks.drop_sel(layer="leakage").sum())
    assert str(parts["memory"].idxmax("layer").values) == "blocks.0"
    assert all({"units", "long_name"} <= set(parts[name].attrs) for name in parts)


def test_intervals_of_times_are_those_of_cost(deployment: Callable[..., Deployment]) -> None:
    """Logic's own times have its range: a slower stage stretches the cycle, the clock bounds a faster one."""
    ds = cost(deployment())
    low, nominal, high = ds["latency_bounds"].sel(component="digital update").values
    assert low == nominal < high == pytest.approx(1.4 * nominal)
    low, nominal, high = ds["latency_bounds"].sel(component="memories").values
    assert (low / nominal, high / nominal) == pytest.approx((0.7, 1.4))
    layers = by_layer(deployment())["latency"].sum("layer")
    for component in ("digital update", "memories", "movement"):
        own = layers.sel(component=component).values
        assert own == pytest.approx(ds["latency_bounds"].sel(component=component).values)
