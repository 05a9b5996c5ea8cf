"""The int64 oracle of the diagonal update: the definition that every other implementation must equal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint.requantise import ScanPlan, round_shift

__all__ = ["Overflows", "scan_codes"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Overflows:
    """How many words saturated, per head: state words (real and imaginary counted apart) and outputs."""

    state: Ints
    output: Ints


def scan_codes(
    plan: ScanPlan,
    u: Ints,
    a: Ints,
    b: Ints | None = None,
    c: Ints | None = None,
    x0: Ints | None = None,
) -> tuple[Ints, Ints, Overflows]:
    """Run the update on codes; codes in, codes out.

    u (batch, head, time); a, b, c (head, state, 2) with real and imaginary part last; b or c None: exactly 1.
    x0 (batch, head, state, 2) state codes, None: the code of zero. Returns y (batch, head, time): codes of
    the output format, or the bare sum where there is none; the last state (batch, head, state, 2); overflows.

    Raises `FormatError` for a wrong shape or a code outside its format. Arithmetic: see `ScanPlan`.
    """
    f = plan.formats
    u = _checked("u", u, f.u, (None, plan.heads, None), 1)
    a = _checked("a", a, f.a, (plan.heads, plan.states, 2), 0)
    batch, heads, time = u.shape
    one = np.zeros((heads, plan.states, 2), np.int64)
    one[..., 0] = 1
    b_c = one if f.b is None or b is None else _checked("b", b, f.b, a.shape, 0) - plan.zero("b")[:, None, None]
    c_c = one if f.c is None or c is None else _checked("c", c, f.c, a.shape, 0) - plan.zero("c")[:, None, None]
    a_c = a - plan.zero("a")[:, None, None]
    u_c = u - plan.zero("u")[:, None]
    zero_x = plan.zero("x")[:, None, None]
    shape = (batch, heads, plan.states, 2)
    x = np.zeros(shape, np.int64) if x0 is None else _checked("x0", x0, f.x, shape, 1) - zero_x
    xr, xi = x[..., 0], x[..., 1]

    def per_state(v: Ints) -> Ints:
        return v[:, None]

    m_a, m_b, shift = per_state(plan.m_a), per_state(plan.m_b), per_state(plan.shift)
    low, high = per_state(plan.low), per_state(plan.high)
    y = np.empty((batch, heads, time), np.int64)
    saturated = np.zeros(heads, np.int64)
    for t in range(time):
        ut = u_c[:, :, t, None]
        new = []
        for product, drive in (
            (a_c[..., 0] * xr - a_c[..., 1] * xi, b_c[..., 0] * ut),
            (a_c[..., 0] * xi + a_c[..., 1] * xr, b_c[..., 1] * ut),
        ):
            rounded = round_shift(m_a * product + m_b * drive, shift)
            saturated += ((rounded < low) | (rounded > high)).sum(axis=(0, 2))
            new.append(np.clip(rounded, low, high))
        xr, xi = new
        y[:, :, t] = (c_c[..., 0] * xr - c_c[..., 1] * xi).sum(axis=-1)
    lost = np.zeros(heads, np.int64)
    if f.y is not None and plan.m_y is not None and plan.shift_y is not None:
        codes = round_shift(plan.m_y[:, None] * y, plan.shift_y[:, None]) + plan.zero("y")[:, None]
        low_y, high_y = (np.broadcast_to(v, (heads,))[:, None] for v in (f.y.low, f.y.high))
        lost = ((codes < low_y) | (codes > high_y)).sum(axis=(0, 2))
        y = np.clip(codes, low_y, high_y)
    return y, np.stack([xr, xi], axis=-1) + zero_x, Overflows(saturated, lost)


def _checked(name: str, codes: Ints, fmt: object, shape: tuple[int | None, ...], head_axis: int) -> Ints:
    """The codes as int64, after a check of shape and range."""
    from imc_ssm.fixedpoint.formats import Format

    assert isinstance(fmt, Format)
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iu":
        raise FormatError(f"{name} has dtype {codes.dtype}; codes are integers")
    codes = codes.astype(np.int64)
    if codes.ndim != len(shape) or any(s not in (None, n) for s, n in zip(shape, codes.shape, strict=True)):
        wanted = tuple("any" if s is None else s for s in shape)
        raise FormatError(f"{name} has shape {codes.shape}; needed is {wanted}")
    low = Format._spread(fmt.low, codes.ndim, head_axis)
    high = Format._spread(fmt.high, codes.ndim, head_axis)
    if np.any((codes < low) | (codes > high)):
        raise FormatError(f"{name} holds codes outside its format of {fmt.bits} bits")
    return codes
