"""The IDX reader: every way a file can be wrong is one error that names it."""

import gzip
import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mnist_files import idx_bytes

from imc_ssm.datasets.idx import read_idx
from imc_ssm.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5)),
    compress=st.booleans(),
)
def test_round_trip(tmp_path: Path, array: np.ndarray, compress: bool) -> None:
    payload = idx_bytes(array)
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(payload) if compress else payload)
    again = read_idx(path, array.ndim, hashlib.sha256(payload).hexdigest())
    np.testing.assert_array_equal(again, array)
    assert again.shape == array.shape


@pytest.mark.parametrize("compress", [False, True])
def test_every_truncation_is_noticed_without_a_digest(tmp_path: Path, compress: bool) -> None:
    data = gzip.compress(idx_bytes(IMAGES), mtime=0) if compress else idx_bytes(IMAGES)
    path = tmp_path / "images"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match="images is corrupt"):
            read_idx(path, 3)
    path.write_bytes(data + b"\1")
    with pytest.raises(DataError, match="images is corrupt"):
        read_idx(path, 3)


@pytest.mark.parametrize("compress", [False, True])
def test_every_flipped_bit_is_noticed_or_does_not_matter(tmp_path: Path, compress: bool) -> None:
    payload = idx_bytes(IMAGES)
    digest = hashlib.sha256(payload).hexdigest()
    data = gzip.compress(payload, mtime=0) if compress else payload
    path = tmp_path / "images"
    harmless = set()
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            try:
                again = read_idx(path, 3, digest)
            except DataError as error:
                assert "images is corrupt" in str(error)  # noqa: PT017
            else:
                harmless.add(position)
                np.testing.assert_array_equal(again, IMAGES)
    # in gzip: flags, time, compressor and system (bytes 3 to 9), and the unused bits of the last byte before
    # the checksum and the length
    assert harmless <= ({*range(3, 10), len(data) - 9} if compress else set())


def test_random_bytes_never_pass(tmp_path: Path) -> None:
    draw, path = random.Random(0), tmp_path / "images"
    for length in (0, 1, 3, 4, 15, 16, 100):
        for start in (b"", b"\x1f\x8b", b"\x1f\x8b\x08\0"):
            path.write_bytes(start + draw.randbytes(length))
            with pytest.raises(DataError, match="images is corrupt"):
                read_idx(path, 3)


@pytest.mark.parametrize(
    ("data", "rank", "message"),
    [
        (idx_bytes(IMAGES), 1, r"magic number is 0x00000803, it must be 0x00000801"),
        (b"\0\0\x0d\x03" + idx_bytes(IMAGES)[4:], 3, "magic number is 0x00000d03"),
        (idx_bytes(IMAGES)[:-1], 3, r"its header says \(5, 4, 3\), that is 60 bytes; 59 follow"),
        (b"\0\0\x08\x03" + b"\xff" * 12, 3, "0 follow"),
        (b"\0\0", 3, "2 bytes are fewer than the header's 16"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, data: bytes, rank: int, message: str) -> None:
    (tmp_path / "images").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "images", rank)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none: No such file"):
        read_idx(tmp_path / "none", 3)
    with pytest.raises(DataError, match="Is a directory"):
        read_idx(tmp_path, 3)
