"""The folder of a sweep: cells as they are found, the labelled dataset made of them, models, locks.

    cells.zarr      one array, `record` (cell, number), a chunk a cell: a file with a checksum that is written
    under
                    another name and renamed, so that a cell is there or not, whoever is killed; its attributes say
                    what the sweep is
    dataset.zarr    the labelled dataset, for `xarray.open_zarr`, written anew now and then
    journal.log     the trials of a guided search (optuna)
    models/, locks/ what cells share

Cells of several processes and machines are different files, and creating the folder is one renaming: nothing is
shared but names. (Claims on cells are locks of the file system; where it has none, cells may be done twice.)
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imc_ssm.errors import FileError
from imc_ssm.files import cannot_write, canonical_json
from imc_ssm.study.ledger import fits, locked

__all__ = ["Found", "Status", "Store"]

CELLS, DATASET = "cells.zarr", "dataset.zarr"
ROOM = 2**40
"""Cells that a store has room for; those that are not there take none."""
MESSAGE = 400
"""Characters of a refusal that are kept."""
_NAME = re.compile(r"(\d+)\.0")


class Status(IntEnum):
    """What became of a cell."""

    MISSING = 0
    """Not done yet."""
    DONE = 1
    """Measured."""
    REFUSED = 2
    """A configuration that cannot be, or a training that diverged."""
    INFEASIBLE = 3
    """Its costs break a constraint, so that it was not evaluated."""
    HOPELESS = 4
    """Left by a guided search."""


@dataclass(frozen=True, eq=False)
class Found:
    """A cell that is done."""

    number: int
    """Its place in the sweep."""
    status: Status
    """What became of it."""
    seconds: float
    """Time that it took, s."""
    point: npt.NDArray[np.float64]
    """A number an axis (`Space.numbers`)."""
    values: npt.NDArray[np.float64]
    """All variables, flattened, one after the other; NaN where not measured."""
    message: str = ""
    """Why it was refused."""


class Store:
    """The cells of one sweep, in one folder."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, about
        self._group: Any = None

    @classmethod
    def create(cls, folder: Path, about: dict[str, Any], identity: dict[str, Any], width: int) -> Store:
        """The store in `folder`, made if there is none.

        `about`: what the sweep is, as JSON; `identity`: the part of it that has to be the same where there is one
        already. `width`: numbers of a record. Raises `FileError` for the folder of another sweep, and one that
        cannot be written.
        """
        about = about | {"identity": identity, "width": width}
        canonical_json(about, what="the sweep")
        if not (folder / CELLS).exists():
            _make(folder, about, width)
        store = cls.open(folder)
        if store.about["width"] != width or not fits(store.about["identity"], identity):
            where = _difference(store.about["identity"], identity) or "numbers of a cell"
            raise FileError(
                f"{folder} is another sweep: its {where} is not the same; give another folder, or remove this one"
            )
        return store

    @classmethod
    def open(cls, folder: Path) -> Store:
        """The store that is there; `FileError` if there is none."""
        path = Path(folder) / CELLS / "zarr.json"
        try:
            about = json.loads(path.read_text(encoding="utf-8"))["attributes"]
            if not {"identity", "width"} <= about.keys():
                raise KeyError("identity")
        except FileNotFoundError:
            raise FileError(f"{folder} holds no sweep; give the folder that `imc-ssm sweep run` wrote") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileError(f"cannot read {path}: {error}; restore it, or run the sweep in a new folder") from None
        return cls(Path(folder), about)

    @property
    def width(self) -> int:
        """Numbers of a cell: its point and its values."""
        return int(self.about["width"])

    def done(self) -> set[int]:
        """Numbers of the cells that are there."""
        try:
            with os.scandir(self.folder / CELLS / "record") as entries:
                found = (_NAME.fullmatch(entry.name) for entry in entries)
                return {int(match[1]) for match in found if match}
        except OSError as error:
            raise FileError(f"cannot read {self.folder}: {error.strerror}; restore the folder") from None

    def has(self, number: int) -> bool:
        """Whether a cell is there."""
        return (self.folder / CELLS / "record" / f"{number}.0").exists()

    def write(self, cell: Found) -> None:
        """Keep a cell; `FileError` where that fails."""
        row = np.concatenate([[float(cell.status), cell.seconds], cell.point, cell.values])
        try:
            if cell.message:
                text = cell.message.encode()[:MESSAGE]
                letters = np.zeros(MESSAGE, np.uint8)
                letters[: len(text)] = np.frombuffer(text, np.uint8)
                self._array("message")[cell.number] = letters
            self._array("record")[cell.number] = row
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def read(self, axes: int, numbers: Iterable[int] | None = None) -> list[Found]:
        """The cells that are there, of `numbers` or all, in rising order; `axes`: how many there are.

        Raises `FileError` for one that was changed.
        """
        there = self.done()
        wanted = sorted(there if numbers is None else there & set(numbers))
        cells = []
        rows, letters = self._rows(wanted), self._array("message")
        for number, row in zip(wanted, rows, strict=True):
            message = ""
            if Status(int(row[0])) is Status.REFUSED:
                message = bytes(letters[number]).rstrip(b"\0").decode(errors="replace")
            cells.append(Found(number, Status(int(row[0])), row[1], row[2 : 2 + axes], row[2 + axes :], message))
        return cells

    def _rows(self, wanted: list[int]) -> npt.NDArray[np.float64]:
        record = self._array("record")
        try:
            if wanted and wanted[-1] < 2 * len(wanted) + 64:
                return np.asarray(record[: wanted[-1] + 1])[wanted]
            return np.array([record[number] for number in wanted]).reshape(len(wanted), 2 + self.width)
        except Exception as error:  # zarr, its codecs and its stores each have their own
            broken = next((n for n in wanted if not self._whole(n)), None)
            where = self.folder / CELLS / "record" / f"{broken}.0"
            if broken is None:
                raise FileError(f"cannot read the cells of {self.folder}: {error}") from None
            raise FileError(f"{where} was changed; remove that file, and run the sweep to do it again") from None

    def _whole(self, number: int) -> bool:
        try:
            self._array("record")[number]
        except Exception:
            return False
        return True

    def _array(self, name: str) -> Any:
        if self._group is None:
            import zarr

            try:
                self._group = zarr.open_group(self.folder / CELLS, mode="r+")
                self._arrays = {n: self._group[n] for n in ("record", "message")}
            except (ValueError, KeyError) as error:
                self._group = None
                raise FileError(
                    f"cannot read {self.folder / CELLS}: {error}; restore its zarr.json files, or run the sweep "
                    "in a new folder"
                ) from None
        return self._arrays[name]

    def __getstate__(self) -> dict[str, Any]:
        """Without open arrays."""
        return {"folder": self.folder, "about": self.about, "_group": None}

    def publish(self, dataset: Any) -> Path:
        """Write the labelled dataset as `dataset.zarr` in place of the one that is there, and return its path."""
        path = self.folder / DATASET
        made, old = path.with_name(".published"), path.with_name(".published-before")
        with locked(self.folder / "locks" / "publish.lock"):
            try:
                for left in (made, old):  # of a process that was killed
                    shutil.rmtree(left, ignore_errors=True)
                dataset.drop_encoding().to_zarr(made, mode="w", zarr_format=2, consolidated=True)
                if path.exists():
                    path.rename(old)
                made.rename(path)
                shutil.rmtree(old, ignore_errors=True)
            except OSError as error:
                raise cannot_write(path, error) from error
        return path


def _make(folder: Path, about: dict[str, Any], width: int) -> None:
    """Create `cells.zarr` under another name and rename it; nothing where another process was quicker."""
    import zarr
    from zarr.codecs import Crc32cCodec

    made = folder / f".new-{secrets.token_hex(6)}"
    keys = {"name": "v2", "separator": "."}
    checked: Any = [Crc32cCodec()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        group = zarr.open_group(made, mode="w", zarr_format=3, attributes=about)
        for name, size, kind, empty in (
            ("record", 2 + width, "float64", np.nan),
            ("message", MESSAGE, "uint8", 0),
        ):
            group.create_array(
                name,
                shape=(ROOM, size),
                chunks=(1, size),
                dtype=kind,
                fill_value=empty,
                compressors=checked,
                chunk_key_encoding=keys,
                dimension_names=("cell", "number"),
            )
        try:
            made.rename(folder / CELLS)
        except OSError:
            if not (folder / CELLS).exists():
                raise
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _difference(old: Any, new: Any, path: str = "") -> str:
    """The path of the first thing that is not the same; "" if there is none."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old:
            if name in new and not fits(old[name], new[name]):
                return _difference(old[name], new[name], f"{path}.{name}" if path else name)
        return ""
    return path
