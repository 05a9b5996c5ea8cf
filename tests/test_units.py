"""Numbers in words."""

from __future__ import annotations

import math

import pytest

from imc_ssm.units import deviation, duration, prefix, quantity


@pytest.mark.parametrize(
    ("seconds", "digits", "text"),
    [
        (0, 3, "0 s"),
        (0.21, 3, "0.21 s"),
        (45.04, 2, "45 s"),
        (90, 3, "1.5 min"),
        (5400, 2, "1.5 h"),
        (2592000.0, 3, "30 d"),
        (120.4 * 86400, 2, "120 d"),
        (31557600.0, 3, "1 y"),
    ],
)
def test_durations(seconds: float, digits: int, text: str) -> None:
    assert duration(seconds, digits) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (2.8512e-7, "J", "285 nJ"),
        (0.0, "J", "0 J"),
        (-2e-3, "V", "-2 mV"),
        (12345.0, "bit", "12.3 kbit"),
        (1e-18, "J", "0.001 fJ"),
        (1.5e-6, "m2", "1.5 mm2"),
        (25e-6, "S", "25 µS"),
        (math.nan, "J", "-"),
        (math.inf, "J", "-"),
    ],
)
def test_quantities(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_a_prefix_brings_a_value_to_1_to_1000() -> None:
    for exponent in range(-14, 9):
        factor, unit = prefix(2.0 * 10.0**exponent, "J")
        assert 1 <= 2.0 * 10.0**exponent * factor < 1000
        assert unit.endswith("J")


def test_the_deviation_is_the_samples() -> None:
    assert deviation([1.0, 3.0]) == pytest.approx(math.sqrt(2.0))
    assert math.isnan(deviation([1.0]))
    assert math.isnan(deviation([1.0, math.inf]))
