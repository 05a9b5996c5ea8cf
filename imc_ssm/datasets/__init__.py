"""Sequences with labels: the shipped tasks and a user's own `.npz` take the same road.

    load("digits"), load("smnist", data_dir="..."), load("mine.npz") -> SequenceDataset

Importing this is quick: scikit-learn and pooch are imported by the tasks that need them.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imc_ssm.datasets import digits, emg, fsdd, mitdb, npz, smnist
from imc_ssm.datasets.npz import load_npz
from imc_ssm.datasets.sequence import SequenceDataset, Split
from imc_ssm.datasets.ts import load_ts
from imc_ssm.errors import DataError, unknown

__all__ = [
    "TASKS",
    "SequenceDataset",
    "Split",
    "Task",
    "dataset_of",
    "digest",
    "info",
    "load",
    "load_npz",
    "load_ts",
    "names",
    "register_task",
]

Loader = Callable[[str | Path | None], SequenceDataset]
"""From a folder to look into first, or None, to the sequences."""


@dataclass(frozen=True)
class Task:
    """A dataset with a name."""

    load: Loader
    info: dict[str, Any]
    """See `info`."""


TASKS: dict[str, Task] = {}
"""Name -> task, of all that are registered."""


def register_task(info: dict[str, Any]) -> Callable[[Loader], Loader]:
    """Decorator of a loader: make its dataset known under `info["name"]`; `info` is what `info()` returns.

    Raises `DataError` for a name that is taken or an `info` that lacks something.
    """
    lacks = [key for key in INFO if key not in info]
    if lacks:
        raise DataError(f"the info of task {info.get('name')!r} lacks {', '.join(lacks)}; give {', '.join(INFO)}")

    def known(load: Loader) -> Loader:
        name = str(info["name"])
        if name in TASKS and TASKS[name].load.__qualname__ != load.__qualname__:
            raise DataError(f"a task {name!r} is registered already; give this one another name")
        TASKS[name] = Task(load, info)
        return load

    return known


INFO = ("name", "description", "shape", "classes", "sample_rate", "splits", "source", "licence")
"""What the info of a task says; `goal` and `per_step` where they are not "classes" and False."""

register_task(digits.INFO)(lambda data_dir: digits.load_digits())
register_task(smnist.INFO)(smnist.load_smnist)
register_task(fsdd.INFO)(fsdd.load_fsdd)
register_task(fsdd.INFO_SPEAKERS)(fsdd.load_fsdd_speakers)
register_task(mitdb.INFO)(mitdb.load_mitdb)
register_task(mitdb.INFO_MLII)(mitdb.load_mitdb_mlii)
register_task(mitdb.INFO_RHYTHM)(mitdb.load_mitdb_rhythm)
register_task(mitdb.INFO_STREAM)(mitdb.load_mitdb_stream)
register_task(emg.INFO)(emg.load_emg)


def names() -> list[str]:
    """The tasks that are registered."""
    return sorted(TASKS)


def load(name_or_path: str | Path, data_dir: str | Path | None = None) -> SequenceDataset:
    """A shipped task by name, or your own file by a path that ends in `.npz` (`load_npz`) or `.ts` (`load_ts`).

        >>> import imc_ssm
        >>> imc_ssm.load_dataset("digits").values.shape
        (1797, 64, 1)

    `data_dir`: a folder to look into before all others, for tasks whose files do not ship with the library.
    Raises `DataError` for an unknown name or a missing, corrupt or ill-formed file.
    """
    if (own := _own(name_or_path)) is not None:
        return own(name_or_path)
    return _task(str(name_or_path)).load(data_dir)


def dataset_of(given: Any) -> SequenceDataset:
    """A dataset as it is, or by its name or path; `DataError` says what else was given."""
    if isinstance(given, SequenceDataset):
        return given
    if isinstance(given, (str, os.PathLike)):
        return load(os.fspath(given))
    hint = "a Split is a part of one" if isinstance(given, Split) else "make one: imc_ssm.SequenceDataset(...)"
    raise DataError(f"data is a {type(given).__name__}; give a dataset, or the name or path of one; {hint}")


def info(name: str | Path) -> dict[str, Any]:
    """What a dataset is: `name`, `description`, `shape` (n, time, channel), `classes` (or values wanted: K),
    `goal` ("classes" or "values"), `per_step`, `sample_rate` (Hz), `splits` (sizes), `source` and `licence`. Reads
    no file for a shipped task.

    Raises `DataError` like `load`.
    """
    if (own := _own(name)) is not None:
        return npz.describe(name, own(name))
    return {"goal": "classes", "per_step": False} | _task(str(name)).info


def digest(name: str | Path) -> str | None:
    """SHA-256 of your own file, None for a shipped task, whose files are checked when they are read.

    Raises `DataError` if there is no such file.
    """
    path = Path(name)
    if _own(path) is None:
        return None
    try:
        stat = path.stat()
        return _sha256(path.resolve(), stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError) as error:  # a null byte in the name
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


@functools.lru_cache(maxsize=16)
def _sha256(path: Path, _changed: int, _size: int) -> str:
    """Of a file as it stands; its time and size are there for the cache."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own(name: str | Path) -> Callable[[str | Path], SequenceDataset] | None:
    """The reader of a user's own file, None for the name of a task."""
    return {".npz": load_npz, ".ts": load_ts}.get(Path(name).suffix)


def _task(name: str) -> Task:
    """The task of a name."""
    if name not in TASKS:
        if Path(name).suffix in (".pt", ".pth", ".npy", ".csv", ".mat", ".safetensors", ".nc", ".toml"):
            raise DataError(
                f"{name} holds no sequences; give your own file, ending in .npz or .ts, as numpy.savez(path, "
                "values=..., labels=...) writes it"
            )
        raise DataError(
            f"{unknown('dataset', name, TASKS)}; or give the path of your own file, ending in .npz or .ts"
        )
    return TASKS[name]
