"""What a model answers, and how good the answers are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imc_ssm.datasets.sequence import Split
from imc_ssm.errors import ConfigError
from imc_ssm.kernels.device import device_of

__all__ = ["accuracy", "at_once", "inputs_on", "metrics", "metrics_of", "outputs_of", "predict", "said"]


def inputs_on(
    values: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any] | None, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """A batch and its lengths on a device."""
    return torch.from_numpy(values).to(device), None if lengths is None else torch.from_numpy(lengths).to(device)


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
    classes = split.goal == "classes"

    def said_of(out: Tensor) -> Tensor:
        return torch.where(torch.isfinite(out).all(-1), out.argmax(-1), -1) if classes else out

    return _collected(model, split, batch, said_of, -1 if classes else np.nan)


@torch.no_grad()
def outputs_of(model: nn.Module, split: Split, batch: int | None = None) -> np.ndarray[Any, np.dtype[Any]]:
    """Logits or values of a split, (n, K) or (n, time, K) in the model's precision, as `predict` finds them; 0
    behind the end of a sequence."""
    return _collected(model, split, batch, lambda out: out, 0)


def _collected(
    model: nn.Module, split: Split, batch: int | None, pick: Callable[[Tensor], Tensor], behind: float
) -> np.ndarray[Any, np.dtype[Any]]:
    """What `pick` makes of a model's outputs for all sequences of a split, in their order."""
    was = model.training
    model.eval()
    order, steps = split.by_length(), split.values.shape[1]
    found: np.ndarray[Any, np.dtype[Any]] | None = None
    done = 0
    for values, _, lengths in split.batches(batch or at_once(model, split), order=order):
        part = pick(model(*inputs_on(values, lengths, device_of(model)))).cpu().numpy()
        if split.per_step and lengths is not None:
            part[np.arange(part.shape[1]) >= lengths[:, None]] = behind
        if found is None:
            shape = (len(split), steps, *part.shape[2:]) if split.per_step else (len(split), *part.shape[1:])
            found = np.full(shape, behind, part.dtype)
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
