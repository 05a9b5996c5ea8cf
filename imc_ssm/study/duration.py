"""How long a job takes: its size in state updates, times seconds per update of the jobs done so far."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from imc_ssm.study.declare import Study
from imc_ssm.study.ledger import Record

if TYPE_CHECKING:
    from imc_ssm.study.jobs.base import Job

__all__ = ["estimate", "work"]


def work(study: Study, job: Job, shape: dict[str, Any]) -> float:
    """State updates, forward and back, of a job; `shape`: `datasets.info` of the task.

    Of one that takes less than a second, what counts is loading the model.
    """
    model = job.architecture(study)
    _, time, _ = shape["shape"]
    states = sum(model.widths) * getattr(model.layer, "n_state", 2) / 2 * (1 + model.bidirectional)
    return max(job.work(study, shape) * int(time), 1e5) * states


def estimate(study: Study, job: Job, size: float, records: Iterable[Record]) -> float:
    """Seconds that a job of `size` state updates will take, from jobs of its kind, of its width if there are."""
    heads = job.architecture(study).heads
    kind = [r for r in records if r.identity["job"]["kind"] == job.kind and r.work > 0]
    same = [r for r in kind if _root(r.identity["job"])["model"]["heads"] == heads] or kind
    if not same:
        return size * job.update_s
    return size * sum(r.time_s for r in same) / sum(r.work for r in same)


def _root(job: dict[str, Any]) -> dict[str, Any]:
    while "start" in job:
        job = job["start"]
    return job
