"""Hand gestures from an armband of eight electrodes: a gesture for every sample.

Source: A. Franc, myo-readings-dataset (2024, MIT licence), recorded with a Thalmic Myo on the forearm, 8 channels
of int8 at 200 Hz: five persons, three sessions each, eight recordings of a minute a session: rest, and each of
seven gestures taken up and let go every five seconds. It comes as one file `emg_curated.npz`: `x` (samples, 8)
int8, `y` (samples,) gesture, `start` where each recording begins, and the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imc_ssm.datasets.npz import read_arrays
from imc_ssm.datasets.places import find
from imc_ssm.datasets.sequence import SPLITS, SequenceDataset
from imc_ssm.errors import DataError

__all__ = ["INFO", "load_emg"]

SEGMENT = 1000
"""Samples of a sequence, 5 s."""
GESTURES, SESSIONS = 8, 3
"""Recordings of a session, and sessions of a person."""
_FILES = ("emg_curated.npz", "emg.npz")
_CLASSES = ("rest", *(f"gesture {number}" for number in range(1, GESTURES)))

INFO: dict[str, Any] = {
    "name": "emg",
    "description": "muscle activity of 8 electrodes, a gesture per sample, split by session (read from a folder)",
    "shape": (1466, SEGMENT, 8),
    "classes": GESTURES,
    "per_step": True,
    "sample_rate": 200.0,
    "splits": dict(zip(SPLITS, (489, 488, 489), strict=True)),
    "source": "A. Franc, myo-readings-dataset, 2024",
    "licence": "MIT",
}


def load_emg(data_dir: str | Path | None = None) -> SequenceDataset:
    """(n, 1000, 8): x / 16, about unit variance, in segments of 5 s, the last of a recording shorter.

    Training is the first session of every person, validation the second, test the third: the armband sits anew,
    the persons are the same. `emg_curated.npz` comes from `data_dir`, `IMC_SSM_DATA` or the user's cache; it is
    nowhere to download. Raises `DataError` if it is missing, damaged or of another form: eight recordings a
    session, the k-th of rest and gesture k alone.
    """
    path, looked = find("emg", data_dir, _FILES)
    if path is None:
        raise DataError(
            f"{looked}; make {_FILES[0]} of myo-readings-dataset (x, y and start: docs/data.md) and give its "
            "folder as --data-dir or IMC_SSM_DATA"
        )
    arrays = read_arrays(path, ("x", "y", "start"))
    if missing := [name for name in ("x", "y", "start") if name not in arrays]:
        raise DataError(f"{path} has no array {missing[0]!r}; it needs x, y and start")
    x, y, start = arrays["x"], arrays["y"], arrays["start"]
    if x.dtype != np.int8 or x.ndim != 2 or x.shape[1] != 8 or y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise DataError(
            f"{path}: x is {x.dtype} {x.shape}, y {y.dtype} {y.shape}; give int8 (samples, 8) and an integer each"
        )
    if (
        start.ndim != 1
        or start.dtype.kind not in "iu"
        or len(start) < 1 + GESTURES * SESSIONS
        or (len(start) - 1) % (GESTURES * SESSIONS)
        or (start[0], start[-1]) != (0, len(x))
        or not (start[1:] > start[:-1]).all()
    ):
        raise DataError(
            f"{path}: start has {start.size} entries; give rising positions from 0 to {len(x)}, of {SESSIONS} "
            f"sessions of {GESTURES} recordings a person"
        )
    rows, labels, lengths, session = [], [], [], []
    for number, (first, last) in enumerate(zip(start[:-1].tolist(), start[1:].tolist(), strict=True)):
        gestures = set(np.unique(y[first:last]).tolist())
        if not gestures <= {0, number % GESTURES}:
            raise DataError(
                f"{path}: recording {number} has gestures {sorted(gestures)}; it should have rest and "
                f"{number % GESTURES} alone"
            )
        for at in range(first, last, SEGMENT):
            end = min(at + SEGMENT, last)
            rows.append(np.pad(x[at:end], ((0, SEGMENT + at - end), (0, 0))))
            labels.append(np.pad(y[at:end].astype(np.int64), (0, SEGMENT + at - end), constant_values=-1))
            lengths.append(end - at)
            session.append(number // GESTURES % SESSIONS)
    return SequenceDataset(
        values=np.stack(rows).astype(np.float32) / 16,
        labels=np.stack(labels),
        splits={name: np.flatnonzero(np.array(session) == part) for part, name in enumerate(SPLITS)},
        lengths=np.array(lengths),
        sample_rate=200.0,
        task="emg",
        class_names=_CLASSES,
    )
