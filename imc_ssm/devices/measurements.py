"""Conductances measured on devices, as a CSV or arrays hold them: read, converted to SI, checked."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imc_ssm.errors import DataError, FileError

__all__ = ["CONDUCTANCES", "TIMES", "Measurements", "read_measurements"]

Numbers = npt.NDArray[np.float64]
CONDUCTANCES = {"S": 1.0, "mS": 1e-3, "uS": 1e-6, "µS": 1e-6, "μS": 1e-6, "nS": 1e-9, "pS": 1e-12}
"""S in a unit."""
TIMES = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
"""s in a unit."""
MOST = 0.1
"""S; no analog memory device conducts more."""
FEWEST = 20
"""Readings that a standard deviation is worth something from: 16 % at 20."""
_HEADER = re.compile(
    r"^\s*(target|measured|time|device)\s*(?:[_ ]*[\[(]?\s*([A-Za-zµμ]+)\s*[\])]?)?\s*$", re.IGNORECASE
)


@dataclass(frozen=True, eq=False)
class Measurements:
    """Readings of devices, one a row, in SI units."""

    target: Numbers
    """What was to be written, S."""
    measured: Numbers
    """What was read, S."""
    time: Numbers | None
    """When, after programming, s."""
    device: npt.NDArray[np.int64] | None
    """Which device, from 0; None: unknown, each row another one."""
    source: str
    """Where the numbers come from: the file's name."""

    def __len__(self) -> int:
        return len(self.target)


def read_measurements(
    data: str | Path | Mapping[str, Any],
    *,
    conductance_unit: str | None = None,
    time_unit: str | None = None,
) -> Measurements:
    """Readings from a CSV file, or from columns by name (a mapping of arrays, a pandas frame).

    Columns `target` and `measured`, with more than one time `time`, and where devices were read again `device`
    (any name or number). Units stand in the name of a column, `target_uS`, `time (h)`, or in the options. Columns
    are separated by comma, semicolon or tab; lines that begin with # are comments; other columns are left out.

    Raises `FileError` for a file that cannot be read as text, `DataError` for columns that are missing or without
    unit, rows that are no numbers, and values that no device has.
    """
    if isinstance(data, str | Path):
        source, columns = Path(data).name, _columns(Path(data))
    else:
        source, columns = "arrays", {str(name): data[name] for name in data}
    found: dict[str, tuple[str, str | None]] = {}
    for name in columns:
        match = _HEADER.match(name)
        if match:
            kind = match[1].lower()
            if kind in found:
                raise DataError(f"{source}: columns {found[kind][0]!r} and {name!r} are both {kind}; keep one")
            found[kind] = name, match[2]
    for kind in ("target", "measured"):
        if kind not in found:
            given = ", ".join(repr(name[:30]) for name in list(columns)[:8]) or "none"
            raise DataError(
                f"{source}: no column {kind!r}; give target and measured with their unit (target_uS, "
                f"measured_uS), time (time_s) and device where there are several readings; columns are {given}"
            )
    target, measured = (
        _numbers(source, columns, *found[kind], conductance_unit, CONDUCTANCES, "conductance")
        for kind in ("target", "measured")
    )
    time = _numbers(source, columns, *found["time"], time_unit, TIMES, "time") if "time" in found else None
    device = None
    if "device" in found:
        device = np.unique(np.asarray(columns[found["device"][0]]).astype(str), return_inverse=True)[1].astype(
            np.int64
        )
    readings = Measurements(target, measured, time, device, source)
    _check(readings)
    return readings


def _columns(path: Path) -> dict[str, Any]:
    """The columns of a CSV, as text."""
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:  # a null byte in the name
        why = getattr(error, "strerror", None) or error
        raise FileError(f"cannot read {path}: {why}; give the path of a CSV") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise FileError(f"{path} is no text in UTF-8; give a CSV (save a spreadsheet as CSV first)")
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    if len(lines) < 2:
        raise DataError(f"{path} holds {'a header and no' if lines else 'no'} readings; give one row a reading")
    separator = max(",;\t", key=lines[0][1].count)
    try:
        rows = list(csv.reader(io.StringIO("\n".join(line for _, line in lines)), delimiter=separator))
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV: {error}") from None
    header = [name.strip() for name in rows[0]]
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{path}: two columns are named {twice[:30]!r}; name each once")
    for (number, _), row in zip(lines[1:], rows[1:], strict=False):
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {number}: {len(row)} values, the header has {len(header)} columns (decimal commas? "
                "use points)"
            )
    return {name: [row[i].strip() for row in rows[1:]] for i, name in enumerate(header)}


def _numbers(
    source: str,
    columns: Mapping[str, Any],
    name: str,
    unit: str | None,
    option: str | None,
    units: dict[str, float],
    kind: str,
) -> Numbers:
    """A column in SI units."""
    unit = unit or option
    if unit is None or unit not in units:
        known = ", ".join(u for u in units if u.isascii())
        what = "has no unit" if unit is None else f"has unit {unit[:20]!r}"
        raise DataError(
            f"{source}: column {name[:30]!r} {what}; allowed are {known}: write {name.split('_')[0][:20]}_"
            f"{'uS' if kind == 'conductance' else 's'} in the header or give --{kind}-unit"
        )
    try:
        values = np.asarray(columns[name], dtype=np.float64)
    except (ValueError, TypeError):
        values = np.array([np.nan])
        for row, cell in enumerate(columns[name], 1):
            try:
                float(cell)
            except (ValueError, TypeError):
                raise DataError(
                    f"{source}: row {row}, column {name[:30]!r}: {str(cell)[:30]!r} is no number"
                ) from None
    if values.ndim != 1:
        raise DataError(f"{source}: column {name[:30]!r} has shape {values.shape}; give one number a reading")
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise DataError(
            f"{source}: row {wrong[0] + 1}, column {name[:30]!r}: {values[wrong[0]]} is no finite number"
        )
    return values * units[unit]


def _check(readings: Measurements) -> None:
    """Refuse what no device can have measured."""
    source, n = readings.source, len(readings.target)
    sizes = {len(c) for c in (readings.target, readings.measured, readings.time, readings.device) if c is not None}
    if len(sizes) > 1:
        raise DataError(
            f"{source}: columns have {' and '.join(map(str, sorted(sizes)))} rows; give as many of each"
        )
    if n < FEWEST:
        raise DataError(f"{source}: {n} readings are too few; give at least {FEWEST}")
    for name in ("target", "measured"):
        values = getattr(readings, name)
        low, high = int(values.argmin()), int(values.argmax())
        if values[low] < 0:
            raise DataError(
                f"{source}: row {low + 1}: {name} = {values[low]:.4g} S is negative; give conductances of single "
                "devices, not of differential pairs"
            )
        if values[high] > MOST:
            raise DataError(
                f"{source}: row {high + 1}: {name} = {values[high]:.4g} S; no device conducts more than {MOST} S "
                "(is the unit right?)"
            )
    if not readings.target.max() > 0:
        raise DataError(f"{source}: every target is 0 S; there is nothing to fit")
    there = readings.target > 0.1 * readings.target.max()
    ratio = float(np.median(readings.measured[there] / readings.target[there]))
    if not 0.1 < ratio < 10:
        raise DataError(
            f"{source}: what was measured is {ratio:.3g} times the target (median); are both in the units stated?"
        )
    if readings.time is not None:
        low = int(readings.time.argmin())
        several = readings.time.max() > readings.time[low]
        if readings.time[low] < 0 or (several and readings.time[low] == 0):
            raise DataError(
                f"{source}: row {low + 1}: time = {readings.time[low]:g} s; times are counted from the end of "
                "programming and above 0 (how long after it was the first reading?)"
            )
        if readings.time.max() > 1e12:
            raise DataError(
                f"{source}: time = {readings.time.max():.4g} s is beyond 30,000 years; is the unit right?"
            )
