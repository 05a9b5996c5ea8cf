"""A cell of measured or planned numbers alone: no published fit, every effect a field of its TOML."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field, field_validator, model_validator

from imc_ssm.config import Config
from imc_ssm.devices.cell import Array, Draws, Programmed
from imc_ssm.devices.defects import Failing
from imc_ssm.devices.library import Cited, Duration, Rate, Share, Signed
from imc_ssm.devices.spectra import OCTAVES, Flicker, Switching

__all__ = ["Deviation", "Drift", "DriftTable", "Generic"]

MOST = 10.0
"""A relative deviation or change above this is a typing mistake (percent for a fraction)."""


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    if any(value < 0 for value in values) or any(b <= a for a, b in pairwise(values)):
        raise ValueError("the points must be at least 0 and rise, each given once")
    return values


Points = Annotated[tuple[float, ...], AfterValidator(_rising)]


def _sized(unit: str, values: tuple[float, ...]) -> None:
    """Refuse numbers that no device has: a change of ten times, or of a siemens."""
    most = MOST if unit == "1" else 0.1
    wrong = [value for value in values if abs(value) > most]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is outside [-{most:g}, {most:g}] {unit}; a fraction is not in percent")


class Deviation(Config):
    """A standard deviation: one number, or a table against the conductance (linear between, constant beyond)."""

    value: float | tuple[float, ...]
    """The deviation, in `unit`; several go with as many conductances `against`."""
    against: Points = ()
    """Conductances of the table, S, rising."""
    unit: Literal["S", "1"]
    """"S": absolute; "1": a fraction of the conductance."""
    source: str = Field(min_length=8)
    """Where it comes from; "assumed: why" where nobody published it."""

    @model_validator(mode="after")
    def _table(self) -> Self:
        values = self.values
        if isinstance(self.value, tuple) and (not values or len(values) != len(self.against)):
            raise ValueError(
                f"{len(values)} values against {len(self.against)} conductances; give as many of each"
            )
        if not isinstance(self.value, tuple) and self.against:
            raise ValueError("one value, and conductances `against`; give a list of values, one for each")
        if any(value < 0 for value in values):
            raise ValueError("a standard deviation cannot be negative")
        _sized(self.unit, values)
        return self

    @property
    def values(self) -> tuple[float, ...]:
        """The value or values."""
        return self.value if isinstance(self.value, tuple) else (self.value,)

    def at(self, g: Array) -> Array:
        """S, for conductances `g`, S."""
        if isinstance(self.value, tuple):
            sigma = np.interp(g, self.against, self.value).astype(np.float32)
        else:
            sigma = np.full_like(g, self.value)
        return sigma * g if self.unit == "1" else sigma


class Drift(Config):
    """G(t) = G_prog (max(t, t_0) / t_0)^-nu, nu ~ N(exponent, spread), one for each device for life."""

    exponent: Signed
    """Mean of nu; conductances that rise have a negative one."""
    spread: Share | None = None
    """Standard deviation of nu from device to device; None = 0."""
    t_0: Duration
    """Time of the first reading, from which drift is counted, s."""

    @model_validator(mode="after")
    def _physical(self) -> Self:
        if not self.t_0.value > 0:
            raise ValueError("t_0 must be positive")
        return self


class DriftTable(Config):
    """G(t) = G_prog (1 + mean(t) + std(t) z), or G_prog + ... in S; z ~ N(0, 1), one for each device for life.

    Between the times linear in log t, before the first and after the last one constant.
    """

    times: Points
    """s after programming, rising; 0 is not one of them (the programmed state has no change)."""
    mean: tuple[float, ...]
    """Mean change at each time."""
    std: tuple[float, ...]
    """Standard deviation of the change from device to device."""
    unit: Literal["S", "1"]
    """"S": absolute; "1": a fraction of the programmed conductance."""
    source: str = Field(min_length=8)
    """Where it comes from."""

    @model_validator(mode="after")
    def _table(self) -> Self:
        if not self.times or not len(self.times) == len(self.mean) == len(self.std):
            sizes = f"{len(self.times)} times, {len(self.mean)} means and {len(self.std)} deviations"
            raise ValueError(f"{sizes}; give as many of each, at least one")
        if self.times[0] <= 0:
            raise ValueError("the first time must be after programming (above 0 s)")
        if any(value < 0 for value in self.std):
            raise ValueError("a standard deviation cannot be negative")
        _sized(self.unit, self.mean + self.std)
        return self

    def at(self, time: float) -> tuple[float, float]:
        """Mean and standard deviation at `time`, s."""
        log, logs = math.log(max(time, self.times[0])), np.log(self.times)
        return float(np.interp(log, logs, self.mean)), float(np.interp(log, logs, self.std))


class NoiseBand(Config):
    """Frequencies between which a noise lies, or at which devices switch."""

    low: Rate
    """Lowest frequency, Hz."""
    high: Rate
    """Highest frequency, Hz."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.low.value, self.high.value
        if not 0 < low < high <= low * 2.0**OCTAVES:
            raise ValueError(f"low = {low:g} Hz must be above 0 and below high = {high:g} Hz")
        return self


class TelegraphNoise(Config):
    """Devices that switch to and fro between two conductances, at random: G + and - deviation."""

    deviation: Deviation
    """Half the difference between the two, the standard deviation; a fraction is one of the conductance."""
    share: Share
    """Share of the devices that do."""
    rates: NoiseBand
    """Switches a second, log-uniform over devices: each stays 1 / rate in a state, in the mean."""


class Generic(Failing):
    """Programming error, drift, retention, read noise and stuck devices; what is not given does not happen:

        G_prog = G + sigma(G) N(0, 1)                  sigma: `programming_error` at the target
        G_d(t) = G_prog (t / t_0)^-nu                  or a table; the device's own nu (`Drift`, `DriftTable`)
        G(t)   = g_min + (G_d - g_min) exp(-t / tau)   tau: `retention`
        read   = G(t) + s(G) (sqrt(f) N(t) + sqrt(1 - f) N') + d(G) T(t)
                                                       s: `read_noise`, f: `read_noise_1f`, d: `telegraph`

    none below zero. N is slow: 1/f noise of N(0, 1) within `read_noise_band`; T is telegraph noise of +1 and -1,
    of the devices that have it (`telegraph`). N' is fast: drawn anew in every product (`fast_noise`). A device is
    stuck with the probability `stuck_low` or `stuck_high`, drawn once for each device of each chip; it has that
    conductance at every time, without noise.
    """

    model: Literal["generic"]
    """The class."""
    programming_error: Deviation | None = None
    """Standard deviation of what is written about the target; a fraction is one of the target."""
    drift: Drift | None = None
    """Power law."""
    drift_table: DriftTable | None = None
    """A table in its place."""
    retention: Duration | None = None
    """Time constant with which a conductance decays to g_min, s; None = for ever."""
    read_noise: Deviation | None = None
    """Standard deviation of readings of one device, one product apart; a fraction is one of its conductance."""
    read_noise_1f: Share | None = None
    """Share of the variance of `read_noise` that is 1/f noise. None = 0."""
    read_noise_band: NoiseBand | None = None
    """Where that noise lies; None: from 1 / `times.latest` to the fastest that readings see, 1 / 2 `t_read`."""
    telegraph: TelegraphNoise | None = None
    """Random telegraph noise, beside `read_noise`."""

    @field_validator("retention")
    @classmethod
    def _lasts(cls, retention: Cited | None) -> Cited | None:
        if retention is not None and not retention.value > 0:
            raise ValueError("it must be positive")
        return retention

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.drift is not None and self.drift_table is not None:
            raise ValueError("give drift or drift_table, not both")
        if self.read_noise_1f is not None and self.read_noise is None:
            raise ValueError("read_noise_1f is a share of read_noise, which is missing")
        if self.read_noise_band is not None and self.read_noise_1f is None:
            raise ValueError("read_noise_band is where read_noise_1f lies, which is missing")
        return self

    def program(self, target: Array, draws: Draws) -> Programmed:
        """As in the class; `kept` is z of the drift."""
        # Noise and z are always drawn: chips of two cells that differ in one field are the same chips but for it.
        noise, z = draws.normal(target.shape), draws.normal(target.shape)
        return self._written(target, noise, z, self.defects(draws, target.shape))

    def reprogram(self, devices: Programmed, draws: Draws) -> Programmed:
        """As in `Cell`: the drift of a device and whether it is stuck are its own for life."""
        return self._written(devices.target, draws.normal(devices.target.shape), devices.kept, devices.stuck)

    def _written(self, target: Array, noise: Array, kept: Array, stuck: Array | None) -> Programmed:
        g = np.broadcast_to(target, noise.shape)
        if self.programming_error is not None:
            g = g + self.programming_scale * self.programming_error.at(target) * noise
        return Programmed(target, self.held(self.settle(np.asarray(g, np.float32)), stuck), kept, stuck)

    def _drifted(self, devices: Programmed, time: float) -> Array:
        """S, without noise."""
        g, z = devices.g, devices.kept
        if self.drift is not None:
            mean, spread = self.drift.exponent.value, self.drift.spread.value if self.drift.spread else 0.0
            first = self.drift.t_0.value
            g = g * np.exp(-(mean + spread * z) * math.log(max(time, first) / first))
        elif self.drift_table is not None:
            mean, spread = self.drift_table.at(time) if time > 0 else (0.0, 0.0)
            change = mean + spread * z
            g = g * (1 + change) if self.drift_table.unit == "1" else g + change
        if self.retention is not None:
            g = self.g_min.value + (g - self.g_min.value) * math.exp(-time / self.retention.value)
        return self.settle(np.asarray(g, np.float32))

    def flicker(self, devices: Programmed, time: float) -> Flicker | None:
        """As in the class; none of stuck devices."""
        if self.read_noise is None or self._slow == 0:
            return None
        band = self.read_noise_band
        low, high = (band.low.value, band.high.value) if band is not None else self._widest
        density = math.sqrt(self._slow / math.log(high / low)) * self.read_noise.at(self._drifted(devices, time))
        return Flicker(self.working(density, devices.stuck), low, high, time)

    def switching(self, devices: Programmed, time: float, draws: Draws) -> Switching | None:
        """As in the class; none of stuck devices."""
        own = self.telegraph
        if own is None:
            return None
        deviation = self.working(own.deviation.at(self._drifted(devices, time)), devices.stuck)
        from imc_ssm.devices.processes import switching_rates

        keys, band = draws.keys("telegraph rates"), (own.rates.low.value, own.rates.high.value)
        return Switching(deviation, switching_rates(keys, deviation.shape[1:], *band, own.share.value), time)

    def read(self, devices: Programmed, time: float, draws: Draws) -> Array:
        """As in the class, but for the fast part of the noise."""
        g = self._drifted(devices, time) + draws.flicker(self.flicker(devices, time))
        g = g + draws.switching(self.switching(devices, time, draws))
        return self.held(self.settle(np.asarray(g, np.float32)), devices.stuck)

    @property
    def _widest(self) -> tuple[float, float]:
        """The band of 1/f noise whose band is not said, Hz."""
        high = 1 / (2 * self.t_read.value)
        return min(1 / self.times.latest, high / 2), high

    @property
    def _slow(self) -> float:
        return 0.0 if self.read_noise_1f is None else self.read_noise_1f.value

    def fast_noise(self, devices: Programmed, g: Array) -> Array | None:
        """As in `Cell`: s(G) sqrt(1 - f), none of stuck devices."""
        if self.read_noise is None or self._slow == 1:
            return None
        return self.working(math.sqrt(1 - self._slow) * self.read_noise.at(g), devices.stuck)
