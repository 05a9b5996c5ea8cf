"""What holds of the costs of any model on any chip: sums, intervals, sequence length, words, zeros, growth."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from cost_cases import chip, placed
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from imc_ssm.chip import Deployment
from imc_ssm.costs import COMPONENTS, CostPlan, by_operator, cost
from imc_ssm.costs.counts import actions_of, loads_of
from imc_ssm.costs.model import energies
from imc_ssm.devices import device_names, resolve
from imc_ssm.devices.constants import load_constants
from imc_ssm.devices.converters import LAWS
from imc_ssm.errors import DataError
from imc_ssm.graph import Recurrence, StateUpdate
from imc_ssm.pricing.intervals import scenarios, swings
from imc_ssm.quantization import Bits

MODELS = st.fixed_dictionaries(
    {
        "layer": st.sampled_from(["s4d", "s5"]),
        "heads": st.integers(2, 6),
        "n_state": st.integers(1, 4).map(lambda n: 2 * n),
        "layers": st.integers(1, 2),
        "norm": st.sampled_from(["none", "layer", "rms", "batch"]),
        "prenorm": st.booleans(),
        "activation": st.sampled_from(["gelu", "relu", "none"]),
        "gate": st.sampled_from(["glu", "none"]),
        "residual": st.booleans(),
        "bidirectional": st.booleans(),
        "pool": st.sampled_from(["mean", "last", "none"]),
    }
)
FORMS = st.sampled_from(
    [
        {},
        {"scales": "power_of_two"},
        {"rounding": "dithered"},
        {"rounding": "feedback"},
        {"rounding_placement": "separate"},
        {"rate_limit": 1.5},
        {"granularity": "tensor"},
        {"symmetric": True},
        {"pole_form": "polar"},
    ]
)
WORDS = st.dictionaries(st.sampled_from(sorted(Bits.model_fields)), st.integers(4, 10), max_size=5)
CHIPS = st.fixed_dictionaries(
    {
        "rows": st.sampled_from([2, 5, 8, 32]),
        "columns": st.sampled_from([4, 7, 16]),
        "columns_per_adc": st.integers(1, 4),
        "lanes": st.integers(1, 20),
        "packing": st.booleans(),
        "adc": st.sampled_from(LAWS["adc"]).map(lambda name: {"type": name, "bits": 6}),
        "dac": st.sampled_from(
            [
                {"type": "capacitive", "bits": 7},
                {"type": "pulse-width", "bits": 7, "encoding": "pulse-width"},
                {"type": "bipolar", "bits": 4, "encoding": "bit-serial"},
            ]
        ),
    }
)


def made(model: dict[str, Any], words: dict[str, int], form: dict[str, Any], tiles: dict[str, Any]) -> Deployment:
    """A deployment of 16 steps."""
    if model["layer"] == "s5":
        form = {name: value for name, value in form.items() if name != "rate_limit"}
    try:
        return placed(model, {"bits": words} | form, on=chip(**tiles))
    except DataError:  # of a few channels none may ever be above zero: nothing to calibrate with
        reject()


CASES = st.builds(made, MODELS, WORDS, FORMS, CHIPS)


@given(CASES)
@settings(max_examples=12, deadline=None, database=None)
def test_parts_add_up_and_intervals_hold_them(case: Deployment) -> None:
    """Components to totals, operators to the total without leakage, steps to an inference; low, nominal, high."""
    ds = cost(case)
    for name in ("energy", "latency", "area"):
        parts, total = ds[name].values, float(ds[f"{name}_total"])
        assert (parts >= 0).all()
        assert float(parts.sum()) == pytest.approx(total, rel=1e-12), name
        for bounds in (ds[f"{name}_bounds"].values, ds[f"{name}_total_bounds"].values):
            low, middle, high = np.moveaxis(bounds, -1, 0)
            assert (low <= middle).all()
            assert (middle <= high).all()
        np.testing.assert_allclose(ds[f"{name}_bounds"].sel(bound="nominal"), parts, rtol=1e-12)
        # Sources are independent: a sum varies by less than its parts together.
        low, _, high = ds[f"{name}_bounds"].values.sum(0)
        assert low <= ds[f"{name}_total_bounds"].values[0] * (1 + 1e-9)
        assert high >= ds[f"{name}_total_bounds"].values[2] * (1 - 1e-9)
    for name in ("throughput", "tops", "tops_per_watt", "tops_per_mm2", "energy_per_mac", "power"):
        low, middle, high = ds[name].values
        assert 0 < low < middle < high, name

    of_operators = by_operator(case)
    leakage = float(ds["energy"].sel(component="leakage"))
    for component in set(COMPONENTS) - {"leakage"}:
        found = sum(parts[component] for parts in of_operators.values())
        assert found == pytest.approx(float(ds["energy"].sel(component=component)), rel=1e-9), component
    assert sum(map(sum, (p.values() for p in of_operators.values()))) + leakage == pytest.approx(
        float(ds["energy_total"]), rel=1e-9
    )

    once = ds["latency"].values - case.steps * ds["latency_step"].values
    assert (once >= -1e-12 * ds["latency"].values).all()
    assert float(ds["latency_longest_step"]) >= float(ds["latency_step"].sum()) * (1 - 1e-12)
    if all(op.rate == "step" for op in case.graph):
        np.testing.assert_allclose(once, 0, atol=1e-12 * float(ds["latency_total"]))
        np.testing.assert_allclose(ds["energy"], case.steps * ds["energy_step"], rtol=1e-9)


@given(CASES)
@settings(max_examples=12, deadline=None, database=None)
def test_energy_is_linear_in_steps_and_area_does_not_depend_on_them(case: Deployment) -> None:
    """E(steps) = a + b steps, leakage included: to 1e-9.

    Between 257 and 512 steps, all of which are as many bits of a mean's sum, and whole periods of slow heads. A
    bidirectional model keeps what its other direction makes later: its memory grows with the steps.
    """
    few, some, many = (CostPlan(replace(case, steps=steps))() for steps in (272, 336, 512))
    if any(op.reverse for op in case.graph):
        assert (few.area <= some.area).all()
        assert few.total("energy") < some.total("energy") < many.total("energy")
        return
    for name in ("energy", "latency"):
        first, second, third = (getattr(one, name) for one in (few, some, many))
        np.testing.assert_allclose((third - first) / 240, (second - first) / 64, rtol=1e-9, atol=1e-24)
        assert third.sum() > second.sum() > first.sum() > 0
    np.testing.assert_array_equal(few.area, many.area)
    if not any("Mean" in type(op).__name__ for op in case.graph):
        np.testing.assert_array_equal(few.area, CostPlan(replace(case, steps=10**6))().area)


@given(CASES, st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None, database=None)
def test_zeros_never_cost(case: Deployment, seed: int) -> None:
    """Weights at zero, and whole columns: devices at g_min carry less, no column of zeros is converted."""
    rng = np.random.default_rng(seed)
    pruned = []
    for matrix in case.matrices:
        target = matrix.target * (rng.random(matrix.target.shape) < 0.6)
        kept = rng.random(matrix.outputs) < 0.7
        scale = (matrix.scale * kept).astype(np.float32)
        pruned.append(replace(matrix, target=(target * kept).astype(np.float32), scale=scale))
    before, after = cost(case), cost(replace(case, matrices=tuple(pruned)))
    for name in ("energy", "latency", "area"):
        assert (after[name].values <= before[name].values * (1 + 1e-12)).all(), name
    moved = any((a.target != b.target).any() for a, b in zip(pruned, case.matrices, strict=True))
    assert (float(after["energy_total"]) < float(before["energy_total"])) == moved
    assert float(after["memory_total"]) <= float(before["memory_total"])
    fewer = sum(m.columns for m in pruned) < sum(m.columns for m in case.matrices)
    adc = [float(ds["energy"].sel(component="adc")) for ds in (before, after)]
    assert (adc[1] < adc[0]) == fewer, "a column of zeros is not converted"


@given(MODELS, CHIPS)
@settings(max_examples=5, deadline=None, database=None)
def test_larger_models_cost_more(model: dict[str, Any], tiles: dict[str, Any]) -> None:
    """Twice the heads or states, or another block; unpacked, since shapes decide which parts share a tile."""
    tiles = tiles | {"packing": False}
    base = cost(made(model, {}, {}, tiles))
    for field, value in (
        ("heads", 2 * model["heads"]),
        ("n_state", 2 * model["n_state"]),
        ("layers", model["layers"] + 1),
    ):
        more = cost(made(model | {field: value}, {}, {}, tiles))
        for name in ("energy_total", "latency_total", "memory_total", "macs"):
            assert float(more[name]) > float(base[name]), (field, name)
        for name in ("tiles", "devices"):
            assert float(more[name]) >= float(base[name]), (field, name)


@given(CASES, st.lists(st.floats(0, 1), min_size=2, max_size=2))
@settings(max_examples=8, deadline=None, database=None)
def test_more_activity_costs_more(case: Deployment, activities: list[float]) -> None:
    """In proportion in the cells, and in the control's share of them."""
    low, high = sorted(activities)
    one, two, unit = (CostPlan(case, activity=a)() for a in (low, high, 1.0))
    cells, control = COMPONENTS.index("cells"), COMPONENTS.index("control")
    assert one.energy[cells] == pytest.approx(low * unit.energy[cells])
    assert one.energy[control] <= two.energy[control]
    others = [i for i in range(len(COMPONENTS)) if i not in (cells, control)]
    np.testing.assert_array_equal(one.energy[others], two.energy[others])
    np.testing.assert_array_equal(one.latency, two.latency)


PLANNED = ("requantize a x", "requantize b ", "a x + b ", "accumulator")
"""What the unit does with words whose lengths its plan chooses, by how its purpose starts."""
WIDTHS = range(4, 13, 2)


def of_words(case: Deployment) -> float:
    """J of an inference, without leakage and what is `PLANNED`, and of loading."""
    taken = [*actions_of(case), *loads_of(case)]
    found = zip(taken, energies(case, taken), strict=True)
    unit = Recurrence, StateUpdate
    return sum(
        joules
        for one, joules in found
        if not (isinstance(one.operator, unit) and one.action.purpose.startswith(PLANNED))
    )


@pytest.mark.parametrize("layer", ["s4d", "s5"])
@pytest.mark.parametrize("part", sorted(set(Bits.model_fields) - {"weights", "relu", "both"}))
def test_energy_grows_with_every_bit(layer: str, part: str) -> None:
    """From 4 to 12 bits of every kind of format, two at a time.

    The plan of a unit gives its accumulator 32 bits as long as what it adds fits, and its multipliers what longer
    words leave: the total of S4D may be up to 2 % less with more bits, that of S5, whose products are fewer,
    changes with the plan.
    """
    words = dict.fromkeys(Bits.model_fields, 8)
    cases = [placed({"layer": layer, "norm": "layer"}, {"bits": words | {part: bits}}) for bits in WIDTHS]
    found, totals = [of_words(case) for case in cases], [float(cost(case)["energy_total"]) for case in cases]
    if layer == "s5" and part in ("c", "recurrent"):  # matrices on tiles, and what they make has a name of its own
        assert found == [found[0]] * len(found)
        return
    for (first, second), (one, two) in zip(pairwise(found), pairwise(totals), strict=True):
        assert second > first, part
        assert two > 0.98 * one or layer == "s5", part
    assert totals[-1] >= totals[0], part


MACROS_ALONE = {
    *("cell_cap", "junction_cap", "sram_cell", "resistive_cell"),  # a design's cells are resistive, with an area
    *("conductance_pcm", "conductance_reram", "weight_mean"),  # and have their own conductances, by their weights
    *("read_voltage", "read_pulse", "pulse_unit"),  # and voltage and pulse
    "hold",  # a design's sample and hold stands in its table
    *(
        "affine",
        "shift_add",
        "byte_product",
        "byte_sum",
        "byte_lookup",
    ),  # its digital unit is counted word by word
    *("io_bit", "link_bit"),  # its bus stands in its table, and it is one chip
}
"""Constants that move no deployment, whatever its design is."""
NOT_SHIPPED = {
    *("sar_bit_time", "settle_row", "survey_bias"),  # SAR converters with a cycle of their own
    *("cco_lsb", "duration_power", "flash_cmp", "ramp_cycle", "comparator_cap", "latch_bit"),  # other converters
    *(
        "charge_cycle",
        "charge_step",
        "amp_area",
        "amp_branches",
        "amp_cap",
        "amp_feedback",
        "gm_id",
        "cap_density",
    ),
    *("driver_res", "wire_rho"),  # all lines settle within their pulse
    *(f"supply_{nm}" for nm in (130, 65, 40, 28, 22, 16, 14, 7)),  # all are at 32 nm
    *("leakage_130", "leakage_65"),
}
"""Constants of other converters and nodes than those of the shipped designs."""
SHORT = {"pulse": {"value": 1e-10, "unit": "s", "source": "a number of this test"}}


def moved_by(case: Deployment) -> set[str]:
    """The constants that move a total of a deployment."""
    k = scenarios(load_constants().entries)
    found = CostPlan(case).priced(k)
    totals = [found.total(name) for name in ("energy", "latency", "area")]
    return {name for total in totals for name, (low, high) in swings(total, k).items() if high / low > 1 + 1e-12}


def test_constants_that_move_a_deployment() -> None:
    """Of the shipped designs, of designs of any converter and node, and those that are of macros alone."""
    shipped = set[str]().union(*(moved_by(placed({}, {}, on=resolve(name))) for name in device_names("designs")))
    assert set(load_constants().entries) - shipped == MACROS_ALONE | NOT_SHIPPED

    chips = [chip(adc={"type": adc, "bits": 8}, electrics=SHORT) for adc in LAWS["adc"]]
    chips.append(chip(rows=2048, electrics=SHORT))
    for nm in (130, 65, 40, 28, 22, 16, 14, 7):
        base = chip(adc={"type": "flash", "bits": 4})
        chips.append(base.with_(design=base.design.with_(node=base.design.node.with_(value=nm * 1e-9))))
    others = set[str]().union(*(moved_by(placed({}, {}, on=one)) for one in chips))
    assert others >= NOT_SHIPPED
    assert not others & MACROS_ALONE
