"""What rounding does to the convolution kernel of the first layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from pydantic import Field

from imc_ssm.analysis import kernel_errors, rounded_coefficients, step_grid
from imc_ssm.analysis.layers import layers_of
from imc_ssm.analysis.poles import PARTS
from imc_ssm.quantization import Scheme
from imc_ssm.study.jobs.base import Bench, Dimension, FromModel, Variable
from imc_ssm.study.jobs.poles import single

if TYPE_CHECKING:
    from imc_ssm.study.declare import Study

__all__ = ["Kernel"]

QUANTILES = (0.1, 0.5, 0.9)
ERROR = (
    Dimension("rounded", "Coefficients that are rounded", labels=tuple(PARTS)),
    Dimension("quantile", "Quantile over the heads", labels=QUANTILES),
    Dimension("step", "Number of steps"),
)


class Kernel(FromModel):
    """Relative error of the first layer's kernel over up to `steps` steps, quantiles over the heads."""

    kind = "kernel"
    word = "kernel"
    variables = (Variable("kernel_error", "1", "Relative error of the kernel's first steps", ERROR),)

    scheme: Scheme
    """How the coefficients are rounded."""
    steps: int = Field(ge=1)
    """Longest part of the kernel."""

    @property
    def label(self) -> str:
        """The scheme's."""
        return self.scheme.label

    def settings(self, study: Study) -> dict[str, Any]:
        """Scheme and steps."""
        return {"scheme": self.scheme, "steps": self.steps}

    def run(self, bench: Bench) -> xr.Dataset:
        """Compare the kernels before and after rounding."""
        layer = next(iter(layers_of(bench.start().model).values()))
        before, after, _ = rounded_coefficients(layer, self.scheme)
        steps = step_grid(self.steps)
        errors = kernel_errors(before, after, steps)  # (part, head, step)
        # the nearest rank: an infinite error must not become NaN between two ranks
        quantiles = np.quantile(errors, QUANTILES, axis=1, method="nearest").swapaxes(0, 1)
        return self.dataset({"kernel_error": single(quantiles)}, {"step": steps})
