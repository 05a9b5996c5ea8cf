"""Runs the cells of an experiment, one after the other, safely beside other processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
import xarray as xr

from imc_ssm.errors import CheckpointError, ConfigError, DataError, FileError, ImcSsmError
from imc_ssm.kernels.device import named_device
from imc_ssm.study.dataset import write
from imc_ssm.study.declare import Experiment, GridCell
from imc_ssm.study.jobs.base import Bench, Job
from imc_ssm.study.ledger import Record, locked
from imc_ssm.study.workplace import Workplace
from imc_ssm.training import Progress

__all__ = ["Finished", "run"]

_DRAW_EVERY = 60.0
"""Seconds between two drawings of the figure while cells are being computed."""
_WRITE_EVERY = 10
"""Between two writings of the dataset (and estimates) at least so many times what one takes; the ledger has every
job at once."""
_FOR_ALL = (FileError, DataError, ConfigError)
"""What is as wrong for the cells that follow; but a checkpoint of another training concerns one."""


Stage = Callable[[str], AbstractContextManager[Progress]]


class _Busy(Exception):
    """Another process is at work on this job."""


@dataclass(frozen=True)
class Finished:
    """A cell that was computed, or failed."""

    cell: GridCell
    done: int
    """Cells of this run that are done, this one included."""
    total: int
    left_s: float
    """Estimate for the others."""
    records: list[Record]
    """What its jobs measured; empty where one failed."""
    error: str = ""
    """Why there are none."""


def run(
    place: Workplace,
    experiment: Experiment,
    cells: list[GridCell],
    *,
    stage: Stage,
    device: str = "cpu",
    finished: Callable[[Finished], None],
    waiting: Callable[[GridCell], None] = lambda cell: None,
) -> list[Finished]:
    """Compute the cells that are not done, write dataset and figure as they come, and return the failures.

    A cell that another process computes is left to it and read when it is there. A training that diverges, or
    whose checkpoint is another one's, is a failure: its cell stays missing, and the others go on.
    Models are trained, calibrated and tested on `device`, chips on the CPU.
    `stage(title)` is entered for every job and gives its progress callback, `finished` is called after every
    cell, `waiting` before waiting for another process.

    Raises `FileError` for files that cannot be read or written or belong to another recipe, `DataError` where the
    task's files are missing.
    """
    records = place.ledger.records()
    todo = [cell for cell in cells if place.done(cell, records) is None]
    failures: list[Finished] = []
    failed: dict[str, str] = {}
    done, took, left = len(cells) - len(todo), 0.0, 0.0
    drawn = written = time.monotonic()
    if todo:
        _ = place.data  # missing data are an error before any work
    write(place, experiment)
    try:
        for wait in (False, True):
            busy: list[GridCell] = []
            for i, cell in enumerate(todo):
                made: list[Record] = []
                error = ""
                if wait:
                    waiting(cell)
                try:
                    made = [
                        _finish(place, job, cell.seed, stage, failed, wait=wait, device=device)
                        for job in cell.jobs
                    ]
                except _Busy:
                    busy.append(cell)
                    continue
                except ImcSsmError as problem:
                    if isinstance(problem, _FOR_ALL) and not isinstance(problem, CheckpointError):
                        raise
                    error = str(problem)
                now = time.monotonic()
                left = max(left - sum(record.time_s for record in made), 0.0)
                if now - written > _WRITE_EVERY * took:
                    draw = now - drawn > _DRAW_EVERY
                    write(place, experiment, draw=draw)
                    left = place.left([*todo[i + 1 :], *busy], place.ledger.records())
                    written = time.monotonic()
                    took, drawn = written - now, written if draw else drawn
                done += 1
                report = Finished(cell, done, len(cells), left if todo[i + 1 :] or busy else 0.0, made, error)
                failures += [report] if error else []
                finished(report)
            todo = busy
    finally:
        write(place, experiment, draw=True)
    return failures


def _finish(
    place: Workplace,
    job: Job,
    seed: int,
    stage: Stage,
    failed: dict[str, str],
    *,
    wait: bool,
    device: str,
    model: bool = False,
) -> Record:
    """The ledger's record of a job, computed now if it is not there, after the one that it starts from.

    `model`: its model is needed, and made again where it was lost. `failed`: key -> error of the jobs that failed
    in this run; they would again.
    """

    def found() -> Record | None:
        record = place.find(job, seed)
        return record if record is not None and (not model or place.has_model(job, seed, record)) else None

    there = found()
    if there is not None:
        return there
    if job.origin is not None:
        _finish(place, job.origin, seed, stage, failed, wait=wait, device=device, model=True)
    key = place.study.key(job, seed)
    if key in failed:
        raise ImcSsmError(failed[key])
    with locked(place.run_path(job, seed, ".lock"), wait=wait) as ours:
        if not ours:
            raise _Busy
        there, old = found(), place.find(job, seed)
        if there is not None:
            return there
        start = time.perf_counter()
        try:
            with stage(job.title(seed)) as progress:
                measured = job.run(Bench(place, job, seed, progress, device))
        except ImcSsmError as problem:
            failed[key] = str(problem)
            raise
        took = float(measured.attrs.get("compute_time_s", time.perf_counter() - start))
        if old is not None:  # its model was lost: the new one must be no other
            place.has_model(job, seed, old)
        record = Record(
            key=key,
            identity=place.study.identity(job, seed, whole=True),
            measured={v.name: measured[v.name].values.tolist() for v in job.variables},
            n_test=job.tested(place.shape),
            time_s=round(took, 3),
            work=place.work(job),
            labels=_labels(job, measured),
            about=_about(device),
        )
        place.ledger.add(record)
        place.run_path(job, seed, ".checkpoint.safetensors").unlink(missing_ok=True)
        return record


def _labels(job: Job, measured: xr.Dataset) -> dict[str, list[float]]:
    """The coordinates that are neither declared nor 0, 1, ..."""
    out: dict[str, list[float]] = {}
    for dimension in {d.name: d for v in job.variables for d in v.dimensions}.values():
        marks = measured[dimension.name].values
        if dimension.labels is None and not np.array_equal(marks, np.arange(len(marks))):
            out[dimension.name] = marks.tolist()
    return out


def _about(device: str) -> dict[str, str | int]:
    def installed(names: Iterable[str]) -> dict[str, str]:
        found = {}
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "not installed"
        return found

    about: dict[str, str | int] = dict(installed(("imc-ssm", "torch", "numba")))
    about |= {} if device == "cpu" else {"device": torch.cuda.get_device_name(named_device(device))}
    return about | {"threads": torch.get_num_threads(), "created": datetime.now(UTC).isoformat(timespec="seconds")}
