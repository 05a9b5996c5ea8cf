"""Numbers and things in words: SI prefixes, durations, the deviation of a few measurements, cards."""

from __future__ import annotations

import html
import math
import re
import textwrap
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import numpy as np

from imc_ssm.errors import ConfigError

__all__ = [
    *("DAY", "HOUR", "SECONDS", "card", "card_html", "deviation", "duration", "moments", "prefix", "quantity"),
    *("seconds", "whole"),
]

HOUR, DAY = 3600.0, 86400.0
"""s."""
_TIMES = ((365.25 * DAY, "y"), (DAY, "d"), (HOUR, "h"), (60.0, "min"))
SECONDS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": HOUR, "d": DAY, "y": 365.25 * DAY}
"""s in a unit, as times are written."""
_PREFIXES = ((6, "M"), (3, "k"), (0, ""), (-3, "m"), (-6, "µ"), (-9, "n"), (-12, "p"), (-15, "f"))


def seconds(time: Any) -> float:
    """A time in s: a number of Python, NumPy or xarray, with s, min, h, d or y as a word ("30d"), or a timedelta.

    Raises `ConfigError` for anything else, and for a time that is negative or not finite.
    """
    if isinstance(time, str):
        match = re.fullmatch(r"\s*([0-9.eE+-]+?)\s*([a-z]*)\s*", time)
        unit = SECONDS.get((match[2] or "s") if match else "")
        try:
            value = float(match[1]) * unit if match and unit else math.nan
        except ValueError:
            value = math.nan
        if math.isnan(value):
            raise ConfigError(
                f"time {time.strip()[:40]!r} is not understood; "
                "give numbers with s, min, h, d or y, such as 1s,1h,1d"
            )
    elif isinstance(time, timedelta):
        value = time.total_seconds()
    else:
        array = np.asarray(time)
        if array.size != 1 or array.dtype.kind not in "iufm":
            raise ConfigError(f"time {_short(time)} is not a number of seconds or a word such as '1h' or '30d'")
        value = float(array.item() if array.dtype.kind != "m" else array / np.timedelta64(1, "s"))
    if not 0 <= value < math.inf:
        raise ConfigError(f"time {_short(time)} is not after programming; allowed are 0 and above")
    return value


def moments(times: Any) -> tuple[float, ...]:
    """Times in s: one of those that `seconds` takes, several, or "1s,1h,30d"; an array or coordinate too.

    Raises `ConfigError` as `seconds`, where there is none, and for one that is given twice.
    """
    if isinstance(times, str):
        each: list[Any] = times.split(",")
    elif isinstance(times, timedelta) or np.ndim(times) == 0:
        each = [times]
    else:
        each = list(times)
    out = tuple(seconds(time) for time in each)
    if not out:
        raise ConfigError("no times were given; give at least one, such as '1s' or [1.0, 86400.0]")
    if len(set(out)) < len(out):
        twice = next(time for time in out if out.count(time) > 1)
        raise ConfigError(f"time {twice:g} s is given twice; give each once")
    return out


def whole(number: Any, name: str, *, least: int = 0) -> int:
    """A whole number of Python, NumPy or xarray, at least `least`; `ConfigError` for anything else."""
    array = np.asarray(number)
    if array.size != 1 or array.dtype.kind not in "iuf" or not float(array.item()).is_integer():
        raise ConfigError(f"{name} = {_short(number)}; give a whole number")
    value = int(array.item())
    if value < least:
        raise ConfigError(f"{name} = {value}; allowed is at least {least}")
    return value


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."


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
    left = min(max((len(name) for name in rows), default=0), width // 2)
    out = [textwrap.shorten(title, width, placeholder=" ...")]
    for name, value in rows.items():
        text = textwrap.shorten(str(value), width - left - 4, placeholder=" ...")
        out.append(f"  {name[:left]:<{left}}  {text}")
    return "\n".join(out if len(out) <= lines else [*out[: lines - 1], f"  ... {len(out) - lines + 1} more"])


def card_html(title: str, rows: Mapping[str, object]) -> str:
    """The same as a table for notebooks."""
    cells = "".join(
        f"<tr><th align='left'>{html.escape(name)}</th><td align='left'>{html.escape(text)}</td></tr>"
        for name, value in rows.items()
        for text in (textwrap.shorten(str(value), 300, placeholder=" ..."),)
    )
    return f"<b>{html.escape(title)}</b><table>{cells}</table>"
