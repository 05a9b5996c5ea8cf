"""The fused CPU implementation with gradients: full precision and integer."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from imc_ssm.fixedpoint import ScanFormats, ScanPlan, plan_scan
from imc_ssm.recurrence import kernels
from imc_ssm.recurrence.codes import Array, Operands, codes_of, input_codes, pair

__all__ = ["scan_integer", "scan_real"]

CHUNKS = 8
"""The batch is split into at most this many chunks whose coefficient gradients are summed in order."""


def _complex(x: Array) -> Tensor:
    return torch.view_as_complex(torch.from_numpy(np.ascontiguousarray(x, np.float32)))


def _gradient_arrays(batch: int, heads: int, states: int, time: int, dtype: type) -> tuple[Array, list[Array]]:
    """The tape of one worker's states and the partial sums of the coefficients' gradients."""
    blocks = math.ceil(batch / kernels.LANES)
    tape = np.empty((numba.get_num_threads(), time + 1, states, 2, kernels.LANES), dtype)
    return tape, [np.zeros((heads, min(CHUNKS, blocks), states, 2), np.float32) for _ in range(3)]


def _bound(clamp: float | None) -> Any:
    return np.float32(math.inf if clamp is None else clamp)


class _RealScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, u: Tensor, a: Tensor, b: Tensor, c: Tensor, x0: Tensor, clamp: float | None
    ) -> tuple[Tensor, Tensor]:
        operands = [pair(z) for z in (a, b, c)]
        signal = u.detach().contiguous().numpy()
        start = pair(x0)
        x = start.copy()
        y = np.empty_like(signal)
        kernels.forward_real(signal, *operands, x, y)
        ctx.saved = (signal, operands, start, clamp)  # type: ignore[attr-defined]
        last = _complex(x)
        ctx.mark_non_differentiable(last)
        return torch.from_numpy(y), last

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        signal, operands, start, clamp = ctx.saved  # type: ignore[attr-defined]
        batch, heads, time = signal.shape
        tape, partial = _gradient_arrays(batch, heads, operands[0].shape[1], time, np.float32)
        grad_u = np.empty_like(signal)
        grad_y = grads[0].contiguous().numpy()
        kernels.backward_real(signal, *operands, start, grad_y, _bound(clamp), tape, grad_u, *partial)
        return (torch.from_numpy(grad_u), *(_complex(p.sum(1)) for p in partial), None, None)


def scan_real(
    u: Tensor, a: Tensor, b: Tensor, c: Tensor, x0: Tensor, clamp: float | None
) -> tuple[Tensor, Tensor]:
    """Full precision in float32; gradients with respect to u, a, b, c (the state returned has none)."""
    y, last = _RealScan.apply(u, a, b, c, x0, clamp)  # type: ignore[no-untyped-call]
    return y, last


class _IntegerScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        u: Tensor,
        a: Tensor,
        b: Tensor | None,
        c: Tensor | None,
        formats: ScanFormats,
        x0: Tensor | None,
        clamp: float | None,
    ) -> tuple[Tensor, Tensor]:
        heads, states = a.shape
        plan = plan_scan(formats, heads, states)
        codes: list[Array | None] = []
        lost: list[Array | None] = []
        for value, fmt in ((a, formats.a), (b, formats.b), (c, formats.c)):
            q, saturated = (None, None) if value is None or fmt is None else codes_of(pair(value), fmt)
            codes.append(q)
            lost.append(saturated)
        assert codes[0] is not None
        operands = Operands.build(plan, codes[0], codes[1], codes[2])
        u_codes = input_codes(u, plan)
        zero_x = plan.zero("x")[:, None, None]
        if x0 is None:
            x = np.zeros((u.shape[0], heads, states, 2), np.int32)
        else:
            x = np.ascontiguousarray(x0.numpy() - zero_x, np.int32)
        start = x.copy()
        out = operands.run(u_codes, x)
        y = np.empty(u.shape, np.float32)
        scale = plan.sum_scale
        if formats.y is not None:
            scale = np.broadcast_to(formats.y.scale.astype(np.float64), heads)
        kernels.dequantise(out, np.ascontiguousarray(scale), plan.zero("y"), y)
        last = torch.from_numpy(x + zero_x)
        ctx.saved = (u.detach(), u_codes, operands, start, lost, clamp)  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(last)
        return torch.from_numpy(y), last

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Any, ...]:
        u, u_codes, operands, start, lost, clamp = ctx.saved  # type: ignore[attr-defined]
        plan: ScanPlan = operands.plan
        f = plan.formats
        batch, heads, time = u_codes.shape
        tape, partial = _gradient_arrays(batch, heads, plan.states, time, np.int32)
        one = np.float32(1.0)
        scales = [one if fmt is None else fmt.scale for fmt in (f.a, f.b, f.c, f.x)]
        scale = np.stack([np.broadcast_to(s, heads) for s in scales], axis=1).astype(np.float32)
        grad_u = np.empty(u_codes.shape, np.float32)
        grad_y = grads[0].contiguous().numpy()
        kernels.backward_codes(
            u_codes,
            operands.a,
            operands.b,
            operands.c,
            *operands.constants(),
            scale,
            start,
            grad_y,
            _bound(clamp),
            tape,
            grad_u,
            *partial,
        )
        scale_u = np.broadcast_to(f.u.scale, heads)
        sums = [p.sum(1) for p in partial]
        sums[1] *= scale_u[:, None, None]
        # None where b or c is the constant 1: it has no gradient.
        coefficients: list[Tensor | None] = [None, None, None]
        for k, (grad, saturated) in enumerate(zip(sums, lost, strict=True)):
            if saturated is not None:
                grad[saturated] = 0.0
                coefficients[k] = _complex(grad)
        gu = torch.from_numpy(grad_u)
        low, high = _real_bounds(plan)
        gu *= (u >= low[:, None]) & (u <= high[:, None])
        return (gu, *coefficients, None, None, None)


def _real_bounds(plan: ScanPlan) -> tuple[Tensor, Tensor]:
    """The real values (head,) beyond which the input saturates: half a step outside its codes."""
    fmt = plan.formats.u
    scale = np.broadcast_to(fmt.scale, plan.heads)
    low = (np.broadcast_to(fmt.low - fmt.zero_point, plan.heads) - 0.5) * scale
    high = (np.broadcast_to(fmt.high - fmt.zero_point, plan.heads) + 0.5) * scale
    return torch.from_numpy(low.astype(np.float32)), torch.from_numpy(high.astype(np.float32))


def scan_integer(
    u: Tensor,
    a: Tensor,
    b: Tensor | None,
    c: Tensor | None,
    formats: ScanFormats,
    x0: Tensor | None,
    clamp: float | None,
) -> tuple[Tensor, Tensor]:
    """The integer update; the last state is returned as codes (batch, head, state, 2) int64."""
    y, last = _IntegerScan.apply(u, a, b, c, formats, x0, clamp)  # type: ignore[no-untyped-call]
    return y, last
