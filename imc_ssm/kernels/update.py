"""The fused CPU kernel of the update: two states at a time, all of a sequence, states in registers.

A work item is one head of LANES sequences. Its inputs are brought to codes once; then two states at a time run
through the time steps, with 16 sequences in every vector. Integers are held in doubles: the plan keeps every word
below 2^52, so products, sums and halves are exact, `fma` rounds nothing, and `rint` is the unit's rounding. One
kernel serves all word lengths, and full precision as well: no rounding, infinite bounds.

Arrays: u, y (batch, head, time); x (batch, head, row, 2) the packed state (`ends.Ends`); `k` (head, state,
COLUMNS) the folded coefficients, an even number of states (`codes.Tables`). how = (placement, rounding, 2^m of the
residuals, steps done before, states, whether there are slow heads). `scratch` = (float64, float32), (thread,
size).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import njit, prange

from imc_ssm.kernels.codes import (
    COLUMNS,
    DITHERED,
    FEEDBACK,
    HALF_AWAY,
    HALF_EVEN,
    HALF_UP,
    JOINT,
    NONE,
    SEPARATE,
    STOCHASTIC,
)
from imc_ssm.kernels.compiling import kernel
from imc_ssm.kernels.draws import draw
from imc_ssm.kernels.grid import Array
from imc_ssm.kernels.vector import (
    LANES,
    ahead,
    broadcast,
    clamp,
    copysign,
    equal,
    floor,
    fma,
    keep,
    load,
    narrow,
    pointer,
    rint,
    splat,
    store,
    trunc,
    turn,
    wide,
)
from imc_ssm.kernels.windows import WORDS, collect, dither, hold, pick

__all__ = [
    "TILE",
    "added",
    "advance",
    "beside",
    "cut",
    "forward_codes",
    "forward_sizes",
    "gather",
    "inlined",
    "keep_last",
    "rounded",
    "scatter",
    "start_from",
]

TILE = 256
"""Time steps of the forward pass that are in cache at a time; a multiple of LANES."""

f32 = np.float32
inlined = njit(forceinline=True, error_model="numpy")
compiled = njit(error_model="numpy")


@inlined
def rounded(q: Any, rounding: Any) -> Any:
    """The integers nearest to q, or q itself in full precision."""
    if rounding == HALF_EVEN:
        return rint(q)
    if rounding == NONE:
        return q
    half = broadcast(0.5)
    if rounding == HALF_UP:
        return floor(q + half)
    if rounding == HALF_AWAY:
        return trunc(q + copysign(half, q))
    return floor(q)  # what is added before is in q


@inlined
def beside(d: Any, t: Any, word: Any, pitch: Any, left: Any, how: Any) -> Any:
    """What is added before truncation, to a x (real, imaginary) and, apart, to b u; else zeros.

    Words of dither d (word, update `t`), or what was cut off before, `left`.
    """
    nr, ni, mr, mi = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
    if how[1] == DITHERED or how[1] == STOCHASTIC:
        nr, ni = splat(d, word * pitch + t), splat(d, (word + 1) * pitch + t)
        if how[0] == SEPARATE:
            mr, mi = splat(d, (word + 2) * pitch + t), splat(d, (word + 3) * pitch + t)
    elif how[1] == FEEDBACK:
        nr, ni = left
    return nr, ni, mr, mi


@inlined
def cut(sr: Any, si: Any, qr: Any, qi: Any, left: Any, how: Any) -> Any:
    """What the truncation of sums s to q leaves for the next step."""
    if how[1] == FEEDBACK:
        grain, unit = broadcast(how[2]), broadcast(1.0 / how[2])
        return floor((sr - qr) * grain) * unit, floor((si - qi) * grain) * unit
    return left


@inlined
def added(
    k: Any, p: Any, z: Any, at: Any, d: Any, t: Any, word: Any, pitch: Any, left: Any, how: Any, noisy: Any
) -> Any:
    """What one step adds to the products of the state at k[p]: noise z from `at`, and what `beside` returns."""
    nr, ni, mr, mi = beside(d, t, word, pitch, left, how)
    if noisy:
        sigma = splat(k, p + 8)
        nr, ni = fma(sigma, wide(load(z, at)), nr), fma(sigma, wide(load(z, at + LANES)), ni)
    return nr, ni, mr, mi


@inlined
def advance(r: Any, i: Any, v: Any, k: Any, p: Any, more: Any, how: Any) -> Any:
    """One step of the state whose coefficients are at k[p], with input v; `more`: what `added` returned.

    Returns the state before its last saturation, where a x and b u did not saturate (real, imaginary each), and
    what truncation left for the next step.
    """
    order, rounding = how[0], how[1]
    ar, ai, br, bi = splat(k, p), splat(k, p + 1), splat(k, p + 2), splat(k, p + 3)
    nr, ni, mr, mi = more
    if order == JOINT:
        sr, si = fma(ar, r, fma(-ai, i, fma(br, v, nr))), fma(ar, i, fma(ai, r, fma(bi, v, ni)))
        qr, qi, always = rounded(sr, rounding), rounded(si, rounding), equal(ar, ar)
        return qr, qi, always, always, always, always, cut(sr, si, qr, qi, (nr, ni), how)
    low, high = splat(k, p + 6), splat(k, p + 7)
    pr = rounded(fma(ar, r, fma(-ai, i, nr)), rounding)
    pi = rounded(fma(ar, i, fma(ai, r, ni)), rounding)
    dr, di = rounded(fma(br, v, mr), rounding), rounded(fma(bi, v, mi), rounding)
    kr, ki = clamp(pr, low, high), clamp(pi, low, high)
    er, ei = clamp(dr, low, high), clamp(di, low, high)
    return kr + er, ki + ei, equal(kr, pr), equal(ki, pi), equal(er, dr), equal(ei, di), (nr, ni)


@inlined
def _pair(
    x: Any, rest: Any, drive: Any, total: Any, z: Any, d: Any, k: Any, steps: Any, how: Any, noisy: Any
) -> None:
    """Two states, their coefficients from k[0], through `steps` steps: x moves on, Re(c x) is added to `total`.

    `rest`: their residuals, which move on as well.
    """
    p, q = 0, COLUMNS
    r0, i0, r1, i1 = load(x, 0), load(x, LANES), load(x, 2 * LANES), load(x, 3 * LANES)
    left0, left1 = (load(rest, 0), load(rest, LANES)), (load(rest, 2 * LANES), load(rest, 3 * LANES))
    for t in range(steps):
        v = wide(load(drive, t * LANES))
        more = added(k, p, z, 4 * t * LANES, d, t, 0, TILE, left0, how, noisy)
        r0, i0, _, _, _, _, left0 = advance(r0, i0, v, k, p, more, how)
        low, high = splat(k, p + 6), splat(k, p + 7)
        r0, i0 = clamp(r0, low, high), clamp(i0, low, high)
        more = added(k, q, z, (4 * t + 2) * LANES, d, t, 4, TILE, left1, how, noisy)
        r1, i1, _, _, _, _, left1 = advance(r1, i1, v, k, q, more, how)
        low, high = splat(k, q + 6), splat(k, q + 7)
        r1, i1 = clamp(r1, low, high), clamp(i1, low, high)
        y = fma(splat(k, p + 4), r0, fma(splat(k, p + 5), i0, load(total, t * LANES)))
        store(total, t * LANES, fma(splat(k, q + 4), r1, fma(splat(k, q + 5), i1, y)))
    store(x, 0, r0)
    store(x, LANES, i0)
    store(x, 2 * LANES, r1)
    store(x, 3 * LANES, i1)
    if how[1] == FEEDBACK:
        store(rest, 0, left0[0])
        store(rest, LANES, left0[1])
        store(rest, 2 * LANES, left1[0])
        store(rest, 3 * LANES, left1[1])


@compiled
def _run(
    at: Any, left: Any, drive: Any, total: Any, z: Any, d: Any, k: Any, steps: int, how: Any, noisy: bool
) -> None:
    """`_pair`, compiled apart for what is used most: its loop has no choices.

    All are pointers: arrays count their references, at two locked instructions each, which took most of the time
    of a short stretch.
    """
    order, rounding, grain = how[0], how[1], how[2]
    truncated = (rounding == DITHERED) | (rounding == STOCHASTIC)
    if rounding == FEEDBACK and not noisy:
        _pair(at, left, drive, total, z, d, k, steps, (JOINT, FEEDBACK, grain), False)
    elif (rounding != HALF_EVEN and not truncated) or noisy:
        _pair(at, left, drive, total, z, d, k, steps, (order, rounding, grain), noisy)
    elif truncated and order == JOINT:
        _pair(at, left, drive, total, z, d, k, steps, (JOINT, DITHERED, 1.0), False)
    elif truncated:
        _pair(at, left, drive, total, z, d, k, steps, (SEPARATE, DITHERED, 1.0), False)
    elif order == JOINT:
        _pair(at, left, drive, total, z, d, k, steps, (JOINT, HALF_EVEN, 1.0), False)
    else:
        _pair(at, left, drive, total, z, d, k, steps, (SEPARATE, HALF_EVEN, 1.0), False)


@compiled
def gather(
    u: Array,
    h: int,
    first: int,
    lanes: int,
    start: int,
    steps: int,
    inp: Array,
    whole: bool,
    rows: Any,
    drive: Any,
) -> None:
    """Centred codes of the inputs of one head into `drive`, (step, lane); lanes without a sequence get 0.

    clip(round_half_even(u / scale), low, high), the division in the precision of u; without the rounding where the
    numbers are not `whole`. `rows` is room for (lane, step): the codes are found along the sequences, then turned.
    Both are pointers.
    """
    scale, low, high = inp[h, 0], inp[h, 1], inp[h, 2]
    for lane in range(LANES):
        row = ahead(rows, lane * TILE)
        if lane < lanes:
            source = u[first + lane, h, start : start + steps]
            if whole:
                for t in range(steps):
                    row[t] = min(max(np.rint(source[t] / scale), low), high)
            else:
                for t in range(steps):
                    row[t] = source[t]
        else:
            for t in range(steps):
                row[t] = 0
    for t in range(0, steps, LANES):  # what is turned beyond the last step is not read
        turn(rows, t, TILE, drive, t * LANES, LANES)


@compiled
def scatter(
    total: Any,
    h: int,
    first: int,
    lanes: int,
    start: int,
    steps: int,
    out: Array,
    rounding: int,
    y: Array,
    free: Array,
    flat: Any,
    rows: Any,
) -> None:
    """Outputs from the sums: scale clamp(round(gain sum), low, high), or scale sum where gain is 0.

    `free` (batch, head, time), unless empty, receives 1 where the output did not saturate. `flat` (step, lane) and
    `rows` (lane, step) are room; these and `total` are pointers.
    """
    gain, low, high, scale = out[h, 0], out[h, 1], out[h, 2], out[h, 3]
    gains, lows, highs, scales = broadcast(gain), broadcast(low), broadcast(high), broadcast(scale)
    one = broadcast(f32(1))
    if gain != 0:
        for t in range(steps):
            q = rounded(gains * load(total, t * LANES), rounding)
            kept = clamp(q, lows, highs)
            store(total, t * LANES, kept)
            store(flat, t * LANES, keep(one, equal(kept, q)))
        if free.size > 0:
            for t in range(0, steps, LANES):
                turn(flat, t * LANES, LANES, rows, t, TILE)
            for lane in range(lanes):
                row = free[first + lane, h, start : start + steps]
                for t in range(steps):
                    row[t] = np.uint8(rows[lane * TILE + t])
    if y.itemsize == 8:  # codes, and bare sums that single precision does not hold
        for lane in range(lanes):
            for t in range(steps):
                y[first + lane, h, start + t] = scale * total[t * LANES + lane]
        return
    for t in range(steps):
        store(flat, t * LANES, narrow(scales * load(total, t * LANES)))
    for t in range(0, steps, LANES):
        turn(flat, t * LANES, LANES, rows, t, TILE)
    for lane in range(lanes):
        to, row = y[first + lane, h, start : start + steps], ahead(rows, lane * TILE)
        for t in range(steps):
            to[t] = row[t]


@compiled
def start_from(
    x0: Array, h: int, first: int, lanes: int, row: int, states: int, unit: float, x: Any, padded: int
) -> None:
    """Rows `row` ... of a head's packed state, times `unit`, to the pointer `x` (row, part, lane); 0 up to
    `padded` rows where there is none."""
    for i in range(2 * padded * LANES):
        x[i] = 0
    for n in range(states):
        for part in range(2):
            for lane in range(lanes):
                x[(2 * n + part) * LANES + lane] = x0[first + lane, h, row + n, part] * unit


@compiled
def keep_last(x: Any, h: int, first: int, lanes: int, row: int, states: int, unit: float, x0: Array) -> None:
    """`start_from`, the other way."""
    for n in range(states):
        for part in range(2):
            for lane in range(lanes):
                x0[first + lane, h, row + n, part] = x[(2 * n + part) * LANES + lane] * unit


def forward_sizes(states: int, noisy: bool) -> tuple[int, int]:
    """Numbers of scratch of one worker: float64 (states, residuals, what is held, dither, sums) and float32 (two
    turns of a tile, sums of inputs, noise)."""
    block = TILE * LANES
    return (4 * states + 1) * LANES + WORDS * TILE + block, (6 if noisy else 2) * block + LANES


@kernel
def forward_codes(
    u: Array, k: Array, inp: Array, out: Array, how: Any, noise: Any, x: Array, y: Array, free: Array, scratch: Any
) -> None:
    """The update of all sequences; `x` holds the (centred) initial state and receives the last one.

    inp (head, 4) float32: scale, lowest and highest centred code of the input, period. out (head, 5) float64:
    gain, lowest and highest centred code and scale of the output, 2^shift_y; gain 0: y is scale times the bare
    sum. noise: see `draws.draw`; an empty table: none. y float32, or float64 for codes.
    """
    batch, heads, time = u.shape
    padded, block, states, slow = k.shape[1], TILE * LANES, how[4], how[5]
    width = 2 * padded * LANES
    blocks = (batch + LANES - 1) // LANES
    noisy, truncated = noise[0].size > 0, how[1] == DITHERED or how[1] == STOCHASTIC
    nearest = HALF_EVEN if truncated or how[1] == FEEDBACK else how[1]
    for item in prange(blocks * heads):
        h, first = item % heads, (item // heads) * LANES
        lanes = min(LANES, batch - first)
        doubles = ahead(pointer(scratch[0]), numba.get_thread_id() * scratch[0].shape[1])
        rows = ahead(pointer(scratch[1]), numba.get_thread_id() * scratch[1].shape[1])
        state, rest, held = doubles, ahead(doubles, width), ahead(doubles, 2 * width)
        d, total = ahead(held, LANES), ahead(held, LANES + WORDS * TILE)
        drive, sums, z = ahead(rows, block), ahead(rows, 2 * block), ahead(rows, 2 * block + LANES)
        period = int(inp[h, 3])
        start_from(x, h, first, lanes, 0, states, 1.0, state, padded)
        if how[1] == FEEDBACK:
            start_from(x, h, first, lanes, states, states, 1.0 / how[2], rest, padded)
        for lane in range(LANES):
            sums[lane] = 0
        if period > 1:
            for lane in range(lanes):
                sums[lane] = x[first + lane, h, x.shape[2] - 1, 0]
            before = broadcast(0.0)
            for n in range(states):
                own, at = ahead(pointer(k), (h * padded + n) * COLUMNS), 2 * n * LANES
                before = fma(splat(own, 4), load(state, at), fma(splat(own, 5), load(state, at + LANES), before))
            store(held, 0, before)
        for start in range(0, time, TILE):
            steps = min(TILE, time - start)
            update, phase = (how[3] + start) // period, (how[3] + start) % period
            gather(u, h, first, lanes, start, steps, inp, how[1] != NONE, rows, drive)
            count = steps if period == 1 else collect(drive, sums, steps, period, phase)
            for i in range(count * LANES):
                total[i] = 0
            for n in range(0, padded if count else 0, 2):
                if noisy:
                    draw(noise, first, h, n, start, steps, z)
                    if period > 1:
                        pick(z, 4 * LANES, steps, period, phase)
                own, at = ahead(pointer(k), (h * padded + n) * COLUMNS), 2 * n * LANES
                if truncated:
                    dither(how[1], how[0], 2 * (h * states + n), update, count, own, d, TILE)
                _run(ahead(state, at), ahead(rest, at), drive, total, z, d, own, count, how, noisy)
            if period > 1:
                hold(total, held, steps, period, phase)
            scatter(total, h, first, lanes, start, steps, out, nearest, y, free, drive, rows)
        keep_last(state, h, first, lanes, 0, states, 1.0, x)
        if how[1] == FEEDBACK:
            keep_last(rest, h, first, lanes, states, states, how[2], x)
        if slow:
            for lane in range(lanes):
                x[first + lane, h, x.shape[2] - 1, 0] = sums[lane]
                x[first + lane, h, x.shape[2] - 1, 1] = 0
