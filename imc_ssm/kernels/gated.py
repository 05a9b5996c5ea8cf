"""The state of a gated recurrence, h[t] = h[t-1] + z[t] (v[t] - h[t-1]), in integers or in full precision.

Plain PyTorch operations, one time step after the other, on any device. Integers are held in doubles, exactly.

Shapes: z, v, h (batch, time, channel); the first and the last state (batch, channel), centred codes where there is
a format, else values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from imc_ssm.fixedpoint import Format, Rounding
from imc_ssm.kernels.grid import Grid

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
        ctx: Any, z: Tensor, v: Tensor, h: Tensor, gate: Tensor | None, grid: Tensor | None, rounding: str
    ) -> tuple[Tensor, Tensor]:
        wide, candidate, unit = z.double(), v.double(), 1.0
        if grid is None or gate is None:
            states = _through(h.double(), wide, candidate)
            inside = torch.ones((), dtype=torch.bool)
        else:
            unit, low, high = grid.double()
            step = gate[0].double()
            codes = torch.round(wide / step)
            nearest = torch.round(candidate / unit)
            candidate = nearest.clamp(low, high)
            inside = nearest == candidate
            states = _through(h.double(), codes, candidate, step, (low, high), _ROUND[rounding])
            wide = codes * step
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
    """All states (batch, time, channel); with the `step` of z's codes, bounds and a rounding in integers."""
    states = torch.empty_like(v)
    for t in range(v.shape[1]):
        change = z[:, t] * (v[:, t] - h)
        if step is None or bounds is None or rounded is None:
            h = h + change
        else:
            h = (h + rounded(change * step)).clamp(*bounds)
        states[:, t] = h
    return states


def gated_scan(
    z: Tensor,
    v: Tensor,
    h0: Tensor,
    *,
    gate: Format | None = None,
    state: Format | None = None,
    rounding: Rounding = "half_even",
) -> tuple[Tensor, Tensor]:
    """h[t] = h[t-1] + z[t] (v[t] - h[t-1]): (h, last state), with straight-through gradients of z and v.

    With the formats of gate and state, and q_z, q_h centred codes, s_z the gate's scale:

        q_v = clip(round(v / s_h)),    q_h[t] = clip(q_h[t-1] + round(s_z (q_z[t] (q_v[t] - q_h[t-1]))))

    The rounding in front is to even, the other one as `rounding` says; s_z is the multiplier of a requantization.
    Words of up to 13 bits are exact in every processor's doubles; wider ones are rounded once more, everywhere
    alike. `h0` holds centred codes then.
    """
    channels = v.shape[-1]
    grids = [None if fmt is None else Grid.of(fmt, channels).on(v.device) for fmt in (gate, state)]
    h, last = _Gated.apply(z, v, h0, *grids, rounding)  # type: ignore[no-untyped-call]
    return h, last
