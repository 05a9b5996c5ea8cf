"""One training loop: full precision by convolution, QAT in recurrent mode, with or without weight noise."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from imc_ssm.checkpoint import Run
from imc_ssm.config import Config
from imc_ssm.datasets import dataset_of
from imc_ssm.datasets.sequence import SequenceDataset, Split
from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.kernels.device import device_of, named_device, placed
from imc_ssm.noise import Injection

__all__ = ["History", "Progress", "TrainConfig", "accuracy", "predict", "train"]


class TrainConfig(Config):
    """How to train."""

    epochs: int = Field(10, ge=0)
    """Passes over the training split."""
    batch: int = Field(64, ge=1)
    """Sequences per step."""
    micro_batch: int | None = Field(None, ge=1)
    """Sequences per forward and backward pass, whose gradients add up to the step's; None: all at once. The same
    step but for the last bits, in the memory of a chunk. What a model takes from the sequences that run together
    (batch norm, dynamic ranges, input ranges of noise) it takes from a chunk."""
    learning_rate: float = Field(1e-2, gt=0)
    """Peak learning rate of AdamW."""
    learning_rate_ssm: float | None = Field(None, gt=0)
    """Peak learning rate of log dt, A and B; None: the same as `learning_rate`, at most 0.01."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of everything but the dynamics."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Fraction of the steps with a linearly rising rate; a half cosine to zero follows."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    noise: float = Field(0.0, ge=0, lt=1)
    """Standard deviation of the weight noise injected into every matrix that sits on analog tiles, relative
    to the largest weight of each output column (`imc_ssm.noise.Injection`)."""
    noise_output: float = Field(0.0, ge=0)
    """Standard deviation of the read noise injected into their outputs, relative to input range times the
    largest weight of the column: a chip design's `read_noise`."""
    clip_input: float = Field(100.0, gt=50, le=100)
    """Percentile of each matrix's input magnitudes that the input range covers in training; 100: all."""
    seed: int = 0
    """Seed of shuffling, dropout and noise."""


@dataclass
class History:
    """What one training measured: one entry per epoch, `time` in seconds."""

    loss_train: list[float] = field(default_factory=list)
    accuracy_validation: list[float] = field(default_factory=list)
    time: list[float] = field(default_factory=list)


Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, a short note)."""


def train(
    model: nn.Module,
    data: SequenceDataset,
    config: TrainConfig,
    *,
    mode: Literal["convolution", "recurrent"] | None = None,
    progress: Progress | None = None,
    keep: Literal["best", "last"] = "best",
    checkpoint: Path | None = None,
    device: str = "cpu",
) -> History:
    """Train in place on the training split; cross-entropy, AdamW, warm-up and cosine.

    `mode` sets how the SSM runs (None: as the model stands; quantized models are always recurrent). With
    `keep="best"` the parameters of the epoch with the highest validation accuracy are restored at the end
    (the test split chooses nothing). The global generator of torch is forked: the same seed gives the same
    parameters. With `checkpoint`, the run is written there after every epoch and, if the file exists, goes on
    from it, to the same parameters as an uninterrupted one (on the CPU; a GPU draws other noise after it); remove
    the file when the result is safe. `device`: where it is trained, "cpu" or "cuda"; the model then returns to
    where it was.

    Raises `ImcSsmError` when the loss stops being finite, with what to try, or for a device that cannot be used,
    and `CheckpointError` for a checkpoint of another run.
    """
    model, data = getattr(model, "model", model), dataset_of(data)
    with placed(model, named_device(device)):
        return _train(model, data, config, mode, progress, keep, checkpoint)


def _train(
    model: nn.Module,
    data: SequenceDataset,
    config: TrainConfig,
    mode: Literal["convolution", "recurrent"] | None,
    progress: Progress | None,
    keep: Literal["best", "last"],
    checkpoint: Path | None,
) -> History:
    """`train` where the model lies."""
    split = data.split("train")
    check_model_fits(model, data)
    if mode is not None and hasattr(model, "set_mode"):
        model.set_mode(mode)  # type: ignore[operator]
    steps = config.epochs * math.ceil(len(split) / config.batch)
    optimiser, schedule = _optimiser(model, config, steps)
    identity = {"config": config.model_dump(mode="json"), "task": data.task, "sequences": len(split)}
    scheme = getattr(model, "scheme", None)  # word lengths of parameters leave no trace in the state
    modes = {str(module.mode) for module in model.modules() if hasattr(module, "mode")}
    identity |= {
        "start": _digest(model),
        "scheme": None if scheme is None else scheme.label,
        "mode": "recurrent" if scheme is not None else "/".join(sorted(modes)),
    }
    rng, defaults = np.random.default_rng(config.seed), TrainConfig().model_dump(mode="json")
    run = Run(model, optimiser, schedule, rng, identity, defaults, measured=vars(History()))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(config.seed)
        if checkpoint is not None and checkpoint.exists():
            run.load(checkpoint)
        for epoch in range(len(run.measured["time"]), config.epochs):
            start = time.perf_counter()
            loss = _epoch(run, split, config, f"epoch {epoch + 1}/{config.epochs}", steps, progress)
            valid = accuracy(model, data.split("validation"), min(config.micro_batch or 500, 500))
            run.keep_if_best(valid)
            values = {"loss_train": loss, "accuracy_validation": valid, "time": time.perf_counter() - start}
            for name, value in values.items():
                run.measured[name].append(value)
            if progress is not None:
                progress(run.done, steps, f"validation {valid:.2f} %")
            if checkpoint is not None and epoch + 1 < config.epochs:
                run.save(checkpoint)
    if keep == "best" and run.best_state:
        model.load_state_dict(run.best_state)
    model.eval()
    return History(**run.measured)


def _epoch(
    run: Run, split: Split, config: TrainConfig, title: str, steps: int, progress: Progress | None
) -> float:
    """One pass over the training split; returns the mean loss."""
    model, total = run.model, 0.0
    device = device_of(model)
    model.train()
    for values, labels, lengths in split.batches(config.batch, run.rng):
        with Injection(model, weights=config.noise, outputs=config.noise_output, clip=config.clip_input):
            run.optimiser.zero_grad(set_to_none=True)
            value, size = 0.0, config.micro_batch or len(labels)
            for first in range(0, len(labels), size):
                part = slice(first, first + size)
                logits = model(*_inputs(values[part], None if lengths is None else lengths[part], device))
                loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels[part]).to(device))
                loss = loss * (len(labels[part]) / len(labels))
                loss.backward()  # type: ignore[no-untyped-call]
                value += float(loss.detach())
        nn.utils.clip_grad_norm_(model.parameters(), config.clip, error_if_nonfinite=False)
        if not math.isfinite(value):
            raise ImcSsmError(
                f"the loss is {value} in {title}; try a smaller learning rate than {config.learning_rate}"
            )
        run.optimiser.step()
        run.schedule.step()
        total += value * len(labels)
        run.done += 1
        if progress is not None:
            progress(run.done, steps, f"{title} loss {value:.3f}")
    return total / len(split)


def check_model_fits(model: nn.Module, data: SequenceDataset) -> None:
    """`ConfigError` unless channels and classes of the model are those of the data."""
    config = getattr(model, "config", None)
    for what, have, need in (
        ("input channels", getattr(config, "inputs", data.channels), data.channels),
        ("classes", getattr(config, "classes", data.n_classes), data.n_classes),
    ):
        if have != need:
            raise ConfigError(
                f"the model has {have} {what}, dataset {data.task!r} has {need}; build it for {need}"
            )


@torch.no_grad()
def predict(model: nn.Module, split: Split, batch: int = 500) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The class of every sequence of a split, (n,) int64; the model runs in evaluation mode, where it lies.

    -1, which no label is, where a logit is not finite: such a sequence has no answer, right or wrong.
    """
    was = model.training
    model.eval()
    out, order = [], split.by_length()
    for values, _, lengths in split.batches(batch, order=order):
        logits = model(*_inputs(values, lengths, device_of(model)))
        out.append(torch.where(torch.isfinite(logits).all(-1), logits.argmax(-1), -1).cpu().numpy())
    model.train(was)
    found = np.concatenate(out)
    return found if order is None else found[np.argsort(order)]


def accuracy(model: nn.Module, split: Split, batch: int = 500) -> float:
    """Share of correctly classified sequences, in percent."""
    return float(100.0 * np.mean(predict(model, split, batch) == split.labels))


def _digest(model: nn.Module) -> str:
    """SHA-256 over names and values of a model's state: which model a training started from."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _inputs(
    values: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any] | None, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """A batch and its lengths on a device."""
    return torch.from_numpy(values).to(device), None if lengths is None else torch.from_numpy(lengths).to(device)


def _optimiser(
    model: nn.Module, config: TrainConfig, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW over two groups, with a linear warm-up and a half cosine to zero.

    Modules say which of their parameters belong to the "dynamics" (`Layer.groups`): these have a rate of their own
    and no weight decay, as in state-spaces/s4.
    """
    dynamics: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in model.modules():
        groups = getattr(module, "groups", {})
        for name, parameter in module.named_parameters(recurse=False):
            (dynamics if groups.get(name) == "dynamics" else others).append(parameter)
    rate_ssm = min(config.learning_rate, 1e-2) if config.learning_rate_ssm is None else config.learning_rate_ssm
    groups = [
        {"params": others, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": dynamics, "lr": rate_ssm, "weight_decay": 0.0},
    ]
    warm = max(1, round(config.warmup * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    optimiser = torch.optim.AdamW(groups)
    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
