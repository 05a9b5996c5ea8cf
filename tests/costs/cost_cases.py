"""Models on tiles of 8 x 8, what they cost, and whether that went the way that it should."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from imc_ssm.chip import Deployment, compile
from imc_ssm.costs import cost
from imc_ssm.devices import Chip, load_design, resolve
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Scheme, quantize

DERIVED = {"control", "leakage"}
MODEL = {"inputs": 3, "heads": 4, "outputs": 5, "n_state": 8}
ALLOWED = {"+": "+", "-": "-", ">": "+=", "<": "-=", "~": "+-=", "=": "="}
"""More, less, never less, never more, either, the same."""


def ways_of(moves: str) -> dict[str, str]:
    """Quantity -> sign, of groups that ";" holds apart: "energy +adc ~digital_update; total +macs"."""
    out = {}
    for group in filter(None, moves.split(";")):
        name, *words = group.split()
        out |= {f"{name}/{word[1:].replace('_', ' ')}": word[0] for word in words}
    return out


def chip(**changes: Any) -> Chip:
    """`pcm-256` with tiles of 8 x 8."""
    sizes = {"rows": 8, "columns": 8, "columns_per_adc": 4, "lanes": 4, "tiles": 10_000}
    return resolve(load_design("pcm-256").with_(**(sizes | changes)))


def placed(model: dict[str, Any], scheme: dict[str, Any], steps: int = 16, on: Chip | None = None) -> Deployment:
    """The model of one seed, quantized with 8 bits but for the changes; activity as `cost` has it."""
    config = ModelConfig.parse(MODEL | model)
    torch.manual_seed(0)
    made = Classifier(config)
    data = torch.randn(8, steps, config.inputs, generator=torch.Generator().manual_seed(1))
    found = compile(quantize(made, Scheme.parse(scheme), data), chip() if on is None else on, data)
    return replace(found, matrices=tuple(replace(m, input_activity=None) for m in found.matrices))


def quantities(deployment: Deployment) -> dict[str, float]:
    """Energy, latency and area by component, memory by content, and what is counted."""
    ds = cost(deployment)
    out = {f"memory/{part}": float(ds["memory_part"].sel(part=part)) for part in ds["part"].values}
    for name in ("energy", "latency", "area"):
        for component in set(ds["component"].values.tolist()) - DERIVED:
            out[f"{name}/{component}"] = float(ds[name].sel(component=component))
    counted = ("macs", "tiles", "energy_load", "memory_loaded")
    return out | {f"total/{name.replace('_', ' ')}": float(ds[name]) for name in counted}


def wrong(before: dict[str, float], after: dict[str, float], ways: dict[str, str]) -> dict[str, str]:
    """The quantities that do not go the way that they should, with how they go."""
    assert set(ways) <= set(before), set(ways) - set(before)
    out = {}
    for name, old in before.items():
        new, way = after[name], ways.get(name, "=")
        gone = "=" if np.isclose(old, new, rtol=1e-9, atol=1e-30) else "+" if new > old else "-"
        if gone not in ALLOWED[way]:
            out[name] = f"{way} expected, {gone} found"
    return out
