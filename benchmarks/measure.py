"""Times and memory, measured the same way for every implementation."""

from __future__ import annotations

import gc
import os
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.autograd.profiler import profile

from imc_ssm.datasets import SequenceDataset
from imc_ssm.datasets.sequence import SPLITS

__all__ = [
    "ONE_THREAD",
    "Peak",
    "medians",
    "peak",
    "peak_memory",
    "processor_time",
    "resident",
    "resident_peak",
    "seconds",
    "sequences",
]

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
"""The environment of a process that computes with one thread."""
ROUNDS = 3
"""Jobs take turns this often, so that a change of the machine's load meets all of them."""


def seconds(job: Callable[[], object]) -> float:
    """Duration of one call in s."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def processor_time(job: Callable[[], object], warm: int = 1) -> tuple[float, float]:
    """Processor time in s of one call, after `warm` that do not count: the program's own, the system's for it."""
    for _ in range(warm):
        job()
    before = resource.getrusage(resource.RUSAGE_SELF)
    job()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime


def peak() -> int:
    """Peak resident memory of this process in bytes."""
    # ru_maxrss is in KiB on Linux and in bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def sequences(count: int, time: int) -> SequenceDataset:
    """Random sequences, ten classes, `count` of them to train on and the other splits as small as can be."""
    splits = np.split(np.arange(count + 2), [count, count + 1])
    return SequenceDataset(
        values=np.random.default_rng(0).random((count + 2, time, 1)),
        labels=np.arange(count + 2) % 10,
        splits=dict(zip(SPLITS, splits, strict=True)),
    )


def medians(jobs: Mapping[str, Callable[[], object]], repeats: Mapping[str, int]) -> dict[str, float]:
    """Median duration in s of every job over its number of repeats, in rounds, after one call to warm up.

    A job's repeats within a round follow one another, after one more call that is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            job()
            times[name] += [seconds(job) for _ in range(max(1, repeats[name] // ROUNDS))]
    return {name: float(np.median(values)) for name, values in times.items()}


@dataclass(frozen=True)
class Peak:
    """Largest number of bytes that a job held at once, beyond what was there before."""

    arrays: int
    """NumPy and Python objects (tracemalloc)."""
    tensors: int
    """torch's allocator on the CPU (every allocation and release of its profiler)."""

    @property
    def bytes(self) -> int:
        """Both together: not less than the true peak, because the two need not fall together."""
        return self.arrays + self.tensors


def peak_memory(job: Callable[[], object]) -> Peak:
    """Peak of the memory that a job allocates, its results included, after one call that compiles.

    The job must keep nothing from one call to the next. It runs twice, counted by one of the two at a time.
    The fused kernels allocate nothing themselves: their room comes from NumPy and torch, which are counted. What
    a library takes beside them (workspaces of FFT and BLAS) is not; `resident_peak` shows it.
    """
    job()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = job()
        arrays = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    del kept
    with profile(profile_memory=True, use_kineto=False) as record:
        kept = job()
    held = most = 0
    for event in record.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    del kept
    return Peak(arrays, most)


def resident() -> int | None:
    """Resident memory of this process in bytes; None where the system does not tell (no /proc)."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if file.exists() else None


def resident_peak(job: Callable[[], object]) -> int | None:
    """Growth of the resident memory to its peak during a job, in bytes, after one call that compiles; None without
    Linux's /proc.

    Freed memory must go back to the system at once for this to mean anything: see `memory.ENVIRONMENT`.
    """
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not os.access(reset, os.W_OK):
        return None
    job()
    gc.collect()
    reset.write_text("5")
    before = resident()
    kept = job()
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    del kept
    return int(line.split()[1]) * 1024 - (before or 0)
