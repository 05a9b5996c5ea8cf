"""The error of the output, over all mixes of word lengths: no more than the formats imply."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import (
    Format,
    Multipliers,
    ScanFormats,
    broadcast_heads,
    plan_scan,
    scan_codes,
    state_codes,
)
from imc_ssm.fixedpoint.formats import NEAREST, ROUNDING_PLACEMENTS

Complex = np.ndarray[tuple[int, ...], np.dtype[np.complex128]]
HEADS, STATES, TIME = 2, 3, 40


def as_complex(pairs: np.ndarray) -> Complex:
    return np.ascontiguousarray(pairs, np.float64).view(np.complex128)[..., 0]


@dataclass(frozen=True, eq=False)
class Case:
    """Formats, and operands on their grids: codes of u (1, head, time), a, b, c (head, state, 2)."""

    formats: ScanFormats
    codes: dict[str, np.ndarray]

    def real(self, part: str) -> np.ndarray:
        """The values that the codes mean; complex for a, b and c."""
        fmt, codes = getattr(self.formats, part), self.codes[part]
        values = fmt.dequantize(codes, 1 if part == "u" else 0)
        return values if part == "u" else as_complex(values)


@st.composite
def cases(draw: st.DrawFn, least: int = 2) -> Case:
    """Words of every length in every mix, poles to the unit circle, drives and coefficients over four decades, and
    states with up to a hundred times the range that they need."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits = {part: draw(st.integers(least, 16)) for part in "abcuxy"}
    sizes = {part: draw(st.sampled_from([(), (HEADS,), (HEADS, STATES)])) for part in "abcx"}
    symmetric = draw(st.booleans())
    radius = 1 - 10.0 ** draw(st.floats(-3, -0.3))
    poles = radius * rng.uniform(0.5, 1, (HEADS, STATES)) * np.exp(1j * rng.uniform(-0.5, 0.5, (HEADS, STATES)))
    b, c = (10.0 ** draw(st.floats(-3, 1)) * rng.normal(size=(HEADS, STATES, 2)) for _ in range(2))
    u = 10.0 ** draw(st.floats(-3, 1)) * rng.normal(size=(1, HEADS, TIME))

    def fmt(part: str, values: np.ndarray, room: float = 1.0) -> Format:
        size = sizes.get(part, ())
        reach = room * np.abs(values).reshape(*values.shape[: len(size)], -1).max(-1)
        return Format.from_range(-reach, reach, bits[part], symmetric=symmetric)

    pairs = np.stack([poles.real, poles.imag], -1)
    given = {"a": (pairs, 0), "b": (b, 0), "c": (c, 0), "u": (u, 1)}
    made = {part: fmt(part, values) for part, (values, _) in given.items()}
    codes = {part: made[part].quantize(values, axis) for part, (values, axis) in given.items()}
    grid = [made[p].dequantize(codes[p], axis) for p, (_, axis) in given.items()]
    x, y = exact(*(as_complex(v) for v in grid[:3]), grid[3])
    room = 10.0 ** draw(st.floats(0.1, 2))
    every = np.stack([x.real, x.imag]).transpose(3, 4, 0, 1, 2)
    formats = ScanFormats(
        **made,
        x=fmt("x", every, room),
        y=fmt("y", y, room),
        rounding_placement=draw(st.sampled_from(ROUNDING_PLACEMENTS)),  # type: ignore[arg-type]
        rounding=draw(st.sampled_from(NEAREST)),  # type: ignore[arg-type]
    )
    return Case(formats, codes)


def exact(a: Complex, b: Complex, c: Complex, u: np.ndarray) -> tuple[Complex, np.ndarray]:
    """States (time, batch, head, state) and y (batch, head, time) in double precision."""
    x, states = np.zeros((len(u), *a.shape), np.complex128), []
    for t in range(u.shape[-1]):
        x = a * x + b * u[..., t, None]
        states.append(x)
    every = np.stack(states)
    y = 2 * (c * every).sum(-1).real
    return every, np.moveaxis(y, 0, -1)


def implied(case: Case, x: Complex, y: np.ndarray) -> np.ndarray:
    """The largest error of y (batch, head, time) that the formats imply, where no word saturates.

    Every step rounds each part of the state by half a code (by one where a x and b u are rounded apart) and moves
    the pole by 2^-9 of itself and b u by 2^-8 of itself or 2^-4 of a code; the sum's alignment is right to 2^-8
    of the widest state, m_y to 2^-8 and the output to half a code.
    """
    f = case.formats
    a, b, c, u = (case.real(p) for p in "abcu")
    s_x = np.broadcast_to(broadcast_heads(f.x.scale.astype(float), 2, 0), a.shape)
    unit = np.sqrt(2) * s_x * (0.5 if f.rounding_placement == "joint" else 1.0)
    error, out = np.zeros((len(u), *a.shape)), []
    before = np.zeros((len(u), *a.shape))
    assert f.c is not None
    products = np.broadcast_to(broadcast_heads(f.c.scale.astype(float), 2, 0), a.shape) * s_x
    largest = products.max(1)[:, None]
    loose = np.where(products >= largest * (1 - 2.0**-22), 2.0**-22 * products, 2.0**-8 * largest)
    for t, now in enumerate(x):
        drive = np.abs(b * u[..., t, None])
        moved = 2.0**-9 * np.abs(a) * before + np.maximum(2.0**-8 * drive, 2.0**-4 * np.sqrt(2) * s_x)
        error = (1 + 2.0**-9) * np.abs(a) * error + moved + unit
        before = np.abs(now)
        codes = np.abs(c) / (products / s_x) * (before + error) / s_x
        out.append((2 * np.abs(c) * error + 2 * loose * codes).sum(-1))
    assert f.y is not None
    s_y = broadcast_heads(f.y.scale.astype(float), 3, 1)
    total = np.stack(out, -1)
    return total + 2.0**-8 * (np.abs(y) + total) + 0.5 * s_y + 1e-6 * np.abs(y)


@settings(max_examples=400, deadline=None)
@given(cases())
def test_the_error_is_what_the_formats_imply(case: Case) -> None:
    f = case.formats
    try:
        plan = plan_scan(f, HEADS, STATES)
    except FormatError:  # a state far finer than its input
        assume(False)
    y, _, overflow = scan_codes(plan, *(case.codes[p] for p in "uabc"))
    assume(not overflow.state.any())
    x, wanted = exact(*(case.real(p) for p in "abcu"))
    assert f.y is not None
    found = f.y.dequantize(y, 1)
    free = (y > f.y.low.min()) & (y < f.y.high.max())
    error = np.abs(found - wanted)
    assert np.all((error <= implied(case, x, wanted))[free])
    widths = Multipliers.of(plan)
    assert min(widths.a, widths.b) >= 1
    assert max(widths.a, widths.b) <= 24
    assert widths.sum <= plan.word


@settings(max_examples=150, deadline=None)
@given(cases(least=9))
def test_long_words_are_close(case: Case) -> None:
    """Of 9 bits and more: the worst case above allows much; rounding errors really add up as their squares."""
    f = replace(case.formats, x=replace(case.formats.x), y=None)
    plan = plan_scan(f, HEADS, STATES)
    y, _, overflow = scan_codes(plan, *(case.codes[p] for p in "uabc"))
    assume(not overflow.state.any())
    x, wanted = exact(*(case.real(p) for p in "abcu"))
    found = y * plan.sum_scale[:, None]
    s_x = np.broadcast_to(broadcast_heads(f.x.scale.astype(float), 2, 0), (HEADS, STATES))
    size = (2 * np.abs(case.real("c")) * (s_x * np.sqrt(TIME) + 2.0**-7 * np.abs(x).max((0, 1)))).sum(-1)
    rms = np.sqrt(np.mean((found - wanted) ** 2, axis=-1))[0]
    assert np.all(rms <= 3 * size)


REACH = {"a": 1.0, "u": 1.0, "x": 10.0, "b": 1.0}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("order", ROUNDING_PLACEMENTS)
@pytest.mark.parametrize(("b", "u"), [(8, 8), (8, 16), (16, 8), (12, 12), (14, 14), (16, 16)])
def test_a_step_reaches_its_end(b: int, u: int, order: str, symmetric: bool) -> None:
    """a = 0.9, b = c = u = 1: x ends at 10 and y at 20, less what rounding to codes of 0.08 holds back."""
    bits = {"a": 8, "u": u, "x": 8, "b": b}
    made = {p: Format.from_range(-r, r, bits[p], symmetric=symmetric) for p, r in REACH.items()}
    plan = plan_scan(ScanFormats(**made, rounding_placement=order), 1, 1)  # type: ignore[arg-type]
    one = made["b"].quantize(np.array([[[1.0, 0.0]]]))
    signal = made["u"].quantize(np.ones((1, 1, 200)), 1)
    y, _, _ = scan_codes(plan, signal, made["a"].quantize(np.array([[[0.9, 0.0]]])), one)
    # Half a code a step, a hundred steps long at most, is half a code over 1 - a: 0.4 of 10, twice that of 20.
    assert y[0, 0, -1] * plan.sum_scale[0] == pytest.approx(20, abs=1.3)


@pytest.mark.parametrize("order", ROUNDING_PLACEMENTS)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_complex_drive_reaches_its_end(bits: int, order: str) -> None:
    """The state unit of a MIMO layer: x = (1 + i) (0.5 - i) / (1 - a)."""
    made = {p: Format.from_range(-r, r, 8 if p in "ax" else bits) for p, r in REACH.items()}
    words = (made[p] for p in "auxb")
    formats = ScanFormats(*words, rounding_placement=order)  # type: ignore[arg-type]
    plan = plan_scan(formats, 1, 1, complex_drive=True)
    v = np.broadcast_to(made["u"].quantize(np.array([0.5, -1.0]))[None, :, None, None], (1, 2, 1, 100))
    a, b = made["a"].quantize(np.array([[0.7, 0.0]])), made["b"].quantize(np.array([[1.0, 1.0]]))
    x, _, _ = state_codes(plan, np.ascontiguousarray(v), a, b)
    found = as_complex(made["x"].dequantize(x)[0, :, 0, -1])
    assert abs(found - (1 + 1j) * (0.5 - 1j) / 0.3) < 0.5


def test_a_drive_that_is_nothing_beside_a_code_has_no_multiplier() -> None:
    """What may vanish does, and its widths can be priced."""
    made = {p: Format.from_range(-r, r, 8) for p, r in REACH.items()}
    formats = ScanFormats(**made | {"b": Format.from_range(-1e-9, 1e-9, 8)})
    plan = plan_scan(formats, 2, 3)
    assert not plan.m_b.any()
    widths = Multipliers.of(plan)
    assert widths.b == 1
    assert widths.sum <= plan.word


def test_what_no_word_keeps_is_refused() -> None:
    reach = REACH | {"a": 1e4}
    formats = ScanFormats(**{p: Format.from_range(0, r, 16) for p, r in reach.items()})
    small = replace(formats, b=Format.from_range(0, 3e-4, 16))
    with pytest.raises(FormatError, match="b u so small a multiplier that it would vanish; give b or the input"):
        plan_scan(small, 1, 1)
