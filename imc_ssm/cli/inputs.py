"""What commands check and read before any work: outputs, times, designs, data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from imc_ssm.errors import ConfigError, DataError, FileError, ImcSsmError
from imc_ssm.files import check_writable

if TYPE_CHECKING:
    from imc_ssm.datasets import SequenceDataset
    from imc_ssm.devices import Chip
    from imc_ssm.modelfile import StoredModel

__all__ = ["data_of", "design_at", "load_data", "sampled", "seconds_of", "writable", "writable_result"]


def writable(path: Path, *suffixes: str) -> None:
    """Refuse a wrong ending or an unwritable place before any work is done."""
    if path.suffix not in suffixes:
        raise FileError(f"cannot write {path}: the name must end in {' or '.join(suffixes)}")
    check_writable(path)


def writable_result(path: Path) -> None:
    """The same for a dataset and the figure beside it."""
    writable(path, ".nc")
    writable(path.with_suffix(".png"), ".png")


def design_at(name: str, times: str | None) -> tuple[Chip, tuple[float, ...]]:
    """The chip of a design and the times (s), if its memory cell has a model at every one of them.

    None: one second, an hour, a day and 30 days, as far as the cell's model goes; all of its own if it has few.
    """
    from imc_ssm.devices import resolve
    from imc_ssm.units import DAY, HOUR

    chip = resolve(name)
    own = chip.cell.times
    if times is None:
        usual = [t for t in (1.0, HOUR, DAY, 30 * DAY) if own.earliest <= t <= own.latest]
        return chip, tuple(sorted(own.only)) or tuple(usual) or (own.earliest,)
    moments = seconds_of(times)
    for moment in moments:
        chip.cell.check_time(moment)
    return chip, moments


def seconds_of(times: str) -> tuple[float, ...]:
    """ "1s,1h,30d" -> seconds."""
    units = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
    out = []
    for word in times.split(","):
        number = word.strip().rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = word.strip()[len(number) :] or "s"
        try:
            value = float(number) * units[unit]
        except (ValueError, KeyError):
            raise ConfigError(
                f"time {word.strip()!r} is not understood; give numbers with s, min, h or d, such as 1s,1h,1d"
            ) from None
        if not 0 <= value < float("inf"):
            raise ConfigError(f"time {word.strip()!r} is not after programming; allowed are 0 and above")
        out.append(value)
    if sorted(set(out)) != out:
        raise ConfigError(f"times {times!r} must rise, each given once")
    return tuple(out)


def load_data(name: str, data_dir: Path | None) -> SequenceDataset:
    from imc_ssm import datasets

    return datasets.load(name, data_dir)


def sampled(data: SequenceDataset, sequences: int | None, seed: int) -> SequenceDataset:
    """The dataset with so many sequences in its test split, drawn by the seed; None: all of them."""
    import numpy as np

    if sequences is None:
        return data
    there = data.splits["test"]
    if sequences > len(there):
        raise ConfigError(f"--sequences {sequences}: the test split has {len(there)}; give at most so many")
    drawn = np.sort(np.random.default_rng(seed).choice(there, sequences, replace=False))
    return replace(data, splits={**data.splits, "test": drawn})


def data_of(stored: StoredModel, dataset: str | None, data_dir: Path | None) -> tuple[SequenceDataset, str]:
    """The dataset named on the command line, or the one the model was trained on, and its name."""
    task = dataset or stored.info.get("task")
    if not isinstance(task, str):
        raise ImcSsmError("the model file does not say what it was trained on; give --dataset")
    from imc_ssm.training import check_model_fits

    try:
        data = load_data(task, data_dir)
    except DataError as error:
        if dataset is None:
            raise DataError(f"{error} (the model was trained on {task!r}; --dataset names another)") from None
        raise
    check_model_fits(stored.model, data)
    return data, task
