"""What the options of a scheme change in the counts, by hand: 4 heads, 3 complex states, 12 in all."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from imc_ssm.costs import cost, operation_counts
from imc_ssm.costs.counts import Operation, stores

Factory = Callable[..., SimpleNamespace]
BITS = {"poles": 6, "b": 5, "c": 7, "state": 10, "encoder": 4, "after_d": 8, "gelu": 9}


def of(deployment: SimpleNamespace, operator: str) -> dict[str, Operation]:
    """Operations of one operator by purpose, reads and writes apart; registers left out."""
    return {
        (op.purpose if op.store is None else f"{op.action} {op.purpose}"): op
        for op in operation_counts(deployment)
        if op.operator == operator and op.action != "register"
    }


def slots(found: dict[str, Operation]) -> int:
    return sum(op.slots for op in found.values())


def test_the_separate_order_adds_rounded_words(deployment: Factory) -> None:
    joint, separate = (of(deployment(bits=BITS, order=o), "layers.0.recurrence") for o in ("joint", "separate"))
    both, words = joint.pop("a x + b u"), separate.pop("round(a x) + round(b u)")
    assert joint == separate  # the products are the same
    # On the accumulator behind the products, against words of the state with a carry, on a slot of their own.
    assert (both.count, both.bits, both.slots) == (24, (34,), 0)
    assert (words.count, words.bits, words.slots) == (24, (11,), 24)


def test_formats_per_state_have_multipliers_per_state(deployment: Factory) -> None:
    head = deployment(bits=BITS)
    state = deployment(bits=BITS, granularity="state")
    one, two = of(head, "layers.0.recurrence"), of(state, "layers.0.recurrence")
    name = "read m_a, m_b, m_y"
    assert (one.pop(name).count, two.pop(name).count) == (4 * 3, 4 * (2 * 3 + 1))
    assert one == two  # the products of all states have one scale: nothing to align
    held, more = stores(head), stores(state)
    assert more["requantization"] - held["requantization"] == (28 - 12) * 30
    assert {k: v for k, v in held.items() if k != "requantization"} == {
        k: v for k, v in more.items() if k != "requantization"
    }


def test_the_piecewise_gelu_is_arithmetic(deployment: Factory) -> None:
    exact, piecewise = (deployment(bits=BITS, gelu=g) for g in ("exact", "piecewise"))
    one, two = of(exact, "layers.0.gelu"), of(piecewise, "layers.0.gelu")
    assert one.pop("GELU").action == "lookup"
    assert (two["x + 2, clamped"].action, two["x + 2, clamped"].bits) == ("add", (9,))
    assert two["x (x + 2)"].bits == (8, 9)
    assert two["requantize"].bits == (17, 24)
    assert slots(two) == 3 * 4
    assert {k: v for k, v in two.items() if k in one} == one
    assert stores(piecewise)["requantization"] - stores(exact)["requantization"] == 30


@pytest.mark.parametrize("options", [{"order": "separate"}, {"granularity": "state"}, {"gelu": "piecewise"}])
def test_priced(deployment: Factory, options: dict) -> None:
    plain, changed = cost(deployment(bits=BITS)), cost(deployment(bits=BITS, **options))
    assert float(changed["energy_total"]) > 0
    assert float(changed["energy_total"]) != float(plain["energy_total"])
    assert float(changed["latency_total"]) > 0
