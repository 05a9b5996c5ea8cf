"""Errors a user can act on. Every message names the thing, its value, what is allowed and what to try.

The command line prints the message of an `ImcSsmError` as it is and exits with code 2.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DesignError",
    "FileError",
    "FormatError",
    "ImcSsmError",
    "RangeWarning",
    "brief",
    "near",
    "shown",
    "unknown",
]

LONGEST = 80
"""Characters of a value that a message repeats, at most."""
_WORD, _MESSAGE = 240, 2000
"""Longest word (a path may be long) and longest message that are left as they are."""


class ImcSsmError(ValueError):
    """Bad input of any kind; the base of all errors below.

    One line of bounded length, whatever was put into it: words and messages that are too long lose their middle.
    """

    def __init__(self, message: object = "") -> None:
        text = re.sub(rf"\S{{{_WORD + 1},}}", lambda word: _cut(word[0], LONGEST), str(message))
        super().__init__(_cut(" ".join(text.splitlines()), _MESSAGE))


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


class RangeWarning(UserWarning):
    """A range is bounded by what bounds it, not by the data: numbers are lost, silently but for this."""


def _cut(text: str, most: int) -> str:
    """A text without its middle, if it is longer than `most`."""
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


def shown(value: Any, most: int = LONGEST) -> str:
    """A value as messages repeat it: its `repr`, without the middle if that is longer than `most`.

    Arrays and tensors are told by type and shape; of a long list no more is read than is shown.

        >>> shown("a" * 300, most=20)
        "'aaaaaaa...aaaaaaa'"
    """
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and len(shape):
        return f"{type(value).__name__} of shape {tuple(shape)}"
    if isinstance(value, (list, tuple)) and len(value) > most:
        return _cut(f"{repr(list(islice(value, most)))[:-1]}, ... {len(value)} in all]", most)
    try:
        return _cut(" ".join(repr(value).split("\n")), most)
    except (ValueError, RecursionError):  # an integer of too many digits, a value that holds itself
        return f"a {type(value).__name__}"


def brief(thing: Any) -> str:
    """The repr of a dataclass with arrays: every field as messages show it."""
    fields = (f"{name}={shown(getattr(thing, name))}" for name in type(thing).__dataclass_fields__)
    return f"{type(thing).__name__}({', '.join(fields)})"


def near(name: object, valid: Iterable[str]) -> str:
    """ " did you mean 'heads'?", or "" where nothing is near."""
    found = difflib.get_close_matches(str(name)[:LONGEST], list(valid), n=1, cutoff=0.5)
    return f" did you mean {found[0]!r}?" if found else ""


def unknown(kind: str, name: object, valid: Iterable[str], *, sort: bool = True) -> str:
    """One line for an unknown name: what it was, the nearest valid one, and all that are known."""
    valid = sorted(valid) if sort else list(valid)
    known = ", ".join(valid) if valid else "(none)"
    return f"unknown {kind} {shown(name)};{near(name, valid)} known: {known}"
