"""Energy, latency, area and memory of a model on a chip design."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import xarray as xr

from imc_ssm.graph import Recurrence, StateUpdate
from imc_ssm.study.chips import (
    BOUNDS,
    COMPONENTS,
    Deployment,
    OnDesign,
    by_operator,
    described_price,
    place,
    price,
)
from imc_ssm.study.jobs.base import Bench, Dimension, FromModel, Variable

if TYPE_CHECKING:
    from imc_ssm.study.declare import Study

__all__ = ["Cost", "cost_of"]

COMPONENT = (Dimension("component", "Component", labels=tuple(COMPONENTS)),)
PRICES = (
    Variable("energy", "J", "Energy per inference", COMPONENT),
    Variable("energy_step", "J", "Energy per time step", COMPONENT),
    Variable("latency", "s", "Serial time per inference", COMPONENT),
    Variable("area", "m2", "Silicon area", COMPONENT),
    Variable("memory", "bit", "Digital memory", COMPONENT),
)
BOUND = (Dimension("bound", "End of the interval", labels=BOUNDS),)
INTERVALS = (
    Variable("energy_total_bounds", "J", "Energy per inference, all components", BOUND),
    Variable("latency_total_bounds", "s", "Serial time per inference, all components", BOUND),
    Variable("area_total_bounds", "m2", "Silicon area, all components", BOUND),
    Variable("throughput", "1/s", "Inferences one after the other", BOUND),
    Variable("tops_per_watt", "TOPS/W", "Operations per energy", BOUND),
    Variable("tops_per_mm2", "TOPS/mm2", "Throughput by area", BOUND),
    Variable("energy_per_mac", "J", "Energy per multiply-accumulate", BOUND),
)
UNIT = (
    Variable("energy_recurrence", "J", "Energy of the recurrences per time step"),
    Variable("updates", "1", "State updates, of one a step each"),
)
BITS = (
    Variable("bits_state", "bit", "Word length of the state"),
    Variable("bits_poles", "bit", "Word length of the poles in the unit"),
)


class Cost(FromModel):
    """Energy, latency, area and memory of one inference by component, the totals with their intervals, the energy
    of the recurrences, and word lengths, without any accuracy."""

    kind = "cost"
    word = "cost"
    variables = (*PRICES, *INTERVALS, *UNIT, *BITS)
    numerics = 2  # laws of arrays and converters, lines, control and leakage

    design: OnDesign
    """Chip design: a name, a path, or the design itself."""

    def settings(self, study: Study) -> dict[str, Any]:
        """The design with all that is in it."""
        return {"design": self._design}

    @functools.cached_property
    def _design(self) -> dict[str, Any]:
        return described_price(self.design)

    def run(self, bench: Bench) -> xr.Dataset:
        """Compile and price."""
        return cost_of(place(bench.start().model, self.design, *bench.calibration(), name=self.name))


def cost_of(deployment: Deployment) -> xr.Dataset:
    """What `Cost` measures, of a deployment."""
    priced = price(deployment)
    kinds = deployment.graph.kinds()
    poles = {p.name for op in deployment.graph for p in op.parameters if p.pole}
    widest = {
        "bits_state": [f.bits for path, f in deployment.formats.items() if kinds[path] == "state"],
        "bits_poles": [f.bits for path, f in deployment.formats.items() if path in poles],
    }
    words = {name: max(bits, default=float("nan")) for name, bits in widest.items()}
    recurrences = [p for op, p in by_operator(deployment).items() if isinstance(op, Recurrence | StateUpdate)]
    joules = sum(sum(parts.values()) for parts in recurrences)
    unit = {"energy_recurrence": joules / deployment.steps, "updates": priced["updates"].values}
    return Cost.dataset({v.name: priced[v.name].values for v in (*PRICES, *INTERVALS)} | unit | words)
