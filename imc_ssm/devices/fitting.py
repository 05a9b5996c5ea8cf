"""A generic cell from measurements: what programming, time, reading and faults do to devices, fitted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tomli_w
from scipy import stats

from imc_ssm.devices.cell import Cell
from imc_ssm.devices.cells import load_cell, parse_cell
from imc_ssm.devices.drift_fitting import fit_drift
from imc_ssm.devices.generic import Generic
from imc_ssm.devices.laws import STUCK, SURE, Law, Line, bins, law_of
from imc_ssm.devices.measurements import FEWEST, Measurements, read_measurements
from imc_ssm.errors import DataError
from imc_ssm.files import atomic_path

__all__ = ["CellFit", "Line", "fit_cell", "groups_of"]

Numbers = npt.NDArray[np.float64]
RAIL = 0.1
"""A device is at a rail within this share of the range, or beyond the rail."""


@dataclass(frozen=True, eq=False)
class CellFit:
    """A cell, the measurements that it was fitted to, and how well."""

    cell: Generic
    data: Measurements
    lines: tuple[Line, ...]
    stuck: npt.NDArray[np.int8]
    """Per reading: -1 of a device stuck low, 1 stuck high, 2 an outlier that is neither, 0 the rest."""
    first: npt.NDArray[np.bool_]
    """Readings right after programming."""
    notes: tuple[str, ...] = field(default=())
    """What the user should know, a sentence each."""

    def toml(self) -> str:
        """The cell as a TOML, its goodness of fit in comments."""
        comments = [f"# Fitted to {len(self.data)} readings of {self.data.source}:"]
        comments += [f"#   {line.what}: {line.quality}" for line in self.lines]
        comments += [f"# {note}" for note in self.notes]
        content = self.cell.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return "\n".join(comments) + "\n" + tomli_w.dumps(content)

    def save(self, path: str | Path) -> None:
        """Write the TOML, atomically; `FileError` if that fails."""
        with atomic_path(Path(path)) as temporary:
            temporary.write_text(self.toml(), encoding="utf-8")


def fit_cell(
    data: Any,
    *,
    name: str = "my-cell",
    conductance_unit: str | None = None,
    time_unit: str | None = None,
    g_min: float | None = None,
    g_max: float | None = None,
    latest: float | None = None,
    like: str | Path | Cell = "generic-reram",
) -> CellFit:
    """Fit the model `generic` to measurements: a CSV, a mapping of columns, or `Measurements`.

    - Devices that do not follow their target are stuck: low or high where they sit at a rail (within 10 % of the
      range), outliers else. Rates count only devices whose target is far enough from that rail to tell.
    - Programming error: standard deviation about the target in the first readings, absolute, relative or a table
      by the Bayesian information criterion; what reading adds is taken off where it is known.
    - Drift: nu and its spread from ln G against ln t, device by device (`device` given), else from the mean and
      the variance over devices; retention, a decay to g_min, where a likelihood-ratio test asks for it.
    - Read noise from repeated readings (same device and time), its slow share from what is left between times.

    `g_min`, `g_max` (S): default, the range of the targets. `latest` (s): until when the cell may be used;
    default, the last reading. What is not measured (read voltage and time, area, kind) is that of the cell
    `like`, and its sources say so.

    Raises as `read_measurements`, and `DataError` for too few points or an impossible range.
    """
    if not isinstance(data, Measurements):
        data = read_measurements(data, conductance_unit=conductance_unit, time_unit=time_unit)
    low = float(data.target.min()) if g_min is None else float(g_min)
    high = float(data.target.max()) if g_max is None else float(g_max)
    if not 0 <= low < high:
        why = "every target is the same" if g_min is None and g_max is None else "g_max must exceed g_min >= 0"
        raise DataError(
            f"{data.source}: the range is {low:.4g} to {high:.4g} S: {why}; give --g-min and --g-max in S"
        )
    first = _first(data)
    if first.sum() < FEWEST:
        raise DataError(f"{data.source}: {int(first.sum())} readings right after programming; at least {FEWEST}")
    lines: list[Line] = []
    notes: list[str] = []
    fields: dict[str, Any] = {}
    source = f"fit to {data.source}"

    width = _robust_width(data.target[first], data.measured[first])
    stuck = _stuck(data, first, width, low, high, fields, lines, source)
    good = stuck == 0
    if (good & first).sum() < FEWEST:
        follow = f"{int((good & first).sum())} of {int(first.sum())} first readings"
        raise DataError(f"{data.source}: only {follow} follow their target; are the columns what they say?")
    reading = _read_noise(data, good)
    slow = fit_drift(data, good, first, width, low, reading, fields, lines, notes, source)
    _reading(reading, slow, data, good, fields, lines, source)
    _programming(data, good & first, reading, slow, fields, lines, notes, source)

    base = like if isinstance(like, Cell) else load_cell(like)
    last = None if data.time is None else float(f"{data.time.max():.4g}")
    begin = 0.0 if last is None or data.time is None else min(float(f"{data.time.min():.4g}"), last * 0.999)
    until = latest if latest is not None else (last or 1.0)
    seen = "no time was measured" if last is None else f"measured up to {last:g} s"
    if latest is not None and latest > (last or 0.0):
        notes.append(f"Times up to {latest:g} s are extrapolated: {seen}.")
    borrowed = {
        n: {"value": c.value, "unit": c.unit, "source": _borrowed(base.name, c.source)}
        for n, c in (("v_read", base.v_read), ("t_read", base.t_read), ("area", base.area))
    }
    ends = {
        n: {
            "value": float(f"{v:.6g}"),
            "unit": "S",
            "source": source if given is None else f"given for the {source}",
        }
        for n, v, given in (("g_min", low, g_min), ("g_max", high, g_max))
    }
    times: dict[str, Any] = {"earliest": 0.0 if "drift" not in fields else begin, "latest": until}
    times["source"] = f"{source}: {seen}" + (f", extrapolated to {until:g} s" if until > (last or 0) else "")
    head = {
        "name": name,
        "kind": base.kind,
        "model": "generic",
        "description": f"Fitted to {len(data)} readings of {data.source}",
        "source": f"{source}, imc-ssm devices fit",
    }
    cell = parse_cell(head | ends | borrowed | {"times": times} | fields, where=data.source)
    assert isinstance(cell, Generic)
    return CellFit(cell, data, tuple(lines), stuck, first, tuple(notes))


def _borrowed(name: str, source: str) -> str:
    """The source of a number that was not measured."""
    return f"assumed: not measured, as in {name}: {source.removeprefix('assumed: ')}"


def _first(data: Measurements) -> npt.NDArray[np.bool_]:
    """The earliest readings: of each device, or within twice the earliest time."""
    if data.time is None:
        return np.ones(len(data), bool)
    if data.device is None:
        return np.asarray(data.time <= 2 * data.time.min())
    earliest = np.full(data.device.max() + 1, np.inf)
    np.minimum.at(earliest, data.device, data.time)
    return np.asarray(data.time <= earliest[data.device] * (1 + 1e-9))


def groups_of(target: Numbers, measured: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Target, deviation from it and half its 95 % interval, in groups of devices: what a figure shows."""
    groups = [group for group in bins(target, 16) if group.sum() > 2]
    at = np.array([target[g].mean() for g in groups])
    sigma = np.array([np.sqrt(np.square(measured[g] - target[g]).mean()) for g in groups])
    return at, sigma, 1.96 * sigma / np.sqrt([2 * g.sum() for g in groups])


def _robust_width(target: Numbers, measured: Numbers) -> tuple[Numbers, Numbers]:
    """Conductances, and 1.4826 times the median distance from the target there."""
    groups = bins(target)
    at = np.array([target[g].mean() for g in groups])
    error = measured - target
    width = np.array([1.4826 * np.median(np.abs(error[g])) for g in groups])
    least = 1e-9 * target.max()
    return at, np.maximum(width, max(least, 0.1 * float(np.median(width))))


def _stuck(
    data: Measurements,
    first: npt.NDArray[np.bool_],
    width: tuple[Numbers, Numbers],
    low: float,
    high: float,
    fields: dict[str, Any],
    lines: list[Line],
    source: str,
) -> npt.NDArray[np.int8]:
    """Which readings are of stuck devices; writes the rates."""
    sigma = STUCK * np.interp(data.target, *width)
    off, margin = np.abs(data.measured - data.target) > sigma, RAIL * (high - low)
    at_low, at_high = data.measured < low + margin, data.measured > high - margin
    verdict = np.where(off & at_low, -1, np.where(off & at_high, 1, np.where(off, 2, 0))).astype(np.int8)
    verdict[~first] = 0
    if data.device is not None:  # a device that is stuck at first is stuck for life
        of = np.zeros(data.device.max() + 1, np.int8)
        of[data.device[first]] = verdict[first]
        verdict = of[data.device]
    elif data.time is not None:  # by row: far below what a common drift leaves, at a rail
        later = ~first
        for moment in np.unique(data.time[later]):
            now = later & (data.time == moment)
            if now.sum() < FEWEST:
                continue
            follows = data.target > low + 2 * margin
            ratio = (
                np.median(data.measured[now & follows] / data.target[now & follows])
                if (now & follows).any()
                else 1
            )
            error = data.measured - ratio * data.target
            wide = STUCK * 1.4826 * np.median(np.abs(error[now] - np.median(error[now])))
            far = now & (np.abs(error) > np.maximum(wide, sigma))
            verdict[far] = np.where(at_low[far], -1, np.where(at_high[far], 1, 2))
    one = first if data.device is None else first & _once(data.device, first)
    for side, word, rail, far in (
        (-1, "stuck_low", low, data.target - sigma > low + margin),
        (1, "stuck_high", high, data.target + sigma < high - margin),
    ):
        n, k = int((one & far).sum()), int((one & far & (verdict == side)).sum())
        if n == 0:
            continue
        ends = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
        between = (float(ends.low), float(ends.high))
        lines.append(Line(word, k / n, "1", between, n, f"{k} of {n} devices that can tell"))
        if k:
            said = f"{source}: {k} of {n} devices, 95 % from {between[0]:.3g} to {between[1]:.3g}"
            fields[word] = {"value": float(f"{k / n:.4g}"), "unit": "1", "source": said}
            where = float(np.median(data.measured[one & (verdict == side)]))
            if abs(where - rail) > 0.01 * (high - low):
                fields[f"g_{word}"] = {
                    "value": float(f"{where:.4g}"),
                    "unit": "S",
                    "source": f"{source}: median of {k} devices",
                }
    others = int((one & (verdict == 2)).sum())
    if others:
        share = others / int(one.sum())
        lines.append(Line("outliers", share, "1", None, int(one.sum()), f"{others} devices, left out of the fit"))
    return verdict


def _once(device: npt.NDArray[np.int64], among: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """One reading of each device."""
    out = np.zeros(len(device), bool)
    rows = np.flatnonzero(among)
    out[rows[np.unique(device[rows], return_index=True)[1]]] = True
    return out


def _read_noise(data: Measurements, good: npt.NDArray[np.bool_]) -> tuple[Law, int, float, str] | None:
    """Fast read noise from readings of one device at one time: law, degrees of freedom, readings each, quality."""
    if data.device is None:
        return None
    moment = np.zeros(len(data)) if data.time is None else data.time
    _, group, count = np.unique(
        np.stack([data.device.astype(float), moment])[:, good], axis=1, return_inverse=True, return_counts=True
    )
    freedom = len(group) - len(count)
    if freedom < FEWEST:
        return None
    # Each reading against the mean of those before it (Helmert): independent, of the variance of one reading.
    order = np.argsort(group.ravel(), kind="stable")
    g, group = data.measured[good][order], group.ravel()[order]
    place = np.arange(len(g)) - np.searchsorted(group, group)
    before = np.concatenate([[0.0], np.cumsum(g)])
    again = place > 0
    k = place[again]
    mean = (before[:-1][again] - before[np.searchsorted(group, group)][again]) / k
    residual = (g[again] - mean) * np.sqrt(k / (k + 1))
    level = (np.bincount(group, g) / count)[group][again]
    there = level > 0  # a reading of nothing at all says nothing about noise
    law, quality = law_of(residual[there], level[there], tables=False)
    return law, freedom, len(group) / len(count), quality


def _programming(
    data: Measurements,
    use: npt.NDArray[np.bool_],
    reading: tuple[Law, int, float, str] | None,
    slow: float,
    fields: dict[str, Any],
    lines: list[Line],
    notes: list[str],
    source: str,
) -> None:
    """Deviation about the target in the first readings, without what reading adds."""
    target, measured = data.target[use], data.measured[use]
    if data.device is not None:  # mean of the readings of a device
        _, of, count = np.unique(data.device[use], return_inverse=True, return_counts=True)
        target, measured = np.bincount(of, target) / count, np.bincount(of, measured) / count
    error = measured - target
    noise = (slow * target) ** 2
    if reading is not None:
        noise = noise + reading[0].at(target) ** 2 / (len(data.measured[use]) / len(target))
    law, quality = law_of(error, target)
    if noise.any():  # per conductance: sigma^2 less that of the readings
        at = np.array(law.against) if law.against else np.array([float(np.sqrt(np.square(target).mean()))])
        own = np.sqrt(np.maximum(law.at(at) ** 2 - np.interp(at, np.sort(target), noise[np.argsort(target)]), 0.0))
        value = (
            tuple(float(v) for v in own)
            if law.against
            else float(own[0] / (at[0] if law.name == "relative" else 1))
        )
        law = Law(law.name, value, law.against)
        quality += ", less the read noise"
    n = len(target)
    half = 1.96 / math.sqrt(2 * n)
    size = law.value
    between = None if isinstance(size, tuple) else (size * (1 - half), size * (1 + half))
    lines.append(Line("programming_error", size, law.unit, between, n, quality))
    rounded = tuple(float(f"{v:.4g}") for v in size) if isinstance(size, tuple) else float(f"{size:.4g}")
    fields["programming_error"] = Law(law.name, rounded, law.against).fields(f"{source}: {quality}")
    offset, spread = float(error.mean()), float(error.std(ddof=1))
    if abs(offset) > stats.norm.isf(SURE / 2) * spread / math.sqrt(n) and abs(offset) > 0.1 * spread:
        notes.append(
            f"What was written is {offset:.3g} S off the target on average ({offset / spread:+.0%} of it): "
            "the model has no such offset: it is in the programming error."
        )


def _reading(
    reading: tuple[Law, int, float, str] | None,
    slow: float,
    data: Measurements,
    good: npt.NDArray[np.bool_],
    fields: dict[str, Any],
    lines: list[Line],
    source: str,
) -> None:
    """Write the read noise: fast from repeats, slow from what is left over between times."""
    if reading is None and slow < 1e-5:  # single precision
        return
    clear = data.measured[good & (data.target > 0.1 * data.target.max())]
    if reading is None:
        said = "scatter between times about each device's drift; fast noise cannot be told from it without repeats"
        lines.append(Line("read_noise", slow, "1", None, len(clear), said))
        fields["read_noise"] = {"value": float(f"{slow:.4g}"), "unit": "1", "source": f"{source}: {said}"}
        fields["read_noise_1f"] = {"value": 1.0, "unit": "1", "source": f"assumed: {said}"}
        return
    law, freedom, _, quality = reading
    middle = float(np.median(clear)) if law.name == "absolute" else 1.0
    assert not isinstance(law.value, tuple)
    total = math.hypot(law.value, slow * middle)
    share = (slow * middle) ** 2 / total**2 if total else 0.0
    half = 1.96 / math.sqrt(2 * freedom)
    lines.append(Line("read_noise", total, law.unit, (total * (1 - half), total * (1 + half)), freedom, quality))
    fields["read_noise"] = {"value": float(f"{total:.4g}"), "unit": law.unit, "source": f"{source}: {quality}"}
    if data.time is not None and data.time.max() > data.time.min():
        said = "variance between times about each device's drift, over that and the variance of repeats"
        lines.append(Line("read_noise_1f", share, "1", None, freedom, said))
        fields["read_noise_1f"] = {"value": float(f"{share:.3g}"), "unit": "1", "source": f"{source}: {said}"}
