"""A compiled plan gives what `cost` gives of the design that its numbers make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.chip import Deployment
from imc_ssm.costs import COMPONENTS, CostPlan, cost
from imc_ssm.devices import load_components
from imc_ssm.devices.constants import load_constants
from imc_ssm.devices.converters import converter
from imc_ssm.devices.designs import Electrics
from imc_ssm.errors import ConfigError, DesignError
from imc_ssm.pricing.intervals import nominal

Factory = Callable[..., Deployment]


def changed(case: Deployment, **fields: Any) -> Deployment:
    """The deployment on the re-resolved design; its cell, which is no shipped one, as it is."""
    design = case.design
    for name, value in fields.items():
        if name in Electrics.model_fields:
            cited = {"value": value, "unit": UNITS[name], "source": "a number of this test"}
            design = design.with_(electrics=design.electrics.with_(**{name: cited}))
        elif name in ("clock", "node"):
            design = design.with_(**{name: getattr(design, name).with_(value=value)})
        else:
            design = design.with_(**{name: value})
    table = load_components(design.components)
    parts = {kind: converter(kind, getattr(design, kind), table) for kind in ("adc", "dac")}
    return replace(case, chip=case.chip.with_(design=design, **parts))


UNITS = {
    "analog_supply": "V",
    "logic_supply": "V",
    "line_voltage": "V",
    "pulse": "s",
    "conversion_rate": "Hz",
    "cycle": "s",
}


def same(plan: CostPlan, case: Deployment, **fields: Any) -> None:
    one, two = plan(**fields), cost(changed(case, **fields))
    for name in ("energy", "energy_step", "latency", "latency_step", "area"):
        np.testing.assert_allclose(getattr(one, name), two[name].values, rtol=1e-9, atol=0)
    np.testing.assert_allclose(one.longest, two["latency_longest_step"], rtol=1e-9)


@pytest.fixture(scope="module", params=["plain", "packed", "s5", "slow", "serial"])
def case(request: pytest.FixtureRequest, deployment: Factory) -> Deployment:
    made = {
        "plain": {},
        "packed": {"rows": 16, "columns": 16, "packing": True},
        "s5": {"layer": "s5"},
        "slow": {"scheme": {"rate_limit": 1.5}},
        "serial": {"dac": {"type": "bipolar", "bits": 8, "encoding": "bit-serial"}},
    }
    return deployment(**made[request.param])


@given(
    lanes=st.integers(1, 200),
    clock=st.floats(1e6, 5e9),
    shared=st.integers(1, 4),
    adc=st.integers(4, 10),
    dac=st.integers(2, 10),
)
@settings(max_examples=12, deadline=None)
def test_a_plan_is_the_cost(case: Deployment, lanes: int, clock: float, shared: int, adc: int, dac: int) -> None:
    fields = {"lanes": lanes, "clock": clock, "columns_per_adc": shared, "adc_bits": adc, "dac_bits": dac}
    same(CostPlan(case), case, **fields)


@given(
    node=st.floats(7e-9, 130e-9),
    analog_supply=st.floats(0.5, 2),
    line_voltage=st.floats(0.5, 2),
    pulse=st.floats(1e-9, 1e-6),
    conversion_rate=st.floats(1e6, 1e9),
)
@settings(max_examples=12, deadline=None)
def test_a_plan_is_the_cost_of_other_circuits(case: Deployment, **fields: float) -> None:
    same(CostPlan(case), case, **fields)


def test_every_field_of_the_circuits_is_a_number_of_a_plan() -> None:
    assert set(UNITS) == set(Electrics.model_fields)


def test_as_it_is_without_numbers(case: Deployment) -> None:
    same(CostPlan(case), case)


def test_arrays_are_the_single_designs(deployment: Factory) -> None:
    plan = CostPlan(deployment())
    lanes, clocks = np.array([1, 7, 64])[:, None], np.array([1e8, 1e9])
    grid = plan(lanes=lanes, clock=clocks, columns_per_adc=2, adc_bits=6)
    assert grid.latency.shape == (3, 2, len(COMPONENTS))
    for i, j in np.ndindex(3, 2):
        one = plan(lanes=int(lanes[i, 0]), clock=float(clocks[j]), columns_per_adc=2, adc_bits=6)
        np.testing.assert_allclose(grid.latency[i, j], one.latency, rtol=1e-12)
        np.testing.assert_allclose(grid.area[i, j], one.area, rtol=1e-12)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"lanes": 0}, ConfigError),
        ({"lanes": 2.5}, ConfigError),
        ({"lanes": [4, float("nan")]}, ConfigError),
        ({"clock": -1.0}, ConfigError),
        ({"columns_per_adc": 5}, ConfigError),
        ({"adc_bits": 17}, ConfigError),
        ({"cycle": 0.0}, ConfigError),
        ({"lane": 4}, ConfigError),
        ({"lanes": "8"}, ConfigError),
        ({"lanes": True}, ConfigError),
        ({"lanes": {"a": 1}}, ConfigError),
        ({"lanes": [[1, 2], [3]]}, ConfigError),
        ({"lanes": []}, ConfigError),
        ({"clock": 1 + 1j}, ConfigError),
        ({"clock": [1e9, 2e9, 3e9], "lanes": [1, 2]}, ConfigError),
        ({"pulse": float("inf")}, ConfigError),
        ({"adc_bits": [6, 8]}, ConfigError),
        ({"dac_bits": True}, ConfigError),
    ],
)
def test_what_a_design_refuses(deployment: Factory, fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        CostPlan(deployment())(**fields)


def test_a_chip_of_another_table_is_planned_at_its_own_resolutions(deployment: Factory) -> None:
    """It embeds no other prices: those of the shipped table would be silently wrong."""
    case = deployment(adc={"type": "sar-isaac", "bits": 8})
    price = case.chip.adc.price
    dear = price.with_(energy=price.energy.with_(value=2 * price.energy.value))
    own = replace(case, chip=case.chip.with_(adc=case.chip.adc.with_(price=dear)))
    plan = CostPlan(own)
    np.testing.assert_allclose(plan().energy, cost(own)["energy"].values)
    with pytest.raises(DesignError, match="prices at its own resolutions alone"):
        plan(adc_bits=6)


def test_constants_of_ones_own_are_not_those_that_are_kept(deployment: Factory) -> None:
    case = deployment()
    entries = load_constants().entries
    other = nominal(entries | {"tile_power": entries["tile_power"].with_(value=0.02)})
    plan = CostPlan(case)
    first = plan().energy
    assert (plan.priced(other).energy[..., 4] > first[4]).all()
    np.testing.assert_array_equal(plan().energy, first)


def test_rows_are_driven_for_columns_that_are_there(deployment: Factory) -> None:
    """By hand: an integrator of 8 columns reads as many of them as there are, and its rows each time.

    Ten times the encoder's 3 rows for 4 columns and the mixing's 4 for 8, once the decoder's 4 for 5.
    """
    case = deployment(adc={"type": "cco", "bits": 8}, columns=8)
    four, eight = (float(cost(changed(case, columns_per_adc=n))["energy"].sel(component="dac")) for n in (4, 8))
    assert eight / four == pytest.approx((30 * 4 + 40 * 8 + 4 * 5) / (30 * 4 + 40 * 4 + 4 * 4), rel=1e-9)
