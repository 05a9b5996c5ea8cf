"""The constants that intervals come from make up the intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from imc_ssm.chip import Deployment
from imc_ssm.costs import constant_table, cost, merit_table, swings
from imc_ssm.devices import load_constants


def test_swings_in_quadrature_are_the_intervals_of_cost(deployment: Callable[..., Deployment]) -> None:
    placed = deployment()
    ds, found = cost(placed), swings(placed)
    for name in ("energy", "latency", "area"):
        total = float(found[f"{name}_total"])
        assert total == pytest.approx(float(ds[f"{name}_total"]))
        squares = (np.log(found[name] / total) ** 2).sum("constant")
        low, high = (float(np.sqrt(squares.sel(end=end))) for end in ("low", "high"))
        own = ds[f"{name}_total_bounds"].values
        assert (total * np.exp(-low), total * np.exp(high)) == pytest.approx((own[0], own[2]))
    widths = found["energy"].sel(end="high") / found["energy"].sel(end="low")
    assert bool((widths.diff("constant") <= 1e-12).all())
    assert "cell_cap" not in found["constant"].values  # of SRAM


def test_a_known_constant_swings_no_more(deployment: Callable[..., Deployment]) -> None:
    placed, shipped = deployment(), load_constants()
    own = shipped["leakage_32"].with_(value=50.0, low=50.0, high=50.0)
    known = shipped.changed({"leakage_32": own})
    assert "leakage_32" in swings(placed)["constant"].values
    assert "leakage_32" not in swings(placed, constants=known)["constant"].values
    leaks = [cost(placed, constants=c)["energy"].sel(component="leakage") for c in (known, shipped)]
    assert float(leaks[0] / leaks[1]) == pytest.approx(50 / 516)


def test_tables(deployment: Callable[..., Deployment]) -> None:
    placed = deployment()
    assert merit_table(cost(placed)).row_count == 11
    shown = constant_table(swings(placed), load_constants().entries)
    assert 3 <= shown.row_count <= 6
