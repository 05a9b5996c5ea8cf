"""What the options of a scheme change in the counts, by hand: 4 heads, 3 complex states, 12 in all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from imc_ssm.chip import Deployment
from imc_ssm.costs import actions_of, cost
from imc_ssm.costs.counts import stores
from imc_ssm.fixedpoint import Multipliers
from imc_ssm.graph import Action, Recurrence

Factory = Callable[..., Deployment]
BITS = {"poles": 6, "b": 5, "c": 7, "state": 10, "encoder": 4, "after_d": 8, "gelu": 9}


def of(deployment: Deployment, operator: str) -> dict[str, Action]:
    """Actions of one operator by purpose, reads and writes apart; registers left out."""
    return {
        (action.purpose if action.store is None else f"{action.verb} {action.purpose}"): action
        for taken in actions_of(deployment)
        if taken.operator.name == operator and (action := taken.action).verb != "register"
    }


def own(deployment: Deployment) -> Multipliers:
    """Widths of the integers of its recurrence."""
    (recurrence,) = (op for op in deployment.graph if isinstance(op, Recurrence))
    return Multipliers.of(recurrence.plan(deployment.formats))


def without_multipliers(found: dict[str, Action]) -> dict[str, Action]:
    """All but the products whose width is that of a plan's multiplier."""
    return {name: action for name, action in found.items() if name not in ("requantize a x", "requantize b u")}


def slots(found: dict[str, Action]) -> int:
    return sum(action.slots for action in found.values())


def test_the_separate_placement_adds_rounded_words(deployment: Factory) -> None:
    cases = [deployment(bits=BITS, scheme={"rounding_placement": p}) for p in ("joint", "separate")]
    joint, separate = (of(case, "recurrence") for case in cases)
    both, words = joint.pop("a x + b u"), separate.pop("round(a x) + round(b u)")
    assert without_multipliers(joint) == without_multipliers(separate)  # the products are the same
    for case, found in zip(cases, (joint, separate), strict=True):
        longer = max(own(case).a, own(case).b)  # of centred codes: a 7, x 11, b 6, u 5 bits
        assert found["requantize a x"].bits == (19, longer)
        assert found["requantize b u"].bits == (11, longer)
    # On the accumulator behind the products, against words of the state with a carry, on a slot of their own.
    assert (both.count, both.bits, both.slots) == (24, (own(cases[0]).sum,), 0)
    assert (words.count, words.bits, words.slots) == (24, (12,), 24)


def test_formats_per_state_have_multipliers_per_state(deployment: Factory) -> None:
    head = deployment(bits=BITS)
    state = deployment(bits=BITS, scheme={"granularity": "state"})
    one, two = of(head, "recurrence"), of(state, "recurrence")
    name = "read m_a, m_b, m_y"
    assert (one.pop(name).count, two.pop(name).count) == (4 * 3, 4 * (2 * 3 + 1))
    # The products of all states have one scale: nothing to align.
    for found in (one, two):
        found.pop("a x + b u")
    assert without_multipliers(one) == without_multipliers(two)
    held, more = stores(head), stores(state)
    assert more["requantization"] - held["requantization"] == (28 - 12) * 30
    assert {k: v for k, v in held.items() if k != "requantization"} == {
        k: v for k, v in more.items() if k != "requantization"
    }


def test_formats_per_tensor_share_the_constants_of_a_matrix(deployment: Factory) -> None:
    head, tensor = deployment(bits=BITS), deployment(bits=BITS, scheme={"granularity": "tensor"})
    name = "read requantization of the inputs"
    assert (of(head, "encoder")[name].count, of(head, "mixing")[name].count) == (3, 4)
    assert name not in of(tensor, "encoder")
    # Of the matrices' inputs; of the recurrence 12 against 3; of D u + y, residual, gate and mean one channel's.
    fewer = (2 + 3 + 3) + (12 - 3) + (8 - 2) + (8 - 2) + (4 - 1) + (4 - 1)
    assert stores(head)["requantization"] - stores(tensor)["requantization"] == 30 * fewer
    for operator in ("recurrence", "after_d", "glu", "residual", "pool"):
        one, two = of(head, operator), of(tensor, operator)
        gone = [action for name, action in one.items() if name not in two]
        # what is read of constants, and nothing else, is gone
        assert [(a.verb, a.store, a.bits) for a in gone] == [("read", "coefficients", (30,))]
    assert float(cost(tensor)["energy_total"]) < float(cost(head)["energy_total"])


def test_the_piecewise_gelu_is_arithmetic(deployment: Factory) -> None:
    exact, piecewise = (deployment(bits=BITS, scheme={"gelu": g}) for g in ("exact", "piecewise"))
    one, two = of(exact, "gelu"), of(piecewise, "gelu")
    assert one.pop("GELU").verb == "lookup"
    assert (two["x + 2, clamped"].verb, two["x + 2, clamped"].bits) == ("add", (10,))  # centred 9, and a carry
    assert two["x (x + 2)"].bits == (9, 10)
    assert two["requantize"].bits == (19, 24)
    assert slots(two) == 3 * 4
    assert {k: v for k, v in two.items() if k in one} == one
    assert stores(piecewise)["requantization"] - stores(exact)["requantization"] == 4 * 30  # one a channel


OPTIONS = [{"rounding_placement": "separate"}, {"granularity": "state"}, {"gelu": "piecewise"}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_priced(deployment: Factory, options: dict) -> None:
    plain, changed = cost(deployment(bits=BITS)), cost(deployment(bits=BITS, scheme=options))
    assert float(changed["energy_total"]) > 0
    assert float(changed["energy_total"]) != float(plain["energy_total"])
    assert float(changed["latency_total"]) > 0
