"""What every registered kind of job keeps: a kind is tested by being registered, and by an example below."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import silent, smoke_place

from imc_ssm import results
from imc_ssm.errors import ConfigError
from imc_ssm.layers import ModelConfig
from imc_ssm.quantization import Scheme
from imc_ssm.study import (
    KINDS,
    Cost,
    Deploy,
    Disturb,
    Experiment,
    Job,
    Kernel,
    Poles,
    Ptq,
    Qat,
    Train,
    Workplace,
    run,
)
from imc_ssm.study.jobs.base import Bench
from imc_ssm.training import TrainConfig

QUICK = TrainConfig(epochs=2, batch=256, learning_rate=1e-3)
EXAMPLES: dict[str, Job] = {
    "train": Train("tiny"),
    "ptq": Ptq("tiny", Scheme()),
    "qat": Qat("tiny", Scheme(), QUICK.with_(distill=0.5)),
    "poles": Poles("tiny", Scheme()),
    "kernel": Kernel("tiny", Scheme(), 16),
    "deploy": Deploy(Qat("tiny", Scheme(), QUICK), "pcm-256", chips=2, times=(1.0, 86400.0)),
    "disturb": Disturb(Ptq("tiny", Scheme()), poles=0.01, weights=0.05, draws=2),
    "cost": Cost(Ptq("tiny", Scheme()), "pcm-256"),
}


def experiment(job: Job) -> Experiment:
    return Experiment(job.kind, job.kind, {"one": (1,)}, lambda cell: job, tuple(v.name for v in job.variables), 1)


def compute(place: Workplace, job: Job, stage=silent):
    declared = experiment(job)
    failures = run(place, declared, declared.cells(), stage=stage, finished=lambda f: None)
    assert failures == []
    return results.load(place.result_path(declared))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Workplace:
    """All examples, computed."""
    place = smoke_place(tmp_path_factory.mktemp("kinds"))
    for job in EXAMPLES.values():
        compute(place, job)
    return place


def test_every_kind_has_an_example():
    assert EXAMPLES.keys() == KINDS.keys()
    assert all(type(EXAMPLES[name]) is kind and kind.kind == name for name, kind in KINDS.items())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_declared_is_what_is_returned(done, kind):
    job = EXAMPLES[kind]
    found = job.run(Bench(done, job, 0, lambda *a: None))
    assert list(found.data_vars) == [variable.name for variable in job.variables]
    stored = results.load(done.result_path(experiment(job)))
    for variable in job.variables:
        own = tuple(dimension.name for dimension in variable.dimensions)
        assert found[variable.name].dims == own
        assert stored[variable.name].dims == ("one", "seed", *own)
        for ds in (found, stored):
            attrs = ds[variable.name].attrs
            assert (attrs["units"], attrs["long_name"]) == (variable.units, variable.long_name)
            assert variable.units, variable.name
            assert variable.long_name[0].isupper(), variable.name
        assert ("n_test" in stored[variable.name].attrs) == variable.test
        for dimension in variable.dimensions:
            about = found[dimension.name].attrs
            assert (about["units"], about["long_name"]) == (dimension.units, dimension.long_name)
            assert dimension.long_name
            assert np.array_equal(found[dimension.name], stored[dimension.name])
        values = stored[variable.name].values[0, 0]
        np.testing.assert_array_equal(found[variable.name].values, values)  # NaN equals NaN
        assert np.isfinite(values).any(), variable.name


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_done_is_not_done_again(done, kind):
    started = []

    @contextlib.contextmanager
    def stage(title):
        started.append(title)
        yield lambda *a: None

    compute(done, EXAMPLES[kind], stage)
    assert started == []


class Stop(Exception):
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_it_goes_on_to_the_same_values(done, tmp_path, kind):
    """At the first report of progress, and again in the middle; other kinds say nothing, and are quick."""
    place, job = smoke_place(tmp_path), EXAMPLES[kind]
    steps: list[int] = []

    @contextlib.contextmanager
    def stage(title):
        def progress(at, total, note):
            steps.append(at)
            if title == job.title(0) and len(stops) and at >= stops[0] * total:
                del stops[0]
                raise Stop

        yield progress

    reports = kind in ("train", "qat", "deploy")
    stops = [0.0, 0.7] if reports else []
    for _ in range(len(stops)):
        with pytest.raises(Stop):
            compute(place, job, stage)
    assert results.values_equal(compute(place, job, stage), results.load(done.result_path(experiment(job))))
    assert not list(place.runs.glob("*.checkpoint.safetensors"))
    assert not list(place.runs.glob("*.lock"))


@pytest.mark.parametrize("kind", KINDS)
def test_its_key_is_stable_and_covers_what_decides(done, kind):
    job, study = EXAMPLES[kind], done.study
    key = study.key(job, 0)
    assert key == study.key(type(job)(*[getattr(job, name) for name in type(job).model_fields]), 0)
    assert key != study.key(job, 1)
    longer = study.recipe.with_(pretraining__epochs=study.recipe.pretraining.epochs + 1)
    other = Workplace(type(study)(study.name, "", study.task, longer, (), models=study.models), done.folder)
    assert key != other.study.key(job, 0)
    assert len({study.key(example, 0) for example in EXAMPLES.values()}) == len(EXAMPLES)
    for name, value in CHANGES.get(kind, {}).items():
        assert key != study.key(job.with_({name: value}), 0), name


CHANGES = {
    "train": {"model": ModelConfig(heads=6), "training": QUICK},
    "ptq": {"scheme.bits.state": 5},
    "qat": {"scheme.symmetric": True, "training.noise": 0.1, "chip": "pcm-256"},
    "poles": {"scheme.bits.poles": 5},
    "kernel": {"steps": 17},
    "disturb": {"poles": 0.02, "weights": 0.0, "draws": 3},
    "deploy": {
        "sequences": 20,
        "chips": 3,
        "times": (1.0,),
        "design.read_noise.value": 0.1,
        "start.scheme.bits.c": 5,
    },
    "cost": {"design.lanes": 8, "start.scheme.bits.c": 5},
}


def test_keys_do_not_depend_on_the_process(done):
    """Nor on the order of a set: another process has another hash seed."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_jobs import EXAMPLES; from fakes import SMOKE\n"
        "import runpy; study = runpy.run_path(str(SMOKE))['STUDY']\n"
        "print(*(study.key(job, 0) for job in EXAMPLES.values()))"
    )
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", code, here]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.split() == [done.study.key(job, 0) for job in EXAMPLES.values()]


def test_a_model_that_is_lost_is_made_again_for_the_chips(done, tmp_path):
    """The record of a QAT is enough for its accuracy; its chips need its model."""
    job = EXAMPLES["deploy"]
    place = Workplace(done.study, done.folder)
    path = job.start.path(place, 0)
    kept = path.read_bytes()
    path.unlink()
    other = job.with_(chips=1)
    ds = compute(place, other)
    assert path.exists()
    whole = results.load(place.result_path(experiment(other)))
    assert results.values_equal(ds, whole)
    path.write_bytes(kept)


def test_without_a_chip_there_is_the_digital_reference(done):
    ds = compute(done, Deploy("tiny", None))
    assert ds["accuracy_digital"].item() == done.find(Train("tiny"), 0).measured["accuracy"]
    assert ds.sizes["chip"] == 0


def test_a_model_is_trained_for_a_chip(done):
    place, plain = Workplace(done.study, done.folder), EXAMPLES["qat"]
    keys = {place.study.key(plain.with_(chip=chip), 0) for chip in (None, "pcm-256", "reram-128")}
    assert len(keys) == 3
    compute(place, plain.with_(chip="pcm-256"))
    info = place.stored_model(plain.with_(chip="pcm-256"), 0).info
    assert info["chip_training"]["disturbance"]["design"] == "pcm-256"
    assert info["training"]["input_ranges"] == "learned"


def test_chips_are_tested_on_the_same_subset(done):
    some = EXAMPLES["deploy"].with_(sequences=40)
    ds, again = compute(done, some), compute(done, some.with_(chips=1))
    assert ds["accuracy"].attrs["n_test"] == 40
    assert ds["accuracy"].isel(chip=0).equals(again["accuracy"].isel(chip=0))
    share = ds["accuracy"].values * 40 / 100
    np.testing.assert_allclose(share, np.rint(share), atol=1e-9)  # of 40 sequences
    assert compute(done, some.with_(sequences=10**6))["accuracy"].attrs["n_test"] == done.shape["splits"]["test"]


def test_noise_is_drawn_anew_and_none_is_the_models_accuracy(done):
    job = EXAMPLES["disturb"]
    none = compute(done, job.with_(poles=0.0, weights=0.0))["accuracy_disturbed"].values.ravel()
    assert set(none) == {done.find(job.start, 0).measured["accuracy"]}
    found = compute(done, job.with_(weights=0.5, draws=4))["accuracy_disturbed"].values.ravel()
    assert len(set(found)) > 1


@pytest.mark.parametrize(
    ("make", "naming"),
    [
        (lambda: Deploy("tiny", "pcm-256"), "a chip takes a quantized model"),
        (lambda: Ptq(Poles("tiny"), Scheme()), "a job of kind 'poles' leaves no model"),
        (lambda: Cost(Ptq("tiny", Scheme()), "pcm-265"), "did you mean 'pcm-256'"),
        (lambda: Train("tiny", modle=1), "did you mean 'model'"),
    ],
)
def test_jobs_that_make_no_sense(make, naming):
    with pytest.raises(ConfigError, match=naming):
        make()


def test_fields_in_order():
    assert Ptq("tiny", Scheme()) == Ptq(start=Train(model="tiny"), scheme=Scheme())
    with pytest.raises(ConfigError, match="Train has the fields model, training, 3 were given"):
        Train("tiny", None, None)
    with pytest.raises(ConfigError, match="Train: model is given twice"):
        Train("tiny", model="tiny")


@pytest.mark.parametrize("kind", ["train", "ptq", "qat"])
def test_models_are_computed_on_the_device_that_is_named(tmp_path, kind, monkeypatch):
    """Trained, calibrated and tested there; the ledger says where."""
    seen = []

    def named(name):
        seen.append(name)
        return torch.device("cpu")

    for module in ("study.jobs.base", "study.engine", "training", "quantization.wrapping"):
        monkeypatch.setattr(f"imc_ssm.{module}.named_device", named)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    place, job = smoke_place(tmp_path), EXAMPLES[kind]
    declared = experiment(job)
    assert run(place, declared, declared.cells(), stage=silent, finished=lambda f: None, device="cuda") == []
    assert set(seen) == {"cuda"}
    found = place.find(job, 0)
    assert found is not None
    assert found.about["device"] == "a card"
