"""The MIT-BIH Arrhythmia Database: heart beats by class, and the raw stream with a label per step.

48 records of 30 minutes, two leads, 360 Hz, 11 bits. Sources: G. B. Moody and R. G. Mark, "The impact of the
MIT-BIH Arrhythmia Database", IEEE Eng. in Med. and Biol. 20 (2001), doi:10.1109/51.932724; A. L. Goldberger et
al., "PhysioBank, PhysioToolkit, and PhysioNet", Circulation 101 (2000), doi:10.1161/01.CIR.101.23.e215 (ODC-By
1.0). Classes of ANSI/AAMI EC57 and the inter-patient split: P. de Chazal, M. O'Dwyer and R. B. Reilly, IEEE
Trans. Biomed. Eng. 51 (2004), doi:10.1109/TBME.2004.827359.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from imc_ssm.datasets.download import cache_folder, fetch
from imc_ssm.datasets.places import find
from imc_ssm.datasets.sequence import SPLITS, SequenceDataset
from imc_ssm.datasets.wfdb import Leads, read_annotations, read_record
from imc_ssm.errors import DataError

__all__ = [
    "INFO",
    "INFO_MLII",
    "INFO_RHYTHM",
    "INFO_STREAM",
    "load_mitdb",
    "load_mitdb_mlii",
    "load_mitdb_rhythm",
    "load_mitdb_stream",
]

DS1 = (
    101,
    106,
    108,
    109,
    112,
    114,
    115,
    116,
    118,
    119,
    122,
    124,
    201,
    203,
    205,
    207,
    208,
    209,
    215,
    220,
    223,
    230,
)
DS2 = (
    100,
    103,
    105,
    111,
    113,
    117,
    121,
    123,
    200,
    202,
    210,
    212,
    213,
    214,
    219,
    221,
    222,
    228,
    231,
    232,
    233,
    234,
)
VALIDATION = (114, 118, 124, 207, 223)
"""Records of DS1 that choose: among them N, S, V and F beats. (201 in DS1 and 202 in DS2 are of one person: a
known flaw of the split, kept so that numbers compare.)"""

CLASSES = ("N", "S", "V", "F", "Q")
AAMI = dict.fromkeys((1, 2, 3, 11, 34), "N") | dict.fromkeys((4, 7, 8, 9), "S")
AAMI |= {5: "V", 10: "V", 6: "F", 12: "Q", 13: "Q", 38: "Q"}
"""Annotation code -> class: N normal, bundle branch block, escape; S supraventricular; V ventricular; F fusion;
Q paced or unknown. Others are no beats."""

BEFORE, AFTER = 144, 72
"""Steps of 1/180 s before the R peak and from it on: 0.8 s, which holds the beat before a premature one; 0.4 s."""
SEGMENT, MARKED = 3600, 72
"""Steps of 1/360 s: of a segment of the stream, 10 s, and how long a beat is said, 0.2 s from its R peak on."""

SAMPLES = "61769be3faa15de388c613d78cec467db8dcdb1d11630034684758143dcf352d"
"""SHA-256 of every `.atr` and `.dat` of the 44 records, by name."""
SUMS = "b61158a96d5f2ca80edfb354a9a66a6324836c390a84e1966dcee2b907d6be43"
"""SHA-256 of PhysioNet's SHA256SUMS.txt."""
MIRRORS = ("https://physionet.org/files/mitdb/1.0.0/",)
_NAMES = ("mitdb.tar.xz", "mitdb", "mit-bih-arrhythmia-database*", "100.hea")
_MOST = 4_000_000  # bytes of one file: twice the largest


def _info(name: str, what: str, shape: tuple[int, ...], sizes: tuple[int, ...], **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"{what}, between patients (read from a folder or mitdb.tar.xz, or downloaded once)",
        "shape": shape,
        "classes": 5,
        "sample_rate": 180.0,
        "splits": dict(zip(SPLITS, sizes, strict=True)),
        "source": "Moody and Mark 2001, doi:10.1109/51.932724; split: de Chazal et al. 2004",
        "licence": "ODC-By 1.0",
    } | fields


_BEATS = (40780, 10241, 49712)
INFO = _info("mitdb", "ECG beats of five AAMI classes, two leads", (sum(_BEATS), BEFORE + AFTER, 2), _BEATS)
INFO_MLII = _info(
    "mitdb-mlii", "ECG beats of five AAMI classes, lead II", (sum(_BEATS), BEFORE + AFTER, 1), _BEATS
)
INFO_RHYTHM = _info(
    "mitdb-rhythm",
    "ECG beats of five AAMI classes, two leads of unit variance, three intervals between beats",
    (sum(_BEATS), BEFORE + AFTER, 5),
    _BEATS,
)
INFO_STREAM = _info(
    "mitdb-stream",
    "the ECG as it runs, two leads, with a label per step: no beat, or one of five AAMI classes",
    (44 * 181, SEGMENT, 2),
    (17 * 181, 5 * 181, 22 * 181),
    classes=6,
    per_step=True,
    sample_rate=360.0,
)


def load_mitdb(data_dir: str | Path | None = None) -> SequenceDataset:
    """Beats, (n, 216, 2): lead II and the other, in mV less the window's mean, at 180 Hz (means of two samples).

    A window runs from 0.8 s before the annotated R peak to 0.4 s after it; beyond the ends of a record its last
    value is repeated. Classes N, S, V, F, Q. Training: 17 records of DS1; validation: the records `VALIDATION` of
    DS1; test: the 22 of DS2. Paced records (102, 104, 107, 217) are in neither. The files come from
    `mitdb.tar.xz` or a folder in `data_dir`, `IMC_SSM_DATA` or the user's cache, else they are downloaded;
    signals are checked against their headers, and all against one digest. Raises `DataError` for what is missing,
    broken or changed.
    """
    return _beats("mitdb", data_dir, 2)


def load_mitdb_mlii(data_dir: str | Path | None = None) -> SequenceDataset:
    """As `load_mitdb`, lead II alone: (n, 216, 1)."""
    return _beats("mitdb-mlii", data_dir, 1)


def load_mitdb_rhythm(data_dir: str | Path | None = None) -> SequenceDataset:
    """As `load_mitdb`, without the patient's amplitude and with the rhythm, of which a window shows too little:
    (n, 216, 5).

    Each lead of a window is divided by its standard deviation plus 0.05 mV. Three channels are constant over a
    window: `intervals` before the beat, after it, and before the beat that precedes it. The second is known only
    when the next beat has come.
    """
    return _beats("mitdb-rhythm", data_dir, 2, rhythm=True)


def load_mitdb_stream(data_dir: str | Path | None = None) -> SequenceDataset:
    """The signals as they are, mV at 360 Hz, in segments of 10 s, (n, 3600, 2), the last of a record shorter.

    Every step has a label: the class of a beat in the 0.2 s from its R peak on, else "-". Split as `load_mitdb`.
    """
    files = _files("mitdb-stream", data_dir)
    rows: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    lengths, sizes = [], []
    for numbers in _parts():
        before = len(rows)
        for signals, beats in _records(files, numbers):
            said = np.zeros(len(signals.millivolts), np.int64)
            for at, code in beats:
                said[at : at + MARKED] = 1 + CLASSES.index(AAMI[code])
            for start in range(0, len(said), SEGMENT):
                values, marks = signals.millivolts[start : start + SEGMENT], said[start : start + SEGMENT]
                rest = SEGMENT - len(marks)
                rows.append(np.pad(values, ((0, rest), (0, 0))))
                labels.append(np.pad(marks, (0, rest), constant_values=-1))
                lengths.append(len(marks))
        sizes.append(len(rows) - before)
    return _dataset("mitdb-stream", np.stack(rows), np.stack(labels), sizes, ("-", *CLASSES), 360.0, lengths)


EARLIER, FLAT = 16, 0.05
"""Intervals that the usual one is a mean of; mV that keep the noise of a flat lead small."""


def intervals(peaks: np.ndarray) -> np.ndarray:
    """Intervals of (n,) R peaks against the usual one: (n, 3) for that before a beat, after it, and one earlier.

    2 ln(interval / usual), the ratio kept within 1/4 and 4; usual is the mean of the 16 intervals, or those there
    are, that precede the one before the beat. 0: a steady rhythm, -1: a beat after 0.6 of the usual time. Where a
    record begins or ends the nearest interval stands in.
    """
    before = np.diff(peaks).astype(np.float64)
    before = np.concatenate([before[:1], before])
    number = np.arange(len(before))
    first, total = np.maximum(number - EARLIER, 0), np.concatenate([[0.0], np.cumsum(before)])
    usual = np.where(number > 0, (total[number] - total[first]) / np.maximum(number - first, 1), before)
    after, earlier = np.append(before[1:], before[-1]), np.append(before[0], before[:-1])
    ratio = np.stack([before, after, earlier], -1) / usual[:, None]
    return 2 * np.log(np.clip(ratio, 0.25, 4.0))


def _beats(task: str, data_dir: str | Path | None, leads: int, *, rhythm: bool = False) -> SequenceDataset:
    """Windows around the R peaks."""
    files = _files(task, data_dir)
    labels: list[int] = []
    values, sizes = [], []
    for numbers in _parts():
        before = len(labels)
        for signals, beats in _records(files, numbers):
            wave = signals.millivolts[: len(signals.millivolts) // 2 * 2, :leads]
            wave = wave.reshape(-1, 2, leads).mean(1)
            peaks = np.array([at // 2 for at, _ in beats])
            index = np.clip(peaks[:, None] + np.arange(-BEFORE, AFTER), 0, len(wave) - 1)
            windows = wave[index]
            windows = windows - windows.mean(1, keepdims=True)
            if rhythm:
                windows = windows / (windows.std(1, keepdims=True) + FLAT)
                beside = intervals(np.array([at for at, _ in beats]))
                steady = np.broadcast_to(beside[:, None], (*windows.shape[:2], beside.shape[1]))
                windows = np.concatenate([windows, steady], -1, dtype=np.float32)
            values.append(windows)
            labels += [CLASSES.index(AAMI[code]) for _, code in beats]
        sizes.append(len(labels) - before)
    return _dataset(task, np.concatenate(values), np.array(labels), sizes, CLASSES, 180.0, None)


def _dataset(
    task: str,
    values: np.ndarray,
    labels: np.ndarray,
    sizes: list[int],
    names: tuple[str, ...],
    rate: float,
    lengths: list[int] | None,
) -> SequenceDataset:
    """Sequences in the order of the splits, so that every one is a view."""
    ends = np.cumsum([0, *sizes])
    return SequenceDataset(
        values=values.astype(np.float32, copy=False),
        labels=labels,
        splits={name: np.arange(ends[i], ends[i + 1]) for i, name in enumerate(SPLITS)},
        lengths=None if lengths is None else np.array(lengths),
        sample_rate=rate,
        task=task,
        class_names=names,
    )


def _parts() -> tuple[tuple[int, ...], ...]:
    """Records of training, validation and test."""
    return tuple(r for r in DS1 if r not in VALIDATION), VALIDATION, DS2


def _records(files: dict[str, bytes], numbers: tuple[int, ...]) -> Iterator[tuple[Leads, list[tuple[int, int]]]]:
    """Signals, lead II first, and the (sample, code) of the beats of each record."""
    for number in numbers:
        signals = read_record(str(number), files[f"{number}.hea"], files[f"{number}.dat"])
        if signals.rate != 360 or "MLII" not in signals.names:
            raise DataError(
                f"{number}.hea: leads {' and '.join(signals.names)} at {signals.rate:g} Hz; needed are MLII and "
                "another at 360 Hz"
            )
        if signals.names[0] != "MLII":
            signals = Leads(signals.millivolts[:, ::-1], signals.names[::-1], signals.rate)
        said = read_annotations(str(number), files[f"{number}.atr"], len(signals.millivolts))
        yield signals, [(at, code) for at, code in said if code in AAMI]


def _files(task: str, data_dir: str | Path | None) -> dict[str, bytes]:
    """Name -> content of the header, signals and annotations of every record, checked as a whole."""
    path, looked = find(task, data_dir, _NAMES)
    names = sorted(f"{number}.{end}" for number in DS1 + DS2 for end in ("hea", "dat", "atr"))
    if path is None:
        path = cache_folder() / "mitdb"
        try:
            fetch({"SHA256SUMS.txt": SUMS}, MIRRORS, path)
            sums = dict(line.split()[::-1] for line in (path / "SHA256SUMS.txt").read_text("ascii").splitlines())
            fetch({name: sums[name] for name in names}, MIRRORS, path)
        except DataError as error:
            raise DataError(
                f"{looked}, and {error}; put mitdb.tar.xz, or a folder with the .hea, .dat and .atr files, into a "
                "folder and give it as --data-dir or IMC_SSM_DATA"
            ) from None
    path = path.parent if path.suffix == ".hea" else path
    found = _read(path, set(names))
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(
            f"{path} holds {len(names) - len(missing)} of the {len(names)} files of {len(DS1 + DS2)} records, "
            f"{missing[0]} is missing; replace it with a whole copy"
        )
    digest = hashlib.sha256(b"".join(found[name] for name in names if not name.endswith("hea")))
    if digest.hexdigest() != SAMPLES:
        for _ in _records(found, DS1 + DS2):
            pass  # whose fault is it?
        raise DataError(
            f"{path}: signals or annotations do not match the known SHA-256; replace it with a good copy"
        )
    return found


def _read(path: Path, names: set[str]) -> dict[str, bytes]:
    """The files of a folder, or below it, or of a tar archive."""
    found: dict[str, bytes] = {}
    try:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.name in names and file.is_file():
                    with file.open("rb") as opened:
                        found.setdefault(file.name, opened.read(_MOST))
            return found
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in names and member.isfile() and (content := archive.extractfile(member)) is not None:
                    found.setdefault(name, content.read(_MOST))
        return found
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; give the folder of the records") from None
    except Exception as error:  # a damaged archive makes tarfile and lzma raise anything
        raise DataError(f"{path} is not a whole archive: {error}; replace it with a good copy") from None
