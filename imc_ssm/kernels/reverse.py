"""The fused backward kernel of the update: straight-through gradients, one pass per pair of states.

For two states at a time the forward pass is run again, its states kept on a tape (time, 2 states, 2 parts, lane)
that fits the second-level cache; then the gradients run back along it with all sums in registers. Arrays as in
`update`; gradients are single precision.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import prange

from imc_ssm.kernels.codes import COLUMNS, DITHERED, FEEDBACK, HALF_EVEN, JOINT, NONE, SEPARATE, STOCHASTIC
from imc_ssm.kernels.compiling import kernel
from imc_ssm.kernels.draws import draw
from imc_ssm.kernels.grid import Array
from imc_ssm.kernels.update import TILE, added, advance, compiled, gather, inlined, start_from
from imc_ssm.kernels.vector import (
    LANES,
    ahead,
    broadcast,
    clamp,
    equal,
    fma,
    keep,
    load,
    load_mask,
    narrow,
    pointer,
    splat,
    store,
    store_mask,
    turn,
    wide,
)
from imc_ssm.kernels.windows import WORDS, collect, dither, early_gradient, hold_gradient, pick, sum_gradient

__all__ = ["REAL_COLUMNS", "backward_codes", "backward_sizes", "reduce", "to_lanes", "to_rows"]

REAL_COLUMNS = 8
"""Columns of g: a, b, c (real, imaginary) on their grids, lowest and highest centred state code; float32."""

f32 = np.float32


@compiled
def to_lanes(source: Array, h: int, first: int, lanes: int, start: int, rows: Any, target: Any) -> None:
    """Up to TILE steps of one head of (batch, head, time) into (step, lane) from step `start`; pointers but the
    source."""
    steps = min(TILE, source.shape[2] - start)
    for lane in range(LANES):
        row = ahead(rows, lane * TILE)
        if lane < lanes:
            given = source[first + lane, h, start : start + steps]
            for t in range(steps):
                row[t] = given[t]
        else:
            for t in range(steps):
                row[t] = 0
    for t in range(0, steps, LANES):
        turn(rows, t, TILE, target, (start + t) * LANES, LANES)


@compiled
def to_rows(source: Any, start: int, steps: int, rows: Any) -> None:
    """(step, lane) from step `start` into (lane, TILE); pointers."""
    for t in range(0, steps, LANES):
        turn(source, (start + t) * LANES, LANES, rows, t, TILE)


@inlined
def _record(
    state: Any,
    v: Any,
    k: Any,
    p: Any,
    z: Any,
    d: Any,
    pitch: Any,
    tape: Any,
    masks: Any,
    t: Any,
    at: Any,
    how: Any,
    noisy: Any,
) -> Any:
    """One step of state `at` (0 or 1) again; what it was before saturation goes to slot t + 1 of the tape.

    state: real, imaginary, what truncation left.
    """
    r, i, left = state
    more = added(k, p, z, (4 * t + 2 * at) * LANES, d, t, 4 * at, pitch, left, how, noisy)
    r, i, oar, oai, obr, obi, left = advance(r, i, v, k, p, more, how)
    to = (4 * (t + 1) + 2 * at) * LANES
    store(tape, to, narrow(r))
    store(tape, to + LANES, narrow(i))
    if how[0] == SEPARATE:
        m = 8 * t + 4 * at
        store_mask(masks, m, oar)
        store_mask(masks, m + 1, oai)
        store_mask(masks, m + 2, obr)
        store_mask(masks, m + 3, obi)
    low, high = splat(k, p + 6), splat(k, p + 7)
    return clamp(r, low, high), clamp(i, low, high), left


@inlined
def _undo(
    state: Any,
    sums: Any,
    y: Any,
    v: Any,
    u: Any,
    g: Any,
    p: Any,
    tape: Any,
    masks: Any,
    t: Any,
    at: Any,
    bound: Any,
    order: Any,
) -> Any:
    """The gradients of state `at` through step t.

    state = (gradient of the stored state from later steps, the state before saturation, after it), real and
    imaginary each; sums = those of a, b, c; y: the gradient of 2 Re(c x), v: the input's code, u: the input's
    gradient.
    """
    gr, gi, fr, fi, xr, xi = state
    s0, s1, s2, s3, s4, s5 = sums
    low, high = splat(g, p + 6), splat(g, p + 7)
    # The output read the stored state: its gradient comes before the saturation's mask.
    s4, s5 = fma(y, xr, s4), fma(-y, xi, s5)
    er = keep(fma(splat(g, p + 4), y, gr), equal(fr, xr))
    ei = keep(fma(-splat(g, p + 5), y, gi), equal(fi, xi))
    er, ei = clamp(er, -bound, bound), clamp(ei, -bound, bound)
    ur, ui = er, ei
    if order == SEPARATE:
        m = 8 * t + 4 * at
        ur, ui = keep(er, load_mask(masks, m + 2)), keep(ei, load_mask(masks, m + 3))
        er, ei = keep(er, load_mask(masks, m)), keep(ei, load_mask(masks, m + 1))
    s2, s3 = fma(ur, v, s2), fma(ui, v, s3)
    u = fma(ur, splat(g, p + 2), fma(ui, splat(g, p + 3), u))
    ar, ai = splat(g, p), splat(g, p + 1)
    gr, gi = fma(ar, er, ai * ei), fma(ar, ei, -(ai * er))
    slot = (4 * t + 2 * at) * LANES
    fr, fi = load(tape, slot), load(tape, slot + LANES)
    xr, xi = clamp(fr, low, high), clamp(fi, low, high)
    s0, s1 = fma(er, xr, fma(ei, xi, s0)), fma(ei, xr, fma(-er, xi, s1))
    return (gr, gi, fr, fi, xr, xi), (s0, s1, s2, s3, s4, s5), u


@inlined
def _last(tape: Any, g: Any, p: Any, steps: Any, at: Any) -> Any:
    """The last state, with no gradient yet."""
    low, high, slot = splat(g, p + 6), splat(g, p + 7), (4 * steps + 2 * at) * LANES
    fr, fi, none = load(tape, slot), load(tape, slot + LANES), broadcast(f32(0))
    return none, none, fr, fi, clamp(fr, low, high), clamp(fi, low, high)


@inlined
def _sums(sums: Any, s: Any) -> Any:
    return (
        load(sums, s),
        load(sums, s + LANES),
        load(sums, s + 2 * LANES),
        load(sums, s + 3 * LANES),
        load(sums, s + 4 * LANES),
        load(sums, s + 5 * LANES),
    )


@inlined
def _keep_sums(sums: Any, s: Any, values: Any) -> None:
    store(sums, s, values[0])
    store(sums, s + LANES, values[1])
    store(sums, s + 2 * LANES, values[2])
    store(sums, s + 3 * LANES, values[3])
    store(sums, s + 4 * LANES, values[4])
    store(sums, s + 5 * LANES, values[5])


@inlined
def _pair(
    tape: Any,
    rest: Any,
    masks: Any,
    drive: Any,
    gy: Any,
    gu: Any,
    z: Any,
    d: Any,
    pitch: Any,
    k: Any,
    g: Any,
    sums: Any,
    steps: Any,
    limit: Any,
    how: Any,
    noisy: Any,
) -> None:
    """Two states there (coefficients k) and back (g)."""
    left = wide(load(rest, 0)), wide(load(rest, LANES))
    one = wide(load(tape, 0)), wide(load(tape, LANES)), left
    left = wide(load(rest, 2 * LANES)), wide(load(rest, 3 * LANES))
    two = wide(load(tape, 2 * LANES)), wide(load(tape, 3 * LANES)), left
    for t in range(steps):
        v = wide(load(drive, t * LANES))
        one = _record(one, v, k, 0, z, d, pitch, tape, masks, t, 0, how, noisy)
        two = _record(two, v, k, COLUMNS, z, d, pitch, tape, masks, t, 1, how, noisy)
    bound = broadcast(limit)
    sums0, sums1 = _sums(sums, 0), _sums(sums, 6 * LANES)
    state0, state1 = _last(tape, g, 0, steps, 0), _last(tape, g, REAL_COLUMNS, steps, 1)
    for back in range(steps):
        t = steps - 1 - back
        y, v, u = load(gy, t * LANES), load(drive, t * LANES), load(gu, t * LANES)
        state0, sums0, u = _undo(state0, sums0, y, v, u, g, 0, tape, masks, t, 0, bound, how[0])
        state1, sums1, u = _undo(state1, sums1, y, v, u, g, REAL_COLUMNS, tape, masks, t, 1, bound, how[0])
        store(gu, t * LANES, u)
    _keep_sums(sums, 0, sums0)
    _keep_sums(sums, 6 * LANES, sums1)


@compiled
def _run(
    tape: Any,
    e: Any,
    masks: Any,
    drive: Any,
    gy: Any,
    gu: Any,
    z: Any,
    d: Any,
    w: int,
    k: Any,
    g: Any,
    sums: Any,
    steps: int,
    limit: float,
    rules: Any,
    noisy: bool,
) -> None:
    """`_pair` for two states, compiled apart for what is used most; pointers, as in `update`."""
    how, truncated = (rules[0], rules[1], rules[2]), rules[1] == DITHERED or rules[1] == STOCHASTIC
    if (how[1] != HALF_EVEN and not truncated) or noisy:
        _pair(tape, e, masks, drive, gy, gu, z, d, w, k, g, sums, steps, limit, how, noisy)
    elif truncated and how[0] == JOINT:
        one = (JOINT, DITHERED, 1.0)
        _pair(tape, e, masks, drive, gy, gu, z, d, w, k, g, sums, steps, limit, one, False)
    elif truncated:
        two = (SEPARATE, DITHERED, 1.0)
        _pair(tape, e, masks, drive, gy, gu, z, d, w, k, g, sums, steps, limit, two, False)
    elif how[0] == JOINT:
        three = (JOINT, HALF_EVEN, 1.0)
        _pair(tape, e, masks, drive, gy, gu, z, d, w, k, g, sums, steps, limit, three, False)
    else:
        four = (SEPARATE, HALF_EVEN, 1.0)
        _pair(tape, e, masks, drive, gy, gu, z, d, w, k, g, sums, steps, limit, four, False)


@compiled
def reduce(sums: Any, grad_a: Array, grad_b: Array, grad_c: Array) -> None:
    """Add the lanes of sums (state, 6, lane), in float64 and in a fixed order, for the states that exist."""
    for n in range(grad_a.shape[0]):
        for part in range(2):
            ga = gb = gc = 0.0
            for lane in range(LANES):
                ga += sums[(6 * n + part) * LANES + lane]
                gb += sums[(6 * n + 2 + part) * LANES + lane]
                gc += sums[(6 * n + 4 + part) * LANES + lane]
            grad_a[n, part], grad_b[n, part], grad_c[n, part] = ga, gb, gc


def backward_sizes(states: int, time: int, noisy: bool, separate: bool, truncated: bool) -> tuple[int, int, int]:
    """Numbers of scratch of one worker: float32 (rows, drive, gy, gu, tape, sums, states, residuals, sums of
    inputs, noise), uint16 (masks), float64 (dither)."""
    room = (time + LANES - 1) // LANES * LANES * LANES
    singles = TILE * LANES + (11 if noisy else 7) * room + 5 * LANES + 10 * states * LANES
    return singles, 8 * time if separate else 0, WORDS * time if truncated else 0


@kernel
def backward_codes(
    u: Array,
    k: Array,
    g: Array,
    inp: Array,
    how: Any,
    noise: Any,
    x0: Array,
    grad: Array,
    free: Array,
    limit: float,
    grad_u: Array,
    grads: Any,
    scratch: Any,
) -> None:
    """Straight-through gradients of `forward_codes`; zero where a word saturated.

    `grad` (batch, head, time) is the gradient of the real output, `free` its saturation (empty: none), `limit`
    the bound on the gradient of a state. grads = (a, b, c), each (head, chunk, state, 2): sums of e conj(x'[t-1]),
    of e u' and of g conj(x') over fixed chunks of the batch, whatever the number of threads.
    scratch = (float32, uint16, float64) of `backward_sizes`.
    """
    batch, heads, time = u.shape
    padded, chunks, states = k.shape[1], grads[0].shape[1], how[4]
    blocks, room = (batch + LANES - 1) // LANES, (time + LANES - 1) // LANES * LANES * LANES
    noisy, truncated = noise[0].size > 0, how[1] == DITHERED or how[1] == STOCHASTIC
    for item in prange(chunks * heads):
        h, chunk = item % heads, item // heads
        rows = ahead(pointer(scratch[0]), numba.get_thread_id() * scratch[0].shape[1])
        masks = ahead(pointer(scratch[1]), numba.get_thread_id() * scratch[1].shape[1])
        d = ahead(pointer(scratch[2]), numba.get_thread_id() * scratch[2].shape[1])
        drive = ahead(rows, TILE * LANES)
        gy, gu, tape = ahead(drive, room), ahead(drive, 2 * room), ahead(drive, 3 * room)
        sums, width = ahead(tape, 4 * (room + LANES)), 2 * padded * LANES
        start, left, begun = ahead(sums, 3 * width), ahead(sums, 4 * width), ahead(sums, 5 * width)
        z = ahead(begun, LANES)
        period = int(inp[h, 3])
        update, phase = how[3] // period, how[3] % period
        for i in range(3 * width):
            sums[i] = 0
        for block in range(chunk * blocks // chunks, (chunk + 1) * blocks // chunks):
            first = block * LANES
            lanes = min(LANES, batch - first)
            start_from(x0, h, first, lanes, 0, states, 1.0, start, padded)
            if how[1] == FEEDBACK:
                start_from(x0, h, first, lanes, states, states, 1.0 / how[2], left, padded)
            for t in range(0, time, TILE):
                steps = min(TILE, time - t)
                gather(u, h, first, lanes, t, steps, inp, how[1] != NONE, rows, ahead(drive, t * LANES))
                to_lanes(grad, h, first, lanes, t, rows, gy)
                if free.size > 0:
                    to_lanes(free, h, first, lanes, t, rows, gu)
            for j in range(time * LANES):
                gy[j] = 2 * gy[j] * (gu[j] if free.size > 0 else f32(1))
                gu[j] = 0
            count = time
            if period > 1:
                for lane in range(LANES):
                    begun[lane] = 0
                for lane in range(lanes):
                    begun[lane] = x0[first + lane, h, x0.shape[2] - 1, 0]
                collect(drive, begun, time, period, phase)
                early_gradient(gy, min(period - phase - 1, time), start, padded, begun, sums)
                count = sum_gradient(gy, time, period, phase)
            for n in range(0, padded, 2):
                first_at, at = 2 * n * LANES, h * padded + n
                for i in range(4 * LANES):
                    tape[i] = start[first_at + i]
                if noisy:
                    draw(noise, first, h, n, 0, time, z)
                    if period > 1:
                        pick(z, 4 * LANES, time, period, phase)
                own, real = ahead(pointer(k), at * COLUMNS), ahead(pointer(g), at * REAL_COLUMNS)
                if truncated:
                    dither(how[1], how[0], 2 * (h * states + n), update, count, own, d, time)
                rest, to = ahead(left, first_at), ahead(sums, 3 * first_at)
                _run(tape, rest, masks, drive, gy, gu, z, d, time, own, real, to, count, limit, how, noisy)
            if period > 1:
                hold_gradient(gu, time, period, phase)
            scale, low, high = inp[h, 0], inp[h, 1], inp[h, 2]
            for t in range(0, time, TILE):
                steps = min(TILE, time - t)
                to_rows(gu, t, steps, rows)
                for lane in range(lanes):
                    source, target = u[first + lane, h, t : t + steps], grad_u[first + lane, h, t : t + steps]
                    row = ahead(rows, lane * TILE)
                    for j in range(steps):
                        q = np.rint(source[j] / scale)
                        target[j] = row[j] if (q >= low) & (q <= high) else f32(0)
        reduce(sums, grads[0][h, chunk], grads[1][h, chunk], grads[2][h, chunk])
