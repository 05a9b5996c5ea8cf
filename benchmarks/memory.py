"""Peak memory of one training step; every implementation in a process of its own.

`python memory.py NAME` prints the figures of one implementation of `jobs.JOBS` as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from jobs import JOBS, STEP, job
from measure import peak_memory, resident_peak

__all__ = ["Additional", "additional"]

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MKL_DISABLE_FAST_MM": "1"}
"""Freed memory goes back to the system, so that what is resident is what is held (glibc, MKL)."""


@dataclass(frozen=True)
class Additional:
    """Peak memory of a step besides y and the gradients of u and y, in units of the size of u."""

    arrays: float
    """NumPy and Python."""
    tensors: float
    """torch, less y and the gradient of u."""
    resident: float | None
    """Growth of the resident memory to its peak, less the same two; None where the system does not tell."""

    @property
    def allocated(self) -> float:
        """What was allocated; the figure of the requirement."""
        return self.arrays + self.tensors


def additional(name: str, threads: int) -> Additional:
    """Measured in a new process."""
    environment = os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed: {done.stderr}")
    return Additional(**json.loads(done.stdout))


def main(name: str) -> None:
    step, unit = job(name).step, STEP.input_bytes
    grown = resident_peak(step)
    peak = peak_memory(step)
    # y and the gradient of u are torch's; the gradient of y is there before.
    share = None if grown is None else grown / unit - 2
    print(json.dumps({"arrays": peak.arrays / unit, "tensors": peak.tensors / unit - 2, "resident": share}))


if __name__ == "__main__":
    main(*sys.argv[1:]) if sys.argv[1:] and sys.argv[1] in JOBS else sys.exit(f"give one of {', '.join(JOBS)}")
