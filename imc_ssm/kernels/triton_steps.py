"""One step of the recurrence on a GPU (Triton): what the kernels of `triton_kernels` are made of.

Arrays and names are explained there. What a function has no use for, in full precision or under another rounding,
it hands on as it is, so that loops carry the same types.
"""

# Triton reads the parameters' annotations itself: only constants have one.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"

import triton
import triton.language as tl

from imc_ssm.fixedpoint.dither import HASH, OFFSET, QUARTER, STEP
from imc_ssm.fixedpoint.normal import OCTAVE_BITS

__all__ = [
    "FLAGS",
    "FREE",
    "FREE_A",
    "FREE_B",
    "FREE_Y",
    "begun",
    "chosen",
    "coefficients",
    "counters_of",
    "gated",
    "input_code",
    "input_rule",
    "numbered",
    "output_rule",
    "rate_of",
    "read_out",
    "registers_of",
    "state_rule",
    "updated",
]

_REST = tl.constexpr(23 - OCTAVE_BITS)
_FRACTION = tl.constexpr(2 ** (23 - OCTAVE_BITS) - 1)
_FIRST = tl.constexpr(127 << OCTAVE_BITS)
_NEAREST = tl.constexpr(1.5 * 2**23)
"""Added to and taken from |x| < 2^22 in float32, it leaves x rounded half to even."""
_STEP = tl.constexpr(STEP)
_OFFSET = tl.constexpr(OFFSET)
_QUARTER = tl.constexpr(QUARTER)
_OF_UPDATE = tl.constexpr(HASH[0])
_OF_REGISTER = tl.constexpr(HASH[1])
_MIX = tl.constexpr(HASH[2])
_MIX_AGAIN = tl.constexpr(HASH[3])
# A word of the tape: the code times 16, and which roundings did not saturate.
FREE = tl.constexpr(1)
FREE_A = tl.constexpr(2)
FREE_B = tl.constexpr(4)
FREE_Y = tl.constexpr(8)
FLAGS = tl.constexpr(4)


@triton.jit
def _rounding(shift, ROUNDING: tl.constexpr, RESIDUAL: tl.constexpr):
    """What `_rounded` needs: the shift, and two more numbers.

    To nearest: the half to add, and 1 where anything is shifted out. After a counter's word of 17 bits was added:
    by how much that is too long, and too short. After a residual of RESIDUAL bits: too short, and too long.
    """
    if ROUNDING == "dithered" or ROUNDING == "stochastic":
        one, two = tl.maximum(17 - shift, 0), tl.maximum(shift - 17, 0)
    elif ROUNDING == "feedback":
        one, two = tl.maximum(shift - RESIDUAL, 0), tl.maximum(RESIDUAL - shift, 0)
    else:
        two = (shift > 0).to(shift.dtype)
        one = two << tl.maximum(shift - 1, 0)
        if ROUNDING == "half_even":
            one -= two
    return shift, one, two


@triton.jit
def _rounded(word, by, beside, ROUNDING: tl.constexpr):
    """word / 2^shift as an integer, and the new residual (docs/fixed_point.md, sections 4 and 14).

    `beside`: the counter's word, the residual, or nothing that is read.
    """
    shift, one, two = by
    if ROUNDING == "dithered" or ROUNDING == "stochastic":
        word += ((2 * beside + 1).to(word.dtype) >> one) << two
    elif ROUNDING == "feedback":
        word += (beside << one) >> two
        ones = tl.full((1, 1), 1, word.dtype)
        beside = ((word & ((ones << shift) - 1)) >> one) << two
    else:
        half = one
        if ROUNDING == "half_even":
            half += (word >> shift) & two
        elif ROUNDING == "half_away":
            half -= tl.where(word < 0, two, 0)
        word += half
    return word >> shift, beside


@triton.jit
def _counted(update, register, ROUNDING: tl.constexpr):
    """16 bits for the update of that number of registers: `fixedpoint.dither`; nothing where none are needed."""
    word = register
    if ROUNDING == "dithered":
        word = (update * _STEP + (register >> 1) * _OFFSET + (register & 1) * _QUARTER) & 0xFFFF
    elif ROUNDING == "stochastic":
        word = update * _OF_UPDATE + register * _OF_REGISTER
        word = (word ^ (word >> 16)) * _MIX
        word = (word ^ (word >> 15)) * _MIX_AGAIN
        word = word >> 16
    return word.to(tl.int32)


@triton.jit
def _clamped(x, low, high):
    """x in [low, high], and whether it was there."""
    inside = tl.minimum(tl.maximum(x, low), high)
    return inside, inside == x


@triton.jit
def input_code(u, rule):
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
def counters_of(key, row, heads, state, NOISE: tl.constexpr):
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
def coefficients(planes, plane, inside):
    """Real and imaginary parts of a, b, c."""
    ar, ai = tl.load(planes, inside, 0), tl.load(planes + plane, inside, 0)
    br, bi = tl.load(planes + 2 * plane, inside, 0), tl.load(planes + 3 * plane, inside, 0)
    return ar, ai, br, bi, tl.load(planes + 4 * plane, inside, 0), tl.load(planes + 5 * plane, inside, 0)


@triton.jit
def state_rule(planes, plane, inside, clip, INTEGER: tl.constexpr, ROUNDING: tl.constexpr, RESIDUAL: tl.constexpr):
    """How the state is rounded: roundings of a x and of b u, low, high; in full precision the bounds alone."""
    if INTEGER:
        by_a = _rounding(tl.load(planes + 7 * plane, inside, 0), ROUNDING, RESIDUAL)
        by_b = _rounding(tl.load(planes + 8 * plane, inside, 0), ROUNDING, RESIDUAL)
        rule = by_a, by_b, tl.load(planes + 9 * plane, inside, 0), tl.load(planes + 10 * plane, inside, 0)
    else:
        rule = 0, 0, -clip, clip
    return rule


@triton.jit
def _settled(
    p, q, rule, residual, count, INTEGER: tl.constexpr, SEPARATE: tl.constexpr, ROUNDING: tl.constexpr,
    CLIP: tl.constexpr,
):  # fmt: skip
    """One part of the new state from p = a x (+ noise) and q = b u, its residual and its flags."""
    flags = 0
    if INTEGER:
        by_a, by_b, low, high = rule
        if SEPARATE:
            p, _ = _rounded(p, by_a, count, ROUNDING)
            q, _ = _rounded(q, by_b, 65535 - count, ROUNDING)
            p, free_a = _clamped(p, low, high)
            q, free_b = _clamped(q, low, high)
            x, free = _clamped(p + q, low, high)
            flags = tl.where(free, FREE, 0) + tl.where(free_a, FREE_A, 0) + tl.where(free_b, FREE_B, 0)
        else:
            if ROUNDING == "feedback":
                x, residual = _rounded(p + q, by_a, residual, ROUNDING)
            else:
                x, _ = _rounded(p + q, by_a, count, ROUNDING)
            x, free = _clamped(x, low, high)
            flags = tl.where(free, FREE, 0)
    else:
        x = p + q
        if CLIP:
            x, _ = _clamped(x, rule[2], rule[3])
    return x, residual, flags


@triton.jit
def updated(
    kept, v, k, m_z, rule, counters, gauss, t, update, register,
    INTEGER: tl.constexpr, NOISE: tl.constexpr, SEPARATE: tl.constexpr, ROUNDING: tl.constexpr,
    CLIP: tl.constexpr,
):  # fmt: skip
    """State and residual after one step with the input v (ROWS, 1), and the flags of the two parts.

    kept: the state's and the residual's parts; `update`: number of the update, `register`: that of the real part.
    """
    xr, xi, er, ei = kept
    pr, pi = k[0] * xr - k[1] * xi, k[0] * xi + k[1] * xr
    if NOISE:
        zr, zi = _drawn(counters, gauss, t)
        pr, pi = pr + m_z * zr, pi + m_z * zi
    count_r, count_i = _counted(update, register, ROUNDING), _counted(update, register + 1, ROUNDING)
    xr, er, flags_r = _settled(pr, k[2] * v, rule, er, count_r, INTEGER, SEPARATE, ROUNDING, CLIP)
    xi, ei, flags_i = _settled(pi, k[3] * v, rule, ei, count_i, INTEGER, SEPARATE, ROUNDING, CLIP)
    return (xr, xi, er, ei), flags_r, flags_i


@triton.jit
def numbered(clock, t, rate, PERIODS: tl.constexpr):
    """Numbers (ROWS, 1) of the updates that end with this step or after it, and which rows are updated in it.

    `clock` (ROWS,) int64: steps done before the first.
    """
    step = clock + t
    if PERIODS:
        period = tl.full(rate.shape, 1, tl.int64) << rate
        due, step = ((step + 1) & (period - 1)) == 0, step >> rate
    else:
        due = step >= 0
    return step.to(tl.uint32)[:, None], due


@triton.jit
def begun(x0, row, states, stored, state, inside, valid, word, ROUNDING: tl.constexpr, PERIODS: tl.constexpr):
    """State and residual (ROWS, STATES) and the sum of the inputs (ROWS,) that the first step meets."""
    at = x0 + 2 * (row[:, None] * stored + state[None, :])
    xr, xi = tl.load(at, inside, 0).to(word), tl.load(at + 1, inside, 0).to(word)
    er, ei, total = xr, xi, row
    if ROUNDING == "feedback":
        er = tl.load(at + 2 * states, inside, 0).to(word)
        ei = tl.load(at + 2 * states + 1, inside, 0).to(word)
    if PERIODS:
        total = tl.load(x0 + 2 * (row + 1) * stored - 2, valid, 0).to(word)
    return (xr, xi, er, ei), total


@triton.jit
def _output_code(total, output, QUANTIZED: tl.constexpr, ROUNDING: tl.constexpr):
    """The centred code (ROWS,) int64 of a sum, and whether it is free of saturation; without format the sum."""
    y, free = total.to(tl.int64), total == total
    if QUANTIZED:
        m_y, by_y, low, high = output
        y, _ = _rounded(m_y * y, by_y, 0, ROUNDING)
        y, free = _clamped(y, low, high)
    return y, free


@triton.jit
def output_rule(outputs, head, heads, valid, QUANTIZED: tl.constexpr, ROUNDING: tl.constexpr):
    """How the output is rounded: multiplier, rounding, low, high; nothing where it has no format."""
    if QUANTIZED:
        m_y, shift = tl.load(outputs + head, valid, 0), tl.load(outputs + heads + head, valid, 0)
        low, high = tl.load(outputs + 2 * heads + head, valid, 0), tl.load(outputs + 3 * heads + head, valid, 0)
        output = m_y, _rounding(shift, ROUNDING, 0), low, high
    else:
        output = 0, 0, 0, 0
    return output


@triton.jit
def input_rule(inputs, head, heads, valid, INTEGER: tl.constexpr):
    """How the input is rounded: scale, low, high."""
    if INTEGER:
        scale, low = tl.load(inputs + head, valid, 1.0), tl.load(inputs + heads + head, valid, 0.0)
        rule = scale, low, tl.load(inputs + 2 * heads + head, valid, 0.0)
    else:
        rule = 1.0, 0.0, 0.0
    return rule


@triton.jit
def registers_of(head, states, state):
    """Numbers of the real parts' registers (ROWS, STATES); the imaginary part's is one more."""
    return (2 * (head[:, None] * states + state[None, :])).to(tl.uint32)


@triton.jit
def rate_of(rates, head, valid, PERIODS: tl.constexpr):
    """log2 of the steps between two updates (ROWS,)."""
    rate = head
    if PERIODS:
        rate = tl.load(rates + head, valid, 0)
    return rate


@triton.jit
def chosen(due, new, old):
    """States and residuals of the rows that are updated, and of the others."""
    here = due[:, None]
    xr, xi = tl.where(here, new[0], old[0]), tl.where(here, new[1], old[1])
    return xr, xi, tl.where(here, new[2], old[2]), tl.where(here, new[3], old[3])


@triton.jit
def read_out(kept, k, output, scale, INTEGER: tl.constexpr, QUANTIZED: tl.constexpr, NEAREST: tl.constexpr):
    """The outputs (ROWS,) of states."""
    out = tl.sum(k[4] * kept[0] - k[5] * kept[1], axis=1)
    if INTEGER:
        code, _ = _output_code(out, output, QUANTIZED, NEAREST)
        out = code.to(tl.float64) * scale
    else:
        out = 2 * out
    return out


@triton.jit
def gated(kept, k, output, QUANTIZED: tl.constexpr, NEAREST: tl.constexpr):
    """The flag (ROWS, 1) of outputs that did not saturate."""
    _, free = _output_code(tl.sum(k[4] * kept[0] - k[5] * kept[1], axis=1), output, QUANTIZED, NEAREST)
    return tl.where(free, FREE_Y, 0)[:, None]
