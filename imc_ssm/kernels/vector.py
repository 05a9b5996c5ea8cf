"""Vectors for the fused kernels: a Numba type of LANES numbers that lives in vector registers.

Numba has scalars and arrays only; whether a loop over lanes becomes vector instructions, and whether its values
stay in registers from one time step to the next, is the compiler's guess. These few operations say it: each is one
LLVM instruction on <16 x double> or <16 x float>, which LLVM splits into whatever the machine has (two AVX-512
registers for 16 doubles, four with AVX2 or NEON). Outside compiled code they do not exist.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

__all__ = [
    "LANES",
    "ahead",
    "broadcast",
    "clamp",
    "copysign",
    "equal",
    "floor",
    "fma",
    "keep",
    "load",
    "load_mask",
    "narrow",
    "pointer",
    "rint",
    "splat",
    "store",
    "store_mask",
    "trunc",
    "turn",
    "wide",
]

LANES = 16
"""Sequences that one vector holds."""


class Vector(types.Type):
    """LANES numbers of one type."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype})")


F64, F32, MASK = Vector(types.float64), Vector(types.float32), Vector(types.boolean)
WORDS = Vector(types.uint32)
_LLVM = {F64: ir.DoubleType(), F32: ir.FloatType(), MASK: ir.IntType(1), WORDS: ir.IntType(32)}
_OF = {types.float64: F64, types.float32: F32}
_SUFFIX = {F64: "f64", F32: "f32"}


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, ir.VectorType(_LLVM[vector], LANES))


def _spread(builder: Any, number: Any) -> Any:
    index, lanes = ir.IntType(32), ir.VectorType(number.type, LANES)
    none = ir.Constant(lanes, ir.Undefined)
    first = builder.insert_element(none, number, ir.Constant(index, 0))
    return builder.shuffle_vector(first, none, ir.Constant(ir.VectorType(index, LANES), [0] * LANES))


def _at(builder: Any, pointer: Any, index: Any, vector: Vector) -> Any:
    return builder.bitcast(builder.gep(pointer, [index]), ir.PointerType(ir.VectorType(_LLVM[vector], LANES)))


def _read(builder: Any, pointer: Any, index: Any, vector: Vector) -> Any:
    value = builder.load(_at(builder, pointer, index, vector))
    value.align = vector.dtype.bitwidth // 8
    return value


def _write(builder: Any, value: Any, pointer: Any, index: Any, vector: Vector) -> None:
    done = builder.store(value, _at(builder, pointer, index, vector))
    done.align = vector.dtype.bitwidth // 8


@intrinsic
def pointer(typing: Any, array: Any) -> Any:
    """The address of a contiguous array's first number, which the array must outlive.

    Unlike an array it has no references to count, so inlined functions can take it inside a loop.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), code


@intrinsic
def ahead(typing: Any, source: Any, count: Any) -> Any:
    """A pointer to what lies `count` numbers behind another."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return source(source, types.intp), code


@intrinsic
def load(typing: Any, source: Any, index: Any) -> Any:
    """The LANES numbers from position `index` of a pointer."""
    vector = _OF[source.dtype]
    return vector(source, types.intp), lambda _, builder, signature, args: _read(builder, args[0], args[1], vector)


@intrinsic
def splat(typing: Any, source: Any, index: Any) -> Any:
    """The number at position `index` of a pointer, in every lane."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _spread(builder, builder.load(builder.gep(args[0], [args[1]])))

    return _OF[source.dtype](source, types.intp), code


@intrinsic
def store(typing: Any, target: Any, index: Any, value: Any) -> Any:
    """Write a vector to position `index` of a pointer."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _write(builder, args[2], args[0], args[1], value)
        return context.get_dummy_value()

    return types.void(target, types.intp, value), code


@intrinsic
def turn(typing: Any, source: Any, at: Any, pitch: Any, target: Any, to: Any, width: Any) -> Any:
    """Transpose LANES x LANES numbers: rows `pitch` apart in source from `at`, `width` in target from `to`."""
    vector = _OF[source.dtype]

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data, at, pitch, room, to, width = args
        index = ir.IntType(32)

        def place(start: Any, step: Any, lane: int) -> Any:
            return builder.add(start, builder.mul(step, ir.Constant(step.type, lane)))

        rows = [_read(builder, data, place(at, pitch, lane), vector) for lane in range(LANES)]
        distance = LANES // 2
        while distance:  # exchange off-diagonal blocks, half as large each time
            low = [k if not k & distance else LANES + k - distance for k in range(LANES)]
            high = [k + distance if not k & distance else LANES + k for k in range(LANES)]
            masks = [ir.Constant(ir.VectorType(index, LANES), mask) for mask in (low, high)]
            for k in range(LANES):
                if not k & distance:
                    one, two = rows[k], rows[k + distance]
                    rows[k], rows[k + distance] = (builder.shuffle_vector(one, two, mask) for mask in masks)
            distance //= 2
        for lane, row in enumerate(rows):
            _write(builder, row, room, place(to, width, lane), vector)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(source, integer, integer, target, integer, integer), code


@intrinsic
def broadcast(typing: Any, number: Any) -> Any:
    """One number in every lane."""

    return _OF[number](number), lambda context, builder, signature, args: _spread(builder, args[0])


def _elementwise(name: str, operands: int, doc: str) -> Any:
    """LLVM's intrinsic function of that name, lane by lane."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = args[0].type
        suffix = f"v{LANES}{_SUFFIX[signature.return_type]}"
        function = ir.FunctionType(lanes, [lanes] * operands)
        return builder.call(
            cgutils.get_or_insert_function(builder.module, function, f"llvm.{name}.{suffix}"), args
        )

    # One Python function per number of operands: Numba reads the signature.
    def one(typing: Any, a: Any) -> Any:
        return a(a), code

    def two(typing: Any, a: Any, b: Any) -> Any:
        return a(a, b), code

    def three(typing: Any, a: Any, b: Any, c: Any) -> Any:
        return a(a, b, c), code

    function = {1: one, 2: two, 3: three}[operands]
    function.__doc__ = doc
    return intrinsic(function)


fma = _elementwise("fma", 3, "a b + c, rounded once.")
rint = _elementwise("rint", 1, "The nearest integer, half to even.")
floor = _elementwise("floor", 1, "The largest integer that is not larger.")
trunc = _elementwise("trunc", 1, "The integer part.")
copysign = _elementwise("copysign", 2, "The magnitude of a with the sign of b.")


def _instruction(emit: Callable[..., Any], result: Vector | None, doc: str) -> Any:
    """One instruction on two vectors; `result` None: the type of the operands."""

    def two(typing: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit(builder, *args)

        return (result or a)(a, b), code

    two.__doc__ = doc
    return intrinsic(two)


_add = _instruction(lambda builder, a, b: builder.fadd(a, b), None, "a + b.")
_subtract = _instruction(lambda builder, a, b: builder.fsub(a, b), None, "a - b.")
_multiply = _instruction(lambda builder, a, b: builder.fmul(a, b), None, "a b.")
_divide = _instruction(lambda builder, a, b: builder.fdiv(a, b), None, "a / b.")
_least = _instruction(lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y), None, "The smaller of two.")
_most = _instruction(lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y), None, "The larger of two.")
equal = _instruction(lambda builder, a, b: builder.fcmp_ordered("==", a, b), MASK, "Where two vectors are equal.")


def _operator(symbol: Any, function: Any) -> None:
    @overload(symbol, inline="always", strict=False)
    def _(a: Any, b: Any) -> Any:
        if isinstance(a, Vector) and a == b:
            return lambda a, b: function(a, b)
        return None


_operator(operator.add, _add)
_operator(operator.sub, _subtract)
_operator(operator.mul, _multiply)
_operator(operator.truediv, _divide)


@overload(operator.neg, inline="always", strict=False)
def _negated(a: Any) -> Any:
    if isinstance(a, Vector):
        return lambda a: _negative(a)
    return None


@intrinsic
def _negative(typing: Any, a: Any) -> Any:
    return a(a), lambda context, builder, signature, args: builder.fneg(args[0])


def clamp(value: Any, low: Any, high: Any) -> Any:
    """max(low, min(high, value)) in compiled code."""
    raise NotImplementedError


@overload(clamp, inline="always", strict=False)
def _clamp(value: Any, low: Any, high: Any) -> Any:
    return lambda value, low, high: _most(low, _least(high, value))


@intrinsic
def wide(typing: Any, value: Any) -> Any:
    """Single to double precision."""
    lanes = ir.VectorType(_LLVM[F64], LANES)
    return F64(F32), lambda context, builder, signature, args: builder.fpext(args[0], lanes)


@intrinsic
def narrow(typing: Any, value: Any) -> Any:
    """Double to single precision, rounded."""
    lanes = ir.VectorType(_LLVM[F32], LANES)
    return F32(F64), lambda context, builder, signature, args: builder.fptrunc(args[0], lanes)


@intrinsic
def keep(typing: Any, value: Any, mask: Any) -> Any:
    """The value where the mask is set, 0 elsewhere."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(args[1], args[0], ir.Constant(args[0].type, [0.0] * LANES))

    return value(value, mask), code


@intrinsic
def store_mask(typing: Any, target: Any, index: Any, mask: Any) -> Any:
    """Write a mask as LANES bits to position `index` of a pointer to uint16."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[2], ir.IntType(LANES))
        builder.store(bits, builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(target, types.intp, mask), code


@intrinsic
def load_mask(typing: Any, source: Any, index: Any) -> Any:
    """The mask at position `index` of a pointer to uint16."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.load(builder.gep(args[0], [args[1]]))
        return builder.bitcast(bits, ir.VectorType(ir.IntType(1), LANES))

    return MASK(source, types.intp), code
