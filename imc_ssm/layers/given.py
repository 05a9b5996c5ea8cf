"""What a caller gave, taken where it is clear what was meant, else named in one sentence."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imc_ssm.errors import ImcSsmError, shown
from imc_ssm.layers.classifier import Classifier, ModelConfig

__all__ = ["classifier_of", "tensor_of"]


def classifier_of(given: Any, what: str) -> Classifier:
    """The model itself, or the one of a file (`StoredModel`); `ImcSsmError` says what else was given to `what`."""
    inside = getattr(given, "model", None)
    model = inside if isinstance(inside, Classifier) else given
    if isinstance(model, Classifier):
        return model
    hint = "build or load one (imc_ssm.Classifier, imc_ssm.load_model)"
    if isinstance(given, (str, os.PathLike)):
        hint = f"load it first: imc_ssm.load_model({shown(os.fspath(given))})"
    elif isinstance(given, ModelConfig):
        hint = "build it first: imc_ssm.Classifier(config)"
    elif isinstance(given, nn.Module):
        hint = "put your layer into an imc_ssm.Classifier (docs/extending.md)"
    elif type(given).__name__ == "Deployment":
        hint = "a Deployment is compiled already; its model is deployment.digital()"
    value = shown(given) if isinstance(given, (str, os.PathLike, int, float)) else f"a {type(given).__name__}"
    raise ImcSsmError(f"{what} takes a model, not {value}; {hint}")


def tensor_of(given: Any, what: str) -> Tensor:
    """A tensor as it is; an array or a list of numbers as float32, (sequences, time) as one channel.

    Raises `ImcSsmError` for what is no array of numbers.
    """
    if isinstance(given, Tensor):
        return given
    try:
        array = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError):
        raise ImcSsmError(
            f"{what}: {shown(given)} is no array of numbers; give a tensor or an array (sequences, time, "
            "channels), or a dataset"
        ) from None
    return torch.from_numpy(array[:, :, None] if array.ndim == 2 else np.array(array))
