"""`docs/time.md`: its code runs, its numbers are those of `experiments/time_noise/results`."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import xarray as xr

from imc_ssm import results

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "time.md").read_text(encoding="utf-8")
RESULTS = ROOT / "experiments" / "time_noise" / "results"


def part(name: str) -> xr.Dataset:
    return results.load(RESULTS / f"{name}.nc")


def table(first: str) -> dict[str, list[float]]:
    """Rows of the table whose header begins with a word: numbers before "+-", by the first cell."""
    start = PAGE.index(f"| {first} |")
    header, _, *rows = PAGE[start : PAGE.index("\n\n", start)].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert all(len(row) == header.count("|") - 1 for row in cells)
    return {row[0]: [float(cell.split("+-")[0]) for cell in row[1:]] for row in cells}


def test_its_code_runs(time_page: ModuleType) -> None:
    assert time_page.moving["accuracy"].attrs["within"] == "correlated"
    assert time_page.tiles[0].time == 86400.0


def test_the_formula_of_a_pole_holds() -> None:
    """400 weights with noise of their own: 3.5 % is a standard error; simulated over 2,048 steps."""
    ds = part("pole")
    known = ds.where(ds["filtered_theory"].notnull(), drop=True)
    ratio = known["filtered"] / known["filtered_theory"]
    assert float(abs(ratio - 1).max()) < 0.06
    assert known.sizes["process"] == 8


def test_the_table_of_processes() -> None:
    for row, numbers in table("Noise").items():
        expected = []
        for name in ("digits", "smnist"):
            ds = part(name).sel(matrix="all").mean("chip")
            if row in ds["process"].values:
                one = ds.sel(process=row)
                expected += [round(float(one["error"]), 2), round(float(one["accuracy"]), 1)]
        np.testing.assert_allclose(numbers, expected, atol=1e-9)


def test_the_table_of_phase_change_memory() -> None:
    rows = table("Model, time, step")
    assert rows
    for row, numbers in rows.items():
        name, time, step = row.split(", ")
        at = {"time": {"1 s": 1.0, "1 day": 86400.0}[time], "step": {"1 us": 1e-6, "1 ms": 1e-3, "1 s": 1.0}[step]}
        ds = part({"digits": "digits-pcm", "sMNIST": "smnist-pcm"}[name]).sel(at)
        mean = ds["error"].mean("chip")
        expected = [round(100 * float(ds["moving"])), *(round(float(v), 2) for v in mean)]
        expected += [round(float(v), 1) for v in ds["accuracy"].mean("chip")]
        np.testing.assert_allclose(numbers, expected, atol=1e-9)


def test_the_table_of_streams() -> None:
    rows = table("Start")
    ds = part("ageing").mean("chip")
    assert len(rows) == ds.sizes["start"]
    for (_, numbers), start in zip(rows.items(), ds["start"].values, strict=True):
        one = ds.sel(start=start)
        expected = [round(float(v), 2) for v in one["error"]] + [round(float(v), 1) for v in one["accuracy"]]
        np.testing.assert_allclose(numbers, expected, atol=1e-9)


def test_numbers_of_test_sequences_are_said() -> None:
    for name in ("digits", "smnist", "ageing"):
        ds = part(name)
        assert re.search(rf"\b{ds.sizes['chip']} chips\b", PAGE)
        assert re.search(rf"\b{ds['accuracy'].attrs['n_test']}\b", PAGE)
