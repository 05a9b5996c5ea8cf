"""`diagonal_scan`: the one function through which every recurrence passes."""

from __future__ import annotations

from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor

from imc_ssm.errors import FormatError, ImcSsmError
from imc_ssm.fixedpoint import ScanFormats, plan_scan, scan_codes
from imc_ssm.recurrence import reference

__all__ = ["Backend", "diagonal_scan"]

Backend = Literal["auto", "reference", "cpu"]


@overload
def diagonal_scan(
    u: Tensor,
    a: Tensor,
    b: Tensor | None = ...,
    c: Tensor | None = ...,
    *,
    formats: ScanFormats | None = ...,
    x0: Tensor | None = ...,
    return_state: Literal[False] = ...,
    grad_clamp: float | None = ...,
    backend: Backend = ...,
) -> Tensor: ...
@overload
def diagonal_scan(
    u: Tensor,
    a: Tensor,
    b: Tensor | None = ...,
    c: Tensor | None = ...,
    *,
    formats: ScanFormats | None = ...,
    x0: Tensor | None = ...,
    return_state: Literal[True],
    grad_clamp: float | None = ...,
    backend: Backend = ...,
) -> tuple[Tensor, Tensor]: ...
def diagonal_scan(
    u: Tensor,
    a: Tensor,
    b: Tensor | None = None,
    c: Tensor | None = None,
    *,
    formats: ScanFormats | None = None,
    x0: Tensor | None = None,
    return_state: bool = False,
    grad_clamp: float | None = None,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The diagonal state-space recurrence, full precision or integer.

    x[t] = a x[t-1] + b u[t] (u[t] acts in the same step), x[-1] = x0 or 0; y[t] = 2 Re(sum_n c x[t]).

    u (batch, head, time) float32; a, b, c (head, state) complex64 (float64 / complex128 on the reference);
    b or c None: exactly 1. y (batch, head, time) has u's dtype.

    `formats` None: full precision; x0 and the returned state are complex (batch, head, state). With formats
    the operands become integer codes and the forward is integer, in training too (`fixedpoint.ScanPlan`
    states the arithmetic); y is dequantised at the end, x0 and the returned state are the state's codes
    (batch, head, state, 2) int32/int64. Floats appear in the backward pass only: straight-through, zero where
    a word saturated. The state that "cpu" returns carries no gradient. `grad_clamp` bounds, elementwise on
    real and imaginary parts, the total gradient of x[t] before it feeds a, b, u and the step before.

    `backend`: "reference" (PyTorch loop; with formats the int64 NumPy oracle, forward only), "cpu" (fused),
    "auto" (cpu for float32 on the CPU, else the reference).

    Raises `ImcSsmError` for a wrong shape, dtype or a non-finite coefficient, `FormatError` where the formats
    do not fit, before any work is done.
    """
    b_, c_, x0_ = _checked(u, a, b, c, x0, formats, backend)
    if backend == "auto":
        fast = u.device.type == "cpu" and u.dtype == torch.float32
        if not fast and formats is not None:
            raise ImcSsmError(
                f"the integer update takes float32 on the CPU, u is {u.dtype} on {u.device}; convert it first"
            )
        # The fused backward starts from a constant state: an initial state that is trained takes the loop.
        trained = x0_ is not None and x0_.requires_grad
        backend = "cpu" if fast and not trained else "reference"
    if formats is not None and backend == "reference":
        y, last = _oracle(u, a, b_, c_, formats, x0_)
    elif formats is not None:
        from imc_ssm.recurrence import cpu

        y, last = cpu.scan_integer(u, a, b_, c_, formats, x0_, grad_clamp)
    else:
        one = torch.ones_like(a)
        b_, c_ = (one if z is None else z for z in (b_, c_))
        if x0_ is None:
            x0_ = torch.zeros(u.shape[0], *a.shape, dtype=a.dtype, device=a.device)
        if backend == "cpu":
            from imc_ssm.recurrence import cpu

            y, last = cpu.scan_real(u, a, b_, c_, x0_, grad_clamp)
        else:
            y, last = reference.scan(u, a, b_, c_, x0_, grad_clamp)
    return (y, last) if return_state else y


def _oracle(
    u: Tensor, a: Tensor, b: Tensor | None, c: Tensor | None, formats: ScanFormats, x0: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The int64 oracle behind the same face; it has no gradient."""
    from imc_ssm.recurrence.codes import codes_of, input_codes, pair

    if torch.is_grad_enabled() and any(z is not None and z.requires_grad for z in (u, a, b, c)):
        raise ImcSsmError("the integer reference has no gradient; use backend='cpu' or torch.no_grad()")
    plan = plan_scan(formats, *a.shape)
    u_codes = input_codes(u.float(), plan).astype(np.int64)
    coded = [
        None if z is None or f is None else codes_of(pair(z), f)[0]
        for z, f in ((a, formats.a), (b, formats.b), (c, formats.c))
    ]
    assert coded[0] is not None
    y, last, _ = scan_codes(plan, u_codes, coded[0], coded[1], coded[2], None if x0 is None else x0.numpy())
    if formats.y is not None:
        real = formats.y.dequantise(y, head_axis=1)
    else:
        real = plan.sum_scale[:, None] * y
    return torch.from_numpy(real).to(u.dtype), torch.from_numpy(last)


def _checked(
    u: Tensor,
    a: Tensor,
    b: Tensor | None,
    c: Tensor | None,
    x0: Tensor | None,
    formats: ScanFormats | None,
    backend: str,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Shapes, dtypes and finiteness; b, c broadcast to a's shape."""
    if backend not in ("auto", "reference", "cpu"):
        raise ImcSsmError(f"unknown backend {backend!r}; allowed are 'auto', 'reference', 'cpu'")
    if u.ndim != 3:
        raise ImcSsmError(f"u has shape {tuple(u.shape)}; needed is (batch, head, time)")
    if a.ndim != 2 or a.shape[0] != u.shape[1]:
        raise ImcSsmError(
            f"a has shape {tuple(a.shape)}, u {tuple(u.shape)}; a is (head, state), u (batch, head, time)"
        )
    wanted = {torch.float32: torch.complex64, torch.float64: torch.complex128}.get(u.dtype)
    if wanted is None:
        raise ImcSsmError(f"u has dtype {u.dtype}; allowed are float32, and float64 on the reference")
    if backend == "cpu" and (u.dtype != torch.float32 or u.device.type != "cpu"):
        raise ImcSsmError(f"backend 'cpu' takes float32 on the CPU, u is {u.dtype} on {u.device}")
    for name, z in (("a", a), ("b", b), ("c", c)):
        if z is None:
            continue
        if z.dtype != wanted:
            raise ImcSsmError(f"{name} has dtype {z.dtype}; with u of {u.dtype} it must be {wanted}")
        if z.shape != a.shape:
            raise ImcSsmError(f"{name} has shape {tuple(z.shape)}; needed is that of a, {tuple(a.shape)}")
        if not torch.isfinite(torch.view_as_real(z.detach().resolve_conj())).all():
            raise ImcSsmError(f"{name} is not finite; look at the learning rate or the checkpoint")
    if not torch.isfinite(u.detach().sum()):
        raise ImcSsmError("u is not finite; look at the data or the layer before")
    if formats is not None:
        for name, z in (("b", b), ("c", c)):
            if (z is None) != (getattr(formats, name) is None):
                raise FormatError(f"{name} and formats.{name} must be given together or both be None")
    if x0 is not None:
        shape = (u.shape[0], *a.shape)
        if formats is None and (x0.shape != shape or x0.dtype != wanted):
            raise ImcSsmError(f"x0 is {x0.dtype} {tuple(x0.shape)}; needed is {wanted} {shape}")
        if formats is None and backend == "cpu" and x0.requires_grad:
            raise ImcSsmError("backend 'cpu' has no gradient for x0; use backend='reference' (or 'auto')")
        if formats is not None and (x0.shape != (*shape, 2) or x0.dtype not in (torch.int32, torch.int64)):
            raise ImcSsmError(f"x0 is {x0.dtype} {tuple(x0.shape)}; needed are integer codes {(*shape, 2)}")
        if formats is not None:
            low, high = (torch.as_tensor(v).reshape(-1, 1, 1) for v in (formats.x.low, formats.x.high))
            if torch.any((x0 < low) | (x0 > high)):
                raise FormatError(f"x0 holds codes outside its format of {formats.x.bits} bits")
    return b, c, x0
