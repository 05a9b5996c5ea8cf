"""Kernels in forked processes, in threads, and where nothing can be written."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from imc_ssm.kernels import diagonal_scan

ROOT = Path(__file__).parents[2]
RUN = """
import torch
from imc_ssm.kernels import diagonal_scan, state_range

def run():
    g = torch.Generator().manual_seed(0)
    u = torch.randn(40, 8, 200, generator=g)
    a = torch.polar(torch.full((8, 4), 0.9), torch.rand(8, 4, generator=g))
    y = diagonal_scan(u, a) + torch.linalg.norm(torch.randn(400, 400, generator=g) @ torch.ones(400, 400))
    return float(y.double().sum()) + float(state_range(u, a, torch.ones_like(a), 99.0, "head")[1].sum())
"""
FORK = """
import multiprocessing
assert torch.get_num_threads() == 2

def child(queue):
    queue.put(run())

context = multiprocessing.get_context("fork")
queue, here = context.SimpleQueue(), run()
for _ in range(2):
    process = context.Process(target=child, args=(queue,))
    process.start()
    process.join(60)
    code = process.exitcode
    process.kill()
    assert code == 0, code
    assert queue.get() == here
assert torch.get_num_threads() == 2
"""
NOWHERE = """
from numba.core import caching
for kind in (caching.CacheImpl, *caching.CacheImpl.__subclasses__()):
    kind._locator_classes = []
"""


def python(code: str) -> None:
    """Run it on two threads in a process of its own."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), "2")
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_THREADING_LAYER"} | threads
    path = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        env=environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes cannot fork here")
def test_a_forked_process_computes_the_same() -> None:
    """After kernels and products ran here on several threads: a DataLoader's worker, or multiprocessing."""
    python(RUN + FORK)


def test_a_kernel_needs_no_place_for_its_code() -> None:
    """A read-only installation of a user without a home: compiled, but kept nowhere."""
    python(NOWHERE + RUN + "assert run() == run()")


def test_threads_call_kernels_at_the_same_time() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.polar(torch.full((8, 4), 0.9), torch.rand(8, 4, generator=g))
    inputs = [torch.randn(20, 8, 50, generator=g) for _ in range(60)]
    alone = [diagonal_scan(u, a) for u in inputs]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda u: diagonal_scan(u, a), inputs))
    assert all(torch.equal(one, two) for one, two in zip(alone, together, strict=True))
