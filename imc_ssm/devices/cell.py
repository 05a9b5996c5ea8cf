"""What every memory cell is: constants with their sources, limits, programming, and what time does to it.

A model of a cell is a class below `Cell` (`pcm.py`, `cmo.py`, `wan.py`), named in `cells.py`. Its methods take and
return conductances in S. Their first axis counts chips; every chip draws from a generator of its own (`Draws`), so
that chip i is the same alone and among others.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationInfo, field_validator, model_validator

from imc_ssm.config import Config
from imc_ssm.devices.library import CellArea, Cited, Conductance, Levels, Pulse, Voltage
from imc_ssm.devices.spectra import Flicker, Switching
from imc_ssm.errors import DesignError
from imc_ssm.units import DAY, HOUR, seconds

__all__ = ["MICRO", "Array", "Cell", "Draws", "Programmed", "Times", "polynomial", "stream_seed"]

Array = npt.NDArray[np.float32]
MICRO = 1e-6
"""S in a uS, the unit of the published fits."""


def stream_seed(*parts: int | float | str) -> int:
    """A 63-bit seed from a tuple: SHA-256 of its text, so equal in every process (unlike Python's hash)."""
    # Through Python's own types: a NumPy 3 must seed as 3 does.
    plain = [p if isinstance(p, str) else float(p) if isinstance(p, float) else int(p) for p in parts]
    text = "\x1f".join(repr(part) for part in plain)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


class Draws:
    """Random numbers of several chips, each from the stream of its own seed.

    `life`: seeds that are the same at every time of a chip (None: `seeds`), from which noise that is one process
    in time is drawn. `slower`: such noise below this frequency only, Hz; the rest moves while a sequence runs.
    """

    def __init__(
        self, seeds: Sequence[int], life: Sequence[int] | None = None, *, slower: float = math.inf
    ) -> None:
        self.seeds, self.life, self.slower = tuple(seeds), tuple(seeds if life is None else life), slower
        self._generators = [np.random.Generator(np.random.PCG64(seed)) for seed in self.seeds]

    def normal(self, shape: tuple[int, ...]) -> Array:
        """(chips, *shape) independent numbers of N(0, 1); the next call goes on where this one ended."""
        out = np.empty((len(self.seeds), *shape), np.float32)
        for generator, chip in zip(self._generators, out, strict=True):
            generator.standard_normal(out=chip, dtype=np.float32)
        return out

    def uniform(self, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """(chips, *shape) independent numbers, uniform in [0, 1)."""
        return np.stack([generator.random(shape) for generator in self._generators])

    def keys(self, purpose: str) -> list[int]:
        """One key a chip for what `purpose` names, the same at every time."""
        return [stream_seed(life, purpose) for life in self.life]

    def flicker(self, noise: Flicker | None) -> Array | float:
        """(chips, ...), S: 1/f noise at its time, as far as it is slower than `slower`; 0 for None."""
        if noise is None:
            return 0.0
        from imc_ssm.devices.processes import flicker  # compiled: it needs torch, a design does not

        shape, band = noise.density.shape[1:], (0.0, self.slower)
        return noise.density * flicker(self.keys("flicker"), shape, noise.time, noise.low, noise.high, band)

    def switching(self, noise: Switching | None) -> Array | float:
        """(chips, ...), S: telegraph noise at its time, of devices that switch less often than `slower`."""
        if noise is None:
            return 0.0
        from imc_ssm.devices.processes import telegraph

        rate = np.where(noise.rate < self.slower, noise.rate, np.float32(0))
        return noise.deviation * telegraph(self.keys("telegraph"), rate, noise.time)


@dataclass(frozen=True, eq=False)
class Programmed:
    """Devices right after programming; `...` is any shape, the same for all chips."""

    target: Array
    """(...), S: what was to be written."""
    g: Array
    """(chips, ...), S: what was written."""
    kept: Array
    """(chips, ...): what each device keeps for life, as its model wants it (a drift exponent); may be empty."""
    stuck: Array | None = None
    """(chips, ...): which devices are stuck low (1) and high (2), for life; None: none (`defects.Failing`)."""


class Times(Config):
    """The times after programming, in s, at which a cell's noise model holds."""

    earliest: float = Field(ge=0.0)
    """Earliest time, s."""
    latest: float = Field(gt=0.0, le=1e12)
    """Latest time, s."""
    only: tuple[float, ...] = ()
    """If not empty, the model exists at these times only, s."""
    source: str = Field(min_length=8)
    """Where the range comes from."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.earliest < self.latest:
            raise ValueError(f"earliest = {self.earliest} s must be before latest = {self.latest} s")
        if any(not self.earliest <= time <= self.latest for time in self.only):
            raise ValueError(f"every time of only must lie in [{self.earliest}, {self.latest}] s")
        return self


class Cell(Config):
    """One kind of analog memory device; SI units, every measured number with its source."""

    name: str
    """Name, as in `Design.cell`."""
    kind: Literal["pcm", "reram", "mram", "ecram", "fefet", "flash", "other"]
    """Phase-change, filamentary resistive, magnetic or electrochemical memory, ferroelectric transistor, flash."""
    description: str
    """One line for people."""
    model: str
    """The class that the cell is of, by its name in `cells.CELLS`."""
    g_min: Conductance
    """Lowest conductance a device is programmed to, S; the unused device of a pair stays there."""
    g_max: Conductance
    """Highest conductance a device is programmed to, S."""
    v_read: Voltage
    """Read voltage of a full-scale input, V."""
    t_read: Pulse
    """Length of the read pulse of one matrix-vector product, s (not the constant of the 1/f fit)."""
    levels: Levels | None = None
    """Distinguishable conductances per device, both ends included; None = continuous."""
    times: Times
    """When the noise model holds."""
    area: CellArea
    """Area of one device with its access transistor, m2."""
    programming_scale: float = Field(default=1.0, ge=0.0)
    """Factor on the published programming noise (0 = none)."""
    source: str = Field(min_length=8)
    """The paper of the noise model."""

    @field_validator("g_max")
    @classmethod
    def _range(cls, g_max: Cited, info: ValidationInfo) -> Cited:
        g_min = info.data.get("g_min")
        if g_min is not None and not g_max.value > g_min.value:
            raise ValueError(f"g_max must exceed g_min = {g_min.value} S")
        return g_max

    @field_validator("levels")
    @classmethod
    def _levels(cls, levels: Cited | None) -> Cited | None:
        if levels is not None and not (levels.value >= 2 and levels.value == int(levels.value)):
            raise ValueError("give a whole number of levels, at least 2, or leave levels out (continuous)")
        return levels

    @property
    def span(self) -> float:
        """g_max - g_min, S."""
        return self.g_max.value - self.g_min.value

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest conductance that a device can take, S.

        By default only kept from becoming negative: g_max is where weights are mapped, not where the device ends.
        """
        return 0.0, float("inf")

    @abstractmethod
    def program(self, target: Array, draws: Draws) -> Programmed:
        """Write `target` (...), S, into the devices of every chip of `draws`, with programming noise."""

    @property
    def rates(self) -> tuple[float, float]:
        """Probabilities that a device is stuck low and high."""
        return 0.0, 0.0

    def defects(self, draws: Draws, shape: tuple[int, ...]) -> Array | None:
        """Which devices are stuck, as in `Programmed.stuck`; the last that programming draws."""
        return None

    def held(self, g: Array, stuck: Array | None) -> Array:
        """`g` (chips, ...), S, with the conductances of stuck devices."""
        return g

    def reprogram(self, devices: Programmed, draws: Draws) -> Programmed:
        """Write the same targets into the same devices again. What a device keeps for life stays as it is.

        By default nothing is known to: all is drawn anew.
        """
        return self.program(devices.target, draws)

    @abstractmethod
    def read(self, devices: Programmed, time: float, draws: Draws) -> Array:
        """(chips, ...), S: the conductances `time` s after programming, with drift and slow read noise.

        `time` is one that `check_time` has passed. What differs from device to device is either kept since
        programming or a function of the time (`draws.flicker`, `draws.switching`): readings at two times have in
        common what the noise's spectrum says, whatever is read in between.
        """

    def flicker(self, devices: Programmed, time: float) -> Flicker | None:
        """The 1/f noise that `read` has at `time`; None: no such noise."""
        return None

    def switching(self, devices: Programmed, time: float, draws: Draws) -> Switching | None:
        """The random telegraph noise that `read` has at `time`; None: no such noise."""
        return None

    def fast_noise(self, devices: Programmed, g: Array) -> Array | None:
        """(chips, ...), S: standard deviation of the noise that is drawn anew in every product; None: no noise.

        `g` (chips, ...): what `read` gave, or what was programmed.
        """
        return None

    def reference(self) -> Any:
        """The same model in aihwkit, in `unit`; `DesignError` where aihwkit has none."""
        raise DesignError(f"aihwkit has no model of cell {self.name!r}; use the library's own (noise='native')")

    @property
    def unit(self) -> float:
        """S: a conductance of 1 in `reference`."""
        return MICRO

    def read_energy(self, conductance: float, activity: float) -> float:
        """Energy of one product in devices of `conductance` S together, J: activity V_read^2 G t_read.

        `activity` is the mean squared input over its squared full scale.
        """
        return activity * self.v_read.value**2 * self.t_read.value * conductance

    def settle(self, g: Array) -> Array:
        """Clamp at the device's limits; NaN is where a fit has no value below zero: the lower limit."""
        low, high = self.limits
        return np.fmin(np.fmax(g, low), high)  # both take the number, not the NaN

    def usual_times(self) -> tuple[float, ...]:
        """Times worth a look, s: 1 s, an hour, a day and 30 days, as far as the model goes; all it has if few."""
        own = self.times
        usual = [t for t in (1.0, HOUR, DAY, 30 * DAY) if own.earliest <= t <= own.latest]
        return tuple(sorted(own.only)) or tuple(usual) or (own.earliest,)

    def check_time(self, time: Any) -> float:
        """A time since programming (`units.seconds`) in s if the noise model holds there, else `DesignError`."""
        time = time if isinstance(time, float) else seconds(time)
        allowed = self.times
        if allowed.only:
            if time not in allowed.only:
                known = ", ".join(f"{t:g} s" for t in allowed.only)
                raise DesignError(
                    f"cell {self.name!r} is measured only at {known} after programming, not at {time:g} s; "
                    f"use one of these times, or a cell whose noise model is continuous in time"
                )
        elif not allowed.earliest <= time <= allowed.latest:
            raise DesignError(
                f"cell {self.name!r} has no model at {time:g} s after programming; "
                f"use a time from {allowed.earliest:g} to {allowed.latest:g} s"
            )
        return float(time)


def polynomial(coefficients: Sequence[float], x: Array) -> Array:
    """sum_i c_i x^i."""
    out = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        out = out * x + coefficient
    return out
