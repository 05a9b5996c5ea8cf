"""Cells with devices that do not work: stuck at one conductance for life."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from imc_ssm.devices.cell import Array, Cell, Draws
from imc_ssm.devices.library import Conductance, Share

__all__ = ["Failing"]

WORKS, LOW, HIGH = 0, 1, 2
"""What `Programmed.stuck` says of a device."""


def _unsaid(value: Any) -> bool:
    return value is None


class Failing(Cell):
    """A cell of which some devices are stuck, drawn once for each device of each chip.

    A stuck device has its conductance at every time, whatever is written, without noise. It is stuck by one number
    of its own: a higher rate adds stuck devices to those of a lower one, and changes no other.
    """

    stuck_low: Share | None = Field(default=None, exclude_if=_unsaid)
    """Probability that a device is stuck at `g_stuck_low`."""
    stuck_high: Share | None = Field(default=None, exclude_if=_unsaid)
    """Probability that a device is stuck at `g_stuck_high`."""
    g_stuck_low: Conductance | None = Field(default=None, exclude_if=_unsaid)
    """Conductance of a device that is stuck low, S; None = g_min."""
    g_stuck_high: Conductance | None = Field(default=None, exclude_if=_unsaid)
    """Conductance of a device that is stuck high, S; None = g_max."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if sum(self.rates) > 1:
            raise ValueError(f"stuck_low + stuck_high = {sum(self.rates):g}; allowed is at most 1")
        return self

    @property
    def rates(self) -> tuple[float, float]:
        """As in `Cell`."""
        low, high = self.stuck_low, self.stuck_high
        return 0.0 if low is None else low.value, 0.0 if high is None else high.value

    def defects(self, draws: Draws, shape: tuple[int, ...]) -> Array | None:
        """As in `Cell`; None where no device can be stuck."""
        low, high = self.rates
        if low + high == 0:
            return None
        uniform = draws.uniform(shape)
        return np.where(uniform < low, LOW, np.where(uniform >= 1 - high, HIGH, WORKS)).astype(np.float32)

    def held(self, g: Array, stuck: Array | None) -> Array:
        """As in `Cell`."""
        if stuck is None:
            return g
        low, high = self.g_stuck_low or self.g_min, self.g_stuck_high or self.g_max
        g = np.where(stuck == LOW, np.float32(low.value), g)
        return np.where(stuck == HIGH, np.float32(high.value), g)

    def working(self, noise: npt.NDArray[np.floating[Any]], stuck: Array | None) -> Array:
        """`noise`, S, without that of stuck devices."""
        if stuck is None:
            return noise.astype(np.float32)
        return np.where(stuck == WORKS, noise, np.float32(0)).astype(np.float32)
