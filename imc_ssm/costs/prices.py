"""What one action costs on a chip, how many of them an operator takes, and what takes how long.

Prices are laws (`pricing.tiles`) and numbers of the component table, with constants as floats or as all scenarios
at once (`pricing.intervals`). What a model's structure and words decide is counted as units of a verb, so that a
plan (`plan`) prices it as often as numbers of the design change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from imc_ssm.costs.counts import Taken, on_tiles
from imc_ssm.devices import Digital, Memory
from imc_ssm.errors import DesignError
from imc_ssm.graph import COMPONENTS
from imc_ssm.pricing.arrays import held
from imc_ssm.pricing.intervals import Number, Values, most
from imc_ssm.pricing.nodes import logic_scale
from imc_ssm.pricing.tiles import TilePrices, tile_prices

if TYPE_CHECKING:
    from imc_ssm.chip import Deployment

__all__ = [
    "ANALOG",
    "ON_TILES",
    "ON_TILES_PARTS",
    "SPREAD",
    "Prices",
    "Serial",
    "kinds_of_steps",
    "serial",
    "stage_times",
    "weight",
]

ANALOG = ("cells", "lines", "dac", "adc")
"""Components of which control takes a share."""
ON_TILES_PARTS = (*ANALOG, "control")
"""Components of tiles."""
SPREAD = ("memories", "movement")
"""Components whose times are those of the table's logic."""
TILE = 512 * 2048
"""Weights of a tile that takes `tile_power`: of the chips that fit 13 mW (Ambrogio et al. 2023,
doi:10.1038/s41586-023-06337-5). ISAAC's tile, whose 8.6 mW are nominal, has 1.6 million cells of two bits."""


_DIGITAL = {
    "multiply": "multiply",
    "add": "add",
    "shift": "shift",
    "register": "flip_flop",
    "lookup": "lookup",
    "bus": "bus",
}
"""Verbs of the digital table, and its parts."""
ON_TILES = ("cell", "word line", "bit line", "dac", "adc", "sample hold", "tile")
"""Verbs of tiles; control is a share of what they take."""


class Prices:
    """What one action costs on a chip, J, with constants `k` and memories as large as `parts` on so many lanes."""

    def __init__(self, chip: Any, parts: Mapping[str, int], k: Values, lanes: int | None = None) -> None:
        self.chip, self.parts, self.k = chip, parts, k
        self.lanes = chip.design.lanes if lanes is None else lanes

    @cached_property
    def memories(self) -> dict[str, Memory]:
        """Coefficients and state in a bank a lane, activations in one that all lanes share."""
        digital, parts = self.chip.digital, self.parts
        return {
            "coefficients": digital.banked(parts["parameters"] + parts["requantization"], self.lanes),
            "state": digital.banked(parts["state"], self.lanes),
            "activations": digital.banked(parts["activations"], 1),
        }

    @cached_property
    def tiles(self) -> TilePrices:
        """Of the tiles; `DesignError` for a converter without a price."""
        return tile_prices(self.chip, self.k)

    def digital(self, verb: str, store: str | None = None) -> Number:
        """J of one unit of a verb of the digital unit: an action costs `weight(action)` of them."""
        digital, k = self.chip.digital, self.k
        if verb in ("read", "write"):
            return getattr(self.memories[str(store)], verb) * k.logic_spread
        if verb in _DIGITAL:
            return getattr(digital, _DIGITAL[verb]).energy.value * k.logic_spread
        return digital.others[verb].energy.value * k.logic_spread

    @cached_property
    def of_tiles(self) -> dict[str, Number]:
        """J of one unit of each verb of `ON_TILES` but "tile", with all columns of a tile in use."""
        tiles, pulses = self.tiles, self.chip.dac.pulses
        return {
            "cell": tiles.pulse_energy,
            "word line": tiles.law.word_line,
            "bit line": tiles.law.bit_line,
            "dac": tiles.driver / pulses,
            "adc": tiles.convert / pulses,
            "sample hold": tiles.hold / pulses,
        }

    def tile(self, columns: int) -> Number:
        """J that a tile's sequencer, clock and registers take while so many of its columns are read.

        Of ISAAC's tile 0.31 (`tile_rest`): its buffer, bus and tables are priced as memories, movement and
        nonlinearity.
        """
        k, design = self.k, self.chip.design
        power = k.tile_power * k.tile_rest * logic_scale(k, design.node.value) / logic_scale(k, 14e-9)
        return power * (design.rows * design.columns / TILE) * sum(self.tiles.times(columns).values())

    def on_tile(self, verb: str, columns: int) -> Number:
        """J of one unit of a verb of `ON_TILES`, of a tile that so many columns are read of.

        Converters that integrate drive the rows again for every column that shares them.
        """
        if verb == "tile":
            return self.tile(columns)
        price, spec = self.of_tiles[verb], self.tiles.spec
        if verb in ("word line", "dac") and not held(spec.adc):
            return price * (min(spec.share, columns) / spec.share)
        return price


def weight(deployment: Deployment, taken: Taken, activity: float) -> float:
    """How many units of its verb all of an action's counts cost, each time it is done; of cells S x activity."""
    action, digital = taken.action, deployment.chip.digital
    if action.verb == "cell":
        placed = on_tiles(deployment, taken.operator)
        shares = (activity if m.input_activity is None else m.input_activity for m in placed)
        return sum(m.conductance(deployment.chip) * own for m, own in zip(placed, shares, strict=True))
    if action.verb in ("read", "write"):
        return float(action.count * action.bits[0])
    if action.verb in _DIGITAL:
        return float(action.count * getattr(digital, _DIGITAL[action.verb]).scale(*action.bits))
    if action.verb in digital.others:
        return float(action.count * digital.others[action.verb].scale(*action.bits))
    if action.verb in (*ON_TILES, "control"):
        return float(action.count)
    known = ", ".join((*ON_TILES, "control", "read", "write", *_DIGITAL, *digital.others))
    raise DesignError(f"operator {taken.operator.name!r}: action {action.verb!r} has no price; known: {known}")


def kinds_of_steps(operations: Iterable[Taken], steps: int) -> dict[int, int]:
    """Longest period that is due (of those in use, each of which divides the next) -> steps at which it is."""
    periods = sorted({1} | {taken.action.period for taken in operations})
    due = [steps // period for period in periods]
    counts = (most - more for most, more in zip(due, [*due[1:], 0], strict=True))
    return {period: count for period, count in zip(periods, counts, strict=True) if count}


class Serial:
    """Digital operators that run one after the other: slots, look-ups, words that move, bits that are read."""

    def __init__(self, taken: Iterable[Taken], others: Iterable[str]) -> None:
        slots: Counter[tuple[str, str]] = Counter()
        lookups: Counter[tuple[str, str]] = Counter()
        traffic: Counter[str] = Counter()
        own: Counter[tuple[str, str, str]] = Counter()
        reads: Counter[tuple[str, str]] = Counter()
        for one in taken:
            op, name = one.action, one.operator.output.name
            if op.slots:
                slots[op.component, name] += op.slots
            if op.verb == "lookup":
                lookups[op.component, name] += op.count
            elif op.verb == "bus":
                traffic[name] += op.count * op.bits[0]
            elif op.verb in others:
                own[op.component, name, op.verb] += op.count
            elif op.verb in ("read", "write"):
                reads[name, str(op.store)] += op.count * op.bits[0]
        self.slots = [(component, count) for (component, _), count in slots.items()]
        self.lookups = [(component, count) for (component, _), count in lookups.items()]
        self.traffic = list(traffic.values())
        self.own = [(component, verb, count) for (component, _, verb), count in own.items()]
        self.reads: dict[str, list[int]] = {}
        for (_, store), bits in reads.items():
            self.reads.setdefault(store, []).append(bits)

    def on(self, lanes: int, digital: Digital, memories: Mapping[str, Memory]) -> tuple[dict[str, float], ...]:
        """On so many lanes, by component: cycles, cycles of look-up tables, and s that no clock changes."""
        cycles, looks, fixed = (dict.fromkeys(COMPONENTS, 0.0) for _ in range(3))
        for component, count in self.slots:
            cycles[component] += -(-count // lanes)
        for component, count in self.lookups:
            looks[component] += -(-count // lanes)
        for component, verb, count in self.own:
            fixed[component] += -(-count // lanes) * digital.others[verb].latency.value
        fixed["movement"] += sum(-(-bits // digital.bus.bits) for bits in self.traffic) * digital.bus.latency.value
        for store, each in self.reads.items():
            memory = memories[store]
            fixed["memories"] += sum(-(-bits // memory.port) for bits in each) * memory.latency
        return cycles, looks, fixed


def stage_times(digital: Digital) -> tuple[float, float]:
    """s of the slowest stage of a lane and of its look-up table: no cycle is shorter."""
    parts = (digital.multiply, digital.add, digital.flip_flop)
    return max(part.latency.value for part in parts), digital.lookup.latency.value


def serial(prices: Prices, operations: Iterable[Taken]) -> dict[str, Number]:
    """s of digital operators that run one after the other, by component."""
    digital, design = prices.chip.digital, prices.chip.design
    parts = Serial(operations, digital.others).on(design.lanes, digital, prices.memories)
    spread = prices.k.logic_spread
    cycle, look = (most(1.0 / design.clock.value, stage * spread) for stage in stage_times(digital))
    return {
        name: cycle * c + look * x + (s * spread if name in SPREAD else s)
        for name, c, x, s in zip(COMPONENTS, *(p.values() for p in parts), strict=True)
    }
