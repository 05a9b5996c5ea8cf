"""Post-training quantization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import xarray as xr

from imc_ssm.modelfile import StoredModel
from imc_ssm.quantization import Scheme
from imc_ssm.study.jobs.base import FORWARD, Bench, FromModel
from imc_ssm.study.jobs.train import ACCURACY

if TYPE_CHECKING:
    from imc_ssm.study.declare import Study

__all__ = ["Ptq"]


class Ptq(FromModel):
    """Test accuracy after calibration alone."""

    kind = "ptq"
    word = "PTQ"
    variables = (ACCURACY,)
    update_s = 1.6e-9
    leaves_model = True

    scheme: Scheme
    """How the model is quantized."""

    @property
    def label(self) -> str:
        """The scheme's."""
        return self.scheme.label

    def settings(self, study: Study) -> dict[str, Any]:
        """Scheme and calibration."""
        recipe = study.recipe_of(self)
        return {
            "scheme": self.scheme,
            "calibration": recipe.calibration,
            "calibration_from": recipe.calibration_from,
        }

    def work(self, study: Study, shape: Mapping[str, Any]) -> float:
        """Calibration and test, forward."""
        return FORWARD * float(shape["splits"]["test"] + study.recipe_of(self).calibration)

    def load(self, bench: Bench) -> StoredModel:
        """Calibrated anew: that takes less than a file would be worth."""
        model = bench.quantized(bench.start().model, self.scheme)
        return StoredModel(model, self.scheme, {"task": bench.study.task})

    def run(self, bench: Bench) -> xr.Dataset:
        """Calibrate and test."""
        return self.dataset({"accuracy": bench.accuracy(self.load(bench).model, "test")})
