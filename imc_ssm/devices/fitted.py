"""Cells after a published fit, which holds in the conductances that it was published for, or is rescaled."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, model_validator

from imc_ssm.devices.cell import Array, Draws, Programmed
from imc_ssm.devices.defects import Failing

__all__ = ["Fitted"]

CLOSE = 1e-6
"""Conductances that differ by less than this fraction are the same number."""


class Fitted(Failing):
    """A cell whose numbers are a fit over a window of conductances.

    A cell that uses a part of the window has the published noise at every conductance: 5 uS is as noisy whatever
    g_max is. A g_min or g_max outside the window is an error, but for `rescaling`.
    """

    rescaling: Literal["proportional"] | None = Field(default=None, exclude_if=lambda value: value is None)
    """"proportional": another device that behaves alike, all its conductances, errors and shifts in S times
    g_max over the highest of the window. None: the device of the fit."""

    @property
    @abstractmethod
    def window(self) -> tuple[float, float]:
        """The lowest and the highest conductance that the fit was published for, S."""

    @property
    def fit_g_max(self) -> float:
        """The conductance that counts as the highest of the fit, S: the window's, or g_max if rescaled to it."""
        own, high = self.g_max.value, self.window[1]
        return own if self.rescaling is not None or math.isclose(own, high, rel_tol=CLOSE) else high

    @property
    def scale(self) -> float:
        """What conductances of the fit are multiplied by: 1 but for `rescaling`."""
        return 1.0 if self.rescaling is None else self.g_max.value / self.window[1]

    @abstractmethod
    def write(self, target: Array, draws: Draws) -> Programmed:
        """As `program`, if all devices worked."""

    def program(self, target: Array, draws: Draws) -> Programmed:
        """As in the class, `write` and stuck devices."""
        return self._with(self.write(target, draws), self.defects(draws, target.shape))

    def reprogram(self, devices: Programmed, draws: Draws) -> Programmed:
        """As in `Cell`: stuck devices stay stuck, all else is drawn anew."""
        return self._with(self.write(devices.target, draws), devices.stuck)

    def _with(self, written: Programmed, stuck: Array | None) -> Programmed:
        return replace(written, g=self.held(written.g, stuck), stuck=stuck)

    @model_validator(mode="after")
    def _inside(self) -> Self:
        low, high = self.window
        for name, value in (("g_min", self.g_min.value), ("g_max", self.g_max.value)):
            if self.rescaling is None and not low * (1 - CLOSE) <= value <= high * (1 + CLOSE):
                raise ValueError(
                    f"{name} = {value * 1e6:g} uS is outside the {low * 1e6:g} to {high * 1e6:g} uS that model "
                    f"{self.model!r} is fitted for; use conductances inside, or write rescaling = "
                    '"proportional" for a device whose noise scales with g_max'
                )
        return self
