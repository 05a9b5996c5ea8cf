"""Requantisation against exact rational arithmetic: nothing here may differ in a single bit."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Format, Requantiser, ScanFormats, plan_scan, requantise, round_shift


def ratio_grid(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    kinds, heads = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    exponents = st.floats(-40.0, 12.0)
    ratios = [[2.0 ** draw(exponents) for _ in range(heads)] for _ in range(kinds)]
    bounds = [[draw(st.integers(0, 2**38)) for _ in range(heads)] for _ in range(kinds)]
    return np.array(ratios), np.array(bounds, np.int64)


cases = st.composite(ratio_grid)()


def largest_sum(ratios: np.ndarray, bounds: np.ndarray, head: int, shift: int) -> tuple[list[int], int]:
    """Multipliers and the largest word of one head, in Python's integers."""
    multipliers = [round(Fraction(float(r)) * 2**shift) for r in ratios[:, head]]  # half to even
    word = sum(m * int(b) for m, b in zip(multipliers, bounds[:, head], strict=True))
    return multipliers, word + (2 ** (shift - 1) if shift else 0)


def fits(multipliers: list[int], word: int, limit: int) -> bool:
    return max(multipliers) < 2**24 and word <= limit


class TestRoundShift:
    @settings(max_examples=500)
    @given(st.integers(-(2**61), 2**61), st.integers(0, 61))
    def test_equals_exact_half_even(self, value: int, shift: int) -> None:
        assert int(round_shift(np.int64(value), np.int64(shift))) == round(Fraction(value, 2**shift))

    @settings(max_examples=200)
    @given(st.integers(-(2**20), 2**20), st.integers(1, 30))
    def test_ties_go_to_even(self, whole: int, shift: int) -> None:
        tie = whole * 2**shift + 2 ** (shift - 1)
        result = int(round_shift(np.int64(tie), np.int64(shift)))
        assert result % 2 == 0
        assert abs(Fraction(tie, 2**shift) - result) == Fraction(1, 2)

    def test_by_hand(self) -> None:
        values = np.array([5, 6, 7, 10, -5, -6, -7, -10])
        assert round_shift(values, np.int64(2)).tolist() == [1, 2, 2, 2, -1, -2, -2, -2]
        assert round_shift(values, np.int64(0)).tolist() == values.tolist()

    def test_one_shift_per_element(self) -> None:
        assert round_shift(np.array([8, 8, 8]), np.array([0, 1, 4])).tolist() == [8, 4, 0]


class TestRequantise:
    @settings(max_examples=400, deadline=None)
    @given(cases, st.booleans())
    def test_words_fit_and_the_shift_is_the_largest(
        self, case: tuple[np.ndarray, np.ndarray], allow_narrow: bool
    ) -> None:
        ratios, bounds = case
        try:
            plan = requantise(ratios, bounds, allow_narrow=allow_narrow)
        except FormatError:
            # Refused: some head cannot be held in 63 bits even without a shift.
            heads = range(ratios.shape[1])
            assert any(not fits(*largest_sum(ratios, bounds, h, 0), 2**62 - 1) for h in heads)
            return
        assert plan.word in (32, 64)
        assert allow_narrow or plan.word == 64
        limit = 2**31 - 1 if plan.word == 32 else 2**62 - 1
        for head, shift in enumerate(plan.shift.tolist()):
            multipliers, word = largest_sum(ratios, bounds, head, shift)
            assert plan.multipliers[:, head].tolist() == multipliers
            assert fits(multipliers, word, limit)
            # One more bit does not fit; where a multiplier rounds down a lot, its real value does not.
            real = sum(Fraction(float(r)) * int(b) for r, b in zip(ratios[:, head], bounds[:, head], strict=True))
            assert (
                shift == 61
                or not fits(*largest_sum(ratios, bounds, head, shift + 1), limit)
                or real * 2 ** (shift + 1) > limit
            )
            for ratio, multiplier in zip(ratios[:, head], multipliers, strict=True):
                assert abs(Fraction(multiplier, 2**shift) - Fraction(float(ratio))) <= Fraction(
                    1, 2 ** (shift + 1)
                )
            if plan.word == 32:
                assert multipliers[0] >= 2**11
                error = Fraction(multipliers[0], 2**shift) / Fraction(float(ratios[0, head])) - 1
                assert abs(error) <= Fraction(1, 2**12) * Fraction(1001, 1000)

    def test_narrow_is_for_all_heads_or_none(self) -> None:
        easy, hard = [0.5, 2**15], [0.5, 2**30]
        assert requantise(np.array([[easy[0]]]), np.array([[easy[1]]])).word == 32
        both = requantise(np.array([[easy[0], hard[0]]]), np.array([[easy[1], hard[1]]]))
        assert both.word == 64

    @pytest.mark.parametrize("ratio", [2.0**24, 1e12, 1e30, 1e300])
    def test_a_ratio_too_large_for_a_multiplier_is_refused(self, ratio: float) -> None:
        with pytest.raises(FormatError, match="fewer bits or a coarser result format"):
            requantise(np.array([[ratio]]), np.array([[10]]))

    def test_words_beyond_63_bits_are_refused(self) -> None:
        with pytest.raises(FormatError, match="63 bits"):
            requantise(np.array([[2.0**23]]), np.array([[2**40]]))

    def test_one_head_that_does_not_fit_refuses_all(self) -> None:
        with pytest.raises(FormatError, match="requantisation by a ratio"):
            requantise(np.array([[0.5, 2.0**25]]), np.array([[100, 100]]))

    def test_narrow_needs_a_precise_first_multiplier(self) -> None:
        # 2^s (2^-15 2^31 + 2^9 2^6) + 2^(s-1) < 2^31 leaves s = 14: the first multiplier would be 2^-1.
        plan = requantise(np.array([[2.0**-15], [2.0**5]]), np.array([[2**31], [2**10]]))
        assert plan.word == 64
        assert plan.multipliers[0, 0] >= 2**3

    def test_is_a_record(self) -> None:
        plan = requantise(np.array([[0.25]]), np.array([[2**10]]))
        assert isinstance(plan, Requantiser)
        # m = 2^s / 4 < 2^24 allows s = 25; 2^8 2^s + 2^(s-1) < 2^31 allows s = 22: the word decides
        assert (plan.word, plan.shift.tolist(), plan.multipliers.tolist()) == (32, [22], [[2**20]])


def uniform(bits: int, *, y_scale: float = 0.5, heads: int | None = None) -> ScanFormats:
    """Formats of one word length over [-1, 1] (the state over [-4, 4])."""
    shape = () if heads is None else (heads,)
    unit = Format.from_range(np.full(shape, -1.0), np.full(shape, 1.0), bits)
    state = Format.from_range(np.full(shape, -4.0), np.full(shape, 4.0), bits)
    return ScanFormats(a=unit, u=unit, x=state, b=unit, c=unit, y=Format(bits, np.float32(y_scale), np.int64(0)))


class TestPlan:
    @pytest.mark.parametrize(("bits", "word"), [(2, 32), (4, 32), (8, 32), (9, 32), (12, 64), (16, 64)])
    def test_accumulator(self, bits: int, word: int) -> None:
        assert plan_scan(uniform(bits), 3, 32).word == word

    def test_a_wide_output_sum_needs_the_wide_accumulator(self) -> None:
        # The sum over the states has to fit the same word as the update.
        few, many = (plan_scan(uniform(8), 1, n) for n in (32, 70_000))
        assert (few.word, many.word) == (32, 64)

    @pytest.mark.parametrize("part", ["a", "b", "c", "u", "x", "y"])
    def test_wrong_number_of_heads(self, part: str) -> None:
        formats = uniform(8)
        wrong = Format.from_range([-1.0, -1.0], [1.0, 1.0], 8)
        formats = ScanFormats(**{**{p: getattr(formats, p) for p in "auxbcy"}, part: wrong})
        with pytest.raises(FormatError, match=f"format of {part} is for 2 heads, the recurrence has 3"):
            plan_scan(formats, 3, 4)

    def test_an_output_format_far_too_fine_is_refused(self) -> None:
        with pytest.raises(FormatError, match="coarser result format"):
            plan_scan(uniform(8, y_scale=1e-12), 3, 4)

    def test_a_state_format_far_too_fine_is_refused(self) -> None:
        formats = uniform(8)
        fine = Format(8, np.float32(1e-12), np.int64(0))
        with pytest.raises(FormatError, match="coarser result format"):
            plan_scan(ScanFormats(a=formats.a, u=formats.u, x=fine, b=formats.b, c=formats.c), 3, 4)

    @pytest.mark.parametrize(("coarse", "refused"), [(8, False), (4, True)])
    def test_poles_are_not_rounded_away(self, coarse: int, refused: bool) -> None:
        # 16-bit poles and state on a coarse input: the input's multiplier is the large one.
        fine, rough = uniform(16), uniform(coarse)
        formats = ScanFormats(a=fine.a, u=rough.u, x=fine.x, b=rough.b, c=rough.c)
        if refused:
            with pytest.raises(FormatError, match="poles' multiplier keeps fewer than 9 bits"):
                plan_scan(formats, 2, 4)
            return
        plan = plan_scan(formats, 2, 4)
        assert plan.word == 64
        gain = plan.m_a / 2.0**plan.shift / float(fine.a.scale)
        assert np.all(np.abs(gain - 1) < 2**-9)

    def test_scale_of_the_bare_sum(self) -> None:
        formats = uniform(8)
        plan = plan_scan(ScanFormats(a=formats.a, u=formats.u, x=formats.x, b=formats.b, c=formats.c), 2, 4)
        assert plan.m_y is None
        assert plan.shift_y is None
        assert formats.c is not None
        assert plan.sum_scale.tolist() == [2 * float(formats.c.scale) * float(formats.x.scale)] * 2
