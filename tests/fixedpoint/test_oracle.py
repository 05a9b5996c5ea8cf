"""The oracle of the update: a worked example, an exact re-calculation in Python's integers, and its limit."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Format, ScanFormats, ScanPlan, plan_scan, scan_codes


def dyadic(bits: int, scale: float, zero: int = 0, clip: float | None = None) -> Format:
    return Format(bits, np.float32(scale), np.int64(zero), clip=clip)


# One head, one state. a = 0.5 + 0.25i, b = 1 - 0.5i, c = 0.75 - 0.5i, all scales powers of two.
WORKED = ScanFormats(
    a=dyadic(8, 1 / 64),
    u=dyadic(8, 1 / 4),
    x=dyadic(8, 1 / 16),
    b=dyadic(8, 1 / 8),
    c=dyadic(8, 1 / 4),
    y=dyadic(8, 1 / 2),
)
A, B, C = (np.array([[codes]]) for codes in ([32, 16], [8, -4], [3, -2]))
U = np.array([[[8, -5, 0, 127]]])  # 2.0, -1.25, 0, 31.75


class TestWorkedExample:
    def test_plan(self) -> None:
        plan = plan_scan(WORKED, 1, 1)
        # ratios: a/64 and (1/8)(1/4)/(1/16) = 1/2; bounds 2 128^2 and 128^2:
        # 2^s (2^15/64 + 2^14/2) + 2^(s-1) < 2^31 allows s = 17
        assert (plan.word, plan.shift[0], plan.m_a[0], plan.m_b[0]) == (32, 17, 2**11, 2**16)
        # output: 2 (1/4)(1/16)/(1/2) = 1/16; 2^s/16 < 2^24 allows s = 27
        assert plan.m_y is not None
        assert plan.shift_y is not None
        assert (plan.shift_y[0], plan.m_y[0]) == (27, 2**23)

    def test_codes(self) -> None:
        y, last, overflow = scan_codes(plan_scan(WORKED, 1, 1), U, A, B, C)
        # t=0  x = (8*8/2, -4*8/2)                              = (32, -16)   sum = 3*32 - 2*16 = 64  y = 4
        # t=1  x = ((32*32 + 16*16)/64 - 8*5/2, 0 + 4*5/2)      = (0, 10)     sum = 2*10 = 20         y = 1.25 -> 1
        # t=2  x = (-16*10/64, 32*10/64) = (-2.5, 5)            -> (-2, 5)    sum = -6 + 10 = 4       y = 0.25 -> 0
        # t=3  x = (-144/64 + 508, 128/64 - 254) = (505.75, -252) -> (127, -128), both saturated;
        #      sum = 3*127 - 2*128 = 125, read from the saturated state                               y = 7.8 -> 8
        assert y.tolist() == [[[4, 1, 0, 8]]]
        assert last.tolist() == [[[[127, -128]]]]
        assert overflow.state.tolist() == [2]
        assert overflow.output.tolist() == [0]

    def test_bare_sum_without_an_output_format(self) -> None:
        y, _, overflow = scan_codes(plan_scan(replace(WORKED, y=None), 1, 1), U, A, B, C)
        assert y.tolist() == [[[64, 20, 4, 125]]]
        assert overflow.output.tolist() == [0]

    def test_output_saturates_and_counts(self) -> None:
        plan = plan_scan(replace(WORKED, y=dyadic(3, 1 / 2)), 1, 1)
        y, _, overflow = scan_codes(plan, U, A, B, C)
        assert y.tolist() == [[[3, 1, 0, 3]]]
        assert overflow.output.tolist() == [2]

    def test_a_clip_bounds_the_state(self) -> None:
        plan = plan_scan(replace(WORKED, x=dyadic(8, 1 / 16, clip=1.3)), 1, 1)  # +-20.8 codes -> +-20
        y, last, overflow = scan_codes(plan, U[..., :1], A, B, C)
        assert last.tolist() == [[[[20, -16]]]]
        assert y.tolist() == [[[2]]]  # 3*20 - 2*16 = 28, /16 = 1.75 -> 2
        assert overflow.state.tolist() == [1]

    def test_initial_state(self) -> None:
        plan = plan_scan(WORKED, 1, 1)
        _, middle, _ = scan_codes(plan, U[..., :2], A, B, C)
        y, last, _ = scan_codes(plan, U[..., 2:], A, B, C, middle)
        assert y.tolist() == [[[0, 8]]]
        assert last.tolist() == [[[[127, -128]]]]

    def test_identity_b_and_c_are_exactly_one(self) -> None:
        formats = replace(WORKED, b=None, c=None, x=dyadic(8, 1 / 4), y=None)
        y, last, _ = scan_codes(plan_scan(formats, 1, 1), U[..., :2], A)
        # t=0 x = (8, 0); t=1 x = (32*8/64 - 5, 16*8/64) = (-1, 2); y = sum of real parts
        assert y.tolist() == [[[8, -1]]]
        assert last.tolist() == [[[[-1, 2]]]]

    @pytest.mark.parametrize("part", ["a", "b", "c", "u", "x", "y"])
    def test_a_zero_point_only_renames_the_codes(self, part: str) -> None:
        # All ratios are powers of two, so another shift changes no rounding; clips keep equal bounds.
        base = replace(WORKED, x=dyadic(8, 1 / 16, clip=6.0), y=dyadic(8, 1 / 2, clip=40.0))
        old = getattr(base, part)
        moved = replace(base, **{part: Format(old.bits, old.scale, np.int64(7), clip=old.clip)})
        operands = {"u": U[..., :3], "a": A, "b": B, "c": C}
        if part in operands:
            operands[part] = operands[part] + 7
        y0, x0, o0 = scan_codes(plan_scan(base, 1, 1), U[..., :3], A, B, C)
        y1, x1, o1 = scan_codes(plan_scan(moved, 1, 1), **operands)
        assert np.array_equal(y1 - 7 * (part == "y"), y0)
        assert np.array_equal(x1 - 7 * (part == "x"), x0)
        assert o1.state.tolist() == o0.state.tolist()


def in_python(
    plan: ScanPlan, u: np.ndarray, a: np.ndarray, b: np.ndarray | None, c: np.ndarray | None
) -> tuple[list, list[int], list[int], int]:
    """The update in Python's integers: y[b][h][t], overflows of state and of output per head, widest word."""
    f = plan.formats
    batch, heads, time = u.shape
    wide = 0
    state_lost, output_lost = [0] * heads, [0] * heads
    ys = np.zeros(u.shape, object)

    def centred(codes: np.ndarray | None, part: str, h: int, n: int) -> tuple[int, int]:
        if codes is None:
            return 1, 0
        zero = int(plan.zero(part)[h])
        return int(codes[h, n, 0]) - zero, int(codes[h, n, 1]) - zero

    for i in range(batch):
        for h in range(heads):
            x = [(0, 0)] * plan.states
            low, high, shift = int(plan.low[h]), int(plan.high[h]), int(plan.shift[h])
            for t in range(time):
                drive = int(u[i, h, t]) - int(plan.zero("u")[h])
                total = 0
                for n in range(plan.states):
                    (ar, ai), (br, bi) = centred(a, "a", h, n), centred(b, "b", h, n)
                    cr, ci = centred(c, "c", h, n)
                    words = [
                        int(plan.m_a[h]) * (ar * x[n][0] - ai * x[n][1]) + int(plan.m_b[h]) * br * drive,
                        int(plan.m_a[h]) * (ar * x[n][1] + ai * x[n][0]) + int(plan.m_b[h]) * bi * drive,
                    ]
                    wide = max(wide, *(abs(w) + 2**shift // 2 for w in words))
                    free = [round(Fraction(w, 2**shift)) for w in words]
                    kept = [min(max(w, low), high) for w in free]
                    state_lost[h] += sum(p != q for p, q in zip(free, kept, strict=True))
                    x[n] = (kept[0], kept[1])
                    total += cr * kept[0] - ci * kept[1]
                if f.y is not None and plan.m_y is not None and plan.shift_y is not None:
                    shift_y = int(plan.shift_y[h])
                    free_y = round(Fraction(int(plan.m_y[h]) * total, 2**shift_y)) + int(plan.zero("y")[h])
                    low_y, high_y = (int(np.broadcast_to(v, heads)[h]) for v in (f.y.low, f.y.high))
                    total = min(max(free_y, low_y), high_y)
                    output_lost[h] += total != free_y
                ys[i, h, t] = total
    return ys.tolist(), state_lost, output_lost, wide


@st.composite
def scans(draw: st.DrawFn) -> tuple[ScanPlan, list[np.ndarray | None]]:
    heads, states = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    symmetric, per_head = draw(st.booleans()), draw(st.booleans())
    dyadic = draw(st.booleans())  # powers of two: sums fall exactly between two codes again and again

    def fmt(reach: float, clip: float | None = None) -> Format:
        size = (heads,) if per_head else ()
        ends = reach * rng.uniform(0.2, 1, (2, *size))
        drawn = Format.from_range(-ends[0], ends[1], draw(st.integers(2, 16)), symmetric=symmetric, clip=clip)
        if not dyadic:
            return drawn
        scale = np.exp2(np.round(np.log2(drawn.scale))).astype(np.float32)
        return Format(drawn.bits, scale, drawn.zero_point, symmetric, clip)

    formats = ScanFormats(
        a=fmt(1.05),
        u=fmt(2.0),
        x=fmt(draw(st.sampled_from([0.5, 4.0])), draw(st.sampled_from([None, 0.7]))),
        b=draw(st.sampled_from([None, fmt(1.0)])),
        c=draw(st.sampled_from([None, fmt(1.0)])),
        y=draw(st.sampled_from([None, fmt(2.0)])),
    )

    def codes(part: Format | None, shape: tuple[int, ...], axis: int) -> np.ndarray | None:
        if part is None:
            return None
        low, high = (Format._spread(v, len(shape), axis) for v in (part.low, part.high))
        return rng.integers(low, high, shape, endpoint=True)

    try:
        plan = plan_scan(formats, heads, states)
    except FormatError:  # a state much finer than its inputs at 16 bits
        reject()
    coefficients = [codes(p, (heads, states, 2), 0) for p in (formats.a, formats.b, formats.c)]
    return plan, [codes(formats.u, (2, heads, 6), 1), *coefficients]


class TestExactness:
    @settings(max_examples=120, deadline=None)
    @given(scans())
    def test_equals_pythons_integers(self, case: tuple[ScanPlan, list[np.ndarray | None]]) -> None:
        plan, (u, a, b, c) = case
        assert u is not None
        assert a is not None
        y, last, overflow = scan_codes(plan, u, a, b, c)
        expected, state_lost, output_lost, widest = in_python(plan, u, a, b, c)
        assert y.tolist() == expected
        assert overflow.state.tolist() == state_lost
        assert overflow.output.tolist() == output_lost
        # What the plan promises about its words holds for the words that occurred.
        assert widest < (2**31 if plan.word == 32 else 2**62)
        zero = plan.zero("x")[:, None, None]
        assert np.all((last - zero >= plan.low[:, None, None]) & (last - zero <= plan.high[:, None, None]))
        if plan.formats.y is not None:
            low, high = (Format._spread(v, 3, 1) for v in (plan.formats.y.low, plan.formats.y.high))
            assert np.all((y >= low) & (y <= high))


def test_approaches_the_real_recurrence_as_bits_grow() -> None:
    rng = np.random.default_rng(5)
    heads, states, time = 2, 4, 60
    a = 0.95 * np.exp(1j * rng.uniform(0, 3, (heads, states)))
    b, c = (rng.standard_normal((heads, states)) + 1j * rng.standard_normal((heads, states)) for _ in range(2))
    u = rng.standard_normal((3, heads, time))
    x, xs, ys = np.zeros((3, heads, states), complex), [], []
    for t in range(time):
        x = a * x + b * u[..., t, None]
        xs.append(x)
        ys.append(2 * (c * x).real.sum(-1))
    exact = np.stack(ys, axis=-1)

    def parts(z: np.ndarray) -> np.ndarray:
        return np.stack([z.real, z.imag], axis=-1)

    errors = []
    for bits in (6, 8, 10, 12, 14, 16):
        span = [(v.min(), v.max()) for v in (parts(a), u, parts(np.stack(xs)), parts(b), parts(c), exact)]
        fa, fu, fx, fb, fc, fy = (Format.from_range(low, high, bits) for low, high in span)
        plan = plan_scan(ScanFormats(a=fa, u=fu, x=fx, b=fb, c=fc, y=fy), heads, states)
        coded = (f.quantise(parts(z)) for f, z in ((fa, a), (fb, b), (fc, c)))
        y, _, overflow = scan_codes(plan, fu.quantise(u), *coded)
        errors.append(np.abs(fy.dequantise(y) - exact).max() / np.abs(exact).max())
        assert overflow.output.sum() <= y.size * 0.01
    # Two more bits: about four times less error, and never less than twice.
    assert all(later < earlier / 2 for earlier, later in pairwise(errors)), errors
    assert errors[-1] < 5e-4


@pytest.mark.parametrize("coarse", [8, 12, 16])
@pytest.mark.parametrize("fine", [8, 12, 16])
def test_a_free_decay_follows_the_pole_whatever_the_inputs_word(fine: int, coarse: int) -> None:
    # 0.97 (cos 0.1 + i sin 0.1), no input: what decays is the poles' multiplier alone.
    pole = 0.97 * np.exp(0.1j)
    part = np.array([[[pole.real, pole.imag]]])
    fa = Format.from_range(-1.0, 1.0, fine)
    fx = Format.from_range(-4.0, 4.0, fine)
    fu, fb, fc = (Format.from_range(-1.0, 1.0, coarse) for _ in range(3))
    plan = plan_scan(ScanFormats(a=fa, u=fu, x=fx, b=fb, c=fc), 1, 1)
    x0 = fx.quantise(np.array([[[[3.0, 0.0]]]]))
    zero = fu.quantise(np.zeros((1, 1, 20)))
    _, last, _ = scan_codes(plan, zero, fa.quantise(part), fb.quantise(part), fc.quantise(part), x0)
    stored = complex(*fa.dequantise(fa.quantise(part)).ravel())
    exact = 3.0 * stored**20
    found = complex(*fx.dequantise(last).ravel())
    # 20 roundings of the state, each at most half a code per part, and the multiplier's relative error.
    allowed = 20 * 0.71 * float(fx.scale) + 20 * 2.0**-9 * abs(exact)
    assert abs(found - exact) < allowed


class TestErrors:
    def test_shapes_dtypes_and_ranges(self) -> None:
        plan = plan_scan(WORKED, 1, 1)
        with pytest.raises(FormatError, match="u has shape"):
            scan_codes(plan, U[0], A, B, C)
        with pytest.raises(FormatError, match="u has shape"):
            scan_codes(plan, np.repeat(U, 2, axis=1), A, B, C)
        with pytest.raises(FormatError, match="a has shape"):
            scan_codes(plan, U, A[0], B, C)
        with pytest.raises(FormatError, match="c has shape"):
            scan_codes(plan, U, A, B, np.repeat(C, 2, axis=1))
        with pytest.raises(FormatError, match="dtype float64"):
            scan_codes(plan, U * 1.0, A, B, C)
        with pytest.raises(FormatError, match="u holds codes outside its format of 8 bits"):
            scan_codes(plan, U + 1, A, B, C)
        with pytest.raises(FormatError, match="x0 holds codes outside"):
            scan_codes(plan, U, A, B, C, np.full((1, 1, 1, 2), -129))
        with pytest.raises(FormatError, match="x0 has shape"):
            scan_codes(plan, U, A, B, C, np.zeros((2, 1, 1, 2), np.int64))
