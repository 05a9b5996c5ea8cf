"""Real deployments for the counts: one small layer on a chip with round numbers, words of any length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from imc_ssm.chip import Deployment, compile
from imc_ssm.devices import Chip, load_design, resolve
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Bits, Scheme, quantize


def make_chip(**changes: Any) -> Chip:
    """A real chip with round numbers: tiles of 2 x 4, G from 1 to 11 uS, 0.2 V, 100 ns."""
    shipped = load_design("pcm-256")
    sizes = {"rows": 2, "columns": 4, "lanes": 8, "tiles": 10_000} | changes
    shared = {"columns_per_adc": min(4, sizes["columns"])}
    chip = resolve(shipped.with_(**(shared | sizes)))
    values = {"g_min": 1e-6, "g_max": 11e-6, "v_read": 0.2, "t_read": 100e-9, "area": 1e-14}
    numbers = {name: getattr(chip.cell, name).with_(value=value) for name, value in values.items()}
    return chip.with_(cell=chip.cell.with_(**numbers))


def make_deployment(
    *,
    heads: int = 4,
    states: int = 3,
    steps: int = 10,
    bits: dict[str, int] | None = None,
    layer: str = "s4d",
    layers: int = 1,
    scheme: dict[str, Any] | None = None,
    **design: Any,
) -> Deployment:
    """Encoder, layer, GELU, mixing, GLU, residual, mean and decoder of 3 inputs and 5 classes, 8 bits each.

    The activity of the inputs is that of `cost`, not a calibrated one.
    """
    torch.manual_seed(0)
    shape = {"inputs": 3, "heads": heads, "classes": 5, "layers": layers, "layer": layer, "n_state": 2 * states}
    model = Classifier(ModelConfig.parse(shape))
    words = dict.fromkeys(Bits.model_fields, 8) | (bits or {})
    data = torch.randn(4, steps, 3)
    quantized = quantize(model, Scheme.parse({"bits": words} | (scheme or {})), data)
    made = compile(quantized, make_chip(**design), data)
    return replace(made, matrices=tuple(replace(m, input_activity=None) for m in made.matrices))


@pytest.fixture(scope="session")
def deployment() -> Callable[..., Deployment]:
    """The factory of deployments."""
    return make_deployment
