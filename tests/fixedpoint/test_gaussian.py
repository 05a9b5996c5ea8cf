"""The noise: Philox by its known answers, the Gaussian numbers by exact counts and by samples, their independence.

Every limit on a sample is one that a right generator exceeds with a stated, small probability; seeds are fixed.
"""

import hashlib
import math
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Noise
from imc_ssm.fixedpoint.normal import (
    GAUSSIAN_MAX,
    GAUSSIAN_ONE,
    TAIL_BITS,
    gaussian,
    gaussian_table,
    philox,
)

MAGNITUDES = 2**23
WORD = st.integers(0, 2**32 - 1)


def philox_in_python(counter: tuple[int, ...], seed: int) -> list[int]:
    """Philox4x32-10 in Python's integers, from the paper's description."""
    x, k = list(counter), [seed % 2**32, seed // 2**32]
    for _ in range(10):
        first, second = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [second // 2**32 ^ x[1] ^ k[0], second % 2**32, first // 2**32 ^ x[3] ^ k[1], first % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return x


def gaussian_in_python(word: int) -> int:
    """A word as a Gaussian integer, by the steps of docs/fixed_point.md, without floating point."""
    table = gaussian_table().tolist()
    v = 2 * (word >> 9) + 1
    e = v.bit_length() - 1
    r = (v << (23 - e)) % 2**23
    i, f = 64 * e + (r >> 17), r % 2**17
    z = table[i] + math.floor(Fraction((table[i + 1] - table[i]) * f, 2**17))
    return -z if word & 1 else z


class TestPhilox:
    @pytest.mark.parametrize(("counter", "key", "words"), [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ])  # fmt: skip
    def test_known_answers_of_random123(self, counter: str, key: str, words: str) -> None:
        low, high = (int(k, 16) for k in key.split())
        found = philox(tuple(int(c, 16) for c in counter.split()), low | high << 32)  # type: ignore[arg-type]
        assert [f"{int(x):08x}" for x in found] == words.split()

    @settings(max_examples=100, deadline=None)
    @given(st.tuples(WORD, WORD, WORD, WORD), st.integers(0, 2**64 - 1))
    def test_equals_pythons_integers(self, counter: tuple[int, int, int, int], seed: int) -> None:
        assert [int(x) for x in philox(counter, seed)] == philox_in_python(counter, seed)

    def test_counters_broadcast(self) -> None:
        whole = philox((np.arange(3)[:, None], np.arange(4), 5, 6), 7)
        for (i, j), word in np.ndenumerate(whole[2]):
            assert int(word) == philox_in_python((i, j, 5, 6), 7)[2]


class TestTable:
    def test_is_the_inverse_of_the_normal_distribution(self) -> None:
        table = gaussian_table()
        assert (table.dtype, table.size) == (np.int32, 24 * 64 + 1)
        e, j = np.divmod(np.arange(24 * 64), 64)
        z = -special.ndtri(np.exp2(e - TAIL_BITS) * (1 + j / 64))
        assert np.abs(table[:-1] - GAUSSIAN_ONE * z).max() <= 0.5 + 1e-6
        assert (table[-1], table[0]) == (0, GAUSSIAN_MAX)
        assert np.all(np.diff(table) < 0)
        # A difference times 17 bits of a fraction stays within 32 bits.
        assert np.abs(np.diff(table)).max() * (2**17 - 1) < 2**31

    def test_golden_digest(self) -> None:
        # A backend, a compiler or a mathematical library must not change one entry.
        digest = hashlib.sha256(gaussian_table().astype("<i4").tobytes()).hexdigest()
        assert digest == "8d65389e1da12380a518562d780b99de1289ce96187522d12deb703fc81eba6b"

    def test_cannot_be_written(self) -> None:
        with pytest.raises(ValueError, match="read-only"):
            gaussian_table()[0] = 1


@pytest.fixture(scope="module")
def magnitudes() -> np.ndarray:
    """|Z| of all 2^23 values of the upper 23 bits, by rising tail probability."""
    found = np.empty(MAGNITUDES, np.int32)
    for start in range(0, MAGNITUDES, 2**20):
        found[start : start + 2**20] = gaussian(np.arange(start, start + 2**20, dtype=np.uint64) << np.uint64(9))
    return found


def normal_tail(z: float) -> float:
    return float(special.ndtr(-z))


class TestExactly:
    """Over all 2^24 numbers that a word can become: no sampling error."""

    @settings(max_examples=200, deadline=None)
    @given(WORD)
    def test_equals_pythons_integers(self, word: int) -> None:
        assert int(gaussian(np.array([word], np.uint64))[0]) == gaussian_in_python(word)

    @pytest.mark.parametrize("m", [0, 1, 2, 31, 32, 33, 63, 64, 2**22 - 1, 2**22, 2**23 - 2, 2**23 - 1])
    def test_at_the_ends_of_octaves(self, m: int) -> None:
        for rest in (0, 1, 0x1FE, 0x1FF):
            word = m << 9 | rest
            assert int(gaussian(np.array([word], np.uint64))[0]) == gaussian_in_python(word)

    def test_the_sign_is_bit_0_and_bits_1_to_8_do_nothing(self) -> None:
        words = np.random.default_rng(0).integers(0, 2**32, 10_000, dtype=np.uint64)
        z, odd = gaussian(words), (words & np.uint64(1)).astype(bool)
        assert np.all(z[odd] <= 0)
        assert np.all(z[~odd] >= 0)
        assert np.array_equal(gaussian(words ^ np.uint64(1)), -z)
        assert np.array_equal(gaussian(words ^ np.uint64(0x1FE)), z)

    def test_magnitudes_fall_from_the_largest_to_zero(self, magnitudes: np.ndarray) -> None:
        assert (int(magnitudes[0]), int(magnitudes[-1])) == (GAUSSIAN_MAX, 0)
        assert np.all(np.diff(magnitudes) <= 0)
        assert np.count_nonzero(magnitudes == GAUSSIAN_MAX) == 1

    def test_each_is_the_quantile_of_its_probability(self, magnitudes: np.ndarray) -> None:
        v = 2.0 * np.arange(MAGNITUDES) + 1
        z = -special.ndtri(v / 2**TAIL_BITS)
        assert np.abs(magnitudes / GAUSSIAN_ONE - z).max() < 2.3e-5

    def test_moments(self, magnitudes: np.ndarray) -> None:
        # In exact integers; odd moments vanish, because every magnitude has both signs.
        second = sum(int((part.astype(np.int64) ** 2).sum()) for part in np.split(magnitudes, 64))
        fourth = sum(float((part.astype(np.float64) ** 4).sum()) for part in np.split(magnitudes, 64))
        variance = Fraction(second, MAGNITUDES * GAUSSIAN_ONE**2)
        kurtosis = fourth / MAGNITUDES / (second / MAGNITUDES) ** 2
        assert abs(float(variance) - 1) < 6e-6
        assert abs(kurtosis - 3) < 6e-6
        stated = page()
        assert float(variance) == pytest.approx(stated["variance"], abs=5e-9)
        assert kurtosis == pytest.approx(stated["kurtosis"], abs=5e-8)
        assert stated["mean"] == 0
        assert stated["largest"] == round(GAUSSIAN_MAX / GAUSSIAN_ONE, 8)

    def test_tails_and_distribution(self, magnitudes: np.ndarray) -> None:
        stated = page()
        for k in (0.5, 1.0, 2.0, 3.0, 4.0, 5.0):
            share = np.count_nonzero(magnitudes > k * GAUSSIAN_ONE) / MAGNITUDES
            # What the table's error can move, and one number of the 2^23.
            assert abs(share - 2 * normal_tail(k)) <= 2 * stats.norm.pdf(k) * 2.3e-5 + 1 / MAGNITUDES
            if f"P(abs > {k:g})" in stated:
                assert share == pytest.approx(stated[f"P(abs > {k:g})"], rel=2e-3, abs=5e-9)
        # The distribution function at its steps, from both sides; the negative half is its mirror image.
        z = magnitudes[::-1].astype(np.float64) / GAUSSIAN_ONE
        last = np.flatnonzero(np.append(np.diff(z) > 0, True))
        above = 0.5 + 0.5 * (last + 1) / MAGNITUDES
        below = np.append(0.5 - 0.5 * (last[0] + 1) / MAGNITUDES, above[:-1])
        exact = special.ndtr(z[last])
        distance = max(np.abs(above - exact).max(), np.abs(below - exact).max())
        assert distance < 9.1e-6
        assert distance == pytest.approx(stated["largest distance of the distribution functions"], rel=1e-3)


def page() -> dict[str, float]:
    """Table G of docs/fixed_point.md."""
    text = (Path(__file__).parents[2] / "docs" / "fixed_point.md").read_text("utf-8")
    rows = text.split("**Table G:")[1].split("\n\n")[1].splitlines()[2:]
    return {cells[1].strip(): float(cells[2]) for cells in (row.split("|") for row in rows)}


def draws(noise: Noise, batch: int, heads: int, states: int, steps: int) -> np.ndarray:
    """(batch, head, state, step, part) in standard deviations."""
    return np.stack([noise.of_state(batch, heads, states, t) for t in range(steps)], axis=3) / GAUSSIAN_ONE


class TestSamples:
    @pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
    def test_are_normal(self, seed: int) -> None:
        z = draws(Noise(seed), 32, 16, 16, 16).ravel()
        assert z.size == 2**18
        # Five standard errors: 6e-7 each.
        assert abs(z.mean()) < 5 / math.sqrt(z.size)
        assert abs(z.var() - 1) < 5 * math.sqrt(2 / z.size)
        assert abs((z**3).mean()) < 5 * math.sqrt(15 / z.size)
        assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / z.size)
        # Kolmogorov and Smirnov at a level of 0.001; the table's own distance is 0.0046 of that unit.
        ordered, steps = special.ndtr(np.sort(z)), np.arange(z.size + 1) / z.size
        distance = max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max())
        assert distance * math.sqrt(z.size) < special.kolmogi(0.001)
        for k in (1.0, 2.0, 3.0, 4.0):
            for share in (np.mean(z > k), np.mean(z < -k)):
                p = normal_tail(k)
                expected, spread = p * z.size, math.sqrt(p * (1 - p) * z.size)
                assert abs(share * z.size - expected) < 5 * spread + 1  # 8 expected beyond 4: nearly Gaussian

    @pytest.mark.parametrize("seed", [3, 2**40 + 1])
    def test_are_independent(self, seed: int) -> None:
        # Neighbours, and numbers further apart, along each of the five axes; numbers and their squares.
        z = draws(Noise(seed), 16, 16, 16, 16)
        for axis, lag in [*((axis, lag) for axis in range(4) for lag in (1, 2, 8)), (4, 1)]:
            for f in (lambda v: v, lambda v: (v**2 - 1) / math.sqrt(2)):
                one, two = (
                    f(np.take(z, range(*r), axis)) for r in ((0, z.shape[axis] - lag), (lag, z.shape[axis]))
                )
                # Products of independent numbers have variance 1: five standard errors.
                assert abs((one * two).mean()) < 5 / math.sqrt(one.size), (axis, lag)

    def test_seeds_and_words_are_independent(self) -> None:
        streams = [draws(Noise(seed), 8, 8, 16, 32)[..., 0].ravel() for seed in (0, 1, 2, 2**32, 2**63)]
        words = philox((np.arange(2**15), 1, 2, 3), 4)
        streams += [gaussian(w) / GAUSSIAN_ONE for w in words]
        for one, two in combinations(streams, 2):
            assert abs((one * two).mean()) < 5 / math.sqrt(one.size)
            assert abs(((one**2 - 1) * (two**2 - 1)).mean()) < 5 * 2 / math.sqrt(one.size)

    def test_repeats_nothing(self) -> None:
        # 2^17 counters and two parts: of 64 bits together, every number occurs once (but for one chance in 2^31).
        sample, head, state, time = np.ogrid[:16, :16, :16, :32]
        words = philox((sample, head, state, time), 9)
        assert np.unique(words[0] << np.uint64(32) | words[1]).size == 2**17


class TestNoise:
    def test_number_of_a_counter(self) -> None:
        noise = Noise(2**40 + 3, 0.1, sample=2**32 - 3, time=2**31)
        z = noise.of_state(3, 2, 4, 5)
        for (i, h, n, part), value in np.ndenumerate(z):
            word = philox_in_python((noise.sample + i, h, n, noise.time + 5), noise.seed)[part]
            assert int(value) == gaussian_in_python(word)

    def test_is_the_same_wherever_it_is_cut(self) -> None:
        noise = Noise(5, 0.1, sample=10, time=100)
        whole = noise.of_state(6, 3, 4, 9)
        assert np.array_equal(replace(noise, sample=12).of_state(4, 3, 4, 9), whole[2:])
        assert np.array_equal(noise.of_state(6, 2, 3, 9), whole[:, :2, :3])
        assert noise.later(4) == replace(noise, time=104)
        assert np.array_equal(noise.later(4).of_state(6, 3, 4, 5), whole)
        assert np.array_equal(noise.later(9).of_state(6, 3, 4, 0), whole)
        assert not np.array_equal(noise.later(1).of_state(6, 3, 4, 9), whole)
        assert not np.array_equal(replace(noise, seed=6).of_state(6, 3, 4, 9), whole)

    def test_of_the_poles_is_that_of_the_seed(self) -> None:
        noise = Noise(5, 0.1, 0.2)
        z = noise.of_poles(3, 4)
        assert z.shape == (3, 4, 2)
        assert np.array_equal(replace(noise, sample=7, time=9, poles=0.4).of_poles(3, 4), z)
        for (h, n, part), value in np.ndenumerate(z):
            assert value * GAUSSIAN_ONE == gaussian_in_python(philox_in_python((0, h, n, 0), 5)[2 + part])
        # It shares a counter with the first step of the first sample, not its words.
        assert not np.any(z == noise.of_state(1, 3, 4, 0)[0] / GAUSSIAN_ONE)
        many = Noise(1).of_poles(64, 256)
        assert abs(many.mean()) < 5 / math.sqrt(many.size)
        assert abs(many.var() - 1) < 5 * math.sqrt(2 / many.size)

    @pytest.mark.parametrize(("field", "value"), [
        *(("seed", v) for v in (-1, 2**64, 1.5)),
        *(("sample", v) for v in (-1, 2**32, 0.0)),
        *(("time", v) for v in (-1, 2**32)),
        *((name, v) for name in ("state", "poles") for v in (-0.1, float("nan"), float("inf"))),
    ])  # fmt: skip
    def test_refused(self, field: str, value: float) -> None:
        with pytest.raises(FormatError, match=rf"noise (of the )?{field} .*allowed is"):
            Noise(**{"seed": 0, field: value})  # type: ignore[arg-type]

    def test_counters_end(self) -> None:
        noise = Noise(0, sample=2**32 - 2, time=2**32 - 2)
        assert noise.of_state(2, 1, 1, 1).shape == (2, 1, 1, 2)
        with pytest.raises(FormatError, match="counters end"):
            noise.of_state(3, 1, 1, 0)
        with pytest.raises(FormatError, match="counters end"):
            noise.of_state(1, 1, 1, 2)
        with pytest.raises(FormatError, match="noise time"):
            noise.later(2)

    def test_takes_integers_of_numpy(self) -> None:
        assert np.array_equal(Noise(np.uint64(2**63)).of_state(1, 1, 1, 0), Noise(2**63).of_state(1, 1, 1, 0))  # type: ignore[arg-type]
