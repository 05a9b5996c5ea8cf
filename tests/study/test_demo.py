"""The demo as a study: one dataset that says everything of a few models, and what does not apply is NaN."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from fakes import ROOT, silent

from imc_ssm import results
from imc_ssm.costs import COMPONENTS
from imc_ssm.errors import ConfigError
from imc_ssm.plots import summary
from imc_ssm.study import Workplace, load_study, run
from imc_ssm.study.demo import RECIPE, VARIABLES, build
from imc_ssm.study.jobs.cost import INTERVALS
from imc_ssm.training import accuracy

ALONE = ("accuracy_digital", "bits_state", "bits_poles", "energy_recurrence", "updates")
DIMENSIONS = (
    {"accuracy": ("chip", "time")}
    | dict.fromkeys(ALONE, ())
    | (dict.fromkeys(("energy", "energy_step", "latency", "area", "memory"), ("component",)))
    | (dict.fromkeys((v.name for v in INTERVALS), ("bound",)))
)
QUICK = RECIPE.with_(pretraining__epochs=3, pretraining__learning_rate=2e-2, qat__epochs=1)


def demo(folder: Path, **options) -> tuple[Workplace, list]:
    study = build("demo", heads=4, states=(4,), chips=2, times=(1.0, 86400.0), recipe=QUICK, seeds=(3,), **options)
    (experiment,) = study.experiments
    place = Workplace(study, folder)
    return place, run(place, experiment, experiment.cells(), stage=silent, finished=lambda f: None)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Workplace:
    place, failures = demo(tmp_path_factory.mktemp("demo"))
    assert failures == []
    return place


def test_everything_of_every_model(done):
    ds = results.load(done.result_path(done.study.experiments[0]))
    assert set(ds.data_vars) == set(VARIABLES) == set(DIMENSIONS)
    for name, own in DIMENSIONS.items():
        assert ds[name].dims == ("model", "seed", *own), name
    assert ds["model"].values.tolist() == ["fp32", "ptq-a8-x8", "qat-a8-x4"]
    assert ds["seed"].values.tolist() == [3]
    assert ds["time"].values.tolist() == [1.0, 86400.0]
    assert ds["component"].values.tolist() == list(COMPONENTS)
    for name in ("accuracy", "accuracy_digital"):
        assert ds[name].attrs["n_test"] == 360
    ds = ds.isel(seed=0)
    for name in set(DIMENSIONS) - {"accuracy_digital"}:  # full precision: no chip, no cost, no bits
        assert ds[name].sel(model="fp32").isnull().all(), name
    assert ds["accuracy_digital"].notnull().all()
    assert ds["bits_state"].values.tolist()[1:] == [8, 4]
    assert ds["bits_poles"].values.tolist()[1:] == [12, 12]  # 8 and 8 stored, 12 multiplied
    assert ds["accuracy"].sel(model=["ptq-a8-x8", "qat-a8-x4"]).notnull().all()
    energy, memory = (ds[name].sum("component") for name in ("energy", "memory"))
    assert 1e-9 < energy.sel(model="ptq-a8-x8") < 1e-3
    assert memory.sel(model="qat-a8-x4") < memory.sel(model="ptq-a8-x8")
    summary(ds).draw_without_rendering()


def test_the_reference_is_the_trained_model(done):
    (experiment,) = done.study.experiments
    (reference,) = experiment.cells()[0].jobs
    stored = done.stored_model(reference.chain()[-1], 3)
    reached = results.load(done.result_path(experiment))["accuracy_digital"].sel(model="fp32", seed=3)
    assert float(reached) == accuracy(stored.model, done.data.split("test"))


def test_the_digits_table_is_the_demo_over_seeds():
    """The committed dataset is what its ledger and its study say; every cell is there."""
    folder = ROOT / "experiments" / "digits"
    place = Workplace(load_study(folder), folder)
    (experiment,) = place.study.experiments
    records = place.ledger.records()
    assert all(place.done(cell, records) is not None for cell in experiment.cells())
    ds = results.load(place.result_path(experiment))
    assert (ds.attrs["cells"], ds.attrs["cells_done"], ds.sizes["seed"]) == (30, 30, 10)
    for cell in experiment.cells(2):
        for record in place.done(cell, records):
            for name, value in record.measured.items():
                if np.size(value):
                    there = ds[name].sel(model=cell.at["model"], seed=cell.seed).values
                    np.testing.assert_array_equal(there, value)
    headline = experiment.headline(ds)
    assert headline.dims == ("model", "seed", "time")


def test_times_must_agree(done):
    """Chips at other times belong in another dataset."""
    study = done.study
    (experiment,) = study.experiments
    later = {"fp32": 1.0, "ptq-a8-x8": 1.0, "qat-a8-x4": 3600.0}

    def jobs(cell):
        first, *rest = experiment.job(cell)
        return (first.with_(times=(later[cell["model"]],)), *rest)

    other = dataclasses.replace(experiment, name="other", job=jobs)
    with pytest.raises(ConfigError, match=r"other: cells differ in time: \[1.0\] and \[3600.0\]"):
        run(done, other, other.cells(), stage=silent, finished=lambda f: None)
