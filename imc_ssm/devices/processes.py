"""Noise as a function of time: 1/f noise and random telegraph noise of many devices, at any time in any order.

Both are functions of (key, device, time) and nothing else: every random number is a hash of its place, so that a
reading at one time is the same whatever other times were read before, and costs no memory. What slow noise has in
common between two times is then what its spectrum says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import prange

from imc_ssm.devices.spectra import OCTAVES
from imc_ssm.errors import DesignError
from imc_ssm.kernels.compiling import compiled, kernel

__all__ = [
    "OCTAVES",
    "flicker",
    "flicker_lines",
    "octaves",
    "switching_rates",
    "telegraph",
    "telegraph_state",
]

Array = npt.NDArray[np.float32]
u64 = np.uint64
GOLDEN, M1, M2 = u64(0x9E3779B97F4A7C15), u64(0xBF58476D1CE4E5B9), u64(0x94D049BB133111EB)
UNIT = 2.0**-53
HALF = 2.0**-32
SPLIT = 134217729.0
"""2^27 + 1: cuts a double into two halves whose products are exact (Dekker 1971)."""
CELL, LEVELS = 16.0, 24
"""Telegraph noise: mean dwell times between two states that are drawn independently (their correlation would be
exp(-32)), and the halvings from there down to a time, 1e-6 dwell times, in which it switches at most once."""


@compiled
def word(key: Any, number: Any) -> Any:
    """Number `number` of the SplitMix64 sequence of `key` (Steele et al. 2014, doi:10.1145/2660193.2660195)."""
    z = key + GOLDEN * (number + u64(1))
    z = (z ^ (z >> u64(30))) * M1
    z = (z ^ (z >> u64(27))) * M2
    return z ^ (z >> u64(31))


@compiled
def uniform(word: Any) -> float:
    """In (0, 1)."""
    return (np.float64(word >> u64(11)) + 0.5) * UNIT


@compiled
def _product(a: float, b: float) -> tuple[float, float]:
    """floor(a b) and the rest in [0, 1], exact to 1e-16 where a b would lose it: 1 MHz for ten years."""
    p = a * b
    x, y = SPLIT * a, SPLIT * b
    a1, b1 = x - (x - a), y - (y - b)
    a2, b2 = a - a1, b - b1
    error = ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2
    whole = math.floor(p)
    rest = (p - whole) + error
    if rest < 0.0:
        return whole - 1.0, rest + 1.0
    return whole, rest


@compiled
def flicker_lines(key: Any, device: int, line: int, high: float, time: float) -> tuple[float, float, float]:
    """Amplitude, phase at `time` (turns) and frequency (Hz) of one line of a device.

    The frequency is log-uniform in the octave that ends at high / 2^line. The amplitude is Rayleigh's, so that
    amplitude cos(2 pi phase) is exactly N(0, 1).
    """
    place = u64(device) * u64(2 * OCTAVES) + u64(2 * line)
    one, two = word(key, place), word(key, place + u64(1))
    frequency = high * math.exp2(-line - uniform(two))
    _, turns = _product(frequency, time)
    turns += np.float64(one & u64(0xFFFFFFFF)) * HALF
    return math.sqrt(-2.0 * math.log((np.float64(one >> u64(32)) + 0.5) * HALF)), turns, frequency


@kernel
def _flicker(out: Any, key: Any, high: float, time: float, weights: Any) -> None:
    """Add the weighted lines of every device to `out` (devices,)."""
    for i in prange(out.size):
        total = 0.0
        for line in range(weights.size):
            if weights[line] > 0.0:
                amplitude, turns, _ = flicker_lines(key, i, line, high, time)
                total += weights[line] * amplitude * math.cos(2.0 * math.pi * turns)
        out[i] = total


@compiled
def telegraph_state(key: Any, device: int, rate: float, time: float, same: Any) -> int:
    """+1 or -1: where the device is at `time`. Markov bridges between states drawn every `CELL` dwell times."""
    cell, rest = _product(rate / CELL, time)
    own = word(key, u64(device))
    place = u64(np.int64(cell))
    first, last = word(own, place) & u64(1), word(own, place + u64(1)) & u64(1)
    own, node = word(~own, place), u64(1)
    for level in range(LEVELS):
        # The state halfway, given both ends: theirs, or the other one, where they agree; either where they do not.
        draw = uniform(word(own, node))
        if first == last:
            middle = first if draw < same[level] else first ^ u64(1)
        else:
            middle = first if draw < 0.5 else last
        rest *= 2.0
        node *= u64(2)
        if rest < 1.0:
            last = middle
        else:
            first, rest, node = middle, rest - 1.0, node + u64(1)
    if first != last and rest > uniform(word(own, node)):
        first = last
    return 1 if first else -1


@kernel
def _telegraphs(out: Any, key: Any, rate: Any, time: float, same: Any) -> None:
    for i in prange(out.size):
        out[i] = telegraph_state(key, i, rate[i], time, same) if rate[i] > 0.0 else 0


def _agreements() -> npt.NDArray[np.float64]:
    """Per level: the probability that the state halfway is that of both ends, which agree."""
    half = CELL / 2.0 ** np.arange(1, LEVELS + 1)
    stay, leave = (1 + np.exp(-2 * half)) / 2, -np.expm1(-2 * half) / 2
    return np.asarray(stay**2 / (stay**2 + leave**2))


SAME = _agreements()


def octaves(low: float, high: float, band: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Weights of the lines of 1/f noise that ends at `high`: their share of what lies in [low, high] and `band`.

    weight_k^2 = ln of what the octave k, from high / 2^(k+1) to high / 2^k, has in common with both. A line whose
    octave lies in them in part has a part of its power; its frequency stays the same. Hz.
    """
    top, bottom = min(high, band[1]), max(low, band[0])
    if not top > bottom:
        return np.zeros(0)
    first, last = math.log2(high / top), math.log2(high / bottom)  # octaves below `high`
    if last > OCTAVES:
        raise DesignError(f"1/f noise from {bottom:g} to {high:g} Hz; allowed are {OCTAVES} octaves")
    edges = np.arange(math.ceil(last))
    part = np.minimum(edges + 1, last) - np.maximum(edges, first)
    return np.asarray(np.sqrt(math.log(2) * np.maximum(part, 0.0)))


def flicker(
    keys: Sequence[int],
    shape: tuple[int, ...],
    time: float,
    low: float,
    high: float,
    band: tuple[float, float] = (0.0, math.inf),
) -> Array:
    """(chips, *shape): 1/f noise at `time` s, of the one-sided spectrum S(f) = 1 / f from `low` to `high` Hz.

        n(t) = sum_k w_k A_k cos(2 pi (f_k t + phi_k))

    with one line an octave: f_k log-uniform in it, A_k of Rayleigh's distribution, phi_k uniform, drawn for each
    device for life. n(t) is normal, with the variance ln(high / low) of that spectrum, at every time; over devices
    it has the covariance of the spectrum, Ci(2 pi high tau) - Ci(2 pi low tau). `band`: the part of it
    within these frequencies.

    `low` may depend on the time: where 1/f noise grows with the time of observation, as ln(t), it is 1 / t, and
    lines appear as they become visible. `keys`: one a chip.
    """
    weights = octaves(low, high, band)
    out = np.zeros((len(keys), math.prod(shape)), np.float32)
    if weights.size:
        for row, key in zip(out, keys, strict=True):
            _flicker(row, u64(key), high, time, weights)
    return out.reshape(len(keys), *shape)


def switching_rates(
    keys: Sequence[int], shape: tuple[int, ...], slowest: float, fastest: float, share: float
) -> Array:
    """(chips, *shape): switching rates of telegraph noise, 1/s, log-uniform; 0 for devices that have none.

    `share` of the devices are affected, drawn by one number each: a higher share adds devices to those of a lower.
    """
    out = np.empty((len(keys), math.prod(shape)), np.float32)
    index = np.arange(out.shape[1], dtype=u64)
    for row, key in zip(out, keys, strict=True):
        with np.errstate(over="ignore"):
            affected, place = (_uniforms(u64(key), u64(2) * index + u64(i)) for i in range(2))
        row[:] = np.where(affected < share, slowest * (fastest / slowest) ** place, 0.0)
    return out.reshape(len(keys), *shape)


def _uniforms(key: Any, numbers: Any) -> npt.NDArray[np.float64]:
    """`uniform` of `word`, of many."""
    z = key + GOLDEN * (numbers + u64(1))
    z = (z ^ (z >> u64(30))) * M1
    z = (z ^ (z >> u64(27))) * M2
    return np.asarray(((z ^ (z >> u64(31))) >> u64(11)).astype(np.float64) + 0.5) * UNIT


def telegraph(keys: Sequence[int], rate: Array, time: float) -> Array:
    """(chips, ...): +1 or -1, the state at `time` s of devices that switch `rate` (chips, ...) times a second.

    0 where the rate is 0. A two-state Markov process, both states equally long: dwell times are exponential with
    mean 1 / rate, the correlation is exp(-2 rate |tau|), the spectrum Lorentzian, one-sided
    S(f) = 8 rate / (4 rate^2 + (2 pi f)^2). States are drawn at multiples of 16 / rate and, given these, at points
    halfway (where by the Markov property the state depends on both ends alone), 24 times, down to the time.
    """
    flat = np.ascontiguousarray(rate.reshape(len(keys), -1))
    out = np.empty_like(flat)
    for row, key, own in zip(out, keys, flat, strict=True):
        _telegraphs(row, u64(key), own, time, SAME)
    return out.reshape(rate.shape)
