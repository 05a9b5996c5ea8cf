"""What follows the sums of a tile on a GPU (Triton): noise, ADC and scale in one pass.

Only `cuda_tile` imports this module: it needs Triton. The numbers and their counters are those of `plain_tile`.
"""

# Triton reads the parameters' annotations itself: only constants have one.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl

__all__ = ["decode"]

_NEAREST = tl.constexpr(1.5 * 2**23)
"""Added to and taken from |x| < 2^22 in float32, it leaves x rounded half to even."""
_QUARTER = tl.constexpr(1.5707963267948966)


@triton.jit
def _pair(one, two):
    """Two Gaussian numbers of two words."""
    u = ((one >> 1).to(tl.int32).to(tl.float32) + 0.5) * (2.0**-31)
    v = ((two >> 2).to(tl.int32).to(tl.float32) + 0.5) * (2.0**-30)
    radius = tl.sqrt(-2.0 * tl.log(u))
    first, second = radius * tl.sin((1.0 - v) * _QUARTER), radius * tl.sin(v * _QUARTER)
    return tl.where((two & 1) == 1, -first, first), tl.where((two & 2) == 2, -second, second)


@triton.jit
def _put(
    z, o, chip, product, place, inside, sums, squares, spread, factor, bias, grid, out, low, high, products,
    outputs, pitch,
    NOISE: tl.constexpr, VARIES: tl.constexpr, BIAS: tl.constexpr, GRID: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """One output of every product of a program, from its sum and its noise."""
    inside = inside & (o < outputs)
    column = chip * outputs + o
    at = (chip * products + product) * outputs + o
    s = tl.load(sums + at, inside, 0.0)
    if NOISE:
        sigma = tl.load(spread + column, inside, 0.0)
        if VARIES:
            sigma = tl.sqrt(sigma * sigma + tl.load(squares + at, inside, 0.0))
        s += sigma * z
    # Bounds first: they are integers, so the result is the same, and rounding needs |s| < 2^22.
    s = tl.minimum(tl.maximum(s, low), high)
    s = (s + _NEAREST) - _NEAREST
    target = out + place + o * pitch
    base = tl.zeros_like(s)
    if BIAS:
        base += tl.load(bias + o, inside, 0.0)
    if ADD:
        base += tl.load(target, inside, 0.0)
    y = tl.fma(s, tl.load(factor + column, inside, 0.0), base)
    if GRID:
        step = tl.load(grid + o, inside, 1.0)
        least, most = tl.load(grid + outputs + o, inside, 0.0), tl.load(grid + 2 * outputs + o, inside, 0.0)
        y = tl.minimum(tl.maximum(tl.div_rn(y, step), least), most)
        y = ((y + _NEAREST) - _NEAREST) * step
    tl.store(target, y, inside)


@triton.jit
def decode(
    sums, squares, spread, factor, bias, grid, seeds, out, position, products, time, outputs, groups, total, low,
    high, s_chip, s_batch, s_time, s_output,
    NOISE: tl.constexpr, VARIES: tl.constexpr, BIAS: tl.constexpr, GRID: tl.constexpr, ADD: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """sums, squares (chip, product, output); spread, factor (chip, output); out by its strides. A lane has the
    four outputs of one counter."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < total
    group, rest = index % groups, index // groups
    product, chip = rest % products, rest // products
    place = chip * s_chip + (product // time) * s_batch + (product % time) * s_time
    z0 = tl.zeros((BLOCK,), tl.float32)
    z1, z2, z3 = z0, z0, z0
    if NOISE:
        number = position + product
        low_word, high_word = (number & 0xFFFFFFFF).to(tl.uint32), ((number >> 32) & 0xFFFFFFFF).to(tl.uint32)
        seed = tl.load(seeds + chip, inside, 0)
        w0, w1, w2, w3 = tl.philox(seed, low_word, high_word, group.to(tl.uint32), tl.zeros((BLOCK,), tl.uint32))
        z0, z1 = _pair(w0, w1)
        z2, z3 = _pair(w2, w3)
    o = 4 * group
    _put(z0, o, chip, product, place, inside, sums, squares, spread, factor, bias, grid, out, low, high,
         products, outputs, s_output, NOISE, VARIES, BIAS, GRID, ADD)  # fmt: skip
    _put(z1, o + 1, chip, product, place, inside, sums, squares, spread, factor, bias, grid, out, low, high,
         products, outputs, s_output, NOISE, VARIES, BIAS, GRID, ADD)  # fmt: skip
    _put(z2, o + 2, chip, product, place, inside, sums, squares, spread, factor, bias, grid, out, low, high,
         products, outputs, s_output, NOISE, VARIES, BIAS, GRID, ADD)  # fmt: skip
    _put(z3, o + 3, chip, product, place, inside, sums, squares, spread, factor, bias, grid, out, low, high,
         products, outputs, s_output, NOISE, VARIES, BIAS, GRID, ADD)  # fmt: skip
