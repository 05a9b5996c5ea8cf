"""What each kind of job does, and what it measures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from imc_ssm.analysis import circle_distance, kernel_errors, rounded_coefficients, step_grid
from imc_ssm.analysis.layers import layers_of
from imc_ssm.analysis.poles import PARTS
from imc_ssm.errors import ImcSsmError
from imc_ssm.experiment.declare import Job, start_of
from imc_ssm.experiment.workplace import Workplace
from imc_ssm.layers import Classifier
from imc_ssm.modelfile import StoredModel, save_model
from imc_ssm.quantization import Scheme, calibration_batch, quantize
from imc_ssm.training import Progress, TrainConfig, accuracy, train

__all__ = ["DIMENSIONS", "LABELS", "VARIABLES", "Measured", "perform"]

VARIABLES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "accuracy": ((), "percent", "Test accuracy"),
    "accuracy_validation": (("epoch",), "percent", "Validation accuracy after an epoch (0: before training)"),
    "loss_train": (("epoch",), "1", "Mean cross-entropy of the training sequences in an epoch"),
    "pole": (("head", "state", "part"), "1", "Pole a of the first layer"),
    "poles_outside": ((), "percent", "Share of the poles with |a| >= 1"),
    "kernel_error": (("rounded", "quantile", "step"), "1", "Relative error of the kernel's first steps"),
}
"""What jobs measure: dimensions beside those of the experiment, units, long name."""
DIMENSIONS = {
    "epoch": "Epochs of training done",
    "head": "Head",
    "state": "Complex state of a head",
    "part": "Part of a complex number",
    "rounded": "Coefficients that are rounded",
    "quantile": "Quantile over the heads",
    "step": "Number of steps",
}
"""Long names of these dimensions; they are pure numbers or names."""
LABELS: dict[str, list[Any]] = {
    "part": ["real", "imaginary"],
    "rounded": list(PARTS),
    "quantile": [0.1, 0.5, 0.9],
}
"""Coordinates of these dimensions, where they are always the same."""


@dataclass
class Measured:
    """What a job gives."""

    values: dict[str, Any]
    time_s: float
    labels: dict[str, list[float]] = field(default_factory=dict)


def perform(place: Workplace, job: Job, seed: int, progress: Progress) -> Measured:
    """Compute a job whose full-precision model is there (or is made, for kind "full").

    Trainings keep a checkpoint in `runs/`, so that the same call goes on from the last whole epoch; it is to be
    removed when the result is safe. Raises `ImcSsmError` for a training that diverges (its checkpoint is
    removed) and everything that bad input raises.
    """
    return _KINDS[job.kind](place, job, seed, progress)


def _full(place: Workplace, job: Job, seed: int, progress: Progress) -> Measured:
    stored = place.stored_model(job, seed)
    if stored is None:
        start = time.perf_counter()
        recipe = place.study.recipe_of(job)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Classifier(place.study.model(job.model))
        config = recipe.pretraining.model_copy(update={"seed": seed})
        history, trained = _train(place, job, seed, model, config, progress, mode=recipe.mode)
        info = {
            "task": place.study.task,
            "model": job.model,
            "study": place.study.name,
            "key": place.study.key(job, seed),
            "training": config.model_dump(mode="json") | {"mode": recipe.mode},
            "history": history,
            "accuracy_test": accuracy(model, place.data.split("test")),
            "n_test": len(place.data.split("test")),
        }
        info["time_s"] = time.perf_counter() - start - trained + sum(history["time"])
        stored = StoredModel(model, None, info)
        save_model(place.model_path(job, seed), stored)
    curves = _curves(stored.info["history"], [])
    return Measured({"accuracy": stored.info["accuracy_test"], **curves}, stored.info["time_s"])


def _ptq(place: Workplace, job: Job, seed: int, progress: Progress) -> Measured:
    start = time.perf_counter()
    model = _quantized(place, job, seed)
    reached = accuracy(model, place.data.split("test"))
    return Measured({"accuracy": reached}, time.perf_counter() - start)


def _qat(place: Workplace, job: Job, seed: int, progress: Progress) -> Measured:
    start = time.perf_counter()
    model = _quantized(place, job, seed)
    before = accuracy(model, place.data.split("validation"))
    config = place.study.recipe_of(job).qat.model_copy(update={"seed": seed})
    history, trained = _train(place, job, seed, model, config, progress)
    values = {"accuracy": accuracy(model, place.data.split("test")), **_curves(history, [before])}
    info = {"task": place.study.task, "qat": config.model_dump(mode="json"), "accuracy_test": values["accuracy"]}
    save_model(place.quantized_path(job, seed), StoredModel(model, job.scheme, info))
    return Measured(values, time.perf_counter() - start - trained + sum(history["time"]))


def _poles(place: Workplace, job: Job, seed: int, progress: Progress) -> Measured:
    start = time.perf_counter()
    layer = next(iter(layers_of(_base(place, job, seed)).values()))
    before, after, _ = rounded_coefficients(layer, job.scheme or Scheme())
    a = (before if job.scheme is None else after).a
    pairs = np.stack([a.real, a.imag], axis=-1)
    # single precision is what the parameters have; seven digits say it
    values = {
        "pole": [[[float(f"{v:.7g}") for v in pair] for pair in head] for head in pairs.tolist()],
        "poles_outside": float(100.0 * np.mean(circle_distance(a) <= 0)),
    }
    return Measured(values, time.perf_counter() - start)


def _kernel(place: Workplace, job: Job, seed: int, progress: Progress) -> Measured:
    start = time.perf_counter()
    layer = next(iter(layers_of(_base(place, job, seed)).values()))
    before, after, _ = rounded_coefficients(layer, job.scheme)
    steps = step_grid(job.steps or place.data.time)
    errors = kernel_errors(before, after, steps)  # (part, head, step)
    # the nearest rank: an infinite error must not become NaN between two ranks
    quantiles = np.quantile(errors, LABELS["quantile"], axis=1, method="nearest").swapaxes(0, 1)
    rounded = [[[float(f"{v:.7g}") for v in row] for row in part] for part in quantiles.tolist()]
    return Measured({"kernel_error": rounded}, time.perf_counter() - start, {"step": steps.tolist()})


_KINDS: dict[str, Callable[[Workplace, Job, int, Progress], Measured]] = {
    "full": _full,
    "ptq": _ptq,
    "qat": _qat,
    "poles": _poles,
    "kernel": _kernel,
}


def _base(place: Workplace, job: Job, seed: int) -> Classifier:
    """The full-precision model that a job starts from."""
    base = start_of(job)
    stored = place.stored_model(base, seed)
    if stored is None:
        raise ImcSsmError(f"{place.model_path(base, seed)} is not there: it was removed while a job ran")
    return stored.model


def _quantized(place: Workplace, job: Job, seed: int) -> Classifier:
    """The calibrated PTQ model of a job."""
    assert job.scheme is not None
    model = _base(place, job, seed)
    most = place.study.recipe_of(job).calibration
    return quantize(model, job.scheme, *calibration_batch(place.data, model.config.heads, most, seed))


def _train(
    place: Workplace,
    job: Job,
    seed: int,
    model: Classifier,
    config: TrainConfig,
    progress: Progress,
    mode: Any = None,
) -> tuple[dict[str, list[float]], float]:
    """Train to the last epoch, going on from a checkpoint if there is one.

    Returns the history of all epochs, with the time of each, and the seconds that this call took.
    """
    start = time.perf_counter()
    checkpoint = place.run_path(job, seed, ".checkpoint.safetensors")
    try:
        history = train(
            model, place.data, config, mode=mode, progress=progress, keep="last", checkpoint=checkpoint
        )
    except ImcSsmError as error:
        if type(error) is ImcSsmError:  # it diverged and would again
            checkpoint.unlink(missing_ok=True)
        raise
    return vars(history), time.perf_counter() - start


def _curves(history: dict[str, list[float]], before: list[float]) -> dict[str, list[float]]:
    """Epoch 0 is before training; its validation accuracy and loss are NaN where they were not measured."""
    nan = float("nan")
    return {
        "accuracy_validation": [*(before or [nan]), *history["accuracy_validation"]],
        "loss_train": [nan, *history["loss_train"]],
    }
