"""Temporary."""

import torch

from imc_ssm.recurrence import diagonal_scan

__all__ = ["diagonal_scan", "state_scan"]


def state_scan(
    v, a, b=None, *, formats=None, x0=None, return_state=False, grad_clamp=None, state_clip=None, backend="auto"
):  # noqa
    assert formats is None
    x = torch.zeros(len(v), len(a), dtype=a.dtype) if x0 is None else x0
    out = []
    for t in range(v.shape[-1]):
        x = a * x + (1 if b is None else b) * torch.complex(v[:, 0, :, t], v[:, 1, :, t])
        out.append(x)
    y = torch.stack(out, -1)
    y = torch.stack([y.real, y.imag], 1)
    return (y, x) if return_state else y
