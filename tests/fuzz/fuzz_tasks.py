"""Files of the tasks that are read from a folder: records of hearts, of muscles, and series of archives."""

from __future__ import annotations

import io
import tarfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from fuzz_brought import LOADERS
from fuzz_loaders import add, sane_dataset, whole
from fuzz_mutations import NASTY, broken_arrays, broken_bytes, broken_text

import imc_ssm
from imc_ssm.datasets.emg import load_emg
from imc_ssm.datasets.mitdb import _read, _records

__all__ = ["LOADERS"]


@cache
def record() -> dict[str, bytes]:
    """Record 100 of 40 samples: two signals of 12 bits in three bytes, five annotations, a note and a skip."""
    codes = np.random.default_rng(0).integers(-2048, 2048, (40, 2))
    one, two = codes[:, 0] & 0xFFF, codes[:, 1] & 0xFFF
    data = np.stack([one & 0xFF, (one >> 8) | (two >> 8) << 4, two & 0xFF], 1).astype(np.uint8)
    lines = ["100 2 360 40"]
    for column, lead in enumerate(("MLII", "V5")):
        total = (int(codes[:, column].sum()) + 32768) % 65536 - 32768
        lines.append(f"100.dat 212 200 11 1024 {codes[0, column]} {total} 0 {lead}")
    words = [28 << 10 | 2, 63 << 10 | 3]  # a rhythm and the length of its note
    tail = [1 << 10 | 3, 5 << 10 | 9, 59 << 10, 0, 11, 8 << 10, 1 << 10 | 4, 0]
    notes = np.array(words, "<u2").tobytes() + b"(N\0\0" + np.array(tail, "<u2").tobytes()
    return {"100.hea": "\r\n".join([*lines, "# a note"]).encode(), "100.dat": data.tobytes(), "100.atr": notes}


def broken_record(folder: Path, rng: Random) -> Path:
    files, how = dict(record()), rng.random()
    if how < 0.4:  # a word of the header, which is text
        header = files["100.hea"].decode().split(" ")
        at = rng.randrange(len(header))
        header[at] = str(rng.choice((*NASTY, -1, 16, 40.5, "1e5", "200(0)/mV", "212x2", 1024)))[:300]
        files["100.hea"] = " ".join(header).encode("utf-8", "surrogatepass")
    elif how < 0.5:
        files["100.hea"] = broken_text(files["100.hea"].decode(), rng).encode("utf-8", "surrogatepass")
    else:
        name = rng.choice(sorted(files))
        files[name] = broken_bytes(files[name], rng)
    if rng.random() < 0.7:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return folder
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=rng.choice(("w:xz", "w:gz", "w"))) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"mitdb/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    path = folder / "mitdb.tar.xz"
    path.write_bytes(broken_bytes(buffer.getvalue(), rng))
    return path


def read_records(path: Path) -> Any:
    found = _read(path, set(record()))
    return list(_records(found, (100,))) if len(found) == len(record()) else None


def sane_records(read: Any) -> bool:
    return read is None or all(
        whole(leads.millivolts)
        and leads.millivolts.shape == (len(leads.millivolts), 2)
        and abs(leads.millivolts).max() < 1e6
        and all(0 <= at < len(leads.millivolts) for at, _ in beats)
        for leads, beats in read
    )


add("heart records", broken_record, read_records, sane_records)


@cache
def gestures() -> dict[str, np.ndarray]:
    """One person: three sessions of eight recordings of 20 samples."""
    rng = np.random.default_rng(0)
    y = np.concatenate([np.where(np.arange(20) < 10, 0, i % 8) for i in range(24)]).astype(np.int8)
    return {"x": rng.integers(-128, 128, (480, 8), np.int8), "y": y, "start": np.arange(0, 481, 20)}


def broken_gestures(folder: Path, rng: Random) -> Path:
    buffer = io.BytesIO()
    intact = rng.random() < 0.2
    np.savez(buffer, **(gestures() if intact else broken_arrays(gestures(), rng)))
    data = buffer.getvalue()
    (folder / "emg_curated.npz").write_bytes(broken_bytes(data, rng) if intact or rng.random() < 0.2 else data)
    return folder


add("gestures", broken_gestures, load_emg, lambda data: sane_dataset(data) and int(data.labels.max()) < 8)


def series(rng: Random) -> str:
    label, ends = rng.choice((("classLabel true a b", "ab"), ("targetLabel true", "12")))
    rows = [f"{i},2,3.5:-1,0,1e-2:{ends[i % 2]}" for i in range(9)]
    return "\n".join(["# a note", "@problemName toy", "@timeStamps false", f"@{label}", "@data", *rows])


def broken_series(folder: Path, rng: Random) -> Path:
    text, how = series(rng), rng.random()
    path = folder / rng.choice(("toy.ts", "Toy_TRAIN.ts"))
    if how < 0.2:
        data = broken_bytes(text.encode(), rng)
    elif how < 0.4:
        data = broken_text(text, rng).encode("utf-8", "surrogatepass")
    else:
        lines = text.splitlines()
        for _ in range(rng.choice((1, 1, 2, 9))):
            at = rng.randrange(3 if rng.random() < 0.3 else 5, len(lines))
            old = rng.choice(("1", "2", "3.5", "-1", ",", ":", "a", "true", "false", "@"))
            new = (*NASTY, "?", "NaN", "1e39", "1e400", "(0,1)", ",", ":", "1_000", "0x1", "٣", "9" * 400)
            lines[at] = lines[at].replace(old, str(rng.choice(new)), rng.choice((1, -1)))
        data = "\n".join(lines).encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    if path.stem != "toy":
        (folder / "Toy_TEST.ts").write_text(series(rng), encoding="utf-8")
    return path


def sane_series(data: Any) -> bool:
    wanted = data.labels if data.targets is None else data.targets
    return sane_dataset(data) and whole(wanted) and set(data.splits) == {"train", "validation", "test"}


add("series", broken_series, imc_ssm.load_dataset, sane_series)
