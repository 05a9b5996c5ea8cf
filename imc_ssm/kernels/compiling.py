"""How kernels of the CPU are compiled, kept on disk, and shared by threads and forked processes.

Numba's kernels run on a layer of threads of their own. GNU OpenMP, which it prefers, kills a forked process that
uses it; so the layer is one that survives a fork, TBB where it is installed, else Numba's own work queue (a user's
choice, NUMBA_THREADING_LAYER, stands). The work queue allows one caller at a time: a lock sees to that; what one
call does runs on all threads anyway.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import torch
from numba import njit

__all__ = ["ParallelKernel", "compiled", "kernel"]

if numba.config.THREADING_LAYER == "default":
    numba.config.THREADING_LAYER = "forksafe"

_turn = threading.RLock()


def _after_fork() -> None:
    """A child has one thread: nobody else holds the lock, and PyTorch's OpenMP threads are not there (a product
    would wait for them for ever)."""
    global _turn
    _turn = threading.RLock()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _made(function: Callable[..., Any], **options: Any) -> Any:
    """The compiled function, kept on disk where there is a place that can be written (`NUMBA_CACHE_DIR`, beside
    the library, or the user's cache), else compiled once in every process."""
    try:
        return njit(cache=True, error_model="numpy", **options)(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        return njit(error_model="numpy", **options)(function)


class ParallelKernel:
    """A compiled function whose `prange` loops run on all threads; one runs at a time."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._run = _made(function, parallel=True)
        self.__doc__ = function.__doc__

    def __call__(self, *arguments: Any) -> Any:
        with _turn:
            return self._run(*arguments)

    @property
    def ready(self) -> bool:
        """Whether it was compiled on this machine before: in this process, or into Numba's cache."""
        place, name = self._run.stats.cache_path, self._run.py_func.__name__
        return bool(self._run.signatures) or (place is not None and any(Path(place).glob(f"*{name}*.nbi")))


def kernel(function: Callable[..., Any]) -> ParallelKernel:
    """Compile a function whose `prange` loops run on all threads."""
    return ParallelKernel(function)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a part of a kernel."""
    made: Callable[..., Any] = _made(function)
    return made
