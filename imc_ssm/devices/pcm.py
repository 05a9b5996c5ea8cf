"""Phase-change memory after Nandakumar et al., ICECS 2019 (doi:10.1109/ICECS46596.2019.8964852)."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from imc_ssm.devices.cell import MICRO, Array, Cell, Draws, Programmed, polynomial
from imc_ssm.devices.library import Cited, Duration
from imc_ssm.devices.processes import Flicker

__all__ = ["PcmLike"]

PROGRAMMING = (0.26348, 1.9650, -1.1731)
"""uS at g_max = 25 uS; sigma = sum_i c_i (G / g_max)^i."""
FIT_G_MAX = 25.0
"""uS; g_max of the programming fit."""
FIT_T_READ = 250e-9
"""s; constant of the 1/f fit."""


class PcmLike(Cell):
    """Programming noise, drift and accumulated 1/f noise, with x = G / g_max and t counted from the last pulse:

        G_prog = G + sigma(x) N(0, 1)                    sigma: the published polynomial
        G(t)   = G_prog ((t + t_0) / t_0)^-nu            nu = |mu(x) + s(x) N(0, 1)|, drawn once, at programming
        mu     = -0.0155 ln x + 0.0244 in [0.049, 0.1]   s  = -0.0125 ln x - 0.0059 in [0.008, 0.045]
        read   = G(t) (1 + q sqrt(ln((t + t_0 + t_r) / 2 t_r)) N(0, 1))
        q      = 0.0088 / x_prog^0.65, at most 0.2       t_r = 250 ns

    none of them below zero. The variance of a reading is that of a spectrum q^2 / f from 1 / (t + t_0 + t_r) to
    1 / 2 t_r, and this is what each device has in time: readings a second apart, a day after programming,
    correlate by 0.35, readings a day apart hardly (`processes.flicker`).
    """

    model: Literal["pcm-like"]
    """The class: aihwkit's PCMLikeNoiseModel."""
    t_0: Duration
    """Drift starts t_0 after the last pulse, s."""
    read_scale: float = Field(default=1.0, ge=0.0)
    """Factor on the published 1/f read noise of the conductances (0 = none)."""
    drift_scale: float = Field(default=1.0, ge=0.0)
    """Factor on the published drift exponents (0 = none)."""

    @field_validator("t_0")
    @classmethod
    def _positive(cls, t_0: Cited) -> Cited:
        if not t_0.value > 0:
            raise ValueError("it must be positive")
        return t_0

    def program(self, target: Array, draws: Draws) -> Programmed:
        """As in the class; `kept` are the drift exponents nu."""
        x = target / self.g_max.value
        sigma = polynomial(PROGRAMMING, x) * (self.g_max.value / FIT_G_MAX)  # S: the fit is in uS at 25 uS
        g = target + self.programming_scale * sigma * draws.normal(target.shape)
        log = np.log(np.maximum(np.abs(x), 1e-7))
        mu = np.clip(-0.0155 * log + 0.0244, 0.049, 0.1)
        spread = np.clip(-0.0125 * log - 0.0059, 0.008, 0.045)
        nu = np.abs(mu + spread * draws.normal(target.shape)) * self.drift_scale
        return Programmed(target, self.settle(g), nu)

    def _drifted(self, devices: Programmed, time: float) -> Array:
        elapsed = time + self.t_0.value
        return np.asarray(devices.g * np.exp(-devices.kept * math.log(elapsed / self.t_0.value)))

    def flicker(self, devices: Programmed, time: float) -> Flicker | None:
        """As in the class."""
        if self.read_scale == 0:
            return None
        elapsed = time + self.t_0.value
        x = np.exp(0.65 * np.log(np.maximum(devices.g / self.g_max.value, 1e-5)))  # below it, q is 0.2
        density = self.read_scale * np.minimum(0.0088 / x, 0.2) * self._drifted(devices, time)
        return Flicker(density, 1 / (elapsed + FIT_T_READ), 1 / (2 * FIT_T_READ), elapsed)

    def read(self, devices: Programmed, time: float, draws: Draws) -> Array:
        """As in the class."""
        return self.settle(self._drifted(devices, time) + draws.flicker(self.flicker(devices, time)))

    def reference(self) -> Any:
        """aihwkit's PCMLikeNoiseModel."""
        from aihwkit.inference.noise.pcm import PCMLikeNoiseModel

        return PCMLikeNoiseModel(
            g_max=self.g_max.value / MICRO,
            t_0=self.t_0.value,
            prog_noise_scale=self.programming_scale,
            read_noise_scale=self.read_scale,
            drift_scale=self.drift_scale,
        )
