"""Numbers in words."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import xarray as xr

from imc_ssm.errors import ConfigError
from imc_ssm.units import deviation, duration, moments, prefix, quantity, seconds, whole


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


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (1, 1.0),
        (np.int64(60), 60.0),
        (np.float32(2.5), 2.5),
        (np.array(3.0), 3.0),
        (xr.DataArray(4.0), 4.0),
        ("1d", 86400.0),
        (" 1.5h ", 5400.0),
        ("30", 30.0),
        ("1e3s", 1000.0),
        ("10ms", 0.01),
        ("2y", 2 * 365.25 * 86400),
        (timedelta(hours=1), 3600.0),
        (np.timedelta64(2, "D"), 172800.0),
    ],
)
def test_times_as_people_have_them(time: Any, expected: float) -> None:
    assert seconds(time) == pytest.approx(expected)
    assert moments(time) == pytest.approx((expected,))
    assert type(seconds(time)) is float


@pytest.mark.parametrize("time", ["", "soon", "1 parsec", "1h1", "-1s", "nan", None, True, [1.0, 2.0], "e", {}])
def test_what_is_no_time_is_one_sentence(time: Any) -> None:
    with pytest.raises(ConfigError, match="time") as caught:
        seconds(time)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160


def test_whole_numbers() -> None:
    for number in (3, np.int8(3), np.array(3), np.float64(3.0), xr.DataArray(3)):
        assert whole(number, "chips") == 3
        assert type(whole(number, "chips")) is int
    for wrong in (3.5, "3", None, True, [3, 4], np.nan, np.inf, object()):
        with pytest.raises(ConfigError, match=r"chips = .*; give a whole number"):
            whole(wrong, "chips")
    with pytest.raises(ConfigError, match="chips = 0; allowed is at least 1"):
        whole(0, "chips", least=1)
