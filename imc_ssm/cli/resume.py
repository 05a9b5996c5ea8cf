"""Work that can be interrupted: where it keeps its state, and when that state is worth nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imc_ssm.errors import FileError, ImcSsmError

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
    try:
        yield checkpoint
    except FileError:  # it belongs to another run, or cannot be written
        raise
    except ImcSsmError:
        checkpoint.unlink(missing_ok=True)
        raise
