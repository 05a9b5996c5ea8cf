"""Refresh and recalibration, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from imc_ssm.chip.schedules import Maintenance, Moment
from imc_ssm.errors import ConfigError
from imc_ssm.units import DAY, HOUR


@pytest.mark.parametrize(
    ("time", "cycle", "age"),
    [(1.0, 0, 1.0), (6 * DAY, 0, 6 * DAY), (7 * DAY, 0, 7 * DAY), (7 * DAY + 1, 1, 1.0), (30 * DAY, 4, 2 * DAY)],
)
def test_a_refresh_makes_chips_young(time: float, cycle: int, age: float) -> None:
    assert Maintenance.every("7d").at(time) == Moment(cycle, age, None, 1 + cycle)


def test_recalibration_is_counted_from_programming() -> None:
    daily = Maintenance(None, DAY)
    assert daily.at(HOUR) == Moment(0, HOUR, 0.0, 1)
    assert daily.at(DAY) == Moment(0, DAY, 0.0, 1)  # the next one comes after the reading
    assert daily.at(DAY + 1) == Moment(0, DAY + 1, DAY, 2)
    assert daily.at(30 * DAY) == Moment(0, 30 * DAY, 29 * DAY, 30)
    both = Maintenance(7 * DAY, 2 * DAY)
    # Programmed on days 0 and 7, and measured on 2, 4, 6, 9, 11.
    assert both.at(12 * DAY) == Moment(1, 5 * DAY, 4 * DAY, 2 + 3 + 2)
    # An interval that divides the other: what falls on programming is programming's own.
    assert Maintenance(4 * DAY, 2 * DAY).at(9 * DAY) == Moment(2, DAY, 0.0, 3 + 2)


def test_rounding_moves_nothing() -> None:
    tenth = Maintenance(0.1)
    for n in range(1, 200):
        for time in (n * 0.1, n / 10, 0.1 * n + 1e-14):
            assert tenth.at(time) == Moment(n - 1, pytest.approx(0.1), None, n)
    assert Maintenance(0.1).at(0.0) == Moment(0, 0.0, None, 1)


def test_nothing_to_do() -> None:
    assert Maintenance().at(30 * DAY) == Moment(0, 30 * DAY, None, 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"refresh": 0}, "refresh = 0; give an interval above 0 s"),
        ({"recalibrate": "0s"}, "recalibrate = '0s'; give an interval"),
        ({"refresh": "weekly"}, "'weekly' is not understood"),
        ({"refresh": -1.0}, "not after programming"),
        ({"refresh": "1d", "recalibrate": "1d"}, "recalibrate = 1 d is not shorter than refresh = 1 d"),
    ],
)
def test_bad_intervals_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Maintenance.every(**given)
