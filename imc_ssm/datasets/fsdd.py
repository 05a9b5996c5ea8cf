"""Spoken digits: 3,000 recordings of the raw audio at 8 kHz, one sample a step.

Source: Z. Jackson et al., Free Spoken Digit Dataset, doi:10.5281/zenodo.1342401 (CC BY-SA 4.0): six speakers say
every digit 50 times; files `digit_speaker_index.wav`, mono, 16 bit.
"""

from __future__ import annotations

import hashlib
import io
import re
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from imc_ssm.datasets.download import cache_folder, fetch
from imc_ssm.datasets.places import find
from imc_ssm.datasets.sequence import SPLITS, SequenceDataset
from imc_ssm.errors import DataError

__all__ = ["INFO", "INFO_SPEAKERS", "load_fsdd", "load_fsdd_speakers"]

LONGEST = 8000
"""Samples kept of a recording, 1 s: 20 of the 3,000 are longer (at most 2.3 s); mean 0.44 s, 99 % under 0.92 s."""

TAKES = 50
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
SAMPLES = "6f643a7422de89763625dfc9aa79427e69f7a690223a5bc5752a2f56db5af465"
"""SHA-256 of the samples (as the files hold them) of all recordings in the order of their names."""

ARCHIVE = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.zip"
_NAMES = ("fsdd.zip", "fsdd", "recordings", "free-spoken-digit-dataset*", "0_george_0.wav")
_NAME = re.compile(r"([0-9])_([a-z]+)_([0-9]+)\.wav")
_MOST = 4_000_000  # bytes of one file: 250 times the longest
_RATE = 8000


def _info(name: str, how: str, sizes: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"spoken digits, raw audio at 8 kHz, {how} (read from a folder or zip, or downloaded once)",
        "shape": (3000, LONGEST, 1),
        "classes": 10,
        "sample_rate": float(_RATE),
        "splits": dict(zip(SPLITS, sizes, strict=True)),
        "source": "Jackson et al., Free Spoken Digit Dataset, doi:10.5281/zenodo.1342401",
        "licence": "CC BY-SA 4.0",
    }


INFO = _info("fsdd", "split by take, speakers shared", (2400, 300, 300))
INFO_SPEAKERS = _info("fsdd-speakers", "speakers of the test unheard", (2000, 500, 500))


def load_fsdd(data_dir: str | Path | None = None) -> SequenceDataset:
    """The official split by recording index: test 0 to 4, validation 5 to 9, training 10 to 49; every speaker is
    in all three.

    u = x / max |x| of the recording (speakers differ eightfold in loudness), float32 in [-1, 1]; the first
    `LONGEST` samples; `lengths` says where a recording ends. The recordings come from `fsdd.zip` or a folder
    (`fsdd`, `recordings`, or itself) in `data_dir`, `IMC_SSM_DATA` or the user's cache, else they are downloaded;
    they are checked against a digest of all samples. Raises `DataError` for what is missing, broken or changed.
    """
    return _load("fsdd", data_dir)


def load_fsdd_speakers(data_dir: str | Path | None = None) -> SequenceDataset:
    """As `load_fsdd`, split by speaker: training george, jackson, lucas and nicolas, validation theo, test
    yweweler (alphabetically: nothing was chosen)."""
    return _load("fsdd-speakers", data_dir)


def _load(task: str, data_dir: str | Path | None) -> SequenceDataset:
    """Recordings in the order of digit, speaker and index."""
    path, looked = find(task, data_dir, _NAMES)
    if path is None:
        path = cache_folder() / "fsdd.zip"
        try:
            fetch({path.name: None}, (ARCHIVE,), path.parent)
        except DataError as error:
            raise DataError(
                f"{looked}, and {error}; put fsdd.zip, or its folder of recordings, into a folder and give it as "
                "--data-dir or IMC_SSM_DATA"
            ) from None
    found = dict(_recordings(path.parent if path.suffix == ".wav" else path))
    wanted = [(f"{d}_{who}_{i}.wav", d, who, i) for d in range(10) for who in SPEAKERS for i in range(TAKES)]
    missing = [name for name, *_ in wanted if name not in found]
    if missing:
        raise DataError(
            f"{path} holds {len(wanted) - len(missing)} of the {len(wanted)} recordings, {missing[0]} is missing; "
            "replace it with a whole copy"
        )
    digest = hashlib.sha256(b"".join(found[name] for name in sorted(name for name, *_ in wanted)))
    if digest.hexdigest() != SAMPLES:
        raise DataError(f"{path}: its samples do not match the known SHA-256; replace it with a good copy")
    values = np.zeros((len(wanted), LONGEST, 1), np.float32)
    lengths = np.empty(len(wanted), np.int64)
    for row, (name, *_) in enumerate(wanted):
        sound = np.frombuffer(found[name], "<i2")[:LONGEST].astype(np.float32)
        lengths[row] = len(sound)
        values[row, : len(sound), 0] = sound / max(1.0, float(np.abs(sound).max()))
    take = np.array([i for *_, i in wanted])
    speaker = np.array([SPEAKERS.index(who) for _, _, who, _ in wanted])
    part = np.digitize(take, (5, 10)) if task == "fsdd" else 2 - np.clip(speaker - 3, 0, 2)
    return SequenceDataset(
        values=values,
        labels=np.array([digit for _, digit, *_ in wanted]),
        splits={name: np.flatnonzero(part == number) for name, number in zip(SPLITS, (2, 1, 0), strict=True)},
        lengths=lengths,
        sample_rate=float(_RATE),
        task=task,
    )


def _recordings(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, samples as 16-bit little-endian) of every recording in a zip or a folder or below it."""
    try:
        if path.is_dir():
            for file in sorted(path.rglob("*.wav")):
                if _NAME.fullmatch(file.name):
                    with file.open("rb") as opened:
                        yield file.name, _samples(file.name, opened.read(_MOST))
            return
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename.rpartition("/")[2]
                if _NAME.fullmatch(name):
                    with archive.open(entry) as member:
                        yield name, _samples(f"{path}: {name}", member.read(_MOST))
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; give the folder of fsdd.zip") from None
    except Exception as error:  # a damaged archive makes zipfile and zlib raise anything
        raise DataError(f"{path} is not a whole zip of recordings: {error}; replace it with a good copy") from None


def _samples(name: str, content: bytes) -> bytes:
    """The samples of a wav file, which has to be mono, 16 bit, 8 kHz and whole."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            shape = (file.getnchannels(), 8 * file.getsampwidth(), file.getframerate())
            stated, samples = 2 * file.getnframes(), bytes(file.readframes(file.getnframes()))
    except (wave.Error, EOFError, ValueError) as error:
        raise DataError(
            f"{name} is no wav file: {str(error) or 'it is cut off'}; replace it with a good copy"
        ) from None
    if shape != (1, 16, _RATE):
        raise DataError(
            f"{name} has {shape[0]} channels of {shape[1]} bits at {shape[2]} Hz; needed are 1, 16 and {_RATE}"
        )
    if len(samples) != stated or not samples:
        raise DataError(f"{name} is cut off: {len(samples)} of {stated} bytes of samples; replace it")
    return samples
