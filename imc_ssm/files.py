"""Files that are either whole or not there: atomic writes, and tensor files that notice every changed bit.

A tensor file is safetensors (never pickle) whose metadata carry one JSON text under "imc_ssm":
`{"header": ..., "kind": ..., "sha256": ..., "version": 1}`. The digest covers kind, header, and every
tensor's name, type, shape and bytes, so a truncated, edited or flipped file is an error, not a wrong result.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from imc_ssm.errors import ConfigError, FileError, shown

__all__ = [
    "atomic_path",
    "cannot_write",
    "canonical_json",
    "check_writable",
    "is_file",
    "load_tensors",
    "recognised",
    "save_tensors",
]

_KEY = "imc_ssm"
_VERSION = 1
_TEMPORARY = ".imc-ssm.tmp-"
_LEFT = re.compile(re.escape(_TEMPORARY) + r"[0-9a-f]{12}(\.\w*)?")
_STALE_S = 3600.0
_DTYPES = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
    | {"float16", "float32", "float64"}
)


def canonical_json(value: Any, *, what: str = "value") -> str:
    """JSON with sorted keys, ASCII only and without spaces: equal values give equal texts and digests.

    Raises `ConfigError` naming `what` where `value` is not JSON (a NaN, an array, a set, ...).
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{what} cannot be written as JSON: {error}; use only text, finite numbers, booleans, None, "
            "lists and dictionaries"
        ) from None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Write a whole file or none: `with atomic_path("m.nc") as temporary: write(temporary)`.

    Yields a temporary name with the same suffix in the same folder (missing folders are created). At the end
    it is flushed to disk and renamed to `path`; on any failure, an interrupt included, it is removed together
    with the folders made for it, and what stood at `path` before stays as it was. Links are followed.

    Raises `FileError` naming `path`, the cause and what to try for every `OSError`.
    """
    made: list[Path] = []
    temporary: Path | None = None
    try:
        target = _target(path)
        made = _make_folders(target.parent)
        temporary = _create_temporary(target.parent, target.suffix)
        yield temporary
        _flush(temporary)
        os.replace(temporary, target)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        _remove_folders(made)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def check_writable(path: str | Path) -> None:
    """Fail now, before hours of work, if `path` could not be written at the end.

    Tries it by creating and removing a temporary file in the nearest existing folder (permission bits say
    nothing to the root user or on a read-only disk). Leaves nothing behind. Raises `FileError`.
    """
    try:
        target = _target(path)
        folder = target.parent
        while not os.path.lexists(folder):
            folder = folder.parent
        _create_temporary(folder, target.suffix).unlink()
    except OSError as error:
        raise cannot_write(path, error) from error


def save_tensors(
    path: str | Path, tensors: Mapping[str, np.ndarray], header: Mapping[str, Any], kind: str
) -> None:
    """Write named arrays and a JSON header to one safetensors file, atomically.

    `tensors`: real arrays (bool, 8- to 64-bit integers, 16- to 64-bit floats) of any shape; `header`: what
    JSON can say (tuples come back as lists); `kind`: what the file is ("model", "deployment").

    Raises `ConfigError` for a header or array that cannot be stored, `FileError` if `path` cannot be written.
    """
    from safetensors.numpy import save

    arrays = {name: _plain(name, array) for name, array in tensors.items()}
    text = canonical_json(dict(header), what=f"the header of the {kind} file {path}")
    content = {"header": json.loads(text), "kind": kind, "version": _VERSION}
    content["sha256"] = _digest(arrays, content)
    data: bytes = save(arrays, metadata={_KEY: canonical_json(content)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_tensors` wrote: (arrays, header). The arrays own their memory and can be written to.

    Raises `FileError` for a file that is missing, truncated, changed in any bit, not safetensors, of another
    kind or written by a newer version.
    """
    tensors, text = _read_safetensors(Path(path), kind)
    if text is None:
        raise FileError(f"{path} was not written by imc-ssm: {recognised(path)}")
    content = _parse(path, text)
    if content["kind"] != kind:
        what = content["kind"]
        raise FileError(f"{path}: this is a {shown(what)} file, a {kind!r} was expected{_USE.get(what, '')}")
    if not 1 <= content["version"] <= _VERSION:
        raise FileError(
            f"{path} has file version {content['version']}, this imc-ssm reads up to {_VERSION}; "
            "update imc-ssm or write the file again"
        )
    expected = content.pop("sha256")
    if _digest(tensors, content) != expected:
        raise _damaged(path, "its contents do not match its checksum")
    header: dict[str, Any] = content["header"]
    return tensors, header


def recognised(path: str | Path) -> str:
    """What a file is that is not what was asked for, and what to do with it; "" if it is nothing we know.

    By its first bytes, whatever it is called.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(1 << 16)
    except (OSError, ValueError):
        return ""
    name = Path(path).name
    if start.startswith(b"PK\x03\x04"):
        if b"data.pkl" in start:
            return _CHECKPOINT.format(name=name)
        if b".npy" in start:
            return "this is a NumPy .npz file: a dataset is read by imc_ssm.load_dataset and `imc-ssm train`"
        return "this is a zip archive"
    if start.startswith(b"\x80") and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _CHECKPOINT.format(name=name)
    if start.startswith(b"\x89HDF"):
        return "this is a result (.nc): imc_ssm.open_results reads it, `imc-ssm show` shows it"
    if start.startswith(b"\x93NUMPY"):
        return "this is one NumPy array (.npy): save a dataset with numpy.savez(path, values=..., labels=...)"
    if len(start) > 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 40:
        kind = re.search(rb'\\?"kind\\?":\\?"(model|deployment|checkpoint|evaluation)\\?"', start)
        if kind is not None:
            what = kind[1].decode()
            return f"this is a {what} file of imc-ssm" + _USE.get(what, "")
        return (
            "this is a safetensors file of another program: a model's weights are taken by "
            f"`imc-ssm import {name} --out M.safetensors`"
        )
    return ""


_CHECKPOINT = (
    "this is a PyTorch checkpoint, which is never unpickled here: "
    "`imc-ssm import {name} --out M.safetensors` takes its weights"
)
_USE = {
    "model": ": `imc-ssm inspect`, `imc-ssm quantize` and imc_ssm.load_model take it",
    "deployment": ": `imc-ssm cost` and imc_ssm.Deployment.load take it",
}


def _read_safetensors(path: Path, kind: str) -> tuple[dict[str, np.ndarray], str | None]:
    """All arrays, and the text under our metadata key if there is one."""
    from safetensors import safe_open

    try:
        with path.open("rb"):
            pass
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(_KEY)
            names = file.keys() if text is not None else []
            return {name: np.array(file.get_tensor(name)) for name in names}, text
    except OSError as error:
        raise FileError(
            f"cannot read {path}: {error.strerror or error}; give the path of an existing file"
        ) from None
    except Exception as error:  # a damaged file makes the parser raise anything
        known = recognised(path)
        if known and not known.startswith("this is a safetensors") and "of imc-ssm" not in known:
            raise FileError(f"{path} is no {kind} file: {known}") from None
        raise _damaged(path, f"not a whole safetensors file: {error}") from None


def _parse(path: str | Path, text: str) -> dict[str, Any]:
    """The JSON text of the metadata, if it is exactly as `save_tensors` writes it."""
    try:
        content = json.loads(text)
        whole = canonical_json(content) == text
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header cannot be read: {error}") from None
    types = {"header": dict, "kind": str, "sha256": str, "version": int}
    if not whole or not isinstance(content, dict) or set(content) != set(types):
        raise _damaged(path, "its header is not one that imc-ssm writes")
    if not all(type(content[key]) is expected for key, expected in types.items()):
        raise _damaged(path, "its header is not one that imc-ssm writes")
    return content


def _plain(name: str, array: np.ndarray) -> np.ndarray:
    """`array` contiguous and little-endian, of a type that safetensors stores."""
    if not isinstance(array, np.ndarray | np.generic) or array.dtype.name not in _DTYPES:
        given = f"type {array.dtype}" if hasattr(array, "dtype") else type(array).__name__
        raise ConfigError(
            f"tensor {name!r} has {given}; only NumPy arrays of real numbers are stored "
            "(a complex one as its real and imaginary parts)"
        )
    # asarray, because a zero-dimensional result of arithmetic is a scalar, which has no memory of its own
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _digest(arrays: Mapping[str, np.ndarray], content: Mapping[str, Any]) -> str:
    """SHA-256 over the JSON of `content` and over each array's name, type, shape and bytes, by name."""
    digest = hashlib.sha256(canonical_json(dict(content)).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(canonical_json([name, array.dtype.name, list(array.shape)]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _damaged(path: str | Path, why: str) -> FileError:
    """The error of a file that was truncated or changed."""
    return FileError(f"{path} is truncated or was changed ({why}); write or copy it again")


def _target(path: str | Path) -> Path:
    """The regular file, existing or not, that writing to `path` would replace; `OSError` if there is none."""
    try:
        target = Path(os.path.realpath(path))
        status = os.stat(target)
    except FileNotFoundError:
        return target
    except ValueError as error:  # a null byte
        raise OSError(errno.EINVAL, str(error)) from None
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not target.is_file():  # renaming over /dev/null would replace the device
        raise OSError(errno.EINVAL, f"it is not a regular file (mode {status.st_mode:o})")
    return target


def _create_temporary(folder: Path, suffix: str) -> Path:
    """An empty new file in `folder`, with the permissions any new file gets; hidden, and ignored by git."""
    path = folder / f"{_TEMPORARY}{secrets.token_hex(6)}{suffix}"
    _sweep(folder)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return path


def _sweep(folder: Path) -> None:
    """Remove what killed writes left in `folder`: temporary files of ours that nobody wrote to for an hour."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _LEFT.fullmatch(entry.name):
                with suppress(OSError):  # another process was faster, or it belongs to somebody else
                    if entry.is_file(follow_symlinks=False) and time.time() - entry.stat().st_mtime > _STALE_S:
                        os.unlink(entry)


def is_file(path: str | Path) -> bool:
    """Whether there is such a file; also False for a name that no file can have."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long a name
        return False


def _make_folders(folder: Path) -> list[Path]:
    """Create `folder` and its parents; the ones that were made, innermost first."""
    missing = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = folder.parent
    made: list[Path] = []
    try:
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
            made.insert(0, new)
    except OSError:
        _remove_folders(made)
        raise
    return made


def _remove_folders(folders: list[Path]) -> None:
    """Remove folders that are empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _flush(path: Path) -> None:
    """Force the contents to disk, so that the rename cannot come before them."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: str | Path, error: OSError) -> FileError:
    """The error of a path that could not be written: one line with why, and what to try."""
    hints = {
        errno.EACCES: "choose a folder that you may write to",
        errno.EPERM: "choose a folder that you may write to",
        errno.EROFS: "choose a folder on a disk that can be written",
        errno.ENOSPC: "free some space or choose another disk",
        errno.EDQUOT: "free some space or choose another disk",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.EISDIR: "give the name of a file in it",
        errno.ENOTDIR: "a part of the path is a file: choose another folder",
    }
    hint = hints.get(error.errno or 0, "choose another path")
    return FileError(f"cannot write {path}: {error.strerror or error}; {hint}")
