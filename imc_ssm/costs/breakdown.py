"""What every layer of a deployment takes, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.chip.deployment import deployment_of
from imc_ssm.costs.counts import Taken, actions_of, bits_of, on_tiles, rounds_of, stores
from imc_ssm.costs.given import activity_of
from imc_ssm.costs.merits import macs_of
from imc_ssm.costs.model import energies
from imc_ssm.costs.plan import DEFAULT_ACTIVITY, CostPlan
from imc_ssm.costs.prices import Prices, kinds_of_steps, serial
from imc_ssm.devices.constants import ConstantsLike, constants_of
from imc_ssm.graph import COMPONENTS, Operator
from imc_ssm.pricing.intervals import BOUNDS, Number, Values, bounds, scenarios

if TYPE_CHECKING:
    from imc_ssm.chip import Deployment

__all__ = ["by_layer"]

IDLE = "leakage"
"""The row of what no layer takes."""


def by_layer(
    deployment: Deployment, *, activity: float = DEFAULT_ACTIVITY, constants: ConstantsLike = None
) -> xr.Dataset:
    """Energy, time, memory and work of every layer, per inference; they add up to those of `cost`.

        >>> import imc_ssm
        >>> from imc_ssm.costs import by_layer
        >>> data = imc_ssm.load_dataset("digits")
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))
        >>> deployment = imc_ssm.compile_model(imc_ssm.quantize(model, "uniform", data), "pcm-256", data)
        >>> [str(name) for name in by_layer(deployment)["layer"].values]
        ['input', 'encoder', 'blocks.0', 'pool', 'decoder', 'leakage']

    A layer is a module of the model, a block as a whole; the last row is the leakage of the chip. Over `layer`,
    `component` and `bound`: `energy` (J), `latency` (s); over `layer`: `memory` (bits of digital memory), `macs`,
    `devices` (memristive). `activity` and `constants` as in `cost`, which raises the same.
    """
    deployment, activity = deployment_of(deployment, "by_layer"), activity_of(activity)
    k = scenarios(constants_of(constants).entries)
    layers = list(dict.fromkeys(_layer(op) for op in deployment.graph))
    taken = actions_of(deployment)
    scenario_count = 1 + 2 * len(k.names)
    energy = np.zeros((len(layers) + 1, len(COMPONENTS), scenario_count))
    for one, joules in zip(taken, energies(deployment, taken, activity, k), strict=True):
        energy[layers.index(_layer(one.operator)), COMPONENTS.index(one.action.component)] += joules
    leaks = CostPlan(deployment, activity=activity).priced(k).energy[..., COMPONENTS.index("leakage")]
    energy[-1, COMPONENTS.index("leakage")] = leaks
    latency = np.zeros((len(layers) + 1, len(COMPONENTS), scenario_count))
    for op, parts in _latencies(deployment, taken, k).items():
        for name, seconds in parts.items():
            latency[layers.index(_layer(op)), COMPONENTS.index(name)] += seconds
    held = {name: np.zeros(len(layers) + 1) for name in ("memory", "macs", "devices")}
    for op in deployment.graph:
        at = layers.index(_layer(op))
        held["memory"][at] += bits_of(deployment, op)
        held["macs"][at] += macs_of(deployment, [op])
        held["devices"][at] += sum(m.device_count(deployment.chip) for m in on_tiles(deployment, op))
    out: dict[str, Any] = {}
    for name, values, unit, label in (
        ("energy", energy, "J", "Energy per inference"),
        ("latency", latency, "s", "Serial time per inference"),
    ):
        text = {"units": unit, "long_name": label}
        out[name] = (("layer", "component", "bound"), np.stack(bounds(values, k), axis=-1), text)
    for name, unit, label in (
        ("memory", "bit", "Digital memory"),
        ("macs", "1", "Multiply-accumulates of matrices and states"),
        ("devices", "1", "Memristive devices in use"),
    ):
        out[name] = ("layer", held[name], {"units": unit, "long_name": label})
    coords = {"layer": [*layers, IDLE], "component": list(COMPONENTS), "bound": list(BOUNDS)}
    title = f"Cost by layer on {deployment.design.name}"
    return xr.Dataset(out, coords, {"title": title, "design": deployment.design.name, "steps": deployment.steps})


def _layer(operator: Operator) -> str:
    """The module that an operator's output is in: of a block its first two words."""
    path = operator.output.name.split(".")
    return ".".join(path[:2] if len(path) > 2 and path[1].isdigit() else path[:1])


def _latencies(deployment: Deployment, taken: list[Taken], k: Values) -> dict[Operator, dict[str, Number]]:
    """s per inference of every operator, by component."""
    prices, rounds = Prices(deployment.chip, stores(deployment), k), rounds_of(deployment)
    kinds = kinds_of_steps(taken, deployment.steps)
    out: dict[Operator, dict[str, Number]] = {}
    for op in deployment.graph:
        own = [t for t in taken if t.operator is op]
        parts: dict[str, Number] = serial(prices, (t for t in own if t.action.rate == "sequence"))
        for period, count in kinds.items():
            due = (t for t in own if t.action.rate == "step" and t.action.period <= period)
            for name, seconds in serial(prices, due).items():
                parts[name] += count * seconds
        if rounds[op]:
            often = rounds[op] * (deployment.steps if op.rate == "step" else 1)
            for name, seconds in prices.tiles.times(max(m.widest() for m in on_tiles(deployment, op))).items():
                parts[name] = parts[name] + often * seconds
        out[op] = parts
    return out
