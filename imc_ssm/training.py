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
from imc_ssm.noise import Disturbance, Injection, Step, learn_input_ranges, matrices_of

__all__ = ["History", "Progress", "TrainConfig", "accuracy", "metrics", "metrics_of", "predict", "train"]


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
    written there after every epoch and, if the file exists, goes on from it, to the same parameters as an
    uninterrupted one (on the CPU; a GPU draws other noise after it); remove the file when the result is safe.
    `device`: where it is trained, "cpu" or "cuda"; the model then returns to where it was.

    Raises `ImcSsmError` when the loss stops being finite, with what to try, or for a device that cannot be used,
    `ConfigError` for noise beside a disturbance, or what cannot be disturbed, and `CheckpointError` for
    a checkpoint of another run.
    """
    model = model if isinstance(model, nn.Module) else getattr(model, "model", model)
    data = dataset_of(data)
    if disturbance is not None:
        _check_disturbance(model, config)
    if keep is None:
        keep = "last" if disturbance is not None or config.noise_ramp else "best"
    with placed(model, named_device(device)):
        return _train(model, data, config, mode, progress, keep, checkpoint, disturbance)


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
) -> History:
    """`train` where the model lies."""
    split = data.split("train")
    check_model_fits(model, data)
    if mode is not None and hasattr(model, "set_mode"):
        model.set_mode(mode)  # type: ignore[operator]
    if config.input_ranges == "learned":
        some, _, ends = next(split.take(config.batch).batches(config.batch))
        percentile = config.clip_input if disturbance is None else disturbance.input_percentile
        learn_input_ranges(model, _inputs(some, ends, device_of(model)), percentile)
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
    }
    rng, defaults = (
        np.random.default_rng(config.seed),
        TrainConfig().model_dump(mode="json") | {"disturbance": None},
    )
    run = Run(model, optimiser, schedule, rng, identity, defaults, measured=vars(History()))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(config.seed)
        if checkpoint is not None and checkpoint.exists():
            run.load(checkpoint)
        loss_of = _Loss(split, config, device_of(model))
        best, shown = _judge(split, config)
        for epoch in range(len(run.measured["time"]), config.epochs):
            start = time.perf_counter()
            title = f"epoch {epoch + 1}/{config.epochs}"
            loss = _epoch(run, split, loss_of, config, title, steps, progress, disturbance)
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
            if checkpoint is not None and epoch + 1 < config.epochs:
                run.save(checkpoint)
    if keep == "best" and run.best_state:
        model.load_state_dict(run.best_state)
    model.eval()
    return History(**run.measured)


class _Loss:
    """The loss of a task: a sum over answers, so that chunks of a step add up to it."""

    def __init__(self, split: Split, config: TrainConfig, device: torch.device) -> None:
        self.values = split.goal == "values"
        self.scale: Tensor | None = None
        if self.values:
            flat = split.labels.reshape(-1, split.outputs).astype(np.float64)
            spread = np.nanvar(flat, axis=0)
            scale = 1 / np.where(spread > 0, spread, 1.0) / split.outputs
            self.scale = torch.from_numpy(scale.astype(np.float32)).to(device)
        elif config.balance:
            count = np.bincount(split.labels[split.labels >= 0], minlength=split.outputs)
            share = count.sum() / (len(count) * np.maximum(count, 1))
            self.scale = torch.from_numpy((share**config.balance).astype(np.float32)).to(device)

    def weight(self, wanted: np.ndarray[Any, Any]) -> float:
        """What a sum over these answers is divided by."""
        if self.values:
            return float(np.isfinite(wanted[..., 0]).sum())
        there = wanted[wanted >= 0]
        return float(there.size if self.scale is None else self.scale.cpu().numpy()[there].sum(dtype=np.float64))

    def __call__(self, out: Tensor, wanted: np.ndarray[Any, Any]) -> Tensor:
        """Mean over the answers; 0 where there are none."""
        answer = torch.from_numpy(np.ascontiguousarray(wanted)).to(out.device)
        if self.scale is not None and self.values:
            valid = torch.isfinite(answer[..., :1])
            error = torch.where(valid, out - torch.where(valid, answer, 0.0), 0.0)
            return (error.square() * self.scale.to(out.dtype)).sum() / max(self.weight(wanted), 1.0)
        if not (wanted >= 0).any():
            return out.sum() * 0.0
        weight = None if self.scale is None else self.scale.to(out.dtype)
        flat = out.reshape(-1, out.shape[-1])
        return nn.functional.cross_entropy(flat, answer.reshape(-1), weight=weight, ignore_index=-1)


def _judge(split: Split, config: TrainConfig) -> tuple[str, tuple[str, ...]]:
    """The metric that the best epoch has the highest of, and those that the history keeps."""
    if split.goal == "values":
        return "r2", ("mae", "r2")
    return ("f1_macro", ("accuracy", "f1_macro")) if config.balance else ("accuracy", ("accuracy",))


def _epoch(
    run: Run,
    split: Split,
    loss_of: _Loss,
    config: TrainConfig,
    title: str,
    steps: int,
    progress: Progress | None,
    disturbance: Disturbance | None,
) -> float:
    """One pass over the training split; returns the mean loss."""
    model, total, weights = run.model, 0.0, 0.0
    rising = config.noise_ramp * math.ceil(len(split) / config.batch)
    device = device_of(model)
    model.train()
    for values, wanted, lengths in split.batches(config.batch, run.rng):
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
                out = model(*_inputs(values[part], None if lengths is None else lengths[part], device))
                loss = loss_of(out, wanted[part]) * (loss_of.weight(wanted[part]) / max(weight, 1e-30))
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


_SEQUENCES, _VALUES = 500, 250 * 784 * 16
"""Sequences, and values of an activation, that a model is run on at a time. In a deep quantized model a value
takes up to 200 bytes: rows twice as wide before gates, sums in double precision. Rows twice as wide of so many
values are 25 MB: what is larger than 32 MB, glibc gives back to the system and fetches anew at every step (twice
as many values took 1.2 to 1.7 times as long)."""


def at_once(model: nn.Module, split: Split) -> int:
    """Sequences that `predict` runs at a time: fewer where they are long or the model is wide."""
    steps = split.values.shape[1] if split.lengths is None else int(split.lengths.max())
    return max(1, min(_SEQUENCES, _VALUES // (steps * int(getattr(getattr(model, "config", None), "width", 1)))))


@torch.no_grad()
def predict(model: nn.Module, split: Split, batch: int | None = None) -> np.ndarray[Any, np.dtype[Any]]:
    """What the model finds for a split, in evaluation mode, where it lies.

    `batch`: sequences at a time; None: 500, fewer where they are so long, or the model so wide, that these would
    take more than about half a gigabyte.

    Classes: int64 (n,) or (n, time); -1, which no label is, where a logit is not finite (such an answer is neither
    right nor wrong), and behind the end of a sequence. Values: float32 (n, K) or (n, time, K), NaN behind the end.
    """
    was = model.training
    model.eval()
    order = split.by_length()
    classes, steps = split.goal == "classes", split.values.shape[1]
    found: np.ndarray[Any, np.dtype[Any]] | None = None
    done = 0
    for values, _, lengths in split.batches(batch or at_once(model, split), order=order):
        out = model(*_inputs(values, lengths, device_of(model)))
        if classes:
            out = torch.where(torch.isfinite(out).all(-1), out.argmax(-1), -1)
        part = out.cpu().numpy()
        if split.per_step and lengths is not None:
            part[np.arange(part.shape[1]) >= lengths[:, None]] = -1 if classes else np.nan
        if found is None:
            shape = (len(split), steps, *part.shape[2:]) if split.per_step else (len(split), *part.shape[1:])
            found = np.full(shape, -1 if classes else np.nan, part.dtype)
        rows = slice(done, done + len(part)) if order is None else order[done : done + len(part)]
        if split.per_step:
            found[rows, : part.shape[1]] = part
        else:
            found[rows] = part
        done += len(part)
    model.train(was)
    assert found is not None
    return found


def accuracy(model: nn.Module, split: Split, batch: int | None = None) -> float:
    """Share of correctly classified sequences or steps, in percent; `ConfigError` where values are wanted."""
    if split.goal == "values":
        raise ConfigError("values are wanted of these sequences, which have no accuracy; ask for training.metrics")
    return float(metrics(model, split, batch)["accuracy"])


def metrics(model: nn.Module, split: Split, batch: int | None = None) -> dict[str, Any]:
    """How good a model is on a split: `metrics_of` what it finds (`predict`)."""
    return metrics_of(predict(model, split, batch), split)


def metrics_of(found: np.ndarray[Any, np.dtype[Any]], split: Split) -> dict[str, Any]:
    """How good answers are, over the sequences, or over the steps that have an answer; `found` as of `predict`.

    Classes: `accuracy` in percent, `f1` (K,) = 2 TP / (2 TP + FP + FN), NaN for a class that neither occurs nor is
    found, and its mean over the others, `f1_macro`. Values: `mae`, the mean absolute error, and `r2` = 1 - sum of
    squared errors / sum of squares around the mean, each the mean over the K values (r2: over those that
    vary; both NaN where an output is).
    """
    wanted = split.labels
    if split.goal == "values":
        there = np.isfinite(wanted[..., 0])
        y, p = wanted[there].astype(np.float64), found[there].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            total = np.square(y - y.mean(0)).sum(0)
            r2 = 1 - np.square(y - p).sum(0)[total > 0] / total[total > 0]
            return {"mae": float(np.abs(y - p).mean()), "r2": float(r2.mean()) if r2.size else math.nan}
    there = wanted >= 0
    y, p = wanted[there], found[there]
    k = max(split.outputs, int(y.max()) + 1, int(p.max()) + 1)
    right = np.bincount(y[y == p], minlength=k)
    either = np.bincount(y, minlength=k) + np.bincount(p[p >= 0], minlength=k)
    f1 = np.where(either > 0, 2 * right / np.maximum(either, 1), np.nan)
    return {"accuracy": float(100.0 * np.mean(y == p)), "f1": f1, "f1_macro": float(f1[either > 0].mean())}


def said(found: dict[str, Any]) -> str:
    """Metrics in a few words."""
    if "accuracy" in found:
        return f"{found['accuracy']:.2f} %"
    return f"R2 {found['r2']:.4f}, mean absolute error {found['mae']:.4g}"


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
