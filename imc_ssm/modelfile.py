"""Model files: safetensors with the configuration, the scheme and where the model came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imc_ssm.errors import FileError, shown
from imc_ssm.files import load_tensors, save_tensors
from imc_ssm.layers import Classifier, ModelConfig, classifier_of
from imc_ssm.quantization import QuantizedS4D, Quantizer, Scheme, wrap

__all__ = ["StoredModel", "load_model", "rebuild", "save_model", "tensors_of"]


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A model as it is kept in a file."""

    model: Classifier
    """The model, in evaluation mode."""
    scheme: Scheme | None
    """Its quantization, None in full precision."""
    info: dict[str, Any] = field(default_factory=dict)
    """Where it came from: task, training configuration, history, accuracies (percent)."""

    def __repr__(self) -> str:
        words = [
            f"{name} {shown(value)}" for name, value in self.info.items() if not isinstance(value, dict | list)
        ]
        return f"{self.model!r}\n  {', '.join(words)}" if self.info else repr(self.model)

    def _repr_html_(self) -> str:
        return self.model._repr_html_()


def tensors_of(model: torch.nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    """All parameters and buffers as arrays."""
    return {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}


def save_model(path: str | Path, stored: StoredModel | Classifier | str | Path) -> None:
    """Write a model file, atomically; `FileError` if `path` cannot be written.

    `stored`: a model, or a `StoredModel` to say where it came from too.
    """
    if isinstance(stored, str | Path):  # the other way round, as torch.save has it
        path, stored = stored, path
    if not isinstance(stored, StoredModel):
        model = classifier_of(stored, "save_model")
        stored = StoredModel(model, getattr(model, "scheme", None))
    header = {
        "config": stored.model.config.model_dump(mode="json"),
        "scheme": None if stored.scheme is None else stored.scheme.model_dump(mode="json"),
        "info": stored.info,
    }
    save_tensors(path, tensors_of(stored.model), header, kind="model")


@torch.inference_mode(False)  # it can be trained, wherever it was loaded
def load_model(path: str | Path) -> StoredModel:
    """Read a model file: the model, its scheme and where it came from.

        >>> import imc_ssm
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))
        >>> imc_ssm.save_model("mine.safetensors", model)
        >>> imc_ssm.load_model("mine.safetensors").model.config.heads
        4

    Raises `FileError` for one that is missing, truncated, changed or of another kind.
    """
    tensors, header = load_tensors(path, kind="model")
    model, scheme = rebuild(tensors, header, str(path))
    info = header.get("info", {})
    if not isinstance(info, dict):
        raise FileError(f"{path}: its info is {shown(info)}, no mapping; write it again")
    return StoredModel(model, scheme, info)


def rebuild(
    tensors: Mapping[str, np.ndarray[Any, Any]], header: Mapping[str, Any], where: str
) -> tuple[Classifier, Scheme | None]:
    """The model behind a header with `config` and `scheme`, and its tensors; `FileError` if they do not fit."""
    config = ModelConfig.parse(header.get("config"), where=where)
    scheme = None if header.get("scheme") is None else Scheme.parse(header["scheme"], where=where)
    _check(config, tensors, where)
    try:
        with torch.random.fork_rng(devices=[]):
            model = Classifier(config)
        if scheme is not None:
            model = wrap(model, scheme)
        model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})
    except (RuntimeError, MemoryError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise FileError(f"{where}: the tensors do not fit the configuration ({reason}); write it again") from None
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise FileError(f"{where}: {name} holds numbers that are not finite; train it again")
    for name, module in model.named_modules():
        if isinstance(module, QuantizedS4D):
            try:
                module.check(name)
            except FileError as error:
                raise FileError(f"{where}: {error}") from None
        if isinstance(module, Quantizer) and not bool((module.scale > 0).all()):
            raise FileError(f"{where}: {name}.scale holds scales that are not positive; quantize it again")
    return model.eval(), scheme


def _check(config: ModelConfig, tensors: Mapping[str, np.ndarray[Any, Any]], where: str) -> None:
    """`FileError` for a model that the tensors cannot be of, before it is built."""
    held = sum(array.size for array in tensors.values())
    heads = max(config.heads) if isinstance(config.heads, tuple) else config.heads
    state = int(getattr(config.layer, "n_state", 1))
    words = heads * state if config.states is None else max(sum(own) for own in config.states)
    if max(heads * heads // 4, words // 4, config.layers, config.inputs) > held:
        raise FileError(
            f"{where}: the tensors do not fit the configuration ({heads} heads of {state} states, {config.layers} "
            f"layers, and {held} numbers in all); write it again"
        )
