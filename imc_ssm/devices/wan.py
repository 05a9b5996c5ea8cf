"""HfOx resistive memory after Wan et al., Nature 608:504 (2022) (doi:10.1038/s41586-022-04992-8)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from imc_ssm.devices.cell import MICRO, Array, Draws, Programmed, Times, polynomial
from imc_ssm.devices.fitted import Fitted

__all__ = ["ReramWan2022"]

SPREAD = {
    1.0: (0.348, 16.030, -43.853, 45.393, -16.815),
    86400.0: (0.701, 22.086, -50.773, 47.095, -16.458),
    172800.0: (0.782, 20.274, -43.507, 37.062, -11.934),
}
"""uS by time after programming in s; sigma = sum_i c_i (G / g_max)^i."""


class ReramWan2022(Fitted):
    """The spread about the target, measured at three times, the first of which is the programmed state:

    G(t) = max(G + sigma_t(G / g_max) z, 0)   z ~ N(0, 1), one for each device for life; g_max is that of the fit

    The fit says nothing about a device from one time to the next; that each keeps its place in the spread is the
    simplest that has these spreads, and keeps errors as much alike as they can be.
    """

    model: Literal["reram-wan2022"]
    """The class: aihwkit's ReRamWan2022NoiseModel. It has one noise: `programming_scale` scales all of it."""

    @property
    def window(self) -> tuple[float, float]:
        """1 to 40 uS."""
        return 1e-6, 40e-6

    @field_validator("times")
    @classmethod
    def _measured(cls, times: Times) -> Times:
        if times.only != tuple(SPREAD):
            raise ValueError(f"model 'reram-wan2022' exists at these times only: only = {list(SPREAD)} s")
        return times

    def _spread(self, target: Array, z: Array, time: float) -> Array:
        sigma = MICRO * self.scale * polynomial(SPREAD[time], target / self.fit_g_max)
        return self.settle(target + self.programming_scale * sigma * z)

    def write(self, target: Array, draws: Draws) -> Programmed:
        """The spread at the first time; `kept` is z."""
        z = draws.normal(target.shape)
        return Programmed(target, self._spread(target, z, min(SPREAD)), z)

    def read(self, devices: Programmed, time: float, draws: Draws) -> Array:
        """As in the class; the programmed state at the first time."""
        return self.held(self._spread(devices.target, devices.kept, time), devices.stuck)

    def reference(self) -> Any:
        """aihwkit's ReRamWan2022NoiseModel, at the g_max of the fit: its default stretches it 1.6 times."""
        from aihwkit.inference.noise.reram import ReRamWan2022NoiseModel

        # its spread stays in uS whatever g_max is
        scale = self.programming_scale * self.scale
        return ReRamWan2022NoiseModel(g_max=self.fit_g_max / MICRO, noise_scale=scale)
