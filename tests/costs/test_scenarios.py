"""Scenarios of constants and the intervals that follow from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imc_ssm.devices.constants import Constants, CostConstant, load_constants
from imc_ssm.errors import ConfigError
from imc_ssm.pricing.intervals import bounds, least, most, nominal, scenarios, swings


def constant(value: float, low: float, high: float, **more: str) -> CostConstant:
    return CostConstant.parse(
        {
            "value": value,
            "low": low,
            "high": high,
            "unit": "J",
            "source": "a paper, Table I",
            "kind": "cited",
            "holds": "always",
        }
        | more
    )


RANGES = {"a": constant(2.0, 1.0, 8.0), "b": constant(3.0, 3.0, 6.0), "c": constant(5.0, 4.0, 5.0)}


def test_the_first_scenario_is_nominal_and_the_others_change_one_constant():
    k, one = scenarios(RANGES), nominal(RANGES)
    assert k.a.tolist() == [2, 1, 8, 2, 2, 2, 2]
    assert k.b.tolist() == [3, 3, 3, 3, 6, 3, 3]
    assert [one.a, one.b, one.c] == [k.a[0], k.b[0], k.c[0]] == [2, 3, 5]


def test_a_product_moves_by_the_root_of_the_sum_of_squared_logs():
    k = scenarios(RANGES)
    low, middle, high = bounds(k.a * k.b / k.c, k)
    assert middle == 1.2
    assert math.log(high / 1.2) == pytest.approx(math.hypot(math.log(4), math.log(2), math.log(1.25)))
    assert math.log(1.2 / low) == pytest.approx(math.log(2))  # c at its low end moves it up, never down


def test_a_sum_moves_less_than_its_parts():
    k = scenarios(RANGES)
    low, middle, high = bounds(k.a + 100 * k.b, k)
    assert 302 * 0.99 < low < middle == 302 < high < 604


def test_constants_apart_are_intervals_apart():
    k = scenarios(RANGES)
    found = bounds(np.stack([k.a, k.b]), k)
    assert found.low == pytest.approx([1, 3])
    assert found.high == pytest.approx([8, 6])
    assert bounds(7.0, k) == (7, 7, 7)
    assert bounds(0 * k.a, k) == (0, 0, 0)


def test_swings_name_the_widest_first():
    k = scenarios(RANGES)
    found = swings(k.a * k.b, k)
    assert list(found) == ["a", "b", "c"]
    assert found["a"] == pytest.approx((0.5, 4))
    assert found["b"] == pytest.approx((1, 2))
    assert found["c"] == (1, 1)


@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_most_and_least_of_floats_and_arrays_are_alike(a, b):
    for pick in (most, least):
        assert pick(a, b) == pick(np.array([a]), b)[0] == pick(a, np.array([b]))[0]
        assert type(pick(a, b)) is float


def test_a_constant_has_an_order_a_kind_and_what_would_replace_it():
    with pytest.raises(ConfigError, match=r"low 3.0, value 2.0 and high 4.0 must grow"):
        constant(2.0, 3.0, 4.0)
    with pytest.raises(ConfigError, match="replaced_by"):
        constant(2.0, 1.0, 4.0, kind="assumed")
    with pytest.raises(ConfigError, match="replaced_by"):
        constant(2.0, 1.0, 4.0, replaced_by="a measurement")


def test_constants_are_changed_by_name_and_unit(tmp_path):
    shipped = load_constants()
    name, old = next(iter(shipped.entries.items()))
    own = tmp_path / "own.toml"
    text = (
        'value = 1.0\nlow = 0.5\nhigh = 2.0\nunit = "{}"\nsource = "my own chip"\nkind = "cited"\nholds = "here"\n'
    )
    own.write_text(f"[{name}]\n" + text.format(old.unit))
    changed = load_constants(own)
    assert changed[name].value == 1.0
    assert {n: c for n, c in changed.entries.items() if n != name} == {
        n: c for n, c in shipped.entries.items() if n != name
    }
    own.write_text(f"[{name}]\n" + text.format("parsec"))
    with pytest.raises(ConfigError, match="parsec"):
        load_constants(own)
    own.write_text(f"[{name}x]\n" + text.format(old.unit))
    with pytest.raises(ConfigError, match=f"{name}x.*did you mean '{name}'"):
        load_constants(own)


def test_an_unknown_constant_is_no_attribute():
    assert not hasattr(nominal(RANGES), "d")
    with pytest.raises(ConfigError, match="unknown constant 'd'"):
        Constants(entries=RANGES)["d"]
