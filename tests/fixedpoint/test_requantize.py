"""Requantization against exact rational arithmetic: nothing here may differ in a single bit."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Requantizer, requantize, round_shift
from imc_ssm.fixedpoint.formats import NEAREST, Rounding

MODES = st.sampled_from(NEAREST)


def nearest(value: Fraction, rounding: str) -> int:
    """The nearest integer; the three roundings by their definitions."""
    if rounding == "half_even":
        return round(value)
    up = math.floor(abs(value) + Fraction(1, 2))
    if rounding == "half_away":
        return up if value >= 0 else -up
    return math.floor(value + Fraction(1, 2))


class TestRoundShift:
    @settings(max_examples=200)
    @given(st.integers(-(2**61), 2**61), st.integers(0, 61), MODES)
    def test_equals_exact_rounding(self, value: int, shift: int, mode: Rounding) -> None:
        assert int(round_shift(np.int64(value), np.int64(shift), mode)) == nearest(Fraction(value, 2**shift), mode)

    @settings(max_examples=200)
    @given(st.integers(-(2**20), 2**20), st.integers(1, 30), st.sampled_from([-1, 0, 1]), MODES)
    def test_at_and_beside_ties(self, whole: int, shift: int, beside: int, mode: Rounding) -> None:
        value = whole * 2**shift + 2 ** (shift - 1) + beside
        result = int(round_shift(np.int64(value), np.int64(shift), mode))
        assert result == nearest(Fraction(value, 2**shift), mode)
        if beside == 0:
            direction = {"half_even": whole % 2, "half_up": 1, "half_away": whole >= 0}[mode]
            assert result == whole + direction

    def test_by_hand(self) -> None:
        values = np.array([5, 6, 7, 10, -5, -6, -7, -10])
        assert round_shift(values, np.int64(2)).tolist() == [1, 2, 2, 2, -1, -2, -2, -2]
        assert round_shift(values, np.int64(2), "half_up").tolist() == [1, 2, 2, 3, -1, -1, -2, -2]
        assert round_shift(values, np.int64(2), "half_away").tolist() == [1, 2, 2, 3, -1, -2, -2, -3]
        for mode in NEAREST:
            assert round_shift(values, np.int64(0), mode).tolist() == values.tolist()  # type: ignore[arg-type]

    def test_one_shift_per_element(self) -> None:
        assert round_shift(np.array([8, 8, 8]), np.array([0, 1, 4])).tolist() == [8, 4, 0]
        assert round_shift(np.array([8, 8, 8]), np.array([0, 1, 4]), "half_up").tolist() == [8, 4, 1]


def exact_multipliers(ratios: np.ndarray, shift: int, free: bool = False) -> list[int]:
    """round(ratio 2^shift) of the first kind; of the others (or all) the nearest number of 24 significant bits."""
    found = []
    for k, ratio in enumerate(ratios):
        scaled = Fraction(float(ratio)) * 2**shift
        left = max(0, int(scaled).bit_length() - 24) if (k or free) and scaled >= 1 else 0
        found.append(round(scaled / 2**left) * 2**left)
    return found


def word_of(multipliers: list[int], bounds: np.ndarray, shift: int) -> int:
    """The largest word, the half that rounding adds included."""
    return sum(m * int(b) for m, b in zip(multipliers, bounds, strict=True)) + (2**shift // 2)


def lost(ratios: np.ndarray, bounds: np.ndarray, multipliers: list[int], shift: int) -> bool:
    """Whether rounding a multiplier moves the products of another kind than the first by more than 2^-8 of
    themselves and 2^-4 of a code."""
    errors = [abs(m - Fraction(float(r)) * 2**shift) for r, m in zip(ratios, multipliers, strict=True)]
    return any(
        error > Fraction(float(ratio)) * 2**shift / 2**8 and error * int(bound) * 2**4 > 2**shift
        for ratio, bound, error in zip(ratios[1:], bounds[1:], errors[1:], strict=True)
    )


def largest_shift(ratios: np.ndarray, bounds: np.ndarray, word: int, free: bool = False) -> int:
    """By trying all of them: the largest shift that fits, -1 where none does."""

    def fits(shift: int) -> bool:
        multipliers = exact_multipliers(ratios, shift, free)
        return (free or multipliers[0] < 2**24) and word_of(multipliers, bounds, shift) < 2 ** (word - 1)

    return max((shift for shift in range(word) if fits(shift)), default=-1)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    kinds, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    low, high = draw(st.sampled_from([(-24.0, 2.0), (-40.0, 30.0)]))
    ratios = [[2.0 ** draw(st.floats(low, high)) for _ in range(columns)] for _ in range(kinds)]
    bounds = [[draw(st.integers(1, 2 ** draw(st.integers(1, 30)))) for _ in range(columns)] for _ in range(kinds)]
    return np.array(ratios), np.array(bounds, np.int64)


class TestRequantize:
    @settings(max_examples=150, deadline=None)
    @given(cases(), st.booleans())
    def test_words_fit_and_the_shift_is_the_largest(
        self, case: tuple[np.ndarray, np.ndarray], allow_narrow: bool
    ) -> None:
        ratios, bounds = case
        columns = range(ratios.shape[1])

        def found(word: int, h: int, free: bool = False) -> tuple[int, list[int]]:
            shift = largest_shift(ratios[:, h], bounds[:, h], word, free)
            return shift, exact_multipliers(ratios[:, h], max(shift, 0), free)

        def vanish(column: tuple[int, list[int]], h: int) -> bool:
            return lost(ratios[:, h], bounds[:, h], column[1], max(column[0], 0))

        narrow, wide = ([found(word, h) for h in columns] for word in (32, 53))
        fits = allow_narrow and min(shift for shift, _ in narrow) >= 0
        fits = fits and min(m[0] for _, m in narrow) >= 2**11 and not any(map(vanish, narrow, columns))
        if min(shift for shift, _ in wide) < 0:
            assert not fits
            with pytest.raises(FormatError, match="requantization by a ratio"):
                requantize(ratios, bounds, allow_narrow=allow_narrow)
            return
        # Where a kind would vanish in the wide word, the shift is that of the word alone.
        best = narrow if fits else [found(53, h, vanish(w, h)) for w, h in zip(wide, columns, strict=True)]
        plan = requantize(ratios, bounds, allow_narrow=allow_narrow)
        assert plan.word == (32 if fits else 53)
        assert plan.lost == any(map(vanish, best, columns))
        for h, (shift, multipliers) in zip(columns, best, strict=True):
            assert plan.shift[h] == shift
            assert plan.multipliers[:, h].tolist() == multipliers
            assert word_of(multipliers, bounds[:, h], shift) < 2 ** (plan.word - 1)

    @settings(max_examples=100, deadline=None)
    @given(cases())
    def test_multipliers_are_precise_and_at_most_24_significant_bits(
        self, case: tuple[np.ndarray, np.ndarray]
    ) -> None:
        ratios, bounds = case
        try:
            plan = requantize(ratios, bounds)
        except FormatError:
            return
        for (k, h), ratio in np.ndenumerate(ratios):
            multiplier, shift = int(plan.multipliers[k, h]), int(plan.shift[h])
            scaled = Fraction(float(ratio)) * 2**shift
            # Half a unit, or half of the last of 24 bits.
            assert abs(multiplier - scaled) <= max(Fraction(1, 2), scaled / 2**24)
            assert multiplier % 2 ** max(multiplier.bit_length() - 24, 0) == 0
            if k == 0:
                assert plan.word == 53 or abs(multiplier / scaled - 1) <= Fraction(1, 2**12)

    def test_a_kind_beyond_24_bits_ends_in_zeros(self) -> None:
        # The first kind allows shift 30 (2^-7 2^30 = 2^23); the second needs 27 bits there and keeps 24.
        plan = requantize(np.array([[2.0**-7], [0.09]]), np.array([[2**10], [2**10]]), allow_narrow=False)
        assert (plan.word, plan.shift.tolist(), plan.multipliers[0].tolist()) == (53, [30], [2**23])
        wide = int(plan.multipliers[1, 0])
        assert wide == round(0.09 * 2**27) * 8 != round(0.09 * 2**28) * 4
        assert wide.bit_length() == 27
        # As the first kind it is cut to 24 bits by a smaller shift instead.
        plan = requantize(np.array([[0.07], [2.0**-7]]), np.array([[2**10], [2**10]]), allow_narrow=False)
        assert plan.shift.tolist() == [27]
        assert plan.multipliers.ravel().tolist() == [round(0.07 * 2**27), 2**20]

    def test_a_multiplier_that_rounds_up_to_25_bits_is_too_wide(self) -> None:
        ratio = 1 - 2.0**-26  # times 2^24 it rounds to 2^24, a number of 25 bits
        plan = requantize(np.array([[ratio]]), np.array([[1]]), allow_narrow=False)
        assert (plan.shift.tolist(), plan.multipliers.tolist()) == ([23], [[2**23]])

    def test_narrow_is_for_all_heads_or_none(self) -> None:
        easy, hard = [0.5, 2**15], [0.5, 2**30]
        assert requantize(np.array([[easy[0]]]), np.array([[easy[1]]])).word == 32
        both = requantize(np.array([[easy[0], hard[0]]]), np.array([[easy[1], hard[1]]]))
        assert both.word == 53

    def test_narrow_needs_a_precise_first_multiplier(self) -> None:
        # 2^s (2^-15 2^31 + 2^9 2^6) + 2^(s-1) < 2^31 leaves s = 14: the first multiplier would be 2^-1.
        plan = requantize(np.array([[2.0**-15], [2.0**5]]), np.array([[2**31], [2**10]]))
        assert plan.word == 53
        assert plan.multipliers[0, 0] >= 2**11

    def test_products_of_long_words_that_are_worth_little_keep_a_multiplier(self) -> None:
        """Poles and state of 8 bits, drive of 16: 2^31 products of 2^-27 codes each are 16 codes."""
        ratios, bounds = np.array([[2.0**-7], [1.3 * 2.0**-27]]), np.array([[2**17], [2**31]])
        plan = requantize(ratios, bounds)
        assert plan.word == 53
        assert not plan.lost
        assert plan.multipliers[1, 0] / 2.0 ** int(plan.shift[0]) == pytest.approx(1.3 * 2.0**-27, rel=2.0**-8)
        assert int(plan.multipliers[0, 0]).bit_length() > 24  # a left shift of the poles' makes the room

    def test_a_drive_that_moves_nothing_may_go(self) -> None:
        """2^-6 of a code at most: that it goes is what the formats say."""
        plan = requantize(np.array([[2.0**-7], [2.0**-37]]), np.array([[2**17], [2**31]]))
        assert (plan.word, plan.multipliers[1, 0]) == (32, 0)

    def test_what_no_word_keeps_is_said(self) -> None:
        plan = requantize(np.array([[8.0], [1.4 * 2.0**-30]]), np.array([[2**33], [2**32]]))
        assert plan.lost

    def test_the_borders_of_the_narrow_word(self) -> None:
        # Multiplier 2^11 with bound 2^19: 2^30 + 2^(s-1) < 2^31 holds for s = 30 and no more.
        fit = requantize(np.array([[2.0**-19]]), np.array([[2**19]]))
        assert (fit.word, fit.shift.tolist(), fit.multipliers.tolist()) == (32, [30], [[2**11]])
        # One bit less for the multiplier: the wide word.
        assert requantize(np.array([[2.0**-20]]), np.array([[2**20]])).word == 53

    @pytest.mark.parametrize("ratio", [2.0**24, 1e12, 1e30, 1e300])
    def test_a_ratio_too_large_for_the_first_multiplier_is_refused(self, ratio: float) -> None:
        with pytest.raises(FormatError, match="fewer bits or a coarser result format"):
            requantize(np.array([[ratio]]), np.array([[10]]))
        with pytest.raises(FormatError, match="fewer bits or a coarser result format"):
            requantize(np.array([[ratio], [0.5]]), np.array([[10], [10]]))

    @pytest.mark.parametrize(("ratio", "refused"), [(2.0**24, 0), (2.0**48, 0), (2.0**49, 1), (1e30, 1)])
    def test_another_kind_may_be_large_as_long_as_its_words_fit(self, ratio: float, refused: int) -> None:
        case = np.array([[0.5], [ratio]]), np.array([[10], [10]])
        if refused:
            with pytest.raises(FormatError, match="53 bits"):
                requantize(*case)
        else:
            assert requantize(*case).multipliers[1, 0] >= ratio

    def test_words_beyond_53_bits_are_refused(self) -> None:
        with pytest.raises(FormatError, match="53 bits"):
            requantize(np.array([[2.0**23]]), np.array([[2**40]]))

    def test_one_head_that_does_not_fit_refuses_all(self) -> None:
        with pytest.raises(FormatError, match="requantization by a ratio"):
            requantize(np.array([[0.5, 2.0**25]]), np.array([[100, 100]]))

    def test_heads_and_states(self) -> None:
        rng = np.random.default_rng(3)
        ratios, bounds = np.exp2(rng.uniform(-12, 2, (2, 3, 4))), rng.integers(1, 2**24, (2, 3, 4))
        whole = requantize(ratios, bounds, allow_narrow=False)
        assert (whole.multipliers.shape, whole.shift.shape) == ((2, 3, 4), (3, 4))
        for h, n in np.ndindex(3, 4):
            alone = requantize(ratios[:, h, n, None], bounds[:, h, n, None], allow_narrow=False)
            assert alone.shift[0] == whole.shift[h, n]
            assert alone.multipliers[:, 0].tolist() == whole.multipliers[:, h, n].tolist()

    def test_is_a_record(self) -> None:
        plan = requantize(np.array([[0.25]]), np.array([[2**10]]))
        assert isinstance(plan, Requantizer)
        # m = 2^s / 4 < 2^24 allows s = 25; 2^8 2^s + 2^(s-1) < 2^31 allows s = 22: the word decides
        assert (plan.word, plan.shift.tolist(), plan.multipliers.tolist()) == (32, [22], [[2**20]])
