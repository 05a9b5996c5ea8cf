"""The poles of the first layer, as trained or rounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.analysis import circle_distance, rounded_coefficients
from imc_ssm.analysis.layers import layers_of
from imc_ssm.quantization import Scheme
from imc_ssm.study.jobs.base import Bench, Dimension, FromModel, Variable

if TYPE_CHECKING:
    from imc_ssm.study.declare import Study

__all__ = ["Poles", "single"]

POLE = (
    Dimension("head", "Head"),
    Dimension("state", "Complex state of a head"),
    Dimension("part", "Part of a complex number", labels=("real", "imaginary")),
)


class Poles(FromModel):
    """The poles of the first layer, rounded as a scheme says, and how many lie outside the unit circle."""

    kind = "poles"
    word = "poles"
    variables = (
        Variable("pole", "1", "Pole a of the first layer", POLE),
        Variable("poles_outside", "percent", "Share of the poles with |a| >= 1"),
    )

    scheme: Scheme | None = None
    """None: as trained."""

    @property
    def label(self) -> str:
        """The scheme's."""
        return "" if self.scheme is None else self.scheme.label

    def settings(self, study: Study) -> dict[str, Any]:
        """The scheme."""
        return {"scheme": self.scheme}

    def run(self, bench: Bench) -> xr.Dataset:
        """Round the discrete poles."""
        layer = next(iter(layers_of(bench.start().model).values()))
        before, after, _ = rounded_coefficients(layer, self.scheme or Scheme())
        a = (before if self.scheme is None else after).a
        outside = float(100.0 * np.mean(circle_distance(a) <= 0))
        return self.dataset({"pole": single(np.stack([a.real, a.imag], axis=-1)), "poles_outside": outside})


def single(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Seven digits: what the parameters have, in single precision."""
    short = [float(f"{value:.7g}") for value in np.asarray(values, float).ravel()]
    return np.array(short).reshape(np.shape(values))
