"""Where to compute, by name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

from imc_ssm.errors import ImcSsmError

__all__ = ["device_of", "named_device", "placed", "precision_of", "single_precision"]

_ONE_AT_A_TIME = threading.RLock()


def named_device(name: str) -> torch.device:
    """The device "cpu", "cuda" or "cuda:N"; `ImcSsmError` for another name, or where it cannot be used."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ImcSsmError(f"unknown device {name!r}; allowed are 'cpu', 'cuda' and 'cuda:N'")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        seen = f"{count} GPU{'s' * (count > 1)}" if count else "no GPU"
        hint = "use device 'cpu'"
        if torch.version.cuda is None:
            hint += f", or install a PyTorch that is built for CUDA (this one, {torch.__version__}, is not)"
        elif not count:
            hint += f", or look at nvidia-smi: is there a driver for CUDA {torch.version.cuda}?"
        else:
            hint += f", or one of 'cuda:0' to 'cuda:{count - 1}'"
        raise ImcSsmError(f"device {name!r} cannot be used: PyTorch sees {seen}; {hint}")
    return device


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters lie, or its buffers, where all are on tiles; the CPU, if it has neither."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def precision_of(model: nn.Module) -> torch.dtype:
    """Of a model's parameters, or of its buffers, where all of them are on tiles; torch's default, without any."""
    floats = (x.dtype for x in chain(model.parameters(), model.buffers()) if x.is_floating_point())
    return next(floats, torch.get_default_dtype())


@contextmanager
def single_precision() -> Iterator[None]:
    """What is built within the block is float32, whatever torch's default type is; also a decorator."""
    if torch.get_default_dtype() == torch.float32:
        yield
        return
    with _ONE_AT_A_TIME:  # the default type belongs to the process
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@contextmanager
def placed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Within the block the model lies on the device; after it where it was."""
    before = device_of(model)
    model.to(device)
    try:
        yield
    finally:
        model.to(before)
