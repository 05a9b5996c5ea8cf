"""LayerNorm, RMSNorm and scale-and-shift between two grids, on any device: integer forward, straight-through
backward (the gradient of the real function where the output did not saturate)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from imc_ssm.fixedpoint.norms import AffinePlan, NormPlan, root_table
from imc_ssm.kernels import norm_rows, plain_norms
from imc_ssm.kernels.functions import trained
from imc_ssm.kernels.grid import Array, DeviceArray, Grid, from_rows, rows_of
from imc_ssm.kernels.operators import Pass

__all__ = ["NormConstants", "affine", "normalize"]

NORM = Pass(
    "norm(Tensor x, Tensor source, Tensor channel, Tensor plan, Tensor table, Tensor grid, bool trained)"
    " -> (Tensor, Tensor)",
    plain_norms.norm,
    norm_rows.norm,
)
NORM_BACKWARD = Pass(
    "norm_backward(Tensor grad, Tensor inside, Tensor x, Tensor gain, float eps, bool centred)"
    " -> (Tensor, Tensor, Tensor)",
    plain_norms.norm_backward,
    norm_rows.norm_backward,
)
AFFINE = Pass(
    "affine(Tensor x, Tensor source, Tensor channel, Tensor grid, bool trained) -> (Tensor, Tensor)",
    plain_norms.affine,
    norm_rows.affine,
)
AFFINE_BACKWARD = Pass(
    "affine_backward(Tensor grad, Tensor inside, Tensor x, Tensor gain) -> (Tensor, Tensor, Tensor)",
    plain_norms.affine_backward,
    norm_rows.affine_backward,
)
TABLE = DeviceArray(root_table())


class NormConstants:
    """What a plan says, as the kernels read it."""

    def __init__(self, plan: AffinePlan) -> None:
        channels = len(plan.gain)
        self.source, self.grid = Grid.of(plan.source, channels), Grid.of(plan.output, channels)
        rows: list[Array] = [np.zeros(channels), plan.gain, plan.offset, np.exp2(-plan.shift.astype(np.float64))]
        self.plan = DeviceArray(np.zeros(5))
        if isinstance(plan, NormPlan):
            rows[0] = plan.align
            scales = 2.0**-plan.align_shift, float(plan.centred), plan.reciprocal, 2.0**-plan.reciprocal_shift
            self.plan = DeviceArray(np.array([*scales, plan.eps], np.float64))
        self.channel = DeviceArray(np.stack(rows).astype(np.float64))


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, offset: Tensor, constants: NormConstants, eps: float, centred: bool
    ) -> Tensor:
        out, inside = NORM(x.detach(), *_constants(constants, x), True)
        ctx.save_for_backward(inside, x, gain)
        ctx.eps, ctx.centred = eps, centred
        return torch.as_tensor(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inside, x, gain = ctx.saved_tensors
        return *NORM_BACKWARD(grads[0], inside, x, gain, ctx.eps, ctx.centred), None, None, None


def _constants(constants: NormConstants, x: Tensor) -> tuple[Tensor, ...]:
    own = constants.source, constants.channel, constants.plan, TABLE, constants.grid
    return tuple(array.on(x.device) for array in own)


def normalize(
    x: Tensor, gain: Tensor, offset: Tensor, constants: NormConstants, eps: float, *, centred: bool
) -> Tensor:
    """The norm of x (..., channels) by its plan's integers; gain, offset (channels,) are what the plan was made
    of, for the gradient."""
    rows = rows_of(x)
    if trained(x, gain, offset):
        out: Tensor = _Norm.apply(rows, gain, offset, constants, eps, centred)  # type: ignore[no-untyped-call]
    else:
        out = NORM(rows, *_constants(constants, x), False)[0]
    return from_rows(out, x.shape)


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, offset: Tensor, constants: NormConstants) -> Tensor:
        source, channel, _, _, grid = _constants(constants, x)
        out, inside = AFFINE(x.detach(), source, channel, grid, True)
        ctx.save_for_backward(inside, x, gain.detach())
        return torch.as_tensor(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *AFFINE_BACKWARD(grads[0], *ctx.saved_tensors), None


def affine(x: Tensor, gain: Tensor, offset: Tensor, constants: NormConstants) -> Tensor:
    """gain x + offset for x (..., channels) by its plan's integers; as `normalize`."""
    rows = rows_of(x)
    if trained(x, gain, offset):
        out: Tensor = _Affine.apply(rows, gain, offset, constants)  # type: ignore[no-untyped-call]
    else:
        source, channel, _, _, grid = _constants(constants, x)
        out = AFFINE(rows, source, channel, grid, False)[0]
    return from_rows(out, x.shape)
