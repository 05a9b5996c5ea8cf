"""`docs/robustness.md`: its tables are those of the datasets, and what it says about them holds."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from imc_ssm import results
from imc_ssm.devices import load_design
from imc_ssm.modelfile import load_model
from imc_ssm.study import load_study

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
TRAININGS = {
    "no noise": "ptq",
    "with noise": "noise",
    "calibrated alone": "ptq",
    "QAT": "qat",
    "QAT with noise": "noise",
    "QAT for the chip": "chip",
}


@functools.cache
def dataset(study: str, name: str) -> xr.Dataset:
    return results.load(ROOT / "experiments" / study / "results" / f"{name}.nc")


def rows(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its header."""
    part = PAGE[PAGE.index(heading) :]
    lines = [line for line in part[part.index("\n|") + 1 :].split("\n\n")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def shown(values: np.ndarray) -> str:
    """Mean, and deviation over the seeds where there are several."""
    there = values[np.isfinite(values)]
    return f"{there.mean():.1f}" + (f" ({there.std(ddof=1):.1f})" if len(there) > 1 else "")


def test_the_table_of_noise() -> None:
    found = dataset("qs4d", "noise")["accuracy_disturbed"].mean("draw")
    points = [("poles", 0.0), ("poles", 0.01), ("poles", 0.02), ("poles", 0.05), ("matrices", 0.05)]
    for bits, training, *cells, seeds in rows("## Noise on poles and on matrices"):
        at = found.sel(bits=32 if bits == "full" else int(bits), training=TRAININGS[training])
        for cell, (part, noise) in zip(cells, [*points, ("matrices", 0.1)], strict=True):
            values = at.sel(part=part, noise=noise).values
            assert cell == shown(values), (bits, training, part, noise)
            assert int(seeds) == np.isfinite(values).sum()


@pytest.mark.parametrize(("study", "heading"), [("qs4d", "### Digits"), ("qs4d-smnist", "### Sequential MNIST")])
def test_the_tables_of_devices(study: str, heading: str) -> None:
    ds = dataset(study, "devices")
    for design, training, compensation, digital, *cells, seeds in rows(heading):
        at = ds.sel(design=design, training=TRAININGS[training], compensation=compensation)
        assert digital == shown(at["accuracy_digital"].values)
        chips = at["accuracy"].mean("chip")
        assert cells == [shown(chips.sel(time=time).values) for time in ds["time"]]
        assert int(seeds) == np.isfinite(at["accuracy_digital"].values).sum()


def test_noise_in_training_helps_against_noise() -> None:
    """Of poles and of matrices, in full precision and at 10 to 6 bits, in the mean of the seeds."""
    found = dataset("qs4d", "noise")["accuracy_disturbed"].mean(("draw", "seed"))
    for bits in (32, 10, 8, 6):
        plain = found.sel(bits=bits, training="ptq" if bits == 32 else "qat")
        aware = found.sel(bits=bits, training="noise")
        for part, noise in (("poles", 0.02), ("matrices", 0.1)):
            assert float(aware.sel(part=part, noise=noise)) > float(plain.sel(part=part, noise=noise)) + 4


@pytest.mark.parametrize("folder", ["qs4d", "qs4d-smnist", "qs4d-fsdd"])
def test_the_studies_are_declared(folder: str) -> None:
    study = load_study(ROOT / "experiments" / folder)
    assert [experiment.name for experiment in study.experiments][:2] == ["noise", "devices"]
    kinds = {job.kind for experiment in study.experiments for _, jobs in experiment.grid() for job in jobs}
    assert kinds >= {"disturb", "deploy", "train", "ptq", "qat"}


def test_poles_over_many_steps() -> None:
    """What the page says of full precision on sMNIST."""
    found = dataset("qs4d-smnist", "noise")["accuracy_disturbed"].mean("draw").isel(seed=0)
    poles = found.sel(bits=32, training="ptq", part="poles")
    said = [f"{float(poles.sel(noise=noise)):.1f}" for noise in (0.0, 0.001, 0.002, 0.005)]
    text = " ".join(PAGE.split())
    assert (
        f"{said[0]} % without noise) 0.1 % on poles leaves {said[1]}, 0.2 % {said[2]} and 0.5 % {said[3]} %"
        in text
    )
    matrices = found.sel(bits=32, training="ptq", part="matrices", noise=0.05)
    assert f"where 5 % on matrices leaves {float(matrices):.1f} %" in text


def test_training_for_the_chip_helps() -> None:
    """On sMNIST by more than 5 points after a day and a month, on both designs, compensated per column."""
    ds = dataset("qs4d-smnist", "devices").sel(compensation="column").isel(seed=0)
    chips = ds["accuracy"].mean("chip")
    for design in ds["design"].values:
        gained = chips.sel(design=design, training="chip") - chips.sel(design=design, training="qat")
        assert (gained.sel(time=[86400.0, 30 * 86400.0]) > 5).all()
    of = ds.sel(design="pcm-256", training="chip")
    lost = float(of["accuracy_digital"]) - of["accuracy"].mean("chip").values
    text = " ".join(PAGE.split())
    assert f"{lost[2]:.1f} and {lost[3]:.1f} points below the same model with digital matrices" in text
    other = (
        float(ds.sel(design="pcm-256", training="qat")["accuracy_digital"]) - of["accuracy"].mean("chip").values
    )
    assert f"{other[2]:.1f} and {other[3]:.1f} below the digital model of QAT without noise" in text


def test_the_long_training_for_a_chip() -> None:
    """Its table, and the goal: at most 1 point below the same digital model after a day, 2.5 after 30 days."""
    folder = ROOT / "experiments" / "qs4d-smnist" / "for-pcm"
    ds = results.load(folder / "s4d-16h-for-pcm.nc").squeeze()
    model = load_model(folder / "s4d-16h-for-pcm.safetensors")
    digital = float(ds["accuracy_digital"])
    assert model.info["accuracy_test"] == digital
    assert model.info["qat"]["epochs"] == 16
    assert load_design(folder / "pcm-256-column.toml").drift_compensation == "column"
    assert (ds.sizes["chip"], ds["accuracy"].attrs["n_test"]) == (20, 10_000)
    mean, spread = ds["accuracy"].mean("chip"), ds["accuracy"].std("chip", ddof=1)
    times = (1.0, 3600.0, 86400.0, 30 * 86400.0)
    cells = [f"{float(mean.sel(time=t)):.2f} ({float(spread.sel(time=t)):.2f})" for t in times]
    assert rows("### Sixteen epochs")[0][1:] == [f"{digital:.2f}", *cells]
    assert digital - float(mean.sel(time=86400.0)) < 1.0
    assert digital - float(mean.sel(time=30 * 86400.0)) < 2.5
