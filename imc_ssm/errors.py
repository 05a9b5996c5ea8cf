"""Errors a user can act on. Every message names the thing, its value, what is allowed and what to try.

The command line prints the message of an `ImcSsmError` as it is and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DesignError",
    "FileError",
    "FormatError",
    "ImcSsmError",
    "unknown",
]


class ImcSsmError(ValueError):
    """Bad input of any kind; the base of all errors below."""


class ConfigError(ImcSsmError):
    """A configuration field is unknown, has the wrong type or a value out of range."""


class DataError(ImcSsmError):
    """A dataset is missing, corrupt, of the wrong shape or not finite."""


class DesignError(ImcSsmError):
    """A cell or chip design is unknown, or the model does not fit it."""


class FileError(ImcSsmError):
    """A file cannot be read (truncated, changed, another kind) or an output cannot be written."""


class CheckpointError(FileError):
    """A checkpoint is whole, but of another piece of work."""


class FormatError(ImcSsmError):
    """A fixed-point format or a combination of formats cannot be represented."""


def unknown(kind: str, name: str, valid: Iterable[str], *, sort: bool = True) -> str:
    """One line for an unknown name: what it was, the nearest valid one, and all that are known."""
    valid = sorted(valid) if sort else list(valid)
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f" did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r};{hint} known: {', '.join(valid) if valid else '(none)'}"
