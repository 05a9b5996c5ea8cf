"""Gestures per sample: sessions by their place, segments, and one line for what is wrong."""

import os
from pathlib import Path

import numpy as np
import pytest

from imc_ssm import datasets
from imc_ssm.datasets import emg
from imc_ssm.errors import DataError


def arrays(**changes: object) -> dict[str, object]:
    """Two persons, three sessions of eight recordings of 21 to 24 samples each."""
    rng = np.random.default_rng(0)
    lengths = 21 + np.arange(48) % 4
    start = np.cumsum([0, *lengths])
    y = np.concatenate([np.where(np.arange(n) < 10, 0, i % 8) for i, n in enumerate(lengths)])
    return {
        "x": rng.integers(-128, 128, (start[-1], 8), np.int8),
        "y": y.astype(np.int8),
        "start": start,
    } | changes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("imc_ssm.datasets.places.cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(emg, "SEGMENT", 10)
    monkeypatch.delenv("IMC_SSM_DATA", raising=False)
    return tmp_path


def test_segments_and_sessions(folder: Path) -> None:
    given = arrays()
    np.savez(folder / "emg_curated.npz", **given)  # type: ignore[arg-type]
    data = datasets.load("emg", folder)
    assert (data.per_step, data.outputs, data.channels, data.sample_rate) == (True, 8, 8, 200.0)
    assert data.values.shape == (48 * 3, 10, 8)
    assert data.lengths is not None
    assert data.labels is not None
    assert data.lengths[:6].tolist() == [10, 10, 1, 10, 10, 2]
    inside = np.arange(10) < data.lengths[:, None]
    np.testing.assert_array_equal(data.values[inside], np.asarray(given["x"], np.float32) / 16)
    np.testing.assert_array_equal(data.labels[inside], given["y"])
    session = np.arange(144) // 24 % 3
    for number, name in enumerate(("train", "validation", "test")):
        np.testing.assert_array_equal(data.splits[name], np.flatnonzero(session == number))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": None}, "has no array 'x'"),
        ({"z": np.zeros(3)}, "unknown array 'z'"),
        ({"x": np.zeros((9, 8))}, r"x is float64 \(9, 8\)"),
        ({"x": np.zeros((9, 7), np.int8)}, r"x is int8 \(9, 7\)"),
        ({"y": np.zeros(9, np.int8)}, r"y int8 \(9,\)"),
        ({"start": np.arange(5)}, "start has 5 entries; give rising positions"),
        ({"start": np.asarray(arrays()["start"])[::-1]}, "start has 49 entries; give rising positions"),
        ({"y": np.asarray(arrays()["y"]) * 0 + 3}, r"recording 0 has gestures \[3\]; it should have rest and 0"),
    ],
)
def test_wrong_files(folder: Path, changes: dict[str, object], said: str) -> None:
    given = {name: value for name, value in arrays(**changes).items() if value is not None}
    np.savez(folder / "emg.npz", **given)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=said) as caught:
        datasets.load("emg", folder)
    assert "\n" not in str(caught.value)


def test_absent_or_broken(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"emg: no emg_curated.npz or emg.npz in .*; make emg_curated.npz of myo-read"
    ):
        datasets.load("emg", folder)
    (folder / "emg.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"is not a whole \.npz file"):
        datasets.load("emg", folder)


def test_the_real_one() -> None:
    if not os.path.exists(os.path.join(os.environ.get("IMC_SSM_DATA", ""), "emg_curated.npz")):
        pytest.skip("emg_curated.npz is not here: set IMC_SSM_DATA to a folder that holds it")
    data, info = datasets.load("emg"), datasets.info("emg")
    assert data.values.shape == info["shape"]
    assert {name: len(index) for name, index in data.splits.items()} == info["splits"]
    assert sum(data.split(name).counted for name in data.splits) == 1440918
