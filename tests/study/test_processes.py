"""Processes of their own: killed at any moment, and two at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fakes import silent, smoke_folder

from imc_ssm import results
from imc_ssm.study import Workplace, load_study, run

SCRIPT = str(Path(sys.executable).with_name("imc-ssm"))


def start(folder: Path, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SCRIPT, "experiment", "run", *map(str, words)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, str]:
    """Two processes, one seed each, at the same time, uninterrupted otherwise."""
    folder = tmp_path_factory.mktemp("two")
    smoke_folder(folder)
    words = ("curves", "widths", "--only", "bits=8", "--threads", 1)
    both = [start(folder, *words, "--only", f"seed={seed}") for seed in (0, 1)]
    return folder, "".join(finish(process) for process in both)


def dataset(folder: Path, name: str):
    return results.load(folder / "experiments" / "smoke" / "results" / f"{name}.nc")


def test_two_processes_lose_no_cell(whole):
    folder, printed = whole
    # the widths at 32 bits are full precision, which every other cell starts from
    for name, widths in (("curves", [8]), ("widths", [8, 32])):
        ds = dataset(folder, name)
        assert ds.attrs["cells_done"] == 2 * len(widths), printed
        assert np.isfinite(ds["accuracy"].sel(bits=widths)).all()
        assert np.isnan(ds["accuracy"].drop_sel(bits=widths)).all()
    study = folder / "experiments" / "smoke"
    entries = Workplace(load_study(study), study).ledger.records()
    assert len(entries) == 2 + 2 + 2  # full precision, PTQ, QAT
    assert not list((study / "runs").glob("*.lock"))


def test_killed_it_goes_on_to_the_same_values(whole, tmp_path):
    """SIGKILL in the second epoch of a QAT."""
    study = smoke_folder(tmp_path)
    process = start(tmp_path, "curves", "--only", "bits=8", "--seeds", 1)
    limit = time.monotonic() + 60
    while not list(study.glob("runs/qat-*.checkpoint.safetensors")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert list(study.glob("runs/qat-*.checkpoint.safetensors"))
    assert dataset(tmp_path, "curves").attrs["cells_done"] == 0
    place = Workplace(load_study(study), study)
    experiment = place.study.experiment("curves")
    cells = experiment.cells(1, {"bits": ["8"]})
    assert run(place, experiment, cells, stage=silent, finished=lambda f: None) == []
    ours, theirs = (dataset(folder, "curves").sel(bits=8, seed=0) for folder in (tmp_path, whole[0]))
    assert results.values_equal(ours, theirs)
    assert not list((study / "runs").glob("*.lock"))
    assert not list((study / "runs").glob("*.checkpoint.safetensors"))
