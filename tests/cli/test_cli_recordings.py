"""Data that come recording after recording: ranges are taken from all of them, and QAT may keep their peaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_runs import done, run

import imc_ssm
from imc_ssm import results
from imc_ssm.chip import Deployment
from imc_ssm.datasets import load
from imc_ssm.modelfile import load_model

COUNT = 800


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two persons one after the other, the first with a tenth of the amplitude; 512 sequences calibrate."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("recordings")
    labels = np.arange(COUNT) % 2
    values = rng.standard_normal((COUNT, 8, 1)) + labels[:, None, None]
    values[:520] /= 10
    train, rest = np.arange(700), np.arange(700, COUNT)
    parts = {"train": train, "validation": rest[:50], "test": rest[50:]}
    np.savez(folder / "mine.npz", values=values.astype(np.float32), labels=labels, **parts)
    done(
        "train",
        folder / "mine.npz",
        "--epochs",
        1,
        "--heads",
        2,
        "--n-state",
        4,
        "--out",
        folder / "m.safetensors",
    )
    done("quantize", folder / "m.safetensors", "--biases", 16, "--out", folder / "q.safetensors")
    return folder


def test_a_chip_is_calibrated_on_all_recordings(recordings: Path) -> None:
    model, data = recordings / "q.safetensors", load(recordings / "mine.npz")
    words = ("--chips", 1, "--times", "1s", "--seed", 3)
    done("deploy", model, *words, "--out", recordings / "d.nc", "--deployment", recordings / "dep.safetensors")
    placed = Deployment.load(recordings / "dep.safetensors")
    (first,) = (matrix for matrix in placed.matrices if matrix.name == "encoder")
    seen = np.percentile(np.abs(data.split("train").values), 99.5)
    assert seen > 1.5
    assert first.input_range == pytest.approx(seen, rel=0.15)  # of the first person alone: a tenth
    same = imc_ssm.compile_model(load_model(model).model, "pcm-256", data)
    assert [m.input_range for m in same.matrices] == [m.input_range for m in placed.matrices]
    done("cost", model, "--out", recordings / "cost.nc")
    ds, alone = results.load(recordings / "d.nc"), results.load(recordings / "cost.nc")
    assert float(ds["energy"].sum()) == float(alone["energy"].sum())  # of the same chip


def test_peaks_can_be_kept_in_qat(recordings: Path) -> None:
    words = ("quantize", recordings / "m.safetensors", "--biases", 16, "--epochs", 1)
    for name, more, clip in (
        ("a", (), 99.0),
        ("b", ("--noise-output", 0), 100.0),
        ("c", ("--clip-input", 100), 100),
    ):
        out = recordings / f"{name}.safetensors"
        done(*words, *more, "--out", out)
        assert load_model(out).info["qat"]["clip_input"] == clip
    refused = run(*words, "--clip-input", 40, "--out", recordings / "d.safetensors")
    assert refused.code == 2
    assert "clip_input" in refused.err
