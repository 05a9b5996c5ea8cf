"""Work that can be interrupted: where it keeps its state, and when that state is worth nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imc_ssm.cli.report import console
from imc_ssm.errors import FileError, ImcSsmError
from imc_ssm.files import load_tensors

__all__ = ["checkpoint_of", "resumable"]


def checkpoint_of(out: Path) -> Path:
    """Where the work for `out` keeps its state between epochs or chips; removed when `out` is written."""
    return out.with_name(f".{out.name}.checkpoint.safetensors")


@contextmanager
def resumable(out: Path) -> Iterator[Path]:
    """The checkpoint of the work for `out`: kept when interrupted, removed when going on is hopeless.

    Training that diverged would diverge again; its checkpoint would stand in the way of a smaller rate.
    """
    checkpoint = checkpoint_of(out)
    if (found := _reached(checkpoint)) is not None:
        console.print(f"going on from {found}, kept in {checkpoint}", soft_wrap=True)
    try:
        yield checkpoint
    except FileError:  # it belongs to another run, or cannot be written
        raise
    except ImcSsmError:
        checkpoint.unlink(missing_ok=True)
        raise


def _reached(checkpoint: Path) -> str | None:
    """How far an earlier run came, in words; None without one (a damaged one is refused where it is read)."""
    if not checkpoint.is_file():
        return None
    with suppress(FileError, KeyError, TypeError, AttributeError):
        _, header = load_tensors(checkpoint, "checkpoint")
        return f"epoch {len(header['measured']['time'])} of {header['identity']['config']['epochs']}"
    with suppress(FileError, KeyError, TypeError, AttributeError):
        done = load_tensors(checkpoint, "evaluation")[0]["done"]
        return f"reading {int(done.sum())} of {done.size} (chips x times)"
    return None
