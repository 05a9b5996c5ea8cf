"""Which way the numbers of a design move every cost, at any value, and without jumps.

Every converter, input circuit and number of a plan: two values anywhere in its range, and its ends. Signs as in
`test_cost_fields`, with `+` and `-` for what differs between the ends.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from cost_cases import chip, placed, ways_of, wrong
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.costs import COMPONENTS, CostPlan, Totals, cost
from imc_ssm.devices import load_components
from imc_ssm.devices.components import BANK
from imc_ssm.devices.converters import LAWS
from imc_ssm.devices.designs import Electrics
from imc_ssm.errors import DesignError
from imc_ssm.pricing.tiles import nominal_tiles

CIRCUITS: dict[str, tuple[str, str, str]] = {
    **{name: (name, "capacitive", "amplitude") for name in LAWS["adc"]},
    "sar, widths": ("sar", "pulse-width", "pulse-width"),
    "cco, widths": ("cco", "pulse-width", "pulse-width"),
    "sar, bits": ("sar", "bipolar", "bit-serial"),
    "cco, bits": ("cco", "driver", "bit-serial"),
}
"""Name of a case: converter, input circuit, coding."""
SERIAL = [name for name, (_, _, coding) in CIRCUITS.items() if coding == "bit-serial"]
INTEGRATING = [name for name, (adc, _, _) in CIRCUITS.items() if adc in ("cco", "duration", "charge-decrement")]
WHOLE = {"lanes", "columns_per_adc", "adc_bits", "dac_bits"}
RANGES: dict[str, tuple[float, float]] = {
    "lanes": (1, 200),
    "clock": (1e6, 1e11),
    "columns_per_adc": (1, 8),
    "adc_bits": (2, 12),
    "dac_bits": (2, 12),
    "node": (7e-9, 130e-9),
    "analog_supply": (0.5, 2.0),
    "logic_supply": (0.5, 2.0),
    "line_voltage": (0.5, 2.0),
    "pulse": (1e-10, 1e-5),
    "conversion_rate": (1e5, 1e11),
    "cycle": (1e-11, 1e-7),
}
"""Number of a plan: its range here, in SI units."""
WAYS: dict[str, str] = {
    "lanes": "latency -digital_update -nonlinearity -memories; energy ~memories ~leakage; "
    "area +digital_update +nonlinearity +memories",
    # No faster than the slowest stage.
    "clock": "latency -digital_update -nonlinearity; energy -leakage",
    # Fewer converters, and columns that are held for them.
    "columns_per_adc": "latency +adc; energy >adc >control ~leakage; area <adc <control",
    "adc_bits": "energy >adc +movement >control >digital_update >memories >leakage; latency >adc >cells "
    ">digital_update >memories; area ~adc ~control >digital_update >memories",
    "dac_bits": "energy +dac +movement >control +leakage; latency >digital_update; area +dac +control",
    "node": "energy +lines ~adc +dac +control ~leakage; latency >adc >cells; area +lines +adc +dac +control",
    "analog_supply": "energy +adc ~control ~leakage; latency <adc; area >adc >control",
    "logic_supply": "energy +dac +lines +control",
    "line_voltage": "energy +lines +control",
    "pulse": "energy +cells >adc +control ~leakage; latency ~adc +cells; area <adc <control",
    "conversion_rate": "energy >adc ~control ~leakage; latency -adc; area >adc >control",
    "cycle": "energy ~adc ~control ~leakage; latency +adc; area ~adc ~control",
}
"""What more of a number does with every converter."""
PULSES = (
    "energy ~lines +adc +control +digital_update >memories; latency +cells ~adc >movement ~memories; "
    "area =dac =control >digital_update"
)
OTHERWISE: dict[tuple[str, str], str] = {
    **{(name, "columns_per_adc"): "energy +dac +lines; latency +cells" for name in INTEGRATING},
    ("cco, bits", "columns_per_adc"): "energy =dac +lines; latency +cells",  # a driver takes nothing itself
    **{  # the longer of reading and converting sets the pace
        ("sar, bits", name): "latency ~cells ~adc"
        for name in ("columns_per_adc", "node", "analog_supply", "pulse", "conversion_rate", "cycle")
    },
    **{(name, "adc_bits"): "latency ~cells ~adc >movement" for name in SERIAL},
    # Of the survey, whose supply is its own.
    ("sar-survey", "analog_supply"): "energy >adc",
    # Each bit is a pulse and a conversion; a driver takes nothing itself. The activity is as given.
    ("sar, bits", "dac_bits"): f"{PULSES}; energy +dac",
    ("cco, bits", "dac_bits"): f"{PULSES}; energy =dac",
    **{(name, "logic_supply"): "energy =dac" for name, case in CIRCUITS.items() if case[1] != "capacitive"},
    ("cco, bits", "node"): "energy =dac; area =dac",
    # The array is read for as long as a charge-decrement converter integrates, a step at least and a cycle more.
    ("charge-decrement", "pulse"): "latency +cells =adc",
    ("charge-decrement", "cycle"): "latency +cells",
    ("duration", "pulse"): "latency +adc; energy +adc",
}
"""And with some: what takes the place of the same quantity above."""
NO_CYCLE = {"cco", "cco, widths", "cco, bits"}


@pytest.fixture(scope="module")
def plans() -> dict[str, CostPlan]:
    """A plan of each case; nothing but the laws says how long a converter takes."""
    out = {}
    for name, (adc, dac, coding) in CIRCUITS.items():
        bits = {"bits": 8}
        made = chip(adc={"type": adc} | bits, dac={"type": dac, "encoding": coding} | bits, electrics=Electrics())
        out[name] = CostPlan(placed({}, {}, on=made))
    return out


def numbers_of(totals: Totals) -> dict[str, Any]:
    """Quantity -> values, along the designs."""
    return {
        f"{name}/{component}": getattr(totals, name)[..., i]
        for name in ("energy", "latency", "area")
        for i, component in enumerate(COMPONENTS)
    }


def at(plan: CostPlan, name: str, values: list[float]) -> list[dict[str, float]]:
    """Quantities at each of the values."""
    if name in ("adc_bits", "dac_bits"):
        return [numbers_of(plan(**{name: int(value)})) for value in values]
    found = {k: np.broadcast_to(v, len(values)) for k, v in numbers_of(plan(**{name: values})).items()}
    return [{k: float(v[i]) for k, v in found.items()} for i in range(len(values))]


CASES = [
    (case, name)
    for case in CIRCUITS
    for name in RANGES
    if not (name == "conversion_rate" and case in INTEGRATING) and not (name == "cycle" and case in NO_CYCLE)
]


def test_every_number_of_a_plan_has_its_range() -> None:
    assert set(RANGES) == set(WAYS)
    assert set(Electrics.model_fields) | WHOLE | {"clock", "node"} == set(RANGES)


@pytest.mark.parametrize(("case", "name"), CASES)
def test_more_of_a_number(plans: dict[str, CostPlan], case: str, name: str) -> None:
    ways = ways_of(WAYS[name]) | ways_of(OTHERWISE.get((case, name), ""))
    low, high = RANGES[name]

    loose = {quantity: {"+": ">", "-": "<"}.get(way, way) for quantity, way in ways.items()}
    assert wrong(*at(plans[case], name, [low, high]), ways) == {}

    @given(st.lists(st.floats(0, 1), min_size=2, max_size=2))
    @settings(max_examples=8, deadline=None, database=None)
    def anywhere(parts: list[float]) -> None:
        values = sorted(low * (high / low) ** part for part in parts)
        if name in WHOLE:
            values = [float(round(value)) for value in values]
        assert wrong(*at(plans[case], name, values), loose) == {}

    anywhere()


SMOOTH = sorted(set(RANGES) - WHOLE)


@pytest.mark.parametrize("case", CIRCUITS)
@given(name=st.sampled_from(SMOOTH), part=st.floats(0, 0.999))
@settings(max_examples=25, deadline=None, database=None)
def test_no_number_makes_totals_jump(plans: dict[str, CostPlan], case: str, name: str, part: float) -> None:
    """A tenth of a percent more of a number moves no total by more than two percent."""
    if (case, name) not in CASES:
        return
    low, high = RANGES[name]
    value = low * (high / low) ** part
    found = plans[case](**{name: [value, min(1.001 * value, high)]})
    for total in ("energy", "latency", "area"):
        values = np.broadcast_to(found.total(total), 2)
        assert values[1] == pytest.approx(values[0], rel=0.02), total


@given(capacity=st.integers(1, 4 * BANK), more=st.integers(1, BANK), ports=st.integers(1, 8))
@settings(max_examples=200, deadline=None, database=None)
def test_a_larger_memory_never_takes_less(capacity: int, more: int, ports: int) -> None:
    """Also where a bank is full; and one bit more is hardly more."""
    table = load_components("periphery-32nm")
    small, next_, large = (table.banked(capacity + extra, ports) for extra in (0, 1, more))
    for name in ("read", "write", "latency", "area"):
        values = [getattr(memory, name) for memory in (small, next_, large)]
        assert values[0] <= values[1] * (1 + 1e-12), name
        assert values[1] <= values[2] * (1 + 1e-12), name
        if capacity > 2000 * ports:
            assert values[1] <= values[0] * 1.002, name
    assert small.port == large.port


CELL: dict[str, tuple[float, float, str]] = {
    "v_read": (0.1, 0.4, "energy +cells +lines"),
    "t_read": (2e-8, 1e-6, "energy +cells; latency +cells"),
    "g_max": (1e-6, 2.4e-5, "energy +cells"),
    "area": (1e-15, 1e-11, "energy +lines >cells; latency >cells; area +cells"),
}
"""Number of a cell: its range, and what more of it does, beside control and leakage."""


@pytest.mark.parametrize("name", CELL)
def test_more_of_a_number_of_a_cell(name: str) -> None:
    low, high, moves = CELL[name]
    case = placed({}, {})
    values = [low * (high / low) ** (i / 6) for i in range(7)]
    found = []
    for value in values:
        cell = case.chip.cell
        changed = cell.with_(g_min=cell.g_min.with_(value=1e-7), **{name: getattr(cell, name).with_(value=value)})
        found.append(numbers_of(CostPlan(replace(case, chip=case.chip.with_(cell=changed)))()))
    ways = ways_of(f"energy >control ~leakage; area >control; {moves}")
    for first, second in pairwise(found):
        assert wrong(first, second, ways) == {}


SIZES: dict[str, tuple[list[int], str]] = {
    # All matrices fit 8 x 8: larger tiles have longer lines, and more of everything that is not used.
    "rows": ([8, 16, 64, 256], "energy +lines; latency >cells >adc; area +cells +lines +dac >adc"),
    "columns": ([16, 32, 128], "energy +lines; latency >cells; area +cells +adc"),
    "devices": ([1, 2, 4], "energy +cells +lines; latency >cells; area +cells"),
    "columns_per_adc": ([1, 2, 4, 8], "energy >adc; latency +adc; area -adc"),
}
"""Size of a tile: values, and what more of it does, beside control and leakage."""


@pytest.mark.parametrize("name", SIZES)
def test_a_larger_tile(name: str) -> None:
    values, moves = SIZES[name]
    found = [numbers_of(CostPlan(placed({}, {}, on=chip(**{name: value})))()) for value in values]
    ways = ways_of(f"energy ~control ~leakage; area ~control; {moves}")
    for first, second in pairwise(found):
        assert wrong(first, second, ways) == {}


def test_smaller_tiles_are_more_tiles_and_conversions() -> None:
    """Of 2, 4 and 8 rows: partial sums are converted, moved and added."""
    found = [numbers_of(CostPlan(placed({"heads": 8}, {}, on=chip(rows=rows)))()) for rows in (2, 4, 8)]
    for quantity in ("energy/adc", "energy/digital update", "energy/movement", "latency/memories", "area/adc"):
        assert found[0][quantity] > found[1][quantity] > found[2][quantity], quantity


@pytest.mark.parametrize("case", CIRCUITS)
@pytest.mark.parametrize("share", [1, 4])
@pytest.mark.parametrize("pulse", [1e-9, 1e-7, 1e-5])
def test_a_product_on_a_tile_takes_as_long_as_on_an_array(case: str, share: int, pulse: float) -> None:
    """Pulses in turn overlap with conversions, and integrators read again, as for macros; holding is beside it."""
    adc, dac, coding = CIRCUITS[case]
    given = {"pulse": {"value": pulse, "unit": "s", "source": "a number of this test"}}
    made = chip(
        adc={"type": adc, "bits": 8},
        dac={"type": dac, "encoding": coding, "bits": 8},
        electrics=given,
        columns_per_adc=share,
    )
    found = nominal_tiles(made)
    free = replace(found, hold_time=0.0)
    assert sum(free.times(8).values()) == pytest.approx(found.law.product_time, rel=1e-12)
    assert sum(found.times(8).values()) >= sum(free.times(8).values())


def test_cells_draw_current_until_lines_have_settled() -> None:
    """A pulse that is shorter than a line takes to settle costs what the longer one costs."""
    case = placed({}, {}, on=chip(rows=1024))
    plan = CostPlan(case)
    settle = float(nominal_tiles(case.chip).law.settle)
    short, exact, long = (numbers_of(plan(pulse=t)) for t in (settle / 4, settle, 4 * settle))
    for quantity in ("energy/cells", "latency/cells"):
        assert short[quantity] == pytest.approx(exact[quantity], rel=1e-9)
        assert long[quantity] == pytest.approx(4 * exact[quantity], rel=1e-9)


@pytest.mark.parametrize(
    ("dac", "dearer"),
    [
        ({"type": "driver", "bits": 1}, {"type": "capacitive", "bits": 2}),
        (
            {"type": "driver", "bits": 4, "encoding": "bit-serial"},
            {"type": "bipolar", "bits": 5, "encoding": "bit-serial"},
        ),
    ],
)
def test_the_type_of_an_input_circuit_is_priced(dac: dict[str, Any], dearer: dict[str, Any]) -> None:
    """A plain driver takes nothing beside its line; an amplitude, or as many pulses of three levels, do."""
    one, other = (numbers_of(CostPlan(placed({}, {}, on=chip(dac=kind)))()) for kind in (dac, dearer))
    for quantity in ("energy/dac", "area/dac"):
        assert one[quantity] == 0 < other[quantity]


def test_a_clock_is_no_faster_than_the_slowest_stage(plans: dict[str, CostPlan]) -> None:
    """20 GHz costs what the slowest adder, multiplier, register and look-up allow; leakage with it."""
    plan, digital = plans["sar"], plans["sar"].deployment.chip.digital
    stages = [part.latency.value for part in (digital.multiply, digital.add, digital.flip_flop)]
    fast, bound = plan(clock=2e10), plan(clock=1 / min(*stages, digital.lookup.latency.value))
    assert max(stages) > 1 / 2e10
    np.testing.assert_allclose(fast.latency, bound.latency, rtol=1e-12)
    np.testing.assert_allclose(fast.energy, bound.energy, rtol=1e-12)
    assert plan(clock=0.5 / max(stages)).total("latency") > fast.total("latency")


@pytest.mark.parametrize("case", INTEGRATING)
def test_a_rate_of_an_integrator_is_refused(plans: dict[str, CostPlan], case: str) -> None:
    plan = plans[case]
    adc = plan.deployment.chip.adc.type
    with pytest.raises(DesignError, match=rf"conversion_rate = 1e\+09 Hz.*{adc!r} integrates"):
        plan(conversion_rate=1e9)
    rate = {"value": 1e9, "unit": "Hz", "source": "a number of this test"}
    design = plan.deployment.design
    made = plan.deployment.chip.with_(design=design.with_(electrics={"conversion_rate": rate}))
    with pytest.raises(DesignError, match="integrates"):
        cost(replace(plan.deployment, chip=made))


def test_a_rate_that_nobody_has_built_is_taken_as_given(plans: dict[str, CostPlan]) -> None:
    """100 GHz of 8 bits: time as asked for, and a converter that is larger for it; energy by the survey alone."""
    usual, wild = (numbers_of(plans["sar"](conversion_rate=rate)) for rate in (1e9, 1e11))
    conversions = (usual["latency/adc"] - wild["latency/adc"]) / (1 / 1e9 - 1 / 1e11)
    assert conversions == pytest.approx(round(conversions)), "the time of whole conversions, and that alone"
    assert wild["area/adc"] > 2 * usual["area/adc"]
    assert wild["energy/adc"] == usual["energy/adc"]
    surveyed = [numbers_of(plans["sar-survey"](conversion_rate=rate))["energy/adc"] for rate in (1e9, 1e11)]
    assert surveyed[1] > 2 * surveyed[0]


@pytest.mark.parametrize("kind", ["adc", "dac"])
def test_an_ideal_converter_has_no_price(kind: str) -> None:
    case = placed({}, {}, on=chip(**{kind: {"type": "ideal", "bits": 8}}))
    with pytest.raises(DesignError, match="'ideal' has no price"):
        cost(case)


def test_a_plan_of_no_current_costs_no_cells() -> None:
    """Activity 0 is allowed: what is left does not depend on the data."""
    case = placed({}, {})
    none, half, full = (numbers_of(CostPlan(case, activity=a)()) for a in (0.0, 0.5, 1.0))
    assert none["energy/cells"] == 0 < half["energy/cells"] == pytest.approx(full["energy/cells"] / 2)
    for quantity in set(none) - {"energy/cells", "energy/control"}:
        assert none[quantity] == half[quantity] == full[quantity], quantity
    assert none["energy/control"] < half["energy/control"] < full["energy/control"]
