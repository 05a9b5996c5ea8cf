"""Training in full precision."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xarray as xr

from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.modelfile import StoredModel
from imc_ssm.study.jobs.base import FORWARD, Bench, Dimension, Job, Variable
from imc_ssm.training import TrainConfig

if TYPE_CHECKING:
    from imc_ssm.study.declare import Study
    from imc_ssm.study.workplace import Workplace

__all__ = ["ACCURACY", "CURVES", "Train", "curves"]

EPOCH = Dimension("epoch", "Epochs of training done")
ACCURACY = Variable("accuracy", "percent", "Test accuracy", test=True)
CURVES = (
    Variable(
        "accuracy_validation", "percent", "Validation accuracy after an epoch (0: before training)", (EPOCH,)
    ),
    Variable("loss_train", "1", "Mean cross-entropy of the training sequences in an epoch", (EPOCH,)),
)


class Train(Job):
    """Test accuracy of a model trained in full precision, and the curves of all epochs."""

    kind = "train"
    word = "train"
    variables = (ACCURACY, *CURVES)
    update_s = 2.1e-9  # s4d-16h on 50,000 sequences of 784 steps, batch 512: about 45 s an epoch
    leaves_model = True

    model: str | ModelConfig
    """A model of the study by name, or any configuration."""
    training: TrainConfig | None = None
    """Training numbers of this job alone; None: those of the recipe."""

    @property
    def name(self) -> str:
        """The model's name, "model" where it has none."""
        return self.model if isinstance(self.model, str) else "model"

    def architecture(self, study: Study) -> ModelConfig:
        """The configuration of the model."""
        return study.model(self.model) if isinstance(self.model, str) else self.model

    def _training(self, study: Study) -> TrainConfig:
        return study.recipe_of(self).pretraining if self.training is None else self.training

    def settings(self, study: Study) -> dict[str, Any]:
        """Model, training numbers and mode."""
        recipe = study.recipe_of(self)
        own = {"model": self.architecture(study), "training": self._training(study)}
        return own | {"mode": recipe.mode, "keep": recipe.keep}

    def work(self, study: Study, shape: Mapping[str, Any]) -> float:
        """Every epoch forward and back, with its validation, and the test."""
        sizes = shape["splits"]
        epochs = self._training(study).epochs
        return float(epochs * (sizes["train"] + FORWARD * sizes["validation"]) + FORWARD * sizes["test"])

    def path(self, place: Workplace, seed: int) -> Path:
        """In `models/`, unless the model or its training is not the study's."""
        usual = isinstance(self.model, str) and place.study.key(self, seed) == place.study.key(
            Train(model=self.model), seed
        )
        if not usual:
            return place.run_path(self, seed, ".safetensors")
        return place.models / f"{self.model}-seed{seed}.safetensors"

    def load(self, bench: Bench) -> StoredModel | None:
        """The model file."""
        return bench.place.stored_model(self, bench.seed)

    def run(self, bench: Bench) -> xr.Dataset:
        """Train, unless the model is there."""
        stored = self.load(bench)
        if stored is None:
            start = time.perf_counter()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(bench.seed)
                model = Classifier(self.architecture(bench.study))
            config = self._training(bench.study).with_(seed=bench.seed)
            mode = bench.study.recipe_of(self).mode
            history, before = bench.fit(model, config, mode)
            reached = bench.accuracy(model, "test")
            took = time.perf_counter() - start + before
            stored = bench.store(model, config, mode=mode, history=history, accuracy_test=reached, time_s=took)
        ds = self.dataset(
            {"accuracy": stored.info["accuracy_test"], **curves(stored.info["history"], float("nan"))}
        )
        return ds.assign_attrs(compute_time_s=stored.info["time_s"])


def curves(history: dict[str, list[float]], before: float) -> dict[str, list[float]]:
    """Epoch 0 is before training, with the validation accuracy `before`; there is no loss of it."""
    return {
        "accuracy_validation": [before, *history["accuracy_validation"]],
        "loss_train": [float("nan"), *history["loss_train"]],
    }
