"""The fused CPU kernels of the recurrence with a complex input, whose states are its output (`state_scan`).

A work item is one state of LANES sequences; it stays in registers from the first step to the last. As in `update`,
integers are held in doubles, exactly; no rounding and infinite bounds are full precision.

Arrays: v, x (batch, 2 state, time), real parts first; what is kept before and after (batch, state, row, 2), packed
(`ends.Ends`); k, g, inp, out as in `codes.Tables`, one state a head; how as in `update`.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from imc_ssm.kernels.codes import COLUMNS, DITHERED, FEEDBACK, HALF_EVEN, JOINT, NONE, SEPARATE, STOCHASTIC
from imc_ssm.kernels.compiling import kernel
from imc_ssm.kernels.cpu import CHUNKS, rules_of, scratch
from imc_ssm.kernels.grid import Array
from imc_ssm.kernels.reverse import REAL_COLUMNS, to_lanes, to_rows
from imc_ssm.kernels.update import TILE, beside, compiled, cut, gather, inlined, rounded, scatter
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
    wide,
)
from imc_ssm.kernels.windows import WORDS, dither

__all__ = ["state_scan", "state_scan_backward"]

f32 = np.float32
BLOCK = TILE * LANES


@inlined
def _advance(state: Any, vr: Any, vi: Any, k: Any, d: Any, t: Any, pitch: Any, how: Any) -> Any:
    """`update.advance` with a complex input: the state before its last saturation, what did not saturate, and what
    truncation left for the next step. state: real, imaginary, what truncation left before."""
    r, i, left = state
    ar, ai, br, bi = splat(k, 0), splat(k, 1), splat(k, 2), splat(k, 3)
    nr, ni, mr, mi = beside(d, t, 0, pitch, left, how)
    if how[0] == JOINT:
        sr = fma(ar, r, fma(-ai, i, fma(br, vr, fma(-bi, vi, nr))))
        si = fma(ar, i, fma(ai, r, fma(br, vi, fma(bi, vr, ni))))
        qr, qi, always = rounded(sr, how[1]), rounded(si, how[1]), equal(ar, ar)
        return qr, qi, always, always, always, always, cut(sr, si, qr, qi, left, how)
    low, high = splat(k, 6), splat(k, 7)
    pr, pi = rounded(fma(ar, r, fma(-ai, i, nr)), how[1]), rounded(fma(ar, i, fma(ai, r, ni)), how[1])
    dr, di = rounded(fma(br, vr, fma(-bi, vi, mr)), how[1]), rounded(fma(br, vi, fma(bi, vr, mi)), how[1])
    kr, ki, er, ei = clamp(pr, low, high), clamp(pi, low, high), clamp(dr, low, high), clamp(di, low, high)
    return kr + er, ki + ei, equal(kr, pr), equal(ki, pi), equal(er, dr), equal(ei, di), left


@inlined
def _through(x: Any, vr: Any, vi: Any, xr: Any, xi: Any, k: Any, d: Any, steps: Any, how: Any) -> None:
    """One state through `steps` steps; the stored states go to xr and xi. x: the state, what truncation left."""
    r, i, left = load(x, 0), load(x, LANES), (load(x, 2 * LANES), load(x, 3 * LANES))
    low, high = splat(k, 6), splat(k, 7)
    for t in range(steps):
        v, w = wide(load(vr, t * LANES)), wide(load(vi, t * LANES))
        r, i, _, _, _, _, left = _advance((r, i, left), v, w, k, d, t, TILE, how)
        r, i = clamp(r, low, high), clamp(i, low, high)
        store(xr, t * LANES, r)
        store(xi, t * LANES, i)
    store(x, 0, r)
    store(x, LANES, i)
    store(x, 2 * LANES, left[0])
    store(x, 3 * LANES, left[1])


@compiled
def _run(x: Any, vr: Any, vi: Any, xr: Any, xi: Any, k: Any, d: Any, steps: int, how: Any) -> None:
    """`_through`, compiled apart for what is used most; pointers, as in `update`."""
    rule = how[0], how[1], how[2]
    if how[1] == DITHERED and how[0] == JOINT:
        _through(x, vr, vi, xr, xi, k, d, steps, (JOINT, DITHERED, 1.0))
    elif how[1] != HALF_EVEN:
        _through(x, vr, vi, xr, xi, k, d, steps, rule)
    elif how[0] == JOINT:
        _through(x, vr, vi, xr, xi, k, d, steps, (JOINT, HALF_EVEN, 1.0))
    else:
        _through(x, vr, vi, xr, xi, k, d, steps, (SEPARATE, HALF_EVEN, 1.0))


@compiled
def _from(start: Array, n: int, first: int, lanes: int, unit: float, x: Any) -> None:
    """What is kept of LANES sequences, to the pointer x (2 rows, part, lane), residuals times `unit`; 0 where none
    is."""
    for i in range(4 * LANES):
        x[i] = 0
    for row in range(start.shape[2]):
        for part in range(2):
            for lane in range(lanes):
                kept = start[first + lane, n, row, part]
                x[(2 * row + part) * LANES + lane] = kept * unit if row else kept


@kernel
def _forward(v: Array, k: Array, inp: Array, out: Array, how: Any, start: Array, x: Array, room: Any) -> None:
    batch, both, time = v.shape
    states, none = both // 2, np.zeros((0, 0, 0), np.uint8)
    truncated, unit = how[1] == DITHERED or how[1] == STOCHASTIC, 1.0 / how[2]
    nearest = HALF_EVEN if truncated or how[1] == FEEDBACK else how[1]
    for item in prange((batch + LANES - 1) // LANES * states):
        n, first = item % states, (item // states) * LANES
        lanes = min(LANES, batch - first)
        state = ahead(pointer(room[0]), numba.get_thread_id() * room[0].shape[1])
        rows = ahead(pointer(room[1]), numba.get_thread_id() * room[1].shape[1])
        xr, vr, vi = ahead(state, 4 * LANES), ahead(rows, BLOCK), ahead(rows, 2 * BLOCK)
        xi, d, own = ahead(xr, BLOCK), ahead(xr, 2 * BLOCK), ahead(pointer(k), n * k.shape[1] * COLUMNS)
        _from(start, n, first, lanes, unit, state)
        for begin in range(0, time, TILE):
            steps = min(TILE, time - begin)
            gather(v, n, first, lanes, begin, steps, inp, how[1] != NONE, rows, vr)
            gather(v, states + n, first, lanes, begin, steps, inp, how[1] != NONE, rows, vi)
            if truncated:
                dither(how[1], how[0], 2 * n, how[3] + begin, steps, own, d, TILE)
            _run(state, vr, vi, xr, xi, own, d, steps, how)
            scatter(xr, n, first, lanes, begin, steps, out, nearest, x, none, vr, rows)
            scatter(xi, states + n, first, lanes, begin, steps, out, nearest, x, none, vi, rows)
        for row in range(start.shape[2]):
            for part in range(2):
                for lane in range(lanes):
                    kept = state[(2 * row + part) * LANES + lane]
                    start[first + lane, n, row, part] = kept * how[2] if row else kept


def state_scan(
    v: Tensor, start: Tensor, k: Tensor, g: Tensor, inp: Tensor, out: Tensor, how: list[int], clip: float
) -> tuple[Tensor, Tensor]:
    last, x = start.clone(), torch.empty(v.shape, dtype=v.dtype)
    room = scratch(4 * LANES + 2 * BLOCK + WORDS * TILE, np.float64), scratch(3 * BLOCK, f32)
    parts = inp.repeat(2, 1).numpy(), out.repeat(2, 1).numpy(), rules_of(how, start)
    _forward(v.flatten(1, 2).numpy(), k.numpy(), *parts, last.numpy(), x.flatten(1, 2).numpy(), room)
    return x, last


@inlined
def _pass(
    tape: Any,
    masks: Any,
    vr: Any,
    vi: Any,
    gr: Any,
    gi: Any,
    k: Any,
    g: Any,
    sums: Any,
    d: Any,
    steps: Any,
    limit: Any,
    how: Any,
) -> None:
    """There, with the states before saturation on the tape, and back; gr and gi become the gradients of v.

    The tape begins with the state, and what truncation left before.
    """
    low, high = splat(k, 6), splat(k, 7)
    r, i = wide(load(tape, 0)), wide(load(tape, LANES))
    left = wide(load(tape, 2 * LANES)), wide(load(tape, 3 * LANES))  # where the first step goes now
    for t in range(steps):
        v, w = wide(load(vr, t * LANES)), wide(load(vi, t * LANES))
        r, i, oar, oai, obr, obi, left = _advance((r, i, left), v, w, k, d, t, steps, how)
        store(tape, 2 * (t + 1) * LANES, narrow(r))
        store(tape, (2 * (t + 1) + 1) * LANES, narrow(i))
        if how[0] == SEPARATE:
            store_mask(masks, 4 * t, oar)
            store_mask(masks, 4 * t + 1, oai)
            store_mask(masks, 4 * t + 2, obr)
            store_mask(masks, 4 * t + 3, obi)
        r, i = clamp(r, low, high), clamp(i, low, high)
    bound, least, most = broadcast(limit), splat(g, 6), splat(g, 7)
    ar, ai, br, bi = splat(g, 0), splat(g, 1), splat(g, 2), splat(g, 3)
    s0, s1, s2, s3 = load(sums, 0), load(sums, LANES), load(sums, 2 * LANES), load(sums, 3 * LANES)
    hr, hi = broadcast(f32(0)), broadcast(f32(0))
    fr, fi = load(tape, 2 * steps * LANES), load(tape, (2 * steps + 1) * LANES)
    xr, xi = clamp(fr, least, most), clamp(fi, least, most)
    for back in range(steps):
        t = steps - 1 - back
        er = clamp(keep(load(gr, t * LANES) + hr, equal(fr, xr)), -bound, bound)
        ei = clamp(keep(load(gi, t * LANES) + hi, equal(fi, xi)), -bound, bound)
        ur, ui = er, ei
        if how[0] == SEPARATE:
            ur, ui = keep(er, load_mask(masks, 4 * t + 2)), keep(ei, load_mask(masks, 4 * t + 3))
            er, ei = keep(er, load_mask(masks, 4 * t)), keep(ei, load_mask(masks, 4 * t + 1))
        v, w = load(vr, t * LANES), load(vi, t * LANES)
        s2, s3 = fma(ur, v, fma(ui, w, s2)), fma(ui, v, fma(-ur, w, s3))
        store(gr, t * LANES, fma(br, ur, bi * ui))
        store(gi, t * LANES, fma(br, ui, -(bi * ur)))
        hr, hi = fma(ar, er, ai * ei), fma(ar, ei, -(ai * er))
        fr, fi = load(tape, 2 * t * LANES), load(tape, (2 * t + 1) * LANES)
        xr, xi = clamp(fr, least, most), clamp(fi, least, most)
        s0, s1 = fma(er, xr, fma(ei, xi, s0)), fma(ei, xr, fma(-er, xi, s1))
    store(sums, 0, s0)
    store(sums, LANES, s1)
    store(sums, 2 * LANES, s2)
    store(sums, 3 * LANES, s3)


@compiled
def _back(
    a: Any,
    b: Any,
    v: Any,
    w: Any,
    e: Any,
    f: Any,
    table: Any,
    real: Any,
    total: Any,
    word: Any,
    steps: int,
    limit: float,
    how: Any,
) -> None:
    """`_pass`, compiled apart for what is used most; pointers, in its order."""
    rule = how[0], how[1], how[2]
    if how[1] == DITHERED and how[0] == JOINT:
        _pass(a, b, v, w, e, f, table, real, total, word, steps, limit, (JOINT, DITHERED, 1.0))
    elif how[1] != HALF_EVEN:
        _pass(a, b, v, w, e, f, table, real, total, word, steps, limit, rule)
    elif how[0] == JOINT:
        _pass(a, b, v, w, e, f, table, real, total, word, steps, limit, (JOINT, HALF_EVEN, 1.0))
    else:
        _pass(a, b, v, w, e, f, table, real, total, word, steps, limit, (SEPARATE, HALF_EVEN, 1.0))


@kernel
def _backward(
    v: Array,
    k: Array,
    g: Array,
    inp: Array,
    how: Any,
    start: Array,
    grad: Array,
    limit: float,
    grad_v: Array,
    parts: Array,
    room: Any,
) -> None:
    """parts (state, chunk, 2, 2): sums of e conj(x'[t-1]) and of e conj(v') over fixed chunks of the batch."""
    batch, both, time = v.shape
    states, chunks, truncated = both // 2, parts.shape[1], how[1] == DITHERED or how[1] == STOCHASTIC
    blocks, size = (batch + LANES - 1) // LANES, (time + LANES - 1) // LANES * LANES * LANES
    for item in prange(chunks * states):
        n, chunk = item % states, item // states
        rows = ahead(pointer(room[0]), numba.get_thread_id() * room[0].shape[1])
        masks = ahead(pointer(room[1]), numba.get_thread_id() * room[1].shape[1])
        d = ahead(pointer(room[2]), numba.get_thread_id() * room[2].shape[1])
        vr = ahead(rows, BLOCK)
        vi, gr, gi, tape = ahead(vr, size), ahead(vr, 2 * size), ahead(vr, 3 * size), ahead(vr, 4 * size)
        sums = ahead(tape, 2 * size + 4 * LANES)
        own, real = ahead(pointer(k), n * k.shape[1] * COLUMNS), ahead(pointer(g), n * g.shape[1] * REAL_COLUMNS)
        if truncated:
            dither(how[1], how[0], 2 * n, how[3], time, own, d, time)
        for i in range(4 * LANES):
            sums[i] = 0
        for block in range(chunk * blocks // chunks, (chunk + 1) * blocks // chunks):
            first = block * LANES
            lanes = min(LANES, batch - first)
            for t in range(0, time, TILE):
                steps = min(TILE, time - t)
                gather(v, n, first, lanes, t, steps, inp, how[1] != NONE, rows, ahead(vr, t * LANES))
                gather(v, states + n, first, lanes, t, steps, inp, how[1] != NONE, rows, ahead(vi, t * LANES))
                to_lanes(grad, n, first, lanes, t, rows, gr)
                to_lanes(grad, states + n, first, lanes, t, rows, gi)
            _from(start, n, first, lanes, 1.0 / how[2], tape)
            _back(tape, masks, vr, vi, gr, gi, own, real, sums, d, time, limit, how)
            for part in range(2):
                h = part * states + n
                scale, low, high = inp[h, 0], inp[h, 1], inp[h, 2]
                for t in range(0, time, TILE):
                    steps = min(TILE, time - t)
                    to_rows(gr if part == 0 else gi, t, steps, rows)
                    for lane in range(lanes):
                        source, target = v[first + lane, h, t : t + steps], grad_v[first + lane, h, t : t + steps]
                        row = ahead(rows, lane * TILE)
                        for j in range(steps):
                            w = np.rint(source[j] / scale)
                            target[j] = row[j] if (w >= low) & (w <= high) else f32(0)
        for which in range(2):
            for part in range(2):
                total = 0.0
                for lane in range(LANES):
                    total += sums[(2 * which + part) * LANES + lane]
                parts[n, chunk, which, part] = total


def state_scan_backward(
    v: Tensor,
    start: Tensor,
    grad: Tensor,
    k: Tensor,
    g: Tensor,
    inp: Tensor,
    out: Tensor,
    how: list[int],
    bound: float,
    clip: float,
) -> tuple[Tensor, Tensor]:
    batch, _, states, time = v.shape
    chunks = max(1, min(CHUNKS, math.ceil(batch / LANES)))
    parts, grad_v = np.zeros((states, chunks, 2, 2), f32), torch.empty(v.shape, dtype=torch.float32)
    size = (time + LANES - 1) // LANES * LANES * LANES
    masks, words = 4 * time if how[0] == SEPARATE else 0, WORDS * time if how[1] in (DITHERED, STOCHASTIC) else 0
    room = scratch(BLOCK + 6 * size + 8 * LANES, f32), scratch(masks, np.uint16), scratch(words, np.float64)
    flat = v.flatten(1, 2).numpy(), k.numpy(), g.numpy(), inp.repeat(2, 1).numpy(), rules_of(how, start)
    ends = start.numpy(), grad.contiguous().flatten(1, 2).numpy(), f32(bound), grad_v.flatten(1, 2).numpy()
    _backward(*flat, *ends, parts, room)
    return grad_v, torch.from_numpy(parts.sum(1)).permute(1, 0, 2)[:, :, None].contiguous()
