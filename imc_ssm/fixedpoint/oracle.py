"""The int64 oracle of the diagonal update: the definition that every other implementation must equal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint.formats import Format, broadcast_heads
from imc_ssm.fixedpoint.normal import Noise
from imc_ssm.fixedpoint.plan import ScanPlan
from imc_ssm.fixedpoint.requantization import round_shift

__all__ = ["Overflows", "scan_codes", "state_codes"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Overflows:
    """How many words saturated, per head: state words (real and imaginary counted apart) and outputs.

    In the separate order a state word counts once, whether a x, b u or their sum saturated.
    """

    state: Ints
    output: Ints


def scan_codes(
    plan: ScanPlan,
    u: Ints,
    a: Ints,
    b: Ints | None = None,
    c: Ints | None = None,
    x0: Ints | None = None,
    noise: Noise | None = None,
) -> tuple[Ints, Ints, Overflows]:
    """Run the update on codes; codes in, codes out.

    u (batch, head, time); a, b, c (head, state, 2) with real and imaginary part last; b or c None: exactly 1.
    x0 (batch, head, state, 2) state codes, None: the code of zero. `noise`: drawn and added to the state where
    the plan has a multiplier for it. Returns y (batch, head, time): codes of the output format, or the bare
    sum where there is none; the last state (batch, head, state, 2); overflows.

    Raises `FormatError` for a wrong shape, a code outside its format, b or c without its format or the reverse,
    or noise that the plan has no multiplier for. Arithmetic: see `ScanPlan`.
    """
    f, mode = plan.formats, plan.formats.rounding
    for name, codes, fmt in (("b", b, f.b), ("c", c, f.c)):
        if (codes is None) != (fmt is None):
            raise FormatError(f"{name} and formats.{name} must be given together or both be None")
    if noise is not None and noise.state > 0 and plan.m_z is None:
        raise FormatError(f"noise of the state {noise.state!r}, but the plan has none; give plan_scan state_noise")
    u = _checked("u", u, f.u, (None, plan.heads, None), 1)
    shape = (u.shape[0], plan.heads, plan.states, 2)
    one = np.zeros(shape[1:], np.int64)
    one[..., 0] = 1

    def centred(name: str, codes: Ints | None, fmt: Format | None) -> Ints:
        if fmt is None or codes is None:
            return one
        return _checked(name, codes, fmt, shape[1:], 0) - plan.zero(name)[..., None]

    a_c, b_c, c_c = centred("a", a, f.a), centred("b", b, f.b), centred("c", c, f.c)
    u_c = u - plan.zero("u")[:, None]
    zero_x = plan.zero("x")[..., None]
    x = np.zeros(shape, np.int64) if x0 is None else _checked("x0", x0, f.x, shape, 1) - zero_x
    y = np.empty(u.shape, np.int64)
    saturated = np.zeros(plan.heads, np.int64)
    for t in range(u.shape[-1]):
        ut = u_c[:, :, t, None]
        recurrent = plan.m_a[..., None] * _product(a_c, x)
        if plan.m_z is not None and noise is not None:
            recurrent = recurrent + plan.m_z[..., None] * noise.of_state(*shape[:3], t)
        x, lost = _advanced(plan, recurrent, plan.m_b[..., None] * (b_c * ut[..., None]))
        saturated += lost.sum(axis=(0, 2, 3))
        y[:, :, t] = (plan.m_c * _product(c_c, x)[..., 0]).sum(axis=-1)
    cut = np.zeros(plan.heads, np.int64)
    if f.y is not None and plan.m_y is not None and plan.shift_y is not None:
        codes = round_shift(plan.m_y[:, None] * y, plan.shift_y[:, None], mode) + plan.zero("y")[:, None]
        low, high = (broadcast_heads(v, 2, 0) for v in (f.y.low, f.y.high))
        cut = ((codes < low) | (codes > high)).sum(axis=(0, 2))
        y = np.clip(codes, low, high)
    return y, x + zero_x, Overflows(saturated, cut)


def state_codes(
    plan: ScanPlan, v: Ints, a: Ints, b: Ints | None = None, x0: Ints | None = None
) -> tuple[Ints, Ints, Overflows]:
    """Run the update of a complex input on codes, one state a "head"; the states themselves are the output.

    v (batch, 2, state, time), axis 1 real and imaginary part; a, b (state, 2), b None: exactly 1; x0 (batch,
    state, 2) state codes, None: the code of zero. Returns x, the codes of the
    states in every step, as v; the last state, as x0; overflows per state.

    Raises `FormatError` for a wrong shape, a code outside its format, b without its format or the reverse, or a
    plan that is not one of a complex input. Arithmetic: see `ScanPlan`, with D = b' v' the complex product.
    """
    f, states = plan.formats, plan.heads
    if not plan.complex_drive or plan.states != 1 or f.c is not None or f.y is not None:
        raise FormatError(
            "the plan is not that of a complex input; make it by plan_scan(formats, states, 1, "
            "complex_drive=True), without formats of c and y"
        )
    if (b is None) != (f.b is None):
        raise FormatError("b and formats.b must be given together or both be None")
    v = _checked("v", v, f.u, (None, 2, states, None), 2) - plan.zero("u")[:, None]
    a_c = _checked("a", a, f.a, (states, 2), 0)[:, None] - plan.zero("a")[..., None]
    b_c = np.array([1, 0])
    if b is not None and f.b is not None:
        b_c = _checked("b", b, f.b, (states, 2), 0)[:, None] - plan.zero("b")[..., None]
    zero_x = plan.zero("x")[..., None]
    shape = (len(v), states, 1, 2)
    x = np.zeros(shape, np.int64)
    if x0 is not None:
        x = _checked("x0", x0, f.x, (len(v), states, 2), 1)[:, :, None] - zero_x
    out, saturated = np.empty(v.shape, np.int64), np.zeros(states, np.int64)
    for t in range(v.shape[-1]):
        driven = plan.m_b[..., None] * _product(b_c, np.moveaxis(v[..., t], 1, -1)[:, :, None])
        x, lost = _advanced(plan, plan.m_a[..., None] * _product(a_c, x), driven)
        saturated += lost.sum(axis=(0, 2, 3))
        out[..., t] = np.moveaxis((x + zero_x)[:, :, 0], -1, 1)
    return out, (x + zero_x)[:, :, 0], Overflows(saturated, np.zeros(states, np.int64))


def _advanced(plan: ScanPlan, recurrent: Ints, driven: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """The stored state from the accumulators m_a P + m_z Z and m_b D, and which words saturated."""
    mode = plan.formats.rounding
    if plan.formats.rounding_placement == "joint":
        free = round_shift(recurrent + driven, plan.shift[..., None], mode)
        return _clamped(free, plan), _outside(free, plan)
    parts = [round_shift(v, s[..., None], mode) for v, s in ((recurrent, plan.shift), (driven, plan.shift_b))]
    free = _clamped(parts[0], plan) + _clamped(parts[1], plan)
    lost = _outside(free, plan) | _outside(parts[0], plan) | _outside(parts[1], plan)
    return _clamped(free, plan), lost


def _product(k: Ints, x: Ints) -> Ints:
    """The complex product, real and imaginary part last."""
    return np.stack(
        [k[..., 0] * x[..., 0] - k[..., 1] * x[..., 1], k[..., 0] * x[..., 1] + k[..., 1] * x[..., 0]], -1
    )


def _clamped(x: Ints, plan: ScanPlan) -> Ints:
    return np.clip(x, plan.low[..., None], plan.high[..., None])


def _outside(x: Ints, plan: ScanPlan) -> NDArray[np.bool_]:
    return (x < plan.low[..., None]) | (x > plan.high[..., None])


def _checked(name: str, codes: Ints, fmt: Format, shape: tuple[int | None, ...], head_axis: int) -> Ints:
    """The codes as int64, after a check of shape and range."""
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iu":
        raise FormatError(f"{name} has dtype {codes.dtype}; codes are integers")
    codes = codes.astype(np.int64)
    if codes.ndim != len(shape) or any(s not in (None, n) for s, n in zip(shape, codes.shape, strict=True)):
        wanted = tuple("any" if s is None else s for s in shape)
        raise FormatError(f"{name} has shape {codes.shape}; needed is {wanted}")
    low, high = (broadcast_heads(v, codes.ndim, head_axis) for v in (fmt.low, fmt.high))
    if np.any((codes < low) | (codes > high)):
        raise FormatError(f"{name} holds codes outside its format of {fmt.bits} bits")
    return codes
