"""What the better unit takes: slow heads, added words, residuals, shifts and polar poles, counted by hand.

4 heads, 3 complex states each: 24 words of the state. Words as in the other tests of options.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.chip import Deployment
from imc_ssm.costs import Taken, actions_of, by_operator, cost, energies, operation_table
from imc_ssm.costs.counts import loads_of, stores
from imc_ssm.fixedpoint import Format, Multipliers, Shifts
from imc_ssm.graph import Formats, Graph, Recurrence, StateUpdate

Factory = Callable[..., Deployment]
PJ, NS = 1e-12, 1e-9
BITS = {"poles": 6, "b": 5, "c": 7, "state": 10, "encoder": 4, "recurrent": 12, "after_d": 8, "gelu": 9}
ROUNDINGS = ("half_even", "half_up", "dithered", "stochastic", "feedback")


def near(value: float) -> Any:
    """Equal up to the order of sums: joules are far below pytest's own tolerance."""
    return pytest.approx(value, rel=1e-9, abs=0)


def with_unit(case: Deployment, **fields: Any) -> Deployment:
    """The same deployment with another recurrence: fields of the operator alone."""
    ops = (replace(op, **fields) if isinstance(op, Recurrence | StateUpdate) else op for op in case.graph)
    return replace(case, graph=Graph(tuple(ops)))


def in_powers(case: Deployment) -> Deployment:
    """The same with every scale rounded up to a power of two."""
    powers = {}
    for path, fmt in case.formats.items():
        scale = np.exp2(np.ceil(np.log2(fmt.scale.astype(float)))).astype(np.float32)
        powers[path] = Format(fmt.bits, scale, fmt.zero_point, fmt.symmetric, fmt.clip)
    return replace(case, formats=Formats(powers))


def spent(ds: xr.Dataset) -> float:
    """Energy without leakage, J: that of the actions."""
    return float(ds["energy_total"] - ds["energy"].sel(component="leakage"))


def unit(case: Deployment) -> Recurrence:
    (own,) = (op for op in case.graph if isinstance(op, Recurrence))
    return own


def taken(case: Deployment) -> list[Taken]:
    """Actions of the recurrence."""
    return [t for t in actions_of(case) if t.operator == unit(case)]


def joules(case: Deployment) -> float:
    """The recurrence's energy per inference."""
    return sum(by_operator(case)[unit(case)].values())


def digital(case: Deployment) -> float:
    return by_operator(case)[unit(case)]["digital update"]


def product(count: float, first: int, second: int) -> float:
    return count * first * second / 64 * 0.12820 * PJ


def add(count: float, bits: int) -> float:
    return count * bits * 0.019230 / 8 * PJ


def total(count: float, bits: int) -> float:
    """A sum and its register."""
    return add(count, bits) + count * bits * 0.00683 * PJ


def shift(count: float, bits: int, stages: int) -> float:
    """0.4 of an addition's bit for each multiplexer."""
    return count * bits * stages * 0.4 * 0.019230 / 8 * PJ


def test_slow_heads_by_hand(deployment: Factory) -> None:
    """Heads of periods 1, 2, 2 and 4, 16 steps: 16, 8, 8 and 4 updates of 3 complex states each."""
    case = with_unit(deployment(bits=BITS, steps=16), periods=(1, 2, 2, 4))
    op = unit(case)
    own = Multipliers.of(op.plan(case.formats))
    assert op.groups == {1: 1, 2: 2, 4: 1}
    assert op.updates == near((1 + 1 / 2 + 1 / 2 + 1 / 4) / 4)
    updates = 16 + 2 * 8 + 4  # of one head
    hand = product(updates * 12, 7, 11) + total(updates * 6, 19)  # a x, of centred codes
    longer = max(own.a, own.b)
    # centred inputs of 5 bits; their sums of 5 + 1 and 5 + 2 bits, behind b of 6 bits
    for often, width in ((16, 5), (2 * 8, 6), (4, 7)):
        hand += product(often * 6, 6, width) + product(often * 6, 6 + width, longer)
    hand += product(updates * 6, 19, longer) + total(updates * 6, own.sum)
    hand += product(updates * 6, 8, 11) + total(updates * 6, 22) + product(updates, 22, 24)
    hand += total(16 * 2, 6) + total(16, 7)  # every input of a slow head is added
    assert digital(case) == near(hand)

    read = 16 * 4 * 4 + updates * (6 * (6 + 5 + 7) + 3 * 30 + 6 * 10) + 16 * (2 * 6 + 7)
    write = updates * (6 * 10 + 12) + 16 * (2 * 6 + 7)
    own_memory = by_operator(case)[op]["memories"]
    assert own_memory == near((read * 0.014 + write * 0.0296) * PJ)
    assert by_operator(case)[op]["movement"] == near((16 * 4 * 4 + updates * 12) * 0.054 * PJ)
    assert stores(case)["state"] == 24 * 10 + 2 * 6 + 7 + 4 * (9 + 4)  # and the mean's sums
    ds = cost(case)
    assert float(ds["updates"]) == near(0.5625)
    assert spent(ds) == near(sum(sum(v.values()) for v in by_operator(case).values()))


def test_slow_heads_take_less_time_but_not_in_the_longest_step(deployment: Factory) -> None:
    """8 lanes at 1 GHz. A head's update takes 12 + 6 + 6 + 6 + 6 + 1 = 37 slots, each sum of inputs one."""
    plain = deployment(steps=16)
    slow = with_unit(plain, periods=(1, 2, 2, 4))
    one, two = (cost(case)["latency"].sel(component="digital update") for case in (plain, slow))
    every = math.ceil(4 * 37 / 8)
    # 8 steps with the fast head alone, 4 with the heads of period 2, 4 with all.
    kinds = 8 * math.ceil((37 + 3) / 8) + 4 * math.ceil((3 * 37 + 3) / 8) + 4 * math.ceil((4 * 37 + 3) / 8)
    assert float(one - two) == near((16 * every - kinds) * NS)
    longest = [float(cost(case)["latency_longest_step"]) for case in (plain, slow)]
    assert longest[0] == near(float(cost(plain)["latency_step"].sum()))
    assert longest[1] >= longest[0]  # all heads at once, and the sums
    assert float(cost(slow)["latency_step"].sum()) < longest[1]


def test_updates_that_a_short_sequence_does_not_reach(deployment: Factory) -> None:
    case = with_unit(deployment(steps=3), periods=(1, 1, 2, 4))
    counts = {t.action.period: t.action.times(3) for t in taken(case)}
    assert counts == {1: 3, 2: 1, 4: 0}


@given(exponent=st.integers(0, 7))
@settings(max_examples=8, deadline=None)
def test_half_the_updates_are_half_the_work(deployment: Factory, exponent: int) -> None:
    """All but the sums of the inputs: every action of an update happens half as often, at the same price."""
    base = deployment(steps=256)
    one, two = (with_unit(base, periods=(2**e,) * 4) for e in (exponent, exponent + 1))
    if exponent == 7:
        assert unit(two).updates == 1 / 256
    first, second = (
        [t for t in taken(case) if "input" not in t.action.purpose and t.action.verb != "register"]
        for case in (one, two)
    )
    assert [t.action.purpose for t in first] == [t.action.purpose for t in second]
    for a, b in zip(first, second, strict=True):
        assert a.action.times(256) * a.action.count == 2 * b.action.times(256) * b.action.count
    assert joules(two) < joules(one)
    drive = ("b u", "requantize a x", "requantize b u", "a x + b u")  # a longer sum, other multipliers of the plan
    same = [
        energies(case, [t for t in part if t.action.purpose not in drive and t.action.store != "state"])
        for case, part in ((one, first), (two, second))
    ]
    np.testing.assert_allclose(np.array(same[0]), 2 * np.array(same[1]))


@given(
    rounding=st.sampled_from(ROUNDINGS),
    placement=st.sampled_from(("joint", "separate")),
    periods=st.lists(st.sampled_from((1, 2, 4, 16)), min_size=4, max_size=4),
    powers=st.booleans(),
    residual=st.integers(1, 16),
)
@settings(max_examples=25, deadline=None)
def test_nothing_is_negative_and_parts_add_up(
    deployment: Factory, rounding: str, placement: str, periods: list[int], powers: bool, residual: int
) -> None:
    if rounding == "feedback":
        placement = "joint"
    fields = {"rounding": rounding, "rounding_placement": placement, "residual_bits": residual}
    base = deployment(steps=16)
    case = with_unit(in_powers(base) if powers else base, periods=tuple(periods), **fields)
    for t in actions_of(case):
        assert t.action.count > 0
        assert all(bits > 0 for bits in t.action.bits)
    ds = cost(case)
    assert float(ds["energy"].min()) > 0
    for name in ("latency", "area"):
        assert float(ds[name].min()) >= 0
    assert sum(sum(v.values()) for v in by_operator(case).values()) == near(spent(ds))
    fast = with_unit(case, periods=None)
    assert joules(case) <= joules(fast) * (1 + 1e-12)
    nearest = with_unit(case, rounding="half_even")
    if rounding in ("half_even", "half_up"):
        assert joules(case) == near(joules(nearest))


def test_dither_is_a_counter_and_two_sums_a_word(deployment: Factory) -> None:
    """The accumulator's words are up to 2^shift longer in value, not in bits, here."""
    base = with_unit(deployment(bits=BITS), periods=(1, 2, 2, 4))
    case = with_unit(base, rounding="dithered")
    assert Multipliers.of(unit(base).plan(base.formats)) == Multipliers.of(unit(case).plan(case.formats))
    updates = 10 + 2 * 5 + 2  # of one head in 10 steps
    words = 6 * updates
    hand = total(words, 16) + add(words, 16) + total(10 + 5 + 2, 16)  # and a counter for each period
    assert digital(case) - digital(base) == near(hand)
    assert stores(case) == stores(base)
    assert float(cost(case)["latency_total"]) == float(cost(base)["latency_total"])
    # Two adders of 16 bits (one of them the counter's) and the sum with the fraction; two registers.
    area = float(
        cost(case)["area"].sel(component="digital update") - cost(base)["area"].sel(component="digital update")
    )
    assert area == near(8 * (3 * 2 * 46.4 + 2 * 16 * 3.99) * 1e-12)
    separate = [with_unit(c, rounding_placement="separate") for c in (base, case)]
    more = digital(separate[1]) - digital(separate[0]) - hand
    own = [Multipliers.of(unit(c).plan(c.formats)) for c in separate]
    assert own[0] == own[1]
    assert more == near(add(words, 16))  # both roundings; the second takes the complement


def test_stochastic_words_are_hashed(deployment: Factory) -> None:
    base = deployment(bits=BITS)
    case = with_unit(base, rounding="stochastic")
    assert Multipliers.of(unit(base).plan(base.formats)) == Multipliers.of(unit(case).plan(case.formats))
    words = 240
    hand = total(10, 32) + total(words, 32) + product(2 * words, 32, 17) + add(words, 32) + add(words, 16)
    assert digital(case) - digital(base) == near(hand)
    assert joules(case) > joules(with_unit(base, rounding="dithered"))


def test_feedback_is_memory(deployment: Factory) -> None:
    base = deployment(bits=BITS)
    case = with_unit(base, rounding="feedback", residual_bits=5)
    assert stores(case)["state"] - stores(base)["state"] == 24 * 5
    parts = [by_operator(c)[unit(c)]["memories"] for c in (base, case)]
    assert parts[1] - parts[0] == near(240 * 5 * (0.014 + 0.0296) * PJ)
    assert digital(case) - digital(base) == near(add(240, 5))


@pytest.mark.parametrize("granularity", ["head", "state"])
def test_powers_of_two_are_shifted(deployment: Factory, granularity: str) -> None:
    """No multiplier of a requantization is left in the recurrence; constants are 6 bits, not 30."""
    free = deployment(bits=BITS, scheme={"granularity": granularity})
    case = in_powers(free)
    op, formats = unit(case), case.formats
    own, shifts = Multipliers.of(op.plan(formats)), Shifts.of(op.plan(formats))
    assert Shifts.of(op.plan(free.formats)) is None
    assert shifts is not None
    assert (own.a, own.b) == (1, 1)
    hand = product(480, 7, 11) + total(240, 19) + product(240, 6, 5) + product(240, 8, 11) + total(240, 22)
    hand += total(240, own.sum) + shift(240, own.sum, math.ceil(math.log2(own.sum)))
    for bits, left in ((19, shifts.a), (11, shifts.b)):
        if left:
            width = min(bits + left, own.sum)
            hand += shift(240, width, math.ceil(math.log2(width)))
    hand += shift(40, 22, 5)  # the output
    assert shifts.state > 0
    assert shifts.output > 0
    assert digital(case) == near(hand)
    sets = 4 * (2 * (3 if granularity == "state" else 1) + 1)
    assert op.stored(formats, 10)[-2].bits == 6
    assert op.stored(formats, 10)[-2].count == sets
    constants = [t.action for t in taken(case) if t.action.purpose == "m_a, m_b, m_y"]
    assert [(a.count, a.bits) for a in constants] == [(sets, (6,))]
    assert joules(case) < joules(free)


def test_shifts_everywhere_else(deployment: Factory) -> None:
    """Of D u, residual and GLU too; tiles keep the multipliers of their converters, and the mean its 1 / steps."""
    case = in_powers(deployment(bits=BITS, scheme={"gelu": "piecewise"}))
    left = {
        (t.operator.name, t.action.purpose)
        for t in actions_of(case)
        if t.action.verb == "multiply" and "requantize" in t.action.purpose
    }
    matrices = {matrix.name for matrix in case.matrices}
    assert {name for name, _ in left} <= matrices
    assert stores(case)["requantization"] < stores(deployment(bits=BITS))["requantization"]
    shifted = {t.operator.name for t in actions_of(case) if t.action.verb == "shift"}
    assert {"recurrence", "after_d", "residual"} <= shifted


def test_the_shortest_shifts_by_hand(deployment: Factory) -> None:
    """y + D u with scales 2^-3 (y), 2^-4 2^-2 (D, u), to 2^-1: ratios 2^-2 and 2^-5, so left 3 and 0, right 5."""
    case = in_powers(deployment(bits=BITS))
    scale = next(op for op in case.graph if op.name == "after_d")
    y, u = (s.name for s in scale.inputs)
    exponents = {y: -3, scale.parameters[0].name: -4, u: -2, scale.output.name: -1}
    formats = dict(case.formats)
    for path, exponent in exponents.items():
        fmt = formats[path]
        formats[path] = Format(fmt.bits, np.full_like(fmt.scale, 2.0**exponent), fmt.zero_point)
    actions = [a for a in scale.actions(Formats(formats), 10) if a.verb == "shift"]
    # y of 12 + 1 bits + 3; D u of 8 + 1 + 4 + 1 bits stays; the sum of 17 bits to the right
    assert [(a.purpose, a.count, a.bits) for a in actions] == [
        ("requantize y", 4, (16, 4)),
        ("round y + D u", 4, (17, 5)),
    ]


def test_polar_poles_are_made_once(deployment: Factory) -> None:
    """Multipliers of 6 bits are kept and read; 3 bits of decay, 5 of phase and 5 constants come from outside."""
    base = deployment(bits=BITS)
    case = with_unit(base, pole_words=(3, 5))
    one, two = cost(base), cost(case)
    for name in ("energy", "latency", "area", "memory"):
        np.testing.assert_array_equal(one[name], two[name])
    # biases of 8 bits, centred 9 where their zero point is not 0, to sums of 34 bits
    biases = (4 + 8 + 5) * 34 * 0.0296 * PJ
    for path, count in (("encoder", 4), ("blocks.0.mixing", 8), ("decoder", 5)):
        biases += product(count, 8 + int(base.formats[f"{path}.bias"].zero_point != 0), 24)
    assert float(one["energy_load"]) == near(biases)
    tables = 12 * ((3 + 6) + 2 * (5 + 6)) / 32 * 0.217 * PJ  # codes to words of 6 bits, by a table of 16 to 16
    hand = tables + product(24, 6, 6) + 24 * 6 * 0.0296 * PJ  # words of tables, which have no zero points
    assert float(two["energy_load"]) == near(biases + hand)
    assert stores(base)["parameters"] - float(one["memory_loaded"]) == (4 + 8 + 5) * (34 - 8)
    assert float(one["memory_loaded"] - two["memory_loaded"]) == 24 * 6 - (12 * (3 + 5) + 4 * 160)
    assert len(loads_of(case)) == 5 + 2 * 3
    assert operation_table(case).row_count == len(actions_of(case)) + 5 + 2 * 3 + 1  # leakage


def test_states_between_matrices_are_rounded_alike(deployment: Factory) -> None:
    base = deployment(layer="s5")
    (plain,) = (op for op in base.graph if isinstance(op, StateUpdate))

    def own(case: Deployment) -> float:
        (op,) = (op for op in case.graph if isinstance(op, StateUpdate))
        return sum(by_operator(case)[op].values())

    words, steps = plain.output.width, base.steps
    dithered, feedback = (with_unit(base, rounding=r) for r in ("dithered", "feedback"))
    hand = total(words * steps, 16) + add(words * steps, 16) + total(steps, 16)
    assert own(dithered) - own(base) == near(hand)
    assert stores(feedback)["state"] - stores(base)["state"] == 8 * words
    assert own(in_powers(base)) < own(base)
