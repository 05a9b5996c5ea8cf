"""Phase-change memory after Nandakumar et al., ICECS 2019 (doi:10.1109/ICECS46596.2019.8964852)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from imc_ssm.devices.cell import MICRO, Array, Draws, Programmed, polynomial
from imc_ssm.devices.fitted import Fitted
from imc_ssm.devices.library import Cited, Duration
from imc_ssm.devices.spectra import Flicker

__all__ = ["PcmLike", "PhaseChange"]

PROGRAMMING = (0.26348, 1.9650, -1.1731)
"""uS at g_max = 25 uS; sigma = sum_i c_i (G / g_max)^i."""


class PhaseChange(Fitted):
    """Programming noise, drift and accumulated 1/f noise, with x = G / g_max and t counted from the last pulse:

        G_prog = G + sigma(x) N(0, 1)
        G(t)   = G_prog ((t + t_0) / t_0)^-nu            nu = |mu(x) + s(x) N(0, 1)|, drawn once, at programming
        read   = G(t) (1 + q(x_prog) sqrt(ln((t + t_0 + t_r) / 2 t_r)) N(0, 1))

    none of them below zero; a class below gives the fitted sigma, mu, s, q and t_r, g_max is that of the fit. The
    variance of a reading is that of a spectrum q^2 / f from 1 / (t + t_0 + t_r) to 1 / 2 t_r, which is what each
    device has in time: readings of `pcm-like` a second apart, a day after programming, correlate by 0.35, readings
    a day apart hardly (`processes.flicker`).
    """

    t_0: Duration
    """Drift starts t_0 after the last pulse, s."""
    read_scale: float = Field(default=1.0, ge=0.0)
    """Factor on the published 1/f read noise of the conductances (0 = none)."""
    drift_scale: float = Field(default=1.0, ge=0.0)
    """Factor on the published drift exponents (0 = none)."""

    fit_t_read: ClassVar[float]
    """t_r, the constant of the 1/f fit, s."""

    @field_validator("t_0")
    @classmethod
    def _positive(cls, t_0: Cited) -> Cited:
        if not t_0.value > 0:
            raise ValueError("it must be positive")
        return t_0

    @abstractmethod
    def programming(self, x: Array) -> Array:
        """sigma(x) in uS, for a device with the g_max of the fit."""

    @abstractmethod
    def exponents(self, x: Array) -> tuple[Array, Array]:
        """mu(x) and s(x), of the drift exponents."""

    @abstractmethod
    def relative_noise(self, x: Array) -> Array:
        """q(x), of the 1/f noise, for x as programmed."""

    def write(self, target: Array, draws: Draws) -> Programmed:
        """As in the class; `kept` are the drift exponents nu."""
        x = target / self.fit_g_max
        sigma = self.programming(x) * (self.fit_g_max / (self.window[1] / MICRO))  # S: the fit is in uS
        g = target + self.programming_scale * sigma * draws.normal(target.shape)
        mu, spread = self.exponents(x)
        nu = np.abs(mu + spread * draws.normal(target.shape)) * self.drift_scale
        return Programmed(target, self.settle(g), np.asarray(nu, np.float32))

    def _drifted(self, devices: Programmed, time: float) -> Array:
        elapsed = time + self.t_0.value
        return np.asarray(devices.g * np.exp(-devices.kept * math.log(elapsed / self.t_0.value)))

    def flicker(self, devices: Programmed, time: float) -> Flicker | None:
        """As in the class."""
        if self.read_scale == 0:
            return None
        elapsed = time + self.t_0.value
        density = self.read_scale * self.relative_noise(devices.g / self.fit_g_max) * self._drifted(devices, time)
        return Flicker(
            self.working(density, devices.stuck),
            1 / (elapsed + self.fit_t_read),
            1 / (2 * self.fit_t_read),
            elapsed,
        )

    def read(self, devices: Programmed, time: float, draws: Draws) -> Array:
        """As in the class."""
        g = self.settle(self._drifted(devices, time) + draws.flicker(self.flicker(devices, time)))
        return self.held(g, devices.stuck)

    def reference_arguments(self) -> dict[str, Any]:
        """What aihwkit's models of phase-change memory are made with."""
        return {
            "g_max": self.fit_g_max / MICRO,
            "t_0": self.t_0.value,
            "prog_noise_scale": self.programming_scale,
            "read_noise_scale": self.read_scale,
            "drift_scale": self.drift_scale,
        }


class PcmLike(PhaseChange):
    """The mushroom cells of a 90 nm array of a million devices, at most 25 uS; see `PhaseChange`:

    sigma = 0.26348 + 1.9650 x - 1.1731 x^2 uS
    mu    = -0.0155 ln x + 0.0244 in [0.049, 0.1]      s   = -0.0125 ln x - 0.0059 in [0.008, 0.045]
    q     = 0.0088 / x^0.65, at most 0.2               t_r = 250 ns
    """

    model: Literal["pcm-like"]
    """The class: aihwkit's PCMLikeNoiseModel."""

    fit_t_read: ClassVar[float] = 250e-9

    @property
    def window(self) -> tuple[float, float]:
        """0 to 25 uS."""
        return 0.0, 25e-6

    def programming(self, x: Array) -> Array:
        """As in the class."""
        return polynomial(PROGRAMMING, x)

    def exponents(self, x: Array) -> tuple[Array, Array]:
        """As in the class."""
        log = np.log(np.maximum(np.abs(x), 1e-7))
        return np.clip(-0.0155 * log + 0.0244, 0.049, 0.1), np.clip(-0.0125 * log - 0.0059, 0.008, 0.045)

    def relative_noise(self, x: Array) -> Array:
        """As in the class."""
        return np.minimum(0.0088 / np.exp(0.65 * np.log(np.maximum(x, 1e-5))), 0.2)  # below 1e-5 q is 0.2

    def reference(self) -> Any:
        """aihwkit's PCMLikeNoiseModel."""
        from aihwkit.inference.noise.pcm import PCMLikeNoiseModel

        return PCMLikeNoiseModel(**self.reference_arguments())
