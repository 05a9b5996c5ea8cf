"""Counter-based Gaussian noise in integers: every backend draws the same numbers, in any order.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11,
doi:10.1145/2063384.2063405) turns a counter and a key into four 32-bit words; an inverse normal distribution
function tabulated in integers turns a word into a Gaussian number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imc_ssm.errors import FormatError

__all__ = ["GAUSSIAN_MAX", "GAUSSIAN_ONE", "Noise", "gaussian", "gaussian_table", "philox"]

GAUSSIAN_BITS = 16
GAUSSIAN_ONE = 2**GAUSSIAN_BITS
"""One standard deviation, as an integer."""
TAIL_BITS = 25
"""The rarest number has probability 2^-25 on each side."""
OCTAVE_BITS = 6
"""Entries of the table per octave of the tail's probability: 2^6."""
ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85

Ints = NDArray[np.int64]


@cache
def gaussian_table() -> NDArray[np.int32]:
    """round(2^16 z) where P(Z > z) = v / 2^25, for v = 2^e (1 + j / 64), e = 0 ... 23, and z = 0 at the end."""
    per_octave = 2**OCTAVE_BITS
    v = [2.0**e * (1 + j / per_octave) for e in range(TAIL_BITS - 1) for j in range(per_octave)]
    z = [-NormalDist().inv_cdf(x / 2**TAIL_BITS) for x in v]
    table: NDArray[np.int32] = np.rint(GAUSSIAN_ONE * np.array([*z, 0.0])).astype(np.int32)
    table.flags.writeable = False
    return table


GAUSSIAN_MAX = int(gaussian_table()[0])
"""The largest |z| as an integer: 5.42 standard deviations."""


def philox(counter: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike], seed: int) -> list[NDArray[np.uint64]]:
    """Philox4x32-10: four words below 2^32 (as uint64) for each counter (four words below 2^32); 64-bit key."""
    mask = np.uint64(0xFFFFFFFF)
    x = [np.asarray(c, np.uint64) for c in counter]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(ROUNDS):
        products = [np.uint64(m) * word for m, word in zip(MULTIPLIERS, (x[0], x[2]), strict=True)]
        high, low = ([p >> np.uint64(32) for p in products], [p & mask for p in products])
        x = [high[1] ^ x[1] ^ np.uint64(key[0]), low[1], high[0] ^ x[3] ^ np.uint64(key[1]), low[0]]
        key = [(k + w) & 0xFFFFFFFF for k, w in zip(key, WEYL, strict=True)]
    return x


def gaussian(word: NDArray[np.uint64]) -> Ints:
    """A 32-bit word as a Gaussian integer, standard deviation 2^16.

    The upper 23 bits m give the tail's probability (2 m + 1) / 2^25, the lowest bit the sign. The table is
    found by the exponent and the leading bits of float(2 m + 1), which is exact, and interpolated linearly.
    """
    m = (np.asarray(word) >> np.uint64(9)).astype(np.int64)
    bits = (2 * m + 1).astype(np.float32).view(np.int32).astype(np.int64)
    rest = 23 - OCTAVE_BITS
    index = (bits >> rest) - (127 << OCTAVE_BITS)
    table = gaussian_table().astype(np.int64)
    low = table[index]
    z = low + (((table[index + 1] - low) * (bits & (2**rest - 1))) >> rest)
    return np.asarray(np.where(np.asarray(word) & np.uint64(1), -z, z), np.int64)


@dataclass(frozen=True)
class Noise:
    """Noise in the recurrence, for analog updates and for studies of robustness.

    Equal fields give equal noise on every backend, whatever the batch and wherever a sequence is cut: number
    (sample, head, state, time) of a seed is one number. `sample` and `time` are where this call starts in the
    data set and in the sequence. Layers of one model and successive epochs need seeds of their own.

    Raises `FormatError` for a negative or non-finite deviation, a number that is no integer, or a counter
    beyond 32 bits.
    """

    seed: int
    """Key of the generator, 0 to 2^64 - 1."""
    state: float = 0.0
    """Standard deviation of the read noise added to the real and the imaginary part of the state in every step
    before it is rounded; in the state's real units."""
    poles: float = 0.0
    """Standard deviation of the poles' error relative to |a|, on the real and the imaginary part: the same in
    every call with this seed."""
    sample: int = 0
    """Global number of the first sequence of the batch."""
    time: int = 0
    """Number of the first time step."""

    def __post_init__(self) -> None:
        for name, value, top in (("seed", self.seed, 64), ("sample", self.sample, 32), ("time", self.time, 32)):
            if not isinstance(value, (int, np.integer)) or not 0 <= value < 2**top:
                raise FormatError(f"noise {name} {value!r}; allowed is an integer, 0 to 2^{top} - 1")
        for name, sigma in (("state", self.state), ("poles", self.poles)):
            if not (np.isfinite(sigma) and sigma >= 0):
                raise FormatError(f"noise of the {name} {sigma!r}; allowed is a finite standard deviation >= 0")

    def later(self, steps: int) -> Noise:
        """The noise of what follows after `steps` time steps."""
        return replace(self, time=self.time + steps)

    def check(self, batch: int, steps: int) -> None:
        """`FormatError` where the last sample or step has no number below 2^32."""
        if self.sample + batch > 2**32 or self.time + steps > 2**32:
            raise FormatError(
                f"noise of {batch} samples from {self.sample} and {steps} steps from {self.time}: "
                "counters end at 2^32 - 1"
            )

    def of_state(self, batch: int, heads: int, states: int, step: int) -> Ints:
        """Gaussian integers (batch, head, state, 2) of time step `time + step`, standard deviation 2^16.

        Raises `FormatError` where the last sample or step has no number below 2^32.
        """
        self.check(batch, step + 1)
        sample, head, state = np.ogrid[self.sample : self.sample + batch, :heads, :states]
        words = philox((sample, head, state, self.time + step), self.seed)
        return np.stack([gaussian(words[0]), gaussian(words[1])], axis=-1)

    def of_poles(self, heads: int, states: int) -> NDArray[np.float64]:
        """Standard normal numbers (head, state, 2), from the words of step 0 that the state's noise leaves."""
        head, state = np.ogrid[:heads, :states]
        words = philox((0, head, state, 0), self.seed)
        return np.asarray(np.stack([gaussian(words[2]), gaussian(words[3])], axis=-1) / GAUSSIAN_ONE)
