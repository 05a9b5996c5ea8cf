"""When a chip is programmed again, and when its drift compensation is measured again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from imc_ssm.errors import ConfigError
from imc_ssm.units import duration, seconds

__all__ = ["Maintenance", "Moment"]


@dataclass(frozen=True)
class Moment:
    """How a chip stands at a time."""

    cycle: int
    """How often it has been programmed again."""
    age: float
    """Seconds since it was programmed last."""
    calibrated: float | None
    """Seconds from its last programming to the last measurement of its drift compensation; 0: at programming;
    None: it is measured now."""
    calibrations: int
    """How often compensation has been measured up to now, each programming once and without those that are
    made for a reading alone."""


@dataclass(frozen=True)
class Maintenance:
    """Upkeep at fixed intervals; what falls on the very moment of a reading comes after it.

    A reading thus sees the oldest state that the intervals allow: after 7 days of `refresh` = 7 d, a chip is
    7 days old and not 0 s.
    """

    refresh: float | None = None
    """Seconds from programming to programming; None: programmed once."""
    recalibrate: float | None = None
    """Seconds from measurement to measurement of the compensation, counted from each programming; None: measured
    at every reading."""

    @classmethod
    def every(cls, refresh: Any = None, recalibrate: Any = None) -> Maintenance:
        """Intervals as `units.seconds` takes them ("7d").

        Raises `ConfigError` for one that is no time above 0, or `recalibrate` that is not below `refresh`.
        """
        again, measured = _interval("refresh", refresh), _interval("recalibrate", recalibrate)
        if again is not None and measured is not None and measured >= again:
            raise ConfigError(
                f"recalibrate = {duration(measured)} is not shorter than refresh = {duration(again)}, so it would "
                "never happen; programming measures the compensation anyway"
            )
        return cls(again, measured)

    def at(self, time: float) -> Moment:
        """The chip `time` s after it was first programmed."""
        cycle = _passed(time, self.refresh)
        age = time if self.refresh is None or not cycle else _left(time, self.refresh, cycle)
        if self.recalibrate is None:
            return Moment(cycle, age, None, 1 + cycle)
        measured = _passed(age, self.recalibrate)
        in_a_cycle = 0 if self.refresh is None else _passed(self.refresh, self.recalibrate)
        return Moment(cycle, age, measured * self.recalibrate, (cycle + 1) + cycle * in_a_cycle + measured)


def _interval(name: str, given: Any) -> float | None:
    if given is None:
        return None
    value = seconds(given)
    if value <= 0:
        raise ConfigError(f"{name} = {given!r}; give an interval above 0 s, such as '7d', or none")
    return value


def _passed(time: float, interval: float | None) -> int:
    """Whole intervals that ended before `time`; one that ends there (to rounding) has not."""
    if interval is None:
        return 0
    nearest = round(time / interval)
    if math.isclose(time, nearest * interval, rel_tol=1e-9):
        return max(nearest - 1, 0)
    return int(time // interval)


def _left(time: float, interval: float, cycle: int) -> float:
    """Time since interval number `cycle` began; the whole interval where it ends there."""
    age = time - cycle * interval
    return interval if math.isclose(age, interval, rel_tol=1e-6) else age
