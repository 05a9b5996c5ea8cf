"""`state_scan`: codes of the oracle (`==`), gradients of the loop, pieces, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from scan_cases import assert_same_state
from torch import Tensor

from imc_ssm.errors import FormatError, ImcSsmError
from imc_ssm.fixedpoint import Format, ScanFormats, UnitState, broadcast_heads, plan_scan, scan_codes, state_codes
from imc_ssm.fixedpoint.formats import ROUNDINGS
from imc_ssm.kernels import StateScanUnit, diagonal_scan, state_scan, states, using
from imc_ssm.kernels.codes import codes_of

CODES = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Case:
    """One recurrence: codes of every operand, all within their formats."""

    formats: ScanFormats
    v: CODES
    a: CODES
    b: CODES | None
    x0: CODES | UnitState | None

    def values(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | UnitState | None]:
        """v, a, b as real numbers that are read back as these codes, and x0."""
        v = torch.from_numpy(self.formats.u.dequantize(self.v, 2)).float()
        a, b = (
            None if q is None else torch.view_as_complex(torch.from_numpy(f.dequantize(q)).float())
            for q, f in ((self.a, self.formats.a), (self.b, self.formats.b))
        )
        if isinstance(self.x0, UnitState):
            parts = (torch.from_numpy(z) if isinstance(z, np.ndarray) else z for z in self.x0)
            return v, a, b, UnitState._make(parts)
        return v, a, b, None if self.x0 is None else torch.from_numpy(self.x0)

    def oracle(self) -> tuple[CODES, CODES | UnitState]:
        plan = plan_scan(self.formats, len(self.a), 1, complex_drive=True)
        x, last, _ = state_codes(plan, self.v, self.a, self.b, self.x0)
        return x, last


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Formats of 2 to 16 bits, symmetric or not, per tensor or state, poles up to 1.05, all roundings, with or
    without b, clip, initial state; in half of the cases all scales are powers of two, so that ties are met."""
    count, batch, time = (
        draw(st.integers(1, 4)),
        draw(st.sampled_from([1, 3, 16, 17, 35])),
        draw(st.integers(1, 12)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    symmetric, dyadic = draw(st.booleans()), draw(st.booleans())
    most = draw(st.sampled_from([8, 16]))

    def fmt(reach: float, clip: float | None = None) -> Format:
        size = draw(st.sampled_from([(), (count,)]))
        ends = reach * rng.uniform(0.2, 1, (2, *size))
        found = Format.from_range(-ends[0], ends[1], draw(st.integers(2, most)), symmetric=symmetric, clip=clip)
        if not dyadic:
            return found
        scale = np.exp2(np.round(np.log2(found.scale))).astype(np.float32)
        return Format(found.bits, scale, found.zero_point, symmetric, clip)

    rounding = draw(st.sampled_from(ROUNDINGS))
    formats = ScanFormats(
        a=fmt(1.05),
        u=fmt(3.0),
        x=fmt(draw(st.sampled_from([0.3, 3.0, 30.0])), draw(st.sampled_from([None, 0.1, 1.0]))),
        b=fmt(1.0) if draw(st.booleans()) else None,
        rounding_placement="joint" if rounding == "feedback" else draw(st.sampled_from(["joint", "separate"])),
        rounding=rounding,
        residual_bits=draw(st.integers(1, 16)),
    )

    def codes(part: Format | None, shape: tuple[int, ...], axis: int) -> CODES | None:
        if part is None:
            return None
        low, high = (broadcast_heads(v, len(shape), axis) for v in (part.low, part.high))
        found = rng.integers(low, high, shape, endpoint=True)
        return np.where(rng.random(shape) < 0.1, np.where(rng.random(shape) < 0.5, low, high), found)

    try:
        plan_scan(formats, count, 1, complex_drive=True)
    except FormatError:  # a state far finer than its input
        reject()
    v, a, b = codes(formats.u, (batch, 2, count, time), 2), codes(formats.a, (count, 2), 0), None
    if formats.b is not None:
        b = codes(formats.b, (count, 2), 0)
    x0: CODES | UnitState | None = codes(formats.x, (batch, count, 2), 1) if draw(st.booleans()) else None
    if formats.timed and draw(st.booleans()):
        left = rng.integers(0, 2**formats.residual_bits, (batch, count, 2)) if rounding == "feedback" else None
        x0 = UnitState(x0, draw(st.sampled_from([0, 1, 65530, 2**32 - 3, 2**40])), None, left)
    assert v is not None
    assert a is not None
    return Case(formats, v, a, b, x0)


def as_codes(x: Tensor, fmt: Format) -> CODES:
    """The codes of values that lie on the grid."""
    scale, zero = (broadcast_heads(np.asarray(v), 4, 2) for v in (fmt.scale, fmt.zero_point))
    return np.rint(x.numpy() / scale).astype(np.int64) + zero


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@settings(max_examples=120, deadline=None)
@given(cases())
def test_equals_the_oracle(backend: str, case: Case) -> None:
    v, a, b, x0 = case.values()
    x, last = state_scan(v, a, b, formats=case.formats, x0=x0, return_state=True, backend=backend)
    exact, end = case.oracle()
    assert np.array_equal(as_codes(x, case.formats.x), exact)
    assert torch.equal(x, torch.from_numpy(case.formats.x.dequantize(exact, 2)).float())
    assert_same_state(last, end)
    assert (last.x if isinstance(last, UnitState) else last).dtype == torch.int64


@settings(max_examples=40, deadline=None)
@given(cases(), st.data())
def test_pieces_equal_the_whole(case: Case, data: st.DataObject) -> None:
    v, a, b, x0 = case.values()
    unit = StateScanUnit(a, b, formats=case.formats)
    whole, end = unit(v, x0)
    cut = data.draw(st.integers(0, v.shape[-1]))
    first, middle = unit(v[..., :cut], x0)
    second, last = unit(v[..., cut:], middle)
    assert torch.equal(torch.cat([first, second], dim=-1), whole)
    assert_same_state(last, end)


@settings(max_examples=30, deadline=None)
@given(cases())
def test_without_an_imaginary_input_it_is_the_other_recurrence(case: Case) -> None:
    # One head a state, c = 1: y is twice the real part of the state, by the same integers where the plans agree.
    f = case.formats
    complex_plan = plan_scan(f, len(case.a), 1, complex_drive=True)
    plan = plan_scan(f, len(case.a), 1)
    v = case.v.copy()
    v[:, 1] = np.broadcast_to(f.u.zero_point, (len(case.a),))[:, None]
    x, last, lost = state_codes(complex_plan, v, case.a, case.b, case.x0)
    if not (np.array_equal(plan.m_b, complex_plan.m_b) and np.array_equal(plan.shift, complex_plan.shift)):
        return
    b = None if case.b is None else case.b[:, None]
    x0 = case.x0 if isinstance(case.x0, UnitState) else UnitState(case.x0)
    x0 = UnitState._make(z[:, :, None] if isinstance(z, np.ndarray) else z for z in x0)
    y, end, other = scan_codes(plan, v[:, 0], case.a[:, None], b, None, x0)
    if isinstance(end, UnitState):
        assert_same_state(UnitState._make(z[:, :, 0] if isinstance(z, np.ndarray) else z for z in end), last)
    else:
        assert np.array_equal(end[:, :, 0], last)
    assert np.array_equal(y, x[:, 0] - np.broadcast_to(f.x.zero_point, (len(case.a),))[:, None])
    assert np.array_equal(lost.state, other.state)


def drawn(seed: int, batch: int, count: int, time: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """v, a, b: standard normal v and b; poles of modulus 0.5 to 0.99 at any angle."""
    g = torch.Generator().manual_seed(seed)
    modulus = 0.5 + 0.49 * torch.rand(count, generator=g, dtype=torch.float64)
    a = torch.polar(modulus, 6.3 * torch.rand(count, generator=g, dtype=torch.float64))
    b = torch.randn(count, generator=g, dtype=torch.complex128)
    v = torch.randn(batch, 2, count, time, generator=g, dtype=torch.float64)
    wide = torch.complex64 if dtype == torch.float32 else torch.complex128
    return [v.to(dtype), a.to(wide), b.to(wide)]


def formats_for(
    v: Tensor, a: Tensor, b: Tensor | None, bits: int, shrink: float = 1.0, **rest: Any
) -> ScanFormats:
    """Formats per state over the ranges that occur; x shrunk, so that it saturates."""
    x = state_scan(v, a, b)

    def fmt(value: Tensor, factor: float = 1.0) -> Format:
        flat = value.flatten(1).numpy()
        return Format.from_range(factor * flat.min(1), factor * flat.max(1), bits)

    return ScanFormats(
        a=fmt(torch.view_as_real(a), 0.95 if shrink < 1 else 1.0),
        u=fmt(v.transpose(0, 2).contiguous(), shrink),
        x=fmt(x.transpose(0, 2).contiguous(), shrink),
        b=None if b is None else fmt(torch.view_as_real(b)),
        **rest,
    )


class Rounded(torch.autograd.Function):
    """Another value with the gradient of this one where it is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(kept)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.saved_tensors[0], None, None


class Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.bound = bound
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].clamp(-ctx.bound, ctx.bound), None


def emulate(v: Tensor, a: Tensor, b: Tensor | None, f: ScanFormats, clamp: float) -> Tensor:
    """x of the integer recurrence in float64, with the gradient of straight-through estimation by autograd."""
    plan = plan_scan(f, len(a), 1, complex_drive=True)

    def on_grid(x: Tensor, fmt: Format, axis: int) -> Tensor:
        scale, zero, low, high = (
            torch.from_numpy(np.asarray(broadcast_heads(np.asarray(p, np.float64), x.ndim, axis)))
            for p in (fmt.scale, fmt.zero_point, fmt.low, fmt.high)
        )
        precise = torch.float32 if axis else torch.float64  # the input's quotient is single precision's
        nearest = torch.round((x.detach().to(precise) / scale.to(precise)).double()) + zero
        kept = nearest.clamp(low, high)
        return Rounded.apply(x, (kept - zero) * scale, nearest == kept)

    def pairs(z: Tensor, fmt: Format) -> Tensor:
        return torch.view_as_complex(on_grid(torch.view_as_real(z), fmt, 0))

    w = on_grid(v, f.u, 2)
    a = pairs(a, f.a)
    b = torch.ones_like(a) if b is None else pairs(b, f.b)
    low, high, scale, shift, shift_b, m_a, m_b = (
        torch.from_numpy(np.broadcast_to(p.astype(np.float64).reshape(-1, 1), (len(a), 2)).copy())
        for p in (
            plan.low,
            plan.high,
            np.broadcast_to(f.x.scale, len(a)),
            plan.shift,
            plan.shift_b,
            plan.m_a,
            plan.m_b,
        )
    )
    s_a, s_b, s_u = (
        torch.from_numpy(
            np.broadcast_to(np.float64(1) if p is None else p.scale, len(a)).astype(np.float64).copy()
        )
        for p in (f.a, f.b, f.u)
    )

    def words(product: Tensor, unit: Tensor, m: Tensor, power: Tensor) -> Tensor:
        """The accumulator over 2^shift of a real product."""
        codes = torch.round(torch.view_as_real(product.detach()) / unit[:, None])
        return m * codes / torch.exp2(power)

    x, out = torch.zeros(len(v), len(a), 2, dtype=torch.float64), []
    for t in range(v.shape[-1]):
        recurrent, driven = a * torch.view_as_complex(x), b * torch.complex(w[:, 0, :, t], w[:, 1, :, t])
        p = words(recurrent, s_a * scale[:, 0], m_a, shift)
        d = words(driven, s_b * s_u, m_b, shift_b)
        if f.rounding_placement == "joint":
            free = torch.round(p + d)
            before = torch.view_as_real(recurrent + driven)
        else:
            parts = []
            for real, word in ((recurrent, p), (driven, d)):
                nearest = torch.round(word)
                kept = nearest.clamp(low, high)
                parts.append(Rounded.apply(torch.view_as_real(real), kept * scale, nearest == kept))
            before = parts[0] + parts[1]
            free = torch.round(before.detach() / scale)
        before = Bounded.apply(before, clamp)
        kept = free.clamp(low, high)
        x = Rounded.apply(before, kept * scale, free == kept)
        out.append(x.transpose(1, 2))
    return torch.stack(out, dim=-1)


def gradients(run: Any, leaves: list[Tensor | None], dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    own = []
    for z in leaves:
        if z is not None:
            wide = (
                z.to(torch.complex128 if dtype == torch.float64 else torch.complex64)
                if z.is_complex()
                else z.to(dtype)
            )
            own.append(wide.clone().requires_grad_())
        else:
            own.append(None)
    x = run(*own)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (x * weight.to(x)).sum().backward()
    return x.detach(), [torch.view_as_real(z.grad) if z.is_complex() else z.grad for z in own if z is not None]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("bits", [6, 8, 16])
@pytest.mark.parametrize("placement", ["joint", "separate"])
@pytest.mark.parametrize("with_b", [True, False])
@pytest.mark.parametrize("shrink", [1.0, 0.6])
def test_gradients_are_straight_through(
    backend: str, bits: int, placement: str, with_b: bool, shrink: float
) -> None:
    v, a, b = drawn(1, 19, 3, 21)
    b = b if with_b else None
    formats = formats_for(v, a, b, bits, shrink, rounding_placement=placement)
    exact_x, exact = gradients(lambda *z: emulate(*z, formats, 0.8), [v, a, b], torch.float64)
    x, found = gradients(
        lambda *z: state_scan(*z, formats=formats, grad_clamp=0.8, backend=backend), [v, a, b], torch.float32
    )
    assert torch.equal(x, exact_x.float())
    for one, two in zip(found, exact, strict=True):
        assert (one - two).abs().max() <= 2e-5 * two.abs().max()
        assert torch.equal(one == 0, two == 0)


@pytest.mark.parametrize(("clamp", "clip"), [(None, None), (0.3, None), (0.3, 0.9)])
@pytest.mark.parametrize("time", [1, 300])
def test_full_precision(clamp: float | None, clip: float | None, time: int) -> None:
    leaves = drawn(2, 18, 3, time)
    options = {"grad_clamp": clamp, "state_clip": clip}
    exact_x, exact = gradients(lambda *z: state_scan(*z, **options), leaves, torch.float64)
    x, found = gradients(lambda *z: state_scan(*z, backend="cpu", **options), leaves, torch.float32)
    assert (x - exact_x).abs().max() <= 1e-6 * exact_x.abs().max()
    for one, two in zip(found, exact, strict=True):
        assert (one - two).abs().max() <= 1e-5 * two.abs().max()


def test_full_precision_in_pieces_and_from_a_state() -> None:
    v, a, b = drawn(3, 5, 4, 40)
    x0 = torch.randn(5, 4, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    whole, end = state_scan(v, a, b, x0=x0, return_state=True)
    first, middle = state_scan(v[..., :13], a, b, x0=x0, return_state=True)
    second, last = state_scan(v[..., 13:], a, b, x0=middle, return_state=True)
    assert (torch.cat([first, second], -1) - whole).abs().max() <= 1e-6 * whole.abs().max()
    assert (last - end).abs().max() <= 1e-6
    with using("reference"):
        loop = state_scan(v, a, b, x0=x0)
    assert (loop - whole).abs().max() <= 1e-5 * whole.abs().max()


def test_in_full_precision_it_is_the_diagonal_recurrence() -> None:
    v, a, b = drawn(4, 3, 4, 30)
    v[:, 1] = 0
    y = diagonal_scan(v[:, 0].contiguous(), a[:, None], b[:, None])
    x = state_scan(v, a, b)
    assert (y - 2 * x[:, 0]).abs().max() <= 1e-6 * y.abs().max()


def test_no_sequences_and_no_steps() -> None:
    v, a, b = drawn(5, 2, 3, 4)
    formats = formats_for(v, a, b, 8)
    for f in (None, formats):
        assert state_scan(v[:0], a, b, formats=f).shape == (0, 2, 3, 4)
        assert state_scan(v[..., :0], a, b, formats=f).shape == (2, 2, 3, 0)


def test_words_are_proven_to_fit() -> None:
    # The largest codes everywhere: the accumulator of 53 bits holds them, and one more bit of shift would not.
    rng = np.random.default_rng(0)
    for bits in (8, 16):
        formats = ScanFormats(
            a=Format(bits, np.float32(2.0 ** (1 - bits)), np.int64(0)),
            u=Format(bits, np.float32(2.0 ** (2 - bits)), np.int64(3)),
            x=Format(bits, np.float32(2.0 ** (3 - bits)), np.int64(-2)),
            b=Format(bits, np.float32(2.0 ** (1 - bits)), np.int64(1)),
        )
        plan = plan_scan(formats, 2, 1, complex_drive=True)
        p_a, p_b, p_u, p_x = (int(getattr(formats, n).magnitude()) for n in "abux")
        most = plan.m_a * 2 * p_a * p_x + plan.m_b * 2 * p_b * p_u + 2 ** (plan.shift - 1)
        assert most.max() <= 2 ** (plan.word - 1) - 1
        ends = [formats.u.code_min, formats.u.code_max]
        v = rng.choice(ends, (17, 2, 2, 9))
        q = rng.choice([formats.a.code_min, formats.a.code_max], (2, 2, 2))
        case = Case(formats, v, q[0], q[1], None)
        values = case.values()
        x = state_scan(*values[:3], formats=formats, backend="cpu")
        assert np.array_equal(as_codes(x, formats.x), case.oracle()[0])


V, A, B = drawn(6, 3, 4, 5)
FORMATS = formats_for(V, A, B, 8)
WIDE = Format.from_range(-1.0, 1.0, 8)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"v": V[0]}, ImcSsmError, r"v has shape \(2, 4, 5\); needed is \(batch, 2, state, time\)"),
        ({"v": V.transpose(1, 2)}, ImcSsmError, r"v has shape \(3, 4, 2, 5\)"),
        ({"a": A[:3]}, ImcSsmError, r"a has shape \(3,\), v \(3, 2, 4, 5\)"),
        ({"a": A[:, None]}, ImcSsmError, r"a has shape \(4, 1\)"),
        ({"b": B[:3]}, ImcSsmError, r"b has shape \(3,\); needed is that of a"),
        ({"a": A.real}, ImcSsmError, r"a has dtype torch.float32"),
        ({"v": V.half()}, ImcSsmError, r"v has dtype torch.float16"),
        ({"v": V.double(), "backend": "cpu"}, ImcSsmError, r"'cpu' takes float32"),
        ({"v": V * float("nan")}, ImcSsmError, "v is not finite"),
        ({"b": B * float("inf")}, ImcSsmError, "b is not finite"),
        ({"backend": "gpu"}, ImcSsmError, "unknown backend 'gpu'"),
        ({"backend": "cuda"}, ImcSsmError, "'cuda' takes float32 on its device, v is torch.float32 on cpu"),
        ({"grad_clamp": 0.0}, ImcSsmError, "grad_clamp 0.0"),
        ({"state_clip": -1.0}, ImcSsmError, "state_clip -1.0"),
        ({"state_clip": 1.0, "formats": FORMATS}, ImcSsmError, "state_clip is for full precision"),
        ({"x0": torch.zeros(3, 4)}, ImcSsmError, "x0 is torch.float32"),
        ({"x0": torch.zeros(3, 4, requires_grad=True) + 0j, "backend": "cpu"}, ImcSsmError, "no gradient for x0"),
        ({"x0": torch.zeros(3, 4, 2), "formats": FORMATS}, ImcSsmError, "needed are integer codes"),
        (
            {"x0": torch.full((3, 4, 2), 300), "formats": FORMATS},
            FormatError,
            "x0 holds codes outside its format of 8 bits",
        ),
        ({"b": None, "formats": FORMATS}, FormatError, "b and formats.b must be given together"),
        (
            {"formats": ScanFormats(WIDE, WIDE, WIDE, WIDE, WIDE)},
            FormatError,
            "formats.c and formats.y must be None",
        ),
        (
            {"formats": ScanFormats(Format.from_range(-np.ones(3), np.ones(3), 8), WIDE, WIDE, WIDE)},
            FormatError,
            "format of a is for 3 heads",
        ),
        (
            {"formats": ScanFormats(WIDE, WIDE, Format(8, np.float32(1e-12), np.int64(0)), WIDE)},
            FormatError,
            "so much finer than its input",
        ),
    ],
)
def test_refused_before_any_work(
    change: dict[str, Any], kind: type[ImcSsmError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object) -> None:
        raise AssertionError("the kernel ran")

    monkeypatch.setattr(states, "_forward", work)
    with pytest.raises(kind, match=message) as caught:
        state_scan(**({"v": V, "a": A, "b": B} | change))
    assert "\n" not in str(caught.value)


def test_the_oracle_refuses_the_plan_of_a_real_input() -> None:
    plan = plan_scan(FORMATS, 4, 1)
    a, _ = codes_of(torch.view_as_real(A).numpy(), FORMATS.a)
    with pytest.raises(FormatError, match="not that of a complex input"):
        state_codes(plan, np.zeros((1, 2, 4, 1), np.int64), a, a)
    plan = plan_scan(FORMATS, 4, 1, complex_drive=True)
    with pytest.raises(FormatError, match="v has shape"):
        state_codes(plan, np.zeros((1, 4, 2, 1), np.int64), a, a)
    with pytest.raises(FormatError, match="given together"):
        state_codes(plan, np.zeros((1, 2, 4, 1), np.int64), a)
