"""Numbers and things in words: SI prefixes, durations, the deviation of a few measurements, cards."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Mapping

import numpy as np

__all__ = ["DAY", "HOUR", "card", "card_html", "deviation", "duration", "prefix", "quantity"]

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


def card(title: str, rows: Mapping[str, object], *, lines: int = 10, width: int = 100) -> str:
    """What a console prints for a thing: its title, then a line for each row; at most so many lines."""
    left = max((len(name) for name in rows), default=0)
    out = [textwrap.shorten(title, width, placeholder=" ...")]
    for name, value in rows.items():
        text = textwrap.shorten(str(value), width - left - 4, placeholder=" ...")
        out.append(f"  {name:<{left}}  {text}")
    return "\n".join(out if len(out) <= lines else [*out[: lines - 1], f"  ... {len(out) - lines + 1} more"])


def card_html(title: str, rows: Mapping[str, object]) -> str:
    """The same as a table for notebooks."""
    cells = "".join(
        f"<tr><th align='left'>{html.escape(name)}</th><td align='left'>{html.escape(text)}</td></tr>"
        for name, value in rows.items()
        for text in (textwrap.shorten(str(value), 300, placeholder=" ..."),)
    )
    return f"<b>{html.escape(title)}</b><table>{cells}</table>"
