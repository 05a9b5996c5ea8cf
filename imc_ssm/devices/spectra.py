"""What noise a device has, by its spectrum; `processes` draws it, with compiled passes that need torch to load."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["OCTAVES", "Flicker", "Switching"]

Array = npt.NDArray[np.float32]
OCTAVES = 128
"""Octaves of 1/f noise, at most: a band of 1 to 3e38."""


@dataclass(frozen=True, eq=False)
class Flicker:
    """1/f noise of devices: S(f) = density^2 / f from `low` to `high`."""

    density: Array
    """(chips, ...), S: standard deviation within a factor e of frequencies."""
    low: float
    """Lowest frequency, Hz."""
    high: float
    """Highest frequency, Hz."""
    time: float
    """When the devices are read, s."""


@dataclass(frozen=True, eq=False)
class Switching:
    """Random telegraph noise of devices: each sits at plus or minus its deviation."""

    deviation: Array
    """(chips, ...), S: half the difference between the two states, the standard deviation."""
    rate: Array
    """(chips, ...): switches a second; 0: the device has none."""
    time: float
    """When the devices are read, s."""
