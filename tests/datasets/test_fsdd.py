"""Spoken digits: read from a zip or folders, split as documented, refused in one line when wrong."""

import hashlib
import io
import os
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest

from imc_ssm import datasets
from imc_ssm.datasets import fsdd
from imc_ssm.errors import DataError


def wav(samples: np.ndarray, rate: int = 8000, channels: int = 1) -> bytes:
    """The bytes of a wav file of 16-bit samples."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """A set of six speakers, ten digits and eleven takes of 5 to 9 samples, LONGEST 8; no cache, no download."""
    rng = np.random.default_rng(0)
    sounds = {
        f"{digit}_{who}_{take}.wav": rng.integers(-100, 100, 5 + (digit + take) % 5)
        for digit in range(10)
        for who in fsdd.SPEAKERS
        for take in range(11)
    }
    digest = hashlib.sha256(b"".join(sounds[name].astype("<i2").tobytes() for name in sorted(sounds)))
    monkeypatch.setattr(fsdd, "SAMPLES", digest.hexdigest())
    monkeypatch.setattr(fsdd, "TAKES", 11)
    monkeypatch.setattr(fsdd, "LONGEST", 8)
    monkeypatch.setattr("imc_ssm.datasets.places.cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(fsdd, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(fsdd, "ARCHIVE", "http://127.0.0.1:9/none.zip")
    monkeypatch.delenv("IMC_SSM_DATA", raising=False)
    return {name: wav(sound) for name, sound in sounds.items()}


def write(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def packed(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "fsdd.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"any/recordings/{name}", content)
    return folder


def test_zip_and_folders_are_the_same(spoken: dict[str, bytes], tmp_path: Path) -> None:
    places = [packed(spoken, tmp_path / "zip"), write(spoken, tmp_path / "here")]
    for sub in ("fsdd", "recordings", "free-spoken-digit-dataset-1.0.10/recordings"):
        write(spoken, tmp_path / sub.replace("/", "-") / sub)
        places.append(tmp_path / sub.replace("/", "-"))
    sets = [datasets.load("fsdd", place) for place in places]
    for other in sets[1:]:
        np.testing.assert_array_equal(sets[0].values, other.values)
        np.testing.assert_array_equal(sets[0].labels, other.labels)


def test_values_are_the_recordings(spoken: dict[str, bytes], tmp_path: Path) -> None:
    data = datasets.load("fsdd", packed(spoken, tmp_path))
    assert data.values.shape == (660, 8, 1)
    assert data.sample_rate == 8000
    assert data.lengths is not None
    row = 3 * 66 + 2 * 11 + 6  # 3_lucas_6: 5 + 9 % 5 = 9 samples, cut to 8
    with wave.open(io.BytesIO(spoken["3_lucas_6.wav"])) as file:
        sound = np.frombuffer(file.readframes(9), "<i2")[:8]
    assert data.labels[row] == 3
    assert data.lengths[row] == 8
    np.testing.assert_array_equal(data.values[row, :, 0], sound.astype(np.float32) / np.abs(sound).max())
    assert data.lengths[0] == 5
    assert not data.values[0, 5:].any()


def test_splits_are_by_take_or_by_speaker(spoken: dict[str, bytes], tmp_path: Path) -> None:
    takes, speakers = np.arange(660) % 11, np.arange(660) // 11 % 6
    data = datasets.load("fsdd", packed(spoken, tmp_path))
    wanted = {"train": {10}, "validation": {5, 6, 7, 8, 9}, "test": {0, 1, 2, 3, 4}}
    assert {name: set(takes[index]) for name, index in data.splits.items()} == wanted
    assert all(set(speakers[index]) == set(range(6)) for index in data.splits.values())
    data = datasets.load("fsdd-speakers", tmp_path)
    wanted = {"train": {0, 1, 2, 3}, "validation": {4}, "test": {5}}
    assert {name: set(speakers[index]) for name, index in data.splits.items()} == wanted


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("3_theo_1.wav", None, "holds 659 of the 660 recordings, 3_theo_1.wav is missing"),
        ("3_theo_1.wav", b"", "3_theo_1.wav is no wav file: it is cut off"),
        ("3_theo_1.wav", b"RIFF" + bytes(60), "3_theo_1.wav is no wav file"),
        ("3_theo_1.wav", wav(np.arange(6), rate=16000), "has 1 channels of 16 bits at 16000 Hz; needed are 1, 16"),
        ("3_theo_1.wav", wav(np.arange(6), channels=2), "has 2 channels"),
        ("3_theo_1.wav", wav(np.arange(6)), "its samples do not match the known SHA-256"),
        ("3_theo_1.wav", wav(np.arange(6))[:-4], "3_theo_1.wav is cut off: 8 of 12 bytes"),
        ("3_theo_1.wav", wav(np.arange(0)), "3_theo_1.wav is cut off: 0 of 0 bytes"),
    ],
)
@pytest.mark.parametrize("store", [write, packed])
def test_wrong_files(
    spoken: dict[str, bytes], tmp_path: Path, name: str, content: bytes | None, said: str, store: object
) -> None:
    files = {n: c for n, c in (spoken | {name: content}).items() if c is not None}
    with pytest.raises(DataError, match=said) as caught:
        datasets.load("fsdd", store(files, tmp_path))  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_a_broken_or_absent_zip(spoken: dict[str, bytes], tmp_path: Path) -> None:
    whole = (packed(spoken, tmp_path) / "fsdd.zip").read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:2000] + bytes(300) + whole[2300:]):
        (tmp_path / "fsdd.zip").write_bytes(content)
        with pytest.raises(DataError) as caught:
            datasets.load("fsdd", tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / "fsdd.zip").unlink()
    with pytest.raises(
        DataError, match=r"fsdd: no fsdd.zip or .* could not be downloaded; tried .*; put fsdd.zip"
    ):
        datasets.load("fsdd", tmp_path)


def test_the_real_one() -> None:
    if not os.path.exists(os.path.join(os.environ.get("IMC_SSM_DATA", ""), "fsdd.zip")):
        pytest.skip("fsdd.zip is not here: set IMC_SSM_DATA to a folder that holds it")
    for name in ("fsdd", "fsdd-speakers"):
        data, info = datasets.load(name), datasets.info(name)
        assert data.values.shape == info["shape"]
        assert {split: len(index) for split, index in data.splits.items()} == info["splits"]
        assert np.bincount(data.labels).tolist() == [300] * 10
        assert data.lengths is not None
        assert (data.lengths == fsdd.LONGEST).sum() == 20
        assert np.abs(data.values).max(axis=(1, 2)).min() > 0.99
