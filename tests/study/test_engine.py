"""The engine in this process: cells, sharing, resuming, failures, and what a changed file does."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes import fake_dataset, silent, smoke_place

from imc_ssm import results
from imc_ssm.errors import ConfigError, FileError
from imc_ssm.files import save_tensors
from imc_ssm.modelfile import save_model
from imc_ssm.quantization import Scheme
from imc_ssm.study import Experiment, Ptq, Qat, Train, Workplace, run
from imc_ssm.study.dataset import assemble
from imc_ssm.study.jobs import base
from imc_ssm.study.ledger import locked

JOBS = {"train": Train("tiny"), "ptq": Ptq("tiny", Scheme()), "qat": Qat("tiny", Scheme())}


def compute(place, name, *, stage=silent, seeds=None, only=None, finished=lambda f: None):
    experiment = place.study.experiment(name)
    cells = experiment.cells(seeds, only)
    failures = run(place, experiment, cells, stage=stage, finished=finished)
    return failures, results.load(place.result_path(experiment))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Workplace:
    """The smoke study, complete but for the second seed of the curves."""
    place = smoke_place(tmp_path_factory.mktemp("done"))
    for name, seeds in (("widths", None), ("curves", 1), ("again", 1), ("poles", None), ("kernel", None)):
        assert compute(place, name, seeds=seeds)[0] == []
    return place


def dataset(place: Workplace, name: str):
    return results.load(place.result_path(place.study.experiment(name)))


def test_the_dataset_holds_what_was_varied(done):
    ds = dataset(done, "widths")
    assert ds["accuracy"].dims == ("model", "bits", "seed")
    assert ds["accuracy"].attrs == {"units": "percent", "long_name": "Test accuracy", "n_test": 360}
    there = ds["accuracy"].sel(bits=[32, 8, 4]).values
    assert np.isfinite(there).all()
    assert (there > 15).any()  # it learnt something
    assert np.isnan(ds["accuracy"].sel(bits=2).values).all()  # no such cell
    assert (ds.attrs["cells"], ds.attrs["cells_done"], ds.attrs["n_test"]) == (6, 6, 360)
    assert json.loads(ds.attrs["missing"]) == []
    assert ds.attrs["compute_time_s"] > 0
    config = json.loads(ds.attrs["configuration"])
    assert (config["study"], config["experiment"], config["task"]) == ("smoke", "widths", "digits")
    assert config["recipe"]["pretraining"]["epochs"] == 2
    assert {"kind": "train", "model": "tiny"} in config["jobs"]
    widths = [Scheme.parse(job.get("scheme", {})).bits.poles for job in config["jobs"] if job["kind"] == "ptq"]
    assert sorted(widths) == [4, 8]
    assert float(ds["accuracy_paper"].sel(model="tiny", bits=8)) == 40


def test_missing_cells_are_nan_and_named(done):
    ds = dataset(done, "curves")
    assert ds["accuracy_validation"].dims == ("model", "bits", "seed", "epoch")
    assert ds["epoch"].values.tolist() == [0, 1, 2]
    assert np.isfinite(ds["accuracy_validation"].sel(seed=0).values).all()
    assert np.isnan(ds["loss_train"].sel(seed=0, epoch=0).values).all()
    for name in ("accuracy", "accuracy_validation", "loss_train"):
        assert np.isnan(ds[name].sel(seed=1).values).all(), name
    missing = [{"model": "tiny", "bits": bits, "seeds": [1]} for bits in (8, 5)]
    assert json.loads(ds.attrs["missing"]) == missing
    assert (ds.attrs["cells"], ds.attrs["cells_done"]) == (4, 2)


def test_an_empty_dataset_is_all_nan(tmp_path):
    place = smoke_place(tmp_path)
    for experiment in place.study.experiments:
        ds = assemble(place, experiment, {})
        for name in experiment.variables:
            assert not ds[name].notnull().any()
        results.save(ds, tmp_path / f"{experiment.name}.nc")
        assert ds.attrs["cells_done"] == 0


def test_experiments_share_jobs_and_models(done):
    kinds = sorted(record.identity["job"]["kind"] for record in done.ledger.records().values())
    assert kinds == [*["kernel"] * 2, *["poles"] * 2, *["ptq"] * 4, *["qat"] * 2, *["train"] * 2]
    assert sorted(path.name for path in (done.folder / "models").iterdir()) == [
        "tiny-seed0.safetensors",
        "tiny-seed1.safetensors",
    ]
    again, curves = dataset(done, "again"), dataset(done, "curves")
    assert float(again["accuracy"].sel(bits=8, seed=0)) == float(
        curves["accuracy"].sel(bits=8, seed=0, model="tiny")
    )
    left = [path.name for path in done.runs.iterdir()]
    assert len(left) == 2  # the two quantized models: neither locks nor checkpoints
    assert all(name.startswith("qat-tiny-seed0-") for name in left)


def test_poles_and_kernels(done):
    poles, kernel = dataset(done, "poles"), dataset(done, "kernel")
    assert poles["pole"].dims == ("bits", "seed", "head", "state", "part")
    before, after = (poles["pole"].sel(bits=bits, seed=0).values for bits in (32, 5))
    assert 0 < np.abs(after - before).max() < 2 / 2**4
    grid = np.unique(np.round(after[0].ravel(), 6))
    assert len(grid) <= 32  # one head, 5 bits
    errors = kernel["kernel_error"].sel(rounded="all", quantile=0.5, seed=0)
    assert kernel["step"].values[-1] == 64
    assert (errors.sel(bits=3) > errors.sel(bits=5))[1:].all()  # the first step has no a in it


def test_a_finished_cell_is_not_computed_again(done):
    started = []

    @contextlib.contextmanager
    def stage(title):
        started.append(title)
        yield lambda *a: None

    failures, _ = compute(done, "widths", stage=stage)
    assert (failures, started) == ([], [])


class Stop(Exception):
    pass


def test_interrupted_anywhere_it_goes_on_to_the_same_values(done, tmp_path):
    """Stopped in the second epoch of the training, of the QAT, and between two cells."""
    place = smoke_place(tmp_path)
    stops = {"train tiny seed 0": 20, "QAT tiny seed 0 a8-x8": 20}  # 17 steps an epoch

    @contextlib.contextmanager
    def stage(title):
        def progress(steps, total, note):
            if title in stops and steps == stops[title]:
                del stops[title]
                raise Stop

        yield progress

    def between(finished):
        if finished.cell.at["bits"] == 8 and "cell" not in seen:
            seen.append("cell")
            raise Stop

    seen: list[str] = []
    for attempt in range(3):
        with pytest.raises(Stop):
            compute(place, "curves", seeds=1, stage=stage, finished=between)
        written = dataset(place, "curves")["accuracy"]
        assert int(written.notnull().sum()) == (1 if attempt == 2 else 0)
        if attempt < 2:
            assert len(list(place.runs.glob("*.checkpoint.safetensors"))) == 1
    assert stops == {}
    assert compute(place, "curves", seeds=1, stage=stage, finished=between)[0] == []
    assert results.values_equal(dataset(place, "curves"), dataset(done, "curves"))
    assert not list(place.runs.glob("*.checkpoint.safetensors"))


def test_a_training_that_diverges_leaves_its_cell_missing(tmp_path):
    place = smoke_place(tmp_path)
    wild = place.study.recipe.qat.with_({"learning_rate": 1e30, "epochs": 1, "clip": 1e30})
    recipe = place.study.recipe.with_({"qat": wild})
    place.study = dataclasses.replace(place.study, recipe=recipe)
    seen = []
    failures, ds = compute(place, "curves", seeds=1, finished=seen.append)
    assert len(failures) == len(seen) == 2
    assert all(not f.records and f.error for f in failures)
    assert not ds["accuracy"].notnull().any()
    assert seen[-1].done == 2


def test_a_checkpoint_of_another_training_is_a_failure_of_its_cell(done, tmp_path):
    place = smoke_place(tmp_path)
    shutil.copytree(done.folder / "models", place.folder / "models")
    cells = place.study.experiment("curves").cells(1)
    path = place.run_path(cells[0].jobs[0], 0, ".checkpoint.safetensors")
    other = {"identity": {"config": {"learning_rate": 7.0}, "task": "digits"}}
    save_tensors(path, {"random": np.zeros(1)}, other, "checkpoint")
    failures, ds = compute(place, "curves", seeds=1)
    assert [f.cell for f in failures] == cells[:1]
    assert "checkpoint of a training with other settings (epochs 10 there" in failures[0].error
    assert int(ds["accuracy"].notnull().sum()) == len(cells) - 1
    assert path.exists()


def test_a_damaged_checkpoint_is_a_failure_of_its_cell(done, tmp_path):
    place = smoke_place(tmp_path)
    shutil.copytree(done.folder / "models", place.folder / "models")
    cells = place.study.experiment("curves").cells(1)
    path = place.run_path(cells[0].jobs[0], 0, ".checkpoint.safetensors")
    path.parent.mkdir()
    path.write_bytes(b"\x10\x00")
    failures, ds = compute(place, "curves", seeds=1)
    assert [f.cell for f in failures] == cells[:1]
    assert failures[0].error.endswith("or remove it to start this training anew")
    assert int(ds["accuracy"].notnull().sum()) == len(cells) - 1


def test_every_coordinate_says_what_it_is(done):
    for name in ("widths", "curves", "poles", "kernel"):
        for coordinate in dataset(done, name).coords.values():
            assert coordinate.attrs["units"], coordinate.name
            assert coordinate.attrs["long_name"], coordinate.name


def test_other_schemes_are_another_configuration(done, tmp_path):
    """The hash covers what the cells compute, not only the names of the dimensions."""
    place, experiment = smoke_place(tmp_path), done.study.experiment("widths")
    changed = dataclasses.replace(experiment, job=lambda cell: Ptq(cell["model"], Scheme(symmetric=True)))
    hashes = {assemble(place, e, {}).attrs["configuration_sha256"] for e in (experiment, changed)}
    assert len(hashes) == 2


def test_a_training_that_diverges_is_not_repeated_for_every_cell(tmp_path):
    place = smoke_place(tmp_path)
    wild = place.study.recipe.pretraining.with_({"learning_rate": 1e30, "epochs": 1, "clip": 1e30})
    place.study = dataclasses.replace(place.study, recipe=place.study.recipe.with_({"pretraining": wild}))
    started = []

    @contextlib.contextmanager
    def stage(title):
        started.append(title)
        yield lambda *a: None

    failures, _ = compute(place, "widths", seeds=1, stage=stage)
    assert started == ["train tiny seed 0"]
    assert len(failures) == 3
    assert len({f.error for f in failures}) == 1


def test_a_model_of_an_older_default_is_refused(done, tmp_path):
    """Its key is the same: what is at its default is left out."""
    place = smoke_place(tmp_path)
    stored = done.stored_model(Train("tiny"), 0)
    assert stored.info["training"]["warmup"] == 0.1
    older = dataclasses.replace(stored, info=stored.info | {"training": stored.info["training"] | {"warmup": 0.3}})
    save_model(Train("tiny").path(place, 0), older)
    with pytest.raises(FileError, match="another recipe"):
        compute(place, "widths", seeds=1)


def test_a_changed_arithmetic_is_another_key(done, monkeypatch):
    keys = {kind: done.study.key(job, 0) for kind, job in JOBS.items()}
    monkeypatch.setattr(Qat, "numerics", 2)
    changed = {kind: done.study.key(job, 0) for kind, job in JOBS.items()}
    assert {kind for kind in keys if keys[kind] != changed[kind]} == {"qat"}
    monkeypatch.setattr(Train, "numerics", 2)
    changed = {kind: done.study.key(job, 0) for kind, job in JOBS.items()}
    assert all(keys[kind] != changed[kind] for kind in keys)
    jobs = {name: Ptq("tiny", Scheme(granularity=name)) for name in ("head", "state")}
    keys = {name: done.study.key(job, 0) for name, job in jobs.items()}
    monkeypatch.setattr(base, "STATE_NUMERICS", 3)
    assert {name for name, job in jobs.items() if done.study.key(job, 0) != keys[name]} == {"state"}


def test_what_did_not_change_is_not_written_again(done):
    path = done.result_path(done.study.experiment("widths"))
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    compute(done, "widths")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, stamp)
    path.write_bytes(b"broken")
    compute(done, "widths")
    assert results.load(path)["accuracy"].notnull().any()


def test_another_recipe_is_another_key_and_never_mixes(done):
    recipe = done.study.recipe
    job = done.study.experiment("again").cells()[0].jobs[0]
    other = dataclasses.replace(done.study, recipe=recipe.with_(qat__learning_rate=1e-4))
    place = Workplace(other, done.folder)
    assert done.find(job, 0) is not None
    assert place.find(job, 0) is None
    assert place.find(Train("tiny"), 0) is not None  # pre-training is the same
    longer = recipe.with_(pretraining__epochs=9)
    place = Workplace(dataclasses.replace(done.study, recipe=longer), done.folder)
    with pytest.raises(FileError, match="another recipe"):
        place.stored_model(Train("tiny"), 0)


def test_a_training_of_its_own(done, tmp_path):
    """Its model stays out of `models/`, and equal numbers are the same job as the recipe's."""
    recipe = done.study.recipe
    other = recipe.pretraining.with_({"learning_rate": 1e-3, "epochs": 1})
    place = smoke_place(tmp_path)
    jobs = {"own": Train("tiny", other), "same": Train("tiny", recipe.pretraining)}
    trials = Experiment("trials", "Trials", {"how": tuple(jobs)}, lambda cell: jobs[cell["how"]], seeds=1)
    place.study = dataclasses.replace(place.study, experiments=(trials,))
    assert compute(place, "trials", only={"how": ["own"]})[0] == []
    assert not Train("tiny").path(place, 0).exists()
    assert place.stored_model(jobs["own"], 0).info["training"]["learning_rate"] == 1e-3
    assert place.find(Train("tiny"), 0) is None
    assert place.spent(trials.cells(), place.ledger.records()) > 0
    assert done.study.key(jobs["same"], 0) == done.study.key(Train("tiny"), 0)
    assert jobs["same"].path(done, 0) == Train("tiny").path(done, 0)
    start = Qat("tiny", Scheme())
    tuned = Qat("tiny", Scheme(), recipe.qat.with_({"learning_rate": 1e-4}))
    keys = [done.study.identity(job, 0)["job"] for job in (start, tuned)]
    assert keys[0] | {"training": None} == keys[1] | {"training": None} != keys[0]
    assert keys[1]["training"]["learning_rate"] == 1e-4


def test_keys_leave_out_defaults_but_a_changed_default_is_noticed(done):
    study, job = done.study, done.study.experiment("again").cells()[0].jobs[0]
    identity = study.identity(job, 0)
    assert identity["job"]["scheme"] == {}
    assert "seed" not in identity["job"]["training"]
    whole = study.identity(job, 0, whole=True)
    key = study.key(job, 0)
    assert done.ledger.find(key, whole) is not None
    later = json.loads(json.dumps(whole))
    scheme = later["job"]["scheme"]
    scheme["a_new_field"] = "its default"
    for rule in scheme["rules"]:
        rule["a_new_field"] = "its default"
    assert done.ledger.find(key, later) is not None
    for name, value in (("symmetric", True), ("bits", 7)):
        other = json.loads(json.dumps(later))
        other["job"]["scheme"]["rules"][0][name] = value
        assert done.ledger.find(key, other) is None
    other = json.loads(json.dumps(later))
    other["job"]["scheme"]["rules"].pop()
    assert done.ledger.find(key, other) is None
    scheme["state_clip"] = 3.0
    assert done.ledger.find(key, later) is None
    assert study.key(job, 1) != key


def test_a_cell_at_work_elsewhere_comes_last(tmp_path):
    place = smoke_place(tmp_path)
    place.data  # noqa: B018
    held = place.run_path(Train("tiny"), 0, ".lock")
    order, waited = [], []
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(held))

        def waiting(cell):
            waited.append(cell.seed)
            stack.close()  # the other process is done

        experiment = place.study.experiment("widths")
        cells = experiment.cells(only={"bits": ["32"]})
        failures = run(
            place, experiment, cells, stage=silent, finished=lambda f: order.append(f.cell.seed), waiting=waiting
        )
    assert (failures, order, waited) == ([], [1, 0], [0])


def test_cells_that_are_chosen():
    experiment = Experiment(
        "e", "E", {"model": ("a", "b"), "bits": (8, 6)}, lambda cell: Train(cell["model"]), seeds=3
    )
    cells = experiment.cells()
    assert len(cells) == 12
    assert [cell.seed for cell in cells[:4]] == [0, 0, 0, 0]  # seed after seed
    chosen = experiment.cells(only={"model": ["b"], "bits": ["8"], "seed": ["2", "0"]})
    assert [cell.label for cell in chosen] == ["model=b bits=8 seed=0", "model=b bits=8 seed=2"]
    assert len(experiment.cells(seeds=1)) == 4
    rates = Experiment("e", "E", {"rate": (1e-4, 1e-2), "bits": (16, 8)}, lambda cell: Train("a"), seeds=1)
    assert [c.at for c in rates.cells(only={"rate": ["1e-2"], "bits": ["8.0"]})] == [{"rate": 0.01, "bits": 8}]
    with pytest.raises(ConfigError, match=r"known: 16, 8$"):  # as declared, not as texts sort
        rates.cells(only={"bits": ["full"]})
    for arguments, naming in (
        ({"seeds": 4}, "declares 3 seeds"),
        ({"only": {"modle": ["a"]}}, "did you mean 'model'"),
        ({"only": {"bits": ["7"]}}, "unknown bits '7'"),
        ({"only": {"seed": ["3"]}}, "unknown seed '3'"),
        ({"only": {"seed": ["2"]}, "seeds": 1}, "no cell has seed=2 among the first 1 of 3 seeds"),
    ):
        with pytest.raises(ConfigError, match=naming):
            experiment.cells(**arguments)


@pytest.mark.parametrize(
    ("changes", "naming"),
    [
        ({"dimensions": {"seed": (1,)}}, "no dimension 'seed'"),
        ({"dimensions": {"bits": (8, 8)}}, "each once"),
        ({"dimensions": {"bits": (8,)}, "paper": {(7,): (1.0, 1.0)}}, "belongs to no cell"),
        ({"dimensions": {"bits": (8,)}, "paper": {(8, 8): (1.0, 1.0)}}, r"number at \(8, 8\) needs bits"),
        ({"seeds": 0}, "at least one"),
    ],
)
def test_declarations_that_are_wrong(changes, naming):
    given = {"name": "e", "title": "E", "dimensions": {"bits": (8,)}, "job": lambda cell: Train("a")}
    with pytest.raises(ConfigError, match=naming):
        Experiment(**(given | changes))


def test_two_experiments_of_one_name(done):
    twice = (done.study.experiment("widths"), done.study.experiment("widths"))
    with pytest.raises(ConfigError, match="smoke: several experiments are named 'widths'"):
        dataclasses.replace(done.study, experiments=twice)


def test_missing_data_are_one_error_before_any_work(tmp_path, monkeypatch):
    place = smoke_place(tmp_path)
    place.study = dataclasses.replace(place.study, task=str(Path("none.npz")))
    with pytest.raises(ValueError, match=r"none\.npz"):
        compute(place, "widths")
    assert not (place.folder / "results").exists()


def test_made_up_cells_land_in_their_places(tmp_path):
    place = smoke_place(tmp_path)
    experiment = place.study.experiment("widths")
    ds = fake_dataset(place, experiment, lambda cell: None if cell.seed else float(cell.at["bits"]))
    for bits in (32, 8, 4):
        assert ds["accuracy"].sel(model="tiny", bits=bits).values.tolist()[0] == bits
    assert np.isnan(ds["accuracy"].sel(seed=1).values).all()


def test_schemes_of_the_key_are_told_apart(tmp_path):
    place = smoke_place(tmp_path)
    job = place.study.experiment("again").cells()[0].jobs[0]
    other = job.with_({"scheme": Scheme.uniform(symmetric=True)})
    assert place.study.key(job, 0) != place.study.key(other, 0)
