"""Matrices in the devices of chips: programming, and what time does to it.

A chip's state *is* its conductances, so everything here is on conductance level: aihwkit's own tile re-normalises
weights by their noisy maximum and merges the pair. Cells draw natively, many chips at once; `noise="aihwkit"`
takes the same steps through aihwkit's model of the cell (`reference.Reference`), the oracle of the native ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from imc_ssm.chip.layout import Layout, layout_of
from imc_ssm.chip.mapping import MappedMatrix
from imc_ssm.chip.reference import Reference
from imc_ssm.chip.wires import effective
from imc_ssm.devices import Cell, Chip, Draws, Programmed, stream_seed
from imc_ssm.errors import ConfigError, unknown
from imc_ssm.units import whole

__all__ = ["Noise", "ProgrammedMatrix", "program"]

Floats = npt.NDArray[np.float32]
Noise = Literal["native", "aihwkit"]


@dataclass(frozen=True, eq=False)
class ProgrammedMatrix:
    """A matrix in the devices of several chips, right after programming."""

    mapped: MappedMatrix
    """What was programmed."""
    chip: Chip
    """The design with its cell."""
    seed: int
    """Seed of the experiment."""
    chips: tuple[int, ...]
    """Numbers of the chips within it."""
    index: int
    """Place of the matrix on the chip; (seed, chip, index, purpose, time) seeds every draw."""
    devices: Programmed
    """Targets (slices, polarities, devices, inputs, outputs), S, and what was written, with an axis of chips in
    front (`Layout.conductances`)."""
    model: Cell | Reference
    """What draws."""
    cycle: int = 0
    """How often the devices have been programmed again."""

    @property
    def cell(self) -> Cell:
        """The device."""
        return self.chip.cell

    @property
    def layout(self) -> Layout:
        """How a weight sits in devices."""
        return layout_of(self.chip)

    def seeds(self, *purpose: str | float) -> list[int]:
        """One a chip, for what is drawn once a programming."""
        return _seeds(self.seed, self.chips, self.index, self.cycle, *purpose)

    def draws(self, time: float, slower: float = math.inf) -> Draws:
        """What readings at a time draw from, with slow noise below a frequency (Hz) only."""
        return Draws(self.seeds("time", time), self.seeds("life"), slower=slower)

    def at(self, time: Any = None, slower: float = math.inf) -> Floats:
        """(chips, slices, polarities, devices, inputs, outputs), S, `time` s after programming (None: as written).

        The same call gives the same arrays, in any order. What was fixed at programming (exponents, relaxation,
        programming noise) is kept; 1/f and telegraph noise are functions of the time, alike at near times as
        their spectra say, without what is faster than `slower`, Hz. (aihwkit's models draw relaxation and 1/f
        noise anew at every time.) Raises `DesignError` for a time the cell has no model for.
        """
        if time is None:
            return self.devices.g
        time = self.cell.check_time(time)
        return self.model.read(self.devices, time, self.draws(time, slower))

    def weights(self, time: Any = None) -> Floats:
        """What the matrix's weights are in the devices, (chips, inputs, outputs) relative to full scale.

        The slices added up, each with its share; `time` in s, None = as programmed.
        """
        return self.whole(self.state(time)[0])

    def whole(self, sliced: Floats) -> Floats:
        """(chips, inputs, outputs): slices (chips, slices, inputs, outputs) added up with their shares."""
        shares = self.layout.shares
        if len(shares) == 1:
            return sliced[:, 0]
        return np.asarray(np.tensordot(np.asarray(shares, np.float32), sliced, (0, 1)), np.float32)

    def state(self, time: Any = None, slower: float = math.inf) -> tuple[Floats, Floats | None]:
        """The weights at a time and their variance from product to product, (chips, slices, inputs, outputs).

        With the voltage that the wires take (`Design.wires`). `slower`: with slow noise below this frequency only,
        Hz. None for the variance where the cell has no such noise (`Cell.fast_noise`; aihwkit's models have none).
        """
        g, blocks, layout = self.at(time, slower), self.mapped.blocks, self.layout
        sigma = None if isinstance(self.model, Reference) else self.model.fast_noise(self.devices, g)
        weights = layout.weights(self._wired(g), blocks)
        return weights, None if sigma is None else layout.variances(sigma * self.wired_share(g), blocks)

    def wired_share(self, g: Floats) -> Floats | np.float32:
        """What works of conductances `g` behind wires (of their noise too, to first order); 1 without."""
        wired = self._wired(g)
        return np.float32(1) if wired is g else np.divide(wired, g, out=np.ones_like(g), where=g > 0)

    def _wired(self, g: Floats) -> Floats:
        """Conductances (chips, slices, polarities, devices, inputs, outputs) behind wires, if any.

        The bit lines of a column lie side by side, a reference behind the columns that are compared with it.
        """
        wires, layout = self.chip.design.wires, self.layout
        if wires is None or wires.solve == "time-stepped":  # those are the tile's
            return g
        out = g.copy()
        for (first, last), (start, end) in self.mapped.parts:
            columns = list(range(start, end))
            if not layout.pair:
                columns.append(self.mapped.outputs + self.mapped.blocks.index((start, end)))
            part = g[..., first:last, columns]
            lines = part.reshape(len(g), -1, *part.shape[-2:])
            seen = effective(lines, wires.row.value, wires.column.value, wires.solve)
            out[..., first:last, columns] = seen.reshape(part.shape)
        return out


def program(
    mapped: MappedMatrix,
    chip: Chip,
    seed: int,
    chips: Sequence[int] = (0,),
    *,
    index: int = 0,
    noise: Noise = "native",
    cycle: int = 0,
) -> ProgrammedMatrix:
    """Write the targets into the devices of the chips of these numbers.

    Targets are those of `Layout.conductances`, each device with the cell's programming noise.
    What a device keeps for life is drawn here, once. Seeded by (seed, chip, index): a chip is the same alone
    and among others. `cycle`: how often the same devices have been programmed again, each time with new errors
    (`Cell.reprogram`; in aihwkit's models nothing but a stuck device stays the same).

    Raises `ConfigError` for unknown `noise`, `DesignError` where aihwkit lacks the cell.
    """
    seed, cycle, chips = whole(seed, "seed"), whole(cycle, "cycle"), [whole(number, "chip") for number in chips]
    if noise not in ("native", "aihwkit"):
        raise ConfigError(unknown("noise", noise, ("native", "aihwkit")))
    cell = chip.cell
    model = Reference(cell) if noise == "aihwkit" else cell
    targets = layout_of(chip).conductances(mapped.target, mapped.blocks)
    devices = model.program(targets, Draws(_seeds(seed, chips, index, 0, "programming")))
    if cycle:
        again = Draws(_seeds(seed, chips, index, cycle, "programming"))
        devices = model.reprogram(devices, again)
    return ProgrammedMatrix(mapped, chip, seed, tuple(chips), index, devices, model, cycle)


def _seeds(seed: int, chips: Sequence[int], index: int, cycle: int, *purpose: str | float) -> list[int]:
    again = ("cycle", cycle) if cycle else ()
    return [stream_seed(seed, chip, index, *purpose, *again) for chip in chips]
