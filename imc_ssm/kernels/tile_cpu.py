"""The product of crossbar tiles on the CPU, fused: converters, sums, noise and scales in one pass (Numba).

A panel is PANEL products (vectors) whose codes lie in cache, (input, vector); 16 of them are one vector of the
processor. Sums take the inputs in order, each with one rounding (`fma`), whatever the size, the batch and the
threads. Arrays of activations come flat with the strides of (chip, sequence, step, channel), so that both orders,
channels last and time last, and parts of either are read and written where they are.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from imc_ssm.kernels.compiling import compiled, kernel
from imc_ssm.kernels.grid import Array
from imc_ssm.kernels.tile_noise import normals, root
from imc_ssm.kernels.vector import (
    LANES,
    broadcast,
    clamp,
    fma,
    load,
    pointer,
    rint,
    splat,
    store,
    turn,
)

__all__ = ["tile_product"]

f32 = np.float32
inlined = njit(forceinline=True, error_model="numpy")

PANEL = 64
"""Vectors worked on at a time."""
WIDE = 4
"""Outputs that are summed at a time, and that share a counter of the noise."""
DEEP = 128
"""Inputs whose codes stay in the first cache while all outputs are summed."""
TASK = 8
"""Panels that one task takes."""
BROAD = 4 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 1
"""Vectors of 16 whose sums stay in registers together: the results do not depend on it."""


def _sums(count: int) -> Any:
    """sums[o, k] += sum_i w[i, o] x[i, k] for WIDE outputs o and k < 16 count, in rows of PANEL numbers."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, at, weight, first, inputs, target, to = args
        index, lanes = at.type, ir.VectorType(ir.FloatType(), LANES)
        where = ir.PointerType(lanes)

        def address(base: Any, offset: Any, extra: int) -> Any:
            place = builder.add(offset, ir.Constant(index, extra))
            return builder.bitcast(builder.gep(base, [place]), where)

        spots = [(o, k) for o in range(WIDE) for k in range(count)]
        kept = {}
        for o, k in spots:
            value = builder.load(address(target, to, o * PANEL + k * LANES))
            value.align = 4
            kept[o, k] = cgutils.alloca_once_value(builder, value)
        name = f"llvm.fma.v{LANES}f32"
        fused = cgutils.get_or_insert_function(builder.module, ir.FunctionType(lanes, [lanes] * 3), name)
        none = ir.Constant(lanes, ir.Undefined)
        same = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        with cgutils.for_range(builder, inputs) as loop:
            row = builder.add(at, builder.mul(loop.index, ir.Constant(index, PANEL)))
            drive = []
            for k in range(count):
                value = builder.load(address(source, row, k * LANES))
                value.align = 4
                drive.append(value)
            column = builder.add(first, builder.mul(loop.index, ir.Constant(index, WIDE)))
            for o in range(WIDE):
                number = builder.load(builder.gep(weight, [builder.add(column, ir.Constant(index, o))]))
                single = builder.insert_element(none, number, ir.Constant(ir.IntType(32), 0))
                factor = builder.shuffle_vector(single, none, same)
                for k in range(count):
                    total = builder.load(kept[o, k])
                    builder.store(builder.call(fused, [factor, drive[k], total]), kept[o, k])
        for o, k in spots:
            done = builder.store(builder.load(kept[o, k]), address(target, to, o * PANEL + k * LANES))
            done.align = 4
        return context.get_dummy_value()

    def sums(typing: Any, source: Any, at: Any, weight: Any, first: Any, inputs: Any, target: Any, to: Any) -> Any:
        integer = types.intp
        return types.void(source, integer, weight, integer, integer, target, integer), code

    return intrinsic(sums)


_one, _broad = _sums(1), _sums(BROAD)


@compiled
def _fill(sums: Array, offset: Array, wide: int) -> None:
    """sums (output, PANEL) start from the offset of each output."""
    to, start = pointer(sums), pointer(offset)
    for o in range(wide):
        for k in range(0, PANEL, LANES):
            store(to, o * PANEL + k, splat(start, o))


@compiled
def _product(codes: Array, inputs: int, weight: Array, groups: int, blocks: int, sums: Array) -> None:
    """sums (output, PANEL) += codes (input, PANEL) times weight (group, input, WIDE), inputs in order."""
    x, w, to = pointer(codes), pointer(weight), pointer(sums)
    for start in range(0, inputs, DEEP):
        deep = min(DEEP, inputs - start)
        for g in range(groups):
            first, k = (g * inputs + start) * WIDE, 0
            while k + BROAD <= blocks:
                _broad(x, start * PANEL + k * LANES, w, first, deep, to, g * WIDE * PANEL + k * LANES)
                k += BROAD
            while k < blocks:
                _one(x, start * PANEL + k * LANES, w, first, deep, to, g * WIDE * PANEL + k * LANES)
                k += 1


@compiled
def _places(number: int, count: int, time: int, strides: Any, at: Array, whole: Array) -> None:
    """Places of the vectors number ... number + count - 1 in memory, and whether 16 follow one another."""
    b, t = number // time, number % time
    for j in range(count):
        at[j] = b * strides[1] + t * strides[2]
        t += 1
        if t == time:
            b, t = b + 1, 0
    for k in range(PANEL // LANES):
        last = k * LANES + LANES - 1
        whole[k] = last < count and at[last] - at[k * LANES] == (LANES - 1) * strides[2]


@compiled
def _gather(
    x: Array, base: int, step: int, pitch: int, at: Array, whole: Array, count: int, inputs: int, codes: Array
) -> None:
    """x into codes (input, PANEL): vectors `step` apart, channels `pitch` apart; 0 in lanes beyond `count`."""
    source, to = pointer(x), pointer(codes)
    for k in range((count + LANES - 1) // LANES):
        first, done = base + at[k * LANES], 0
        if whole[k] and step == 1:
            for i in range(inputs):
                store(to, i * PANEL + k * LANES, load(source, first + i * pitch))
            done = inputs
        elif whole[k] and pitch == 1:
            done = inputs - inputs % LANES
            for i in range(0, done, LANES):
                turn(source, first + i, step, to, i * PANEL + k * LANES, PANEL)
        for i in range(done, inputs):
            for j in range(k * LANES, (k + 1) * LANES):
                codes[i * PANEL + j] = x[base + at[j] + i * pitch] if j < count else f32(0)


@compiled
def _convert(codes: Array, inputs: int, blocks: int, converters: Any) -> None:
    """codes (input, PANEL) = clip(round(x / full_scale / step)), in place."""
    full, step, low, high = converters[:4]
    full, step, low, high = broadcast(full), broadcast(step), broadcast(low), broadcast(high)
    at = pointer(codes)
    for i in range(inputs):
        for k in range(0, blocks * LANES, LANES):
            place = i * PANEL + k
            store(at, place, clamp(rint(load(at, place) / full / step), low, high))


@inlined
def _on_grid(value: Any, steps: Any, o: Any, wide: Any) -> Any:
    """The nearest value on the grid of output o; `steps` (3, wide)."""
    step = splat(steps, o)
    return clamp(rint(value / step), splat(steps, wide + o), splat(steps, 2 * wide + o)) * step


@compiled
def _decode(
    sums: Array,
    squares: Array,
    outputs: int,
    blocks: int,
    number: int,
    key: int,
    spread: Array,
    factor: Array,
    bias: Array,
    before: Array,
    grid: Array,
    converters: Any,
    noisy: bool,
    varies: bool,
    add: bool,
) -> None:
    """sums (output, PANEL) become factor clip(round(sum + sigma n)) + bias (+ before), rounded once, in place.

    Then they come to the `grid` (3, outputs): steps, lowest and highest codes; where it is not empty.
    """
    at, more, there = pointer(sums), pointer(squares), pointer(before)
    sigmas, factors, biases, steps = pointer(spread), pointer(factor), pointer(bias), pointer(grid)
    rounded = grid.size > 0
    low, high = broadcast(converters[4]), broadcast(converters[5])
    for g in range(0, outputs, WIDE):
        for k in range(0, blocks * LANES, LANES):
            p = g * PANEL + k
            s0, s1, s2, s3 = load(at, p), load(at, p + PANEL), load(at, p + 2 * PANEL), load(at, p + 3 * PANEL)
            if noisy:
                z0, z1, z2, z3 = normals(number + k, g // WIDE, key)
                d0, d1, d2, d3 = splat(sigmas, g), splat(sigmas, g + 1), splat(sigmas, g + 2), splat(sigmas, g + 3)
                if varies:
                    d0, d1 = root(fma(d0, d0, load(more, p))), root(fma(d1, d1, load(more, p + PANEL)))
                    d2 = root(fma(d2, d2, load(more, p + 2 * PANEL)))
                    d3 = root(fma(d3, d3, load(more, p + 3 * PANEL)))
                s0, s1, s2, s3 = fma(d0, z0, s0), fma(d1, z1, s1), fma(d2, z2, s2), fma(d3, z3, s3)
            s0, s1, s2, s3 = rint(s0), rint(s1), rint(s2), rint(s3)
            b0, b1, b2, b3 = splat(biases, g), splat(biases, g + 1), splat(biases, g + 2), splat(biases, g + 3)
            if add:
                b0, b1 = b0 + load(there, p), b1 + load(there, p + PANEL)
                b2, b3 = b2 + load(there, p + 2 * PANEL), b3 + load(there, p + 3 * PANEL)
            s0, s1 = (
                fma(clamp(s0, low, high), splat(factors, g), b0),
                fma(clamp(s1, low, high), splat(factors, g + 1), b1),
            )
            s2 = fma(clamp(s2, low, high), splat(factors, g + 2), b2)
            s3 = fma(clamp(s3, low, high), splat(factors, g + 3), b3)
            if rounded:
                s0, s1 = _on_grid(s0, steps, g, outputs), _on_grid(s1, steps, g + 1, outputs)
                s2, s3 = _on_grid(s2, steps, g + 2, outputs), _on_grid(s3, steps, g + 3, outputs)
            store(at, p, s0)
            store(at, p + PANEL, s1)
            store(at, p + 2 * PANEL, s2)
            store(at, p + 3 * PANEL, s3)


@compiled
def _scatter(
    sums: Array, base: int, step: int, pitch: int, at: Array, whole: Array, count: int, outputs: int, out: Array
) -> None:
    """sums (output, PANEL) into out; as `_gather`."""
    source, target = pointer(sums), pointer(out)
    for k in range((count + LANES - 1) // LANES):
        first, done = base + at[k * LANES], 0
        if whole[k] and step == 1:
            for o in range(outputs):
                store(target, first + o * pitch, load(source, o * PANEL + k * LANES))
            done = outputs
        elif whole[k] and pitch == 1:
            done = outputs - outputs % LANES
            for o in range(0, done, LANES):
                turn(source, o * PANEL + k * LANES, PANEL, target, first + o, step)
        for o in range(done, outputs):
            for j in range(k * LANES, min((k + 1) * LANES, count)):
                out[base + at[j] + o * pitch] = sums[o * PANEL + j]


@kernel
def _tile(
    x: Array,
    weight: Array,
    variance: Array,
    offset: Array,
    spread: Array,
    factor: Array,
    bias: Array,
    grid: Array,
    seeds: Array,
    out: Array,
    sizes: Any,
    reads: Any,
    writes: Any,
    converters: Any,
    position: int,
    noisy: bool,
    add: bool,
    scratch: Array,
) -> None:
    """weight, variance (chip, group * input * WIDE); offset, spread, factor, bias (chip, group * WIDE); grid
    (3 * group * WIDE), or empty.

    sizes = chips, vectors, steps of a sequence, inputs, outputs; a stride of 0 in `reads`: all chips have one x.
    """
    chips, vectors, time, inputs, outputs = sizes
    groups, varies = weight.shape[1] // max(inputs * WIDE, 1), variance.size > 0
    wide = groups * WIDE
    shared = reads[0] == 0
    panels = (vectors + PANEL - 1) // PANEL
    pieces = (panels + TASK - 1) // TASK
    tasks = pieces if shared else pieces * chips
    for task in prange(tasks):
        room = scratch[numba.get_thread_id()]
        codes, room = room[: inputs * PANEL], room[inputs * PANEL :]
        sums, room = room[: wide * PANEL], room[wide * PANEL :]
        before, room = room[: wide * PANEL], room[wide * PANEL :]
        squares, more = room[:0], room[:0]
        if varies:
            squares, room = room[: inputs * PANEL], room[inputs * PANEL :]
            more, room = room[: wide * PANEL], room[wide * PANEL :]
        at, to = np.zeros(PANEL, np.int64), np.zeros(PANEL, np.int64)
        follow, apart = np.zeros(PANEL // LANES, np.bool_), np.zeros(PANEL // LANES, np.bool_)
        piece = np.int64(task) % pieces
        begin, end = (0, chips) if shared else (np.int64(task) // pieces, np.int64(task) // pieces + 1)
        for panel in range(piece * TASK, min((piece + 1) * TASK, panels)):
            number = panel * PANEL
            count = min(PANEL, vectors - number)
            blocks = (count + LANES - 1) // LANES
            _places(number, count, time, reads, at, follow)
            _places(number, count, time, writes, to, apart)
            _gather(x, begin * reads[0], reads[2], reads[3], at, follow, count, inputs, codes)
            _convert(codes, inputs, blocks, converters)
            if varies:
                for i in range(inputs * PANEL):
                    squares[i] = codes[i] * codes[i]
            for chip in range(begin, end):
                _fill(sums, offset[chip], wide)
                _product(codes, inputs, weight[chip], groups, blocks, sums)
                if varies:
                    more[:] = 0
                    _product(squares, inputs, variance[chip], groups, blocks, more)
                if add:
                    _gather(out, chip * writes[0], writes[2], writes[3], to, apart, count, outputs, before)
                _decode(
                    sums,
                    more,
                    wide,
                    blocks,
                    position + number,
                    seeds[chip],
                    spread[chip],
                    factor[chip],
                    bias[chip],
                    before,
                    grid,
                    converters,
                    noisy,
                    varies,
                    add,
                )
                _scatter(sums, chip * writes[0], writes[2], writes[3], to, apart, count, outputs, out)


def _packed(weight: Tensor | None) -> Array:
    """(chips, inputs, outputs) as (chips, groups * inputs * WIDE), filled up with zeros."""
    if weight is None:
        return np.zeros((0, 0), f32)
    chips, inputs, outputs = weight.shape
    groups = -(-outputs // WIDE)
    full = np.zeros((chips, groups, inputs, WIDE), f32)
    values = weight.numpy()
    for start in range(WIDE):
        part = values[:, :, start::WIDE]
        full[:, : part.shape[2], :, start] = part.transpose(0, 2, 1)
    return full.reshape(chips, -1)


def _rows(value: Tensor | None, chips: int, outputs: int) -> Array:
    """(chips, outputs), (outputs,) or nothing as (chips, whole groups), filled up with zeros."""
    full = np.zeros((chips, -(-outputs // WIDE) * WIDE), f32)
    if value is not None:
        full[:, :outputs] = value.numpy()
    return full


def _grid(grid: Tensor) -> Array:
    """(3, outputs) as (3, whole groups), flat, filled up with the grid of step 1 that ends at 0."""
    full = _rows(grid, 3, grid.shape[1])
    full[0, grid.shape[1] :] = 1
    return full.ravel()


def _flat(x: Tensor) -> Array:
    """All memory that a tensor's numbers span, from its first one."""
    extent = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    return x.as_strided((extent,), (1,)).numpy()


def tile_product(
    x: Tensor,
    weight: Tensor,
    variance: Tensor | None,
    offset: Tensor | None,
    spread: Tensor | None,
    factor: Tensor,
    bias: Tensor | None,
    grid: Tensor | None,
    seeds: Tensor,
    position: int,
    converters: list[float],
    out: Tensor,
    add: bool,
) -> None:
    chips, inputs, outputs = weight.shape
    _, batch, time, _ = x.shape
    if not out.numel():
        return
    sizes = (chips, batch * time, time, inputs, outputs)
    reads = (0 if x.shape[0] == 1 else x.stride(0), *x.stride()[1:])
    weights, variances = _packed(weight), _packed(variance)
    groups = -(-outputs // WIDE)
    numbers = ((inputs + groups * WIDE) * (1 if variance is None else 2) + groups * WIDE) * PANEL
    noisy = spread is not None or variance is not None
    rows = [_rows(z, chips, outputs) for z in (offset, spread, factor, bias)]
    _tile(
        _flat(x),
        weights,
        variances,
        *rows,
        np.zeros(0, f32) if grid is None else _grid(grid),
        seeds.numpy(),
        _flat(out),
        sizes,
        reads,
        out.stride(),
        tuple(f32(c) for c in converters),
        position,
        noisy,
        add,
        np.empty((numba.get_num_threads(), numbers), f32),
    )
