"""The main job: one model from training to chips, at several word lengths of the state.

`imc-ssm demo` runs it on the digits; each part of the recipe is a command of its own for other tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import xarray as xr
from pydantic import Field

from imc_ssm.chip import TIMES, compile, evaluate
from imc_ssm.chip.evaluation import Entry, gather
from imc_ssm.config import Config
from imc_ssm.datasets import SequenceDataset
from imc_ssm.devices import resolve
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Scheme, calibration_batch, quantize
from imc_ssm.training import Progress, TrainConfig, accuracy, train

__all__ = ["FINE_TUNING", "StudyConfig", "initial_steps", "run"]

FINE_TUNING = TrainConfig(epochs=40, batch=32, learning_rate=1e-2, noise=0.06, noise_output=0.04, clip_input=99.0)
"""Noise-aware QAT: weight noise of 6 %, a design's read noise of 0.04, and the largest 1 % of the inputs clipped.

Chosen by the accuracy of PCM chips after a day on the validation split of the digits, mean of five seeds: 93.65 %
with these, 92.48 % with noise 0.03 and 0.04, 92.96 % with 0.1 and 0.06, 91.86 % with 0.15 and 0.06 (deviations
over the seeds 0.8 to 2.2).
"""


class StudyConfig(Config):
    """What the study varies and how long it trains."""

    task: str = "digits"
    """Dataset: a shipped task or a path to an `.npz`."""
    design: str = "pcm-256"
    """Chip design: a shipped one or a path to a `.toml`."""
    heads: int = Field(16, ge=1)
    """Heads of the model; one layer, N = 64."""
    states: tuple[int, ...] = (4, 6, 8, 12)
    """Word lengths of the state that get QAT, bits; the poles have 8 bits."""
    chips: int = Field(10, ge=1)
    """Chips programmed for every deployed model."""
    times: tuple[float, ...] = TIMES
    """Times after programming, s."""
    epochs: int = Field(60, ge=1)
    """Epochs of full-precision training."""
    fine_tuning: TrainConfig = FINE_TUNING
    """QAT of every word length, from the calibrated PTQ model."""
    seed: int = 0
    """Seed of everything that is drawn."""


def initial_steps(time: int) -> tuple[float, float]:
    """(dt_min, dt_max) for sequences of `time` steps: memory from well under to somewhat over one sequence.

    dt_max = min(80 / time, 0.5), dt_min = min(0.8 / time, dt_max): the usual (1e-3, 1e-1) at 784 steps.
    """
    dt_max = min(80.0 / time, 0.5)
    return min(0.8 / time, dt_max), dt_max


def run(config: StudyConfig, data: SequenceDataset, stage: Callable[[str], Progress]) -> xr.Dataset:
    """Train, quantize (PTQ and QAT), compile, evaluate over chips and times, and cost; one dataset.

    Models: "fp32" (digital reference), "ptq-a8-x8", and "qat-a8-xN" for every state width N. `stage(title)` is
    called at the start of each stage and returns its progress callback. Test data choose nothing.
    """
    chip = resolve(config.design)
    test = data.split("test")
    dt_min, dt_max = initial_steps(data.time)
    sizes = {"inputs": data.channels, "heads": config.heads, "classes": data.n_classes}
    shape = ModelConfig.parse(sizes | {"dt_min": dt_min, "dt_max": dt_max}, where=data.task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = Classifier(shape)
    recipe = TrainConfig(epochs=config.epochs, batch=32, weight_decay=0.05, seed=config.seed)
    train(model, data, recipe, mode="convolution", progress=stage("train, full precision"))
    entries = [Entry("fp32", accuracy(model, test))]
    calibration, lengths = calibration_batch(data, config.heads)
    schemes: Sequence[tuple[str, int]] = [("ptq", 8), *(("qat", bits) for bits in config.states)]
    for kind, bits in schemes:
        scheme = Scheme.uniform(poles=8, state=bits)
        name = f"{kind}-{scheme.label}"
        quantized = quantize(model, scheme, calibration, lengths)
        if kind == "qat":
            tuning = config.fine_tuning.model_copy(update={"seed": config.seed})
            train(quantized, data, tuning, progress=stage(f"fine-tune {name}"))
        deployment = compile(quantized, chip, calibration, lengths, name=name)
        chips = evaluate(
            deployment,
            data,
            config.chips,
            config.times,
            seed=config.seed,
            progress=stage(f"evaluate {name} on {config.chips} chips"),
        )
        entries.append(Entry(name, float(chips["accuracy_digital"]), deployment, chips))
    return gather(entries, len(test))
