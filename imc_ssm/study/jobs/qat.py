"""Quantization-aware training, from the calibrated PTQ model."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from imc_ssm.modelfile import StoredModel
from imc_ssm.quantization import Scheme
from imc_ssm.study.chips import ChipTraining, OnDesign, training_for
from imc_ssm.study.jobs.base import FORWARD, Bench, FromModel
from imc_ssm.study.jobs.train import ACCURACY, CURVES, curves
from imc_ssm.training import TrainConfig

if TYPE_CHECKING:
    from imc_ssm.study.declare import Study
    from imc_ssm.study.workplace import Workplace

__all__ = ["Qat"]


class Qat(FromModel):
    """Test accuracy after quantization-aware training, and the curves of all epochs."""

    kind = "qat"
    word = "QAT"
    variables = (ACCURACY, *CURVES)
    update_s = 1.6e-9  # s4d-16h on 50,000 sequences of 784 steps, batch 64: about 35 s an epoch
    leaves_model = True

    scheme: Scheme
    """How the model is quantized."""
    training: TrainConfig | None = None
    """Numbers of this QAT alone; None: those of the recipe. The model that it starts from is the same, and the
    teacher where they distill."""
    chip: OnDesign | None = None
    """The design that it trains for (`chip.training_for`), from these numbers; None: no chip."""

    @property
    def label(self) -> str:
        """The scheme's, and the chip's name."""
        return self.scheme.label if self.chip is None else f"{self.scheme.label} for {self.chip.name}"

    def _training(self, study: Study) -> TrainConfig:
        given = study.recipe_of(self).qat if self.training is None else self.training
        return given if self.chip is None else self._met(given).config

    @functools.cached_property
    def _recipes(self) -> dict[str, ChipTraining]:
        return {}

    def _met(self, given: TrainConfig) -> ChipTraining:
        """The recipe for the chip, kept: keys ask for it often."""
        assert self.chip is not None
        text = given.to_json()
        if text not in self._recipes:
            self._recipes[text] = training_for(self.chip, given)
        return self._recipes[text]

    def settings(self, study: Study) -> dict[str, Any]:
        """Scheme, calibration and training numbers, and what a chip does to it."""
        recipe = study.recipe_of(self)
        given = self._training(study)
        chip = None if self.chip is None else self._met(given).written["disturbance"]
        return {
            "scheme": self.scheme,
            "calibration": recipe.calibration,
            "calibration_from": recipe.calibration_from,
            "training": given,
            "chip": chip,
            "keep": recipe.keep if chip is None else "last",
        }

    def work(self, study: Study, shape: Mapping[str, Any]) -> float:
        """Every epoch forward and back, with its validation; validation before, and the test."""
        sizes = shape["splits"]
        epochs = self._training(study).epochs * (sizes["train"] + FORWARD * sizes["validation"])
        return float(epochs + FORWARD * (sizes["validation"] + sizes["test"]))

    def path(self, place: Workplace, seed: int) -> Path:
        """In `runs/`."""
        return place.run_path(self, seed, ".safetensors")

    def load(self, bench: Bench) -> StoredModel | None:
        """The model file."""
        return bench.place.stored_model(self, bench.seed)

    def run(self, bench: Bench) -> xr.Dataset:
        """Calibrate and train."""
        start = time.perf_counter()
        exact = bench.start().model
        model = bench.quantized(exact, self.scheme)
        valid = bench.accuracy(model, "validation")
        config = self._training(bench.study).with_(seed=bench.seed)
        met = None if self.chip is None else self._met(config)
        teacher = exact if config.distill else None
        history, before = bench.fit(
            model, config, disturbance=None if met is None else met.disturbance, teacher=teacher
        )
        reached = bench.accuracy(model, "test")
        took = time.perf_counter() - start + before
        more = {} if met is None else {"chip_training": met.written}
        bench.store(model, config, history=history, accuracy_test=reached, time_s=took, **more)
        return self.dataset({"accuracy": reached, **curves(history, valid)}).assign_attrs(compute_time_s=took)
