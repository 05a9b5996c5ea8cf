"""The oracle of the update: a worked example, an exact re-calculation in Python's integers, and its limit."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Format, Noise, ScanFormats, ScanPlan, broadcast_heads, plan_scan, scan_codes
from imc_ssm.fixedpoint.formats import NEAREST, ROUNDING_PLACEMENTS

Operands = tuple[np.ndarray | None, ...]
"""Codes of u, a, b, c."""


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
        # ratios: 1/64 and (1/8)(1/4)/(1/16) = 1/2, powers of two: 2^6 is the smallest that makes integers of both
        assert (plan.word, plan.shift[0], plan.m_a[0], plan.m_b[0]) == (32, 6, 1, 2**5)
        # output: 2 (1/4)(1/16)/(1/2) = 1/16
        assert plan.m_y is not None
        assert plan.shift_y is not None
        assert (plan.shift_y[0], plan.m_y[0]) == (4, 1)

    def test_plan_with_multipliers(self) -> None:
        # A pole's scale a little beside 1/64: bounds 2 128^2 and 128^2,
        # 2^s (2^15/64 + 2^14/2) + 2^(s-1) < 2^31 allows s = 17
        beside = replace(WORKED.a, scale=np.float32(1 / 64) * np.float32(1 - 2.0**-20))
        plan = plan_scan(replace(WORKED, a=beside), 1, 1)
        assert (plan.word, plan.shift[0], plan.m_a[0], plan.m_b[0]) == (32, 17, 2**11, 2**16)
        # 2^s/16 < 2^24 allows s = 27
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

    @pytest.mark.parametrize(
        ("rounding", "state", "output"),
        [
            ("half_even", [0, 2, 0, -2], [2, -2, 4, -4]),
            ("half_up", [1, 2, 0, -1], [2, -1, 5, -4]),
            ("half_away", [1, 2, -1, -2], [2, -2, 5, -5]),
        ],
    )
    @pytest.mark.parametrize("order", ["joint", "separate"])
    def test_ties_of_state_and_output(
        self, order: str, rounding: str, state: list[int], output: list[int]
    ) -> None:
        # Without a pole the state is b' u' / 2, here 0.5, 1.5, -0.5, -1.5.
        none = np.zeros_like(A)
        rules = {"rounding_placement": order, "rounding": rounding}
        plan = plan_scan(replace(WORKED, c=None, y=None, **rules), 1, 1)  # type: ignore[arg-type]
        y, _, _ = scan_codes(plan, np.array([[[1, 3, -1, -3]]]), none, np.array([[[1, 0]]]))
        assert y.tolist() == [[state]]
        # x' = 4 u', sum = 3 x', y = sum / 16: 1.5, -1.5, 4.5, -4.5.
        plan = plan_scan(replace(WORKED, **rules), 1, 1)  # type: ignore[arg-type]
        y, _, _ = scan_codes(plan, np.array([[[2, -2, 6, -6]]]), none, np.array([[[8, 0]]]), C)
        assert y.tolist() == [[output]]

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


def nearest(value: Fraction, rounding: str) -> int:
    """The nearest integer; the three roundings by their definitions."""
    if rounding == "half_even":
        return round(value)
    up = math.floor(abs(value) + Fraction(1, 2))
    if rounding == "half_away":
        return up if value >= 0 else -up
    return math.floor(value + Fraction(1, 2))


@dataclass
class Exact:
    """A scan in Python's integers and fractions."""

    y: list
    last: list
    state_lost: list[int]
    output_lost: list[int]
    wide: int
    """The widest word, whatever the order in which products of folded coefficients are added."""
    wide_output: int


def in_python(plan: ScanPlan, operands: Operands, x0: np.ndarray | None, noise: Noise | None) -> Exact:
    """The update of docs/fixed_point.md, word by word."""
    f, (u, a, b, c) = plan.formats, operands
    assert u is not None
    batch, heads, time = u.shape
    y, last = np.zeros(u.shape, object), np.zeros((batch, heads, plan.states, 2), object)
    found = Exact([], [], [0] * heads, [0] * heads, 0, 0)

    def centred(codes: np.ndarray | None, part: str, h: int, n: int) -> tuple[int, int]:
        if codes is None:
            return 1, 0
        zero = int(plan.zero(part)[h, n])
        return int(codes[h, n, 0]) - zero, int(codes[h, n, 1]) - zero

    def requantized(terms: list[int], shift: int) -> int:
        found.wide = max(found.wide, sum(abs(term) for term in terms) + 2**shift // 2)
        return nearest(Fraction(sum(terms), 2**shift), f.rounding)

    for i, h in np.ndindex(batch, heads):
        zeros = [int(plan.zero("x")[h, n]) for n in range(plan.states)]
        x = [
            [0, 0] if x0 is None else [int(x0[i, h, n, k]) - zeros[n] for k in (0, 1)] for n in range(plan.states)
        ]
        for t in range(time):
            drive = int(u[i, h, t]) - int(plan.zero("u")[h])
            drawn = None if noise is None or plan.m_z is None else noise.of_state(batch, heads, plan.states, t)
            terms: list[int] = []
            for n in range(plan.states):
                (ar, ai), bs, (cr, ci) = (centred(q, s, h, n) for q, s in ((a, "a"), (b, "b"), (c, "c")))
                m_a, m_b, m_c, shift, shift_b, low, high = (
                    int(v[h, n])
                    for v in (plan.m_a, plan.m_b, plan.m_c, plan.shift, plan.shift_b, plan.low, plan.high)
                )
                # Folded coefficients are words of the unit as well.
                found.wide = max(found.wide, *(abs(m_a * q) for q in (ar, ai)), *(abs(m_b * q) for q in bs))
                new = []
                for k in (0, 1):
                    ax = (
                        [m_a * ar * x[n][0], -m_a * ai * x[n][1]]
                        if k == 0
                        else [m_a * ar * x[n][1], m_a * ai * x[n][0]]
                    )
                    if drawn is not None and plan.m_z is not None:
                        ax.append(int(plan.m_z[h, n]) * int(drawn[i, h, n, k]))
                    bu = [m_b * bs[k] * drive]
                    if f.rounding_placement == "joint":
                        free = requantized(ax + bu, shift)
                        lost = not low <= free <= high
                    else:
                        p, q = requantized(ax, shift), requantized(bu, shift_b)
                        free = min(max(p, low), high) + min(max(q, low), high)
                        lost = any(not low <= v <= high for v in (p, q, free))
                    new.append(min(max(free, low), high))
                    found.state_lost[h] += lost
                x[n] = new
                terms += [m_c * cr * new[0], -m_c * ci * new[1]]
            total = sum(terms)
            found.wide = max(found.wide, sum(abs(term) for term in terms))
            if f.y is not None and plan.m_y is not None and plan.shift_y is not None:
                m_y, shift_y = int(plan.m_y[h]), int(plan.shift_y[h])
                word = sum(abs(m_y * term) for term in terms) + 2**shift_y // 2
                found.wide_output = max(found.wide_output, word)
                free = nearest(Fraction(m_y * total, 2**shift_y), f.rounding) + int(plan.zero("y")[h])
                low_y, high_y = (int(np.broadcast_to(v, heads)[h]) for v in (f.y.low, f.y.high))
                total = min(max(free, low_y), high_y)
                found.output_lost[h] += total != free
            y[i, h, t] = total
        for n in range(plan.states):
            last[i, h, n] = [v + zeros[n] for v in x[n]]
    found.y, found.last = y.tolist(), last.tolist()
    return found


@st.composite
def scans(draw: st.DrawFn) -> tuple[ScanPlan, Operands, np.ndarray | None, Noise | None]:
    heads, states = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    symmetric = draw(st.booleans())
    powers = draw(st.booleans())  # of two: sums fall exactly between two codes again and again
    bits = st.integers(2, 16) if draw(st.booleans()) else st.just(draw(st.integers(2, 16)))
    shapes = st.sampled_from([(), (heads,), (heads, states)])

    def fmt(reach: float, clip: float | None = None, *, shape: tuple[int, ...] | None = None) -> Format:
        shape = draw(shapes) if shape is None else shape
        ends = reach * rng.uniform(0.2, 1, (2, *shape))
        drawn = Format.from_range(-ends[0], ends[1], draw(bits), symmetric=symmetric, clip=clip)
        if not powers:
            return drawn
        scale = np.exp2(np.round(np.log2(drawn.scale))).astype(np.float32)
        return Format(drawn.bits, scale, drawn.zero_point, symmetric, clip)

    per_head = st.sampled_from([(), (heads,)])
    formats = ScanFormats(
        a=fmt(1.05),
        u=fmt(2.0, shape=draw(per_head)),
        x=fmt(draw(st.sampled_from([0.5, 4.0])), draw(st.sampled_from([None, 0.7]))),
        b=fmt(1.0) if draw(st.booleans()) else None,
        c=fmt(1.0) if draw(st.booleans()) else None,
        y=fmt(2.0, shape=draw(per_head)) if draw(st.booleans()) else None,
        rounding_placement=draw(st.sampled_from(ROUNDING_PLACEMENTS)),  # type: ignore[arg-type]
        rounding=draw(st.sampled_from(NEAREST)),  # type: ignore[arg-type]
    )
    noise = Noise(draw(st.integers(0, 2**64 - 1)), draw(st.sampled_from([0.01, 0.5])), sample=7, time=3)
    noisy = draw(st.booleans())
    plan = plan_scan(formats, heads, states, noise.state if noisy else 0.0)

    def codes(part: Format | None, shape: tuple[int, ...], axis: int) -> np.ndarray | None:
        if part is None:
            return None
        low, high = (broadcast_heads(v, len(shape), axis) for v in (part.low, part.high))
        wild = rng.integers(low, high, shape, endpoint=True)
        # Half of the codes are the extreme ones, which make the widest words.
        return np.where(rng.random(shape) < 0.5, wild, np.where(rng.random(shape) < 0.5, low, high))

    shape = (heads, states, 2)
    if draw(st.booleans()):  # poles with |a| up to 1.05, on their grid
        angle, size = rng.uniform(-3.15, 3.15, shape[:2]), rng.uniform(0.8, 1.05, shape[:2])
        a = formats.a.quantize(np.stack([size * np.cos(angle), size * np.sin(angle)], -1))
    else:
        a = codes(formats.a, shape, 0)
    operands = (codes(formats.u, (2, heads, 6), 1), a, codes(formats.b, shape, 0), codes(formats.c, shape, 0))
    x0 = codes(formats.x, (2, *shape), 1) if draw(st.booleans()) else None
    return plan, operands, x0, noise if noisy else None


class TestExactness:
    @settings(max_examples=150, deadline=None)
    @given(scans())
    def test_equals_pythons_integers(
        self, case: tuple[ScanPlan, Operands, np.ndarray | None, Noise | None]
    ) -> None:
        plan, operands, x0, noise = case
        y, last, overflow = scan_codes(plan, *operands, x0, noise)
        exact = in_python(plan, operands, x0, noise)
        assert y.tolist() == exact.y
        assert last.tolist() == exact.last
        assert overflow.state.tolist() == exact.state_lost
        assert overflow.output.tolist() == exact.output_lost
        # What the plan promises about its words holds for the words that occurred.
        assert exact.wide < 2 ** (plan.word - 1)
        assert exact.wide_output < 2**52

    @settings(max_examples=40, deadline=None)
    @given(scans())
    def test_orders_agree_where_one_product_is_zero(
        self, case: tuple[ScanPlan, Operands, np.ndarray | None, Noise | None]
    ) -> None:
        # Without input, the separate order rounds a x as the joint order does, if their multipliers are equal.
        plan, (_, a, _, c), x0, _ = case
        zero = np.broadcast_to(plan.zero("u")[:, None], (2, plan.heads, 6)).copy()
        formats = replace(plan.formats, b=None)
        found = []
        for order in ROUNDING_PLACEMENTS:
            other = plan_scan(replace(formats, rounding_placement=order), plan.heads, plan.states)  # type: ignore[arg-type]
            other = replace(other, m_a=plan.m_a, shift=plan.shift)
            found.append(scan_codes(other, zero, a, None, c, x0))  # type: ignore[arg-type]
        assert np.array_equal(found[0][1], found[1][1])
        assert found[0][2].state.tolist() == found[1][2].state.tolist()


@pytest.mark.parametrize("order", ["joint", "separate"])
def test_formats_per_state_equal_states_alone(order: str) -> None:
    """A recurrence of formats per head and state is many recurrences of one head and one state."""
    rng = np.random.default_rng(8)
    low, high = -rng.uniform(0.5, 3, (4, 2, 3)), rng.uniform(0.5, 3, (4, 2, 3))
    a, b, c, x = (Format.from_range(lo, hi, 16) for lo, hi in zip(low, high, strict=True))
    u_fmt = Format.from_range([-1.0, -2.0], [1.5, 1.0], 16)
    formats = ScanFormats(a=a, u=u_fmt, x=x, b=b, c=c, rounding_placement=order)  # type: ignore[arg-type]
    u = rng.integers(-(2**15), 2**15, (2, 2, 9))
    codes = [rng.integers(-(2**15), 2**15, (2, 3, 2)) for _ in range(3)]
    plan = plan_scan(formats, 2, 3)
    y, last, overflow = scan_codes(plan, u, *codes)
    assert np.all(overflow.state > 0)
    total, lost = np.zeros(y.shape), np.zeros(2, int)
    for h, n in np.ndindex(2, 3):
        one = {
            name: Format(16, fmt.scale[h, n], fmt.zero_point[h, n])
            for name, fmt in (("a", a), ("b", b), ("c", c), ("x", x))
        }
        alone = plan_scan(
            ScanFormats(u=Format(16, u_fmt.scale[h], u_fmt.zero_point[h]), rounding_placement=order, **one),  # type: ignore[arg-type]
            1,
            1,
        )
        y1, last1, overflow1 = scan_codes(alone, u[:, h : h + 1], *(q[h : h + 1, n : n + 1] for q in codes))
        assert np.array_equal(last1[:, 0, 0], last[:, h, n])
        total[:, h] += alone.sum_scale[0] * y1[:, 0]
        lost[h] += int(overflow1.state[0])
    assert overflow.state.tolist() == lost.tolist()
    # Three states of 16-bit codes leave 18 of 52 bits: the alignment has 9, and is right to half of its last.
    assert plan.m_c.max(axis=1).tolist() == [2**9] * 2
    reach = plan.sum_scale[:, None] * (3 * 2**32)
    assert np.all(np.abs(plan.sum_scale[:, None] * y - total) <= reach)
    assert np.all(np.abs(plan.sum_scale[:, None] * y - total) < 2**-8 * np.abs(total).max())


class TestNoise:
    @pytest.mark.parametrize("order", ["joint", "separate"])
    @pytest.mark.parametrize("codes", [0.7, 12.5])
    def test_has_its_deviation(self, order: str, codes: float) -> None:
        # A state that forgets (a' = 0) without input is the noise, rounded: variance sigma^2 + 1/12.
        formats = replace(WORKED, x=dyadic(12, 1 / 16), c=None, y=None, rounding_placement=order)
        plan = plan_scan(formats, 3, 5, codes / 16)
        shape = (3, 5, 2)
        _, last, _ = scan_codes(
            plan,
            np.zeros((2000, 3, 1), np.int64),
            np.zeros(shape, np.int64),
            np.zeros(shape, np.int64),
            noise=Noise(11, codes / 16),
        )
        variance = codes**2 + 1 / 12
        assert last.size == 60_000
        # Five standard errors of a mean and of a variance of that many normal numbers.
        assert abs(last.mean()) < 5 * np.sqrt(variance / last.size)
        assert abs(last.var() / variance - 1) < 5 * np.sqrt(2 / last.size)

    def test_is_the_same_wherever_sequence_and_batch_are_cut(self) -> None:
        rng = np.random.default_rng(2)
        plan = plan_scan(replace(WORKED, y=None), 1, 1, 0.3)
        u, noise = rng.integers(-20, 20, (5, 1, 12)), Noise(2**63 + 5, 0.3, sample=100, time=40)
        whole, last, lost = scan_codes(plan, u, A, B, C, noise=noise)
        quiet, _, _ = scan_codes(plan, u, A, B, C)
        assert np.mean(whole != quiet) > 0.5
        pieces, x, count = [], None, 0
        for start, stop in ((0, 1), (1, 8), (8, 12)):
            part, x, o = scan_codes(plan, u[..., start:stop], A, B, C, x, noise.later(start))
            pieces.append(part)
            count += int(o.state[0])
        assert np.array_equal(np.concatenate(pieces, -1), whole)
        assert np.array_equal(x, last)
        assert count == int(lost.state[0])
        rest, x, _ = scan_codes(plan, u[2:], A, B, C, noise=replace(noise, sample=102))
        assert np.array_equal(rest, whole[2:])
        assert np.array_equal(x, last[2:])

    def test_of_the_poles_alone_needs_no_multiplier(self) -> None:
        plan = plan_scan(WORKED, 1, 1)
        y, _, _ = scan_codes(plan, U, A, B, C, noise=Noise(1, poles=0.5))
        assert np.array_equal(y, scan_codes(plan, U, A, B, C)[0])


def test_a_state_word_counts_once_however_often_it_saturates() -> None:
    # a x = -1.5 * 100 = -150 and b u = -160 saturate at -128 each, and so does their sum; imaginary parts are 0.
    formats = ScanFormats(
        a=dyadic(8, 1 / 64), u=dyadic(8, 1), x=dyadic(8, 1), b=dyadic(8, 1 / 2), rounding_placement="separate"
    )
    plan = plan_scan(formats, 1, 1)
    x0, a, b = (np.array(q) for q in ([[[[100, 0]]]], [[[-96, 0]]], [[[8, 0]]]))
    y, last, overflow = scan_codes(plan, np.array([[[-40, 0]]]), a, b, None, x0)
    # The next step: a x = 1.5 * 128 = 192 saturates at 127, b u = 0, the sum fits: counted again.
    assert last.tolist() == [[[[127, 0]]]]
    assert overflow.state.tolist() == [2]
    assert y.tolist() == [[[-128, 127]]]
    # In the joint order -310 saturates once and 192 once.
    _, last, overflow = scan_codes(
        plan_scan(replace(formats, rounding_placement="joint"), 1, 1), np.array([[[-40, 0]]]), a, b, None, x0
    )
    assert (last.tolist(), overflow.state.tolist()) == ([[[[127, 0]]]], [2])


def test_the_orders_differ_where_both_saturate_against_each_other() -> None:
    # a x = 150 and b u = -160: jointly -10, separately 127 - 128 = -1.
    formats = ScanFormats(a=dyadic(8, 1 / 64), u=dyadic(8, 1), x=dyadic(8, 1), b=dyadic(8, 1 / 2))
    x0, a, b = (np.array(q) for q in ([[[[100, 0]]]], [[[96, 0]]], [[[8, 0]]]))
    found = {}
    for order in ROUNDING_PLACEMENTS:
        plan = plan_scan(replace(formats, rounding_placement=order), 1, 1)  # type: ignore[arg-type]
        y, _, overflow = scan_codes(plan, np.array([[[-40]]]), a, b, None, x0)
        found[order] = (y.item(), overflow.state.item())
    assert found == {"joint": (-10, 0), "separate": (-1, 1)}


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

    @pytest.mark.parametrize("name", ["b", "c"])
    def test_a_coefficient_and_its_format_come_together(self, name: str) -> None:
        codes = {"b": B, "c": C}
        with pytest.raises(FormatError, match=rf"{name} and formats.{name} must be given together"):
            scan_codes(plan_scan(WORKED, 1, 1), U, A, **{**codes, name: None})
        with pytest.raises(FormatError, match=rf"{name} and formats.{name} must be given together"):
            scan_codes(plan_scan(replace(WORKED, **{name: None}), 1, 1), U, A, **codes)

    def test_noise_needs_its_multiplier(self) -> None:
        with pytest.raises(FormatError, match="give plan_scan state_noise"):
            scan_codes(plan_scan(WORKED, 1, 1), U, A, B, C, noise=Noise(0, 0.1))
