"""A stand-in deployment: plain records with the attributes that the cost model reads, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from imc_ssm.graph import Elementwise, Mvm, Recurrence


def number(value: float) -> SimpleNamespace:
    """A cited number, without its citation."""
    return SimpleNamespace(value=value)


def make_design(**changes: Any) -> SimpleNamespace:
    """A chip design with round numbers: G from 1 to 11 uS, 0.2 V, 100 ns."""
    cell = SimpleNamespace(
        g_min=number(1e-6), g_max=number(11e-6), v_read=number(0.2), t_read=number(100e-9), area=number(1e-14)
    )
    fields: dict[str, Any] = {
        "name": "stand-in",
        "rows": 2,
        "columns": 4,
        "dac_bits": 8,
        "adc_bits": 8,
        "columns_per_adc": 4,
        "node": number(32e-9),
        "clock": number(1e9),
        "lanes": 8,
        "components": "periphery-32nm",
        "adc": "sar-8b",
        "dac": "dac-8b",
        "sample_hold": "sample-hold",
    }
    return SimpleNamespace(load_cell=lambda: cell, **(fields | changes))


def make_matrix(name: str, target: np.ndarray, design: SimpleNamespace, rate: str) -> SimpleNamespace:
    """A matrix cut into tiles of the design's size."""

    def cuts(length: int, size: int) -> list[tuple[int, int]]:
        return [(start, min(start + size, length)) for start in range(0, length, size)]

    inputs, outputs = target.shape
    tiles = tuple(
        SimpleNamespace(row=row, column=column)
        for row in cuts(inputs, design.rows)
        for column in cuts(outputs, design.columns)
    )
    return SimpleNamespace(
        name=name,
        target=target.astype(np.float32),
        tiles=tiles,
        bias=np.zeros(outputs, np.float32),
        rate=rate,
    )


PARTS = (
    *("poles", "b", "c", "d", "state", "weights", "biases", "input", "encoder", "recurrent"),
    *("after_d", "gelu", "mixing", "glu", "residual", "pool"),
)


def make_deployment(
    *,
    heads: int = 4,
    states: int = 3,
    steps: int = 10,
    bits: dict[str, int] | None = None,
    order: str = "joint",
    granularity: str = "head",
    gelu: str = "exact",
    **design: Any,
) -> SimpleNamespace:
    """One layer with everything in it: encoder, recurrence, D, GELU, mixing, GLU, residual, mean, decoder."""
    chip = make_design(**design)
    rng = np.random.default_rng(0)
    operators = (
        Mvm("encoder", "encoder", 3, heads),
        Recurrence("layers.0.recurrence", "layers.0", heads, states),
        Elementwise("layers.0.scale", "layers.0", "scale", heads),
        Elementwise("layers.0.gelu", "layers.0", "gelu", heads),
        Mvm("layers.0.mixing", "layers.0.mixing", heads, 2 * heads),
        Elementwise("layers.0.glu", "layers.0", "glu", heads),
        Elementwise("layers.0.add", "layers.0", "add", heads),
        Elementwise("mean", "", "mean", heads),
        Mvm("decoder", "decoder", heads, 5, "sequence"),
    )
    matrices = tuple(
        make_matrix(op.name, rng.uniform(-1, 1, (op.inputs, op.outputs)), chip, op.rate)
        for op in operators
        if isinstance(op, Mvm)
    )
    return SimpleNamespace(
        design=chip,
        matrices=matrices,
        operators=operators,
        steps=steps,
        bits=dict.fromkeys(PARTS, 8) | (bits or {}),
        multipliers={"layers.0.recurrence": SimpleNamespace(a=16, b=13, sum=34)},
        scheme=SimpleNamespace(rounding_placement=order, granularity=granularity, gelu=gelu),
    )


@pytest.fixture(scope="session")
def deployment() -> Callable[..., SimpleNamespace]:
    """The factory of stand-in deployments."""
    return make_deployment
