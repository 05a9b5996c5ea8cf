"""`state_scan`: the recurrence of a layer with many inputs and outputs, whose B and C are matrices outside."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import torch
from torch import Tensor

from imc_ssm.errors import FormatError, ImcSsmError
from imc_ssm.fixedpoint import ScanFormats, UnitState, plan_scan
from imc_ssm.kernels import plain_scan, reference, states
from imc_ssm.kernels.codes import Coefficient, Tables
from imc_ssm.kernels.ends import Ends
from imc_ssm.kernels.operators import Pass, forced
from imc_ssm.kernels.scan import BACKENDS, Backend, check_clamp, check_clip, check_state, complex_type
from imc_ssm.kernels.unit import Gradients, Scales, check_coefficients, check_finite

__all__ = ["StateScanUnit", "state_scan"]

_TABLES = "Tensor k, Tensor g, Tensor inp, Tensor out, int[] how"
STATE_SCAN = Pass(
    f"state_scan(Tensor v, Tensor start, {_TABLES}, float clip) -> (Tensor, Tensor)",
    plain_scan.state_scan,
    states.state_scan,
)
STATE_SCAN_BACKWARD = Pass(
    f"state_scan_backward(Tensor v, Tensor start, Tensor grad, {_TABLES}, float bound, float clip)"
    " -> (Tensor, Tensor)",
    plain_scan.state_scan_backward,
    states.state_scan_backward,
)


class _StateScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        v: Tensor,
        a: Tensor,
        b: Tensor | None,
        start: Tensor,
        tables: Tables,
        clamp: float | None,
        backend: str,
        gradients: Gradients,
    ) -> tuple[Tensor, Tensor]:
        x, last = STATE_SCAN.on(backend)(v.detach(), start, *tables.parts, tables.clip)
        ctx.save_for_backward(v.detach(), start)
        ctx.rest = tables, math.inf if clamp is None else clamp, backend, gradients
        ctx.mark_non_differentiable(last)
        return x, last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        v, start = ctx.saved_tensors
        tables, bound, backend, gradients = ctx.rest
        ends = bound, tables.clip
        to_v, sums = STATE_SCAN_BACKWARD.on(backend)(v, start, grads[0].contiguous(), *tables.parts, *ends)
        of_a, of_b = (None if z is None else z[:, 0] for z in gradients(sums))
        return to_v, of_a, of_b, *(None,) * 5


def _run(
    v: Tensor,
    leaves: tuple[Tensor, Tensor | None],
    start: Tensor,
    tables: Tables,
    clamp: float | None,
    backend: str,
    gradients: Gradients,
) -> tuple[Tensor, Tensor]:
    """x and the last state (batch, state, 1, 2), which has no gradient."""
    v = v.contiguous()
    if torch.is_grad_enabled() and any(z is not None and z.requires_grad for z in (v, *leaves)):
        x, last = _StateScan.apply(v, *leaves, start, tables, clamp, backend, gradients)  # type: ignore[no-untyped-call]
    else:
        x, last = STATE_SCAN.on(backend)(v, start, *tables.parts, tables.clip)
    return x, last


class StateScanUnit:
    """The integer update of `state_scan`, its plan, coefficients and tables made once (as `ScanUnit`).

    `unit(v, x0)` is `state_scan(v, a, b, formats=formats, x0=x0, return_state=True)`. Raises as `state_scan`.
    """

    def __init__(self, a: Tensor, b: Tensor | None = None, *, formats: ScanFormats) -> None:
        if a.ndim != 1:
            raise ImcSsmError(f"a has shape {tuple(a.shape)}; needed is (state,)")
        check_coefficients(a, b, None, torch.complex64, a.device)
        if (b is None) != (formats.b is None):
            raise FormatError("b and formats.b must be given together or both be None")
        if formats.c is not None or formats.y is not None:
            raise FormatError("the states are the output: formats.c and formats.y must be None")
        self.leaves = (a, b)
        self.plan = plan_scan(formats, len(a), 1, complex_drive=True)
        of = [Coefficient.of(None if z is None else z[:, None], f) for z, f in ((a, formats.a), (b, formats.b))]
        tables = Tables.integer(self.plan, of[0], of[1], Coefficient(None))
        # What goes out is the stored state in its real units.
        tables.out[:, 3] = torch.as_tensor(formats.x.scale).double()
        self.tables = tables.to(a.device)
        self._ends, self._scales = Ends(self.plan), Scales(self.plan, of)

    def __call__(
        self,
        v: Tensor,
        x0: Tensor | UnitState | None = None,
        *,
        grad_clamp: float | None = None,
        backend: str = "auto",
    ) -> tuple[Tensor, Any]:
        """x (batch, 2, state, time) and the last state's codes (batch, state, 2), or a `UnitState` of such."""
        count = self.plan.heads
        if v.ndim != 4 or v.shape[1:3] != (2, count) or v.dtype != torch.float32:
            raise ImcSsmError(
                f"v is {v.dtype} {tuple(v.shape)}; needed is torch.float32 (batch, 2, {count}, time)"
            )
        check_finite("v", v, "the data or the layer before")
        start, time = self._ends.start(x0, (v.shape[0], count, 2), v.device, 1)
        tables = self.tables.at(time)
        x, last = _run(v, self.leaves, start, tables, grad_clamp, backend, self._scales.gradients)
        return x, self._ends.last(last, time + v.shape[3], alone=True)


@overload
def state_scan(
    v: Tensor,
    a: Tensor,
    b: Tensor | None = ...,
    *,
    formats: ScanFormats | None = ...,
    x0: Tensor | UnitState | None = ...,
    return_state: Literal[False] = ...,
    grad_clamp: float | None = ...,
    state_clip: float | None = ...,
    backend: Backend = ...,
) -> Tensor: ...
@overload
def state_scan(
    v: Tensor,
    a: Tensor,
    b: Tensor | None = ...,
    *,
    formats: ScanFormats | None = ...,
    x0: Tensor | UnitState | None = ...,
    return_state: Literal[True],
    grad_clamp: float | None = ...,
    state_clip: float | None = ...,
    backend: Backend = ...,
) -> tuple[Tensor, Any]: ...
def state_scan(
    v: Tensor,
    a: Tensor,
    b: Tensor | None = None,
    *,
    formats: ScanFormats | None = None,
    x0: Tensor | UnitState | None = None,
    return_state: bool = False,
    grad_clamp: float | None = None,
    state_clip: float | None = None,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, Any]:
    """The diagonal recurrence of a complex vector, full precision or integer; its states are the output.

    x[t] = a x[t-1] + b v[t] (v[t] acts in the same step), x[-1] = x0 or 0.

    v, x (batch, 2, state, time) float32, axis 1 the real and the imaginary part: as an activation (batch, time, 2
    state) lies in memory, real parts first. a, b (state,) complex64 (float64 / complex128 on the reference); b
    None: exactly 1.

    `formats` None: full precision; x0 and the returned state are complex (batch, state). With formats (of a, b, u
    for v, and x; per tensor or per state) the forward is integer, in training too (docs/fixed_point.md, section
    11); x is dequantized at the end, x0 and the returned state are codes (batch, state, 2). Gradients,
    `grad_clamp` and `state_clip` as in `diagonal_scan`; the state that a fused backend returns has none.

    `backend`: "cpu" (fused, Numba), "reference" (PyTorch loop), "cuda" (the reference, on the GPU), "auto": "cpu"
    for float32 on the CPU, else the reference.

    Raises `ImcSsmError` for a wrong shape, dtype or a value that is not finite, `FormatError` where the formats do
    not fit, before any work is done.
    """
    if backend not in BACKENDS:
        raise ImcSsmError(f"unknown backend {backend!r}; allowed are {', '.join(map(repr, BACKENDS))}")
    if v.ndim != 4 or v.shape[1] != 2:
        raise ImcSsmError(f"v has shape {tuple(v.shape)}; needed is (batch, 2, state, time)")
    if a.ndim != 1 or len(a) != v.shape[2]:
        raise ImcSsmError(
            f"a has shape {tuple(a.shape)}, v {tuple(v.shape)}; a is (state,), v (batch, 2, state, time)"
        )
    if backend in ("cpu", "cuda") and (v.device.type != backend or v.dtype != torch.float32):
        raise ImcSsmError(f"backend {backend!r} takes float32 on its device, v is {v.dtype} on {v.device}")
    check_coefficients(a, b, None, complex_type(v, "v"), v.device)
    check_finite("v", v, "the data or the layer before")
    check_clamp(grad_clamp)
    if state_clip is not None:
        check_clip(state_clip, formats, x0)
    if formats is not None:
        x, last = StateScanUnit(a, b, formats=formats)(v, x0, grad_clamp=grad_clamp, backend=backend)
        return (x, last) if return_state else x
    if isinstance(x0, UnitState):
        raise ImcSsmError("x0 is the state of an integer unit; give formats, or a complex state")
    trained = x0 is not None and x0.requires_grad
    looped = backend == "reference" or (
        backend == "auto" and (trained or v.dtype != torch.float32 or v.device.type != "cpu" or forced())
    )
    check_state(x0, (len(v), len(a)), a.dtype, "reference" if looped else backend)
    b = torch.ones_like(a) if b is None else b
    if x0 is None:
        x0 = torch.zeros(len(v), len(a), dtype=a.dtype, device=a.device)
    if looped:
        x, last = reference.states(v, a, b, x0, grad_clamp, state_clip)
    else:
        tables = Tables.real(a[:, None], b[:, None], torch.ones_like(a)[:, None], 0.0, state_clip)
        tables.out[:, 3] = 1.0
        start = torch.view_as_real(x0.detach().resolve_conj())[:, :, None].contiguous()
        x, last = _run(v, (a, b), start, tables, grad_clamp, backend, _complex)
        last = torch.view_as_complex(last)[:, :, 0]
    return (x, last) if return_state else x


def _complex(sums: Tensor) -> list[Tensor | None]:
    """The gradients of a and b in full precision."""
    return [torch.view_as_complex(total) for total in sums.float().contiguous()]
