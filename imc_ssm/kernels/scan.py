"""`diagonal_scan`: the one function through which every recurrence passes."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Literal, get_args, overload

import torch
from torch import Tensor

from imc_ssm.errors import FormatError, ImcSsmError
from imc_ssm.fixedpoint import Noise, ScanFormats, broadcast_heads, plan_scan, scan_codes
from imc_ssm.kernels import reference
from imc_ssm.kernels.codes import codes_of, input_codes, pair

__all__ = ["Backend", "diagonal_scan"]

Backend = Literal["auto", "reference", "cpu", "cuda"]
BACKENDS: tuple[str, ...] = get_args(Backend)


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
    noise: Noise | None = ...,
    grad_clamp: float | None = ...,
    state_clip: float | None = ...,
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
    noise: Noise | None = ...,
    grad_clamp: float | None = ...,
    state_clip: float | None = ...,
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
    noise: Noise | None = None,
    grad_clamp: float | None = None,
    state_clip: float | None = None,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The diagonal state-space recurrence, full precision or integer.

    x[t] = a x[t-1] + b u[t] (u[t] acts in the same step), x[-1] = x0 or 0; y[t] = 2 Re(sum_n c x[t]).

    u (batch, head, time) float32; a, b, c (head, state) complex64 (float64 / complex128 on the reference);
    b or c None: exactly 1. y (batch, head, time) has u's dtype.

    `formats` None: full precision; x0 and the returned state are complex (batch, head, state). With formats
    the operands become integer codes and the forward is integer, in training too (docs/fixed_point.md, or
    `fixedpoint.ScanPlan`, states the arithmetic); y is dequantized at the end, x0 and the returned state are the
    state's codes (batch, head, state, 2) int32/int64. Floats appear in the backward pass only: straight-through,
    zero where a word saturated. The state that a fused backend returns carries no gradient.

    `noise`: a' = a + noise.poles |a| (xi_1 + i xi_2) once for the call, and x[t] + noise.state (z_1 + i z_2) in
    every step before it is rounded (`fixedpoint.Noise`: counter-based, equal on every backend; the gradient is
    that of the clean poles). `grad_clamp` bounds, elementwise on real and imaginary parts, the total gradient of
    x[t] before rounding, after the saturation's mask, before it feeds a, b, u and the step before. `state_clip`:
    real and imaginary parts of the full-precision state saturate at +- this value, with zero gradient where they
    do; the bounds of an integer state are those of its format.

    `backend`: "reference" (PyTorch loop; with formats the int64 NumPy oracle, forward only), "cpu" (fused, Numba),
    "cuda" (fused, Triton; `pip install "imc-ssm[gpu]"`), "auto": "cuda" where u is on a GPU, "cpu" for float32 on
    the CPU, else the reference.

    Raises `ImcSsmError` for a wrong shape, dtype, a value that is not finite or a backend that cannot run here,
    `FormatError` where the formats do not fit, before any work is done.
    """
    chosen = _chosen(u, x0, formats, backend)
    _check(u, a, b, c, x0, formats, chosen)
    if grad_clamp is not None and not grad_clamp > 0:
        raise ImcSsmError(f"grad_clamp {grad_clamp!r}; allowed is a positive bound or None")
    if state_clip is not None:
        _check_clip(state_clip, formats, x0)
    if noise is not None:
        noise.check(u.shape[0], u.shape[2])
    if noise is not None and noise.poles > 0:
        xi = torch.view_as_complex(torch.from_numpy(noise.of_poles(*a.shape)))
        a = a + (noise.poles * a.abs() * xi.to(a)).detach()
    if formats is not None and chosen == "reference":
        y, last = _oracle(u, a, b, c, formats, x0, noise)
    elif formats is not None:
        y, last = _fused(chosen).scan_integer(u, a, b, c, formats, x0, grad_clamp, noise)
    else:
        one = torch.ones_like(a)
        b, c = (one if z is None else z for z in (b, c))
        if x0 is None:
            x0 = torch.zeros(u.shape[0], *a.shape, dtype=a.dtype, device=a.device)
        scan = reference.scan if chosen == "reference" else _fused(chosen).scan_real
        y, last = scan(u, a, b, c, x0, grad_clamp, noise, state_clip)
    return (y, last) if return_state else y


def _fused(backend: str) -> ModuleType:
    """The module of a fused backend, imported when it is first used."""
    return import_module(f"imc_ssm.kernels.{backend}")


def _chosen(u: Tensor, x0: Tensor | None, formats: ScanFormats | None, backend: str) -> str:
    """The backend that runs."""
    if backend not in BACKENDS:
        raise ImcSsmError(f"unknown backend {backend!r}; allowed are {', '.join(map(repr, BACKENDS))}")
    if backend == "auto":
        if u.is_cuda:
            backend = "cuda"
        else:
            # The fused backward starts from a constant state: an initial state that is trained takes the loop.
            trained = x0 is not None and x0.requires_grad
            backend = "cpu" if u.dtype == torch.float32 and not trained else "reference"
    if backend == "cuda":
        _fused("cuda").check_available()
    if backend == "cpu" and (u.dtype != torch.float32 or u.device.type != "cpu"):
        raise ImcSsmError(f"backend 'cpu' takes float32 on the CPU, u is {u.dtype} on {u.device}")
    if backend == "cuda" and u.dtype != torch.float32:
        raise ImcSsmError(f"backend 'cuda' takes float32, u is {u.dtype}")
    if formats is not None and (u.dtype != torch.float32 or (backend == "reference" and u.is_cuda)):
        raise ImcSsmError(
            f"the integer update takes float32 (its reference on the CPU), u is {u.dtype} on {u.device}"
        )
    return backend


def _oracle(
    u: Tensor,
    a: Tensor,
    b: Tensor | None,
    c: Tensor | None,
    formats: ScanFormats,
    x0: Tensor | None,
    noise: Noise | None,
) -> tuple[Tensor, Tensor]:
    """The int64 oracle behind the same face; it has no gradient."""
    if torch.is_grad_enabled() and any(z is not None and z.requires_grad for z in (u, a, b, c)):
        raise ImcSsmError("the integer reference has no gradient; use backend='cpu' or torch.no_grad()")
    plan = plan_scan(formats, a.shape[0], a.shape[1], noise.state if noise else 0.0)
    coded = [
        None if z is None or f is None else codes_of(pair(z), f)[0]
        for z, f in ((a, formats.a), (b, formats.b), (c, formats.c))
    ]
    assert coded[0] is not None
    start = None if x0 is None else x0.numpy()
    y, last, _ = scan_codes(plan, input_codes(u.numpy(), plan), coded[0], coded[1], coded[2], start, noise)
    if formats.y is not None:
        real = formats.y.dequantize(y, head_axis=1)
    else:
        real = plan.sum_scale[:, None] * y
    return torch.from_numpy(real).to(u.dtype), torch.from_numpy(last)


def _check(
    u: Tensor,
    a: Tensor,
    b: Tensor | None,
    c: Tensor | None,
    x0: Tensor | None,
    formats: ScanFormats | None,
    backend: str,
) -> None:
    """Shapes, dtypes, devices and finiteness."""
    if u.ndim != 3:
        raise ImcSsmError(f"u has shape {tuple(u.shape)}; needed is (batch, head, time)")
    if a.ndim != 2 or a.shape[0] != u.shape[1]:
        raise ImcSsmError(
            f"a has shape {tuple(a.shape)}, u {tuple(u.shape)}; a is (head, state), u (batch, head, time)"
        )
    wanted = {torch.float32: torch.complex64, torch.float64: torch.complex128}.get(u.dtype)
    if wanted is None:
        raise ImcSsmError(f"u has dtype {u.dtype}; allowed are float32, and float64 on the reference")
    for name, z in (("a", a), ("b", b), ("c", c)):
        if z is None:
            continue
        if z.dtype != wanted:
            raise ImcSsmError(f"{name} has dtype {z.dtype}; with u of {u.dtype} it must be {wanted}")
        if z.shape != a.shape:
            raise ImcSsmError(f"{name} has shape {tuple(z.shape)}; needed is that of a, {tuple(a.shape)}")
        if z.device != u.device:
            raise ImcSsmError(f"{name} is on {z.device}, u on {u.device}; move them to one device")
        if not torch.isfinite(torch.view_as_real(z.detach().resolve_conj())).all():
            raise ImcSsmError(f"{name} is not finite; look at the learning rate or the checkpoint")
    # The sum is one fast pass; it may overflow where u itself is finite.
    if not torch.isfinite(u.detach().sum()) and not torch.isfinite(u.detach()).all():
        raise ImcSsmError("u is not finite; look at the data or the layer before")
    if formats is not None:
        for name, z in (("b", b), ("c", c)):
            if (z is None) != (getattr(formats, name) is None):
                raise FormatError(f"{name} and formats.{name} must be given together or both be None")
    if x0 is not None:
        _check_state(x0, (u.shape[0], *a.shape), wanted, formats, backend)


def _check_clip(state_clip: float, formats: ScanFormats | None, x0: Tensor | None) -> None:
    if not state_clip > 0:
        raise ImcSsmError(f"state_clip {state_clip!r}; allowed is a positive bound or None")
    if formats is not None:
        raise ImcSsmError("state_clip is for full precision; an integer state has the bounds of formats.x")
    if x0 is not None and torch.any(torch.view_as_real(x0.detach().resolve_conj()).abs() > state_clip):
        raise ImcSsmError(f"x0 holds values outside +- {state_clip}; clip it before")


def _check_state(
    x0: Tensor, shape: tuple[int, ...], wanted: torch.dtype, formats: ScanFormats | None, backend: str
) -> None:
    if formats is None:
        if x0.shape != shape or x0.dtype != wanted:
            raise ImcSsmError(f"x0 is {x0.dtype} {tuple(x0.shape)}; needed is {wanted} {shape}")
        if not torch.isfinite(torch.view_as_real(x0.detach().resolve_conj())).all():
            raise ImcSsmError("x0 is not finite; start from None or from a finite state")
        if backend != "reference" and x0.requires_grad:
            raise ImcSsmError(
                f"backend {backend!r} has no gradient for x0; use backend='reference' (or 'auto' on the CPU)"
            )
        return
    if x0.shape != (*shape, 2) or x0.dtype not in (torch.int32, torch.int64):
        raise ImcSsmError(f"x0 is {x0.dtype} {tuple(x0.shape)}; needed are integer codes {(*shape, 2)}")
    low, high = (torch.from_numpy(broadcast_heads(v, 4, 1)).to(x0.device) for v in (formats.x.low, formats.x.high))
    if torch.any((x0 < low) | (x0 > high)):
        raise FormatError(f"x0 holds codes outside its format of {formats.x.bits} bits")
