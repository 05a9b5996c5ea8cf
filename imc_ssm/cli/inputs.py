"""What commands check and read before any work: outputs, times, designs, data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imc_ssm.errors import ConfigError, DataError, FileError, ImcSsmError
from imc_ssm.files import check_writable

if TYPE_CHECKING:
    from imc_ssm.datasets import SequenceDataset
    from imc_ssm.devices import Chip
    from imc_ssm.modelfile import StoredModel

__all__ = ["data_of", "design_at", "load_data", "seconds_of", "writable", "writable_result"]


def writable(path: Path, *suffixes: str) -> None:
    """Refuse a wrong ending or an unwritable place before any work is done."""
    if path.suffix not in suffixes:
        raise FileError(f"cannot write {path}: the name must end in {' or '.join(suffixes)}")
    check_writable(path)


def writable_result(path: Path) -> None:
    """The same for a dataset and the figure beside it."""
    writable(path, ".nc")
    writable(path.with_suffix(".png"), ".png")


def design_at(
    name: str,
    times: str | None,
    *,
    compensation: str | None = None,
    refresh: str | None = None,
    recalibrate: str | None = None,
) -> tuple[Chip, tuple[float, ...]]:
    """The chip of a design and the times (s), if its memory cell has a model at every age that it then has.

    None: one second, an hour, a day and 30 days, as far as the cell's model goes; all of its own if it has few.
    `compensation`: in place of the design's.
    """
    from imc_ssm.chip import Maintenance, stands
    from imc_ssm.devices import load_design, resolve

    design = load_design(name)
    chip = resolve(design if compensation is None else design.with_(drift_compensation=compensation))
    given = chip.cell.usual_times() if times is None else seconds_of(times)
    stands(chip, Maintenance.every(refresh, recalibrate), given)
    return chip, given


def seconds_of(times: str) -> tuple[float, ...]:
    """ "1s,1h,30d" -> seconds."""
    from imc_ssm.units import moments

    out = moments(times)
    if list(out) != sorted(out):
        raise ConfigError(f"times {times!r} must rise")
    return out


def load_data(name: str, data_dir: Path | None) -> SequenceDataset:
    from imc_ssm import datasets

    return datasets.load(name, data_dir)


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
