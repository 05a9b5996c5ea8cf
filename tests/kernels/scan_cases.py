"""Random recurrences with their formats, for the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from hypothesis import reject
from hypothesis import strategies as st
from torch import Tensor

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Format, Noise, ScanFormats, ScanPlan, UnitState, broadcast_heads, plan_scan
from imc_ssm.fixedpoint.formats import ROUNDINGS

CODES = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class CodeCase:
    """One integer recurrence: codes of every operand, all within their formats."""

    plan: ScanPlan
    u: CODES
    a: CODES
    b: CODES | None
    c: CODES | None
    x0: CODES | UnitState | None
    noise: Noise | None

    @property
    def operands(self) -> tuple[CODES, CODES | None, CODES | None]:
        return self.a, self.b, self.c


@st.composite
def code_cases(draw: st.DrawFn, timed: bool = False) -> CodeCase:
    """Formats of 2 to 16 bits, symmetric or not, per tensor, head or state, both orders, three roundings (`timed`:
    six, and slow heads), poles up to 1.05, with or without b, c, y, clip, noise and initial state; batches that do
    and do not fill the lanes. In half of the cases all scales are powers of two, so that sums fall exactly between
    two codes again and again."""
    heads, states = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    batch, time = draw(st.sampled_from([1, 3, 15, 16, 17, 35])), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    symmetric = draw(st.booleans())
    sizes = st.sampled_from([(), (heads,), (heads, states)])
    most = draw(st.sampled_from([8, 16]))  # 8 bits and fewer reach the 32-bit accumulator

    dyadic = draw(st.booleans())

    def fmt(reach: float, clip: float | None = None, per_state: bool = True) -> Format:
        size = draw(sizes)
        ends = reach * rng.uniform(0.2, 1, (2, *(size if per_state else size[:1])))
        bits = draw(st.integers(2, most))
        drawn = Format.from_range(-ends[0], ends[1], bits, symmetric=symmetric, clip=clip)
        if not dyadic:
            return drawn
        scale = np.exp2(np.round(np.log2(drawn.scale))).astype(np.float32)
        return Format(bits, scale, drawn.zero_point, symmetric, clip)

    formats = ScanFormats(
        a=fmt(1.05),
        u=fmt(3.0, per_state=False),
        x=fmt(draw(st.sampled_from([0.3, 3.0, 30.0])), draw(st.sampled_from([None, 0.1, 1.0]))),
        b=fmt(1.0) if draw(st.booleans()) else None,
        c=fmt(1.0) if draw(st.booleans()) else None,
        y=fmt(draw(st.sampled_from([0.5, 5.0])), per_state=False) if draw(st.booleans()) else None,
        rounding_placement=draw(st.sampled_from(["joint", "separate"])),
        rounding=draw(st.sampled_from(["half_even", "half_up", "half_away"])),
    )
    if timed:
        rounding = draw(st.sampled_from(ROUNDINGS))
        placement = "joint" if rounding == "feedback" else formats.rounding_placement
        slow = draw(st.lists(st.sampled_from([1, 1, 2, 4, 8]), min_size=heads, max_size=heads).map(tuple))
        bits = draw(st.integers(1, 16))
        formats = replace(
            formats, rounding=rounding, rounding_placement=placement, residual_bits=bits, periods=slow
        )
    noise = None
    if draw(st.booleans()):
        seed, sample, step = (draw(st.integers(0, 2**n - 100)) for n in (64, 32, 32))
        noise = Noise(seed, state=draw(st.sampled_from([0.01, 0.3])), sample=sample, time=step)

    def codes(part: Format | None, shape: tuple[int, ...], axis: int) -> CODES | None:
        if part is None:
            return None
        low, high = (broadcast_heads(v, len(shape), axis) for v in (part.low, part.high))
        drawn = rng.integers(low, high, shape, endpoint=True)
        ends = np.where(rng.random(shape) < 0.5, low, high)
        return np.where(rng.random(shape) < 0.1, ends, drawn)  # the extremes more often than by chance

    try:
        plan = plan_scan(formats, heads, states, noise.state if noise else 0.0)
    except FormatError:  # a state far finer than its input
        reject()
    u = codes(formats.u, (batch, heads, time), 1)
    a, b, c = (codes(p, (heads, states, 2), 0) for p in (formats.a, formats.b, formats.c))
    x0 = codes(formats.x, (batch, heads, states, 2), 1) if draw(st.booleans()) else None
    if timed and formats.timed and draw(st.booleans()):
        begun = draw(st.integers(0, 2**20))
        x = codes(formats.x, (batch, heads, states, 2), 1)
        # No more than the inputs that came since the last update can sum up to.
        done, most = begun % plan.periods, np.broadcast_to(formats.u.magnitude(), heads)
        sums = rng.integers(-most * done, most * done, (batch, heads), endpoint=True) if formats.slow else None
        residual = None
        if formats.rounding == "feedback":
            residual = rng.integers(0, 2**formats.residual_bits, (batch, heads, states, 2))
        x0 = UnitState(x, begun, sums, residual)
    assert u is not None
    assert a is not None
    return CodeCase(plan, u, a, b, c, x0, noise)


def assert_same_state(found: object, wanted: object) -> None:
    """Of two states of a unit every word is the same."""
    assert isinstance(found, UnitState) == isinstance(wanted, UnitState)
    pairs = zip(found, wanted, strict=True) if isinstance(found, UnitState) else [(found, wanted)]
    for one, two in pairs:
        assert (one is None) == (two is None)
        assert one is None or np.array_equal(one, two)


def operands(
    seed: int,
    batch: int,
    heads: int,
    states: int,
    time: int,
    *,
    radius: float = 0.99,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(u, a, b, c): standard normal u, b, c; poles of modulus 0.5 to `radius` at any angle."""
    g = torch.Generator().manual_seed(seed)
    z = torch.complex64 if dtype == torch.float32 else torch.complex128
    modulus = 0.5 + (radius - 0.5) * torch.rand(heads, states, generator=g, dtype=torch.float64)
    angle = 2 * torch.pi * torch.rand(heads, states, generator=g, dtype=torch.float64)
    u = torch.randn(batch, heads, time, generator=g, dtype=torch.float64)
    b, c = (torch.randn(heads, states, generator=g, dtype=torch.complex128) for _ in range(2))
    return u.to(dtype), torch.polar(modulus, angle).to(z), b.to(z), c.to(z)


def formats_for(
    u: Tensor, a: Tensor, b: Tensor | None, c: Tensor | None, bits: int | dict[str, int], **options: object
) -> ScanFormats:
    """Formats per head over the ranges that occur in the full-precision recurrence.

    `options`: `shrink` maps a part to a factor on its range (below 1: it saturates), `symmetric`, `clip`, `bare`
    (no output format), `per_state` (parts with a format per state), `order`, `rounding`.
    """
    from imc_ssm.kernels import diagonal_scan

    shrink: dict[str, float] = options.get("shrink", {})
    symmetric = bool(options.get("symmetric", False))
    b_, c_ = (torch.ones_like(a) if z is None else z for z in (b, c))
    x, states = torch.zeros(u.shape[0], *a.shape, dtype=a.dtype), []
    for t in range(u.shape[-1]):
        x = a * x + b_ * u[..., t, None]
        states.append(torch.view_as_real(x))
    y = diagonal_scan(u, a, b_, c_)

    def fmt(part: str, value: Tensor, head_axis: int, clip: float | None = None) -> Format:
        kept = 2 if part in options.get("per_state", "") else 1
        front = value.detach().movedim(tuple(range(head_axis, head_axis + kept)), tuple(range(kept)))
        flat = front.flatten(kept).numpy()
        factor = shrink.get(part, 1.0)
        width = bits if isinstance(bits, int) else bits[part]
        low, high = factor * flat.min(-1), factor * flat.max(-1)
        return Format.from_range(low, high, width, symmetric=symmetric, clip=clip)

    clip = options.get("clip")
    return ScanFormats(
        a=fmt("a", torch.view_as_real(a), 0),
        u=fmt("u", u, 1),
        x=fmt("x", torch.stack(states), 2, clip),
        b=None if b is None else fmt("b", torch.view_as_real(b), 0),
        c=None if c is None else fmt("c", torch.view_as_real(c), 0),
        y=None if options.get("bare") else fmt("y", y, 1),
        rounding_placement=options.get("order", "joint"),
        rounding=options.get("rounding", "half_even"),
    )
