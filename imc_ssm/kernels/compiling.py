"""How kernels of the CPU are compiled, kept on disk, and shared by threads and forked processes.

Numba's kernels run on a layer of threads of their own: TBB where it is installed, else OpenMP, else Numba's own
work queue (NUMBA_THREADING_LAYER chooses another). GNU OpenMP kills a forked process that uses it, so a forked
process computes on one thread. The work queue, which is the slowest to wake, allows one caller at a time: a lock
sees to that; what one call does runs on all threads anyway.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from numba import njit

__all__ = ["ParallelKernel", "compiled", "kernel"]

_turn = threading.RLock()
_forked = False


def _after_fork() -> None:
    """A child has one thread: nobody else holds the lock, and the threads of OpenMP, Numba's and PyTorch's, are
    not there (a product would wait for them for ever)."""
    global _turn, _forked
    _turn, _forked = threading.RLock(), True
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


SMALL = 1024
"""Numbers of a first argument up to which one thread does all: to wake the others takes longer (30 us and more on
a work queue, even where there is one thread), and the step of a stream is ten such calls."""


class ParallelKernel:
    """A compiled function whose `prange` loops run on all threads, or on the caller's where there is little to do
    and in a forked process; one runs at a time."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._run = _made(function, parallel=True)
        self._alone = _made(_renamed(function, f"{function.__name__}_alone"))  # compiled when it is called
        self.__doc__ = function.__doc__

    def __call__(self, *arguments: Any) -> Any:
        with _turn:
            return (self._alone if _forked or arguments[0].size <= SMALL else self._run)(*arguments)

    @property
    def ready(self) -> bool:
        """Whether it was compiled on this machine before: in this process, or into Numba's cache."""
        place, name = self._run.stats.cache_path, self._run.py_func.__name__
        return bool(self._run.signatures) or (place is not None and any(Path(place).glob(f"*.{name}-*.nbi")))


def _renamed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The same function under another name: Numba's cache tells functions apart by names, not by options."""
    made = FunctionType(function.__code__, function.__globals__, name, function.__defaults__, function.__closure__)
    made.__qualname__, made.__module__ = name, function.__module__
    return made


def kernel(function: Callable[..., Any]) -> ParallelKernel:
    """Compile a function whose `prange` loops run on all threads."""
    return ParallelKernel(function)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a part of a kernel."""
    made: Callable[..., Any] = _made(function)
    return made
