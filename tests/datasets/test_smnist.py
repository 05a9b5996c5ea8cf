"""Where the files of MNIST are found, how they are fetched, and what is said when they are wrong."""

import gzip
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from mnist_files import idx_bytes, set_digests, write_all

from imc_ssm import datasets
from imc_ssm.datasets import smnist
from imc_ssm.errors import DataError

Payloads = dict[str, bytes]
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("sub", ["", "mnist"])
def test_reads_a_folder_or_its_sub_folder(tiny: Payloads, tmp_path: Path, compress: bool, sub: str) -> None:
    write_all(tmp_path / "data" / sub, tiny, compress)
    data = datasets.load("smnist", tmp_path / "data")
    assert data.values.shape == (17, 12, 1)
    assert {name: index.tolist() for name, index in data.splits.items()} == {
        "train": list(range(10)),
        "validation": [10, 11],
        "test": [12, 13, 14, 15, 16],
    }
    pixels = np.frombuffer(tiny[IMAGES][16:], np.uint8).reshape(12, 12)
    expected = ((pixels / 255 - 0.1307) / 0.3081).astype(np.float32)
    np.testing.assert_array_equal(data.values[:12, :, 0], expected)
    pixels = np.frombuffer(tiny["t10k-images-idx3-ubyte"][16:], np.uint8).reshape(5, 12)
    expected = ((pixels / 255 - 0.1307) / 0.3081).astype(np.float32)
    np.testing.assert_array_equal(data.split("test").values[:, :, 0], expected)
    np.testing.assert_array_equal(data.labels[:12], np.frombuffer(tiny[LABELS][8:], np.uint8))
    np.testing.assert_array_equal(data.labels[12:], list(tiny["t10k-labels-idx1-ubyte"][8:]))


def test_folders_are_searched_in_order(tiny: Payloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    write_all(tmp_path / "user-cache" / "mnist", tiny)
    assert len(smnist.load_smnist()) == 17
    assert len(smnist.load_smnist(tmp_path / "empty")) == 17
    broken = {**tiny, LABELS: b"broken"}
    env = write_all(tmp_path / "env", broken)
    monkeypatch.setenv("IMC_SSM_DATA", str(env))
    with pytest.raises(DataError, match=r"env/train-labels-idx1-ubyte is corrupt"):
        smnist.load_smnist(tmp_path / "empty")
    assert len(smnist.load_smnist(write_all(tmp_path / "given", tiny, compress=True))) == 17


def test_a_folder_that_is_not_there(tiny: Payloads, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*nowhere; give a --data-dir that holds t10k-images"):
        smnist.load_smnist(tmp_path / "nowhere")


def test_a_folder_with_some_of_the_files_names_the_others(tiny: Payloads, tmp_path: Path) -> None:
    folder = write_all(tmp_path / "mnist", tiny)
    (folder / LABELS).unlink()
    with pytest.raises(DataError, match=r"mnist holds .* but not train-labels-idx1-ubyte; add what is missing"):
        smnist.load_smnist(tmp_path)


def test_any_flipped_bit_is_noticed(tiny: Payloads, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = write_all(tmp_path / "data", tiny)
    for name, payload in tiny.items():
        for position in {0, 3, 4, 7, len(payload) - 1, *rng.integers(0, len(payload), 20).tolist()}:
            changed = bytearray(payload)
            changed[position] ^= 1 << int(rng.integers(8))
            (folder / name).write_bytes(changed)
            with pytest.raises(DataError, match=f"{name} is corrupt"):
                smnist.load_smnist(folder)
        (folder / name).write_bytes(payload)
    assert len(smnist.load_smnist(folder)) == 17


def test_labels_that_are_no_digits_or_too_few(
    tiny: Payloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With digests that agree, so that only the structure is left to tell."""
    for labels, message in (
        (np.array([0, 1, 10] + [0] * 9, np.uint8), "label 10 at index 2; digits are 0 to 9"),
        (np.zeros(11, np.uint8), "it has 11 labels for the 12 images"),
    ):
        changed = {**tiny, LABELS: idx_bytes(labels)}
        set_digests(monkeypatch, changed)
        with pytest.raises(DataError, match=f"{LABELS} is corrupt: {message}"):
            smnist.load_smnist(write_all(tmp_path / "data", changed))


class Quiet(SimpleHTTPRequestHandler):
    """Files of a folder, without a word on standard error."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL where it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


DEAD = "http://127.0.0.1:9/mnist/"


def test_downloads_once_from_the_second_mirror(
    tiny: Payloads, tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = mirror
    write_all(folder, tiny, compress=True)
    monkeypatch.setattr(smnist, "MIRRORS", (DEAD, url))
    assert len(smnist.load_smnist()) == 17
    cached = sorted(path.name for path in (tmp_path / "user-cache" / "mnist").iterdir())
    assert cached == sorted(f"{name}.gz" for name in tiny)
    monkeypatch.setattr(smnist, "MIRRORS", ())
    assert len(smnist.load_smnist()) == 17


def test_a_mirror_with_wrong_files_is_passed_over(
    tiny: Payloads, tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = mirror
    write_all(folder / "good", tiny, compress=True)
    write_all(folder / "bad", {name: payload[:-1] for name, payload in tiny.items()}, compress=True)
    monkeypatch.setattr(smnist, "MIRRORS", (f"{url}bad/", f"{url}good/"))
    assert len(smnist.load_smnist()) == 17


def test_no_mirror_says_where_it_looked_and_what_to_do(
    tiny: Payloads, tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = mirror
    write_all(folder / "bad", dict.fromkeys(tiny, b"wrong"), compress=True)
    (tmp_path / "given").mkdir()
    monkeypatch.setenv("IMC_SSM_DATA", str(tmp_path / "env"))
    monkeypatch.setattr(smnist, "MIRRORS", (DEAD, f"{url}none/", f"{url}bad/"))
    with pytest.raises(DataError) as caught:
        smnist.load_smnist(tmp_path / "given")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        f"{tmp_path / 'given'} (--data-dir)",
        f"{tmp_path / 'env'} (IMC_SSM_DATA)",
        f"{tmp_path / 'user-cache'} (cache)",
        f"{DEAD} (ConnectionError)",
        f"{url}none/ (HTTP 404)",
        f"{url}bad/ (wrong checksum)",
        "give it as --data-dir or IMC_SSM_DATA",
    ):
        assert part in message
    assert list((tmp_path / "user-cache" / "mnist").iterdir()) == []


def test_an_incomplete_cache_is_completed(
    tiny: Payloads, tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = mirror
    write_all(folder, tiny, compress=True)
    cache = write_all(tmp_path / "user-cache" / "mnist", dict(list(tiny.items())[:2]), compress=True)
    (cache / f"{LABELS}.gz").write_bytes(b"half")
    monkeypatch.setattr(smnist, "MIRRORS", (url,))
    assert len(smnist.load_smnist()) == 17


def test_a_cache_that_cannot_be_made(tiny: Payloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(smnist, "cache_folder", lambda: tmp_path / "file" / "cache")
    with pytest.raises(DataError, match="cannot create the cache"):
        smnist.load_smnist()


def test_the_real_mirrors_are_two_hosts_over_https() -> None:
    hosts = {url.split("/")[2] for url in smnist.MIRRORS}
    assert len(hosts) >= 2
    assert all(url.startswith("https://") and url.endswith("/") for url in smnist.MIRRORS)


def test_real_mnist(mnist_folder: Path) -> None:
    data = datasets.load("smnist", mnist_folder)
    info = datasets.info("smnist")
    assert data.values.shape == info["shape"] == (70000, 784, 1)
    assert data.n_classes == info["classes"] == 10
    assert {name: len(index) for name, index in data.splits.items()} == info["splits"]
    assert info["splits"] == {"train": 50000, "validation": 10000, "test": 10000}
    # the constants are the rounded mean and deviation of the 60,000 training images
    assert abs(float(data.values[:60000].mean(dtype=np.float64))) < 2e-4
    assert abs(float(data.values[:60000].std(dtype=np.float64)) - 1) < 2e-4
    assert data.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.split("test").labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.shares_memory(data.split("train").values, data.values)


def test_a_flipped_bit_in_a_real_payload_is_noticed(mnist_folder: Path, tmp_path: Path) -> None:
    """One pixel of one test image: the structure is right, the digest is not."""
    for name in smnist.FILES:
        source = next(mnist_folder.rglob(f"{name}*"))
        data = source.read_bytes()
        payload = bytearray(gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data)
        if name == "t10k-images-idx3-ubyte":
            payload[5_000_000] ^= 1
            (tmp_path / name).write_bytes(payload)
        else:
            (tmp_path / source.name).symlink_to(source)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte is corrupt: its contents do not match the known"):
        smnist.load_smnist(tmp_path)
