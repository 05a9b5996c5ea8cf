"""Numbers in words: SI prefixes, durations, and the deviation of a few measurements."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

__all__ = ["DAY", "HOUR", "deviation", "duration", "prefix", "quantity"]

HOUR, DAY = 3600.0, 86400.0
"""s."""
_TIMES = ((365.25 * DAY, "y"), (DAY, "d"), (HOUR, "h"), (60.0, "min"))
_PREFIXES = ((6, "M"), (3, "k"), (0, ""), (-3, "m"), (-6, "µ"), (-9, "n"), (-12, "p"), (-15, "f"))


def deviation(values: Iterable[float]) -> float:
    """Sample standard deviation (n - 1 in the denominator); NaN of fewer than two values, and of infinite ones."""
    there = np.asarray(list(values), float)
    return float(there.std(ddof=1)) if there.size > 1 and bool(np.isfinite(there).all()) else math.nan


def duration(seconds: float, digits: int = 3) -> str:
    """A time in the largest unit that keeps it at least 1: "45 s", "1.5 h", "30 d"."""
    for size, unit in _TIMES:
        if seconds >= size:
            return f"{_rounded(seconds / size, digits)} {unit}"
    return f"{_rounded(seconds, digits)} s"


def prefix(value: float, unit: str) -> tuple[float, str]:
    """Factor and prefixed unit that bring `value` to 1 .. 1000: 2.85e-7, "J" -> 1e9, "nJ"."""
    for exponent, letter in _PREFIXES:
        if abs(value) >= 10.0**exponent:
            return 10.0**-exponent, letter + unit
    return 10.0 ** -_PREFIXES[-1][0], _PREFIXES[-1][1] + unit


def quantity(value: float, unit: str, digits: int = 3) -> str:
    """A number with an SI prefix: 2.85e-7 J -> "285 nJ"; areas in mm2; "-" for NaN and infinities."""
    if not math.isfinite(value):
        return "-"
    if unit == "m2":
        return f"{_rounded(value * 1e6, digits)} mm2"
    factor, name = (1.0, unit) if value == 0 else prefix(value, unit)
    return f"{_rounded(value * factor, digits)} {name}"


def _rounded(value: float, digits: int) -> str:
    """So many digits, without an exponent where it is short."""
    return f"{float(f'{value:.{digits}g}'):g}"
