"""CMO/HfOx resistive memory after Falcone et al. 2025 (arXiv:2502.04524)."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from imc_ssm.devices.cell import MICRO, Array, Draws, Programmed, polynomial
from imc_ssm.devices.fitted import Fitted
from imc_ssm.devices.library import Cited, Number
from imc_ssm.devices.spectra import Flicker
from imc_ssm.errors import DesignError

__all__ = ["ReramCmo"]

PROGRAMMING = {0.002: (0.00081107, 0.00106879), 0.02: (0.0112185391, 0.01129027418)}
"""uS by relative acceptance range of program-and-verify; sigma = c_0 + c_1 G, G in uS."""
RELAXATION = -0.08900206
"""uS per ln(s): shift of the mean."""
RELAXATION_SPREAD = (0.41183342, 0.04201137)
"""uS: spread of the shift, c_0 + c_1 ln(t / s)."""
READ, FIT_T_READ = 0.0277316483, 1e-6
"""uS and s: constants of the 1/f fit."""


class ReramCmo(Fitted):
    """Programming noise, relaxation and 1/f noise; G in uS, t in s:

        G_prog = G + sigma(G) N(0, 1)                                 sigma: the published line
        G(t)   = G_prog - 0.089 ln t + (0.412 + 0.042 ln t) z         z ~ N(0, 1), one for each device for life
        read   = G(t) + 0.0277 log10 G(t) sqrt(ln((t + t_r) / 2 t_r)) N(0, 1)   t_r = 1 us

    all of them kept in [g_min, g_max], or above zero alone (`clamp`). The fit gives the spread at each time alone.
    That it is a line in ln t, as the mean is, is what devices have that relax along lines of their own; steps that
    are independent would widen it as a root. Read noise has the spectrum of its variance, 1/f from 1 / (t + t_r)
    to 1 / 2 t_r. In a rescaled cell every uS of the fit is g_max / 88.2.
    """

    model: Literal["reram-cmo"]
    """The class: aihwkit's ReRamCMONoiseModel."""
    acceptance_range: Number
    """Relative half-width of the program-and-verify window, 0.002 or 0.02."""
    read_scale: float = Field(default=1.0, ge=0.0)
    """Factor on the published 1/f read noise of the conductances (0 = none)."""
    drift_scale: float = Field(default=1.0, ge=0.0)
    """Factor on the published relaxation, its mean and spread (0 = none)."""
    clamp: Literal["window", "physical"] = Field(default="window", exclude_if=lambda value: value == "window")
    """"window": conductances end at g_min and g_max, as in aihwkit. "physical": they do not become negative."""

    @field_validator("acceptance_range")
    @classmethod
    def _measured(cls, acceptance: Cited) -> Cited:
        if acceptance.value not in PROGRAMMING:
            raise ValueError(f"measured are {tuple(PROGRAMMING)} (relative)")
        return acceptance

    @property
    def window(self) -> tuple[float, float]:
        """9 to 88.2 uS."""
        return 9e-6, 88.2e-6

    @property
    def limits(self) -> tuple[float, float]:
        """As `clamp` says."""
        return (self.g_min.value, self.g_max.value) if self.clamp == "window" else super().limits

    @property
    def unit(self) -> float:
        """S: what a uS of the fit stands for."""
        return MICRO * self.scale

    def write(self, target: Array, draws: Draws) -> Programmed:
        """As in the class; `kept` is z."""
        sigma = self.unit * polynomial(PROGRAMMING[self.acceptance_range.value], target / self.unit)
        g = target + self.programming_scale * sigma * draws.normal(target.shape)
        return Programmed(target, self.settle(g), draws.normal(target.shape))

    def _relaxed(self, devices: Programmed, time: float) -> Array:
        """In uS of the fit."""
        log = math.log(time)
        spread = RELAXATION_SPREAD[0] + RELAXATION_SPREAD[1] * log
        return devices.g / self.unit + self.drift_scale * (RELAXATION * log + spread * devices.kept)

    def flicker(self, devices: Programmed, time: float) -> Flicker | None:
        """As in the class."""
        if self.read_scale == 0:
            return None
        g = self._relaxed(devices, time)
        log = np.log10(np.maximum(g, 1))  # the noise of the fit ends at 1 uS, far below its window
        density = self.unit * self.read_scale * READ * log
        return Flicker(self.working(density, devices.stuck), 1 / (time + FIT_T_READ), 1 / (2 * FIT_T_READ), time)

    def read(self, devices: Programmed, time: float, draws: Draws) -> Array:
        """As in the class."""
        g = self.unit * self._relaxed(devices, time) + draws.flicker(self.flicker(devices, time))
        return self.held(self.settle(np.asarray(g, np.float32)), devices.stuck)

    def reference(self) -> Any:
        """aihwkit's ReRamCMONoiseModel; `DesignError` if aihwkit does not take the acceptance range."""
        from aihwkit.inference.noise.reram import ReRamCMONoiseModel

        percent = round(100 * self.acceptance_range.value, 6)
        model = ReRamCMONoiseModel(
            g_max=self.g_max.value / self.unit,
            g_min=self.g_min.value / self.unit,
            prog_noise_scale=self.programming_scale,
            read_noise_scale=self.read_scale,
            drift_scale=self.drift_scale,
            acceptance_range=percent,  # in percent; any unknown value silently means 0.2
        )
        if model.acceptance_range != percent:
            raise DesignError(f"cell {self.name!r}: aihwkit has no acceptance range of {percent} %")
        if self.clamp == "physical":  # beyond its making, aihwkit uses both as the limits alone
            model.g_min, model.g_max, model.coeff_g_max_reference = 0.0, 1e9, 1e9
        return model
