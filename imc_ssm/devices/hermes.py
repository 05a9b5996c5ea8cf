"""Phase-change memory of IBM's HERMES chip: Le Gallo et al., Nature Electronics 6:680 (2023).

doi:10.1038/s41928-023-01010-1; the fits are those that its authors published in aihwkit (HermesNoiseModel, 1.1.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from imc_ssm.devices.cell import Array, polynomial
from imc_ssm.devices.pcm import PhaseChange
from imc_ssm.errors import DesignError

__all__ = ["Hermes"]


@dataclass(frozen=True)
class Branches:
    """y(x) = clip(slope ln x + offset, low, high) below x = `end`, a polynomial from there on."""

    end: float
    slope: float
    offset: float
    low: float
    high: float
    above: tuple[float, ...]

    def at(self, x: Array) -> Array:
        logarithmic = np.clip(self.slope * np.log(np.maximum(x, 1e-7)) + self.offset, self.low, self.high)
        return np.where(x < self.end, logarithmic, polynomial(self.above, x)).astype(np.float32)


@dataclass(frozen=True)
class Fit:
    """One unit cell: its highest characterised conductance in S, and what was fitted against x = G / g_max."""

    g_max: float
    programming: tuple[float, ...]
    """uS; sigma = sum_i c_i x^i."""
    spread: Branches
    """Deviation of the drift exponents."""
    noise: Branches
    """1/f noise, relative."""


EXPONENT = Branches(0.0945, -0.0387, -0.0182, 0.0720, 0.13, (0.0736, -0.0126, -0.0436))
"""Mean of the drift exponents, the same for both."""
FITS = {
    "single": Fit(
        10.35e-6,
        (0.15781817, 2.32443916, -2.16310839, 0.68841818),
        Branches(0.3039, -0.0120, -0.0023, 0.0124, 0.04, (0.0104, 0.0116, -0.0165)),
        Branches(0.1591, -0.0078, 0.0038, 0.0179, 0.04, (0.0088, 0.0768, -0.1352, 0.0664)),
    ),
    "dual": Fit(
        20.7e-6,
        (0.16603222, 4.71806468, -8.48101252, 4.68961419),
        Branches(0.3055, -0.0117, -0.0057, 0.0091, 0.04, (0.0073, 0.0093, -0.0118)),
        Branches(0.16, -0.0117, -0.0069, 0.0150, 0.04, (0.0123, 0.0211, -0.0280, 0.0069)),
    ),
}
"""By unit cell."""


class Hermes(PhaseChange):
    """Doped-GST mushroom cells at 14 nm, alone or two in parallel that are written as one; see `PhaseChange`:

        single   at most 10.35 uS, programmed by iterations
        dual     at most 20.7 uS, the second device takes what the first one missed (Vasilopoulos et al., TED 70
                 (2023)); for drift both are taken to hold the same conductance, which is worse than measured

    sigma is a cubic in x; mu, s and q are logarithmic in x below an `end` and polynomials above; t_r = 512 ns.
    """

    model: Literal["hermes"]
    """The class: aihwkit's HermesNoiseModel."""
    unit_cell: Literal["single", "dual"]
    """One device, or two in parallel that are one cell here: area and conductance are those of both."""

    fit_t_read: ClassVar[float] = 512e-9

    @property
    def window(self) -> tuple[float, float]:
        """0 to 10.35 or 20.7 uS."""
        return 0.0, FITS[self.unit_cell].g_max

    def programming(self, x: Array) -> Array:
        """As in the class."""
        return polynomial(FITS[self.unit_cell].programming, x)

    def exponents(self, x: Array) -> tuple[Array, Array]:
        """As in the class."""
        return EXPONENT.at(np.abs(x)), FITS[self.unit_cell].spread.at(np.abs(x))

    def relative_noise(self, x: Array) -> Array:
        """As in the class."""
        return FITS[self.unit_cell].noise.at(x)

    def reference(self) -> Any:
        """aihwkit's HermesNoiseModel; `DesignError` for a cell that is rescaled beyond what aihwkit takes."""
        from aihwkit.inference.noise.hermes import HermesNoiseModel

        try:
            return HermesNoiseModel(
                num_devices=1 if self.unit_cell == "single" else 2, **self.reference_arguments()
            )
        except AssertionError as error:
            raise DesignError(f"cell {self.name!r}: aihwkit refuses it ({error}); use noise='native'") from None
