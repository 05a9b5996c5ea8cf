"""An update made ready: planned and rounded once, run on any input; and the operators that run it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imc_ssm.errors import FormatError, ImcSsmError
from imc_ssm.fixedpoint import Format, Noise, ScanFormats, ScanPlan, UnitState, broadcast_heads, plan_scan
from imc_ssm.kernels import cpu, cuda, plain_scan
from imc_ssm.kernels.codes import Coefficient, Tables, draws_of
from imc_ssm.kernels.ends import Ends
from imc_ssm.kernels.grid import DeviceArray
from imc_ssm.kernels.operators import Pass

__all__ = ["Gradients", "Scales", "ScanUnit", "check_coefficients", "check_finite", "run"]

_TABLES = "Tensor k, Tensor g, Tensor inp, Tensor out, int[] how"
SCAN = Pass(
    f"scan(Tensor u, Tensor start, {_TABLES}, int[] draws, bool trained, float clip) -> (Tensor, Tensor, Tensor)",
    plain_scan.scan,
    cpu.scan,
    cuda.scan,
)
SCAN_BACKWARD = Pass(
    f"scan_backward(Tensor u, Tensor start, Tensor grad, Tensor free, {_TABLES}, int[] draws, float bound, "
    "float clip) -> (Tensor, Tensor)",
    plain_scan.scan_backward,
    cpu.scan_backward,
    cuda.scan_backward,
)

Gradients = Callable[[Tensor], list[Tensor | None]]


def check_finite(name: str, x: Tensor, where: str) -> None:
    """`ImcSsmError` where a value of x is not finite."""
    # The sum is one fast pass; it may overflow where x itself is finite.
    x = x.detach()
    if not math.isfinite(float(x.sum())) and not torch.isfinite(x).all():
        raise ImcSsmError(f"{name} is not finite; look at {where}")


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        a: Tensor,
        b: Tensor | None,
        c: Tensor | None,
        start: Tensor,
        tables: Tables,
        draws: list[int],
        clamp: float | None,
        backend: str,
        gradients: Gradients,
    ) -> tuple[Tensor, Tensor]:
        signal = u.detach()
        y, last, free = SCAN.on(backend)(signal, start, *tables.parts, draws, True, tables.clip)
        ctx.save_for_backward(signal, start, free)
        ctx.rest = tables, draws, math.inf if clamp is None else clamp, backend, gradients
        ctx.mark_non_differentiable(last)
        return y, last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        signal, start, free = ctx.saved_tensors
        tables, draws, bound, backend, gradients = ctx.rest
        grad_u, sums = SCAN_BACKWARD.on(backend)(
            signal, start, grads[0].contiguous(), free, *tables.parts, draws, bound, tables.clip
        )
        return grad_u, *gradients(sums), *(None,) * 6


def run(
    u: Tensor,
    leaves: tuple[Tensor, Tensor | None, Tensor | None],
    start: Tensor,
    tables: Tables,
    noise: Noise | None,
    clamp: float | None,
    backend: str,
    gradients: Gradients,
) -> tuple[Tensor, Tensor]:
    """y and the last state, which has no gradient; `leaves` are the a, b, c that the tables were made of."""
    u, draws = u.contiguous(), draws_of(noise)
    if torch.is_grad_enabled() and any(z is not None and z.requires_grad for z in (u, *leaves)):
        y, last = _Scan.apply(u, *leaves, start, tables, draws, clamp, backend, gradients)  # type: ignore[no-untyped-call]
    else:
        y, last, _ = SCAN.on(backend)(u, start, *tables.parts, draws, False, tables.clip)
    return y, last


class ScanUnit:
    """The integer update of a recurrence, its plan, coefficients and tables made once.

    `unit(u, x0)` is `diagonal_scan(u, a, b, c, formats=formats, x0=x0, return_state=True)`, without planning
    again: for coefficients that are not trained, above all in streaming. a, b, c (head, state) complex64; b or c
    None: exactly 1. `state_noise`: the deviation of the noise that calls will bring (`Noise.state`;
    that of the poles is the caller's).

    Raises `ImcSsmError` for coefficients of another shape or dtype, or that are not finite, `FormatError` where
    the formats do not fit.
    """

    def __init__(
        self,
        a: Tensor,
        b: Tensor | None = None,
        c: Tensor | None = None,
        *,
        formats: ScanFormats,
        state_noise: float = 0.0,
    ) -> None:
        check_coefficients(a, b, c, torch.complex64, a.device)
        for name, z in (("b", b), ("c", c)):
            if (z is None) != (getattr(formats, name) is None):
                raise FormatError(f"{name} and formats.{name} must be given together or both be None")
        self.leaves, self.state_noise = (a, b, c), float(state_noise)
        self.plan = plan_scan(formats, a.shape[0], a.shape[1], state_noise)
        of = [Coefficient.of(z, f) for z, f in ((a, formats.a), (b, formats.b), (c, formats.c))]
        self.tables = Tables.integer(self.plan, *of).to(a.device)
        self._ends = Ends(self.plan)
        self._scales = Scales(self.plan, of)

    def __call__(
        self,
        u: Tensor,
        x0: Tensor | UnitState | None = None,
        *,
        noise: Noise | None = None,
        grad_clamp: float | None = None,
        backend: str = "auto",
    ) -> tuple[Tensor, Any]:
        """y (batch, head, time) and the last state, codes or a `UnitState`; u and x0 as `diagonal_scan`.

        Raises `ImcSsmError` for a wrong shape, dtype or value.
        """
        heads, states = self.plan.heads, self.plan.states
        if u.ndim != 3 or u.shape[1] != heads or u.dtype != torch.float32:
            raise ImcSsmError(f"u is {u.dtype} {tuple(u.shape)}; needed is torch.float32 (batch, {heads}, time)")
        check_finite("u", u, "the data or the layer before")
        start, time = self._ends.start(x0, (u.shape[0], heads, states, 2), u.device)
        sigma = 0.0 if noise is None else noise.state
        if noise is not None and sigma != self.state_noise:
            raise FormatError(f"noise of the state {sigma!r}, but the unit was planned for {self.state_noise!r}")
        if noise is not None:
            noise.check(u.shape[0], u.shape[2])
        tables = self.tables.at(time)
        y, last = run(u, self.leaves, start, tables, noise, grad_clamp, backend, self._scales.gradients)
        return y, self._ends.last(last, time + u.shape[2])


class Scales:
    """From sums of real gradients times codes, (part, head, state, 2), to the gradients of a, b and c.

    Codes become real values by their scales; zero where a coefficient saturated, None where it is the constant 1.
    """

    def __init__(self, plan: ScanPlan, coefficients: list[Coefficient]) -> None:
        f = plan.formats

        def spread(fmt: Format) -> NDArray[Any]:
            return np.asarray(broadcast_heads(fmt.scale, 3, 0))

        periods = plan.periods[:, None, None].astype(np.float32)  # codes of u are sums of so many
        scales = [DeviceArray(v) for v in (spread(f.x), spread(f.u) / periods, spread(f.x))]
        self.parts = [
            None if k.lost is None else (scale, DeviceArray(k.lost))
            for k, scale in zip(coefficients, scales, strict=False)
        ]

    def gradients(self, sums: Tensor) -> list[Tensor | None]:
        out: list[Tensor | None] = []
        for total, part in zip(sums, self.parts, strict=True):
            if part is None:
                out.append(None)
                continue
            scale, lost = (constant.on(sums.device) for constant in part)
            real = (total * scale).masked_fill(lost, 0.0).float()
            out.append(torch.view_as_complex(real.contiguous()))
        return out


def check_coefficients(
    a: Tensor, b: Tensor | None, c: Tensor | None, wanted: torch.dtype, device: torch.device
) -> None:
    """Shape, dtype, device and finiteness of a (any shape), b and c."""
    for name, z in (("a", a), ("b", b), ("c", c)):
        if z is None:
            continue
        if z.dtype != wanted:
            raise ImcSsmError(f"{name} has dtype {z.dtype}; with u of {wanted.to_real()} it must be {wanted}")
        if z.shape != a.shape:
            raise ImcSsmError(f"{name} has shape {tuple(z.shape)}; needed is that of a, {tuple(a.shape)}")
        if z.device != device:
            raise ImcSsmError(f"{name} is on {z.device}, u on {device}; move them to one device")
        check_finite(name, torch.view_as_real(z.detach().resolve_conj()), "the learning rate or the checkpoint")
