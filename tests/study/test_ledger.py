"""The ledger: every change is noticed, two results never stand for one job, and neither do two models."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from fakes import fake_record, silent, smoke_place

from imc_ssm import datasets
from imc_ssm.errors import DataError, FileError
from imc_ssm.modelfile import save_model
from imc_ssm.study import Train, run
from imc_ssm.study.declare import Study
from imc_ssm.study.ledger import locked


def compute(place, name, only):
    experiment = place.study.experiment(name)
    return run(place, experiment, experiment.cells(only=only), stage=silent, finished=lambda f: None)


@pytest.fixture
def place(tmp_path):
    """Six made-up results."""
    place = smoke_place(tmp_path)
    for index, cell in enumerate(place.study.experiment("widths").cells()):
        place.ledger.add(fake_record(place, cell, 50.0 + index))
    return place


def rewrite(place, change):
    lines = place.ledger.path.read_text().splitlines()
    place.ledger.path.write_text("\n".join(change(lines)) + "\n")


@pytest.mark.parametrize(
    ("change", "naming"),
    [
        (lambda lines: [line.replace("51.0", "99.5") for line in lines], "line 2: .*was changed"),
        (lambda lines: [*lines[:-1], lines[-1][:-20]], "line 6: .*no result"),
        (lambda lines: [lines[0], "<<<<<<< HEAD", *lines[1:]], "line 2: '<<<<<<< HEAD'.*a merge"),
        (lambda lines: [*lines, "[1]"], "line 7: .*no result"),
        (lambda lines: [*lines, '{"key": "a"}'], "line 7: .*no result"),
        (lambda lines: [*lines, '{"key": NaN, "sha256": "a"}'], "line 7: .*no result"),
        (lambda lines: [*lines, "[" * 100_000], "line 7: .*no result"),
    ],
)
def test_every_change_is_noticed(place, change, naming):
    assert len(place.ledger.records()) == 6
    rewrite(place, change)
    with pytest.raises(FileError, match=rf"ledger\.jsonl, {naming}"):
        place.ledger.records()


def test_fields_of_another_version_are_named(place, monkeypatch):
    from imc_ssm.study import ledger

    @dataclasses.dataclass(frozen=True)
    class Later(ledger.Record):
        colour: str = "red"

    entry = next(iter(place.ledger.records().values()))
    later = Later(**vars(entry) | {"key": "later"})
    rewrite(place, lambda lines: [*lines, ledger._line(later)])
    with pytest.raises(FileError, match="line 7: the result of job later has other fields"):
        place.ledger.records()


def test_two_ledgers_merge_line_by_line(place, tmp_path_factory):
    """Equal results are one; different ones of one job are an error that names both."""
    other = smoke_place(tmp_path_factory.mktemp("other"))
    cells = place.study.experiment("widths").cells()
    other.ledger.add(dataclasses.replace(fake_record(other, cells[0], 50.0), time_s=99.0))
    lines = other.ledger.path.read_text().splitlines()
    rewrite(place, lambda ours: [*ours, *lines])
    entries = place.ledger.records()
    assert len(entries) == 6
    assert entries[place.study.key(cells[0].jobs[0], 0)].time_s == 10.0  # the first
    other.ledger.add(fake_record(other, cells[1], 12.0))
    lines = other.ledger.path.read_text().splitlines()
    rewrite(place, lambda ours: [*ours, lines[-1]])
    with pytest.raises(FileError, match="lines 2 and 8 are two results of one job"):
        place.ledger.records()


def test_numbers_that_json_lacks_survive(tmp_path):
    place = smoke_place(tmp_path)
    cell = place.study.experiment("kernel").cells()[0]
    entry = fake_record(place, cell, 0.0)
    entry.measured["kernel_error"][0][0][:3] = [math.nan, math.inf, -math.inf]
    place.ledger.add(entry)
    place.ledger.add(entry)  # replaced, not doubled
    (back,) = place.ledger.records().values()
    np.testing.assert_array_equal(back.measured["kernel_error"], entry.measured["kernel_error"])


def test_a_lock_that_cannot_be_made(tmp_path):
    (tmp_path / "runs").write_text("")
    (tmp_path / "folder.lock").mkdir()
    for path in (tmp_path / "runs" / "a.lock", tmp_path / "folder.lock"):
        with pytest.raises(FileError, match=f"cannot write {path}"), locked(path):
            pass


def test_a_lock_is_held_by_one(tmp_path):
    path = tmp_path / "deep" / "a.lock"
    with locked(path) as first:
        assert first
        with locked(path, wait=False) as second:
            assert not second
        assert path.exists()
    assert not path.exists()
    with locked(path, wait=False) as third:
        assert third


@pytest.fixture
def trained(tmp_path):
    """Seed 0 in full precision."""
    place = smoke_place(tmp_path)
    assert compute(place, "widths", {"seed": ["0"], "bits": ["32"]}) == []
    return place


def another(place):
    """Put another training's model in the place of the first."""
    path = Train("tiny").path(place, 0)
    stored = place.stored_model(Train("tiny"), 0)
    history = stored.info["history"]
    moved = history | {"loss_train": [value + 1e-9 for value in history["loss_train"]]}
    with torch.no_grad():
        stored.model.decoder.bias += 1.0
    save_model(path, dataclasses.replace(stored, info=stored.info | {"history": moved}))


def test_results_of_another_model_are_not_mixed(trained):
    assert compute(trained, "widths", {"seed": ["0"], "bits": ["8"]}) == []
    kept = Train("tiny").path(trained, 0).read_bytes()
    before = trained.ledger.path.read_bytes()
    another(trained)
    with pytest.raises(FileError, match=r"is not the model behind 1 results in .*restore the file, or remove"):
        compute(trained, "widths", {"seed": ["0"], "bits": ["4"]})
    assert trained.ledger.path.read_bytes() == before
    Train("tiny").path(trained, 0).write_bytes(kept)
    assert compute(trained, "widths", {"seed": ["0"], "bits": ["4"]}) == []


def test_another_model_that_nothing_started_from_takes_the_place(trained):
    another(trained)
    assert compute(trained, "widths", {"seed": ["0"], "bits": ["8"]}) == []
    entry = trained.find(Train("tiny"), 0)
    assert entry.measured["loss_train"][1:] == trained.stored_model(Train("tiny"), 0).info["history"]["loss_train"]


def test_a_model_that_is_lost_is_trained_again_to_the_same(trained):
    assert compute(trained, "widths", {"seed": ["0"], "bits": ["8"]}) == []
    before = trained.stored_model(Train("tiny"), 0).model.state_dict()
    Train("tiny").path(trained, 0).unlink()
    assert compute(trained, "widths", {"seed": ["0"], "bits": ["4"]}) == []
    after = trained.stored_model(Train("tiny"), 0).model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_contents_of_a_file_of_ones_own_are_in_the_key(place, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "mine.npz"
    study = dataclasses.replace(place.study, task=str(path))
    with pytest.raises(DataError, match=r"mine\.npz"):
        study.key(Train("tiny"), 0)
    keys = []
    for _ in range(2):
        np.savez(path, values=rng.normal(size=(30, 16)), labels=np.arange(30) % 3)
        keys.append(study.key(Train("tiny"), 0))
        assert keys[-1] == study.key(Train("tiny"), 0)
    assert keys[0] != keys[1]
    assert isinstance(study, Study)
    assert json.dumps(study.identity(Train("tiny"), 0))
    assert datasets.digest("digits") is None
