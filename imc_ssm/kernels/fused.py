"""What a fused backend computes itself as one operation that PyTorch trains through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Scan", "run"]


class Scan(Protocol):
    """A scan with its coefficients and its initial state."""

    def forward(self, u: Tensor, trained: bool) -> tuple[Tensor, Tensor, Any]:
        """y of u, both (batch, head, time), the last state, and what `backward` needs besides u."""

    def backward(self, u: Tensor, grad: Tensor, kept: Any, clamp: float | None) -> Sequence[Tensor | None]:
        """Gradients of u, a, b and c from that of y; None where a coefficient is the constant 1."""


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, a: Tensor, b: Tensor | None, c: Tensor | None, scan: Scan, clamp: float | None
    ) -> tuple[Tensor, Tensor]:
        signal = u.detach().contiguous()
        y, last, ctx.kept = scan.forward(signal, any(ctx.needs_input_grad))
        ctx.save_for_backward(signal)
        ctx.scan, ctx.clamp = scan, clamp
        ctx.mark_non_differentiable(last)
        return y, last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (signal,) = ctx.saved_tensors
        return *ctx.scan.backward(signal, grads[0].contiguous(), ctx.kept, ctx.clamp), None, None


def run(
    scan: Scan, u: Tensor, a: Tensor, b: Tensor | None, c: Tensor | None, clamp: float | None
) -> tuple[Tensor, Tensor]:
    """y and the last state, which has no gradient; a, b, c are those that the scan was made of."""
    y, last = _Fused.apply(u, a, b, c, scan, clamp)  # type: ignore[no-untyped-call]
    return y, last
