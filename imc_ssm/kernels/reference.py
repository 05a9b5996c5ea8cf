"""The plain PyTorch loop over time: the oracle of full precision, in float32 or float64, with autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from imc_ssm.fixedpoint import Noise
from imc_ssm.fixedpoint.normal import GAUSSIAN_ONE

__all__ = ["scan", "states"]


def scan(
    u: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    x0: Tensor,
    grad_clamp: float | None,
    noise: Noise | None = None,
    state_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """x[t] = a x[t-1] + b u[t] + noise.state z[t]; y[t] = 2 Re(sum_n c x[t]).

    u (batch, head, time) real; a, b, c (head, state) and x0 (batch, head, state) complex of the same
    precision. `grad_clamp` bounds, elementwise on real and imaginary parts, the total gradient of x[t], and
    `state_clip` x[t] itself. Returns y (batch, head, time) and the last state.
    """
    x = x0
    outputs = []
    for t in range(u.shape[-1]):
        x = a * x + b * u[..., t, None]
        if noise is not None and noise.state > 0:
            z = torch.from_numpy(noise.of_state(len(u), a.shape[0], a.shape[1], t) / GAUSSIAN_ONE)
            x = x + noise.state * torch.view_as_complex(z).to(x)
        if grad_clamp is not None:
            x = _ClampGradient.apply(x, grad_clamp)  # type: ignore[no-untyped-call]
        if state_clip is not None:
            x = torch.view_as_complex(torch.view_as_real(x).clamp(-state_clip, state_clip))
        outputs.append(2.0 * (c * x).real.sum(-1))
    return torch.stack(outputs, dim=-1), x


def states(
    v: Tensor, a: Tensor, b: Tensor, x0: Tensor, grad_clamp: float | None, state_clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """x[t] = a x[t-1] + b v[t], and the last; v, x (batch, 2, state, time), a, b (state,), x0 (batch, state)."""
    x, outputs = x0, []
    for t in range(v.shape[-1]):
        x = a * x + b * torch.complex(v[:, 0, :, t], v[:, 1, :, t])
        if grad_clamp is not None:
            x = _ClampGradient.apply(x, grad_clamp)  # type: ignore[no-untyped-call]
        if state_clip is not None:
            x = torch.view_as_complex(torch.view_as_real(x).clamp(-state_clip, state_clip))
        outputs.append(torch.view_as_real(x).transpose(1, 2))
    return torch.stack(outputs, dim=-1) if outputs else torch.zeros_like(v), x


class _ClampGradient(torch.autograd.Function):
    """Identity forwards; clamps the real and imaginary parts of the gradient backwards."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, bound: float) -> Tensor:
        ctx.bound = bound  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        bound: float = ctx.bound  # type: ignore[attr-defined]
        return torch.view_as_complex(torch.view_as_real(grads[0].resolve_conj()).clamp(-bound, bound)), None
