"""What the devices' slow noise does while a sequence runs: held, moving from product to product, or redrawn.

An analog product takes a time, and so does a sequence. Noise slower than a sequence stands still while it runs;
between a sequence and two products it moves and is correlated from step to step; what is faster is another number
in every product. `Stream` says how long they take, `moving_noise` splits the spectrum of a programmed matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imc_ssm.chip.mapping import MappedMatrix, Tile
from imc_ssm.chip.programming import ProgrammedMatrix
from imc_ssm.devices import Cell, Chip
from imc_ssm.devices.moving import add_flicker, add_telegraph
from imc_ssm.devices.spectra import Flicker, Switching
from imc_ssm.errors import ConfigError, DesignError, unknown
from imc_ssm.graph import Rate
from imc_ssm.pricing import nominal_tiles
from imc_ssm.units import seconds

__all__ = ["MovingNoise", "Stream", "Within", "moving_noise", "step_latency", "stream_of"]

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
Within = Literal["held", "white", "correlated"]
_WITHIN = ("correlated", "held", "white")
APART = 1 << 32
"""Numbers between the products of streams that run side by side: of a chip that runs them one after the other."""


@dataclass(frozen=True)
class Stream:
    """When products run.

    `within` says what noise does that is faster than a sequence: "correlated" follows its spectrum from step to
    step, "white" has its variance in every product anew, "held" keeps it as it was when the sequence began (all
    products of all sequences see one reading).
    """

    step: float
    """From one time step to the next, s: the latency of a step, or the period of the samples."""
    steps: int
    """Time steps of a sequence; what is slower than all of them together stands still."""
    within: Within = "correlated"
    """What moves."""
    start: float | None = None
    """When product 0 ran, s after programming; None: at the time that the devices are read."""

    def __post_init__(self) -> None:
        """`ConfigError` for no time, no steps, or another word."""
        if self.within not in _WITHIN:
            raise ConfigError(unknown("within", self.within, _WITHIN))
        if not (math.isfinite(self.step) and self.step > 0):
            raise ConfigError(f"a step of {self.step!r} s; give the time from one step to the next, above 0")
        if type(self.steps) is not int or self.steps < 1:
            raise ConfigError(f"{self.steps!r} steps of a sequence; give a whole number, at least 1")

    def at(self, rate: Rate) -> Stream:
        """The stream of a matrix that runs at this rate: once a sequence is a step as long as the sequence."""
        return self if rate == "step" else replace(self, step=self.step * self.steps, steps=1)

    @property
    def slowest(self) -> float:
        """Lowest frequency that moves, Hz: one period a sequence; infinite where all is held."""
        return math.inf if self.within == "held" else 1 / (self.step * self.steps)

    @property
    def fastest(self) -> float:
        """Highest frequency that is followed, Hz: half of one period a product."""
        return self.slowest if self.within == "white" else 1 / (2 * self.step)


@dataclass(frozen=True, eq=False)
class _Telegraph:
    """The devices of one chip, tile by tile, that switch while a sequence runs."""

    places: tuple[Places, Places, Places]
    deviation: Floats
    rate: Floats


class MovingNoise:
    """The noise of the weights of a matrix, on its chips, that moves while sequences run."""

    def __init__(self, programmed: ProgrammedMatrix, time: float, stream: Stream) -> None:
        """Of a native cell, `time` s after programming; `moving_noise` makes one where there is such noise."""
        self.stream = stream
        self._layout, self._blocks = programmed.layout, programmed.mapped.blocks
        draws, cell = programmed.draws(time), programmed.cell
        start = time if stream.start is None else stream.start
        self._keys = [programmed.seeds(f"moving {kind}", start) for kind in ("flicker", "telegraph")]
        self.variance: Floats | None = None
        """(chips, slices, inputs, outputs): of the weights from product to product, what is faster than two."""
        self._density: Floats | None = None
        self._switching: Switching | None = None
        g = programmed.at(time, stream.slowest)
        inside = _inside(cell, g) * programmed.wired_share(g)
        flicker, switching = (
            cell.flicker(programmed.devices, time),
            cell.switching(programmed.devices, time, draws),
        )
        if flicker is not None:
            self._split(flicker, inside)
        if switching is not None:
            self._sort(replace(switching, deviation=switching.deviation * inside))

    def _split(self, noise: Flicker, inside: Floats) -> None:
        """1/f noise into what is followed and what is redrawn."""
        squares = self._layout.variances(noise.density * inside, self._blocks)
        stream = self.stream
        low, cut = max(noise.low, stream.slowest), max(noise.low, stream.fastest)
        self._band = (low, min(cut, noise.high))
        if self._band[1] > self._band[0]:
            self._density = np.sqrt(squares)
        if noise.high > cut:
            self._redraw(squares * np.float32(math.log(noise.high / cut)))

    def _sort(self, noise: Switching) -> None:
        """Telegraph noise of devices that switch more often than once a sequence."""
        deviation = np.where(noise.rate >= self.stream.slowest, noise.deviation, np.float32(0))
        if self.stream.within == "white":
            self._redraw(self._layout.variances(deviation, self._blocks))
        elif deviation.any():
            self._switching = replace(noise, deviation=deviation)

    def _redraw(self, variance: Floats) -> None:
        self.variance = variance if self.variance is None else self.variance + variance

    @property
    def moves(self) -> bool:
        """Whether there is any."""
        return not (self.variance is None and self._density is None and self._switching is None)

    @property
    def followed(self) -> bool:
        """Whether some of it is correlated from product to product, or all is `variance`."""
        return self._density is not None or self._switching is not None

    def sums(
        self, drive: Tensor, chip: int, tile: int, place: Tile, first: int, *, abreast: bool
    ) -> Tensor | None:
        """(products, columns): what the noise of one tile adds for `drive` (products, rows), in weights.

        `tile`: its number; `first`: the number of the first product. The others follow; `abreast`: they are those
        of streams that run side by side. None: nothing but `variance`.
        """
        if not self.followed:
            return None
        inputs = np.ascontiguousarray(drive.detach().cpu().numpy())
        part = (place.slice, slice(*place.row), slice(*place.column))
        inputs = inputs[:, None] if abreast else inputs[None]
        starts = first + np.arange(len(inputs), dtype=np.int64) * APART
        out = np.zeros((*inputs.shape[:2], part[2].stop - part[2].start), np.float32)
        if self._density is not None:
            density = np.ascontiguousarray(self._density[(chip, *part)])
            add_flicker(out, inputs, density, self._keys[0][chip] ^ tile, self._band, self.stream.step, starts)
        if self._switching is not None:
            found = self._devices(chip, part)
            rest = (found.deviation, found.rate, self._keys[1][chip], self.stream.step, starts)
            add_telegraph(out, inputs, found.places, *rest)
        return torch.from_numpy(out.reshape(len(drive), -1)).to(drive.device)

    def _devices(self, chip: int, part: tuple[int, slice, slice]) -> _Telegraph:
        """The switching devices of a tile; a reference column's are one device for all columns of its block."""
        assert self._switching is not None
        index, rows, columns = part
        layout, outputs = self._layout, self._blocks[-1][1]
        deviation, rate = self._switching.deviation[chip], self._switching.rate[chip]
        number = np.arange(deviation.size).reshape(deviation.shape)
        chosen = list(range(columns.start, columns.stop))
        sources = [(np.array(chosen), np.arange(len(chosen)))]
        if not layout.pair:
            block = next(i for i, (first, _) in enumerate(self._blocks) if first == columns.start)
            sources.append((np.full(len(chosen), outputs + block), np.arange(len(chosen))))
        unit = (1 if layout.pair else 2) / (layout.devices * layout.span)
        found: list[tuple[Places, Places, Places, Floats, Floats]] = []
        for devices, to in sources:
            own = deviation[index, :, :, rows][..., devices]
            at = np.nonzero(own)
            own_rate, own_number = (a[index, :, :, rows][..., devices][at] for a in (rate, number))
            found.append((own_number, at[2], to[at[3]], own[at] * np.float32(unit), own_rate))
        numbers, row, column, size, speed = (np.concatenate(each) for each in zip(*found, strict=True))
        return _Telegraph((numbers, row, column), size, speed)


def _inside(cell: Cell, g: Floats) -> Floats:
    """1 where a device lies within its limits; one that is held at a limit has no noise there."""
    low, high = cell.limits
    return ((g > low) & (g < high)).astype(np.float32)


def moving_noise(programmed: ProgrammedMatrix, time: float, stream: Stream) -> MovingNoise | None:
    """What moves in a programmed matrix `time` s after programming; None: nothing does.

    Raises `DesignError` for aihwkit's models of cells, which say nothing of noise in time.
    """
    if stream.within == "held":
        return None
    if not isinstance(programmed.model, Cell):
        raise DesignError(
            f"noise within a sequence is that of the library's own cells: use noise='native', or within='held' "
            f"instead of {stream.within!r}"
        )
    noise = MovingNoise(programmed, time, stream.at(programmed.mapped.rate))
    return noise if noise.moves else None


def step_latency(chip: Chip, matrices: Iterable[MappedMatrix]) -> float:
    """Time of the analog products of a step, one matrix after the other, s.

    The digital unit's own time is not in it: that of a whole step is `latency_step` of `costs.cost`.
    """
    tiles = nominal_tiles(chip)
    return float(sum(sum(tiles.times(m.widest()).values()) for m in matrices if m.rate == "step"))


def stream_of(
    chip: Chip, matrices: Iterable[MappedMatrix], steps: int, within: Within, step: Any = None
) -> Stream | None:
    """The stream of sequences of `steps`, `step` (`units.seconds`; None: `step_latency`) apart; None: all is held.

    Raises `ConfigError` for what is no time or another word.
    """
    if within == "held" and step is None:
        return None
    stream = Stream(step_latency(chip, matrices) if step is None else seconds(step), steps, within)
    return None if within == "held" else stream
