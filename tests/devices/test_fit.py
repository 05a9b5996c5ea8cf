"""Fitting a cell to measurements: data drawn from a known cell give it back; a wrong file is one sentence."""

from __future__ import annotations

import csv
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imc_ssm.devices import CellFit, Draws, Generic, device_path, fit_cell, load_cell, parse_cell
from imc_ssm.devices.measurements import read_measurements
from imc_ssm.errors import DataError, FileError, ImcSsmError

DAY = 86400.0
TIMES = (1.0, 60.0, 3600.0, DAY)


def number(value: float, unit: str = "1") -> dict[str, Any]:
    return {"value": value, "unit": unit, "source": "assumed: a test"}


TRUTH: dict[str, Any] = {
    "programming_error": number(1.5e-6, "S"),
    "drift": {"exponent": number(0.05), "spread": number(0.015), "t_0": number(1.0, "s")},
    "read_noise": number(0.02),
    "read_noise_1f": number(0.4),
    "stuck_low": number(0.02),
    "stuck_high": number(0.01),
}


def cell_of(**fields: Any) -> Generic:
    raw = tomllib.loads(device_path("cells", "generic-reram").read_text(encoding="utf-8"))
    plain = ("name", "kind", "description", "model", "source", "v_read", "t_read", "times", "area")
    ends = {"g_min": number(2e-6, "S"), "g_max": number(5e-5, "S")}
    cell = parse_cell({name: raw[name] for name in plain} | ends | fields)
    assert isinstance(cell, Generic)
    return cell


def measured(
    cell: Generic, *, devices: int = 1500, times: tuple[float, ...] = TIMES, repeats: int = 3, seed: int = 0
) -> dict[str, np.ndarray]:
    """What somebody measures on devices of this cell, in the units that people use."""
    rng = np.random.default_rng(seed)
    target = rng.choice(np.linspace(2e-6, 5e-5, 9), devices).astype(np.float32)
    programmed = cell.program(target, Draws([seed + 1]))
    rows = []
    for time in times:
        g = cell.read(programmed, time, Draws([seed + int(time) + 2]))
        fast = cell.fast_noise(programmed, g)
        for _ in range(repeats):
            read = g[0] if fast is None else np.maximum(g[0] + fast[0] * rng.normal(size=devices), 0)
            rows.append(np.stack([target, read, np.full(devices, time), np.arange(devices)]))
    target, read, moment, device = np.concatenate(rows, axis=1)
    return {"target_uS": target * 1e6, "measured_uS": read * 1e6, "time_h": moment / 3600, "device": device}


def value(fit: CellFit, what: str) -> float:
    found = {line.what: line.value for line in fit.lines}[what]
    assert isinstance(found, float)
    return found


def within(fit: CellFit, what: str, truth: float) -> None:
    """The truth lies in the 95 % interval widened to 4.5 standard errors."""
    (line,) = [line for line in fit.lines if line.what == what]
    assert line.interval is not None
    assert isinstance(line.value, float)
    low, high = line.interval
    widen = 4.5 / 1.96
    assert line.value - widen * (line.value - low) <= truth <= line.value + widen * (high - line.value), line


@pytest.mark.parametrize("seed", [0, 10, 20])
def test_a_known_cell_comes_back(seed: int) -> None:
    fit = fit_cell(measured(cell_of(**TRUTH), seed=seed))
    within(fit, "programming_error", 1.5e-6)
    within(fit, "drift.exponent", 0.05)
    within(fit, "drift.spread", 0.015)
    within(fit, "read_noise", 0.02)
    within(fit, "stuck_low", 0.02)
    within(fit, "stuck_high", 0.01)
    assert value(fit, "read_noise_1f") == pytest.approx(0.4, abs=0.06)
    cell = fit.cell
    assert cell.programming_error is not None
    assert cell.programming_error.unit == "S"
    assert cell.read_noise is not None
    assert cell.read_noise.unit == "1"
    assert cell.retention is None
    assert (cell.g_min.value, cell.g_max.value) == (2e-6, 5e-5)
    assert (cell.times.earliest, cell.times.latest) == (1.0, DAY)


def test_without_devices_mean_and_variance_give_the_drift() -> None:
    data = measured(cell_of(**TRUTH), repeats=1, devices=4000)
    del data["device"]
    fit = fit_cell(data)
    assert value(fit, "drift.exponent") == pytest.approx(0.05, abs=0.003)
    assert value(fit, "drift.spread") == pytest.approx(0.015, abs=0.003)
    assert fit.cell.read_noise is None
    within(fit, "stuck_low", 0.02)
    assert any("column `device`" in note for note in fit.notes)


@pytest.mark.parametrize(
    ("error", "unit"),
    [
        (number(0.05), "1"),
        (number(2e-6, "S"), "S"),
        (
            {"value": [0.5e-6, 3e-6, 1e-6], "against": [2e-6, 2.6e-5, 5e-5], "unit": "S", "source": "assumed: a"},
            "S",
        ),
    ],
)
def test_the_law_of_the_programming_error_is_chosen(error: dict[str, Any], unit: str) -> None:
    truth = cell_of(programming_error=error)
    fit = fit_cell(measured(truth, times=(1.0,), repeats=1, devices=4000, seed=3))
    found = fit.cell.programming_error
    assert found is not None
    assert truth.programming_error is not None
    assert found.unit == unit
    assert isinstance(found.value, tuple) == isinstance(error["value"], list)
    g = np.linspace(1.4e-5, 5e-5, 7, dtype=np.float32)
    np.testing.assert_allclose(found.at(g), truth.programming_error.at(g), rtol=0.25 if unit == "S" else 0.05)
    assert fit.cell.drift is None
    assert fit.cell.stuck_low is None


def test_retention_is_told_from_a_power_law() -> None:
    times = (1.0, 1e2, 1e4, 1e5, 3e5, 1e6)
    decays = cell_of(**TRUTH | {"retention": number(2e6, "s")})
    fit = fit_cell(measured(decays, times=times, repeats=2))
    assert value(fit, "retention") == pytest.approx(2e6, rel=0.1)
    assert value(fit, "drift.exponent") == pytest.approx(0.05, abs=0.005)
    assert fit_cell(measured(cell_of(**TRUTH), times=times, repeats=2)).cell.retention is None


def test_what_is_written_is_read_again_as_the_same_cell(tmp_path: Path) -> None:
    fit = fit_cell(measured(cell_of(**TRUTH)), name="mine", latest=30 * DAY)
    fit.save(tmp_path / "mine.toml")
    cell = load_cell(tmp_path / "mine.toml")
    assert cell == fit.cell
    assert cell.times.latest == 30 * DAY
    assert "extrapolated" in cell.times.source
    assert cell.area.source.startswith("assumed: not measured")
    text = (tmp_path / "mine.toml").read_text()
    assert text.startswith("# Fitted to 18000 readings of arrays")
    assert "Kolmogorov-Smirnov" in text
    again = fit_cell(measured(cell, seed=50))  # a cell that was fitted to is fitted again
    assert value(again, "drift.exponent") == pytest.approx(0.05, abs=0.002)


def test_an_offset_is_said() -> None:
    data = measured(cell_of(**TRUTH))
    data["measured_uS"] += 1.0
    assert any("off the target on average" in note for note in fit_cell(data).notes)


GOOD = [["target_uS", "measured_uS", "time_s"], *([f"{i}", f"{i + 0.1}", "1.0"] for i in range(1, 41))]


def changed(row: int, column: int, value: str) -> list[list[str]]:
    rows = [list(r) for r in GOOD]
    rows[row][column] = value
    return rows


def write(path: Path, rows: list[list[str]], separator: str = ",") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_is_read_whatever_separates(separator: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", [["# a comment"], *GOOD][1:], separator)
    path.write_text("\ufeff# a tile\n" + path.read_text())
    readings = read_measurements(path)
    np.testing.assert_allclose(readings.target, np.arange(1, 41) * 1e-6)
    np.testing.assert_allclose(readings.measured, (np.arange(1, 41) + 0.1) * 1e-6)
    assert readings.time is not None
    assert readings.device is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(0, 0, "goal_uS"), "no column 'target'"),
        (changed(0, 1, "G"), "no column 'measured'"),
        (changed(0, 1, "measured"), "has no unit; allowed are S, mS, uS, nS, pS"),
        (changed(0, 1, "measured_uA"), "has unit 'uA'; allowed are S"),
        (changed(0, 2, "time_weeks"), "has unit 'weeks'; allowed are"),
        (changed(0, 2, "target_S"), "are both target; keep one"),
        (changed(0, 2, "target_uS"), "two columns are named 'target_uS'"),
        (changed(7, 1, "-3"), "row 7: measured = -3e-06 S is negative"),
        (changed(7, 1, "abc"), "row 7, column 'measured_uS': 'abc' is no number"),
        (changed(7, 1, ""), "row 7, column 'measured_uS': '' is no number"),
        (changed(7, 1, "nan"), "no finite number"),
        (changed(7, 1, "1e7"), "no device conducts more than 0.1 S"),
        (changed(7, 2, "-1"), "time = -1 s"),
        (changed(7, 2, "0"), "times are counted from the end of programming"),
        (changed(7, 2, "1e13"), "beyond 30,000 years"),
        (GOOD[:15], "14 readings are too few; give at least 20"),
        (GOOD[:1], "a header and no readings"),
        ([], "holds no readings"),
        ([*GOOD, ["1", "2"]], "line 42: 2 values, the header has 3 columns"),
        ([GOOD[0], *(["5", "5.1", "1"] for _ in range(40))], "every target is the same"),
        ([GOOD[0], *(["0", "5.1", "1"] for _ in range(40))], "every target is 0 S"),
        ([GOOD[0], *([f"{i}", f"{1000 * i}", "1"] for i in range(1, 41))], "are both in the units stated"),
    ],
)
def test_a_wrong_file_is_one_sentence(rows: list[list[str]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ImcSsmError) as caught:
        fit_cell(write(tmp_path / "m.csv", rows))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 320


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\0", b"\xff\xfe\x00t", b"a,b\n\xe9,1\n"])
def test_a_file_that_is_no_text_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(FileError, match="no text in UTF-8; give a CSV"):
        fit_cell(tmp_path / "m.csv")
    with pytest.raises(FileError, match="cannot read"):
        fit_cell(tmp_path)
    with pytest.raises(FileError, match="cannot read"):
        fit_cell(tmp_path / "none.csv")


def test_ranges_and_units_as_options() -> None:
    data = {"target": np.arange(1, 41.0), "measured": np.arange(1, 41.0) + 0.1}
    fit = fit_cell(data, conductance_unit="uS", g_min=5e-7, g_max=6e-5)
    assert (fit.cell.g_min.value, fit.cell.g_max.value) == (5e-7, 6e-5)
    for ends in ((5e-5, 1e-5), (-1e-6, 1e-5), (0.0, 3.0)):
        with pytest.raises(ImcSsmError):
            fit_cell(data, conductance_unit="uS", g_min=ends[0], g_max=ends[1])
    with pytest.raises(DataError, match="columns have 39 and 40 rows"):
        fit_cell({**data, "measured": np.ones(39)}, conductance_unit="uS")


def test_hostile_columns_raise_nothing_else() -> None:
    """200 random tables: either a cell whose numbers are finite, or one sentence."""
    rng = np.random.default_rng(5)
    fitted = 0
    for _ in range(200):
        n = int(rng.integers(1, 80))
        pool = np.array([0.0, 1e-9, 1.0, 5.0, 20.0, 50.0, 99.0, *rng.uniform(0, 50, 5)])
        data = {"target_uS": rng.choice(pool, n), "measured_uS": rng.choice(pool, n)}
        if rng.random() < 0.7:
            data["time_s"] = rng.choice([1.0, 1.0, 10.0, 1e5, 1e9], n)
        if rng.random() < 0.7:
            data["device"] = rng.integers(0, max(2, n // 3), n)
        if rng.random() < 0.4:
            data["measured_uS"] = data["target_uS"].copy()
        try:
            fit = fit_cell(data)
        except ImcSsmError:
            continue
        else:
            fitted += 1
            assert parse_cell(tomllib.loads(fit.toml())) == fit.cell
    assert fitted > 20
