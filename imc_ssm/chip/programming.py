"""Matrices in the devices of chips: programming, what time does to it, and the compensation of drift.

A chip's state *is* its conductances, so everything here is on conductance level: aihwkit's own tile re-normalises
weights by their noisy maximum and merges the pair. Cells draw natively, many chips at once; `noise="aihwkit"`
takes the same steps through aihwkit's model of the cell (`reference.Reference`), the oracle of the native ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from imc_ssm.chip.mapping import MappedMatrix
from imc_ssm.chip.reference import Reference
from imc_ssm.devices import Cell, Chip, Draws, Programmed, stream_seed
from imc_ssm.errors import ConfigError, unknown
from imc_ssm.units import whole

__all__ = ["Noise", "ProgrammedMatrix", "compensation", "program"]

Floats = npt.NDArray[np.float32]
Noise = Literal["native", "aihwkit"]


@dataclass(frozen=True, eq=False)
class ProgrammedMatrix:
    """A matrix in the devices of several chips, right after programming."""

    cell: Cell
    """The device."""
    seed: int
    """Seed of the experiment."""
    chips: tuple[int, ...]
    """Numbers of the chips within it."""
    index: int
    """Place of the matrix on the chip; (seed, chip, index, purpose, time) seeds every draw."""
    devices: Programmed
    """Targets (2, inputs, outputs) and what was written, (chips, 2, inputs, outputs), S; axis of 2: the devices
    that add, those that subtract."""
    model: Cell | Reference
    """What draws."""

    def at(self, time: Any = None) -> Floats:
        """(chips, 2, inputs, outputs), S, `time` seconds after programming (None: as programmed).

        The same call gives the same arrays, in any order. What was fixed at programming (exponents, relaxation,
        programming noise) is kept; 1/f and telegraph noise are functions of the time, alike at near times as
        their spectra say. (aihwkit's models draw relaxation and 1/f noise anew at every time.) Raises
        `DesignError` for a time the cell has no model for.
        """
        if time is None:
            return self.devices.g
        time = self.cell.check_time(time)
        seeds = [stream_seed(self.seed, chip, self.index, "time", time) for chip in self.chips]
        life = [stream_seed(self.seed, chip, self.index, "life") for chip in self.chips]
        return self.model.read(self.devices, time, Draws(seeds, life))

    def weights(self, time: Any = None) -> Floats:
        """(g_plus - g_minus) / (g_max - g_min), (chips, inputs, outputs); `time` in s, None = as programmed."""
        return self.state(time)[0]

    def state(self, time: Any = None) -> tuple[Floats, Floats | None]:
        """The weights at a time, and their variance from product to product, both (chips, inputs, outputs).

        None for the variance where the cell has no such noise (`Cell.fast_noise`; aihwkit's models have none).
        """
        g = self.at(time)
        sigma = None if isinstance(self.model, Reference) else self.model.fast_noise(self.devices, g)
        weights = np.asarray((g[:, 0] - g[:, 1]) / self.cell.span, dtype=np.float32)
        return weights, None if sigma is None else np.square(sigma / np.float32(self.cell.span)).sum(axis=1)


def program(
    mapped: MappedMatrix,
    chip: Chip,
    seed: int,
    chips: Sequence[int] = (0,),
    *,
    index: int = 0,
    noise: Noise = "native",
) -> ProgrammedMatrix:
    """Write the targets into the devices of the chips of these numbers.

    G+ = g_min + max(target, 0) (g_max - g_min), G- likewise of -target, each with the cell's programming noise.
    What a device keeps for life is drawn here, once. Seeded by (seed, chip, index): a chip is the same alone
    and among others. Raises `ConfigError` for unknown `noise`, `DesignError` where aihwkit lacks the cell.
    """
    seed, chips = whole(seed, "seed"), [whole(number, "chip") for number in chips]
    if noise not in ("native", "aihwkit"):
        raise ConfigError(unknown("noise", noise, ("native", "aihwkit")))
    cell = chip.cell
    parts = np.stack([np.maximum(mapped.target, 0), np.maximum(-mapped.target, 0)])
    model = Reference(cell) if noise == "aihwkit" else cell
    seeds = [stream_seed(seed, number, index, "programming") for number in chips]
    devices = model.program((cell.g_min.value + parts * cell.span).astype(np.float32), Draws(seeds))
    return ProgrammedMatrix(cell, seed, tuple(chips), index, devices, model)


def compensation(programmed: Floats, now: Floats) -> float:
    """Global drift compensation of one tile: readout(programmed) / readout(now).

    The readout is the mean |normalised column sum| over one-hot inputs, that is mean |w|, taken often enough
    to be exact (Joshi et al., Nature Communications 11:2473 (2020), doi:10.1038/s41467-020-16108-9). 1 for a
    tile that reads zero.
    """
    before = float(np.abs(programmed).mean(dtype=np.float64))
    after = float(np.abs(now).mean(dtype=np.float64))
    return before / after if before > 0 and after > 0 else 1.0
