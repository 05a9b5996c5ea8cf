"""Figures of merit of a deployment in all scenarios of the constants: of its work, and the peak of its tiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from imc_ssm.chip.packing import tiles_of
from imc_ssm.costs.counts import on_tiles
from imc_ssm.costs.prices import ANALOG, Prices
from imc_ssm.graph import COMPONENTS, GatedUpdate, Operator, Recurrence, StateUpdate
from imc_ssm.pricing.intervals import Number, Values

if TYPE_CHECKING:
    from imc_ssm.chip import Deployment
    from imc_ssm.costs.plan import Totals

__all__ = ["macs_of", "metrics"]


def macs_of(deployment: Deployment, operators: Iterable[Operator] | None = None) -> float:
    """Multiply-accumulates of an inference: of every weight, and the products of every update of a state (of a
    complex one of S4D 8: a x 4, b u 2, the real part of c x 2); of all operators or of those given."""
    each = {"step": 0.0, "sequence": 0.0}
    for op in deployment.graph if operators is None else operators:
        each[op.rate] += sum(m.inputs * m.outputs for m in on_tiles(deployment, op))
        if isinstance(op, Recurrence | StateUpdate | GatedUpdate):
            each[op.rate] += sum(p.count / p.period for p in op.products(deployment.formats.bits))
    return deployment.steps * each["step"] + each["sequence"]


def metrics(
    deployment: Deployment, found: Totals, k: Values, activity: float
) -> Iterator[tuple[str, Number, str, str]]:
    """Name, value in all scenarios, unit and label of each figure."""
    macs = macs_of(deployment)
    energy, time, area = (found.total(name) for name in ("energy", "latency", "area"))
    tops = 2 * macs / time / 1e12
    yield "throughput", 1.0 / time, "1/s", "Inferences one after the other"
    yield "tops", tops, "TOPS", "Throughput, 1e12 operations (two a multiply-accumulate) per second"
    yield "tops_per_watt", 2 * macs / energy / 1e12, "TOPS/W", "Operations per energy"
    yield "tops_per_mm2", tops / (area * 1e6), "TOPS/mm2", "Throughput by area"
    yield "energy_per_mac", energy / macs, "J", "Energy per multiply-accumulate"
    yield "power", energy / time, "W", "Power while inferences follow one another"
    used = [matrix for op in deployment.graph for matrix in on_tiles(deployment, op)]
    if not used:
        return
    # A whole tile: its rows and columns all in use, devices as conducting and inputs as active as the model's.
    prices, design, pulses = Prices(deployment.chip, {}, k), deployment.design, deployment.chip.dac.pulses
    unit = prices.of_tiles
    shares = [activity if m.input_activity is None else m.input_activity for m in used]
    siemens = sum(m.conductance(deployment.chip) * own for m, own in zip(used, shares, strict=True))
    siemens = siemens / sum(m.device_count(deployment.chip) for m in used) * design.rows * design.bit_lines
    tile = siemens * unit["cell"]
    tile = tile + design.rows * (unit["word line"] + pulses * unit["dac"])
    tile = tile + design.columns * (unit["bit line"] + pulses * (unit["adc"] + unit["sample hold"]))
    tile = tile * (1.0 + prices.tiles.law.control) + prices.tile(design.columns)
    operations = 2 * design.rows * (design.columns // design.slices) / 1e12
    peak = operations * tiles_of(used, deployment.chip) / sum(prices.tiles.times(design.columns).values())
    analog = found.area[..., [COMPONENTS.index(name) for name in (*ANALOG, "control")]].sum(-1)
    yield "tops_peak", peak, "TOPS", "Peak throughput of the tiles in use, whole and never idle"
    yield "tops_per_watt_peak", operations / tile, "TOPS/W", "Peak operations per energy of a whole tile"
    yield "tops_per_mm2_peak", peak / (analog * 1e6), "TOPS/mm2", "Peak throughput by area of the tiles"
