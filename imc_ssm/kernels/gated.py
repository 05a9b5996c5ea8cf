"""The state of a gated recurrence, h[t] = h[t-1] + z[t] (v[t] - h[t-1]), in integers or in full precision.

Plain PyTorch operations, one time step after the other, on any device. Integers are held in doubles, exactly.

Shapes: z, v, h (batch, time, channel); the first and the last state (batch, channel), centred codes where there is
a format, else values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imc_ssm.fixedpoint import Format, Rounding
from imc_ssm.fixedpoint.operators import plan_gated
from imc_ssm.kernels.grid import DeviceArray, Grid

__all__ = ["gated_scan"]

_ROUND: dict[str, Callable[[Tensor], Tensor]] = {
    "half_even": torch.round,
    "half_up": lambda x: torch.floor(x + 0.5),
    "half_away": lambda x: torch.copysign(torch.floor(x.abs() + 0.5), x),
}


class _Gated(torch.autograd.Function):
    """Straight through the roundings; a candidate outside the state's range gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, v: Tensor, h: Tensor, grid: Tensor | None, plan: Tensor | None, rounding: str
    ) -> tuple[Tensor, Tensor]:
        wide, candidate, unit = z.double(), v.double(), 1.0
        if grid is None or plan is None:
            states = _through(h.double(), wide, candidate)
            inside = torch.ones((), dtype=torch.bool)
        else:
            unit, low, high = grid.double()
            of_z, change, of_v, to_state = plan
            codes = torch.round(wide / of_z)
            nearest = torch.round(torch.round(candidate / of_v) * to_state)
            candidate = nearest.clamp(low, high)
            inside = nearest == candidate
            states = _through(h.double(), codes, candidate, change, (low, high), _ROUND[rounding])
            wide = codes * of_z
        before = torch.cat([h.double()[:, None], states[:, :-1]], 1)
        ctx.save_for_backward(wide, (candidate - before) * unit, inside)
        ctx.precision = z.dtype
        return (states * unit).to(z.dtype), states[:, -1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, difference, inside = ctx.saved_tensors
        grad, keep = grads[0].double(), 1 - z
        total = torch.zeros_like(grad)
        after = torch.zeros_like(grad[:, 0])
        for t in range(grad.shape[1] - 1, -1, -1):
            after = grad[:, t] + after
            total[:, t] = after
            after = after * keep[:, t]
        to = ctx.precision
        return (total * difference).to(to), (total * z * inside).to(to), None, None, None, None


def _through(
    h: Tensor,
    z: Tensor,
    v: Tensor,
    step: Tensor | None = None,
    bounds: tuple[Tensor, Tensor] | None = None,
    rounded: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """All states (batch, time, channel); with a multiplier `step`, bounds and a rounding in integers."""
    states = torch.empty_like(v)
    for t in range(v.shape[1]):
        change = z[:, t] * (v[:, t] - h)
        if step is None or bounds is None or rounded is None:
            h = h + change
        else:
            h = (h + rounded(change * step)).clamp(*bounds)
        states[:, t] = h
    return states


@lru_cache(maxsize=64)
def _planned(gate: Format, candidate: Format | None, state: Format, channels: int) -> DeviceArray:
    """(4, channels): scale of z, multiplier of a change, scale of v, multiplier that brings v to the state's grid.

    Without a format of v: 1 for the last, and the state's scale.
    """
    plan = plan_gated(gate, candidate or state, state, channels)
    to_state = np.ldexp(plan.candidate.astype(np.float64), -plan.candidate_shift)
    scales = [np.broadcast_to(fmt.scale.astype(np.float64), channels) for fmt in (gate, candidate or state)]
    change = np.ldexp(plan.gate.astype(np.float64), -plan.gate_shift)
    return DeviceArray(
        np.stack([scales[0], change, scales[1], np.ones(channels) if candidate is None else to_state])
    )


def gated_scan(
    z: Tensor,
    v: Tensor,
    h0: Tensor,
    *,
    gate: Format | None = None,
    state: Format | None = None,
    candidate: Format | None = None,
    rounding: Rounding = "half_even",
) -> tuple[Tensor, Tensor]:
    """h[t] = h[t-1] + z[t] (v[t] - h[t-1]): (h, last state), with straight-through gradients of z and v.

    With the formats of gate and state, and q centred codes, in the integers of `fixedpoint.plan_gated`:

        q_v = clip(round(m_v v' / 2^shift_v))
        q_h[t] = clip(q_h[t-1] + round(m_z (q_z[t] (q_v[t] - q_h[t-1])) / 2^shift_z))

    v' are the codes of v, which lies on the grid `candidate`; without one, q_v = clip(round(v / s_h)). The first
    rounding is to even, the other one as `rounding` says. `h0` holds centred codes then.
    """
    grid = plan = None
    if gate is not None and state is not None:
        channels = v.shape[-1]
        grid = Grid.of(state, channels).on(v.device)
        plan = _planned(gate, candidate, state, channels).on(v.device)
    h, last = _Gated.apply(z, v, h0, grid, plan, rounding)  # type: ignore[no-untyped-call]
    return h, last
