"""What a recurrence starts from and leaves, between its users and the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

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
        self.bits, self.timed, self.slow = f.x.bits, f.timed, f.slow
        self.residual = f.residual_bits if f.rounding == "feedback" else None
        self.zero, self.low, self.high = (
            DeviceArray(np.ascontiguousarray(v[..., None])) for v in (plan.zero("x"), plan.low, plan.high)
        )
        largest = np.maximum(f.u.high - f.u.zero_point, f.u.zero_point - f.u.low) * (plan.periods - 1)
        self.unused = DeviceArray(np.maximum(f.residual_bits - plan.shift, 0)[..., None].astype(np.int32))
        self.most = DeviceArray(np.array(np.broadcast_to(largest, plan.heads)))

    def start(self, x0: Any, shape: tuple[int, ...], device: torch.device, states: int = 0) -> tuple[Tensor, int]:
        """The packed state of x0 (codes in `shape`, a `UnitState` of such, or None), and the steps done before.

        With `states` x0 has no axis for these. Raises `ImcSsmError` for another shape or dtype, `FormatError` for
        a code, a sum or a residual that the unit cannot hold.
        """
        full = (*shape[:2], states, 2) if states else shape
        given = x0 if isinstance(x0, UnitState) else UnitState(x0)
        if given.time < 0 or given.time != int(given.time):
            raise FormatError(f"time {given.time!r} of a unit's state; allowed are the steps done, 0 or more")
        rows = [self._codes(given.x, shape, full, device)]
        if self.residual is not None:
            rows.append(self._residuals(given.residual, shape, full, device))
        if self.slow:
            sums = torch.zeros((*full[:2], 1, 2), dtype=torch.int32, device=device)
            if given.sums is not None:
                if given.sums.shape != full[:2]:
                    raise ImcSsmError(f"sums of inputs have shape {tuple(given.sums.shape)}; needed is {full[:2]}")
                sums[:, :, 0, 0] = given.sums.to(device)
                if bool((sums[:, :, 0, 0].abs() > self.most.on(device)).any()):
                    raise FormatError("the sums of inputs are larger than the inputs of a period can be")
            rows.append(sums)
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=2), int(given.time)

    def _codes(self, x: Any, shape: tuple[int, ...], full: tuple[int, ...], device: torch.device) -> Tensor:
        """Centred codes of the states."""
        if x is None:
            return torch.zeros(full, dtype=torch.int32, device=device)
        if x.shape != shape or x.dtype not in (torch.int32, torch.int64):
            raise ImcSsmError(f"x0 is {x.dtype} {tuple(x.shape)}; needed are integer codes {shape}")
        centred: Tensor = x.to(device).reshape(full) - self.zero.on(device)
        if not torch.equal(centred, torch.clamp(centred, self.low.on(device), self.high.on(device))):
            raise FormatError(f"x0 holds codes outside its format of {self.bits} bits")
        return centred.int()

    def _residuals(self, e: Any, shape: tuple[int, ...], full: tuple[int, ...], device: torch.device) -> Tensor:
        """Residuals without the bits below those that a sum has."""
        assert self.residual is not None
        unused = self.unused.on(device)
        if e is None:
            first = torch.full(full, first_residual(self.residual), dtype=torch.int32, device=device)
            return (first >> unused) << unused
        if e.shape != shape or e.dtype not in (torch.int32, torch.int64):
            raise ImcSsmError(f"residuals are {e.dtype} {tuple(e.shape)}; needed are integers {shape}")
        if bool(((e < 0) | (e >= 1 << self.residual)).any()):
            raise FormatError(f"a residual is outside its {self.residual} bits")
        given: Tensor = e.to(device).reshape(full).int()
        return (given >> unused) << unused

    def last(self, packed: Tensor, time: int, *, alone: bool = False) -> Any:
        """The state after `time` steps: its codes, or a `UnitState` where the unit is timed.

        `alone`: without the axis of the states, of which there is one.
        """
        states = self.zero.numbers.shape[1]

        def part(rows: Tensor) -> Tensor:
            return rows[:, :, 0] if alone else rows

        x = part(packed[:, :, :states] + self.zero.on(packed.device))
        if not self.timed:
            return x
        residual = None if self.residual is None else part(packed[:, :, states : 2 * states])
        return UnitState(x, time, packed[:, :, -1, 0] if self.slow else None, residual)
