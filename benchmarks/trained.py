"""The recurrences of a trained quantized model, with the inputs that they meet on real data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imc_ssm.errors import ConfigError
from imc_ssm.fixedpoint import ScanFormats, ScanPlan, plan_scan
from imc_ssm.graph import Recurrence
from imc_ssm.kernels import codes_of
from imc_ssm.kernels.codes import pair
from imc_ssm.layers import Classifier
from imc_ssm.modelfile import load_model
from imc_ssm.quantization import QuantizedS4D

__all__ = ["Layer", "inputs_of", "layers_of", "load_quantized"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Layer:
    """One integer recurrence of a model."""

    path: str
    """Of its module in the model."""
    module: QuantizedS4D
    a: Tensor
    b: Tensor
    c: Tensor
    """Coefficients (head, state) complex, as `diagonal_scan` takes them."""
    formats: ScanFormats
    plan: ScanPlan
    codes: tuple[Ints, Ints, Ints]
    """Codes of a, b, c, (head, state, 2)."""


def load_quantized(path: Path) -> Classifier:
    """The model of a file; `ConfigError` unless its state is quantized."""
    stored = load_model(path)
    if stored.scheme is None or stored.scheme.bits.state is None:
        raise ConfigError(f"{path} has no integer recurrence; make a quantized model with `imc-ssm quantize`")
    return stored.model


@torch.no_grad()
def layers_of(model: Classifier) -> list[Layer]:
    """Every recurrence that the model's operators list, in order."""
    layers = []
    for operator in model.operators():
        if not isinstance(operator, Recurrence):
            continue
        module = model.get_submodule(operator.module)
        assert isinstance(module, QuantizedS4D)
        a, b, c, _ = module.coefficients()
        formats = module.formats()
        assert formats.b is not None
        assert formats.c is not None
        found = [codes_of(pair(z), f)[0] for z, f in ((a, formats.a), (b, formats.b), (c, formats.c))]
        plan = plan_scan(formats, operator.heads, operator.states)
        layers.append(Layer(operator.module, module, a, b, c, formats, plan, (found[0], found[1], found[2])))
    return layers


@torch.no_grad()
def inputs_of(model: Classifier, layers: list[Layer], values: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs (batch, head, time) of every layer's module; the model reads (batch, time, channel)."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(path: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_: torch.nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
            seen[path] = args[0], result

        return model.get_submodule(path).register_forward_hook(hook)

    handles = [watch(layer.path) for layer in layers]
    try:
        model(values)
    finally:
        for handle in handles:
            handle.remove()
    return [seen[layer.path][0] for layer in layers], [seen[layer.path][1] for layer in layers]
