"""The integer forms of what stands between recurrences, against exact rational arithmetic."""

from fractions import Fraction
from math import erf, exp, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm import fixedpoint as fp
from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Format

LIMIT = 2**52 - 1
"""What a word of 53 bits holds."""


def formats(channels: int, *, least: int = 2, most: int = 16) -> st.SearchStrategy[Format]:
    """A format per channel, or one for all, with scales over a factor of 2^12 and any zero point."""

    @st.composite
    def made(draw: st.DrawFn) -> Format:
        bits = draw(st.integers(least, most))
        shape = draw(st.sampled_from([(), (channels,)]))
        size = channels if shape else 1
        scale = np.array([2.0 ** draw(st.floats(-8, 4)) for _ in range(size)], np.float32).reshape(shape)
        symmetric = draw(st.booleans())
        top = 2 ** (bits - 1)
        zero = [0 if symmetric else draw(st.integers(-top, top - 1)) for _ in range(size)]
        clip = draw(st.sampled_from([None, 5.0]))
        return Format(bits, scale, np.array(zero).reshape(shape), symmetric, clip)

    return made()


def drawn(fmt: Format, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Codes of a format, its ends among them; channels last, or first of a matrix."""
    rng = np.random.default_rng(seed)
    low, high = (np.broadcast_to(v, shape) for v in (fmt.low, fmt.high))
    codes = rng.integers(low, high + 1)
    ends = rng.random(shape)
    return np.where(ends < 0.2, low, np.where(ends > 0.8, high, codes))


def real(fmt: Format, codes: np.ndarray, channel: int) -> list[Fraction]:
    """Exact real values of codes (n,) of one channel."""
    scale, zero = (
        np.broadcast_to(v.ravel(), channel + 1 if not v.ndim else v.size) for v in (fmt.scale, fmt.zero_point)
    )
    return [Fraction(float(scale[channel])) * (int(q) - int(zero[channel])) for q in codes]


def nearest(values: list[Fraction], fmt: Format, channel: int) -> list[Fraction]:
    """What a real value is in codes of a channel before rounding, clamped to the words."""

    def at(v: np.ndarray) -> object:
        return v.ravel()[channel if v.ndim else 0]

    low, high, zero = int(at(fmt.low)), int(at(fmt.high)), int(at(fmt.zero_point))
    return [min(max(v / Fraction(float(at(fmt.scale))) + zero, Fraction(low)), Fraction(high)) for v in values]


def check(codes: np.ndarray, values: list[list[Fraction]], fmt: Format, slack: float) -> None:
    """codes (n, channels) are the nearest ones of exact values[channel][n], but for `slack` of a code."""
    for channel, exact in enumerate(values):
        for code, v in zip(codes[:, channel], nearest(exact, fmt, channel), strict=True):
            assert abs(int(code) - v) <= Fraction(1, 2) + Fraction(slack)


def refused_or(make, *args):
    """A plan, or None where the drawn formats have none."""
    try:
        return make(*args)
    except FormatError as error:
        if "53 bits" not in str(error):
            raise
        return None


@settings(max_examples=60, deadline=None)
@given(formats(3), formats(3), formats(3), st.integers(0, 2**31))
def test_a_sum(x: Format, y: Format, out: Format, seed: int) -> None:
    plan = refused_or(fp.plan_sum, x, y, out, 3)
    if plan is None:
        return
    one, two = drawn(x, (20, 3), seed), drawn(y, (20, 3), seed + 1)
    assert np.all(
        plan.first * np.broadcast_to(x.magnitude(), 3)
        + plan.second * np.broadcast_to(y.magnitude(), 3)
        + np.where(plan.shift > 0, 2.0 ** (plan.shift - 1), 0)
        <= LIMIT
    )
    exact = [[a + b for a, b in zip(real(x, one[:, c], c), real(y, two[:, c], c), strict=True)] for c in range(3)]
    # Two multipliers of 24 bits, of products of up to 2^17 s / s_out codes.
    room = max(float(np.max(np.broadcast_to(f.scale, 3) / np.broadcast_to(out.scale, 3))) for f in (x, y))
    check(fp.sum_codes(plan, one, two), exact, out, 2.0**-23 * 2**17 * room + 2.0**-6)


@settings(max_examples=60, deadline=None)
@given(formats(3), formats(1), formats(3), formats(3), st.integers(0, 2**31))
def test_a_scaled_sum(y: Format, d: Format, u: Format, out: Format, seed: int) -> None:
    d = Format(d.bits, d.scale.reshape(-1)[0], d.zero_point.reshape(-1)[0], d.symmetric)
    plan = refused_or(fp.plan_scale_add, y, d, u, out, 3)
    if plan is None:
        return
    one, two, k = drawn(y, (20, 3), seed), drawn(u, (20, 3), seed + 1), drawn(d, (3,), seed + 2)
    products = np.broadcast_to(d.magnitude() * u.magnitude(), 3)
    total = plan.first * np.broadcast_to(y.magnitude(), 3) + plan.second * products
    assert np.all(total + np.where(plan.shift > 0, 2.0 ** (plan.shift - 1), 0) <= LIMIT)
    exact = [
        [
            a + real(d, k[c : c + 1], 0)[0] * b
            for a, b in zip(real(y, one[:, c], c), real(u, two[:, c], c), strict=True)
        ]
        for c in range(3)
    ]
    got = fp.scale_add_codes(plan, one, k, two)
    ratio = np.broadcast_to(y.scale / out.scale, 3)
    gain = np.broadcast_to(d.scale * u.scale / out.scale, 3)
    # Each product moves by 2^-8 of itself, or by 2^-4 of a code, at most.
    for c in range(3):
        largest = max(ratio[c] * 2**17, gain[c] * float(products[c]))
        moved = abs(plan.second[c] / 2.0 ** plan.shift[c] - gain[c]) * float(products[c])
        assert moved <= max(2.0**-8 * gain[c] * products[c], 2.0**-4) * 1.01
        check(got[:, c : c + 1], [exact[c]], _channel(out, c), 2.0**-20 * largest + moved + 0.0626)


def _channel(fmt: Format, c: int) -> Format:
    scale, zero = (v.reshape(-1)[c if v.ndim else 0] for v in (fmt.scale, fmt.zero_point))
    return Format(fmt.bits, scale, zero, fmt.symmetric, fmt.clip)


@settings(max_examples=60, deadline=None)
@given(formats(4), formats(5), st.one_of(st.none(), formats(4)), st.booleans(), st.integers(0, 2**31))
def test_a_matrix(weight: Format, x: Format, out: Format | None, biased: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bias = rng.normal(size=4) * 10 if biased else None
    plan = refused_or(fp.plan_linear, weight, x, out, (4, 5), bias)
    if plan is None:
        return
    rows = Format(
        weight.bits,
        *(np.broadcast_to(v, 4) for v in (weight.scale, weight.zero_point)),
        weight.symmetric,
        weight.clip,
    )
    w = drawn(rows, (5, 4), seed).T
    codes = drawn(x, (20, 5), seed + 1)
    got = fp.linear_codes(plan, codes, w)
    # Words: exactly, in Python's integers.
    v = [
        [
            _round(int(plan.source.align[i]) * (int(q[i]) - int(plan.source.zero[i])), plan.source.align_shift)
            for i in range(5)
        ]
        for q in codes
    ]
    assert all(
        abs(z) <= int(plan.source.bound[i]) <= max(1, int(np.max(x.magnitude()))) << 23
        for row in v
        for i, z in enumerate(row)
    )
    for o in range(4):
        largest = (
            int(plan.multiplier[o])
            * int(np.max(np.broadcast_to(rows.magnitude(), 4)[o]))
            * int(plan.source.bound.sum())
        )
        half = 1 << int(plan.shift[o]) >> 1
        assert largest + abs(int(plan.bias[o])) + (half if out is not None else 0) <= LIMIT
        for n, row in enumerate(v):
            total = sum((int(w[o, i]) - int(rows.zero_point[o])) * z for i, z in enumerate(row))
            total = int(plan.multiplier[o]) * total + int(plan.bias[o])
            if out is not None:
                total = _round(total, int(plan.shift[o])) + int(plan.output.zero[o])
                total = min(max(total, int(plan.output.low[o])), int(plan.output.high[o]))
            assert total == got[n, o]
    # Against the real product: the aligned unit's half for every input, and the multiplier's rounding.
    values = [real(x, codes[:, i], i) for i in range(5)]
    for o in range(4):
        k = real(_channel(rows, o), w[o], 0)
        exact = [
            sum(k[i] * values[i][n] for i in range(5)) + (0 if bias is None else Fraction(bias[o]))
            for n in range(20)
        ]
        size = float(sum(abs(z) for z in k)) * plan.source.unit * (0.5 if plan.source.align_shift else 0)
        size += float(sum(abs(k[i]) * max(map(abs, values[i])) for i in range(5))) * (2.0**-8 + 2.0**-22)
        if out is None:
            unit = Fraction(1, 2 ** int(plan.shift[o]))
            assert all(
                abs(int(g) * unit - e) <= size + 2.0 ** -float(plan.shift[o])
                for g, e in zip(got[:, o], exact, strict=True)
            )
        else:
            step = float(np.broadcast_to(out.scale, 4)[o])
            check(got[:, o : o + 1], [exact], _channel(out, o), size / step + 2.0**-4)


def _round(v: int, s: int) -> int:
    """v / 2^s, half to even, in Python's integers."""
    return round(Fraction(v, 1 << s))


def test_a_matrix_of_equal_scales_keeps_its_codes() -> None:
    x = Format.from_range(np.full(6, -1.0), np.full(6, 2.0), 8)
    plan = fp.plan_linear(Format.from_range(-1, 1, 8), x, x_out := Format.from_range(-3, 3, 8), (2, 6), None)
    assert plan.source.align_shift == 0
    assert np.all(plan.source.align == 1)
    assert np.all(plan.multiplier >= 2**23)
    assert x_out.bits == 8


def test_long_words_keep_long_multipliers() -> None:
    scales = np.geomspace(1e-3, 1, 64)
    x = Format.from_range(-0.17 * scales, 3 * scales, 16)
    w = Format.from_range(np.full(128, -1.0), np.full(128, 1.0), 16)
    plan = fp.plan_linear(w, x, Format.from_range(-20, 20, 16), (128, 64), np.ones(128))
    assert plan.multiplier.min() >= 2**12


@settings(max_examples=60, deadline=None)
@given(formats(6, most=10), formats(3), st.integers(0, 2**31))
def test_a_gate(x: Format, out: Format, seed: int) -> None:
    plan = refused_or(fp.plan_gate, x, out, 3)
    if plan is None:
        return
    table = fp.gate_table(fp.grid_values(x, 6, 3))
    assert table.shape == (3, 2**x.bits)
    assert table.min() >= 0
    assert table.max() <= 2**16
    codes = drawn(x, (20, 6), seed)
    got = fp.gate_codes(plan, codes, table)
    for c in range(3):
        one, two = real(x, codes[:, c], c), real(x, codes[:, 3 + c], 3 + c)
        opened = [Fraction(1 / (1 + exp(-max(float(v), -700.0)))) for v in two]
        exact = [a * g for a, g in zip(one, opened, strict=True)]
        largest = max(map(abs, one)) / Fraction(float(np.broadcast_to(out.scale, 3)[c]))
        check(got[:, c : c + 1], [exact], _channel(out, c), float(largest) * (2.0**-17 + 2.0**-12) + 2.0**-4)


@settings(max_examples=60, deadline=None)
@given(formats(3), formats(3), st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(0, 2**31))
def test_a_mean(x: Format, out: Format, lengths: list[int], seed: int) -> None:
    plan = refused_or(fp.plan_mean, x, out, lengths, 3)
    if plan is None:
        return
    codes = drawn(x, (len(lengths), 50, 3), seed)
    got = fp.mean_codes(plan, codes, lengths)
    exact = [
        [sum(real(x, codes[n, :length, c], c)) / length for n, length in enumerate(lengths)] for c in range(3)
    ]
    ratio = float(np.max(np.broadcast_to(x.scale, 3) / np.broadcast_to(out.scale, 3)))
    check(got, exact, out, 2.0**-6 * ratio + 2.0**-4)
    for n, length in enumerate(lengths):  # a sequence alone, of its own length, is the same
        alone = fp.mean_codes(fp.plan_mean(x, out, [length], 3), codes[n : n + 1, :length], [length])
        assert np.array_equal(alone[0], got[n])


def test_tables_are_the_functions_rounded() -> None:
    """GELU and sigmoid in Python's own functions: the nearest code everywhere."""
    x, out = Format.from_range([-4, -1], [5.0, 2], 8), Format.from_range([-0.2, -0.2], [5.0, 2], 6)
    values = fp.grid_values(x, 2)
    gelu = np.array([[v * 0.5 * (1 + erf(v / sqrt(2))) for v in row] for row in values])
    table = fp.function_table(gelu, out)
    for c in range(2):
        check(table[c][:, None], [[Fraction(v) for v in gelu[c]]], _channel(out, c), 1e-5)
    assert fp.look_up_codes(table, np.broadcast_to(x.low, 2), np.array([[-128, 127]])).tolist() == [
        [table[0, 0], table[1, 255]]
    ]
    opened = fp.gate_table(values)
    assert all(opened[0, i] == round(Fraction(2**16) / Fraction(1 + exp(-v))) for i, v in enumerate(values[0]))


@settings(max_examples=40, deadline=None)
@given(
    formats(2),
    formats(2),
    formats(2),
    st.sampled_from(["half_even", "half_up", "half_away"]),
    st.integers(0, 2**31),
)
def test_a_gated_state(z: Format, v: Format, h: Format, rounding: str, seed: int) -> None:
    plan = refused_or(fp.plan_gated, z, v, h, 2, rounding)
    if plan is None:
        return
    opened, given_ = drawn(z, (3, 10, 2), seed), drawn(v, (3, 10, 2), seed + 1)
    out, last = fp.gated_codes(plan, opened, given_)
    first, state = fp.gated_codes(plan, opened[:, :4], given_[:, :4])
    again, end = fp.gated_codes(plan, opened[:, 4:], given_[:, 4:], state)
    assert np.array_equal(np.concatenate([first, again], 1), out)
    assert np.array_equal(end, last)
    largest = np.broadcast_to(z.magnitude(), 2) * (plan.output.high - plan.output.low)
    assert all(
        int(m) * int(p) + (1 << int(s) >> 1) <= LIMIT
        for m, p, s in zip(plan.gate, largest, plan.gate_shift, strict=True)
    )
    if max(z.bits, h.bits) <= 13:
        exact = plan.gate / np.exp2(plan.gate_shift)
        assert np.array_equal(exact.astype(np.float32), np.broadcast_to(z.scale, 2))


def test_refusals() -> None:
    x = Format.from_range(-1, 1, 8)
    three = Format.from_range([-1.0] * 3, [1.0] * 3, 8)
    fine = Format(8, np.float32(1e-30), np.int64(0))
    for make in (
        lambda: fp.plan_sum(three, x, x, 2),
        lambda: fp.plan_sum(x, x, fine, 2),
        lambda: fp.plan_scale_add(x, x, three, x, 2),
        lambda: fp.plan_linear(three, x, x, (2, 2)),
        lambda: fp.plan_linear(x, three, x, (2, 2)),
        lambda: fp.plan_linear(x, x, three, (2, 2)),
        lambda: fp.plan_linear(x, x, x, (2, 2), np.array([1.0, np.inf])),
        lambda: fp.plan_linear(x, x, x, (2, 2), np.ones(3)),
        lambda: fp.plan_linear(x, x, fine, (2, 2)),
        lambda: fp.plan_gate(three, x, 2),
        lambda: fp.plan_gate(x, fine, 2),
        lambda: fp.plan_mean(x, x, [0], 2),
        lambda: fp.plan_mean(x, fine, [3], 2),
        lambda: fp.plan_gated(x, x, three, 2),
        lambda: fp.plan_gated(x, x, fine, 2),
        lambda: fp.function_table(np.zeros((2, 4)), three),
    ):
        with pytest.raises(FormatError) as caught:
            make()
        assert "\n" not in str(caught.value)
