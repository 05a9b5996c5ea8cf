"""How long a job takes: its size in state updates, times seconds per update of the jobs done so far."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from imc_ssm.experiment.declare import Job, Study
from imc_ssm.experiment.ledger import Entry

__all__ = ["estimate", "work"]

_FORWARD = 1 / 3
"""Cost of a forward pass, in passes forward and back."""
_UPDATE = {"full": 2.1e-9, "qat": 1.6e-9, "ptq": 1.6e-9, "poles": 1e-9, "kernel": 1e-9}
"""Seconds per state update forward and back before anything was measured: an epoch of s4d-16h on 50,000
sequences of 784 steps takes about 45 s in full precision (batch 512) and 35 s of QAT (batch 64) on two cores."""


def work(study: Study, job: Job, shape: dict[str, Any]) -> float:
    """State updates, forward and back, of a job; `shape`: `datasets.info` of the task."""
    model, recipe = study.model(job.model), study.recipe_of(job)
    _, time, _ = shape["shape"]
    train, valid, test = (shape["splits"][name] for name in ("train", "validation", "test"))
    sequences = 0.0
    if job.kind == "full":
        sequences = recipe.pretraining.epochs * (train + _FORWARD * valid) + _FORWARD * test
    elif job.kind == "ptq":
        sequences = _FORWARD * (test + recipe.calibration)
    elif job.kind == "qat":
        sequences = recipe.qat.epochs * (train + _FORWARD * valid) + _FORWARD * (valid + test)
    # poles and kernels take less than a second; what counts is loading the model
    return max(float(sequences * time), 1e5) * model.heads * getattr(model.layer, "n_state", 2) / 2 * model.layers


def estimate(job: Job, size: float, entries: Iterable[Entry], heads: int) -> float:
    """Seconds that a job of `size` state updates will take, from jobs of its kind, of its width if there are."""
    kind = [e for e in entries if e.identity["kind"] == job.kind and e.work > 0]
    same = [e for e in kind if e.identity["model"]["heads"] == heads] or kind
    if not same:
        return size * _UPDATE[job.kind]
    return size * sum(e.time_s for e in same) / sum(e.work for e in same)
