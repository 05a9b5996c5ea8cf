"""Heart beats: format 212 and annotations, windows and streams, splits, and one line for what is wrong."""

import functools
import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from imc_ssm import datasets
from imc_ssm.datasets import mitdb, wfdb
from imc_ssm.errors import DataError

STEPS = 7400


def packed(codes: np.ndarray) -> bytes:
    """(n, 2) codes of 12 bits as format 212, sample by sample, as the specification says it."""
    out = bytearray()
    for one, two in codes.tolist():
        a, b = one & 0xFFF, two & 0xFFF
        out += bytes([a & 0xFF, (a >> 8) | (b >> 8) << 4, b & 0xFF])
    return bytes(out)


def marks(beats: list[tuple[int, int]]) -> bytes:
    """An `.atr` of (sample, code), with a rhythm note of three letters in front, and skips where they are far."""
    out, now = bytearray(), 0
    for word in (28 << 10 | 18, 63 << 10 | 3):
        out += word.to_bytes(2, "little")
    out += b"(N\0\0"
    now = 18
    for at, code in beats:
        if at - now > 1023:
            out += (59 << 10).to_bytes(2, "little") + ((at - now) >> 16).to_bytes(2, "little")
            out += ((at - now) & 0xFFFF).to_bytes(2, "little") + (code << 10).to_bytes(2, "little")
        else:
            out += (code << 10 | (at - now)).to_bytes(2, "little")
        now = at
    return bytes(out + b"\0\0")


def header(name: int, codes: np.ndarray, leads: tuple[str, str] = ("MLII", "V1"), rate: int = 360) -> bytes:
    lines = [f"{name} 2 {rate} {len(codes)}"]
    for column, lead in enumerate(leads):
        total = (int(codes[:, column].sum()) + 32768) % 65536 - 32768
        lines.append(f"{name}.dat 212 200 11 1024 {codes[0, column]} {total} 0 {lead}")
    return ("\r\n".join([*lines, "# a note"]) + "\r\n").encode()


CODES = {n: np.random.default_rng(n).integers(-2048, 2048, (STEPS, 2)) for n in mitdb.DS1 + mitdb.DS2}
BEATS = [(20, 1), (700, 8), (2000, 5), (2100, 14), (3590, 6), (7399, 13)]  # 14 is noise, no beat


@functools.cache
def every_record() -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for name, codes in CODES.items():
        leads = ("V5", "MLII") if name == 114 else ("MLII", "V1")
        files |= {
            f"{name}.hea": header(name, codes, leads),
            f"{name}.dat": packed(codes),
            f"{name}.atr": marks(BEATS),
        }
    return files


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """Every record, of 20 s: random signals and five beats; record 114 has its leads swapped; no download."""
    files = dict(every_record())
    content = b"".join(files[name] for name in sorted(files) if not name.endswith("hea"))
    monkeypatch.setattr(mitdb, "SAMPLES", hashlib.sha256(content).hexdigest())
    for module in ("imc_ssm.datasets.places", "imc_ssm.datasets.mitdb"):
        monkeypatch.setattr(f"{module}.cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(mitdb, "MIRRORS", ("http://127.0.0.1:9/",))
    monkeypatch.delenv("IMC_SSM_DATA", raising=False)
    return files


def write(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def archive(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "mitdb.tar.xz", "w:xz", preset=0) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"mitdb/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return folder


def test_format_212_and_annotations() -> None:
    codes = np.array([[-2048, 2047], [0, -1], [1, 1024], [995, 1011]])
    found = wfdb.read_record("100", header(100, codes), packed(codes))
    np.testing.assert_allclose(found.millivolts, (codes - 1024) / 200, rtol=1e-6)
    assert (found.names, found.rate) == (("MLII", "V1"), 360.0)
    assert wfdb.read_annotations("100", marks(BEATS), STEPS) == [(18, 28), *BEATS]


def test_beats_are_windows_around_the_peak(small: dict[str, bytes], tmp_path: Path) -> None:
    data = datasets.load("mitdb", archive(small, tmp_path))
    assert data.values.shape == (44 * 5, 216, 2)
    assert data.class_names == ("N", "S", "V", "F", "Q")
    assert {name: len(index) // 5 for name, index in data.splits.items()} == {
        "train": 17,
        "validation": 5,
        "test": 22,
    }
    assert data.split("test").labels.tolist() == [0, 1, 2, 3, 4] * 22
    beat = data.split("test").values[2]  # the third beat of record 100, at sample 2000
    wave = ((CODES[100] - 1024) / 200).reshape(-1, 2, 2).mean(1)[1000 - 144 : 1000 + 72]
    np.testing.assert_allclose(beat, wave - wave.mean(0), atol=1e-5)
    first = ((CODES[100] - 1024) / 200).reshape(-1, 2, 2).mean(1)
    edge = np.concatenate(
        [np.repeat(first[:1], 134, 0), first[:82]]
    )  # sample 20: its window begins 134 steps early
    np.testing.assert_allclose(data.split("test").values[0], edge - edge.mean(0), atol=1e-5)
    lead = datasets.load("mitdb-mlii", tmp_path)
    np.testing.assert_allclose(lead.values, data.values[:, :, :1], atol=1e-4)  # float32 sums in another order
    swapped = ((CODES[114][:, 1] - 1024) / 200).reshape(-1, 2).mean(1)[1000 - 144 : 1000 + 72]
    np.testing.assert_allclose(lead.split("validation").values[2, :, 0], swapped - swapped.mean(), atol=1e-5)


def test_the_rhythm_stands_beside_the_leads(small: dict[str, bytes], tmp_path: Path) -> None:
    write(small, tmp_path / "mitdb")
    plain, data = (datasets.load(name, tmp_path) for name in ("mitdb", "mitdb-rhythm"))
    assert data.values.shape == (44 * 5, 216, 5)
    np.testing.assert_allclose(
        data.values[..., :2] * (plain.values.std(1, keepdims=True) + 0.05), plain.values, atol=1e-4
    )
    np.testing.assert_array_equal(data.labels, plain.labels)
    assert (np.ptp(data.values[..., 2:], axis=1) == 0).all()
    # Beats at 20, 700, 2000, 3590, 7399; the first interval stands before the first beat; a mean of the earlier.
    usual = np.array([680, 680, (680 + 680) / 2, (680 + 680 + 1300) / 3, (680 + 680 + 1300 + 1590) / 4])
    before, after = [680, 680, 1300, 1590, 3809], [680, 1300, 1590, 3809, 3809]
    ratios = np.array([before, after, [680, 680, 680, 1300, 1590]]) / usual
    assert ratios.max() > 4  # a pause is four usual intervals at most
    wanted = 2 * np.log(np.minimum(ratios, 4)).T
    np.testing.assert_allclose(data.split("test").values[:5, 0, 2:], wanted, atol=1e-5)


def test_a_premature_beat_shows_in_the_intervals() -> None:
    peaks = np.cumsum([300] * 20 + [180, 420] + [300] * 20)
    found = mitdb.intervals(peaks)
    np.testing.assert_allclose(found[20], 2 * np.log([180 / 300, 420 / 300, 1]))
    np.testing.assert_allclose(found[:19], 0, atol=1e-12)
    usual = (14 * 300 + 180 + 420) / 16  # of the sixteen before beat 22
    np.testing.assert_allclose(found[22], 2 * np.log([300 / usual, 300 / usual, 420 / usual]))
    np.testing.assert_allclose(found[-1], 0, atol=1e-12)  # and forgotten after sixteen
    far = mitdb.intervals(np.array([0, 10, 1000, 1010]))
    assert np.abs(far).max() == pytest.approx(2 * np.log(4))


def test_the_stream_has_a_label_per_step(small: dict[str, bytes], tmp_path: Path) -> None:
    data = datasets.load("mitdb-stream", write(small, tmp_path / "mitdb").parent)
    assert data.values.shape == (44 * 3, 3600, 2)
    assert (data.per_step, data.outputs, data.sample_rate) == (True, 6, 360.0)
    part = data.split("test")
    assert part.lengths is not None
    assert part.lengths[:3].tolist() == [3600, 3600, 200]
    np.testing.assert_allclose(part.values[:2].reshape(-1, 2), (CODES[100][:7200] - 1024) / 200, rtol=1e-5)
    marked = np.zeros(STEPS, int)
    for at, label in ((20, 1), (700, 2), (2000, 3), (3590, 4), (7399, 5)):
        marked[at : at + 72] = label
    np.testing.assert_array_equal(part.labels[:3].reshape(-1)[:STEPS], marked)
    assert (part.labels[2, 200:] == -1).all()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("101.hea", None, "holds 131 of the 132 files of 44 records, 101.hea is missing"),
        ("100.hea", lambda b: b"", "100.hea is no header of two signals"),
        ("100.hea", lambda b: b.replace(b" 2 360", b" 3 360"), "100.hea is no header of two signals"),
        ("100.hea", lambda b: b.replace(b" 200 ", b" 0 "), "100.hea is no header of two signals"),
        ("100.hea", lambda b: b.replace(b" 200 ", b" inf "), "100.hea is no header of two signals"),
        ("100.hea", lambda b: b.replace(b" 1024 ", b" 1000000 "), "100.hea is no header of two signals"),
        ("100.hea", lambda b: b.replace(b" 212 ", b" 16 "), r"formats \[16, 16\]; only 212"),
        ("100.hea", lambda b: b.replace(b"MLII", b"V9"), "leads V9 and V1 at 360 Hz; needed are MLII"),
        ("100.dat", lambda b: b[:-3], "100.dat has 22197 bytes; 7400 samples, as its header says, are 22200"),
        ("100.dat", lambda b: b[:-1] + bytes([b[-1] ^ 1]), "100.dat: signal 1 begins with .* checksum"),
        ("100.dat", lambda b: bytes([b[0] ^ 1]) + b[1:], "100.dat: signal 0 begins with"),
        ("100.atr", lambda b: b[:-2], "100.atr is cut off"),
        ("100.atr", lambda b: b"", "100.atr is cut off"),
        ("100.atr", lambda b: marks([(STEPS, 1)]), "100.atr has an annotation at sample 7400 of 7400"),
        ("100.atr", lambda b: marks(BEATS[:3]), "do not match the known SHA-256"),
    ],
)
def test_wrong_files(small: dict[str, bytes], tmp_path: Path, name: str, change: object, said: str) -> None:
    if change is None:
        del small[name]
    else:
        small[name] = change(small[name])  # type: ignore[operator]
        if name.endswith("hea"):  # a header is checked by what it says
            content = b"".join(small[n] for n in sorted(small) if not n.endswith("hea"))
            assert hashlib.sha256(content).hexdigest() == mitdb.SAMPLES
    with pytest.raises(DataError, match=said) as caught:
        datasets.load("mitdb", write(small, tmp_path))
    assert "\n" not in str(caught.value)


def test_a_broken_or_absent_archive(small: dict[str, bytes], tmp_path: Path) -> None:
    whole = (archive(small, tmp_path) / "mitdb.tar.xz").read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:3000] + bytes(300) + whole[3300:]):
        (tmp_path / "mitdb.tar.xz").write_bytes(content)
        with pytest.raises(DataError) as caught:
            datasets.load("mitdb", tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / "mitdb.tar.xz").unlink()
    with pytest.raises(
        DataError, match=r"mitdb: no mitdb.tar.xz or .* could not be downloaded; .*put mitdb.tar.xz"
    ):
        datasets.load("mitdb", tmp_path)


def test_the_real_one() -> None:
    if not os.path.exists(os.path.join(os.environ.get("IMC_SSM_DATA", ""), "mitdb.tar.xz")):
        pytest.skip("mitdb.tar.xz is not here: set IMC_SSM_DATA to a folder that holds it")
    data, info = datasets.load("mitdb"), datasets.info("mitdb")
    assert data.values.shape == info["shape"]
    assert {name: len(index) for name, index in data.splits.items()} == info["splits"]
    counts = {name: np.bincount(data.split(name).labels, minlength=5) for name in data.splits}
    assert (counts["train"] + counts["validation"]).tolist() == [45866, 944, 3788, 415, 8]  # of de Chazal et al.
    assert counts["test"].tolist() == [44259, 1837, 3221, 388, 7]
    rise = np.abs(np.diff(data.values[:, :, 0].astype(np.float64), axis=1)).mean(0)
    assert abs(int(rise.argmax()) - mitdb.BEFORE) <= 6  # the steepest place of the mean beat is its R peak
