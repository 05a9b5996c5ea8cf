"""What the command line sets for its own process, because it is nobody else's."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

__all__ = ["keep_pages", "wait_quietly"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""


def wait_quietly() -> None:
    """Waiting threads sleep instead of spinning, unless the environment says otherwise; before torch is loaded.

    Threads that spin make a busy machine slow: two trainings at once took 2.4 to 3.4 times longer with the
    default than with this; one alone takes 19 to 32 % longer with it.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def keep_pages() -> None:
    """Memory that arrays give back stays with the process, for the next ones (glibc; nothing elsewhere).

    Every step makes the same large arrays again. By default they go back to the system and come as fresh pages,
    which it has to clear. With this a QAT step takes 0.95 (`s4d-16h`) and 0.82 (`s4d-64h`) of the processor's
    time, evaluating 0.75 and 0.63; peak memory of the second is 1.6 instead of 1.4 GB (`benchmarks/pages.py`).
    The environment's MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ go before.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
            mallopt(_MMAP_THRESHOLD, 2**30)
        if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
            mallopt(_TRIM_THRESHOLD, 2**31 - 1)
