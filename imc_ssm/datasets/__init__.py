"""Sequences with labels: the shipped tasks and a user's own `.npz` take the same road.

    load("digits"), load("smnist", data_dir="..."), load("mine.npz") -> SequenceDataset

Importing this is quick: scikit-learn and pooch are imported by the tasks that need them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from imc_ssm.datasets import digits, npz, smnist
from imc_ssm.datasets.npz import load_npz
from imc_ssm.datasets.sequence import SequenceDataset, Split
from imc_ssm.errors import DataError, unknown

__all__ = ["SequenceDataset", "Split", "info", "load", "load_npz", "names"]

_TASKS: dict[str, tuple[Callable[[str | Path | None], SequenceDataset], dict[str, Any]]] = {
    "digits": (lambda data_dir: digits.load_digits(), digits.INFO),
    "smnist": (smnist.load_smnist, smnist.INFO),
}


def names() -> list[str]:
    """The tasks that ship with the library."""
    return sorted(_TASKS)


def load(name_or_path: str | Path, data_dir: str | Path | None = None) -> SequenceDataset:
    """A shipped task by name, or a user's own file by a path that ends in `.npz`.

    `data_dir`: a folder to look into before all others, for tasks whose files do not ship with the library.
    Raises `DataError` for an unknown name or a missing, corrupt or ill-formed file.
    """
    if Path(name_or_path).suffix == ".npz":
        return load_npz(name_or_path)
    return _task(str(name_or_path))[0](data_dir)


def info(name: str | Path) -> dict[str, Any]:
    """What a dataset is: `name`, `description`, `shape` (n, time, channel), `classes`, `sample_rate` (Hz),
    `splits` (sizes), `source` and `licence`. Reads no file for a shipped task.

    Raises `DataError` like `load`.
    """
    if Path(name).suffix == ".npz":
        return npz.describe(name)
    return dict(_task(str(name))[1])


def _task(name: str) -> tuple[Callable[[str | Path | None], SequenceDataset], dict[str, Any]]:
    """How to load a shipped task, and what it is."""
    if name not in _TASKS:
        raise DataError(f"{unknown('dataset', name, _TASKS)}; or give the path of your own file, ending in .npz")
    return _TASKS[name]
