"""The fused CPU kernels (Numba): one pass over time per block of 16 sequences, states in cache, no temporaries.

The innermost loop runs over 16 sequences (the lanes), so every vector instruction does the same thing to
independent states: there is no reduction across lanes and the coefficients are broadcast. Integer words are
truncated explicitly after each operation, because Numba would widen 32-bit arithmetic to 64 bits.

Arrays: u, y, grad (batch, head, time); coefficients (head, state, 2), codes centred on their zero point;
x (batch, head, state, 2); per-head integers (head,).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import njit, prange
from numba.extending import overload
from numpy.typing import NDArray

__all__ = [
    "LANES",
    "backward_codes",
    "backward_real",
    "dequantise",
    "forward_codes",
    "forward_real",
    "quantise",
]

LANES = 16
Array = NDArray[Any]
i32 = np.int32
i64 = np.int64
f32 = np.float32


def _shifted(value: int, shift: int) -> int:
    """Arithmetic shift right within the word of `value` (compiled per word below)."""
    return value >> shift


@overload(_shifted, inline="always", strict=False)  # type: ignore[untyped-decorator]
def _shifted_in_word(value: Any, shift: Any) -> Any:
    # The mask tells the compiler that the shift stays within the word, so 32-bit words stay 32 bits wide.
    if value.bitwidth == 32:
        return lambda value, shift: i32(value >> (shift & i32(31)))
    return lambda value, shift: value >> (shift & 63)


@njit(parallel=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def quantise(u: Array, scale: Array, zero: Array, low: Array, high: Array, codes: Array) -> None:
    """codes = clip(round_half_even(u / scale) + zero, low, high) per head; u float32, codes int32."""
    batch, heads, time = u.shape
    for row in prange(batch * heads):
        b, h = row // heads, row % heads
        s, z, lo, hi = scale[h], f32(zero[h]), f32(low[h]), f32(high[h])
        for t in range(time):
            q = np.rint(u[b, h, t] / s) + z
            codes[b, h, t] = i32(min(max(q, lo), hi))


@njit(parallel=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def dequantise(codes: Array, scale: Array, zero: Array, y: Array) -> None:
    """y = scale (codes - zero) per head, rounded to float32 once; scale float64."""
    batch, heads, time = codes.shape
    for row in prange(batch * heads):
        b, h = row // heads, row % heads
        s, z = scale[h], zero[h]
        for t in range(time):
            y[b, h, t] = f32(s * (codes[b, h, t] - z))


@njit(parallel=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def forward_codes(
    u: Array,
    a: Array,
    b: Array,
    c: Array,
    zero_u: Array,
    m_a: Array,
    m_b: Array,
    shift: Array,
    low: Array,
    high: Array,
    m_y: Array,
    shift_y: Array,
    zero_y: Array,
    low_y: Array,
    high_y: Array,
    x: Array,
    y: Array,
) -> None:
    """The integer update. The dtype of a, b, c, m_a, m_b, shift (int32 or int64) is the accumulator's word.

    `x` holds the centred initial state and receives the last one (int32). `m_y` empty: y is the bare sum.
    """
    batch, heads, time = u.shape
    states = a.shape[1]
    word = a.dtype.type
    blocks = (batch + LANES - 1) // LANES
    for item in prange(blocks * heads):
        h = item % heads
        first = (item // heads) * LANES
        lanes = min(LANES, batch - first)
        xr = np.zeros((states, LANES), a.dtype)
        xi = np.zeros((states, LANES), a.dtype)
        drive = np.zeros(LANES, a.dtype)
        total = np.zeros(LANES, a.dtype)
        for lane in range(lanes):
            for n in range(states):
                xr[n, lane] = x[first + lane, h, n, 0]
                xi[n, lane] = x[first + lane, h, n, 1]
        s = shift[h]
        odd = word(1) if shift[h] > 0 else word(0)
        half = word(0)
        if shift[h] > 0:
            half = word((word(1) << word(shift[h] - 1)) - 1)
        mul_a, mul_b, lo, hi, zu = m_a[h], m_b[h], low[h], high[h], zero_u[h]
        for t in range(time):
            for lane in range(lanes):
                drive[lane] = word(u[first + lane, h, t] - zu)
            for lane in range(LANES):
                total[lane] = 0
            for n in range(states):
                ar, ai = a[h, n, 0], a[h, n, 1]
                br, bi = b[h, n, 0], b[h, n, 1]
                cr, ci = c[h, n, 0], c[h, n, 1]
                for lane in range(LANES):
                    vr, vi, v = xr[n, lane], xi[n, lane], drive[lane]
                    pr = word(word(ar * vr) - word(ai * vi))
                    pi = word(word(ar * vi) + word(ai * vr))
                    qr = word(word(mul_a * pr) + word(mul_b * word(br * v)))
                    qi = word(word(mul_a * pi) + word(mul_b * word(bi * v)))
                    # Round half to even: add just under a half, plus the lowest kept bit.
                    er = word(_shifted(qr, s) & odd)
                    ei = word(_shifted(qi, s) & odd)
                    rr = _shifted(word(qr + word(half + er)), s)
                    ri = _shifted(word(qi + word(half + ei)), s)
                    rr = max(lo, min(hi, rr))
                    ri = max(lo, min(hi, ri))
                    xr[n, lane] = rr
                    xi[n, lane] = ri
                    total[lane] = word(total[lane] + word(word(cr * rr) - word(ci * ri)))
            if m_y.size == 0:
                for lane in range(lanes):
                    y[first + lane, h, t] = total[lane]
            else:
                for lane in range(lanes):
                    y[first + lane, h, t] = _requantised(
                        i64(total[lane]), m_y[h], shift_y[h], zero_y[h], low_y[h], high_y[h]
                    )
        for lane in range(lanes):
            for n in range(states):
                x[first + lane, h, n, 0] = xr[n, lane]
                x[first + lane, h, n, 1] = xi[n, lane]


@njit(cache=True, error_model="numpy", inline="always")  # type: ignore[untyped-decorator]
def _requantised(total: Any, m: Any, shift: Any, zero: Any, low: Any, high: Any) -> Any:
    """clamp(round_half_even(m total / 2^shift) + zero, low, high) in 64-bit words."""
    value = m * total
    if shift > 0:
        value = (value + ((i64(1) << (shift - 1)) - 1) + ((value >> shift) & 1)) >> shift
    return max(low, min(high, value + zero))


@njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract"})  # type: ignore[untyped-decorator]
def backward_codes(
    u: Array,
    a: Array,
    b: Array,
    c: Array,
    zero_u: Array,
    m_a: Array,
    m_b: Array,
    shift: Array,
    low: Array,
    high: Array,
    m_y: Array,
    shift_y: Array,
    zero_y: Array,
    low_y: Array,
    high_y: Array,
    scale: Array,
    x0: Array,
    grad: Array,
    clamp: float,
    tape: Array,
    grad_u: Array,
    grad_a: Array,
    grad_b: Array,
    grad_c: Array,
) -> None:
    """Straight-through gradients of `forward_codes` from a zero state; zero where a word saturated.

    The states are recomputed into `tape` (thread, time + 1, state, 2, LANES) int32 (slot 0: the zero state),
    each code shifted left by one with "not saturated" in the lowest bit. `scale` (head, 4) float32 holds
    scale_a, scale_b, scale_c and scale_x; the caller folds scale_u into b's gradient. `grad` (batch, head,
    time) is the gradient of the real output; grad_a, grad_b, grad_c (head, chunk, state, 2) receive partial
    sums over fixed chunks of the batch, so that the result does not depend on the number of threads.
    """
    batch, heads, time = u.shape
    states = a.shape[1]
    word = a.dtype.type
    blocks = (batch + LANES - 1) // LANES
    chunks = grad_a.shape[1]
    for item in prange(chunks * heads):
        h = item % heads
        chunk = item // heads
        store = tape[numba.get_thread_id()]
        xr = np.zeros((states, LANES), a.dtype)
        xi = np.zeros((states, LANES), a.dtype)
        drive = np.zeros(LANES, a.dtype)
        total = np.zeros(LANES, a.dtype)
        free_r = np.zeros(LANES, a.dtype)
        free_i = np.zeros(LANES, a.dtype)
        gr = np.zeros((states, LANES), np.float32)
        gi = np.zeros((states, LANES), np.float32)
        sums = np.zeros((states, 6, LANES), np.float32)
        real = np.zeros((6, LANES), np.float32)
        gate = np.ones((time, LANES), np.float32)
        gy = np.zeros(LANES, np.float32)
        gu = np.zeros(LANES, np.float32)
        ut = np.zeros(LANES, np.float32)
        s = shift[h]
        odd = word(1) if shift[h] > 0 else word(0)
        half = word(0)
        if shift[h] > 0:
            half = word((word(1) << word(shift[h] - 1)) - 1)
        mul_a, mul_b, lo, hi, zu = m_a[h], m_b[h], low[h], high[h], zero_u[h]
        s_a, s_b, s_c, s_x = scale[h, 0], scale[h, 1], scale[h, 2], scale[h, 3]
        for block in range(chunk * blocks // chunks, (chunk + 1) * blocks // chunks):
            first = block * LANES
            lanes = min(LANES, batch - first)
            for n in range(states):
                for lane in range(LANES):
                    xr[n, lane] = 0
                    xi[n, lane] = 0
                    gr[n, lane] = 0
                    gi[n, lane] = 0
                    store[0, n, 0, lane] = 0
                    store[0, n, 1, lane] = 0
                for lane in range(lanes):
                    vr, vi = x0[first + lane, h, n, 0], x0[first + lane, h, n, 1]
                    xr[n, lane] = vr
                    xi[n, lane] = vi
                    store[0, n, 0, lane] = i32(vr * 2)
                    store[0, n, 1, lane] = i32(vi * 2)
            for lane in range(LANES):
                drive[lane] = 0
                gy[lane] = 0
                ut[lane] = 0
            for t in range(time):
                for lane in range(lanes):
                    drive[lane] = word(u[first + lane, h, t] - zu)
                for lane in range(LANES):
                    total[lane] = 0
                for n in range(states):
                    ar, ai = a[h, n, 0], a[h, n, 1]
                    br, bi = b[h, n, 0], b[h, n, 1]
                    cr, ci = c[h, n, 0], c[h, n, 1]
                    for lane in range(LANES):
                        vr, vi, v = xr[n, lane], xi[n, lane], drive[lane]
                        pr = word(word(ar * vr) - word(ai * vi))
                        pi = word(word(ar * vi) + word(ai * vr))
                        qr = word(word(mul_a * pr) + word(mul_b * word(br * v)))
                        qi = word(word(mul_a * pi) + word(mul_b * word(bi * v)))
                        er = word(_shifted(qr, s) & odd)
                        ei = word(_shifted(qi, s) & odd)
                        rr = _shifted(word(qr + word(half + er)), s)
                        ri = _shifted(word(qi + word(half + ei)), s)
                        kr = max(lo, min(hi, rr))
                        ki = max(lo, min(hi, ri))
                        xr[n, lane] = kr
                        xi[n, lane] = ki
                        total[lane] = word(total[lane] + word(word(cr * kr) - word(ci * ki)))
                        free_r[lane] = rr
                        free_i[lane] = ri
                    for lane in range(LANES):
                        kr, ki = xr[n, lane], xi[n, lane]
                        store[t + 1, n, 0, lane] = i32(kr * 2 + (1 if kr == free_r[lane] else 0))
                        store[t + 1, n, 1, lane] = i32(ki * 2 + (1 if ki == free_i[lane] else 0))
                if m_y.size > 0:
                    for lane in range(lanes):
                        free = _requantised(i64(total[lane]), m_y[h], shift_y[h], 0, -(2**62), 2**62) + zero_y[h]
                        gate[t, lane] = f32(1) if low_y[h] <= free <= high_y[h] else f32(0)
            for back in range(time):
                t = time - 1 - back
                for lane in range(lanes):
                    gy[lane] = 2 * grad[first + lane, h, t] * gate[t, lane]
                    ut[lane] = f32(u[first + lane, h, t] - zu)
                for lane in range(LANES):
                    gu[lane] = 0
                for n in range(states):
                    ar, ai = s_a * f32(a[h, n, 0]), s_a * f32(a[h, n, 1])
                    br, bi = s_b * f32(b[h, n, 0]), s_b * f32(b[h, n, 1])
                    cr, ci = s_c * f32(c[h, n, 0]), s_c * f32(c[h, n, 1])
                    # Unpacked in a loop of its own: integer and float lanes together defeat the vectoriser.
                    for lane in range(LANES):
                        kr, ki = store[t + 1, n, 0, lane], store[t + 1, n, 1, lane]
                        real[0, lane] = s_x * f32(i32(kr >> 1))
                        real[1, lane] = s_x * f32(i32(ki >> 1))
                        real[2, lane] = f32(i32(kr & 1))
                        real[3, lane] = f32(i32(ki & 1))
                        real[4, lane] = s_x * f32(i32(store[t, n, 0, lane] >> 1))
                        real[5, lane] = s_x * f32(i32(store[t, n, 1, lane] >> 1))
                    for lane in range(LANES):
                        g, v = gy[lane], ut[lane]
                        # The output's gradient comes first: it read the stored state.
                        sums[n, 4, lane] += g * real[0, lane]
                        sums[n, 5, lane] -= g * real[1, lane]
                        er = (gr[n, lane] + cr * g) * real[2, lane]
                        ei = (gi[n, lane] - ci * g) * real[3, lane]
                        er = max(-clamp, min(clamp, er))
                        ei = max(-clamp, min(clamp, ei))
                        sums[n, 2, lane] += er * v
                        sums[n, 3, lane] += ei * v
                        gu[lane] += er * br + ei * bi
                        gr[n, lane] = ar * er + ai * ei
                        gi[n, lane] = ar * ei - ai * er
                        sums[n, 0, lane] += er * real[4, lane] + ei * real[5, lane]
                        sums[n, 1, lane] += ei * real[4, lane] - er * real[5, lane]
                for lane in range(lanes):
                    grad_u[first + lane, h, t] = gu[lane]
        _reduce(sums, grad_a[h, chunk], grad_b[h, chunk], grad_c[h, chunk])


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _reduce(sums: Array, grad_a: Array, grad_b: Array, grad_c: Array) -> None:
    """Add the lanes of one chunk's sums, in float64 and in a fixed order."""
    for n in range(sums.shape[0]):
        for part in range(2):
            ga = gb = gc = 0.0
            for lane in range(LANES):
                ga += sums[n, part, lane]
                gb += sums[n, 2 + part, lane]
                gc += sums[n, 4 + part, lane]
            grad_a[n, part] = ga
            grad_b[n, part] = gb
            grad_c[n, part] = gc


@njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract"})  # type: ignore[untyped-decorator]
def forward_real(u: Array, a: Array, b: Array, c: Array, x: Array, y: Array) -> None:
    """The full-precision update in float32; `x` holds the initial state and receives the last one."""
    batch, heads, time = u.shape
    states = a.shape[1]
    blocks = (batch + LANES - 1) // LANES
    for item in prange(blocks * heads):
        h = item % heads
        first = (item // heads) * LANES
        lanes = min(LANES, batch - first)
        xr = np.zeros((states, LANES), np.float32)
        xi = np.zeros((states, LANES), np.float32)
        drive = np.zeros(LANES, np.float32)
        total = np.zeros(LANES, np.float32)
        for lane in range(lanes):
            for n in range(states):
                xr[n, lane] = x[first + lane, h, n, 0]
                xi[n, lane] = x[first + lane, h, n, 1]
        for t in range(time):
            for lane in range(lanes):
                drive[lane] = u[first + lane, h, t]
            for lane in range(LANES):
                total[lane] = 0
            for n in range(states):
                ar, ai = a[h, n, 0], a[h, n, 1]
                br, bi = b[h, n, 0], b[h, n, 1]
                cr, ci = c[h, n, 0], c[h, n, 1]
                for lane in range(LANES):
                    vr, vi, v = xr[n, lane], xi[n, lane], drive[lane]
                    kr = ar * vr - ai * vi + br * v
                    ki = ar * vi + ai * vr + bi * v
                    xr[n, lane] = kr
                    xi[n, lane] = ki
                    total[lane] += cr * kr - ci * ki
            for lane in range(lanes):
                y[first + lane, h, t] = 2 * total[lane]
        for lane in range(lanes):
            for n in range(states):
                x[first + lane, h, n, 0] = xr[n, lane]
                x[first + lane, h, n, 1] = xi[n, lane]


@njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract"})  # type: ignore[untyped-decorator]
def backward_real(
    u: Array,
    a: Array,
    b: Array,
    c: Array,
    x0: Array,
    grad: Array,
    clamp: float,
    tape: Array,
    grad_u: Array,
    grad_a: Array,
    grad_b: Array,
    grad_c: Array,
) -> None:
    """Gradients of `forward_real` from the state x0; arrays as in `backward_codes`, `tape` float32."""
    batch, heads, time = u.shape
    states = a.shape[1]
    blocks = (batch + LANES - 1) // LANES
    chunks = grad_a.shape[1]
    for item in prange(chunks * heads):
        h = item % heads
        chunk = item // heads
        store = tape[numba.get_thread_id()]
        xr = np.zeros((states, LANES), np.float32)
        xi = np.zeros((states, LANES), np.float32)
        gr = np.zeros((states, LANES), np.float32)
        gi = np.zeros((states, LANES), np.float32)
        sums = np.zeros((states, 6, LANES), np.float32)
        gy = np.zeros(LANES, np.float32)
        gu = np.zeros(LANES, np.float32)
        ut = np.zeros(LANES, np.float32)
        for block in range(chunk * blocks // chunks, (chunk + 1) * blocks // chunks):
            first = block * LANES
            lanes = min(LANES, batch - first)
            for n in range(states):
                for lane in range(LANES):
                    xr[n, lane] = 0
                    xi[n, lane] = 0
                    gr[n, lane] = 0
                    gi[n, lane] = 0
                    store[0, n, 0, lane] = 0
                    store[0, n, 1, lane] = 0
                for lane in range(lanes):
                    vr, vi = x0[first + lane, h, n, 0], x0[first + lane, h, n, 1]
                    xr[n, lane] = vr
                    xi[n, lane] = vi
                    store[0, n, 0, lane] = vr
                    store[0, n, 1, lane] = vi
            for lane in range(LANES):
                gy[lane] = 0
                ut[lane] = 0
            for t in range(time):
                for lane in range(lanes):
                    ut[lane] = u[first + lane, h, t]
                for n in range(states):
                    ar, ai = a[h, n, 0], a[h, n, 1]
                    br, bi = b[h, n, 0], b[h, n, 1]
                    for lane in range(LANES):
                        vr, vi, v = xr[n, lane], xi[n, lane], ut[lane]
                        kr = ar * vr - ai * vi + br * v
                        ki = ar * vi + ai * vr + bi * v
                        xr[n, lane] = kr
                        xi[n, lane] = ki
                        store[t + 1, n, 0, lane] = kr
                        store[t + 1, n, 1, lane] = ki
            for back in range(time):
                t = time - 1 - back
                for lane in range(lanes):
                    gy[lane] = 2 * grad[first + lane, h, t]
                    ut[lane] = u[first + lane, h, t]
                for lane in range(LANES):
                    gu[lane] = 0
                for n in range(states):
                    ar, ai = a[h, n, 0], a[h, n, 1]
                    br, bi = b[h, n, 0], b[h, n, 1]
                    cr, ci = c[h, n, 0], c[h, n, 1]
                    for lane in range(LANES):
                        g, v = gy[lane], ut[lane]
                        sums[n, 4, lane] += g * store[t + 1, n, 0, lane]
                        sums[n, 5, lane] -= g * store[t + 1, n, 1, lane]
                        er = max(-clamp, min(clamp, gr[n, lane] + cr * g))
                        ei = max(-clamp, min(clamp, gi[n, lane] - ci * g))
                        sums[n, 2, lane] += er * v
                        sums[n, 3, lane] += ei * v
                        gu[lane] += er * br + ei * bi
                        gr[n, lane] = ar * er + ai * ei
                        gi[n, lane] = ar * ei - ai * er
                        pr, pi = store[t, n, 0, lane], store[t, n, 1, lane]
                        sums[n, 0, lane] += er * pr + ei * pi
                        sums[n, 1, lane] += ei * pr - er * pi
                for lane in range(lanes):
                    grad_u[first + lane, h, t] = gu[lane]
        _reduce(sums, grad_a[h, chunk], grad_b[h, chunk], grad_c[h, chunk])
