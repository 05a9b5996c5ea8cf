"""What a recurrence starts from and leaves, between its users and the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from imc_ssm.errors import FormatError, ImcSsmError
from imc_ssm.fixedpoint import ScanPlan, UnitState
from imc_ssm.fixedpoint.oracle import first_residual
from imc_ssm.kernels.grid import DeviceArray

__all__ = ["Ends"]


class Ends:
    """The state of an integer unit, packed for the kernels, and back.

    Packed: (batch, head, row, 2) int32, one row a state, centred on its zero point; with error feedback as many
    rows of residuals; with slow heads one more, the sum of the centred inputs and 0.
    """

    def __init__(self, plan: ScanPlan) -> None:
        f = plan.formats
        self.bits, self.timed, self.slow, self.states = f.x.bits, f.timed, f.slow, plan.states
        self.residual = f.residual_bits if f.rounding == "feedback" else None
        self.zero = DeviceArray(plan.zero("x")[..., None])
        self.unused = DeviceArray(np.maximum(f.residual_bits - plan.shift, 0)[..., None].astype(np.int64))
        bounds = [(plan.low, plan.high)]
        if self.residual is not None:
            bounds.append((np.zeros_like(plan.low), np.full_like(plan.low, (1 << self.residual) - 1)))
        if self.slow:
            most = np.maximum(f.u.high - f.u.zero_point, f.u.zero_point - f.u.low) * (plan.periods - 1)
            sums = np.broadcast_to(most, plan.heads)[:, None]
            bounds.append((-sums, sums))
        self.low, self.high = (
            DeviceArray(np.concatenate(rows, 1)[..., None]) for rows in zip(*bounds, strict=True)
        )

    def start(self, x0: Any, shape: tuple[int, ...], device: torch.device, states: int = 0) -> tuple[Tensor, int]:
        """The packed state of x0 (codes in `shape`, a `UnitState` of such, or None), and the steps done before.

        With `states` x0 has no axis for these. Raises `ImcSsmError` for another shape or dtype, `FormatError` for
        a code, a sum or a residual that the unit cannot hold.
        """
        full = (*shape[:2], states, 2) if states else shape
        if x0 is None:
            return self._at_rest(full, device), 0
        given = x0 if isinstance(x0, UnitState) else UnitState(x0)
        if given.time < 0 or given.time != int(given.time):
            raise FormatError(f"time {given.time!r} of a unit's state; allowed are the steps done, 0 or more")
        n, rows = self.states, []
        parts: list[tuple[str, Any, tuple[int, ...], tuple[int, ...]]] = [("x0 is", given.x, shape, full)]
        if self.residual is not None:
            parts.append(("residuals are", given.residual, shape, full))
        if self.slow:
            parts.append(("sums of inputs are", given.sums, full[:2], (*full[:2], 1, 1)))
        for i, (what, numbers, own, whole) in enumerate(parts):
            if numbers is None:
                rows.append(self._at_rest(full, device)[:, :, i * n : i * n + whole[2]].long())
                continue
            if numbers.shape != own or numbers.dtype not in (torch.int32, torch.int64):
                needed = "integers" if i else "integer codes"
                raise ImcSsmError(f"{what} {numbers.dtype} {tuple(numbers.shape)}; needed are {needed} {own}")
            found = numbers.to(device).reshape(whole)
            rows.append(found if i else found - self.zero.on(device))
        if self.slow:
            rows[-1] = pad(rows[-1], (0, 2 - rows[-1].shape[3]))
        packed = rows[0] if len(rows) == 1 else torch.cat(rows, dim=2)
        if not torch.equal(packed, torch.clamp(packed, self.low.on(device), self.high.on(device))):
            raise self._refused(packed)
        if self.residual is not None:
            unused, residuals = self.unused.on(device), packed[:, :, n : 2 * n]
            residuals.copy_((residuals >> unused) << unused)
        return packed.int(), int(given.time)

    def _refused(self, packed: Tensor) -> FormatError:
        """What is wrong with numbers out of bounds."""
        low, high = (bound.on(packed.device) for bound in (self.low, self.high))
        wrong = ((packed < low) | (packed > high)).any(dim=3).any(dim=1).any(dim=0)
        if bool(wrong[: self.states].any()):
            return FormatError(f"x0 holds codes outside its format of {self.bits} bits")
        if self.residual is not None and bool(wrong[self.states : 2 * self.states].any()):
            return FormatError(f"a residual is outside its {self.residual} bits")
        return FormatError("the sums of inputs are larger than the inputs of a period can be")

    def _at_rest(self, full: tuple[int, ...], device: torch.device) -> Tensor:
        """The packed state before a sequence: codes of zero, residuals without the bits below those of a sum."""
        packed = torch.zeros((*full[:2], self.low.numbers.shape[1], 2), dtype=torch.int32, device=device)
        if self.residual is not None:
            unused = self.unused.on(device)
            packed[:, :, self.states : 2 * self.states] = (first_residual(self.residual) >> unused) << unused
        return packed

    def last(self, packed: Tensor, time: int, *, alone: bool = False) -> Any:
        """The state after `time` steps: its codes, or a `UnitState` where the unit is timed.

        `alone`: without the axis of the states, of which there is one.
        """
        states = self.states

        def part(rows: Tensor) -> Tensor:
            return rows[:, :, 0] if alone else rows

        x = part(packed[:, :, :states] + self.zero.on(packed.device))
        if not self.timed:
            return x
        residual = None if self.residual is None else part(packed[:, :, states : 2 * states])
        return UnitState(x, time, packed[:, :, -1, 0] if self.slow else None, residual)
