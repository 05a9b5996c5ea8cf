"""The plan of an update: word lengths, multipliers, alignment, what is refused; and that no word overflows."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Format, ScanFormats, plan_scan
from imc_ssm.fixedpoint.normal import GAUSSIAN_MAX, GAUSSIAN_ONE

ROUNDING_PLACEMENTS = ("joint", "separate")


def over(reach: float, bits: int, shape: tuple[int, ...] = ()) -> Format:
    return Format.from_range(np.full(shape, -reach), np.full(shape, reach), bits)


def uniform(bits: int, *, y_scale: float = 0.5, order: str = "joint", shape: tuple[int, ...] = ()) -> ScanFormats:
    """Formats of one word length over [-1, 1] (the state over [-4, 4])."""
    return ScanFormats(
        a=over(1, bits, shape),
        u=over(1, bits, shape[:1]),
        x=over(4, bits, shape),
        b=over(1, bits, shape),
        c=over(1, bits, shape),
        y=Format(bits, np.float32(y_scale), np.int64(0)),
        rounding_placement=order,  # type: ignore[arg-type]
    )


class TestWords:
    @pytest.mark.parametrize("order", ROUNDING_PLACEMENTS)
    @pytest.mark.parametrize(("bits", "word"), [(2, 32), (4, 32), (8, 32), (9, 32), (12, 53), (16, 53)])
    def test_accumulator(self, bits: int, word: int, order: str) -> None:
        assert plan_scan(uniform(bits, order=order), 3, 32).word == word

    def test_a_wide_output_sum_needs_the_wide_accumulator(self) -> None:
        few, many = (plan_scan(uniform(8), 1, n) for n in (32, 70_000))
        assert (few.word, many.word) == (32, 53)

    def test_the_separate_order_has_one_word_length_for_both_products(self) -> None:
        # A drive of 32 bits alone (b, u of 16 bits): its multiplier has too few of them, the poles' would do.
        formats = replace(uniform(8, order="separate"), b=over(1, 16), u=over(1, 16))
        plan = plan_scan(formats, 1, 4)
        assert plan.word == 53
        alone = plan_scan(uniform(8, order="separate"), 1, 4)
        assert alone.word == 32
        assert np.all(plan.m_a > alone.m_a)

    def test_orders_share_or_part_their_shifts(self) -> None:
        joint, separate = (plan_scan(uniform(8, order=order), 2, 3) for order in ROUNDING_PLACEMENTS)
        assert np.array_equal(joint.shift, joint.shift_b)
        assert not np.array_equal(separate.shift, separate.shift_b)
        # Alone, neither product has to leave room for the other.
        assert np.all(separate.shift >= joint.shift)
        assert np.all(separate.shift_b >= joint.shift_b)

    @pytest.mark.parametrize("order", ROUNDING_PLACEMENTS)
    @pytest.mark.parametrize("bits", [2, 5, 8, 11, 16])
    @pytest.mark.parametrize("sigma", [0.0, 0.3])
    @pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
    def test_nothing_overflows_at_the_extremes(
        self, bits: int, order: str, sigma: float, shape: tuple[int, ...]
    ) -> None:
        formats = uniform(bits, order=order, shape=shape)
        plan = plan_scan(formats, 2, 3, sigma)
        limit = 2 ** (plan.word - 1)

        def most(part: str) -> int:  # the largest centred code of a word of `bits` bits
            fmt = getattr(formats, part)
            return int(max((fmt.code_max - fmt.zero_point).max(), (fmt.zero_point - fmt.code_min).max()))

        for h, n in np.ndindex(2, 3):
            m_a, m_b, m_c, shift, shift_b = (
                int(v[h, n]) for v in (plan.m_a, plan.m_b, plan.m_c, plan.shift, plan.shift_b)
            )
            m_z = 0 if plan.m_z is None else int(plan.m_z[h, n])
            recurrent = m_a * 2 * most("a") * most("x") + m_z * GAUSSIAN_MAX
            drive = m_b * most("b") * most("u")
            if order == "joint":
                assert recurrent + drive + 2**shift // 2 < limit
            else:
                assert recurrent + 2**shift // 2 < limit
                assert drive + 2**shift_b // 2 < limit
            assert 3 * 2 * m_c * most("c") * most("x") < limit
            assert m_a < 2**24
        assert plan.m_y is not None
        assert plan.shift_y is not None
        total = max(int(2 * plan.m_c[h].sum()) * most("c") * most("x") for h in range(2))
        assert int(plan.m_y.max()) * total + 2 ** int(plan.shift_y.max()) // 2 < 2**52

    def test_a_format_with_one_code_keeps_its_folded_coefficients_in_the_word(self) -> None:
        # A clip below one step of the state leaves it only zero; m_a a' must still fit.
        formats = replace(uniform(8), x=Format(8, np.float32(1), np.int64(0), clip=0.5))
        plan = plan_scan(formats, 1, 1)
        assert (plan.low.item(), plan.high.item()) == (0, 0)
        assert plan.m_a.item() * 255 < 2 ** (plan.word - 1)


class TestMultipliers:
    @pytest.mark.parametrize("order", ROUNDING_PLACEMENTS)
    def test_are_the_ratios_of_the_scales(self, order: str) -> None:
        rng = np.random.default_rng(1)
        reach = rng.uniform(0.5, 2, (6, 2, 3))
        parts = dict(zip("abcx", (Format.from_range(-r, r, 8) for r in reach), strict=False))
        per_head = [Format.from_range(-r[:, 0], r[:, 0], 8) for r in reach[4:]]
        formats = ScanFormats(**parts, u=per_head[0], y=per_head[1], rounding_placement=order)  # type: ignore[arg-type]
        plan = plan_scan(formats, 2, 3, [0.5, 0.1])
        s_a, s_b, s_c, s_x = (parts[p].scale.astype(float) for p in "abcx")
        s_u, s_y = (fmt.scale.astype(float)[:, None] for fmt in per_head)
        assert plan.m_z is not None
        assert plan.m_y is not None
        assert plan.shift_y is not None
        for m, shift, ratio in (
            (plan.m_a, plan.shift, s_a),
            (plan.m_b, plan.shift_b, s_b * s_u / s_x),
            (plan.m_z, plan.shift, np.array([[0.5], [0.1]]) / s_x / GAUSSIAN_ONE),
            (plan.m_y, plan.shift_y, plan.sum_scale / s_y[:, 0]),
        ):
            assert np.all(np.abs(m - ratio * np.exp2(shift)) <= 0.5 + m * 2.0**-24)
        # One unit of the sum is the same real number in every state.
        assert np.all(np.abs(2 * s_c * s_x / plan.sum_scale[:, None] - plan.m_c) <= 0.5)
        assert plan.m_c.max(axis=1).tolist() == [2**16, 2**16]

    def test_alignment_is_one_where_the_scales_are_equal(self) -> None:
        equal = uniform(8, shape=(2, 3))
        assert plan_scan(equal, 2, 3).m_c.tolist() == [[1] * 3] * 2
        for apart, aligned in ((2.0**-23, True), (2.0**-21, False)):
            c = Format(8, np.float32([[1, 1 + apart, 1]]), np.zeros((1, 3), np.int64))
            assert (plan_scan(replace(uniform(8), c=c), 1, 3).m_c == 1).all() == aligned
        # One head with states of different scales, one without; equal products of different scales count as equal.
        x = Format(8, np.array([[1, 2, 4], [1, 1, 1]], np.float32), np.zeros((2, 3), np.int64))
        c = Format(8, np.array([[4, 2, 1], [1, 2, 3]], np.float32), np.zeros((2, 3), np.int64))
        plan = plan_scan(replace(equal, x=x, c=c), 2, 3)
        assert plan.m_c.tolist() == [[1, 1, 1], [21845, 43691, 65536]]
        assert plan.sum_scale.tolist() == [8.0, 6 / 65536]

    def test_a_state_of_negligible_scale_drops_out_of_the_sum(self) -> None:
        x = Format(8, np.array([[1, 2.0**-16, 2.0**-18]], np.float32), np.zeros((1, 3), np.int64))
        assert plan_scan(replace(uniform(8), x=x, y=None), 1, 3).m_c.tolist() == [[65536, 1, 0]]

    def test_alignment_leaves_the_sum_its_word(self) -> None:
        # 16-bit codes of 1000 states: 2 * 1000 * 2^32 needs 43 of 52 bits: 4 for the alignment, 5 for m_y.
        scale = np.linspace(1, 2, 1000, dtype=np.float32)[None]
        x = Format(16, scale, np.full(scale.shape, -(2**15)))
        c = Format(16, np.float32(1), np.int64(-(2**15)))
        y = Format(16, np.float32(1e4), np.int64(0))
        plan = plan_scan(ScanFormats(a=over(1, 16), u=over(1, 16), x=x, b=over(1, 16), c=c, y=y), 1, 1000)
        assert plan.m_c.max() == 2**4
        assert 2 * int(plan.m_c.sum()) * (2**16 - 1) ** 2 < 2**52
        assert plan.m_y is not None
        assert plan.m_y[0] >= 2**4

    def test_scale_of_the_bare_sum(self) -> None:
        formats = replace(uniform(8), y=None)
        plan = plan_scan(formats, 2, 4)
        assert plan.m_y is None
        assert plan.shift_y is None
        assert formats.c is not None
        assert plan.sum_scale.tolist() == [2 * float(formats.c.scale) * float(formats.x.scale)] * 2

    def test_zero_points(self) -> None:
        x = Format(8, np.ones((2, 3), np.float32), np.arange(6).reshape(2, 3))
        plan = plan_scan(replace(uniform(8, shape=(2,)), x=x, b=None), 2, 3)
        assert plan.zero("x").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert plan.zero("b").tolist() == [[0] * 3] * 2
        assert plan.zero("a").shape == (2, 3)
        assert plan.zero("u").shape == plan.zero("y").shape == (2,)
        assert (plan.low + plan.zero("x")).tolist() == [[-128] * 3] * 2
        assert (plan.high + plan.zero("x")).tolist() == [[127] * 3] * 2


class TestNoise:
    @pytest.mark.parametrize("sigma", [0.0, [0.0, 0.0]])
    def test_none_without(self, sigma: object) -> None:
        plain, none = plan_scan(uniform(8), 2, 3), plan_scan(uniform(8), 2, 3, sigma)  # type: ignore[arg-type]
        assert none.m_z is None
        assert none.m_a.tolist() == plain.m_a.tolist()

    @pytest.mark.parametrize("order", ROUNDING_PLACEMENTS)
    @pytest.mark.parametrize("bits", [2, 4, 8, 16])
    @pytest.mark.parametrize("codes", [0.02, 0.3, 1.0, 7.0])
    def test_the_deviation_survives_its_multiplier(self, bits: int, codes: float, order: str) -> None:
        # A 32-bit accumulator of a wide drive has few bits left below one code: it must not swallow the noise.
        formats = replace(uniform(bits, order=order), b=over(16, bits))
        plan = plan_scan(formats, 1, 2, codes * float(formats.x.scale))
        assert plan.m_z is not None
        drawn = plan.m_z * GAUSSIAN_ONE / np.exp2(plan.shift)
        assert np.all(np.abs(drawn - codes) <= np.exp2(15.0 - plan.shift) * (1 + 1e-9))
        if plan.word == 32:
            assert np.all(np.abs(drawn / codes - 1) <= 2.0**-8)
        assert np.all(np.abs(drawn - codes) < 0.004)

    def test_takes_its_room_in_the_word(self) -> None:
        quiet, loud = (plan_scan(uniform(16), 1, 1, s) for s in (0.0, 1e3))
        assert loud.shift.item() < quiet.shift.item()
        assert loud.m_z is not None
        widest = loud.m_a.item() * 2 * 2**16 * 2**16 + loud.m_z.item() * GAUSSIAN_MAX
        assert widest < 2**52 < 8 * widest

    @pytest.mark.parametrize("sigma", [-1.0, float("nan"), float("inf"), [0.1, -0.1], [0.1], [[0.1], [0.1]]])
    def test_refused(self, sigma: object) -> None:
        with pytest.raises(FormatError, match=r"state noise .* standard deviation >= 0, shape \(\) or \(2,\)"):
            plan_scan(uniform(8), 2, 3, sigma)  # type: ignore[arg-type]

    def test_too_loud(self) -> None:
        with pytest.raises(FormatError, match="poles' multiplier keeps fewer than 9 bits"):
            plan_scan(uniform(16), 1, 1, 1e10)
        with pytest.raises(FormatError, match="53 bits"):
            plan_scan(uniform(16), 1, 1, 1e30)


class TestRefused:
    @pytest.mark.parametrize("part", ["a", "b", "c", "u", "x", "y"])
    def test_wrong_number_of_heads(self, part: str) -> None:
        formats = replace(uniform(8), **{part: over(1, 8, (2,))})
        with pytest.raises(FormatError, match=f"format of {part} is for 2 heads, the recurrence has 3"):
            plan_scan(formats, 3, 4)

    @pytest.mark.parametrize("part", ["a", "b", "c", "x"])
    def test_wrong_number_of_states(self, part: str) -> None:
        formats = replace(uniform(8), **{part: over(1, 8, (3, 2))})
        with pytest.raises(FormatError, match=f"format of {part} is for 2 states, the recurrence has 4"):
            plan_scan(formats, 3, 4)

    def test_an_output_format_far_too_fine(self) -> None:
        with pytest.raises(FormatError, match="coarser result format"):
            plan_scan(uniform(8, y_scale=1e-12), 3, 4)

    @pytest.mark.parametrize(("order", "x_scale", "message"), [
        ("joint", 1e-12, "poles' multiplier keeps fewer than 9 bits"),
        ("joint", 1e-20, "coarser result format"),
        ("separate", 1e-12, "coarser result format"),
    ])  # fmt: skip
    def test_a_state_format_far_too_fine(self, order: str, x_scale: float, message: str) -> None:
        formats = replace(uniform(8, order=order), x=Format(8, np.float32(x_scale), np.int64(0)))
        with pytest.raises(FormatError, match=message):
            plan_scan(formats, 3, 4)

    def test_the_border_of_the_poles_multiplier(self) -> None:
        # m_a = 2^-7 2^shift, and the drive 127^2 2^k in codes sets the shift; one scale is no power of two.
        unit = Format(8, np.float32(2.0**-7), np.int64(0), symmetric=True)
        beside = replace(unit, scale=unit.scale * np.float32(1 + 2.0**-23))

        def formats(k: int) -> ScanFormats:
            return ScanFormats(a=beside, u=unit, x=Format(8, np.float32(2.0 ** (-14 - k)), np.int64(0)), b=unit)

        fits = [plan_scan(formats(k), 1, 1) for k in (22, 23)]
        assert [p.m_a.item() for p in fits] == [2**9, 2**8]
        with pytest.raises(FormatError, match="poles' multiplier keeps fewer than 9 bits"):
            plan_scan(formats(24), 1, 1)


MIXED = {
    "16-bit poles and state, 4-bit b and input": ScanFormats(
        a=over(1, 16), u=over(1, 4), x=over(4, 16), b=over(1, 4), c=over(1, 4)
    ),
    "16-bit poles and state, 2-bit b and input": ScanFormats(
        a=over(1, 16), u=over(1, 2), x=over(4, 16), b=over(1, 2), c=over(1, 2)
    ),
    "16 bits everywhere, b exactly 1, a state finer than the input": ScanFormats(
        a=over(1, 16), u=over(8, 16), x=over(1, 16), c=over(1, 16)
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_formats_keep_their_poles(name: str) -> None:
    """Formats that a limit of 24 bits on every multiplier would refuse: the drive's would take the poles' bits."""
    formats = MIXED[name]
    s_b = Fraction(1) if formats.b is None else Fraction(float(formats.b.scale))
    ratio = s_b * Fraction(float(formats.u.scale)) / Fraction(float(formats.x.scale))
    left = Fraction(2**24) / ratio * Fraction(float(formats.a.scale))  # m_a where m_b has 24 bits
    assert left < 2**8
    for order in ROUNDING_PLACEMENTS:
        plan = plan_scan(replace(formats, rounding_placement=order), 2, 4)  # type: ignore[arg-type]
        gain = plan.m_a / np.exp2(plan.shift) / float(formats.a.scale)
        assert np.all(np.abs(gain - 1) < 2.0**-15)
        drive = plan.m_b / np.exp2(plan.shift_b) / float(ratio)
        assert np.all(np.abs(drive - 1) < 2.0**-23)
