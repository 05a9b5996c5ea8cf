"""Runs the cells of an experiment, one after the other, safely beside other processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import torch

from imc_ssm.errors import CheckpointError, ConfigError, DataError, FileError, ImcSsmError
from imc_ssm.experiment.dataset import write
from imc_ssm.experiment.declare import Cell, Experiment, Job, start_of
from imc_ssm.experiment.jobs import perform
from imc_ssm.experiment.ledger import Entry, locked
from imc_ssm.experiment.workplace import Workplace
from imc_ssm.training import Progress

__all__ = ["Finished", "run"]

_DRAW_EVERY = 60.0
"""Seconds between two drawings of the figure while cells are being computed."""
_FOR_ALL = (FileError, DataError, ConfigError)
"""What is as wrong for the cells that follow; but a checkpoint of another training concerns one."""


Stage = Callable[[str], AbstractContextManager[Progress]]


class _Busy(Exception):
    """Another process is at work on this job."""


@dataclass(frozen=True)
class Finished:
    """A cell that was computed, or failed."""

    cell: Cell
    done: int
    """Cells of this run that are done, this one included."""
    total: int
    left_s: float
    """Estimate for the others."""
    entry: Entry | None
    error: str = ""
    """Why there is no entry."""


def run(
    place: Workplace,
    experiment: Experiment,
    cells: list[Cell],
    *,
    stage: Stage,
    finished: Callable[[Finished], None],
    waiting: Callable[[Cell], None] = lambda cell: None,
) -> list[Finished]:
    """Compute the cells that are not done and write the dataset after each, and the figure; returns the failures.

    A cell that another process computes is left to it and read when it is there. A training that diverges, or
    whose checkpoint is another one's, is a failure: its cell stays missing, and the others go on.
    `stage(title)` is entered for every job and gives its progress callback, `finished` is called after every
    cell, `waiting` before waiting for another process.

    Raises `FileError` for files that cannot be read or written or belong to another recipe, `DataError` where the
    task's files are missing.
    """
    entries = place.ledger.entries()
    todo = [cell for cell in cells if place.find(cell.job, cell.seed, entries) is None]
    failures: list[Finished] = []
    failed: dict[str, str] = {}
    done, drawn = len(cells) - len(todo), time.monotonic()
    if todo:
        _ = place.data  # missing data are an error before any work
    write(place, experiment)
    try:
        for wait in (False, True):
            busy: list[Cell] = []
            for i, cell in enumerate(todo):
                entry, error = None, ""
                if wait:
                    waiting(cell)
                try:
                    entry = _entry(place, cell.job, cell.seed, stage, failed, wait=wait)
                except _Busy:
                    busy.append(cell)
                    continue
                except ImcSsmError as problem:
                    if isinstance(problem, _FOR_ALL) and not isinstance(problem, CheckpointError):
                        raise
                    error = str(problem)
                draw = time.monotonic() - drawn > _DRAW_EVERY
                write(place, experiment, draw=draw)
                drawn = time.monotonic() if draw else drawn
                done += 1
                left = place.left([*todo[i + 1 :], *busy], place.ledger.entries())
                report = Finished(cell, done, len(cells), left, entry, error)
                failures += [report] if error else []
                finished(report)
            todo = busy
    finally:
        write(place, experiment, draw=True)
    return failures


def _entry(place: Workplace, job: Job, seed: int, stage: Stage, failed: dict[str, str], *, wait: bool) -> Entry:
    """The ledger's entry of a job, computed now if it is not there, and that of the training it starts from.

    `failed`: key -> error of the jobs that failed in this run; they would again.
    """
    if job.kind != "full":
        _entry(place, start_of(job), seed, stage, failed, wait=wait)
    key = place.study.key(job, seed)
    if key in failed:
        raise ImcSsmError(failed[key])
    with locked(place.run_path(job, seed, ".lock"), wait=wait) as ours:
        if not ours:
            raise _Busy
        old = place.find(job, seed)
        if old is not None and (job.kind != "full" or place.model_fits(job, seed, old)):
            return old
        try:
            with stage(_title(job, seed)) as progress:
                measured = perform(place, job, seed, progress)
        except ImcSsmError as problem:
            failed[key] = str(problem)
            raise
        if old is not None:  # its model was lost: the new one must be no other
            place.model_fits(job, seed, old)
        entry = Entry(
            key=key,
            identity=place.study.identity(job, seed, whole=True),
            measured=measured.values,
            n_test=int(place.shape["splits"]["test"]),
            time_s=round(measured.time_s, 3),
            work=place.work(job),
            labels=measured.labels,
            about=_about(),
        )
        place.ledger.add(entry)
        place.run_path(job, seed, ".checkpoint.safetensors").unlink(missing_ok=True)
        return entry


def _title(job: Job, seed: int) -> str:
    words = {"full": "train", "ptq": "PTQ", "qat": "QAT", "poles": "poles", "kernel": "kernel"}
    label = f" {job.scheme.label}" if job.scheme is not None else ""
    return f"{words[job.kind]} {job.model} seed {seed}{label}"


def _about() -> dict[str, str | int]:
    def installed(names: Iterable[str]) -> dict[str, str]:
        found = {}
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "not installed"
        return found

    about: dict[str, str | int] = dict(installed(("imc-ssm", "torch", "numba")))
    return about | {"threads": torch.get_num_threads(), "created": datetime.now(UTC).isoformat(timespec="seconds")}
