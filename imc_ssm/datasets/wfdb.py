"""Records of the WFDB format, as far as the MIT-BIH Arrhythmia Database needs it: format 212 and annotations.

Source: G. B. Moody, WFDB Applications Guide and Signal file formats (PhysioNet): header(5), signal(5), annot(5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imc_ssm.errors import DataError

__all__ = ["Leads", "read_annotations", "read_record"]

_SKIP, _NUM, _SUB, _CHN, _AUX = 59, 60, 61, 62, 63


@dataclass(frozen=True)
class Leads:
    """Signals in mV, (samples, signals) float32, with their names and rate (Hz)."""

    millivolts: np.ndarray
    names: tuple[str, ...]
    rate: float


def read_record(name: str, header: bytes, data: bytes) -> Leads:
    """The signals of a header and its `.dat` of two signals in format 212.

    Two samples of 12 bits, two's complement, in three bytes: the low eight bits of the first, four high bits of
    the second and of the first, the low eight of the second. mV = (sample - zero) / gain. `DataError` unless
    format, number of samples, first value and 16-bit checksum (the sum of all samples) of each signal are as in
    the header.
    """
    try:
        lines = [line.split() for line in header.decode("ascii").splitlines() if line.strip() and line[0] != "#"]
        signals, rate, samples = int(lines[0][1]), float(lines[0][2]), int(lines[0][3])
        formats = [int(line[1]) for line in lines[1:3]]
        gain = np.array([float(line[2]) for line in lines[1:3]])
        # of both signals: zero, first value, checksum
        zero, firsts, checksums = np.array([[int(word) for word in line[4:7]] for line in lines[1:3]]).T
        names = tuple(line[8] for line in lines[1:3])
        if signals != 2 or len(names) != 2 or not (0 < rate < 1e6 and 0 < samples < 1e9):
            raise ValueError
        if not ((gain >= 0.1) & (gain <= 1e6) & (abs(zero) <= 1 << 15)).all():  # codes have 12 bits
            raise ValueError
    except (ValueError, IndexError, OverflowError):
        raise DataError(f"{name}.hea is no header of two signals; replace it with a good copy") from None
    if set(formats) != {212}:
        raise DataError(f"{name}.hea: signals have formats {formats}; only 212 is read")
    if len(data) != 3 * samples:
        raise DataError(
            f"{name}.dat has {len(data)} bytes; {samples} samples, as its header says, are {3 * samples}"
        )
    low, high, second = np.frombuffer(data, np.uint8).reshape(-1, 3).T.astype(np.int32)
    codes = np.stack([low | (high & 0x0F) << 8, second | (high >> 4) << 8], 1)
    codes = (codes ^ 0x800) - 0x800
    totals = codes.sum(0, dtype=np.int64)
    for column in (0, 1):
        if codes[0, column] != firsts[column] or (totals[column] - checksums[column]) % 65536:
            raise DataError(
                f"{name}.dat: signal {column} begins with {codes[0, column]} and has checksum "
                f"{totals[column] % 65536}, the header says {firsts[column]} and {checksums[column] % 65536}; "
                "replace it with a good copy"
            )
    return Leads(((codes - zero) / gain).astype(np.float32), names, rate)


def read_annotations(name: str, data: bytes, samples: int) -> list[tuple[int, int]]:
    """(sample, code) of every annotation of an `.atr`: words of 6 bits code, 10 bits samples since the last.

    `DataError` for one that is cut off, goes back in time or beyond the record's `samples`.
    """
    words = np.frombuffer(data[: len(data) // 2 * 2], "<u2").tolist()
    found: list[tuple[int, int]] = []
    at = now = 0
    while at < len(words):
        code, value = words[at] >> 10, words[at] & 1023
        at += 1
        if code == 0 and value == 0:
            return found
        if code == _SKIP:
            if at + 1 >= len(words):
                break
            jump = words[at] << 16 | words[at + 1]
            now, at = now + (jump - (1 << 32) if jump >> 31 else jump), at + 2
        elif code == _AUX:
            at += (value + 1) // 2
        elif code not in (_NUM, _SUB, _CHN):
            now += value
            if not (found[-1][0] if found else 0) <= now < samples:
                raise DataError(f"{name}.atr has an annotation at sample {now} of {samples}; replace it")
            found.append((now, code))
    raise DataError(f"{name}.atr is cut off: it has no end; replace it with a good copy")
