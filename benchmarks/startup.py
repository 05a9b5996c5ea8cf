"""From the start of a process to its first result, with an empty and with a filled cache of compiled kernels."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import numpy as np

__all__ = ["Start", "starts"]

# Imports nothing but what a user of the recurrence needs; prints the times of import, forward and backward.
_CHILD = """
import sys, time
start, bits = float(sys.argv[1]), int(sys.argv[2])
import torch
from imc_ssm.fixedpoint import Format, ScanFormats
from imc_ssm.kernels import diagonal_scan
imported = time.time() - start
u = torch.randn(4, 2, 50, requires_grad=True)
a, b, c = (torch.full((2, 4), z, dtype=torch.complex64) for z in (0.9 + 0.3j, 0.1 + 0j, 1 + 1j))
word = Format.from_range(-4.0, 4.0, bits or 8)
y = diagonal_scan(u, a, b, c, formats=ScanFormats(*[word] * 6) if bits else None)
float(y[0, 0, 0])
forward = time.time() - start
y.sum().backward()
float(u.grad[0, 0, 0])
print(imported, forward, time.time() - start)
"""


@dataclass(frozen=True)
class Start:
    """Seconds since the process was started."""

    imported: float
    """imc_ssm.kernels and torch are imported."""
    forward: float
    """The first y is there."""
    backward: float
    """Its first gradient is there."""


def _start(cache: str, bits: int) -> Start:
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    command = [sys.executable, "-c", _CHILD, repr(time.time()), str(bits)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return Start(*map(float, done.stdout.split()))


def starts(repeats: int = 5) -> dict[str, Start]:
    """The first process ever (8-bit codes), then the medians of later ones, integer and full precision."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        found["first ever, 8-bit: compiles"] = _start(cache, 8)
        _start(cache, 0)
        for title, bits in (("second, 8-bit", 8), ("second, full precision", 0)):
            runs = [_start(cache, bits) for _ in range(repeats)]
            fields = ("imported", "forward", "backward")
            found[title] = Start(*(float(np.median([getattr(run, f) for run in runs])) for f in fields))
    return found
