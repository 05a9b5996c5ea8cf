"""One case: an input broken by a seed, read within a time limit, and what came of it."""

from __future__ import annotations

import signal
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from imc_ssm.errors import ImcSsmError

LIMIT_S = 20
"""Seconds that reading a small file may take."""


@dataclass(frozen=True)
class Loader:
    """A reader of files: how to write a broken one, how to read it, and whether what was read makes sense."""

    name: str
    broken: Callable[[Path, Random], Path]
    """Write a broken input into a folder; its path."""
    read: Callable[[Path], Any]
    sane: Callable[[Any], bool]


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    loader: str
    seed: int
    kind: str
    """"refused", "accepted", "raw", "hang", "nonsense"."""
    text: str = ""

    @property
    def bad(self) -> bool:
        return self.kind in ("raw", "hang", "nonsense")


class _Late(BaseException):
    """The time limit passed."""


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run_case(loader: Loader, seed: int, folder: Path) -> Outcome:
    """The case of a seed; always the same one."""
    rng = Random(zlib.crc32(loader.name.encode()) << 32 | seed)
    path = loader.broken(folder, rng)
    try:
        with _limited(LIMIT_S):
            read = loader.read(path)
            kind, text = ("accepted", "") if loader.sane(read) else ("nonsense", repr(read)[:300])
    except ImcSsmError as error:
        text = str(error)
        kind = "refused" if "\n" not in text and 0 < len(text) <= 2500 else "raw"
    except _Late:
        kind, text = "hang", f"more than {LIMIT_S} s"
    except BaseException as error:  # the point of it: SystemExit and the like too
        if isinstance(error, KeyboardInterrupt):
            raise
        kind, text = "raw", "".join(traceback.format_exception(error)[-3:])
    return Outcome(loader.name, seed, kind, text)
