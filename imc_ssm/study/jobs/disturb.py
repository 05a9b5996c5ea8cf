"""Test accuracy with Gaussian noise on poles and matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import xarray as xr
from pydantic import Field

from imc_ssm.noise import Injection
from imc_ssm.study.chips import stream_seed
from imc_ssm.study.jobs.base import FORWARD, Bench, Dimension, FromModel, Variable
from imc_ssm.training import accuracy

if TYPE_CHECKING:
    from imc_ssm.study.declare import Study

__all__ = ["Disturb"]


class Disturb(FromModel):
    """Test accuracy with Gaussian noise that is drawn once a test (`noise.Injection`); a model in any precision.

    Noise comes on top of the grids of a quantized model: the codes are what an analog memory was told to hold.
    """

    kind = "disturb"
    word = "disturb"
    variables = (
        Variable(
            "accuracy_disturbed",
            "percent",
            "Test accuracy with noise",
            (Dimension("draw", "Draw of the noise"),),
            test=True,
        ),
    )
    update_s = 1.6e-9

    poles: float = Field(0.0, ge=0, lt=1)
    """Standard deviation on real and imaginary parts of poles, relative to the largest of their head."""
    weights: float = Field(0.0, ge=0, lt=1)
    """Standard deviation on weights of matrices, relative to the largest of their column."""
    draws: int = Field(5, ge=1)
    """How often it is drawn."""

    @property
    def label(self) -> str:
        """Both deviations."""
        return f"poles {self.poles:g} weights {self.weights:g}"

    def settings(self, study: Study) -> dict[str, Any]:
        """The noise."""
        return {"poles": self.poles, "weights": self.weights, "draws": self.draws}

    def work(self, study: Study, shape: Mapping[str, Any]) -> float:
        """The test sequences at every draw."""
        return FORWARD * float(self.draws * shape["splits"]["test"])

    def run(self, bench: Bench) -> xr.Dataset:
        """Draw and test; the same draws, scaled, at every size of the noise."""
        model, test, found = bench.start().model, bench.data.split("test"), []
        for draw in range(self.draws):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(stream_seed("disturb", bench.seed, draw))
                with Injection(model, weights=self.weights, poles=self.poles):
                    found.append(accuracy(model, test))
            bench.progress(draw + 1, self.draws, f"draw {draw + 1}/{self.draws}")
        return self.dataset({"accuracy_disturbed": found})
