"""A tiny MNIST, and the real one where it is."""

from pathlib import Path

import numpy as np
import pytest
from mnist_files import idx_bytes, set_digests

from imc_ssm.datasets import download, smnist


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """The four files (uncompressed bytes) of a tiny MNIST: 12 + 5 images of 4 x 3; no cache, no mirrors.

    The digests that `smnist` knows are replaced by those of these files, gzipped with `mtime=0`.
    """
    rng = np.random.default_rng(1)
    payloads = {}
    for part, n in (("train", 12), ("t10k", 5)):
        payloads[f"{part}-images-idx3-ubyte"] = idx_bytes(rng.integers(0, 256, (n, 4, 3), np.uint8))
        payloads[f"{part}-labels-idx1-ubyte"] = idx_bytes(rng.integers(0, 10, n, np.uint8))
    set_digests(monkeypatch, payloads)
    cache = tmp_path / "user-cache"
    monkeypatch.setattr(smnist, "cache_folder", lambda: cache)
    monkeypatch.setattr(smnist, "MIRRORS", ())
    monkeypatch.setattr(download, "_TIMEOUT", (2.0, 2.0))
    monkeypatch.delenv("IMC_SSM_DATA", raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    return payloads
