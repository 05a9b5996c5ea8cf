"""docs/analog_recurrence.md says what its dataset says."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import xarray as xr
from scripts import script_of

from imc_ssm import results

ROOT = Path(__file__).parents[1]
HERE = ROOT / "experiments" / "analog_recurrence"
PAGE = (ROOT / "docs" / "analog_recurrence.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return script_of(HERE / "run.py")


@pytest.fixture(scope="module")
def found() -> xr.Dataset:
    return results.load(HERE / "results" / "analog_recurrence.nc")


def test_tables_are_those_of_the_dataset(script: ModuleType, found: xr.Dataset) -> None:
    lines = PAGE.splitlines()
    for line in script.tables(found):
        assert line in lines, line


def test_nothing_is_missing(found: xr.Dataset) -> None:
    both = found.sel(recurrence=["analog", "digital"])
    assert both["accuracy_bits"].notnull().all()
    assert both["accuracy_noise"].sel(scale=slice(0, 0.5)).notnull().any("chip").all()
    assert both["accuracy_noise"].sel(task="digits").notnull().all()
    assert both["accuracy_chip"].sel(bits=[8, 10]).notnull().any("chip").all()
    assert found[["energy", "latency", "area", "tiles"]].sel(bits=[6, 8, 10]).to_array().notnull().all()
    assert found["n_test"].values.tolist() == [360, 1000]


def test_the_dataset_is_that_of_the_numbers_found(script: ModuleType, found: xr.Dataset) -> None:
    ledger = script.Ledger(HERE / "results" / "found.jsonl")
    for key, name in (("smnist/bits/analog/10", "analog"), ("digits/bits/digital/7", "digital")):
        task, _, _, bits = key.split("/")
        assert float(found["accuracy_bits"].sel(task=task, recurrence=name, bits=int(bits))) == pytest.approx(
            ledger.found[key]["accuracy"]
        )


def test_what_the_page_concludes(found: xr.Dataset) -> None:
    """The sentences of the page, as bounds."""
    accuracy = found["accuracy_bits"].sel(task="smnist")
    analog, digital = (accuracy.sel(recurrence=how) for how in ("analog", "digital"))
    assert float(abs(analog - digital).sel(bits=[12, 14, 16]).max()) < 2
    assert float(digital.sel(bits=10) - analog.sel(bits=10)) > 20
    noisy = found["accuracy_noise"].mean("chip")
    assert float(noisy.sel(task="smnist", recurrence="digital", scale=1).min()) > 85
    assert float(noisy.sel(task="smnist", recurrence="analog", scale=1, noise="read")) < 30
    assert float(noisy.sel(task="smnist", recurrence="analog", scale=0.25, noise="programming")) < 30
    steps = found["memory_steps"].sel(quantile=0.5)
    assert float(steps.sel(task="smnist")) > 3 * float(steps.sel(task="digits"))
    assert np.isfinite(found["memory_steps"].values).all()
