"""Number formats: ranges, zero points, bounds, rounding and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Format, ScanFormats, broadcast_heads

BITS = st.integers(2, 16)
REAL = st.floats(-1e6, 1e6).filter(lambda v: v == 0 or abs(v) > 1e-20)


@st.composite
def formats(draw: st.DrawFn) -> Format:
    ends = sorted((draw(REAL), draw(REAL)))
    clip = draw(st.none() | st.floats(1e-3, 1e6))
    return Format.from_range(*ends, draw(BITS), symmetric=draw(st.booleans()), clip=clip)


class TestFromRange:
    def test_asymmetric_by_hand(self) -> None:
        fmt = Format.from_range(-1.0, 3.0, 8)
        assert fmt.scale == np.float32(4 / 255)
        assert fmt.zero_point == -64  # round(-128 + 63.75)
        assert (fmt.code_min, fmt.code_max, int(fmt.low), int(fmt.high)) == (-128, 127, -128, 127)

    def test_symmetric_by_hand(self) -> None:
        fmt = Format.from_range(-1.0, 3.0, 8, symmetric=True)
        assert fmt.scale == np.float32(3 / 127)
        assert fmt.zero_point == 0
        assert (fmt.code_min, fmt.code_max) == (-127, 127)

    @pytest.mark.parametrize(("low", "high", "zero"), [(2.0, 3.0, -128), (-3.0, -2.0, 127)])
    def test_a_range_without_zero_is_widened_to_contain_it(self, low: float, high: float, zero: int) -> None:
        fmt = Format.from_range(low, high, 8)
        assert fmt.scale == np.float32(3 / 255)
        assert fmt.zero_point == zero

    @pytest.mark.parametrize("symmetric", [False, True])
    @pytest.mark.parametrize("high", [1e-41, 1e-60])
    def test_a_range_that_float32_cannot_scale_is_empty(self, high: float, symmetric: bool) -> None:
        fmt = Format.from_range([0.0, 0.0], [high, 2.0], 8, symmetric=symmetric)
        assert fmt.scale[0] == fmt.scale[1]
        assert fmt.scale[1] == np.float32(2 / (127 if symmetric else 255))
        assert fmt.quantize([high, 0.0])[0] == fmt.zero_point[0]

    @pytest.mark.parametrize("symmetric", [False, True])
    def test_an_empty_range_gets_scale_one(self, symmetric: bool) -> None:
        fmt = Format.from_range(0.0, 0.0, 4, symmetric=symmetric)
        assert fmt.scale == 1
        assert fmt.quantize(0.0) == fmt.zero_point

    def test_per_head(self) -> None:
        fmt = Format.from_range([-1.0, 0.0], [2.0, 5.0], 8)
        assert fmt.heads == 2
        assert fmt.scale.tolist() == [np.float32(3 / 255), np.float32(5 / 255)]
        assert fmt.zero_point.tolist() == [-43, -128]
        assert fmt.magnitude().tolist() == [170, 255]
        # The head axis is where it is said to be.
        value = np.array([[2.0, 5.0], [-1.0, 2.0]])
        assert fmt.quantize(value, head_axis=1).tolist() == [[127, 127], [-128, -26]]
        assert fmt.quantize(value.T, head_axis=0).tolist() == [[127, -128], [127, -26]]

    def test_per_state(self) -> None:
        low, high = [[-1.0, 0.0, -3.0], [0.0, -1.0, -2.0]], [[2.0, 5.0, 0.0], [4.0, 0.0, 2.0]]
        fmt = Format.from_range(low, high, 8)
        assert (fmt.heads, fmt.states) == (2, 3)
        # Every head and state is the format that it would be alone.
        value = np.linspace(-4, 6, 2 * 2 * 3 * 2).reshape(2, 2, 3, 2)  # (batch, head, state, part)
        codes, back = fmt.quantize(value, 1), fmt.dequantize(fmt.quantize(value, 1), 1)
        for h in range(2):
            for n in range(3):
                alone = Format.from_range(low[h][n], high[h][n], 8)
                assert (fmt.scale[h, n], fmt.zero_point[h, n]) == (alone.scale, alone.zero_point)
                assert fmt.magnitude()[h, n] == alone.magnitude()
                assert np.array_equal(codes[:, h, n], alone.quantize(value[:, h, n]))
                assert np.array_equal(back[:, h, n], alone.dequantize(codes[:, h, n]))

    def test_per_tensor_has_no_heads(self) -> None:
        fmt = Format.from_range(-1.0, 1.0, 8)
        assert (fmt.heads, fmt.states) == (None, None)
        fmt = Format.from_range([-1.0], [1.0], 8)
        assert (fmt.heads, fmt.states) == (1, None)

    @settings(max_examples=150)
    @given(REAL, REAL, BITS, st.booleans())
    def test_zero_is_a_code_and_the_ends_are_within_a_step(
        self, one: float, two: float, bits: int, symmetric: bool
    ) -> None:
        low, high = sorted((one, two))
        fmt = Format.from_range(low, high, bits, symmetric=symmetric)
        assert fmt.dequantize(fmt.quantize(0.0)) == 0.0
        for end in (low, high):
            # Rounding the value and rounding the zero point cost half a step each.
            assert abs(float(fmt.dequantize(fmt.quantize(end))) - end) <= 1.001 * float(fmt.scale)


class TestBounds:
    def test_a_clip_narrows_the_codes(self) -> None:
        fmt = Format(8, np.float32(0.5), np.int64(3), clip=10.2)
        assert int(fmt.low) == -20 + 3  # ceil(-20.4) + 3
        assert int(fmt.high) == 20 + 3  # floor(20.4) + 3
        assert int(fmt.magnitude()) == 20
        assert fmt.quantize([-99.0, -10.2, 10.2, 99.0]).tolist() == [-17, -17, 23, 23]

    def test_a_clip_beyond_the_word_changes_nothing(self) -> None:
        fmt = Format(4, np.float32(0.5), np.int64(0), clip=100.0)
        assert (int(fmt.low), int(fmt.high)) == (-8, 7)

    def test_a_clip_counts_per_head(self) -> None:
        fmt = Format(8, np.array([1.0, 0.01], np.float32), np.array([0, 10]), clip=2.0)
        assert fmt.low.tolist() == [-2, -128]
        assert fmt.high.tolist() == [2, 127]

    @settings(max_examples=150)
    @given(formats())
    def test_zero_point_and_bounds_lie_inside_the_word(self, fmt: Format) -> None:
        assert fmt.code_min <= int(fmt.low) <= int(fmt.zero_point) <= int(fmt.high) <= fmt.code_max
        if fmt.symmetric:
            assert fmt.code_min == -fmt.code_max
        if fmt.clip is not None:
            ends = np.abs(fmt.dequantize([fmt.low, fmt.high]))
            assert np.all(ends <= fmt.clip * (1 + 1e-12))


class TestSpread:
    @pytest.mark.parametrize(
        ("shape", "ndim", "axis", "wanted"),
        [
            ((), 4, 1, ()),
            ((3,), 3, 1, (1, 3, 1)),
            ((3,), 3, 0, (3, 1, 1)),
            ((3,), 1, 0, (3,)),
            ((3, 2), 4, 1, (1, 3, 2, 1)),
            ((3, 2), 3, 0, (3, 2, 1)),
            ((3, 2), 2, 0, (3, 2)),
            ((3,), 3, -2, (1, 3, 1)),
            ((3, 2), 4, -3, (1, 3, 2, 1)),
        ],
    )
    def test_heads_stand_on_their_axis_and_states_on_the_next(
        self, shape: tuple[int, ...], ndim: int, axis: int, wanted: tuple[int, ...]
    ) -> None:
        x = np.arange(np.prod(shape, dtype=int)).reshape(shape)
        assert broadcast_heads(x, ndim, axis).shape == wanted
        assert broadcast_heads(x, ndim, axis).ravel().tolist() == x.ravel().tolist()


class TestRounding:
    def test_half_to_even(self) -> None:
        fmt = Format(8, np.float32(1.0), np.int64(0))
        assert fmt.quantize([0.5, 1.5, 2.5, -0.5, -1.5, -2.5]).tolist() == [0, 2, 2, 0, -2, -2]

    @settings(max_examples=150)
    @given(formats(), st.lists(st.floats(-1e7, 1e7), min_size=1, max_size=8))
    def test_nearest_code_or_saturated(self, fmt: Format, values: list[float]) -> None:
        scale = float(fmt.scale)
        for value, code in zip(values, fmt.quantize(values).tolist(), strict=True):
            assert int(fmt.low) <= code <= int(fmt.high)
            back = float(fmt.dequantize(code))
            if (code == int(fmt.high) and value >= back) or (code == int(fmt.low) and value <= back):
                continue  # saturated: the bound is the nearest there is
            assert abs(back - value) <= scale * (0.5 + 1e-9) + 1e-12 * abs(value)

    @settings(max_examples=100)
    @given(formats())
    def test_every_code_comes_back(self, fmt: Format) -> None:
        codes = np.unique(np.linspace(int(fmt.low), int(fmt.high), 257).astype(np.int64))
        assert np.array_equal(fmt.quantize(fmt.dequantize(codes)), codes)


class TestErrors:
    @pytest.mark.parametrize("bits", [1, 17, 0, -8])
    def test_word_length(self, bits: int) -> None:
        with pytest.raises(FormatError, match=r"word length .* allowed are 2 to 16"):
            Format(bits, np.float32(1), np.int64(0))
        with pytest.raises(FormatError, match="word length"):
            Format.from_range(-1, 1, bits)

    @pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e-42])
    def test_scale(self, scale: float) -> None:
        with pytest.raises(FormatError, match="cannot be held by float32"):
            Format(8, np.float32(scale), np.int64(0))

    @pytest.mark.parametrize(
        ("low", "high"), [(float("nan"), 1.0), (-1.0, float("inf")), ([0.0, -np.inf], [1, 1])]
    )
    def test_range_not_finite(self, low: float, high: float) -> None:
        with pytest.raises(FormatError, match="not finite"):
            Format.from_range(low, high, 8)

    @pytest.mark.parametrize("symmetric", [False, True])
    @pytest.mark.parametrize("high", [1e308, 1e300])
    def test_range_beyond_float32(self, high: float, symmetric: bool) -> None:
        with pytest.raises(FormatError, match="cannot be held by float32"):
            Format.from_range(-high, high, 8, symmetric=symmetric)
        with pytest.raises(FormatError, match="cannot be held by float32"):
            Format.from_range([-1.0, 0.0], [1.0, high], 8, symmetric=symmetric)

    @pytest.mark.parametrize("zero", [-129, 128])
    def test_zero_point_outside_the_codes(self, zero: int) -> None:
        with pytest.raises(FormatError, match="outside the codes"):
            Format(8, np.float32(1), np.int64(zero))

    def test_symmetric_has_no_zero_point(self) -> None:
        with pytest.raises(FormatError, match="symmetric"):
            Format(8, np.float32(1), np.int64(1), symmetric=True)

    @pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
    def test_clip(self, clip: float) -> None:
        with pytest.raises(FormatError, match="clip"):
            Format(8, np.float32(1), np.int64(0), clip=clip)

    def test_shapes(self) -> None:
        with pytest.raises(FormatError, match="shape"):
            Format(8, np.ones(3, np.float32), np.zeros(2, np.int64))
        with pytest.raises(FormatError, match="shape"):
            Format(8, np.ones((2, 2), np.float32), np.zeros(2, np.int64))
        with pytest.raises(FormatError, match="shape"):
            Format(8, np.ones((2, 2, 2), np.float32), np.zeros((2, 2, 2), np.int64))

    def test_not_a_number(self) -> None:
        with pytest.raises(FormatError, match="not a number"):
            Format(8, np.float32(1), np.int64(0)).quantize([0.0, float("nan")])

    @pytest.mark.parametrize(
        ("field", "value"), [("rounding_placement", "both"), ("rounding", "floor"), ("rounding", "")]
    )
    def test_unknown_rules(self, field: str, value: str) -> None:
        fmt = Format.from_range(-1, 1, 8)
        with pytest.raises(FormatError, match=f"{field} {value!r}; allowed are '(joint|half_even)', '"):
            ScanFormats(a=fmt, u=fmt, x=fmt, **{field: value})  # type: ignore[arg-type]

    @pytest.mark.parametrize("part", ["u", "y"])
    def test_input_and_output_have_no_states(self, part: str) -> None:
        fmt = Format.from_range(-1, 1, 8)
        state = Format.from_range(np.full((2, 3), -1), np.full((2, 3), 1), 8)
        ScanFormats(a=state, u=fmt, x=state, b=state, c=state)
        with pytest.raises(FormatError, match=f"format of {part} is per state"):
            ScanFormats(**{"a": fmt, "u": fmt, "x": fmt, part: state})
