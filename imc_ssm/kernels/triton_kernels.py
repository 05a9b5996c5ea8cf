"""The fused GPU kernels (Triton): one pass over time per tile of sequences, states in registers.

Only `cuda` imports this module: it needs Triton. The arithmetic is that of `fixedpoint.ScanPlan`, in 32- or 64-bit
integers, or float32 in full precision: one kernel each way serves both (INTEGER).

A row is one head of one sequence, row = sequence * heads + head; a tile is ROWS rows times STATES states (powers
of two; what lies beyond the data is masked and stays zero). Arrays: u, y, grad, grad_u (row, time); x0, last (row,
state, 2), centred on their zero point; `table` (plane, head, state) in the word of the arithmetic: real and
imaginary parts of a, b, c with the multipliers folded in, the multiplier of the noise, and for integers shift,
shift_b, low, high; `clip`: bound of a state in full precision; `real` (6, head, state) float32: a, b, c as real
numbers; `inputs` (3, head) float32: scale, low, high; `outputs` (4, head) int64: m_y, shift_y, low, high; `unit`
(head,) float64: real value of one step of the output; `key` (3,) int64: seed, first sample, first time step;
`gauss`: the table of `fixedpoint.normal`.
"""

# Triton reads the parameters' annotations itself: only constants have one.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"

import triton
import triton.language as tl

from imc_ssm.fixedpoint.normal import OCTAVE_BITS

__all__ = ["backward", "forward"]

_REST = tl.constexpr(23 - OCTAVE_BITS)
_FRACTION = tl.constexpr(2 ** (23 - OCTAVE_BITS) - 1)
_FIRST = tl.constexpr(127 << OCTAVE_BITS)
_NEAREST = tl.constexpr(1.5 * 2**23)
"""Added to and taken from |x| < 2^22 in float32, it leaves x rounded half to even."""
# A word of the tape: the code times 16, and which roundings did not saturate.
_FREE = tl.constexpr(1)
_FREE_A = tl.constexpr(2)
_FREE_B = tl.constexpr(4)
_FREE_Y = tl.constexpr(8)
_FLAGS = tl.constexpr(4)


@triton.jit
def _rounding(shift, ROUNDING: tl.constexpr):
    """What `_rounded` needs: the shift, the half to add, and 1 where anything is shifted out."""
    odd = (shift > 0).to(shift.dtype)
    half = odd << tl.maximum(shift - 1, 0)
    if ROUNDING == "half_even":
        half -= odd
    return shift, half, odd


@triton.jit
def _rounded(word, by, ROUNDING: tl.constexpr):
    """word / 2^shift as an integer: `fixedpoint.round_shift`."""
    shift, half, odd = by
    if ROUNDING == "half_even":
        half += (word >> shift) & odd
    elif ROUNDING == "half_away":
        half -= tl.where(word < 0, odd, 0)
    return (word + half) >> shift


@triton.jit
def _clamped(x, low, high):
    """x in [low, high], and whether it was there."""
    inside = tl.minimum(tl.maximum(x, low), high)
    return inside, inside == x


@triton.jit
def _input_code(u, rule):
    """The centred code of an input as a float, and whether it is free of saturation."""
    scale, low, high = rule
    ratio = tl.minimum(tl.maximum(tl.div_rn(u, scale), low - 1), high + 1)
    return _clamped((ratio + _NEAREST) - _NEAREST, low, high)


@triton.jit
def _gaussian(word, gauss):
    """A 32-bit word as a Gaussian integer: `fixedpoint.normal`."""
    bits = (2 * (word >> 9).to(tl.int32) + 1).to(tl.float32).to(tl.int32, bitcast=True)
    entry = gauss + ((bits >> _REST) - _FIRST)
    low = tl.load(entry)
    z = low + (((tl.load(entry + 1) - low) * (bits & _FRACTION)) >> _REST)
    return tl.where((word & 1) == 1, -z, z)


@triton.jit
def _counters(key, row, heads, state, NOISE: tl.constexpr):
    """Seed, sample, head, state and first time step of the noise of a tile."""
    if NOISE:
        sample = (tl.load(key + 1) + row // heads).to(tl.uint32)[:, None]
        head = (row % heads).to(tl.uint32)[:, None]
        start = tl.load(key), sample, head, state.to(tl.uint32)[None, :], tl.load(key + 2)
    else:
        start = 0, 0, 0, 0, 0
    return start


@triton.jit
def _drawn(counters, gauss, t):
    """Noise of one time step, real and imaginary part, (ROWS, STATES) int32."""
    seed, sample, head, state, first = counters
    words = tl.philox(seed, sample, head, state, (first + t).to(tl.uint32))
    return _gaussian(words[0], gauss), _gaussian(words[1], gauss)


@triton.jit
def _six(planes, plane, inside):
    """Real and imaginary parts of a, b, c."""
    ar, ai = tl.load(planes, inside, 0), tl.load(planes + plane, inside, 0)
    br, bi = tl.load(planes + 2 * plane, inside, 0), tl.load(planes + 3 * plane, inside, 0)
    return ar, ai, br, bi, tl.load(planes + 4 * plane, inside, 0), tl.load(planes + 5 * plane, inside, 0)


@triton.jit
def _rule(planes, plane, inside, clip, INTEGER: tl.constexpr, ROUNDING: tl.constexpr):
    """How the state is rounded: roundings of a x and of b u, low, high; in full precision the bounds alone."""
    if INTEGER:
        by_a = _rounding(tl.load(planes + 7 * plane, inside, 0), ROUNDING)
        by_b = _rounding(tl.load(planes + 8 * plane, inside, 0), ROUNDING)
        rule = by_a, by_b, tl.load(planes + 9 * plane, inside, 0), tl.load(planes + 10 * plane, inside, 0)
    else:
        rule = 0, 0, -clip, clip
    return rule


@triton.jit
def _settled(
    p, q, rule, INTEGER: tl.constexpr, SEPARATE: tl.constexpr, ROUNDING: tl.constexpr, CLIP: tl.constexpr
):
    """One part of the new state from p = a x (+ noise) and q = b u, and its flags."""
    flags = 0
    if INTEGER:
        by_a, by_b, low, high = rule
        if SEPARATE:
            p, free_a = _clamped(_rounded(p, by_a, ROUNDING), low, high)
            q, free_b = _clamped(_rounded(q, by_b, ROUNDING), low, high)
            x, free = _clamped(p + q, low, high)
            flags = tl.where(free, _FREE, 0) + tl.where(free_a, _FREE_A, 0) + tl.where(free_b, _FREE_B, 0)
        else:
            x, free = _clamped(_rounded(p + q, by_a, ROUNDING), low, high)
            flags = tl.where(free, _FREE, 0)
    else:
        x = p + q
        if CLIP:
            x, _ = _clamped(x, rule[2], rule[3])
    return x, flags


@triton.jit
def _update(
    xr, xi, v, k, m_z, rule, counters, gauss, t,
    INTEGER: tl.constexpr, NOISE: tl.constexpr, SEPARATE: tl.constexpr, ROUNDING: tl.constexpr,
    CLIP: tl.constexpr,
):  # fmt: skip
    """The state after one step with the input v (ROWS, 1), and the flags of its two parts."""
    pr, pi = k[0] * xr - k[1] * xi, k[0] * xi + k[1] * xr
    if NOISE:
        zr, zi = _drawn(counters, gauss, t)
        pr, pi = pr + m_z * zr, pi + m_z * zi
    xr, flags_r = _settled(pr, k[2] * v, rule, INTEGER, SEPARATE, ROUNDING, CLIP)
    xi, flags_i = _settled(pi, k[3] * v, rule, INTEGER, SEPARATE, ROUNDING, CLIP)
    return xr, xi, flags_r, flags_i


@triton.jit
def _output_code(total, output, QUANTIZED: tl.constexpr, ROUNDING: tl.constexpr):
    """The centred code (ROWS,) int64 of a sum, and whether it is free of saturation; without format the sum."""
    y, free = total.to(tl.int64), total == total
    if QUANTIZED:
        m_y, by_y, low, high = output
        y, free = _clamped(_rounded(m_y * y, by_y, ROUNDING), low, high)
    return y, free


@triton.jit
def _output_rule(outputs, head, heads, valid, QUANTIZED: tl.constexpr, ROUNDING: tl.constexpr):
    """How the output is rounded: multiplier, rounding, low, high; nothing where it has no format."""
    if QUANTIZED:
        m_y, shift = tl.load(outputs + head, valid, 0), tl.load(outputs + heads + head, valid, 0)
        low, high = tl.load(outputs + 2 * heads + head, valid, 0), tl.load(outputs + 3 * heads + head, valid, 0)
        output = m_y, _rounding(shift, ROUNDING), low, high
    else:
        output = 0, 0, 0, 0
    return output


@triton.jit
def _input_rule(inputs, head, heads, valid, INTEGER: tl.constexpr):
    """How the input is rounded: scale, low, high."""
    if INTEGER:
        scale, low = tl.load(inputs + head, valid, 1.0), tl.load(inputs + heads + head, valid, 0.0)
        rule = scale, low, tl.load(inputs + 2 * heads + head, valid, 0.0)
    else:
        rule = 1.0, 0.0, 0.0
    return rule


@triton.jit
def forward(
    u, y, x0, last, table, inputs, outputs, unit, key, gauss, clip, rows, heads, states, time,
    ROWS: tl.constexpr, STATES: tl.constexpr, INTEGER: tl.constexpr, NOISE: tl.constexpr,
    SEPARATE: tl.constexpr, QUANTIZED: tl.constexpr, ROUNDING: tl.constexpr, CLIP: tl.constexpr,
    SPAN: tl.constexpr,
):  # fmt: skip
    """y and the last state. One program per tile."""
    # In full precision SPAN steps one after another in the code are a fifth faster; integers become slower.
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    valid, head, state = row < rows, (row % heads).to(tl.int32), tl.arange(0, STATES)
    inside = valid[:, None] & (state < states)[None, :]
    plane = heads * states
    planes = table + head[:, None] * states + state[None, :]
    k, m_z = _six(planes, plane, inside), tl.load(planes + 6 * plane, inside, 0)
    rule = _rule(planes, plane, inside, clip, INTEGER, ROUNDING)
    read = _input_rule(inputs, head, heads, valid, INTEGER)
    output = _output_rule(outputs, head, heads, valid, QUANTIZED, ROUNDING)
    counters = _counters(key, row, heads, state, NOISE)
    scale = 1.0
    if INTEGER:
        scale = tl.load(unit + head, valid, 0.0)
    at = 2 * (row[:, None] * states + state[None, :])
    word = table.dtype.element_ty
    xr, xi = tl.load(x0 + at, inside, 0).to(word), tl.load(x0 + at + 1, inside, 0).to(word)
    for t in tl.range(time, loop_unroll_factor=1 if INTEGER else SPAN):
        v = tl.load(u + row * time + t, valid, 0.0)
        if INTEGER:
            v, _ = _input_code(v, read)
        v = v.to(word)[:, None]
        xr, xi, _, _ = _update(
            xr, xi, v, k, m_z, rule, counters, gauss, t, INTEGER, NOISE, SEPARATE, ROUNDING, CLIP
        )
        out = tl.sum(k[4] * xr - k[5] * xi, axis=1)
        if INTEGER:
            code, _ = _output_code(out, output, QUANTIZED, ROUNDING)
            out = code.to(tl.float64) * scale
        else:
            out = 2 * out
        tl.store(y + row * time + t, out.to(y.dtype.element_ty), valid)
    tl.store(last + at, xr.to(last.dtype.element_ty), inside)
    tl.store(last + at + 1, xi.to(last.dtype.element_ty), inside)


@triton.jit
def _freed(e, flags, FLAG: tl.constexpr):
    """The gradient where the rounding did not saturate."""
    return tl.where((flags & FLAG) != 0, e, 0.0)


@triton.jit
def backward(
    u, grad, grad_u, sums, x0, table, real, inputs, outputs, key, gauss, tape, clamp, clip, rows, heads, states,
    time, ROWS: tl.constexpr, STATES: tl.constexpr, INTEGER: tl.constexpr, NOISE: tl.constexpr,
    SEPARATE: tl.constexpr, QUANTIZED: tl.constexpr, ROUNDING: tl.constexpr, CLAMP: tl.constexpr,
    CLIP: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Gradients for grad = dL/dy: grad_u, and sums (row, 6, state) over time for a, b, c (real and imaginary).

    Each of the programs works through every so-many-th tile: it runs the states again from x0 and writes that in
    front of every span of SPAN steps on its part of the tape (program, span, 2, ROWS, STATES). Then it goes back,
    span by span: it runs the steps of a span once more, whose states now stay in registers, and back through them.
    e is the gradient of the state before its rounding. The sums hold e conj(x[t-1]), e u[t] and g conj(x[t]), with
    states and inputs as centred codes for integers.
    """
    program, state, local = tl.program_id(0), tl.arange(0, STATES), tl.arange(0, ROWS)
    cell = local[:, None] * STATES + state[None, :]
    HALF: tl.constexpr = ROWS * STATES
    STEP: tl.constexpr = 2 * HALF
    spans = tl.cdiv(time, SPAN)
    own = tape + program.to(tl.int64) * spans * STEP + cell
    word = table.dtype.element_ty
    mark = tape.dtype.element_ty
    for tile in range(program, tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = local + tile * tl.full((ROWS,), ROWS, tl.int64)
        valid, head = row < rows, (row % heads).to(tl.int32)
        inside = valid[:, None] & (state < states)[None, :]
        plane, at = heads * states, head[:, None] * states + state[None, :]
        k, m_z = _six(table + at, plane, inside), tl.load(table + 6 * plane + at, inside, 0)
        rule = _rule(table + at, plane, inside, clip, INTEGER, ROUNDING)
        read = _input_rule(inputs, head, heads, valid, INTEGER)
        output = _output_rule(outputs, head, heads, valid, QUANTIZED, ROUNDING)
        counters = _counters(key, row, heads, state, NOISE)
        start = x0 + 2 * (row[:, None] * states + state[None, :])
        xr, xi = tl.load(start, inside, 0).to(word), tl.load(start + 1, inside, 0).to(word)
        # Threads may read what others wrote: nobody overwrites or reads the tape before all are here.
        tl.debug_barrier()
        slot = own
        for span in range(spans):
            tl.store(slot, xr.to(mark))
            tl.store(slot + HALF, xi.to(mark))
            slot += STEP
            if span < spans - 1:
                for step in tl.static_range(SPAN):
                    t = span * SPAN + step
                    v = tl.load(u + row * time + t, valid, 0.0)
                    if INTEGER:
                        v, _ = _input_code(v, read)
                    v = v.to(word)[:, None]
                    xr, xi, _, _ = _update(
                        xr, xi, v, k, m_z, rule, counters, gauss, t, INTEGER, NOISE, SEPARATE, ROUNDING, CLIP
                    )
        tl.debug_barrier()
        ar, ai, br, bi, cr, ci = _six(real + at, plane, inside)
        zero = tl.zeros((ROWS, STATES), tl.float32)
        gr, gi, sar, sai, sbr, sbi, scr, sci = zero, zero, zero, zero, zero, zero, zero, zero
        for back in range(spans):
            slot -= STEP
            first = (spans - 1 - back) * SPAN
            kr, ki = tl.load(slot), tl.load(slot + HALF)
            xr, xi = kr.to(word), ki.to(word)
            if INTEGER:
                kr, ki = kr << _FLAGS, ki << _FLAGS
            # Words of the states in front of and behind each step; what lies beyond the end has no gradient.
            real_words, imag_words = (kr,), (ki,)
            for step in tl.static_range(SPAN):
                t = first + step
                v = tl.load(u + row * time + t, valid & (t < time), 0.0)
                if INTEGER:
                    v, _ = _input_code(v, read)
                v = v.to(word)[:, None]
                nr, ni, flags_r, flags_i = _update(
                    xr, xi, v, k, m_z, rule, counters, gauss, t, INTEGER, NOISE, SEPARATE, ROUNDING, CLIP
                )
                if INTEGER:
                    xr, xi = nr, ni
                    total = tl.sum(k[4] * xr - k[5] * xi, axis=1)
                    _, free = _output_code(total, output, QUANTIZED, ROUNDING)
                    gate = tl.where(free, _FREE_Y, 0)[:, None]
                    kr, ki = (xr << _FLAGS).to(mark) + flags_r + gate, (xi << _FLAGS).to(mark) + flags_i + gate
                else:
                    xr, xi = tl.where(t < time, nr, xr), tl.where(t < time, ni, xi)
                    kr, ki = xr, xi
                real_words, imag_words = real_words + (kr,), imag_words + (ki,)  # noqa: RUF005
            for step in tl.static_range(SPAN):
                t = first + SPAN - 1 - step
                kr, ki = real_words[SPAN - step], imag_words[SPAN - step]
                before_r, before_i = real_words[SPAN - 1 - step], imag_words[SPAN - 1 - step]
                there = valid & (t < time)
                v = tl.load(u + row * time + t, there, 0.0)
                g = 2 * tl.load(grad + row * time + t, there, 0.0)[:, None]
                if INTEGER:
                    v, free_u = _input_code(v, read)
                    g = _freed(g, kr, _FREE_Y)
                    nr, ni = (kr >> _FLAGS).to(tl.float32), (ki >> _FLAGS).to(tl.float32)
                    pr, pi = (before_r >> _FLAGS).to(tl.float32), (before_i >> _FLAGS).to(tl.float32)
                else:
                    nr, ni, pr, pi = kr, ki, before_r, before_i
                scr += g * nr
                sci -= g * ni
                er, ei = gr + cr * g, gi - ci * g
                if INTEGER:
                    er, ei = _freed(er, kr, _FREE), _freed(ei, ki, _FREE)
                elif CLIP:
                    er, ei = tl.where(tl.abs(kr) < clip, er, 0.0), tl.where(tl.abs(ki) < clip, ei, 0.0)
                if CLAMP:
                    er, ei = tl.clamp(er, -clamp, clamp), tl.clamp(ei, -clamp, clamp)
                dr, di = er, ei
                if SEPARATE:
                    dr, di = _freed(er, kr, _FREE_B), _freed(ei, ki, _FREE_B)
                    er, ei = _freed(er, kr, _FREE_A), _freed(ei, ki, _FREE_A)
                sbr += dr * v[:, None]
                sbi += di * v[:, None]
                gu = tl.sum(dr * br + di * bi, axis=1)
                if INTEGER:
                    gu = tl.where(free_u, gu, 0.0)
                tl.store(grad_u + row * time + t, gu, there)
                sar += er * pr + ei * pi
                sai += ei * pr - er * pi
                gr, gi = ar * er + ai * ei, ar * ei - ai * er
        out = sums + row[:, None] * (6 * states) + state[None, :]
        tl.store(out, sar, inside)
        tl.store(out + states, sai, inside)
        tl.store(out + 2 * states, sbr, inside)
        tl.store(out + 3 * states, sbi, inside)
        tl.store(out + 4 * states, scr, inside)
        tl.store(out + 5 * states, sci, inside)
