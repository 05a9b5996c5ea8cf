"""The fused CPU kernels of the recurrence with a complex input, whose states are its output (`state_scan`).

A work item is one state of LANES sequences; it stays in registers from the first step to the last. As in `update`,
integers are held in doubles, exactly; no rounding and infinite bounds are full precision.

Arrays: v, x (batch, 2 state, time), real parts first; the first and the last state (batch, state, 1, 2) centred
codes; k, g, inp, out and how as in `codes.Tables`, one state a head.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from imc_ssm.kernels.codes import COLUMNS, HALF_EVEN, JOINT, NONE, SEPARATE
from imc_ssm.kernels.compiling import kernel
from imc_ssm.kernels.cpu import CHUNKS, scratch
from imc_ssm.kernels.grid import Array
from imc_ssm.kernels.reverse import REAL_COLUMNS, to_lanes, to_rows
from imc_ssm.kernels.update import TILE, compiled, gather, inlined, rounded, scatter
from imc_ssm.kernels.vector import (
    LANES,
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

__all__ = ["state_scan", "state_scan_backward"]

f32 = np.float32
BLOCK = TILE * LANES


@inlined
def _advance(r: Any, i: Any, vr: Any, vi: Any, k: Any, p: Any, how: Any) -> Any:
    """`update.advance` with a complex input: the state before its last saturation, and what did not saturate."""
    ar, ai, br, bi = splat(k, p), splat(k, p + 1), splat(k, p + 2), splat(k, p + 3)
    if how[0] == JOINT:
        qr = rounded(fma(ar, r, fma(-ai, i, fma(br, vr, -(bi * vi)))), how[1])
        qi = rounded(fma(ar, i, fma(ai, r, fma(br, vi, bi * vr))), how[1])
        always = equal(ar, ar)
        return qr, qi, always, always, always, always
    low, high = splat(k, p + 6), splat(k, p + 7)
    pr, pi = rounded(fma(ar, r, -(ai * i)), how[1]), rounded(fma(ar, i, ai * r), how[1])
    dr, di = rounded(fma(br, vr, -(bi * vi)), how[1]), rounded(fma(br, vi, bi * vr), how[1])
    kr, ki, er, ei = clamp(pr, low, high), clamp(pi, low, high), clamp(dr, low, high), clamp(di, low, high)
    return kr + er, ki + ei, equal(kr, pr), equal(ki, pi), equal(er, dr), equal(ei, di)


@inlined
def _through(x: Any, vr: Any, vi: Any, xr: Any, xi: Any, k: Any, p: Any, steps: Any, how: Any) -> None:
    """One state through `steps` steps; the stored states go to xr and xi."""
    r, i = load(x, 0), load(x, LANES)
    low, high = splat(k, p + 6), splat(k, p + 7)
    for t in range(steps):
        r, i, _, _, _, _ = _advance(r, i, wide(load(vr, t * LANES)), wide(load(vi, t * LANES)), k, p, how)
        r, i = clamp(r, low, high), clamp(i, low, high)
        store(xr, t * LANES, r)
        store(xi, t * LANES, i)
    store(x, 0, r)
    store(x, LANES, i)


@compiled
def _run(x: Array, vr: Array, vi: Array, xr: Array, xi: Array, k: Array, n: int, steps: int, how: Any) -> None:
    """`_through`, compiled apart for what is used most."""
    at, a, b, c, d, table = pointer(x), pointer(vr), pointer(vi), pointer(xr), pointer(xi), pointer(k)
    p = n * k.shape[1] * COLUMNS
    if how[1] != HALF_EVEN:
        _through(at, a, b, c, d, table, p, steps, how)
    elif how[0] == JOINT:
        _through(at, a, b, c, d, table, p, steps, (JOINT, HALF_EVEN))
    else:
        _through(at, a, b, c, d, table, p, steps, (SEPARATE, HALF_EVEN))


@compiled
def _from(start: Array, n: int, first: int, lanes: int, x: Array) -> None:
    """The state of LANES sequences, (part, lane); 0 where there is none."""
    x[:] = 0
    for part in range(2):
        for lane in range(lanes):
            x[part * LANES + lane] = start[first + lane, n, 0, part]


@kernel
def _forward(v: Array, k: Array, inp: Array, out: Array, how: Any, start: Array, x: Array, room: Any) -> None:
    batch, both, time = v.shape
    states, none = both // 2, np.zeros((0, 0, 0), np.uint8)
    for item in prange((batch + LANES - 1) // LANES * states):
        n, first = item % states, (item // states) * LANES
        lanes = min(LANES, batch - first)
        doubles, singles = room[0][numba.get_thread_id()], room[1][numba.get_thread_id()]
        state, xr, xi = doubles[: 2 * LANES], doubles[2 * LANES :][:BLOCK], doubles[2 * LANES + BLOCK :][:BLOCK]
        rows, vr, vi = singles[:BLOCK], singles[BLOCK : 2 * BLOCK], singles[2 * BLOCK : 3 * BLOCK]
        _from(start, n, first, lanes, state)
        for begin in range(0, time, TILE):
            steps = min(TILE, time - begin)
            gather(v, n, first, lanes, begin, steps, inp, how[1] != NONE, rows, vr)
            gather(v, states + n, first, lanes, begin, steps, inp, how[1] != NONE, rows, vi)
            _run(state, vr, vi, xr, xi, k, n, steps, how)
            scatter(xr, n, first, lanes, begin, steps, out, how[1], x, none, vr, rows)
            scatter(xi, states + n, first, lanes, begin, steps, out, how[1], x, none, vi, rows)
        for part in range(2):
            for lane in range(lanes):
                start[first + lane, n, 0, part] = state[part * LANES + lane]


def state_scan(
    v: Tensor, start: Tensor, k: Tensor, g: Tensor, inp: Tensor, out: Tensor, how: list[int], clip: float
) -> tuple[Tensor, Tensor]:
    last, x = start.clone(), torch.empty(v.shape, dtype=v.dtype)
    room = scratch(2 * LANES + 2 * BLOCK, np.float64), scratch(3 * BLOCK, f32)
    parts = inp.repeat(2, 1).numpy(), out.repeat(2, 1).numpy(), (how[0], how[1])
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
    p: Any,
    g: Any,
    q: Any,
    sums: Any,
    steps: Any,
    limit: Any,
    how: Any,
) -> None:
    """There, with the states before saturation on the tape, and back; gr and gi become the gradients of v."""
    low, high = splat(k, p + 6), splat(k, p + 7)
    r, i = wide(load(tape, 0)), wide(load(tape, LANES))
    for t in range(steps):
        v, w = wide(load(vr, t * LANES)), wide(load(vi, t * LANES))
        r, i, oar, oai, obr, obi = _advance(r, i, v, w, k, p, how)
        store(tape, 2 * (t + 1) * LANES, narrow(r))
        store(tape, (2 * (t + 1) + 1) * LANES, narrow(i))
        if how[0] == SEPARATE:
            store_mask(masks, 4 * t, oar)
            store_mask(masks, 4 * t + 1, oai)
            store_mask(masks, 4 * t + 2, obr)
            store_mask(masks, 4 * t + 3, obi)
        r, i = clamp(r, low, high), clamp(i, low, high)
    bound, least, most = broadcast(limit), splat(g, q + 6), splat(g, q + 7)
    ar, ai, br, bi = splat(g, q), splat(g, q + 1), splat(g, q + 2), splat(g, q + 3)
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
    tape: Array,
    masks: Array,
    vr: Array,
    vi: Array,
    gr: Array,
    gi: Array,
    k: Array,
    g: Array,
    sums: Array,
    n: int,
    steps: int,
    limit: float,
    how: Any,
) -> None:
    """`_pass`, compiled apart for what is used most."""
    a, b, c, d, e, f = pointer(tape), pointer(masks), pointer(vr), pointer(vi), pointer(gr), pointer(gi)
    table, real, total = pointer(k), pointer(g), pointer(sums)
    p, q = n * k.shape[1] * COLUMNS, n * g.shape[1] * REAL_COLUMNS
    if how[1] != HALF_EVEN:
        _pass(a, b, c, d, e, f, table, p, real, q, total, steps, limit, how)
    elif how[0] == JOINT:
        _pass(a, b, c, d, e, f, table, p, real, q, total, steps, limit, (JOINT, HALF_EVEN))
    else:
        _pass(a, b, c, d, e, f, table, p, real, q, total, steps, limit, (SEPARATE, HALF_EVEN))


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
    states, chunks = both // 2, parts.shape[1]
    blocks, size = (batch + LANES - 1) // LANES, (time + LANES - 1) // LANES * LANES * LANES
    for item in prange(chunks * states):
        n, chunk = item % states, item // states
        singles, masks = room[0][numba.get_thread_id()], room[1][numba.get_thread_id()]
        rows, rest = singles[:BLOCK], singles[BLOCK:]
        vr, vi, gr, gi = rest[:size], rest[size : 2 * size], rest[2 * size : 3 * size], rest[3 * size : 4 * size]
        tape, rest = rest[4 * size : 6 * size + 2 * LANES], rest[6 * size + 2 * LANES :]
        sums = rest[: 4 * LANES]
        sums[:] = 0
        for block in range(chunk * blocks // chunks, (chunk + 1) * blocks // chunks):
            first = block * LANES
            lanes = min(LANES, batch - first)
            for t in range(0, time, TILE):
                steps = min(TILE, time - t)
                gather(v, n, first, lanes, t, steps, inp, how[1] != NONE, rows, vr[t * LANES :])
                gather(v, states + n, first, lanes, t, steps, inp, how[1] != NONE, rows, vi[t * LANES :])
                to_lanes(grad, n, first, lanes, t, rows, gr)
                to_lanes(grad, states + n, first, lanes, t, rows, gi)
            _from(start, n, first, lanes, tape[: 2 * LANES])
            _back(tape, masks, vr, vi, gr, gi, k, g, sums, n, time, limit, how)
            for part in range(2):
                h = part * states + n
                scale, low, high = inp[h, 0], inp[h, 1], inp[h, 2]
                for t in range(0, time, TILE):
                    steps = min(TILE, time - t)
                    to_rows(gr if part == 0 else gi, t, steps, rows)
                    for lane in range(lanes):
                        source, target = v[first + lane, h, t : t + steps], grad_v[first + lane, h, t : t + steps]
                        row = rows[lane * TILE : lane * TILE + steps]
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
    room = scratch(BLOCK + 6 * size + 6 * LANES, f32), scratch(4 * time if how[0] == SEPARATE else 0, np.uint16)
    flat = v.flatten(1, 2).numpy(), k.numpy(), g.numpy(), inp.repeat(2, 1).numpy(), (how[0], how[1])
    ends = start.numpy(), grad.contiguous().flatten(1, 2).numpy(), f32(bound), grad_v.flatten(1, 2).numpy()
    _backward(*flat, *ends, parts, room)
    return grad_v, torch.from_numpy(parts.sum(1)).permute(1, 0, 2)[:, :, None].contiguous()
