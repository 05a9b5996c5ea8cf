"""Finished jobs, one JSON line each, written whole by one process at a time.

A line holds key, identity, seed, what was measured, and a SHA-256 of all that. The file is text, so that two
machines' ledgers can be merged line by line.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from imc_ssm.errors import ConfigError, FileError
from imc_ssm.files import atomic_path, cannot_write, canonical_json

__all__ = ["Ledger", "Record", "find_in", "fits", "locked"]


@dataclass(frozen=True)
class Record:
    """One finished job."""

    key: str
    identity: dict[str, Any]
    """All that decided the numbers, defaults included."""
    measured: dict[str, Any]
    """Variable -> number or nested lists of numbers."""
    n_test: int
    time_s: float
    """Compute time in s, all interruptions left out."""
    work: float
    """Size of the job, in state updates (`imc_ssm.study.duration`)."""
    labels: dict[str, list[float]] = field(default_factory=dict)
    """Coordinates of dimensions that only this kind of job has."""
    about: dict[str, Any] = field(default_factory=dict)
    """When, with which versions and how many threads."""


class Ledger:
    """The finished jobs of a study."""

    def __init__(self, path: Path, lock: Path) -> None:
        self.path, self.lock = path, lock
        self._parsed: dict[str, Record] = {}  # a line is sealed: the same text is the same record

    def records(self) -> dict[str, Record]:
        """All records by key; `FileError` for a line that was changed, and for two results of one job."""
        return {key: record for key, (_, record) in self._read().items()}

    def find(self, key: str, identity: dict[str, Any]) -> Record | None:
        """The record of a key, if what it was computed with still means the same; None: not computed yet.

        The key leaves out fields at their defaults; where a default was changed since, the record is not found.
        """
        return _if_same(self.records().get(key), identity)

    def add(self, record: Record) -> None:
        """Write a record; it replaces one of the same key."""
        with locked(self.lock):
            lines = [line for key, (line, _) in self._read().items() if key != record.key]
            lines.append(_line(record))
            with atomic_path(self.path) as temporary:
                temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _read(self) -> dict[str, tuple[str, Record]]:
        """Key -> line and record, in the order of the file."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"cannot read {self.path}: {error}") from None
        found: dict[str, tuple[str, Record]] = {}
        where: dict[str, int] = {}
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            record = self._parsed.get(line) or self._parsed.setdefault(line, self._parse(number, line))
            first = where.setdefault(record.key, number)
            if first == number:
                found[record.key] = line, record
            elif _encode(found[record.key][1].measured) != _encode(record.measured):
                raise FileError(
                    f"{self.path}: lines {first} and {number} are two results of one job ({_whose(record)}), "
                    "such as two machines give; remove one of them"
                )
        return found

    def _parse(self, number: int, line: str) -> Record:
        def broken(what: str) -> FileError:
            return FileError(
                f"{self.path}, line {number}: {what}; restore the file, or remove this line to compute it again"
            )

        try:
            content = json.loads(line)
            seal = content.pop("sha256")
            digest = hashlib.sha256(canonical_json(content).encode()).hexdigest()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ConfigError):
            raise broken(f"{line[:20]!r}... is no result (a conflict of a merge?)") from None
        if digest != seal:
            raise broken(f"the result of job {content.get('key')} was changed (its checksum does not fit)")
        try:
            record = Record(**content | {"measured": _decode(content["measured"])})
            _check(record)
            return record
        except (ValueError, TypeError, KeyError, OverflowError):
            raise broken(f"the result of job {content.get('key')} has other fields than this version's") from None


def _check(record: Record) -> None:
    """`TypeError` for a field of another type than `_line` writes, `ValueError` for a number that cannot be."""
    kinds = {"key": str, "identity": dict, "measured": dict, "labels": dict, "about": dict, "n_test": int}
    for name, kind in kinds.items():
        if type(getattr(record, name)) is not kind:
            raise TypeError(name)
    for number in (record.n_test, record.time_s, record.work):
        if isinstance(number, bool) or not 0 <= number < math.inf:
            raise ValueError(number)


def _whose(record: Record) -> str:
    """ "ptq, seed 0, key ..."."""
    kind, seed = record.identity.get("kind"), record.identity.get("seed")
    return f"{kind}, seed {seed}, key {record.key}"


def find_in(records: dict[str, Record], key: str, identity: dict[str, Any]) -> Record | None:
    """`Ledger.find` among records that were read before."""
    return _if_same(records.get(key), identity)


def _if_same(record: Record | None, identity: dict[str, Any]) -> Record | None:
    return record if record is not None and fits(record.identity, identity) else None


def fits(old: Any, new: Any) -> bool:
    """Whether all fields that were there when `old` was written have the same values now."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(name not in new or fits(value, new[name]) for name, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(fits, old, new))
    return bool(old == new)


def _line(record: Record) -> str:
    content = {**vars(record), "measured": _encode(record.measured)}
    seal = hashlib.sha256(canonical_json(content, what="a result").encode()).hexdigest()
    return canonical_json({**content, "sha256": seal})


def _encode(value: Any) -> Any:
    """Numbers that JSON lacks as text."""
    if isinstance(value, dict):
        return {name: _encode(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    return value if math.isfinite(value) else str(value)


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _decode(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return float(value)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`: True; or, without `wait`, False at once if another process holds it.

    The operating system frees it when its holder ends, however it ends. Raises `FileError` where `path` cannot be
    made.
    """
    lock = FileLock(path, poll_interval=0.1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=wait)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield True
    finally:
        with suppress(OSError):  # where an open file cannot be removed, it stays
            path.unlink()
        lock.release()
