"""Run the command line inside this process, as `imc-ssm ...` would, and look at what it leaves behind."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from imc_ssm import cli
from imc_ssm.devices import device_path


@dataclass(frozen=True)
class Run:
    """What one command did."""

    code: int
    out: str
    err: str


class Interrupting(io.StringIO):
    """A terminal whose user presses Ctrl-C, once, when `moment` is printed."""

    def __init__(self, moment: str) -> None:
        super().__init__()
        self.moment: str | None = moment

    def write(self, text: str) -> int:
        if self.moment is not None and self.moment in text:
            self.moment = None
            raise KeyboardInterrupt
        return super().write(text)


def run(*words: object, interrupt_at: str | None = None) -> Run:
    """`imc-ssm words...` through the installed entry point; an exception that escapes it fails the test."""
    out, err = io.StringIO() if interrupt_at is None else Interrupting(interrupt_at), io.StringIO()
    code: object = 0
    argv = ["imc-ssm", *map(str, words)]
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
    assert isinstance(code, int), code
    return Run(code, out.getvalue(), err.getvalue())


def done(*words: object) -> Run:
    """A command that must succeed, without a word on standard error."""
    result = run(*words)
    assert (result.code, result.err) == (0, ""), f"{words}: {result}"
    return result


def contents(*folders: Path) -> dict[Path, bytes | None]:
    """Every file below the folders, hidden ones too, with its bytes; None for a folder."""
    paths = (path for folder in folders for path in folder.rglob("*"))
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def own_toml(folder: Path, kind: str, shipped: str, /, **replaced: str) -> Path:
    """A user's copy of a shipped TOML: the first line `word = ...` becomes `replaced[word]`."""
    lines = device_path(kind, shipped).read_text(encoding="utf-8").splitlines()  # type: ignore[arg-type]
    for word, line in replaced.items():
        found = [i for i, old in enumerate(lines) if old.startswith(f"{word} ")]
        assert found, f"{shipped} has no line {word!r}"
        lines[found[0]] = line
    path = folder / f"own-{shipped}.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
