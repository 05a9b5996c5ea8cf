"""A user's own sequences: one `.npz` file, as `numpy.savez` writes it."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imc_ssm.datasets.sequence import SPLITS, SequenceDataset, stratified
from imc_ssm.errors import DataError, unknown

__all__ = ["describe", "load_npz", "read_arrays"]

_ARRAYS = ("values", "labels", "targets", "lengths", "sample_rate", "class_names", "channels", *SPLITS)

_BESIDE = 64  # bytes that a member may have beside header and content; an array has 128 more


def load_npz(path: str | Path, seed: int = 0) -> SequenceDataset:
    """Read sequences from `path`; what it holds says the task.

    `values` (n, time) or (n, time, channel), any real type, and

        labels (n,)                  integers from 0: a class of every sequence
        labels (n, time)             a class of every step, -1 where there is none
        targets (n,) or (n, K)       real numbers: K values of every sequence
        targets (n, time, K)         K values of every step
        neither                      the values of the next step, from those so far

    Optionally `lengths` (n,), `sample_rate` (Hz, else a nominal 1), `class_names` (K,), `channels` (their number,
    needed where there are more of them than steps: else the channel seems to stand first), and index arrays
    `train`, `validation` and `test` (all or none). Without them 70, 15 and 15 % are drawn from `seed` (rounded,
    at least one each), stratified where a sequence has a class. Values and targets are taken as
    they are: normalise them yourself.

    Raises `DataError` naming the file and what is wrong: missing, truncated, changed, an array unknown,
    missing, pickled, of the wrong type or shape, or not finite; more channels than steps (values with the channel
    first); targets (n, time), which could be one value a step or `time` values a sequence.
    """
    path = Path(path)
    arrays = read_arrays(path, _ARRAYS)
    if "values" not in arrays:
        raise DataError(f"{path} has no array 'values'; save it with numpy.savez(path, values=..., labels=...)")
    values, labels, targets = arrays["values"], arrays.get("labels"), arrays.get("targets")
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise DataError(f"{path}: values have shape {values.shape}; give (n, time) or (n, time, channel)")
    values = values[:, :, None] if values.ndim == 2 else values
    n, time, channels = values.shape
    meant = arrays.get("channels")
    if meant is not None and (
        meant.size != 1 or meant.dtype.kind not in "iu" or int(meant.reshape(())) != channels
    ):
        raise DataError(
            f"{path}: channels = {meant.tolist()!r}, but values of shape {values.shape} have {channels}"
        )
    if time < channels and meant is None:
        raise DataError(
            f"{path}: values of shape {values.shape} are {time} steps of {channels} channels: the channel stands "
            "first? give (n, time, channel), as values.transpose(0, 2, 1), or add channels="
            f"{channels} where that is meant"
        )
    if targets is not None and targets.ndim == 2 and targets.shape[1] == time > 1:
        raise DataError(
            f"{path}: targets of shape {targets.shape} may be one value a step or {time} values a sequence; give "
            f"({n}, {time}, 1), as targets[:, :, None]"
        )
    if targets is not None and targets.ndim == 1:
        targets = targets[:, None]
    lengths = arrays.get("lengths")
    if labels is None and targets is None:
        values, targets, lengths = _next_step(path, values, lengths)
    rate = arrays.get("sample_rate", np.asarray(1.0))
    if rate.size != 1 or rate.dtype.kind not in "iuf":
        raise DataError(f"{path}: sample_rate has type {rate.dtype} and shape {rate.shape}; give one number of Hz")
    given = [name for name in SPLITS if name in arrays]
    if given and len(given) < len(SPLITS):
        absent = [name for name in SPLITS if name not in given]
        raise DataError(
            f"{path} has split {given[0]!r} but not {absent[0]!r}; give all of {', '.join(SPLITS)} or none"
        )
    splits = {name: arrays[name] for name in given} or _random_splits(path, n, labels, seed)
    return SequenceDataset(
        values=values,
        labels=labels,
        splits=splits,
        lengths=lengths,
        sample_rate=float(rate.reshape(())),
        task=path.stem,
        targets=targets,
        class_names=arrays.get("class_names"),  # type: ignore[arg-type]
    )


def _next_step(
    path: Path, values: np.ndarray, lengths: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Values without their last step, the values that follow each, and the lengths of this."""
    if values.shape[1] < 2 or (lengths is not None and lengths.dtype.kind in "iu" and (lengths < 2).any()):
        raise DataError(
            f"{path} has neither labels nor targets, so the next step is to be predicted, and a sequence of one "
            "step has none; give sequences of two steps or more"
        )
    return values[:, :-1], values[:, 1:], None if lengths is None else lengths - 1


def describe(path: str | Path, dataset: SequenceDataset) -> dict[str, Any]:
    """What a user's file holds, with the keys of `imc_ssm.datasets.info`."""
    return {
        "name": str(path),
        "description": "sequences from a file of the user",
        "shape": dataset.values.shape,
        "classes": dataset.outputs,
        "goal": dataset.goal,
        "per_step": dataset.per_step,
        "sample_rate": dataset.sample_rate,
        "splits": {name: len(index) for name, index in dataset.splits.items()},
        "source": str(path),
        "licence": "the user's",
    }


def _random_splits(path: Path, n: int, labels: np.ndarray | None, seed: int) -> dict[str, np.ndarray]:
    """The documented 70/15/15 split."""
    if labels is not None and labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: labels have type {labels.dtype}; give integers (classes), or real numbers as targets"
        )
    if labels is not None and len(labels) != n:
        raise DataError(f"{path}: labels have shape {labels.shape} for {n} sequences; give ({n},) or one a step")
    if n < len(SPLITS):
        raise DataError(f"{path} holds {n} sequences; give at least 3, one for each of {', '.join(SPLITS)}")
    part = max(1, round(0.15 * n))
    groups = labels if labels is not None and labels.ndim == 1 else np.zeros(n, np.int64)
    return stratified(groups, (n - 2 * part, part, part), seed)


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """All arrays of the file, which may have these names, after the checksums of the zip archive were verified."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            hidden = _hidden(archive)
            twice = [name for name, times in Counter(archive.namelist()).items() if times > 1]
        if twice:
            raise DataError(f"{path} holds {twice[0]!r} more than once; write it again with each array once")
        if broken is not None:
            raise zipfile.BadZipFile(f"bad checksum of {broken}")
        if hidden:
            raise zipfile.BadZipFile("it holds more than its directory lists")
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                if name not in names:
                    raise DataError(f"{path}: {unknown('array', name, names)}")
            return {name: _array(path, name, file[name]) for name in file.files}
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; give the path of an .npz file") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; give the path of an .npz file") from None
    except Exception as error:  # a damaged archive makes zipfile, zlib and NumPy raise anything
        raise DataError(
            f"{path} is not a whole .npz file of plain arrays: {error}; write it again with "
            "numpy.savez(path, values=..., labels=...), without objects"
        ) from None


def _hidden(archive: zipfile.ZipFile) -> bool:
    """Whether a member lies in the file that the directory, damaged, does not list: labels that are not seen would
    make another task."""
    end = 0
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
        if entry.header_offset - end > _BESIDE:
            return True
        end = entry.header_offset + 30 + len(entry.filename) + entry.compress_size
    return archive.start_dir - end > _BESIDE


def _array(path: Path, name: str, array: Any) -> np.ndarray:
    """An entry of the archive, which is bytes if it does not hold a NumPy array."""
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: {name!r} is not a NumPy array; write it with numpy.savez")
    return array
