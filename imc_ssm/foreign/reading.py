"""Tensors by key out of a checkpoint: `.pt` (weights alone), or `.safetensors`. No code is unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imc_ssm.errors import FileError, ImcSsmError

__all__ = ["read_tensors"]

_SHELLS = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Keys under which training scripts keep the state dict, beside epochs, accuracies and the optimiser."""
_PREFIXES = ("_orig_mod.", "module.")
"""What torch.compile and data-parallel wrappers put in front of every key."""


def read_tensors(source: Mapping[str, Any] | str | Path) -> dict[str, Tensor]:
    """Key -> tensor on the CPU, without the shells and prefixes that training puts around them.

    Raises `FileError` for a file that is missing, damaged, or holds more than weights; `ImcSsmError` for something
    without tensors.
    """
    where = "the state dict" if isinstance(source, Mapping) else str(source)
    found: Any = source if isinstance(source, Mapping) else _read(Path(source))
    while isinstance(found, Mapping):
        shell = next((name for name in _SHELLS if isinstance(found.get(name), Mapping)), None)
        if shell is None:
            break
        found = found[shell]
    if not isinstance(found, Mapping):
        raise ImcSsmError(f"{where} holds a {type(found).__name__}; needed is a state dict: key -> tensor")
    tensors = {str(key): _dense(str(key), value) for key, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ImcSsmError(
            f"{where} holds no tensors (keys: {_few(map(str, found))}); give what model.state_dict() returned"
        )
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _dense(key: str, value: Tensor) -> Tensor:
    """A tensor of plain numbers on the CPU."""
    if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
        raise ImcSsmError(f"{key} is no plain tensor ({value.layout}, {value.dtype}); save it as value.to_dense()")
    return value.detach().cpu()


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"cannot read {path}: {reason}; give the path of a .pt or .safetensors file") from None
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise FileError(
            f"{path} holds more than weights (or is no checkpoint of torch), and objects are never unpickled: "
            "they can run code; where it was made, save model.state_dict() alone"
        ) from None
    except Exception as error:  # a damaged archive makes the reader raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0].rsplit("] . ", 1)[-1][:200]
        raise FileError(f"{path} is no whole checkpoint of torch ({reason}); copy or save it again") from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            if "imc_ssm" in (file.metadata() or {}):
                raise FileError(f"{path} is a file of imc-ssm already; use it where a MODEL is asked for")
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    except FileError:
        raise
    except Exception as error:  # a damaged file makes the parser raise anything
        raise FileError(f"{path} is no whole safetensors file ({str(error)[:200]}); copy it again") from None


def _few(names: Any, most: int = 5) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more
