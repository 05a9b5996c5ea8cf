"""A user's own sequences: one `.npz` file, as `numpy.savez` writes it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from imc_ssm.datasets.sequence import SPLITS, SequenceDataset, stratified
from imc_ssm.errors import DataError, unknown

__all__ = ["describe", "load_npz"]

_ARRAYS = ("values", "labels", "lengths", "sample_rate", *SPLITS)


def load_npz(path: str | Path, seed: int = 0) -> SequenceDataset:
    """Read sequences from `path`.

    Arrays of the file: `values` (n, time) or (n, time, channel), any real type; `labels` (n,) integers from
    0; optionally `lengths` (n,), `sample_rate` (Hz, else a nominal 1), and index arrays `train`, `validation`
    and `test` (all or none). Without them 70 % train, 15 % validation and 15 % test (rounded, at least one
    each) are drawn from `seed`, stratified by class. Values are taken as they are: normalise them yourself.

    Raises `DataError` naming the file and what is wrong: missing, truncated, changed, an array unknown,
    missing, pickled, of the wrong type or shape, or not finite.
    """
    path = Path(path)
    arrays = _read(path)
    missing = [name for name in ("values", "labels") if name not in arrays]
    if missing:
        raise DataError(
            f"{path} has no array {missing[0]!r}; save it with numpy.savez(path, values=..., labels=...)"
        )
    values, labels = arrays["values"], arrays["labels"]
    if values.ndim not in (2, 3):
        raise DataError(f"{path}: values have shape {values.shape}; give (n, time) or (n, time, channel)")
    rate = arrays.get("sample_rate", np.asarray(1.0))
    if rate.size != 1 or rate.dtype.kind not in "iuf":
        raise DataError(f"{path}: sample_rate has type {rate.dtype} and shape {rate.shape}; give one number of Hz")
    given = [name for name in SPLITS if name in arrays]
    if given and len(given) < len(SPLITS):
        absent = [name for name in SPLITS if name not in given]
        raise DataError(
            f"{path} has split {given[0]!r} but not {absent[0]!r}; give all of {', '.join(SPLITS)} or none"
        )
    splits = {name: arrays[name] for name in given} or _random_splits(path, labels, seed)
    return SequenceDataset(
        values=values[:, :, None] if values.ndim == 2 else values,
        labels=labels,
        splits=splits,
        lengths=arrays.get("lengths"),
        sample_rate=float(rate.reshape(())),
        task=path.stem,
    )


def describe(path: str | Path) -> dict[str, Any]:
    """What a user's file holds, with the keys of `imc_ssm.datasets.info`."""
    dataset = load_npz(path)
    return {
        "name": str(path),
        "description": "sequences from a file of the user",
        "shape": dataset.values.shape,
        "classes": dataset.n_classes,
        "sample_rate": dataset.sample_rate,
        "splits": {name: len(index) for name, index in dataset.splits.items()},
        "source": str(path),
        "licence": "the user's",
    }


def _random_splits(path: Path, labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The documented 70/15/15 split."""
    n = labels.size
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: labels have type {labels.dtype} and shape {labels.shape}; give (n,) integers")
    if n < len(SPLITS):
        raise DataError(f"{path} holds {n} sequences; give at least 3, one for each of {', '.join(SPLITS)}")
    part = max(1, round(0.15 * n))
    return stratified(labels, (n - 2 * part, part, part), seed)


def _read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the file, after the checksums of the zip archive were verified."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise zipfile.BadZipFile(f"bad checksum of {broken}")
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                if name not in _ARRAYS:
                    raise DataError(f"{path}: {unknown('array', name, _ARRAYS)}")
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


def _array(path: Path, name: str, array: Any) -> np.ndarray:
    """An entry of the archive, which is bytes if it does not hold a NumPy array."""
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: {name!r} is not a NumPy array; write it with numpy.savez")
    return array
