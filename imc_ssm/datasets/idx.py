"""The IDX format of MNIST: 0, 0, type, rank, big-endian uint32 sizes, then the data.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits" (the description of the
file formats). Only type 0x08, unsigned bytes, occurs there.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from imc_ssm.errors import DataError

__all__ = ["read_idx"]

_UBYTE = 0x08
_GZIP = b"\x1f\x8b"


def read_idx(path: str | Path, rank: int, sha256: str | None = None) -> np.ndarray:
    """The uint8 array of `rank` dimensions in an IDX file, plain or gzipped (told apart by the first bytes).

    `sha256`: digest (hex) of the uncompressed file, checked if given. Raises `DataError` naming the file if
    it cannot be read, is truncated or too long, has another magic number or another digest.
    """
    path = Path(path)
    payload = _payload(path)
    magic = bytes((0, 0, _UBYTE, rank))
    start = 4 + 4 * rank
    if len(payload) < start:
        raise _corrupt(path, f"{len(payload)} bytes are fewer than the header's {start}")
    if payload[:4] != magic:
        raise _corrupt(path, f"the magic number is 0x{payload[:4].hex()}, it must be 0x{magic.hex()}")
    shape = struct.unpack(f">{rank}I", payload[4:start])
    if len(payload) != start + math.prod(shape):
        raise _corrupt(
            path, f"its header says {shape}, that is {math.prod(shape)} bytes; {len(payload) - start} follow"
        )
    if sha256 is not None and hashlib.sha256(payload).hexdigest() != sha256:
        raise _corrupt(path, "its contents do not match the known SHA-256")
    try:
        return np.frombuffer(payload, np.uint8, offset=start).reshape(shape)
    except ValueError:  # with a zero among the sizes the others may be anything
        raise _corrupt(path, f"its header says {shape}, more than an array can have") from None


def _payload(path: Path) -> bytes:
    """The uncompressed bytes of a plain or gzipped file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}; give the folder of the IDX files"
        ) from None
    if not data.startswith(_GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise _corrupt(path, f"gzip: {error}") from None


def _corrupt(path: Path, why: str) -> DataError:
    """The error of a file that is not what it should be."""
    return DataError(f"{path} is corrupt: {why}; remove it or replace it with a good copy")
