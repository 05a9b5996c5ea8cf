"""An update made ready: planned and rounded once, run on any input; and the operators that run it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
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
from imc_ssm.kernels.learned import CALIBRATED, Ranges, dots
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
OfRanges = Callable[[Tensor, Tensor, int], tuple[Tensor | None, Tensor | None]]
"""From the sums for a, b and c, sums of the gradient times y, and the steps, to the gradients of ranges."""


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
        of_x: Tensor | None,
        of_y: Tensor | None,
        start: Tensor,
        tables: Tables,
        draws: list[int],
        clamp: float | None,
        backend: str,
        gradients: Gradients,
        of_ranges: OfRanges | None,
    ) -> tuple[Tensor, Tensor]:
        signal = u.detach()
        y, last, free = SCAN.on(backend)(signal, start, *tables.parts, draws, True, tables.clip)
        ctx.save_for_backward(signal, start, free, *(() if of_ranges is None else (y,)))
        ctx.rest = tables, draws, math.inf if clamp is None else clamp, backend, gradients, of_ranges
        ctx.mark_non_differentiable(last)
        return y, last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        signal, start, free, *y = ctx.saved_tensors
        tables, draws, bound, backend, gradients, of_ranges = ctx.rest
        grad = grads[0].contiguous()
        grad_u, sums = SCAN_BACKWARD.on(backend)(
            signal, start, grad, free, *tables.parts, draws, bound, tables.clip
        )
        found = of_ranges(sums, dots(grad, y[0]), signal.shape[2]) if y else (None, None)
        return grad_u, *gradients(sums), *found, *(None,) * 7


def run(
    u: Tensor,
    leaves: tuple[Tensor, Tensor | None, Tensor | None],
    start: Tensor,
    tables: Tables,
    noise: Noise | None,
    clamp: float | None,
    backend: str,
    gradients: Gradients,
    ranges: Ranges = CALIBRATED,
    of_ranges: OfRanges | None = None,
) -> tuple[Tensor, Tensor]:
    """y and the last state, which has no gradient; `leaves` are the a, b, c that the tables were made of."""
    u, draws = u.contiguous(), draws_of(noise)
    if torch.is_grad_enabled() and any(z is not None and z.requires_grad for z in (u, *leaves, *ranges)):
        rest = start, tables, draws, clamp, backend, gradients, of_ranges
        y, last = _Scan.apply(u, *leaves, *ranges, *rest)  # type: ignore[no-untyped-call]
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
        ranges: Ranges = CALIBRATED,
    ) -> tuple[Tensor, Any]:
        """y (batch, head, time) and the last state, codes or a `UnitState`; u and x0 as `diagonal_scan`.

        `ranges`: logarithms of the scales of x and y that get gradients, from a state of zero.

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
        of_ranges = partial(self._scales.ranges, ranges, tables.g) if ranges.wanted else None
        rest = self._scales.gradients, ranges, of_ranges
        y, last = run(u, self.leaves, start, tables, noise, grad_clamp, backend, *rest)
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
        self.bits, self.periods = (f.x.bits, 16 if f.y is None else f.y.bits), DeviceArray(plan.periods[:, None])
        self.parts = [
            None if k.lost is None else (scale, DeviceArray(k.lost))
            for k, scale in zip(coefficients, scales, strict=False)
        ]

    def ranges(
        self, ranges: Ranges, g: Tensor, sums: Tensor, products: Tensor, time: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the logarithms of the scales of x and y, from `products` = sums of dL/dy y for each head.

        With the straight-through rule of `learned`, e[t] the gradient at x[t] (0 where it saturated), g[t] that of
        y[t] likewise, and a state of zero at the start:

            y:  sum dL/dy y - sum g (2 Re C x)                       = sum dL/dy y - <C, dL/dC>
            x:  sum (dL/dx) x - sum e (A x[t-1] + B u)               = <C, dL/dC> - <B, dL/dB>

        since sum (dL/dx) x is <C, dL/dC>, through y, and <A, dL/dA>, through the next state: whatever the rounding
        and wherever it stands. <a, b> is the sum of the products of real and imaginary parts, with the
        coefficients on their grids (`g` of the tables).
        """
        found = []
        for i in (1, 2):
            part = self.parts[i]
            assert part is not None  # b and c are there
            real, grid = sums[i] * part[0].on(sums.device), g[:, : sums.shape[2], 2 * i : 2 * i + 2]
            found.append((real.double() * grid.double()).sum(-1))
        of_b, of_c = found[0] * self.periods.on(sums.device), found[1]  # g has B over the period, and so has sums
        return ranges.gradients(of_c - of_b, products - of_c.sum(1), self.bits, time)

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
