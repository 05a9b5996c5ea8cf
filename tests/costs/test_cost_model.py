"""Properties of the cost model: scaling, monotony, additivity, units, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.chip import Deployment
from imc_ssm.costs import COMPONENTS, actions_of, cost, operation_table, table
from imc_ssm.errors import ConfigError, DesignError
from imc_ssm.fixedpoint import Multipliers
from imc_ssm.graph import Formats, Graph, Normalize, Operator, Recurrence, Signal

Factory = Callable[..., Deployment]


UNIT = ("poles", "b", "c", "state", "encoder", "input")
"""Parts that move the multipliers of the recurrence's plan: by their words, or by the range of what enters it."""
OTHERS = ("d", "recurrent", "after_d", "gelu", "mixing", "glu", "residual", "pool")
ACTIVATIONS = ("input", "encoder", "recurrent", "after_d", "gelu", "mixing", "glu", "residual", "pool")


def near(value: float) -> Any:
    """Equal up to the order of sums: joules are far below pytest's own tolerance."""
    return pytest.approx(value, rel=1e-9, abs=0)


def test_steps_double_the_step_energy(deployment: Factory) -> None:
    one, two = cost(deployment(steps=8)), cost(deployment(steps=16))
    end = one["energy"] - 8 * one["energy_step"]
    # The running sum, and its memory, is one bit wider over 16 steps; all else is equal.
    same = [name for name in COMPONENTS if name not in ("digital update", "memories", "leakage")]
    doubled = 2 * (one["energy"] - end).sel(component=same)
    xr.testing.assert_allclose(doubled + end.sel(component=same), two["energy"].sel(component=same))
    wider = (two["energy_step"] - one["energy_step"]).sel(component="digital update")
    assert float(wider) == near(4 * (0.019230 / 8 + 0.00683) * 1e-12)  # one bit of four sums and registers
    held = (two["energy_step"] - one["energy_step"]).sel(component="memories")
    assert float(held) == near(4 * (0.014 + 0.0296) * 1e-12)  # read and written
    longer = (two["latency"] > one["latency"]) | (one["latency"] == 0)  # where lines, inputs and leakage take none
    assert bool(longer.all())


@pytest.mark.parametrize("part", OTHERS)
@given(bits=st.integers(2, 15))
@settings(max_examples=4, deadline=None)
def test_energy_grows_with_every_word_length(deployment: Factory, part: str, bits: int) -> None:
    fewer, more = (cost(deployment(bits={part: n}))["energy_total"] for n in (bits, bits + 1))
    assert float(fewer) < float(more)


@pytest.mark.parametrize("part", UNIT)
@given(bits=st.integers(4, 11))
@settings(max_examples=4, deadline=None)
def test_memories_grow_with_the_words_of_the_unit(deployment: Factory, part: str, bits: int) -> None:
    """The unit's arithmetic follows its plan, which gives fewer bits to a multiplier where words are wider."""
    fewer, more = (cost(deployment(bits={part: n})) for n in (bits, bits + 1))
    for name in ("energy", "memory") if part != "input" else ("energy",):  # the sequence itself comes from outside
        assert float(fewer[name].sel(component="memories")) < float(more[name].sel(component="memories"))


def test_biases_are_as_long_as_their_sums(deployment: Factory) -> None:
    """Their own words are what is loaded; from then on they count in the unit of an accumulator."""
    fewer, more = (cost(deployment(bits={"biases": n})) for n in (4, 12))
    assert float(fewer["energy_total"]) == float(more["energy_total"])
    assert float(more["memory_loaded"] - fewer["memory_loaded"]) == (4 + 8 + 5) * 8
    assert float(fewer["energy_load"]) < float(more["energy_load"])


def digital_of(case: Deployment) -> float:
    return float(cost(case)["energy_step"].sel(component="digital update"))


@pytest.mark.parametrize("parts", [ACTIVATIONS, ("state",), ("b",), ("c",)], ids="-".join)
def test_longer_words_never_take_less_arithmetic(deployment: Factory, parts: tuple[str, ...]) -> None:
    """8 to 16 bits. A plan gives m_b fewer bits where u is longer: the multiplier that takes it is no shorter."""
    spent = [digital_of(deployment(bits=dict.fromkeys(parts, n))) for n in range(8, 17)]
    assert all(a < b for a, b in pairwise(spent))


def test_a_bit_of_the_poles_may_be_one_of_their_multiplier(deployment: Factory) -> None:
    """As long as the accumulator has 32 bits, a x longer by one leaves m_a one less: 19 x 15 bits, or 20 x 14."""
    spent = [digital_of(deployment(bits={"poles": n})) for n in range(8, 17)]
    assert all(0.999 * a < b for a, b in pairwise(spent))


def test_the_unit_is_priced_by_its_plan(deployment: Factory) -> None:
    """One bit of the states costs 25 % more arithmetic, and that is so: 53 bits of accumulator in the place of 32.

    With 10-bit states words of 32 bits leave m_a less than 12 bits, which docs/fixed_point.md, section 6, does not
    allow, so that the plan takes 53: the multipliers have 24 bits instead of 14, and the accumulator 45. Of 12
    complex states, 24 words are requantized (a x and b u), and summed; 48 products are a x, 24 Re(c x).
    """
    cases = [deployment(bits={"state": n}) for n in (9, 10)]
    plans = [next(op for op in case.graph if isinstance(op, Recurrence)).plan(case.formats) for case in cases]
    assert [plan.word for plan in plans] == [32, 53]
    narrow, wide = (Multipliers.of(plan) for plan in plans)
    longest = [max(own.a, own.b) for own in (narrow, wide)]
    assert narrow.sum <= 32 < wide.sum <= 53
    assert longest[0] < longest[1] == 24

    # centred: a 9, x 10 and 11, b and u 9, c 9; a x has 20 and 21 bits, b u 18; c x 19 and 20, and 3 of 6 terms
    cells = 24 * (longest[1] * (21 + 18) - longest[0] * (20 + 18)) + (48 * 9 + 24 * 9) + 4 * 24
    bits = 24 * (wide.sum - narrow.sum) + 24 + 24
    more = (cells / 64 * 0.12820 + bits * (0.019230 / 8 + 0.00683)) * 1e-12
    spent = [digital_of(case) for case in cases]
    assert spent[1] - spent[0] == near(more)
    assert 1.2 < spent[1] / spent[0] < 1.3


@given(heads=st.integers(1, 12), states=st.integers(1, 8), rows=st.integers(1, 9), columns=st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_totals_are_sums(deployment: Factory, heads: int, states: int, rows: int, columns: int) -> None:
    ds = cost(deployment(heads=heads, states=states, rows=rows, columns=columns))
    for name in ("energy", "latency", "area", "memory"):
        assert float(ds[f"{name}_total"]) == near(float(np.nansum(ds[name])))
    assert float(ds["energy"].min()) > 0
    assert bool((ds["energy"] > ds["energy_step"]).all())
    assert float(ds["memory_part"].sum()) == float(ds["memory"].sel(component="memories"))
    # Devices in use do not depend on how the matrices are cut.
    assert float(ds["devices"]) == 2 * (3 * heads + 2 * heads**2 + 5 * heads)


def test_smaller_tiles_cost_more_conversions(deployment: Factory) -> None:
    whole, cut = (cost(deployment(rows=rows))["energy"] for rows in (4, 2))
    assert float(cut.sel(component="adc")) == near(2 * float(whole.sel(component="adc")))
    assert float(cut.sel(component="cells")) == near(float(whole.sel(component="cells")))


def test_sharing_converters_trades_area_for_time(deployment: Factory) -> None:
    own, shared = (cost(deployment(columns_per_adc=n)) for n in (1, 4))
    adc = {"component": "adc"}
    assert float(own["area"].sel(adc)) > float(shared["area"].sel(adc))
    assert float(own["latency"].sel(adc)) < float(shared["latency"].sel(adc))
    held = float(shared["energy"].sel(adc) - own["energy"].sel(adc))  # a column that waits is held
    assert held == near((10 * (4 * 2 + 8 * 2) + 5 * 2) * 0.00098e-12)


def test_activity_scales_the_cells(deployment: Factory) -> None:
    case = deployment()
    base = cost(case, activity=0.1)["energy"]
    twice = cost(case, activity=0.2)["energy"]
    assert float(twice[0]) == near(2 * float(base[0]))
    others = [name for name in COMPONENTS if name not in ("cells", "control")]
    np.testing.assert_array_equal(twice.sel(component=others), base.sel(component=others))
    own = replace(case, matrices=tuple(replace(matrix, input_activity=0.3) for matrix in case.matrices))
    assert float(cost(own, activity=0.1)["energy"][0]) == near(3 * float(base[0]))


def test_units_names_and_meaning(deployment: Factory) -> None:
    ds = cost(deployment())
    assert list(ds["component"].values) == list(COMPONENTS)
    for name, variable in ds.data_vars.items():
        assert variable.attrs["units"] in {"J", "s", "m2", "bit", "1", "1/s", "W", "TOPS", "TOPS/W", "TOPS/mm2"}, (
            name
        )
        assert variable.attrs["long_name"], name
    meaningless = [name for name in COMPONENTS if name != "memories"]
    assert bool(ds["memory"].sel(component=meaningless).isnull().all())
    for name in ("energy", "latency", "area"):
        assert bool(ds[name].notnull().all())


def test_a_norm_is_counted(deployment: Factory) -> None:
    case = deployment()
    *before, pool, decoder = case.graph
    (entering,) = pool.inputs
    norm = Normalize("norm", "blocks.0.norm", (entering,), Signal("blocks.0.norm", entering.width))
    formats = Formats({**case.formats, norm.output.name: case.formats[entering.name]})
    graph = Graph((*before, norm, replace(pool, inputs=(norm.output,)), decoder))
    assert float(cost(replace(case, graph=graph, formats=formats))["energy_total"]) > float(
        cost(case)["energy_total"]
    )


def renamed(case: Deployment, letters: str) -> Deployment:
    """The same with other names of operators and matrices, and other paths of everything."""

    def path(old: str) -> str:
        return ".".join(f"{letters}{part}" for part in old.split(".")[:-1]) + f".{letters}.{old.split('.')[-1]}"

    def signal(old: Signal) -> Signal:
        return replace(old, name=path(old.name))

    def moved(op: Operator) -> Operator:
        # A parameter's path is its module's and a last name, so modules are renamed as the paths' beginnings are.
        inputs = tuple(signal(s) for s in op.inputs)
        return replace(
            op, name=letters, module=path(f"{op.module}.x")[:-2], inputs=inputs, output=signal(op.output)
        )

    return replace(
        case,
        name=letters,
        graph=Graph(tuple(moved(op) for op in case.graph)),
        formats=Formats({path(old): fmt for old, fmt in case.formats.items()}),
        matrices=tuple(replace(m, name=letters, module=path(f"{m.module}.x")[:-2]) for m in case.matrices),
    )


@pytest.mark.parametrize("layer", ["s4d", "s5"])
@given(letters=st.text("abcxyz", min_size=1, max_size=4))
@settings(max_examples=6, deadline=None)
def test_names_change_no_number(deployment: Factory, layer: str, letters: str) -> None:
    case = deployment(layer=layer, layers=2)
    xr.testing.assert_identical(cost(renamed(case, letters)), cost(case))


def test_tables(deployment: Factory) -> None:
    case = deployment()
    assert table(cost(case)).row_count == len(COMPONENTS) + 1
    taken = actions_of(case)
    # three biases are multiplied and written at loading, and the chip leaks
    assert operation_table(case).row_count == len(taken) + 6 + 1
    assert {t.action.component for t in taken} == set(COMPONENTS) - {"leakage"}
    assert [t.operator for t in taken] == sorted((t.operator for t in taken), key=list(case.graph).index)


def test_an_action_without_a_price_is_refused(deployment: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    case = deployment()
    last = actions_of(case)[-1]
    strange = [replace(last, action=replace(last.action, verb="teleport", store=None))]
    monkeypatch.setattr("imc_ssm.costs.plan.actions_of", lambda _: strange)
    with pytest.raises(DesignError, match="action 'teleport' has no price; known: cell, word line"):
        cost(case)


def test_refusals(deployment: Factory) -> None:
    for activity in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match=r"activity = .* between 0 and 1"):
            cost(deployment(), activity=activity)
    with pytest.raises(DesignError, match="type 'ideal' has no price; known: sar"):
        cost(deployment(adc={"type": "ideal", "bits": 8}))
    case = deployment()
    with pytest.raises(DesignError, match=r"operator 'decoder' \(decoder\) has no mapped matrix"):
        cost(replace(case, matrices=case.matrices[:-1]))
