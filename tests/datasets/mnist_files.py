"""Small IDX files, written from the description of the format, for the reader of MNIST."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from imc_ssm.datasets import smnist


def idx_bytes(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes, from the description of the format."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def set_digests(monkeypatch: pytest.MonkeyPatch, payloads: dict[str, bytes]) -> None:
    """Let `smnist` expect these files."""
    files = {
        name: smnist.IdxFile(
            3 if "images" in name else 1,
            hashlib.sha256(payload).hexdigest(),
            hashlib.sha256(gzip.compress(payload, mtime=0)).hexdigest(),
        )
        for name, payload in payloads.items()
    }
    monkeypatch.setattr(smnist, "FILES", files)


def write_all(folder: Path, payloads: dict[str, bytes], compress: bool = False) -> Path:
    """Put the files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, payload in payloads.items():
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(payload, mtime=0))
        else:
            (folder / name).write_bytes(payload)
    return folder
