"""A deployment for the counts: a real chip and real matrices on it, and words of any length for every part."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from imc_ssm.operators import Elementwise, Mvm, Recurrence

from imc_ssm.chip import map_matrix
from imc_ssm.devices import Chip, load_design, resolve


def make_chip(**changes: Any) -> Chip:
    """A real chip with round numbers: tiles of 2 x 4, G from 1 to 11 uS, 0.2 V, 100 ns."""
    shipped = load_design("pcm-256")
    sizes = {"rows": 2, "columns": 4, "lanes": 8, "tiles": 10_000} | changes
    shared = {"columns_per_adc": min(4, sizes["columns"])}
    chip = resolve(shipped.with_(**(shared | sizes)))
    values = {"g_min": 1e-6, "g_max": 11e-6, "v_read": 0.2, "t_read": 100e-9, "area": 1e-14}
    numbers = {name: getattr(chip.cell, name).with_(value=value) for name, value in values.items()}
    return chip.with_(cell=chip.cell.with_(**numbers))


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
    chip = make_chip(**design)
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
        map_matrix(
            op.name,
            op.module,
            rng.uniform(-1, 1, (op.outputs, op.inputs)),
            np.zeros(op.outputs),
            chip,
            input_range=1.0,
            rate=op.rate,
        )
        for op in operators
        if isinstance(op, Mvm)
    )
    return SimpleNamespace(
        chip=chip,
        design=chip.design,
        matrices=matrices,
        operators=operators,
        steps=steps,
        bits=dict.fromkeys(PARTS, 8) | (bits or {}),
        multipliers={"layers.0.recurrence": SimpleNamespace(a=16, b=13, sum=34)},
        scheme=SimpleNamespace(rounding_placement=order, granularity=granularity, gelu=gelu),
    )


@pytest.fixture(scope="session")
def deployment() -> Callable[..., SimpleNamespace]:
    """The factory of deployments."""
    return make_deployment
