"""What the plans of `fixedpoint.operators` say, as the kernels read it.

A multiplier and its shift are one double, m 2^-shift, which goes into the codes that it is multiplied with where
those are fixed (weights, D, a gate's table). No word is longer than 53 bits, so nothing is rounded: a kernel's sum
is the integer of the plan times 2^-shift, and the processor's rounding of it is the plan's.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from imc_ssm.fixedpoint import Format
from imc_ssm.fixedpoint.operators import LinearPlan, SumPlan, grid_values, plan_gate, plan_mean
from imc_ssm.kernels import dense
from imc_ssm.kernels.grid import Array, DeviceArray, Grid

__all__ = ["GateConstants", "MatrixConstants", "MeanConstants", "SumConstants"]


def _folded(multiplier: Array, shift: Array) -> Array:
    """m 2^-shift."""
    return np.asarray(np.ldexp(multiplier.astype(np.float64), -shift), np.float64)


def _per_step(fmt: Format, channels: int) -> Array:
    """1 / scale (channels,): single precision's, in double."""
    return np.asarray(np.float32(1) / Grid.of(fmt, channels).scale, np.float64)


class SumConstants:
    """Of x + y, or of y + D u with the centred codes `d` (channels,) of D; the formats are those of the plan."""

    def __init__(
        self, plan: SumPlan, first: Format, second: Format, output: Format, d: Array | None = None
    ) -> None:
        channels, times = len(plan.shift), 1 if d is None else d
        rows = [_per_step(first, channels), _per_step(second, channels)]
        rows += [_folded(plan.first, plan.shift), _folded(plan.second * times, plan.shift)]
        self.factors, self.grid = DeviceArray(np.stack(rows)), Grid.of(output, channels)


class GateConstants:
    """Of x_1 sigmoid(x_2), from 2 `channels` to `channels`; the derivative's tables as well.

    `opened`: the gate's table (channels or 1, codes), T of `fixedpoint.gate_table`.
    """

    def __init__(self, source: Format, output: Format, channels: int, opened: Array) -> None:
        plan = plan_gate(source, output, channels)
        self.factors = DeviceArray(opened * _folded(plan.multiplier, plan.shift)[:, None])
        sigmoid = torch.sigmoid(torch.from_numpy(grid_values(source, 2 * channels, channels))).numpy()
        self.table, self.slope = DeviceArray(sigmoid), DeviceArray((sigmoid * (1 - sigmoid)).astype(np.float32))
        self.source, self.grid = Grid.of(source, 2 * channels), Grid.of(output, channels)


class MatrixConstants:
    """Of W x + b for the centred codes (outputs, inputs) of W; `output` None: of the sums themselves."""

    def __init__(self, plan: LinearPlan, codes: Array, source: Format, output: Format | None) -> None:
        outputs, inputs = codes.shape
        align = _folded(plan.source.align, np.asarray(plan.source.align_shift))
        weight, bias = codes * _folded(plan.multiplier, plan.shift)[:, None], _folded(plan.bias, plan.shift)
        arrays = np.stack([_per_step(source, inputs), align]), dense.packed(weight, np.float64), bias
        grid = None if output is None else Grid.of(output, outputs)
        self._arrays = (*(DeviceArray(array) for array in arrays), grid)
        self._there: dict[torch.device, tuple[Tensor | None, ...]] = {}

    def on(self, device: torch.device) -> tuple[Tensor | None, ...]:
        """Source, weights, bias and grid there."""
        found = self._there.get(device)
        if found is None:
            found = tuple(None if array is None else array.on(device) for array in self._arrays)
            self._there[device] = found
        return found


class MeanConstants:
    """Of the mean over time, for sequences of any length: planned for many lengths at once, as they come."""

    BLOCK = 256
    """Lengths that are planned together."""
    MOST = 64
    """Blocks that are kept."""

    def __init__(self, source: Format, output: Format, channels: int) -> None:
        self._formats, self._channels = (source, output), channels
        self.source, self.grid = Grid.of(source, channels), Grid.of(output, channels)
        steps, ends = Grid.of(source, channels).scale, Grid.of(output, channels).numbers
        self._per_step, self._ends = DeviceArray(np.float32(1) / steps), DeviceArray(ends.astype(np.float64))
        self._made: dict[int, Tensor] = {}

    def factor(self, length: int, device: torch.device) -> Tensor:
        """m 2^-shift (channels,) for one length."""
        block, place = divmod(length - 1, self.BLOCK)
        made = self._made.get(block)
        return (self._block(block) if made is None else made)[place].to(device)

    def factors(self, lengths: Tensor) -> Tensor:
        """m 2^-shift (n, channels) for lengths (n,)."""
        found, places = torch.unique(lengths, return_inverse=True)
        return torch.stack([self.factor(length, lengths.device) for length in found.tolist()])[places]

    @torch.inference_mode(False)  # it is read in training, too
    def _block(self, block: int) -> Tensor:
        steps = np.arange(1, self.BLOCK + 1) + block * self.BLOCK
        plan = plan_mean(*self._formats, steps, self._channels)
        made = torch.from_numpy(_folded(plan.multiplier, plan.shift))
        kept = self._made if len(self._made) < self.MOST else {}
        self._made = {**kept, block: made}  # in one step: threads may share a model
        return made

    def codes(self, x: Tensor) -> Tensor:
        """Of x (batch, channels)."""
        return torch.round(x * self._per_step.on(x.device))

    def finish(self, sums: Tensor, factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(values on the grid, rounded codes, those in bounds), (batch, channels) float64, of sums of codes.

        factors (batch, channels), or (channels,) where all are as long.
        """
        step, low, high = self._ends.on(sums.device)
        nearest = torch.round(sums * factors)
        kept = torch.clamp(nearest, low, high)
        return kept * step, nearest, kept
