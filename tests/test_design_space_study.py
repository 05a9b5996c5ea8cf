"""`experiments/design_space`: datasets say what they are, the report has their numbers, points are made again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scripts import script_of

from imc_ssm import results, sweeps
from imc_ssm.devices import load_design

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "experiments" / "design_space"


@pytest.fixture(scope="module")
def points() -> xr.Dataset:
    return results.load(FOLDER / "results" / "points.nc")


@pytest.mark.parametrize("name", ["chips", "machines", "points", "chosen"])
def test_everything_says_its_unit_in_plain_xarray(name: str) -> None:
    with xr.open_dataset(FOLDER / "results" / f"{name}.nc", engine="h5netcdf", decode_timedelta=False) as ds:
        for label, variable in ds.variables.items():
            assert {"units", "long_name"} <= set(variable.attrs), label
        assert "configuration" in ds.attrs


def test_there_are_points_enough(points: xr.Dataset) -> None:
    analog = points["technology"].values != "all-digital"
    assert analog.sum() >= 250
    assert points.sizes["point"] >= 300
    assert len(set(points["model"].values)) >= 12
    assert {"PCM (HERMES)", "ReRAM (CMO)", "ReRAM (Wan)", "all-digital"} <= set(points["technology"].values)


def test_the_report_has_the_table(points: xr.Dataset) -> None:
    assert script_of(FOLDER / "run.py").table(points) in (FOLDER / "REPORT.md").read_text(encoding="utf-8")


def test_chosen_designs_load_and_are_those_of_their_points(points: xr.Dataset) -> None:
    chips = results.load(FOLDER / "results" / "chips.nc")
    study = script_of(FOLDER / "run.py")
    chosen = [c for c in study.choices(points) if c[0] >= 97 and c[1] == "energy_total"]
    names = {path.stem for path in (FOLDER / "results").glob("*.toml")}
    assert len(names) >= 4
    for level, _, technology, point in chosen:
        trial = int(points["trial"].values[point])
        if trial < 0:
            continue
        stem = study.stem_of(f"{technology}, {level:g} %")
        names.remove(stem)
        own = chips.isel(trial=int(np.flatnonzero(chips["trial"].values == trial)[0]))
        made = sweeps.made(own)
        written = load_design(str(FOLDER / "results" / f"{stem}.toml"))
        assert (written.rows, written.adc.bits) == (made.design.rows, made.design.adc.bits)
        for name in ("lanes", "cell", "devices", "dac", "columns", "columns_per_adc", "drift_compensation"):
            assert getattr(written, name) == getattr(made.design, name), name


@pytest.mark.skipif("IMC_SSM_DATA" not in os.environ, reason="needs sequential MNIST")
def test_a_point_is_made_again_from_its_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs to the last digit; an answer of a sum next to an edge may be another one on another processor."""
    monkeypatch.chdir(ROOT)
    chips = results.load(FOLDER / "results" / "chips.nc")
    small = chips.isel(trial=np.flatnonzero(chips["status"].values == 1))
    small = small.isel(
        trial=np.flatnonzero([str(s).endswith("8h-16n-w8.safetensors") for s in small["start"].values])
    )
    one = sweeps.best(small, minimise="energy_total")
    found = sweeps.again(one)
    for name in ("energy_total", "latency_total", "area_total"):
        assert float(found[name]) == float(one[name]), name
    assert np.abs(found["accuracy"].values - one["accuracy"].values).max() < 100 * 2.5 / one.attrs["n_test"]
