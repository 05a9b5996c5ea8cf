"""Any field of model, scheme, training and chip design can be a dimension."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from fakes import silent, smoke_place

from imc_ssm import results
from imc_ssm.errors import ConfigError
from imc_ssm.quantization import Scheme
from imc_ssm.study import Cost, Deploy, Experiment, Ptq, Qat, Train, run, vary
from imc_ssm.study.chips import load_design
from imc_ssm.training import TrainConfig

QUICK = TrainConfig(epochs=1, batch=256, learning_rate=3e-2)


@pytest.fixture
def place(tmp_path):
    return smoke_place(tmp_path)


def compute(place, experiment):
    place.study = dataclasses.replace(place.study, experiments=(experiment,))
    cells = experiment.cells()
    assert run(place, experiment, cells, stage=silent, finished=lambda f: None) == []
    return results.load(place.result_path(experiment))


def test_a_field_of_the_design_and_one_of_the_scheme(place):
    """Chips and costs over both: what is varied is a labelled dimension, and moves what it should."""
    base = Ptq("tiny", Scheme())
    experiment = Experiment(
        "front",
        "Chips",
        {"design.read_noise.value": (0.01, 0.2), "design.columns_per_adc": (32, 1), "scheme.bits.state": (8, 4)},
        vary(Deploy(base, "pcm-256", chips=1, times=(1.0,)), Cost(base, "pcm-256")),
        variables=("accuracy_digital", "accuracy", "energy", "area", "latency", "bits_state"),
        seeds=1,
    )
    ds = compute(place, experiment).isel(seed=0)
    assert ds["accuracy"].dims == (*experiment.dimensions, "chip", "time")
    assert ds["energy"].dims == (*experiment.dimensions, "component")
    for name, values in experiment.dimensions.items():
        assert ds[name].values.tolist() == list(values)
        assert ds[name].attrs["units"]
        assert len(ds[name].attrs["long_name"]) > 4
    text = "Columns that share one output converter, converted one after the other"
    assert ds["design.columns_per_adc"].attrs["long_name"] == text
    assert ds["design.read_noise.value"].attrs["long_name"].startswith("Standard deviation of the Gaussian noise")
    assert np.isfinite(ds["accuracy"]).all()
    # the word length of the state is the scheme's
    assert (ds["bits_state"] == ds["scheme.bits.state"]).all()
    # read noise moves the accuracy of chips alone
    quiet, loud = (ds.isel({"design.read_noise.value": i}) for i in (0, 1))
    assert not np.array_equal(quiet["accuracy"], loud["accuracy"])
    for name in ("energy", "area", "latency", "accuracy_digital"):
        assert np.array_equal(quiet[name], loud[name], equal_nan=True), name
    # columns that share a converter: area against time
    shared, own = (ds.isel({"design.columns_per_adc": i}).sel(component="adc") for i in (0, 1))
    assert (own["area"] > shared["area"]).all()
    assert (own["latency"] < shared["latency"]).all()
    # one training for all
    kinds = [record.identity["job"]["kind"] for record in place.ledger.records().values()]
    assert sorted(kinds) == [*["cost"] * 8, *["deploy"] * 8, *["ptq"] * 2, "train"]
    jobs = json.loads(ds.attrs["configuration"])["jobs"]
    assert {job["design"]["columns_per_adc"] for job in jobs} == {32, 1}


def test_fields_of_model_and_training(place):
    base = Qat(Train(place.study.model("tiny"), QUICK), Scheme(), QUICK)
    experiment = Experiment(
        "sizes",
        "Sizes",
        {"model.heads": (4, 6), "train.training.epochs": (1, 2), "qat.training.learning_rate": (1e-3, 1e-2)},
        vary(base),
        seeds=1,
    )
    ds = compute(place, experiment)
    assert np.isfinite(ds["accuracy"]).all()
    assert len(np.unique(ds["accuracy"])) > 2
    records = place.ledger.records().values()
    kinds = [record.identity["job"]["kind"] for record in records]
    assert sorted(kinds) == [*["qat"] * 8, *["train"] * 4]
    trained = [r.identity["job"] for r in records if r.identity["job"]["kind"] == "train"]
    sizes = sorted((t["model"]["heads"], t["training"]["epochs"]) for t in trained)
    assert sizes == [(4, 1), (4, 2), (6, 1), (6, 2)]
    assert not place.models.exists()  # they are not the study's models


def test_or_by_a_function_of_the_cell(place):
    design = load_design("pcm-256")
    experiment = Experiment(
        "lanes",
        "Lanes",
        {"lanes": (1, 64)},
        lambda cell: Cost(Ptq("tiny", Scheme()), design.with_(lanes=cell["lanes"])),
        variables=("latency", "area"),
        seeds=1,
    )
    ds = compute(place, experiment).isel(seed=0).sel(component="digital update")
    assert ds["latency"].sel(lanes=1) > ds["latency"].sel(lanes=64)
    assert ds["area"].sel(lanes=1) < ds["area"].sel(lanes=64)


@pytest.mark.parametrize(
    ("path", "value", "naming"),
    [
        ("desing.lanes", 1, "unknown field 'desing'; did you mean 'design'"),
        ("design.lanse", 1, "unknown field 'lanse'; did you mean 'lanes'"),
        ("design.lanes", 0, "lanes.*at least 1"),
        ("model.heads", 6, "model is 'tiny', which has no fields"),
        ("train.training.epochs", 6, "training is None, which has no fields"),
    ],
)
def test_paths_and_values_that_are_wrong(path, value, naming):
    job = vary(Cost(Ptq("tiny", Scheme()), "pcm-256"))
    with pytest.raises(ConfigError, match=naming):
        job({path: value})
