"""The fused CPU kernel of the update: two states at a time, all of a sequence, states in registers.

A work item is one head of LANES sequences. Its inputs are brought to codes once; then two states at a time run
through the time steps, with 16 sequences in every vector. Integers are held in doubles: the plan keeps every word
below 2^52, so products, sums and halves are exact, `fma` rounds nothing, and `rint` is the unit's rounding. One
kernel serves all word lengths, and full precision as well: no rounding, infinite bounds.

Arrays: u, y (batch, head, time); x (batch, head, state, 2) centred codes; `k` (head, state, COLUMNS) the folded
coefficients, an even number of states (`codes.Tables`). how = (placement, rounding). `scratch` = (float64,
float32), (thread, size).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import njit, prange

from imc_ssm.kernels.codes import COLUMNS, HALF_EVEN, HALF_UP, JOINT, NONE, SEPARATE
from imc_ssm.kernels.compiling import kernel
from imc_ssm.kernels.draws import draw
from imc_ssm.kernels.grid import Array
from imc_ssm.kernels.vector import (
    LANES,
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

__all__ = [
    "TILE",
    "advance",
    "forward_codes",
    "forward_sizes",
    "gather",
    "inlined",
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
    return trunc(q + copysign(half, q))


@inlined
def advance(r: Any, i: Any, v: Any, k: Any, p: Any, z: Any, at: Any, how: Any, noisy: Any) -> Any:
    """One step of the state whose coefficients are at k[p], with input v.

    Returns the state before its last saturation, and where a x and b u did not saturate (real, imaginary each).
    """
    order, rounding = how
    ar, ai, br, bi = splat(k, p), splat(k, p + 1), splat(k, p + 2), splat(k, p + 3)
    nr, ni = broadcast(0.0), broadcast(0.0)
    if noisy:
        sigma = splat(k, p + 8)
        nr, ni = sigma * wide(load(z, at)), sigma * wide(load(z, at + LANES))
    if order == JOINT:
        qr = rounded(fma(ar, r, fma(-ai, i, fma(br, v, nr))), rounding)
        qi = rounded(fma(ar, i, fma(ai, r, fma(bi, v, ni))), rounding)
        always = equal(ar, ar)
        return qr, qi, always, always, always, always
    low, high = splat(k, p + 6), splat(k, p + 7)
    pr = rounded(fma(ar, r, fma(-ai, i, nr)), rounding)
    pi = rounded(fma(ar, i, fma(ai, r, ni)), rounding)
    dr, di = rounded(br * v, rounding), rounded(bi * v, rounding)
    kr, ki = clamp(pr, low, high), clamp(pi, low, high)
    er, ei = clamp(dr, low, high), clamp(di, low, high)
    return kr + er, ki + ei, equal(kr, pr), equal(ki, pi), equal(er, dr), equal(ei, di)


@inlined
def _pair(x: Any, drive: Any, total: Any, z: Any, k: Any, p: Any, steps: Any, how: Any, noisy: Any) -> None:
    """Two states, their coefficients at k[p], through `steps` steps: x moves on, Re(c x) is added to `total`."""
    q = p + COLUMNS
    r0, i0, r1, i1 = load(x, 0), load(x, LANES), load(x, 2 * LANES), load(x, 3 * LANES)
    for t in range(steps):
        v = wide(load(drive, t * LANES))
        r0, i0, _, _, _, _ = advance(r0, i0, v, k, p, z, 4 * t * LANES, how, noisy)
        low, high = splat(k, p + 6), splat(k, p + 7)
        r0, i0 = clamp(r0, low, high), clamp(i0, low, high)
        r1, i1, _, _, _, _ = advance(r1, i1, v, k, q, z, (4 * t + 2) * LANES, how, noisy)
        low, high = splat(k, q + 6), splat(k, q + 7)
        r1, i1 = clamp(r1, low, high), clamp(i1, low, high)
        y = fma(splat(k, p + 4), r0, fma(splat(k, p + 5), i0, load(total, t * LANES)))
        store(total, t * LANES, fma(splat(k, q + 4), r1, fma(splat(k, q + 5), i1, y)))
    store(x, 0, r0)
    store(x, LANES, i0)
    store(x, 2 * LANES, r1)
    store(x, 3 * LANES, i1)


@compiled
def _run(
    x: Array, drive: Array, total: Array, z: Array, k: Array, h: int, n: int, steps: int, how: Any, noisy: bool
) -> None:
    """`_pair` for states n and n + 1 of a head, compiled apart for what is used most: its loop has no choices."""
    order, rounding = how
    at, p = pointer(x[2 * n * LANES :]), (h * k.shape[1] + n) * COLUMNS
    drive, total, z, k = pointer(drive), pointer(total), pointer(z), pointer(k)
    if rounding != HALF_EVEN or noisy:
        _pair(at, drive, total, z, k, p, steps, how, noisy)
    elif order == JOINT:
        _pair(at, drive, total, z, k, p, steps, (JOINT, HALF_EVEN), False)
    else:
        _pair(at, drive, total, z, k, p, steps, (SEPARATE, HALF_EVEN), False)


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
    rows: Array,
    drive: Array,
) -> None:
    """Centred codes of the inputs of one head into `drive`, (step, lane); lanes without a sequence get 0.

    clip(round_half_even(u / scale), low, high), the division in the precision of u; without the rounding where the
    numbers are not `whole`. `rows` is room for (lane, step): the codes are found along the sequences, then turned.
    """
    scale, low, high = inp[h, 0], inp[h, 1], inp[h, 2]
    for lane in range(LANES):
        row = rows[lane * TILE : lane * TILE + steps]
        if lane < lanes:
            source = u[first + lane, h, start : start + steps]
            if whole:
                for t in range(steps):
                    row[t] = min(max(np.rint(source[t] / scale), low), high)
            else:
                row[:] = source
        else:
            row[:] = 0
    for t in range(0, steps, LANES):  # what is turned beyond the last step is not read
        turn(pointer(rows), t, TILE, pointer(drive), t * LANES, LANES)


@compiled
def scatter(
    total: Array,
    h: int,
    first: int,
    lanes: int,
    start: int,
    steps: int,
    out: Array,
    rounding: int,
    y: Array,
    free: Array,
    flat: Array,
    rows: Array,
) -> None:
    """Outputs from the sums: scale clamp(round(gain sum), low, high), or scale sum where gain is 0.

    `free` (batch, head, time), unless empty, receives 1 where the output did not saturate. `flat` (step, lane) and
    `rows` (lane, step) are room.
    """
    gain, low, high, scale = out[h, 0], out[h, 1], out[h, 2], out[h, 3]
    gains, lows, highs, scales = broadcast(gain), broadcast(low), broadcast(high), broadcast(scale)
    one, sums, singles = broadcast(f32(1)), pointer(total), pointer(flat)
    if gain != 0:
        for t in range(steps):
            q = rounded(gains * load(sums, t * LANES), rounding)
            kept = clamp(q, lows, highs)
            store(sums, t * LANES, kept)
            store(singles, t * LANES, keep(one, equal(kept, q)))
        if free.size > 0:
            for t in range(0, steps, LANES):
                turn(singles, t * LANES, LANES, pointer(rows), t, TILE)
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
        store(singles, t * LANES, narrow(scales * load(sums, t * LANES)))
    for t in range(0, steps, LANES):
        turn(singles, t * LANES, LANES, pointer(rows), t, TILE)
    for lane in range(lanes):
        y[first + lane, h, start : start + steps] = rows[lane * TILE : lane * TILE + steps]


@compiled
def start_from(x0: Array, h: int, first: int, lanes: int, x: Array) -> None:
    """The initial states of one head into `x`, (state, part, lane); 0 in lanes and states that do not exist."""
    x[:] = 0
    for n in range(x0.shape[2]):
        for part in range(2):
            for lane in range(lanes):
                x[(2 * n + part) * LANES + lane] = x0[first + lane, h, n, part]


def forward_sizes(states: int, noisy: bool) -> tuple[int, int]:
    """Numbers of scratch of one worker: float64 (states, sums) and float32 (two turns of a tile, noise)."""
    block = TILE * LANES
    return 2 * states * LANES + block, (6 if noisy else 2) * block


@kernel
def forward_codes(
    u: Array, k: Array, inp: Array, out: Array, how: Any, noise: Any, x: Array, y: Array, free: Array, scratch: Any
) -> None:
    """The update of all sequences; `x` holds the (centred) initial state and receives the last one.

    inp (head, 3) float32: scale, lowest and highest centred code of the input. out (head, 5) float64: gain, lowest
    and highest centred code and scale of the output, 2^shift_y; gain 0: y is scale times the bare sum. noise: see
    `draws.draw`; an empty table: none. y float32, or float64 for codes.
    """
    batch, heads, time = u.shape
    states, block = k.shape[1], TILE * LANES
    blocks = (batch + LANES - 1) // LANES
    noisy = noise[0].size > 0
    for item in prange(blocks * heads):
        h, first = item % heads, (item // heads) * LANES
        lanes = min(LANES, batch - first)
        doubles, singles = scratch[0][numba.get_thread_id()], scratch[1][numba.get_thread_id()]
        state, total = doubles[: 2 * states * LANES], doubles[2 * states * LANES :]
        rows, drive, z = singles[:block], singles[block : 2 * block], singles[2 * block :]
        start_from(x, h, first, lanes, state)
        for start in range(0, time, TILE):
            steps = min(TILE, time - start)
            gather(u, h, first, lanes, start, steps, inp, how[1] != NONE, rows, drive)
            total[: steps * LANES] = 0
            for n in range(0, states, 2):
                if noisy:
                    draw(noise, first, h, n, start, steps, z)
                _run(state, drive, total, z, k, h, n, steps, how, noisy)
            scatter(total, h, first, lanes, start, steps, out, how[1], y, free, drive, rows)
        for n in range(x.shape[2]):
            for part in range(2):
                for lane in range(lanes):
                    x[first + lane, h, n, part] = state[(2 * n + part) * LANES + lane]
