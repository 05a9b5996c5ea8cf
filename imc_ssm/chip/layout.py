"""How a weight sits in devices: slices, polarities, devices that share a current, reference columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imc_ssm.devices import Chip

__all__ = ["Layout", "layout_of"]

Floats = npt.NDArray[np.float32]
Block = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """A weight w in [-1, 1] in devices between g_min and g_max:

        |w| = sum_s share_s |w_s|               slices, most significant first; each slice its own columns and ADC
        share_s = base^(S-1-s) (base - 1) / (base^S - 1),   base = 2^bits     (one slice: 1)
        pair:       w_s = (sum_n G+ - sum_n G-) / (n (g_max - g_min)),    G± = g_min + max(±w_s, 0) (g_max - g_min)
        reference:  w_s = 2 (sum_n G - sum_n G_ref) / (n (g_max - g_min)), G = g_mid + w_s (g_max - g_min) / 2

    n devices share a current (`Design.devices`); G_ref is a column of devices at g_mid = (g_min + g_max) / 2, one
    for each column block and slice, which all columns of the block are compared with.
    """

    shares: tuple[float, ...]
    """Part of a weight that each slice holds."""
    base: int | None
    """Levels of a slice's magnitude, zero included; None: one slice, continuous or on the cell's levels."""
    devices: int
    """Devices of one polarity."""
    pair: bool
    """Whether a weight has devices that subtract; else a reference column does."""
    g_min: float
    """S."""
    g_max: float
    """S."""

    @property
    def slices(self) -> int:
        """Number of slices."""
        return len(self.shares)

    @property
    def polarities(self) -> int:
        """2: a pair; 1: a reference column."""
        return 2 if self.pair else 1

    @property
    def bit_lines(self) -> int:
        """Bit lines of one weight, all slices together; a reference column not included."""
        return self.slices * self.polarities * self.devices

    @property
    def span(self) -> float:
        """g_max - g_min, S."""
        return self.g_max - self.g_min

    def on_levels(self, target: npt.NDArray[np.float64], levels: int | None) -> npt.NDArray[np.float64]:
        """`target` in [-1, 1] as devices can hold it; `levels` of a device, ends included; None: continuous.

        A pair has multiples of 1 / (levels - 1), a reference column of 2 / (levels - 1), counted from -1. Slices
        have base^S - 1 steps.
        """
        if self.base is not None:
            steps = self.base**self.slices - 1
            return np.asarray(np.rint(target * steps) / steps)
        if levels is None:
            return target
        if self.pair:
            return np.asarray(np.rint(target * (levels - 1)) / (levels - 1))
        return np.asarray(np.rint((target + 1) * (levels - 1) / 2) * (2 / (levels - 1)) - 1)

    def split(self, target: Floats) -> Floats:
        """(slices, inputs, outputs): the part of each slice, in [-1, 1]; sum_s share_s part_s = target."""
        if self.base is None:
            return target[None]
        steps = self.base**self.slices - 1
        rest = np.rint(np.abs(target.astype(np.float64)) * steps)
        parts = []
        for place in reversed(range(self.slices)):
            digit, rest = np.divmod(rest, float(self.base**place))
            parts.append(np.sign(target) * digit / (self.base - 1))
        return np.stack(parts).astype(np.float32)

    def conductances(self, target: Floats, blocks: Sequence[Block]) -> Floats:
        """(slices, polarities, devices, inputs, outputs [+ blocks]), S: what is to be programmed.

        With a reference column, one more column for each of the column `blocks`, in their order.
        """
        parts = self.split(target)
        if self.pair:
            signed = np.stack([np.maximum(parts, 0), np.maximum(-parts, 0)], axis=1)
            g = self.g_min + signed * self.span
        else:
            reference = np.zeros((*parts.shape[:2], len(blocks)), np.float32)
            full = np.concatenate([parts, reference], axis=2)[:, None]
            g = (self.g_min + self.g_max) / 2 + full * (self.span / 2)
        shape = (self.slices, self.polarities, self.devices, *g.shape[-2:])
        return np.ascontiguousarray(np.broadcast_to(g[:, :, None], shape), dtype=np.float32)

    def weights(self, g: Floats, blocks: Sequence[Block]) -> Floats:
        """(chips, slices, inputs, outputs), of conductances (chips, slices, polarities, devices, ...), S."""
        total = g[:, :, :, 0] if self.devices == 1 else g.sum(axis=3)
        if self.pair:
            return np.asarray((total[:, :, 0] - total[:, :, 1]) / (self.devices * self.span), dtype=np.float32)
        outputs, out = blocks[-1][1], total[:, :, 0]
        reference = np.concatenate(
            [np.repeat(out[..., outputs + i, None], end - start, -1) for i, (start, end) in enumerate(blocks)], -1
        )
        return np.asarray((out[..., :outputs] - reference) * (2 / (self.devices * self.span)), dtype=np.float32)

    def variances(self, sigma: Floats, blocks: Sequence[Block]) -> Floats:
        """(chips, slices, inputs, outputs): variances of the weights whose devices have deviations `sigma`, S.

        The noise of a reference column is the same for all columns of its block: their correlation is not kept.
        """
        square = np.square(sigma / np.float32(self.devices * self.span)).sum(axis=3)
        if self.pair:
            return np.asarray(square.sum(axis=2))
        outputs, out = blocks[-1][1], 4 * square[:, :, 0]
        reference = np.concatenate(
            [np.repeat(out[..., outputs + i, None], end - start, -1) for i, (start, end) in enumerate(blocks)], -1
        )
        return np.asarray(out[..., :outputs] + reference)

    def conductance(self, target: Floats, blocks: Sequence[Block]) -> float:
        """All devices in use together as programmed, S."""
        return float(self.conductances(target, blocks).sum(dtype=np.float64))


def layout_of(chip: Chip) -> Layout:
    """How the weights of a chip sit in its devices."""
    design, cell = chip.design, chip.cell
    cut = design.slicing
    shares, base = (1.0,), None
    if cut is not None:
        base = 2**cut.bits
        steps = base**cut.cells - 1
        shares = tuple(base ** (cut.cells - 1 - s) * (base - 1) / steps for s in range(cut.cells))
    return Layout(shares, base, design.devices, design.polarity == "pair", cell.g_min.value, cell.g_max.value)
