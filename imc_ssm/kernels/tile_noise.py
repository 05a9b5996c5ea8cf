"""Gaussian noise of the products in vector registers: Philox4x32-10 in lanes, then Box and Muller's transform.

One counter gives the numbers of four outputs of one product, 16 products at a time. The reference with the same
numbers, and the formulas, are in `plain_tile`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from imc_ssm.fixedpoint.normal import MULTIPLIERS, ROUNDS, WEYL
from imc_ssm.kernels.vector import F32, LANES, WORDS, broadcast, fma

__all__ = ["normals", "root"]

f32 = np.float32
inlined = njit(forceinline=True, error_model="numpy")

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_HALF = ir.VectorType(_I64, LANES // 2)
_WORDS, _FLOATS = ir.VectorType(_I32, LANES), ir.VectorType(ir.FloatType(), LANES)


def _same(kind: Any, number: Any) -> Any:
    """One constant in every lane."""
    return ir.Constant(kind, [number] * kind.count)


def _spread(builder: Any, number: Any, kind: Any) -> Any:
    none = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(none, number, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, none, ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count))


@intrinsic
def _words(typing: Any, number: Any, group: Any, key: Any) -> Any:
    """The four words of counters (number + lane, group, 0), numbers of 64 bits, in every lane.

    Each word lies in the lower half of 64 bits, even and odd lanes apart: the product of two words is one
    instruction, which does not look at what is in the upper half.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number, group, key = args
        low, high = ir.Constant(_I64, 0xFFFFFFFF), _same(_HALF, 32)
        keys = [builder.and_(key, low), builder.lshr(key, ir.Constant(_I64, 32))]
        halves = []
        for odd in range(2):
            lanes = ir.Constant(_HALF, list(range(odd, LANES, 2)))
            first = builder.add(_spread(builder, number, _HALF), lanes)
            halves.append([first, builder.lshr(first, high), _spread(builder, group, _HALF), _same(_HALF, 0)])
        for index in range(ROUNDS):
            at = [
                builder.and_(builder.add(k, ir.Constant(_I64, w * index % 2**64)), low)
                for k, w in zip(keys, WEYL, strict=True)
            ]
            k0, k1 = (_spread(builder, k, _HALF) for k in at)
            for half, (x0, x1, x2, x3) in enumerate(halves):
                p0, p1 = (
                    builder.mul(builder.and_(x, _same(_HALF, 0xFFFFFFFF)), _same(_HALF, m))
                    for x, m in zip((x0, x2), MULTIPLIERS, strict=True)
                )
                halves[half] = [
                    builder.xor(builder.xor(builder.lshr(p1, high), x1), k0),
                    p1,
                    builder.xor(builder.xor(builder.lshr(p0, high), x3), k1),
                    p0,
                ]
        pairs = [k + lane for lane in range(0, LANES, 2) for k in (0, LANES)]
        chosen = ir.Constant(ir.VectorType(_I32, LANES), pairs)
        words = [
            builder.shuffle_vector(builder.bitcast(even, _WORDS), builder.bitcast(odd, _WORDS), chosen)
            for even, odd in zip(*halves, strict=True)
        ]
        return context.make_tuple(builder, signature.return_type, words)

    return types.UniTuple(WORDS, 4)(types.int64, types.int64, types.int64), code


@intrinsic(prefer_literal=True)
def _middle(typing: Any, word: Any, bits: Any) -> Any:
    """The upper `bits` of a word, at most 31, plus 1/2, as single precision."""
    if not isinstance(bits, types.IntegerLiteral):
        return None
    count = bits.literal_value

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kept = builder.lshr(args[0], _same(_WORDS, 32 - count))
        return builder.fadd(builder.sitofp(kept, _FLOATS), _same(_FLOATS, 0.5))

    return F32(word, bits), code


@intrinsic(prefer_literal=True)
def _signed(typing: Any, value: Any, word: Any, place: Any) -> Any:
    """The value, which is not negative, with bit 0 or 1 of a word as its sign."""
    if not isinstance(place, types.IntegerLiteral):
        return None
    count = 31 - place.literal_value

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sign = builder.shl(args[1], _same(_WORDS, count))
        kept = builder.and_(sign, _same(_WORDS, 0x80000000))
        return builder.bitcast(builder.or_(builder.bitcast(args[0], _WORDS), kept), _FLOATS)

    return F32(value, word, place), code


@intrinsic
def _parts(typing: Any, value: Any) -> Any:
    """A positive number as m 2^e with sqrt(1/2) <= m < sqrt(2): m - 1 and e."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], _WORDS)
        places = _same(_WORDS, 23)
        power = builder.ashr(builder.sub(bits, _same(_WORDS, 0x3F3504F3)), places)
        rest = builder.bitcast(builder.sub(bits, builder.shl(power, places)), _FLOATS)
        parts = builder.fsub(rest, _same(_FLOATS, 1.0)), builder.sitofp(power, _FLOATS)
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(F32, 2)(value), code


@intrinsic
def root(typing: Any, value: Any) -> Any:
    """The square root of single-precision numbers."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = ir.FunctionType(_FLOATS, [_FLOATS])
        called = cgutils.get_or_insert_function(builder.module, function, f"llvm.sqrt.v{LANES}f32")
        return builder.call(called, args)

    return F32(value), code


LOG = tuple(
    f32(c)
    for c in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
)
"""log(1 + t) = t - t^2 / 2 + t^3 P(t), of 2^-24 for sqrt(1/2) <= 1 + t < sqrt(2) (Moshier, Cephes, logf.c)."""
SINE = tuple(
    f32(c)
    for c in (
        1.5148513193707913e-4,
        -4.673766437917948e-3,
        7.968968152999878e-2,
        -6.45963728427887e-1,
        1.5707963705062866,
    )
)
"""sin(pi v / 2) = v P(v^2) for 0 <= v <= 1, of 6e-9 (minimax of the relative error)."""


@inlined
def _radius(word: Any) -> Any:
    """sqrt(-2 log u) for u = (w + 1/2) / 2^31, w the upper 31 bits of a word: at most 6.66."""
    t, power = _parts(_middle(word, 31))
    p = broadcast(LOG[0])
    p = fma(p, t, broadcast(LOG[1]))
    p = fma(p, t, broadcast(LOG[2]))
    p = fma(p, t, broadcast(LOG[3]))
    p = fma(p, t, broadcast(LOG[4]))
    p = fma(p, t, broadcast(LOG[5]))
    p = fma(p, t, broadcast(LOG[6]))
    p = fma(p, t, broadcast(LOG[7]))
    p = fma(p, t, broadcast(LOG[8]))
    square = t * t
    # -2 (e log 2 + t - t^2 / 2 + t^3 P)
    whole = fma(broadcast(f32(-2.0)) * t, square * p, square)
    rest = fma(broadcast(f32(-2.0)), t, whole)
    return root(fma(broadcast(f32(-2.0 * np.log(2.0))), power - broadcast(f32(31.0)), rest))


@inlined
def _sine(v: Any) -> Any:
    """sin(pi v / 2) for 0 <= v <= 1."""
    square = v * v
    p = broadcast(SINE[0])
    p = fma(p, square, broadcast(SINE[1]))
    p = fma(p, square, broadcast(SINE[2]))
    p = fma(p, square, broadcast(SINE[3]))
    return fma(p, square, broadcast(SINE[4])) * v


@inlined
def _pair(one: Any, two: Any) -> Any:
    """Two Gaussian numbers of two words: a radius, an angle in a quarter circle, and two signs."""
    radius, v = _radius(one), _middle(two, 30) * broadcast(f32(2.0**-30))
    return _signed(radius * _sine(broadcast(f32(1.0)) - v), two, 0), _signed(radius * _sine(v), two, 1)


@inlined
def normals(number: Any, group: Any, key: Any) -> Any:
    """Standard normal numbers of the outputs 4 group ... 4 group + 3 of the products number ... number + 15."""
    w0, w1, w2, w3 = _words(number, group, key)
    z0, z1 = _pair(w0, w1)
    z2, z3 = _pair(w2, w3)
    return z0, z1, z2, z3
