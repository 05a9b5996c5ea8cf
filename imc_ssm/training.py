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
from torch import nn

from imc_ssm.answers import accuracy, at_once, inputs_on, metrics, metrics_of, predict, said
from imc_ssm.checkpoint import Run
from imc_ssm.config import Config
from imc_ssm.datasets import dataset_of
from imc_ssm.datasets.sequence import SequenceDataset, Split
from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.kernels.device import device_of, named_device, placed
from imc_ssm.losses import Loss, Teacher, best_and_shown, check_teacher
from imc_ssm.noise import Disturbance, Injection, Step, learn_input_ranges, matrices_of
from imc_ssm.quantization.quantizer import learn_ranges, settle_ranges

__all__ = [
    "History",
    "Progress",
    "TrainConfig",
    "accuracy",
    "at_once",
    "check_model_fits",
    "metrics",
    "metrics_of",
    "predict",
    "said",
    "train",
]


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
    noise_multiplicative: float = Field(0.0, ge=0, lt=1)
    """As `noise`, but relative to each weight: devices whose noise grows with what they hold."""
    noise_poles: float = Field(0.0, ge=0, lt=1)
    """Standard deviation of the noise injected into real and imaginary parts of every pole, on top of its grid,
    relative to the largest part of the poles of its head."""
    noise_ramp: float = Field(0.0, ge=0)
    """Epochs over which all noise, and a disturbance, rises linearly to what it is then; 0: from the beginning."""
    input_ranges: Literal["calibrated", "learned"] = "calibrated"
    """The input range of each matrix: the percentile `clip_input` (of a disturbance: its own) of every batch, or a
    parameter that starts there (first batch) and is trained. A compiled model has the range that it learned."""
    balance: float = Field(0.0, ge=0, le=1)
    """Exponent of the class weights in the loss, (n / (K n_k))^balance for n_k of n training labels: 0 none, 1 all
    classes alike, 0.5 between. Above 0 the best epoch is that of the highest macro F1, not accuracy."""
    ranges: Literal["calibrated", "learned"] = "calibrated"
    """Ranges of the formats of a quantized model's activations and states: as calibrated, or trained from there
    (`kernels.learned`); what a model keeps is then the ranges that it learned. Dynamic ones stay dynamic."""
    learning_rate_ranges: float | None = Field(None, gt=0)
    """Peak learning rate of the ranges' logarithms; None: the same as `learning_rate`, at most 0.01."""
    distill: float = Field(0.0, ge=0, le=1)
    """Share of the loss that asks for a teacher's answers instead of the labels (`losses.Loss`); 0: none."""
    distill_temperature: float = Field(2.0, gt=0)
    """What the logits of both are divided by then: above 1, classes that the teacher finds unlikely count more."""
    seed: int = 0
    """Seed of shuffling, dropout and noise."""


@dataclass
class History:
    """What one training measured: one entry per epoch, `time` in seconds; empty what the task does not have."""

    loss_train: list[float] = field(default_factory=list)
    accuracy_validation: list[float] = field(default_factory=list)
    time: list[float] = field(default_factory=list)
    f1_macro_validation: list[float] = field(default_factory=list)
    """With `balance`."""
    mae_validation: list[float] = field(default_factory=list)
    """Of values."""
    r2_validation: list[float] = field(default_factory=list)
    """Of values."""


Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, a short note)."""


def train(
    model: nn.Module,
    data: SequenceDataset,
    config: TrainConfig,
    *,
    mode: Literal["convolution", "recurrent"] | None = None,
    progress: Progress | None = None,
    keep: Literal["best", "last"] | None = None,
    checkpoint: Path | None = None,
    device: str = "cpu",
    disturbance: Disturbance | None = None,
    teacher: nn.Module | None = None,
) -> History:
    """Train in place on the training split; AdamW, warm-up and cosine.

    The loss is the task's: cross-entropy of classes, the mean squared error of values divided by the variance of
    each in the training split (1: predicting the mean); of all sequences, or of all steps that have an answer.
    `mode` sets how the SSM runs (None: as the model stands; quantized models are always recurrent). With
    `keep="best"` the parameters of the epoch with the highest validation accuracy (of values: R2) are restored at
    the end (the test split chooses nothing). With a `disturbance` (`imc_ssm.chip.training_for` makes one for a
    chip) the matrices are those of another chip in every step; then, and wherever noise rises, "last" is what is
    kept, else "best": accuracies are measured without either, and the epochs that had less of it would win. The
    global generator of torch is forked: the same seed gives the same parameters. With `checkpoint`, the run is
    written there after every epoch, the last too, and, if the file exists, goes on from it, to the same
    parameters as an uninterrupted one (on the CPU; a GPU draws other noise after it); remove the file when the
    result is safe.
    `device`: where it is trained, "cpu" or "cuda"; the model then returns to where it was. `teacher`: with
    `distill`, the model in full precision that a quantized one came from; it answers without noise and gradient,
    and is left as it was.

    Raises `ImcSsmError` when the loss stops being finite, with what to try, or for a device that cannot be used,
    `ConfigError` for noise beside a disturbance, or what cannot be disturbed, ranges that cannot be learned, or
    `distill` without a teacher or the other way round, and `CheckpointError` for a checkpoint of another run.
    """
    model = _module(model)
    data = dataset_of(data)
    teacher = None if teacher is None else _module(teacher)
    check_teacher(teacher, config.distill, model)
    if disturbance is not None:
        _check_disturbance(model, config)
    if keep is None:
        keep = "last" if disturbance is not None or config.noise_ramp else "best"
    try:
        with placed(model, named_device(device)):
            return _train(model, data, config, mode, progress, keep, checkpoint, disturbance, teacher)
    finally:
        settle_ranges(model)


def _module(given: Any) -> nn.Module:
    """A model, or the one that a file held."""
    return given if isinstance(given, nn.Module) else getattr(given, "model", given)


def _check_disturbance(model: nn.Module, config: TrainConfig) -> None:
    """`ConfigError` where nothing would be disturbed, or twice."""
    if not matrices_of(model):
        raise ConfigError("the model has no matrix on analog tiles, so a chip disturbs nothing in it")
    for name in ("noise", "noise_multiplicative", "noise_output"):
        if getattr(config, name):
            raise ConfigError(
                f"{name} = {getattr(config, name):g} beside a disturbance, which brings the chip's; set 0"
            )


def _train(
    model: nn.Module,
    data: SequenceDataset,
    config: TrainConfig,
    mode: Literal["convolution", "recurrent"] | None,
    progress: Progress | None,
    keep: Literal["best", "last"],
    checkpoint: Path | None,
    disturbance: Disturbance | None,
    teacher: nn.Module | None,
) -> History:
    """`train` where the model lies."""
    split = data.split("train")
    check_model_fits(model, data)
    if teacher is not None:
        try:
            check_model_fits(teacher, data)
        except ConfigError as error:
            raise ConfigError(f"the teacher does not fit: {error}") from None
    if mode is not None and hasattr(model, "set_mode"):
        model.set_mode(mode)  # type: ignore[operator]
    if config.input_ranges == "learned":
        some, _, ends = next(split.take(config.batch).batches(config.batch))
        percentile = config.clip_input if disturbance is None else disturbance.input_percentile
        learn_input_ranges(model, inputs_on(some, ends, device_of(model)), percentile)
    if config.ranges == "learned":
        learn_ranges(model)
    steps = config.epochs * math.ceil(len(split) / config.batch)
    optimiser, schedule = _optimiser(model, config, steps)
    identity = {"config": config.model_dump(mode="json"), "task": data.task, "sequences": len(split)}
    if checkpoint is not None:
        identity |= {"train": split.digest(), "validation": data.split("validation").digest()}
    # What leaves no trace in the state: word lengths of parameters, and most of the architecture.
    config_of, scheme = getattr(model, "config", None), getattr(model, "scheme", None)
    if isinstance(config_of, Config):
        identity |= {f"model.{name}": value for name, value in config_of.model_dump(mode="json").items()}
    modes = {str(module.mode) for module in model.modules() if hasattr(module, "mode")}
    identity |= {
        "start": _digest(model),
        "scheme": None if scheme is None else scheme.label,
        "mode": "recurrent" if scheme is not None else "/".join(sorted(modes)),
        "disturbance": None if disturbance is None else disturbance.describe(),
        "teacher": None if teacher is None else _digest(teacher),
    }
    rng = np.random.default_rng(config.seed)
    defaults = TrainConfig().model_dump(mode="json") | {"disturbance": None, "teacher": None}
    run = Run(model, optimiser, schedule, rng, identity, defaults, measured=vars(History()))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(config.seed)
        if checkpoint is not None and checkpoint.exists():
            run.load(checkpoint)
        loss_of = _loss(split, config, device_of(model))
        taught = None if teacher is None else Teacher(teacher, split, device_of(model), config.micro_batch)
        best, shown = best_and_shown(split, config.balance)
        for epoch in range(len(run.measured["time"]), config.epochs):
            start = time.perf_counter()
            title = f"epoch {epoch + 1}/{config.epochs}"
            loss = _epoch(run, split, loss_of, config, title, steps, progress, disturbance, taught)
            valid_part = data.split("validation")
            most = at_once(model, valid_part)
            found = metrics(model, valid_part, min(config.micro_batch or most, most))
            run.keep_if_best(max(float(np.nan_to_num(found[best], nan=-1e300)), -1e300))
            values = {f"{name}_validation": found[name] for name in shown}
            values |= {"loss_train": loss, "time": time.perf_counter() - start}
            for name, value in values.items():
                run.measured.setdefault(name, []).append(float(value))
            if progress is not None:
                progress(run.done, steps, f"validation {said(found)}")
            if checkpoint is not None:
                run.save(checkpoint)
    if keep == "best" and run.best_state:
        model.load_state_dict(run.best_state)
    model.eval()
    return History(**run.measured)


def _loss(split: Split, config: TrainConfig, device: torch.device) -> Loss:
    return Loss(
        split,
        device,
        balance=config.balance,
        distill=config.distill,
        temperature=config.distill_temperature,
    )


def _epoch(
    run: Run,
    split: Split,
    loss_of: Loss,
    config: TrainConfig,
    title: str,
    steps: int,
    progress: Progress | None,
    disturbance: Disturbance | None,
    teacher: Teacher | None,
) -> float:
    """One pass over the training split; returns the mean loss."""
    model, total, weights = run.model, 0.0, 0.0
    rising = config.noise_ramp * math.ceil(len(split) / config.batch)
    device = device_of(model)
    model.train()
    for index in split.shuffled(config.batch, run.rng):
        values, wanted, lengths = split.cut(index)
        strength = min(1.0, (run.done + 1) / rising) if rising else 1.0
        injected = Injection(
            model,
            weights=strength * config.noise,
            outputs=strength * config.noise_output,
            clip=config.clip_input,
            multiplicative=strength * config.noise_multiplicative,
            poles=strength * config.noise_poles,
            disturbance=disturbance,
            step=Step(run.done, config.seed, strength),
        )
        with injected:
            run.optimiser.zero_grad(set_to_none=True)
            value, size, weight = 0.0, config.micro_batch or len(wanted), loss_of.weight(wanted)
            for first in range(0, len(wanted), size):
                part = slice(first, first + size)
                given = values[part], None if lengths is None else lengths[part]
                taught = None if teacher is None else teacher(index[part], *given)
                loss = loss_of(model(*inputs_on(*given, device)), wanted[part], taught)
                loss = loss * (loss_of.weight(wanted[part]) / max(weight, 1e-30))
                loss.backward()  # type: ignore[no-untyped-call]
                value += float(loss.detach())
        nn.utils.clip_grad_norm_(model.parameters(), config.clip, error_if_nonfinite=False)
        if not math.isfinite(value):
            raise ImcSsmError(
                f"the loss is {value} in {title}; try a smaller learning rate than {config.learning_rate}"
            )
        run.optimiser.step()
        run.schedule.step()
        total, weights = total + value * weight, weights + weight
        run.done += 1
        if progress is not None:
            progress(run.done, steps, f"{title} loss {value:.3f}")
    return total / max(weights, 1e-30)


def check_model_fits(model: nn.Module, data: SequenceDataset) -> None:
    """`ConfigError` unless channels, outputs and pooling of the model are those that the data need."""
    config = getattr(model, "config", None)
    if data.goal == "classes" and data.outputs < 2:
        raise ConfigError(
            f"dataset {data.task!r} has one class, all labels are 0; give labels of two classes or more"
        )
    for what, have, need in (
        ("input channels", getattr(config, "inputs", data.channels), data.channels),
        (
            data.goal if data.goal == "classes" else "outputs",
            getattr(config, "outputs", data.outputs),
            data.outputs,
        ),
    ):
        if have != need:
            raise ConfigError(
                f"the model has {have} {what}, dataset {data.task!r} has {need}; build it for {need}"
            )
    pool = getattr(config, "pool", None if config is None else "mean")
    if pool is not None and (pool == "none") != data.per_step:
        raise ConfigError(
            f"the model has pool = {pool!r}, one answer a {'step' if pool == 'none' else 'sequence'}; dataset "
            f"{data.task!r} has one a {'step' if data.per_step else 'sequence'}; "
            f"build it with pool = {'none' if data.per_step else 'mean'!r}"
        )


def _digest(model: nn.Module) -> str:
    """SHA-256 over names and values of a model's state: which model a training started from."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _optimiser(
    model: nn.Module, config: TrainConfig, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW over groups, with a linear warm-up and a half cosine to zero.

    Modules say which of their parameters belong to the "dynamics" (`Layer.groups`): these have a rate of their own
    and no weight decay, as in state-spaces/s4; and so have "ranges" that are learned.
    """
    found: dict[str, list[nn.Parameter]] = {"others": [], "dynamics": [], "ranges": []}
    for module in model.modules():
        groups = getattr(module, "groups", {})
        for name, parameter in module.named_parameters(recurse=False):
            found[groups.get(name, "others")].append(parameter)
    usual = min(config.learning_rate, 1e-2)
    rates = {
        "others": config.learning_rate,
        "dynamics": usual if config.learning_rate_ssm is None else config.learning_rate_ssm,
        "ranges": usual if config.learning_rate_ranges is None else config.learning_rate_ranges,
    }
    if not found["ranges"]:  # as checkpoints of before have it
        del found["ranges"]
    groups = [
        {"params": own, "lr": rates[name], "weight_decay": config.weight_decay if name == "others" else 0.0}
        for name, own in found.items()
    ]
    warm = max(1, round(config.warmup * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    optimiser = torch.optim.AdamW(groups)
    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
