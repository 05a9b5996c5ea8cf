"""What a training minimises: the loss of a task, alone or with the answers of a teacher."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imc_ssm.answers import at_once, inputs_on, outputs_of
from imc_ssm.datasets.sequence import Split
from imc_ssm.errors import ConfigError

__all__ = ["Loss", "Teacher", "best_and_shown", "check_teacher"]

MOST = 1 << 26
"""Numbers of a teacher's answers up to which they are found once and kept, 256 MB."""


class Loss:
    """The loss of a task: a sum over answers, so that chunks of a step add up to it.

    Classes: cross-entropy, with weights (n / (K n_k))^balance. Values: squared errors divided by the variance of
    each in the split. With `distill` = w and a teacher's answers z, (1 - w) of it and w of

        classes    T^2 KL(softmax(z / T) || softmax(out / T)), T the temperature, weighted as the task's
        values     the squared difference from z, scaled as the task's

    over the same answers. Source: Hinton et al. 2015 (arXiv:1503.02531), where T^2 keeps the gradient's size.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device,
        *,
        balance: float = 0.0,
        distill: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        self.values, self.distill, self.temperature = split.goal == "values", distill, temperature
        self.scale: Tensor | None = None
        if self.values:
            flat = split.labels.reshape(-1, split.outputs).astype(np.float64)
            spread = np.nanvar(flat, axis=0)
            scale = 1 / np.where(spread > 0, spread, 1.0) / split.outputs
            self.scale = torch.from_numpy(scale.astype(np.float32)).to(device)
        elif balance:
            count = np.bincount(split.labels[split.labels >= 0], minlength=split.outputs)
            share = count.sum() / (len(count) * np.maximum(count, 1))
            self.scale = torch.from_numpy((share**balance).astype(np.float32)).to(device)

    def weight(self, wanted: np.ndarray[Any, Any]) -> float:
        """What a sum over these answers is divided by."""
        if self.values:
            return float(np.isfinite(wanted[..., 0]).sum())
        there = wanted[wanted >= 0]
        return float(there.size if self.scale is None else self.scale.cpu().numpy()[there].sum(dtype=np.float64))

    def __call__(self, out: Tensor, wanted: np.ndarray[Any, Any], taught: Tensor | None = None) -> Tensor:
        """Mean over the answers; 0 where there are none. `taught`: what the teacher answers, in out's shape."""
        answer = torch.from_numpy(np.ascontiguousarray(wanted)).to(out.device)
        loss = self._squares(out, answer, answer, wanted) if self.values else self._entropy(out, answer, wanted)
        if taught is None:
            return loss
        other = (
            self._squares(out, answer, taught, wanted) if self.values else self._apart(out, answer, taught, wanted)
        )
        return (1 - self.distill) * loss + self.distill * other

    def _squares(self, out: Tensor, answer: Tensor, wish: Tensor, wanted: np.ndarray[Any, Any]) -> Tensor:
        """Of values: the scaled squares of out - wish, where there is an answer."""
        assert self.scale is not None
        valid = torch.isfinite(answer[..., :1])
        error = torch.where(valid, out - torch.where(valid, wish, 0.0), 0.0)
        return (error.square() * self.scale.to(out.dtype)).sum() / max(self.weight(wanted), 1.0)

    def _entropy(self, out: Tensor, answer: Tensor, wanted: np.ndarray[Any, Any]) -> Tensor:
        """Of classes."""
        if not (wanted >= 0).any():
            return out.sum() * 0.0
        weight = None if self.scale is None else self.scale.to(out.dtype)
        flat = out.reshape(-1, out.shape[-1])
        return nn.functional.cross_entropy(flat, answer.reshape(-1), weight=weight, ignore_index=-1)

    def _apart(self, out: Tensor, answer: Tensor, taught: Tensor, wanted: np.ndarray[Any, Any]) -> Tensor:
        """Of classes: the divergence from the teacher's, where there is an answer."""
        there, t = answer >= 0, self.temperature
        if not (wanted >= 0).any():
            return out.sum() * 0.0
        student, teacher = (torch.log_softmax(z[there] / t, -1) for z in (out, taught.to(out.dtype)))
        apart = nn.functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
        if self.scale is not None:
            apart = apart * self.scale.to(out.dtype)[answer[there]]
        return t * t * apart.sum() / max(self.weight(wanted), 1e-30)


class Teacher:
    """The answers of a model to the sequences of a split, without gradient.

    A copy of the model runs in evaluation mode, by convolution where it can; the one that is given is left alone.
    Its answers never change, so they are found once, or, where they are more than `MOST` numbers (long sequences
    with answers at every step), batch by batch.
    """

    def __init__(self, model: nn.Module, split: Split, device: torch.device, most: int | None = None) -> None:
        """`most`: sequences that may run at a time; None: as `predict`."""
        model = copy.deepcopy(model).to(device).eval().requires_grad_(False)
        if hasattr(model, "set_mode"):
            model.set_mode("convolution")  # type: ignore[operator]
        self.model, self.device = model, device
        steps = split.values.shape[1] if split.per_step else 1
        few = len(split) * steps * split.outputs <= MOST
        batch = min(most or at_once(model, split), at_once(model, split))
        self._known = outputs_of(model, split, batch) if few else None

    @torch.no_grad()
    def __call__(
        self,
        index: np.ndarray[Any, Any],
        values: np.ndarray[Any, Any],
        lengths: np.ndarray[Any, Any] | None,
    ) -> Tensor:
        """Logits or values (n, K) or (n, time, K) of the sequences at `index` of the split: a batch of it."""
        if self._known is None:
            return torch.as_tensor(self.model(*inputs_on(values, lengths, self.device)))
        found = self._known[index]
        return torch.from_numpy(found[:, : values.shape[1]] if found.ndim == 3 else found).to(self.device)


def check_teacher(teacher: nn.Module | None, distill: float, model: nn.Module) -> None:
    """`ConfigError` for a share of distillation without a teacher, a teacher without a share, or the model
    itself."""
    if distill and teacher is None:
        raise ConfigError(
            f"distill = {distill:g} without a teacher; give the model in full precision, teacher=..., or set 0"
        )
    if teacher is not None and not distill:
        raise ConfigError("distill = 0 beside a teacher, who would teach nothing; set 0.5, say, or leave it out")
    if teacher is model and teacher is not None:
        raise ConfigError("the teacher is the model that is trained; give the one that it was quantized from")


def best_and_shown(split: Split, balance: float) -> tuple[str, tuple[str, ...]]:
    """The metric that the best epoch has the highest of, and those that the history keeps."""
    if split.goal == "values":
        return "r2", ("mae", "r2")
    return ("f1_macro", ("accuracy", "f1_macro")) if balance else ("accuracy", ("accuracy",))
