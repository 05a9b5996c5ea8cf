"""The reference of the recurrences' operators: a loop over time in plain PyTorch operations, on any device.

In double precision, which holds every word of the unit exactly (`codes.Tables`); arguments as the operators have
them (`unit`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from imc_ssm.fixedpoint import Noise
from imc_ssm.kernels.codes import HALF_AWAY, HALF_EVEN, HALF_UP, JOINT, NONE

__all__ = ["scan", "scan_backward", "state_scan", "state_scan_backward"]

f64 = torch.float64


class _Step(NamedTuple):
    """One step of every state, each (batch, head, state, part)."""

    free: Tensor
    """before the last saturation"""
    x: Tensor
    """stored"""
    kept_a: Tensor | bool
    """where a x did not saturate"""
    kept_b: Tensor | bool


def _rounded(q: Tensor, rounding: int) -> Tensor:
    if rounding == HALF_EVEN:
        return torch.round(q)
    if rounding == HALF_UP:
        return torch.floor(q + 0.5)
    if rounding == HALF_AWAY:
        return torch.trunc(q + torch.copysign(torch.full_like(q, 0.5), q))
    return q


def _times(k: Tensor, x: Tensor) -> Tensor:
    """Complex products; real and imaginary part last."""
    re = k[..., 0] * x[..., 0] - k[..., 1] * x[..., 1]
    return torch.stack([re, k[..., 0] * x[..., 1] + k[..., 1] * x[..., 0]], dim=-1)


def _conjugate(k: Tensor) -> Tensor:
    return torch.stack([k[..., 0], -k[..., 1]], dim=-1)


def _step(x: Tensor, driven: Tensor, k: Tensor, how: list[int], z: Tensor | None) -> _Step:
    """x[t] of x[t-1] and the products b v[t], (batch, head, state, 2)."""
    low, high = k[..., 6:7], k[..., 7:8]
    recurrent = _times(k[..., 0:2], x)
    if z is not None:
        recurrent = recurrent + k[..., 8:9] * z
    if how[0] == JOINT:
        free = _rounded(recurrent + driven, how[1])
        return _Step(free, torch.clamp(free, low, high), True, True)
    p, d = _rounded(recurrent, how[1]), _rounded(driven, how[1])
    kept_p, kept_d = torch.clamp(p, low, high), torch.clamp(d, low, high)
    free = kept_p + kept_d
    return _Step(free, torch.clamp(free, low, high), kept_p == p, kept_d == d)


def _codes(u: Tensor, inp: Tensor, rounding: int) -> tuple[Tensor, Tensor]:
    """Centred codes of u (batch, head, time), float64, and where they did not saturate."""
    scale, low, high = (inp[:, i, None] for i in range(3))
    nearest = u / scale if rounding == NONE else torch.round(u / scale)
    kept = torch.clamp(nearest, low, high)
    return kept.double(), kept == nearest


def _noises(draws: list[int], start: Tensor, time: int) -> list[Tensor | None]:
    """Gaussian integers (batch, head, state, 2) of every step."""
    if not draws:
        return [None] * time
    batch, heads, states, _ = start.shape
    noise = Noise(draws[0] % 2**64, 1.0, 0.0, draws[1], draws[2])
    return [torch.from_numpy(noise.of_state(batch, heads, states, t)).to(start.device, f64) for t in range(time)]


def _run(start: Tensor, driven: list[Tensor], k: Tensor, how: list[int], draws: list[int]) -> list[_Step]:
    x, steps = start.double(), []
    for drive, z in zip(driven, _noises(draws, start, len(driven)), strict=True):
        steps.append(_step(x, drive, k, how, z))
        x = steps[-1].x
    return steps


def _back(
    steps: list[_Step], start: Tensor, given: list[Tensor], a: Tensor, bound: float
) -> tuple[list[Tensor], Tensor]:
    """The gradients e_b of the products b v in every step, and the sum of e_a conj(x[t-1]) over batch and time.

    `given`: the gradient of the stored state from the outputs of its step, (batch, head, state, 2).
    """
    later, total, out = torch.zeros_like(start, dtype=f64), torch.zeros_like(start[:1].sum(0), dtype=f64), []
    for t in reversed(range(len(steps))):
        step = steps[t]
        e = (given[t] + later) * (step.free == step.x)
        e = e.clamp(-bound, bound)
        out.append(e * step.kept_b)
        e_a = e * step.kept_a
        before = steps[t - 1].x if t else start.double()
        total = total + _times(_conjugate(before), e_a).sum(0)
        later = _times(_conjugate(a), e_a)
    return out[::-1], total


def _sized(k: Tensor, start: Tensor) -> Tensor:
    """Tables without the states that only fill them up."""
    return k[:, : start.shape[2]]


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
    k = _sized(k, start)
    v, _ = _codes(u, inp, how[1])
    steps = _run(start, [k[..., 2:4] * v[:, :, t, None, None] for t in range(u.shape[2])], k, how, draws)
    total = torch.zeros(u.shape, dtype=f64, device=u.device)
    for t, step in enumerate(steps):
        total[..., t] = (k[..., 4:6] * step.x).sum((-1, -2))
    last = (steps[-1].x if steps else start).to(start.dtype)
    none = torch.zeros((0, 0, 0), dtype=torch.uint8, device=u.device)
    if not how[3]:
        return (out[:, 3, None] * total).to(u.dtype), last.clone(), none
    q = _rounded(out[:, 0, None] * total, how[1])
    kept = torch.clamp(q, out[:, 1, None], out[:, 2, None])
    return (out[:, 3, None] * kept).to(u.dtype), last.clone(), (kept == q).to(torch.uint8) if trained else none


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
    k, g = _sized(k, start), _sized(g, start).double()
    v, inside = _codes(u, inp, how[1])
    signal = [v[:, :, t, None, None] for t in range(u.shape[2])]
    steps = _run(start, [k[..., 2:4] * s for s in signal], k, how, draws)
    to_y = 2 * grad.double() * (free if free.numel() else 1)
    of_y = [to_y[:, :, t, None, None] for t in range(u.shape[2])]
    e_b, a = _back(steps, start, [_conjugate(g[..., 4:6]) * y for y in of_y], g[..., 0:2], bound)
    grad_u = torch.zeros(u.shape, dtype=f64, device=u.device)
    sums = torch.zeros((3, *start.shape[1:]), dtype=f64, device=u.device)
    sums[0] = a
    for t, step in enumerate(steps):
        grad_u[..., t] = (e_b[t] * g[..., 2:4]).sum((-1, -2))
        sums[1] += (e_b[t] * signal[t]).sum(0)
        sums[2] += (of_y[t] * _conjugate(step.x)).sum(0)
    return (grad_u * inside).to(u.dtype), sums.to(u.dtype)


def state_scan(
    v: Tensor, start: Tensor, k: Tensor, g: Tensor, inp: Tensor, out: Tensor, how: list[int], clip: float
) -> tuple[Tensor, Tensor]:
    steps = _run(start, _products(v, k, inp, how)[0], k[:, :1], how, [])
    x = torch.zeros(v.shape, dtype=f64, device=v.device)
    for t, step in enumerate(steps):
        x[..., t] = step.x[:, :, 0].transpose(1, 2)
    last = (steps[-1].x if steps else start).to(start.dtype)
    return (out[:, 3, None] * x).to(v.dtype), last.clone()


def _products(v: Tensor, k: Tensor, inp: Tensor, how: list[int]) -> tuple[list[Tensor], Tensor, Tensor]:
    """b v of every step, the codes of v (batch, state, 1, 2, time), and where they did not saturate."""
    codes, inside = _codes(v, inp, how[1])
    codes = codes.transpose(1, 2)[:, :, None]
    return [_times(k[:, :1, 2:4], codes[..., t]) for t in range(v.shape[-1])], codes, inside


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
    driven, codes, inside = _products(v, k, inp, how)
    k, g = k[:, :1], g[:, :1].double()
    steps = _run(start, driven, k, how, [])
    given = grad.double().transpose(1, 2)[:, :, None]
    e_b, a = _back(steps, start, [given[..., t] for t in range(v.shape[-1])], g[..., 0:2], bound)
    sums = torch.zeros((2, *start.shape[1:]), dtype=f64, device=v.device)
    sums[0] = a
    grad_v = torch.zeros(v.shape, dtype=f64, device=v.device)
    for t, e in enumerate(e_b):
        grad_v[..., t] = _times(_conjugate(g[..., 2:4]), e)[:, :, 0].transpose(1, 2)
        sums[1] += _times(_conjugate(codes[..., t]), e).sum(0)
    return (grad_v * inside).to(v.dtype), sums.to(v.dtype)
