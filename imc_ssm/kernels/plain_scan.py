"""The reference of the recurrences' operators: a loop over time in plain PyTorch operations, on any device.

In double precision, which holds every word of the unit exactly (`codes.Tables`); arguments as the operators have
them (`unit`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from imc_ssm.fixedpoint import Noise
from imc_ssm.fixedpoint.dither import dither_words, stochastic_words
from imc_ssm.kernels.codes import DITHERED, FEEDBACK, HALF_AWAY, HALF_UP, JOINT, NONE, STOCHASTIC, states_of

__all__ = ["scan", "scan_backward", "state_scan", "state_scan_backward"]

f64 = torch.float64


class _State(NamedTuple):
    """What a unit keeps from one step to the next; as in `start`, taken apart."""

    x: Tensor
    """(batch, head, state, 2) centred codes"""
    residual: Tensor | None
    """as x: what error feedback cut off, in units of 2^-residual_bits of a code"""
    sums: Tensor | None
    """(batch, head, 1, 1): the inputs since the last update"""


class _Step(NamedTuple):
    """One step of every state, each (batch, head, state, part)."""

    free: Tensor
    """before the last saturation"""
    x: Tensor
    """stored"""
    kept_a: Tensor | bool
    """where a x did not saturate"""
    kept_b: Tensor | bool
    due: Tensor | None
    """(head, 1, 1): whether the head is updated; None: all are"""
    signal: Tensor
    """the input of the update"""


def _opened(start: Tensor, how: list[int]) -> _State:
    """A packed state (`ends.Ends`), taken apart."""
    rows, states = start.double(), states_of(start.shape[2], how)
    residual = rows[:, :, states : 2 * states] if how[1] == FEEDBACK else None
    return _State(rows[:, :, :states], residual, rows[:, :, -1:, :1] if how[6] else None)


def _closed(state: _State, dtype: torch.dtype) -> Tensor:
    rows = [state.x] if state.residual is None else [state.x, state.residual]
    if state.sums is not None:
        rows.append(torch.cat([state.sums, torch.zeros_like(state.sums)], dim=-1))
    return torch.cat(rows, dim=2).to(dtype)


def _nearest(q: Tensor, rounding: int) -> Tensor:
    if rounding == NONE:
        return q
    if rounding == HALF_UP:
        return torch.floor(q + 0.5)
    if rounding == HALF_AWAY:
        return torch.trunc(q + torch.copysign(torch.full_like(q, 0.5), q))
    return torch.round(q)


def _shares(updates: Tensor, k: Tensor, rounding: int) -> tuple[Tensor, Tensor]:
    """What is added before the states are truncated, as shares of a code: to a x (or to all), to b u apart.

    `updates` (head,): the numbers of the heads' updates.
    """
    heads, states = k.shape[:2]
    registers = np.arange(2 * heads * states, dtype=np.int64).reshape(heads, states, 2)
    words = dither_words if rounding == DITHERED else stochastic_words
    w = words(updates.cpu().numpy()[:, None, None], registers)
    unit, unit_b = k[..., 9:10], k[..., 10:11]
    a, b = (torch.from_numpy(2.0 * z + 1).to(k.device) / 2**17 for z in (w, 65535 - w))
    return torch.floor(a * unit) / unit, torch.floor(b * unit_b) / unit_b


def _fed(q: Tensor, residual: Tensor, k: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """q with the residual of the step before truncated, and what that cuts off."""
    finest = torch.clamp(k[..., 9:10], max=2.0**bits)
    q = q + torch.floor(residual / 2.0**bits * finest) / finest
    whole = torch.floor(q)
    return whole, torch.floor((q - whole) * 2.0**bits)


def _times(k: Tensor, x: Tensor) -> Tensor:
    """Complex products; real and imaginary part last."""
    re = k[..., 0] * x[..., 0] - k[..., 1] * x[..., 1]
    return torch.stack([re, k[..., 0] * x[..., 1] + k[..., 1] * x[..., 0]], dim=-1)


def _conjugate(k: Tensor) -> Tensor:
    return torch.stack([k[..., 0], -k[..., 1]], dim=-1)


def _advanced(
    state: _State, driven: Tensor, k: Tensor, how: list[int], z: Tensor | None, updates: Tensor
) -> tuple[_Step, Tensor | None]:
    """x[t] of x[t-1] and the products b v[t], (batch, head, state, 2); the new residual."""
    low, high = k[..., 6:7], k[..., 7:8]
    recurrent = _times(k[..., 0:2], state.x)
    if z is not None:
        recurrent = recurrent + k[..., 8:9] * z
    if state.residual is not None:
        free, residual = _fed(recurrent + driven, state.residual, k, how[5])
        return _Step(free, torch.clamp(free, low, high), True, True, None, driven), residual

    def rounded(q: Tensor, part: int) -> Tensor:
        return _nearest(q, how[1]) if shares is None else torch.floor(q + shares[part])

    shares = _shares(updates, k, how[1]) if how[1] in (DITHERED, STOCHASTIC) else None
    if how[0] == JOINT:
        free = rounded(recurrent + driven, 0)
        return _Step(free, torch.clamp(free, low, high), True, True, None, driven), None
    p, d = rounded(recurrent, 0), rounded(driven, 1)
    kept_p, kept_d = torch.clamp(p, low, high), torch.clamp(d, low, high)
    free = kept_p + kept_d
    return _Step(free, torch.clamp(free, low, high), kept_p == p, kept_d == d, None, driven), None


def _codes(u: Tensor, inp: Tensor, rounding: int) -> tuple[Tensor, Tensor]:
    """Centred codes of u (batch, head, time), float64, and where they did not saturate."""
    scale, low, high = (inp[:, i, None] for i in range(3))
    nearest = u / scale if rounding == NONE else torch.round(u / scale)
    kept = torch.clamp(nearest, low, high)
    return kept.double(), kept == nearest


def _noises(draws: list[int], x: Tensor, time: int) -> list[Tensor | None]:
    """Gaussian integers (batch, head, state, 2) of every step."""
    if not draws:
        return [None] * time
    batch, heads, states, _ = x.shape
    noise = Noise(draws[0] % 2**64, 1.0, 0.0, draws[1], draws[2])
    return [torch.from_numpy(noise.of_state(batch, heads, states, t)).to(x.device, f64) for t in range(time)]


def _run(
    state: _State,
    signal: list[Tensor],
    times_b: Callable[[Tensor], Tensor],
    k: Tensor,
    periods: Tensor,
    how: list[int],
    draws: list[int],
) -> tuple[list[_Step], _State]:
    """Every step, and what the unit keeps after the last one; `times_b` makes the drive of an input."""
    steps = []
    for t, (v, z) in enumerate(zip(signal, _noises(draws, state.x, len(signal)), strict=True), how[4]):
        total = v if state.sums is None else state.sums + v
        step, residual = _advanced(state, times_b(total), k, how, z, t // periods)
        step = step._replace(signal=total)
        if state.sums is None:
            state = _State(step.x, residual, None)
        else:
            due = ((t + 1) % periods == 0)[:, None, None]
            step = step._replace(x=torch.where(due, step.x, state.x), due=due)
            if residual is not None and state.residual is not None:
                residual = torch.where(due, residual, state.residual)
            state = _State(step.x, residual, torch.where(due, 0.0, total))
        steps.append(step)
    return steps, state


def _back(
    steps: list[_Step], start: Tensor, given: list[Tensor], a: Tensor, bound: float
) -> tuple[list[Tensor], Tensor]:
    """The gradients e_b of the products b v in every step, and the sum of e_a conj(x[t-1]) over batch and time.

    `given`: the gradient of the stored state from the outputs of its step, (batch, head, state, 2). A head that is
    not updated hands the gradient of its state on as it is.
    """
    later, total, out = torch.zeros_like(start), torch.zeros_like(start[:1].sum(0)), []
    for t in reversed(range(len(steps))):
        step, here = steps[t], given[t] + later
        e = (here * (step.free == step.x)).clamp(-bound, bound)
        if step.due is not None:
            e = torch.where(step.due, e, 0.0)
        out.append(e * step.kept_b)
        e_a = e * step.kept_a
        before = steps[t - 1].x if t else start
        total = total + _times(_conjugate(before), e_a).sum(0)
        later = _times(_conjugate(a), e_a)
        if step.due is not None:
            later = torch.where(step.due, later, here)
    return out[::-1], total


def _scanned(
    u: Tensor, start: Tensor, k: Tensor, inp: Tensor, how: list[int], draws: list[int]
) -> tuple[list[_Step], _State, _State, Tensor]:
    """The steps of a real input, what is kept before and after them, and where the input did not saturate."""
    before = _opened(start, how)
    k = _sized(k, before.x)
    v, inside = _codes(u, inp, how[1])
    signal = [v[:, :, t, None, None] for t in range(u.shape[2])]
    steps, after = _run(before, signal, lambda s: k[..., 2:4] * s, k, inp[:, 3].long(), how, draws)
    return steps, before, after, inside


def _sized(k: Tensor, x: Tensor) -> Tensor:
    """Tables without the states that only fill them up."""
    return k[:, : x.shape[2]]


def scan(
    u: Tensor,
    start: Tensor,
    k: Tensor,
    g: Tensor,
    inp: Tensor,
    out: Tensor,
    how: list[int],
    draws: list[int],
    trained: bool,
    clip: float,
) -> tuple[Tensor, Tensor, Tensor]:
    steps, before, after, _ = _scanned(u, start, k, inp, how, draws)
    k = _sized(k, before.x)
    total = torch.zeros(u.shape, dtype=f64, device=u.device)
    for t, step in enumerate(steps):
        total[..., t] = (k[..., 4:6] * step.x).sum((-1, -2))
    last = _closed(after, start.dtype)
    none = torch.zeros((0, 0, 0), dtype=torch.uint8, device=u.device)
    if not how[3]:
        return (out[:, 3, None] * total).to(u.dtype), last, none
    q = _nearest(out[:, 0, None] * total, how[1])
    kept = torch.clamp(q, out[:, 1, None], out[:, 2, None])
    return (out[:, 3, None] * kept).to(u.dtype), last, (kept == q).to(torch.uint8) if trained else none


def scan_backward(
    u: Tensor,
    start: Tensor,
    grad: Tensor,
    free: Tensor,
    k: Tensor,
    g: Tensor,
    inp: Tensor,
    out: Tensor,
    how: list[int],
    draws: list[int],
    bound: float,
    clip: float,
) -> tuple[Tensor, Tensor]:
    steps, before, _, inside = _scanned(u, start, k, inp, how, draws)
    g = _sized(g, before.x).double()
    to_y = 2 * grad.double() * (free if free.numel() else 1)
    of_y = [to_y[:, :, t, None, None] for t in range(u.shape[2])]
    e_b, a = _back(steps, before.x, [_conjugate(g[..., 4:6]) * y for y in of_y], g[..., 0:2], bound)
    grad_u = torch.zeros(u.shape, dtype=f64, device=u.device)
    sums = torch.zeros((3, *before.x.shape[1:]), dtype=f64, device=u.device)
    sums[0] = a
    held = torch.zeros(u.shape[:2], dtype=f64, device=u.device)
    for t, step in reversed(list(enumerate(steps))):
        # An update's input is the sum of its steps'.
        own = (e_b[t] * g[..., 2:4]).sum((-1, -2))
        held = own if step.due is None else torch.where(step.due[..., 0, 0], own, held)
        grad_u[..., t] = held
        sums[1] += (e_b[t] * step.signal).sum(0)
        sums[2] += (of_y[t] * _conjugate(step.x)).sum(0)
    return (grad_u * inside).to(u.dtype), sums.to(u.dtype)


def _stated(
    v: Tensor, start: Tensor, k: Tensor, inp: Tensor, how: list[int]
) -> tuple[list[_Step], _State, _State, Tensor]:
    """The steps of a complex input, what is kept before and after them, and where the input did not saturate."""
    k, before = k[:, :1], _opened(start, how)
    codes, inside = _codes(v, inp, how[1])
    codes = codes.transpose(1, 2)[:, :, None]
    signal = [codes[..., t] for t in range(v.shape[-1])]
    steps, after = _run(before, signal, lambda w: _times(k[..., 2:4], w), k, inp[:, 3].long(), how, [])
    return steps, before, after, inside


def state_scan(
    v: Tensor, start: Tensor, k: Tensor, g: Tensor, inp: Tensor, out: Tensor, how: list[int], clip: float
) -> tuple[Tensor, Tensor]:
    steps, _, after, _ = _stated(v, start, k, inp, how)
    x = torch.zeros(v.shape, dtype=f64, device=v.device)
    for t, step in enumerate(steps):
        x[..., t] = step.x[:, :, 0].transpose(1, 2)
    return (out[:, 3, None] * x).to(v.dtype), _closed(after, start.dtype)


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
    steps, before, _, inside = _stated(v, start, k, inp, how)
    g = g[:, :1].double()
    given = grad.double().transpose(1, 2)[:, :, None]
    e_b, a = _back(steps, before.x, [given[..., t] for t in range(v.shape[-1])], g[..., 0:2], bound)
    sums = torch.zeros((2, *before.x.shape[1:]), dtype=f64, device=v.device)
    sums[0] = a
    grad_v = torch.zeros(v.shape, dtype=f64, device=v.device)
    for t, e in enumerate(e_b):
        grad_v[..., t] = _times(_conjugate(g[..., 2:4]), e)[:, :, 0].transpose(1, 2)
        sums[1] += _times(_conjugate(steps[t].signal), e).sum(0)
    return (grad_v * inside).to(v.dtype), sums.to(v.dtype)
