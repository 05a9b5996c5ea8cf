"""`diagonal_scan`: the one function through which every recurrence passes."""

from __future__ import annotations

from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor

from imc_ssm.errors import ImcSsmError
from imc_ssm.fixedpoint import Noise, ScanFormats, UnitState
from imc_ssm.kernels import cuda, reference
from imc_ssm.kernels.codes import Tables
from imc_ssm.kernels.operators import forced
from imc_ssm.kernels.unit import ScanUnit, check_coefficients, check_finite, run

__all__ = ["Backend", "check_clamp", "check_clip", "check_state", "complex_type", "diagonal_scan"]

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
    x0: Tensor | UnitState | None = ...,
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
    x0: Tensor | UnitState | None = ...,
    return_state: Literal[True],
    noise: Noise | None = ...,
    grad_clamp: float | None = ...,
    state_clip: float | None = ...,
    backend: Backend = ...,
) -> tuple[Tensor, Any]: ...
def diagonal_scan(
    u: Tensor,
    a: Tensor,
    b: Tensor | None = None,
    c: Tensor | None = None,
    *,
    formats: ScanFormats | None = None,
    x0: Tensor | UnitState | None = None,
    return_state: bool = False,
    noise: Noise | None = None,
    grad_clamp: float | None = None,
    state_clip: float | None = None,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, Any]:
    """The diagonal state-space recurrence, full precision or integer.

    x[t] = a x[t-1] + b u[t] (u[t] acts in the same step), x[-1] = x0 or 0; y[t] = 2 Re(sum_n c x[t]).

    u (batch, head, time) float32; a, b, c (head, state) complex64 (float64 / complex128 on the reference);
    b or c None: exactly 1. y (batch, head, time) has u's dtype.

    `formats` None: full precision; x0 and the returned state are complex (batch, head, state). With formats
    the operands become integer codes and the forward is integer, in training too (docs/fixed_point.md, or
    `fixedpoint.ScanPlan`, states the arithmetic); y is dequantized at the end, x0 and the returned state are the
    state's codes (batch, head, state, 2) int32/int64, or, where the formats are `timed`, all that the unit keeps:
    a `fixedpoint.UnitState` of tensors (codes alone are then those of a sequence's beginning). Floats appear in
    the backward pass only: straight-through, zero where a word saturated. The state that a fused backend returns
    carries no gradient.

    `noise`: a' = a + noise.poles |a| (xi_1 + i xi_2) once for the call, and x[t] + noise.state (z_1 + i z_2) in
    every step before it is rounded (`fixedpoint.Noise`: counter-based, equal on every backend; the gradient is
    that of the clean poles). `grad_clamp` bounds, elementwise on real and imaginary parts, the total gradient of
    x[t] before rounding, after the saturation's mask, before it feeds a, b, u and the step before. `state_clip`:
    real and imaginary parts of the full-precision state saturate at +- this value, with zero gradient where they
    do; the bounds of an integer state are those of its format.

    `backend`: "reference" (PyTorch loop, with autograd in full precision), "cpu" (fused, Numba), "cuda" (fused,
    Triton; `pip install "imc-ssm[gpu]"`), "auto": "cuda" where u is on a GPU, "cpu" for float32 on the CPU, else
    the reference. Where coefficients stay, `ScanUnit` runs the same integers without planning in every call.

    Raises `ImcSsmError` for a wrong shape, dtype, a value that is not finite or a backend that cannot run here,
    `FormatError` where the formats do not fit, before any work is done.
    """
    chosen = _chosen(u, x0, formats, backend)
    _check(u, a, b, c)
    check_clamp(grad_clamp)
    if state_clip is not None:
        check_clip(state_clip, formats, x0)
    if noise is not None:
        noise.check(u.shape[0], u.shape[2])
    sigma = noise.state if noise else 0.0
    if noise is not None and noise.poles > 0:
        xi = torch.view_as_complex(torch.from_numpy(noise.of_poles(*a.shape)))
        a = a + (noise.poles * a.abs() * xi.to(a)).detach()
    if formats is not None:
        unit = ScanUnit(a, b, c, formats=formats, state_noise=sigma)
        y, last = unit(u, x0, noise=noise, grad_clamp=grad_clamp, backend=chosen)
        return (y, last) if return_state else y
    if isinstance(x0, UnitState):
        raise ImcSsmError("x0 is the state of an integer unit; give formats, or a complex state")
    check_state(x0, (u.shape[0], *a.shape), a.dtype, chosen)
    one = torch.ones_like(a)
    b, c = (one if z is None else z for z in (b, c))
    if x0 is None:
        x0 = torch.zeros(u.shape[0], *a.shape, dtype=a.dtype, device=a.device)
    if chosen == "reference":
        y, last = reference.scan(u, a, b, c, x0, grad_clamp, noise, state_clip)
    else:
        start = torch.view_as_real(x0.detach().resolve_conj()).contiguous()
        tables = Tables.real(a, b, c, sigma, state_clip)
        y, last = run(u, (a, b, c), start, tables, noise, grad_clamp, chosen, _complex)
        last = torch.view_as_complex(last)
    return (y, last) if return_state else y


def _complex(sums: Tensor) -> list[Tensor | None]:
    """The gradients of a, b and c in full precision."""
    return [torch.view_as_complex(total) for total in sums.float().contiguous()]


def _chosen(u: Tensor, x0: Tensor | UnitState | None, formats: ScanFormats | None, backend: str) -> str:
    """The backend that runs; "auto" leaves it to the operator."""
    if backend not in BACKENDS:
        raise ImcSsmError(f"unknown backend {backend!r}; allowed are {', '.join(map(repr, BACKENDS))}")
    if formats is not None and u.dtype != torch.float32:
        raise ImcSsmError(f"the integer update takes float32, u is {u.dtype}")
    if backend == "auto":
        # The fused backward starts from a constant state: an initial state that is trained takes the loop.
        trained = not u.is_cuda and isinstance(x0, Tensor) and x0.requires_grad
        if formats is None and (u.dtype != torch.float32 or trained or forced()):
            return "reference"
    if backend == "cuda" or (backend == "auto" and u.is_cuda and not forced()):
        cuda.check_available()
        if backend == "cuda" and not u.is_cuda and not cuda.interpreting():
            raise ImcSsmError(
                f"backend 'cuda' takes tensors on a GPU, u is on {u.device}; use u.cuda() or backend='cpu'"
            )
    if backend == "cpu" and (u.dtype != torch.float32 or u.device.type != "cpu"):
        raise ImcSsmError(f"backend 'cpu' takes float32 on the CPU, u is {u.dtype} on {u.device}")
    if backend == "cuda" and u.dtype != torch.float32:
        raise ImcSsmError(f"backend 'cuda' takes float32, u is {u.dtype}")
    return backend


def _check(u: Tensor, a: Tensor, b: Tensor | None, c: Tensor | None) -> None:
    """Shapes, dtypes, devices and finiteness."""
    if u.ndim != 3:
        raise ImcSsmError(f"u has shape {tuple(u.shape)}; needed is (batch, head, time)")
    if a.ndim != 2 or a.shape[0] != u.shape[1]:
        raise ImcSsmError(
            f"a has shape {tuple(a.shape)}, u {tuple(u.shape)}; a is (head, state), u (batch, head, time)"
        )
    check_coefficients(a, b, c, complex_type(u), u.device)
    check_finite("u", u, "the data or the layer before")


def complex_type(u: Tensor, name: str = "u") -> torch.dtype:
    """The dtype of coefficients; `ImcSsmError` for an input that no recurrence takes."""
    wanted = {torch.float32: torch.complex64, torch.float64: torch.complex128}.get(u.dtype)
    if wanted is None:
        raise ImcSsmError(f"{name} has dtype {u.dtype}; allowed are float32, and float64 on the reference")
    return wanted


def check_clamp(grad_clamp: float | None) -> None:
    """`ImcSsmError` for a bound on gradients that is not positive."""
    if grad_clamp is not None and not grad_clamp > 0:
        raise ImcSsmError(f"grad_clamp {grad_clamp!r}; allowed is a positive bound or None")


def check_clip(state_clip: float, formats: ScanFormats | None, x0: Tensor | UnitState | None) -> None:
    """`ImcSsmError` for a bound of the state that is not positive, or that its start is beyond."""
    if not state_clip > 0:
        raise ImcSsmError(f"state_clip {state_clip!r}; allowed is a positive bound or None")
    if formats is not None:
        raise ImcSsmError("state_clip is for full precision; an integer state has the bounds of formats.x")
    if isinstance(x0, Tensor) and torch.any(torch.view_as_real(x0.detach().resolve_conj()).abs() > state_clip):
        raise ImcSsmError(f"x0 holds values outside +- {state_clip}; clip it before")


def check_state(x0: Tensor | None, shape: tuple[int, ...], wanted: torch.dtype, backend: str) -> None:
    """`ImcSsmError` for an initial state in full precision that does not fit."""
    if x0 is None:
        return
    if x0.shape != shape or x0.dtype != wanted:
        raise ImcSsmError(f"x0 is {x0.dtype} {tuple(x0.shape)}; needed is {wanted} {shape}")
    check_finite("x0", torch.view_as_real(x0.detach().resolve_conj()), "where the state comes from")
    if backend != "reference" and x0.requires_grad:
        raise ImcSsmError(
            f"backend {backend!r} has no gradient for x0; use backend='reference' (or 'auto' on the CPU)"
        )
