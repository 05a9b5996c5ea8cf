"""A deployment's costs as counts and weights, folded once, and priced as often as numbers of the design change.

What a model's structure and words decide is counted when a `CostPlan` is made. What is left is the sum of few
products, `weight x price`: the prices are laws (`tiles`, `arrays`, `presets`) and numbers of the component table,
with constants as floats (a call) or as all scenarios at once (intervals).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from imc_ssm.chip.packing import pack, tiles_of
from imc_ssm.costs.counts import Taken, actions_of, on_tiles, stores
from imc_ssm.devices import Chip, Digital, Memory
from imc_ssm.devices.constants import load_constants
from imc_ssm.errors import ConfigError, DesignError, unknown
from imc_ssm.graph import COMPONENTS, Action
from imc_ssm.pricing.intervals import Number, Values, nominal
from imc_ssm.pricing.nodes import leakage_density, logic_scale
from imc_ssm.pricing.tiles import TilePrices, tile_prices

if TYPE_CHECKING:
    from imc_ssm.chip import Deployment

__all__ = ["ANALOG", "NUMBERS", "CostPlan", "Prices", "Totals"]

ANALOG = ("cells", "lines", "dac", "adc")
"""Components of which control takes a share."""
ON_TILES_PARTS = (*ANALOG, "control")
"""Components of tiles."""
LOGIC = ("multiply", "add", "shift", "register", "lookup", "bus")
"""Verbs of the digital table."""
NUMBERS = ("clock", "lanes", "columns_per_adc")
"""Fields of a design that a call of a plan may change, beside those of `electrics`."""
RATES = ("step", "sequence")
TILE = 512 * 2048
"""Weights of the tile that `tile_power` is for (Ambrogio et al. 2023, doi:10.1038/s41586-023-06337-5)."""


@dataclass(frozen=True)
class Totals:
    """Energy, time and area by component."""

    energy: dict[str, Number]
    """J per inference."""
    energy_step: dict[str, Number]
    """J per time step, of operators of that rate."""
    latency: dict[str, Number]
    """s per inference."""
    latency_step: dict[str, Number]
    """s per time step, the mean over steps."""
    longest: Number
    """s of the longest step."""
    area: dict[str, Number]
    """m2."""

    def total(self, name: str) -> Number:
        """The sum over components of one of the above, by its name."""
        return sum(getattr(self, name).values())


class Prices:
    """What one action costs on a chip, J, with constants `k`."""

    def __init__(self, chip: Any, parts: dict[str, int], k: Values) -> None:
        self.chip, self.k = chip, k
        self.memories = memories_of(chip.digital, chip.design.lanes, parts)
        self._tiles: TilePrices | None = None

    @classmethod
    def nominal(cls, chip: Chip, parts: dict[str, int]) -> Prices:
        """With the nominal constants."""
        return cls(chip, parts, nominal(load_constants().entries))

    @property
    def tiles(self) -> TilePrices:
        """Of the tiles; `DesignError` for a converter without a price."""
        if self._tiles is None:
            self._tiles = tile_prices(self.chip, self.k)
        return self._tiles

    def unit(self, verb: str, store: str | None = None) -> Number:
        """J of one unit of a verb: an action costs `weight(action)` of them. Control and cells have none."""
        k = self.k
        if verb in ("read", "write"):
            return getattr(self.memories[str(store)], verb) * k.logic_spread
        if verb in _DIGITAL:
            return _DIGITAL[verb](self.chip.digital) * k.logic_spread
        if verb in self.chip.digital.others:
            return self.chip.digital.others[verb].energy.value
        tiles, pulses = self.tiles, self.chip.dac.pulses
        if verb == "tile":
            node, times = self.chip.design.node.value, tiles.times(tiles.spec.columns)
            power = k.tile_power * logic_scale(k, node) / logic_scale(k, 14e-9)
            power = power * self.chip.design.rows * self.chip.design.columns / TILE
            return power * sum(times.values())
        return {
            "cell": tiles.pulse_energy,
            "word line": tiles.law.word_line,
            "bit line": tiles.law.bit_line,
            "dac": tiles.driver / pulses,
            "adc": tiles.convert / pulses,
            "sample hold": tiles.hold / pulses,
        }[verb]


_DIGITAL: dict[str, Any] = {
    "multiply": lambda d: d.multiply.energy.value,
    "add": lambda d: d.add.energy.value,
    "shift": lambda d: d.shift.energy.value,
    "register": lambda d: d.flip_flop.energy.value,
    "lookup": lambda d: d.lookup.energy.value,
    "bus": lambda d: d.bus.energy.value,
}
_SCALES: dict[str, Any] = {
    "multiply": lambda d: d.multiply,
    "add": lambda d: d.add,
    "shift": lambda d: d.shift,
    "register": lambda d: d.flip_flop,
    "lookup": lambda d: d.lookup,
    "bus": lambda d: d.bus,
}
ON_TILES = ("word line", "bit line", "dac", "adc", "sample hold", "tile")


def memories_of(digital: Digital, lanes: int, parts: dict[str, int]) -> dict[str, Memory]:
    """The static memories: coefficients and state in a bank a lane, activations in one that all lanes share."""
    return {
        "coefficients": digital.banked(parts["parameters"] + parts["requantization"], lanes),
        "state": digital.banked(parts["state"], lanes),
        "activations": digital.banked(parts["activations"], 1),
    }


def weight(deployment: Deployment, taken: Taken, activity: float) -> float:
    """How many units of its verb all of an action's counts cost, each time it is done; of cells S x activity."""
    action, digital = taken.action, deployment.chip.digital
    if action.verb == "cell":
        placed = on_tiles(deployment, taken.operator)
        shares = (activity if m.input_activity is None else m.input_activity for m in placed)
        return sum(m.conductance(deployment.chip) * own for m, own in zip(placed, shares, strict=True))
    if action.verb in ("read", "write"):
        return float(action.count * action.bits[0])
    if action.verb in _SCALES:
        return float(action.count * _SCALES[action.verb](digital).scale(*action.bits))
    if action.verb in digital.others:
        return float(action.count * digital.others[action.verb].scale(*action.bits))
    if action.verb in (*ON_TILES, "control"):
        return float(action.count)
    known = ", ".join(("cell", *ON_TILES, "control", "read", "write", *_SCALES, *digital.others))
    raise DesignError(f"operator {taken.operator.name!r}: action {action.verb!r} has no price; known: {known}")


class CostPlan:
    """The costs of a deployment's structure, for any numbers of its design.

        >>> import imc_ssm
        >>> data = imc_ssm.load_dataset("digits")
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))
        >>> deployment = imc_ssm.compile_model(imc_ssm.quantize(model, "uniform", data), "pcm-256", data)
        >>> plan = imc_ssm.costs.CostPlan(deployment)
        >>> plan(lanes=64).total("latency") < plan().total("latency")
        True

    A call takes `clock` (Hz), `lanes`, `columns_per_adc` and the fields of `Design.electrics` as numbers in SI
    units, and returns `Totals`: those that `cost` of the deployment on the changed design has. Everything else of
    a design changes what is compiled. Raises `ConfigError` for another name or a number that is not positive.
    """

    def __init__(self, deployment: Deployment, *, activity: float = 1.0 / 9.0) -> None:
        self.chip, self.steps = _plain(deployment.chip), deployment.steps
        self.parts = stores(deployment)
        taken = actions_of(deployment)
        self._energy = self._weights(deployment, taken, activity)
        self._times = _Times(deployment, taken)
        self._area = _Area(deployment, [t.action for t in taken])
        self._constants = nominal(load_constants().entries)

    def __call__(self, **numbers: float) -> Totals:
        """With other numbers of the design; without any, the design's own."""
        return self.priced(self._constants, **numbers)

    def priced(self, k: Values, **numbers: float) -> Totals:
        """With constants `k`, floats or scenarios."""
        chip = _changed(self.chip, numbers) if numbers else self.chip
        prices = Prices(chip, self.parts, k)
        step, sequence = (self._joules(self._energy[rate], prices) for rate in RATES)
        time_step, time_sequence, longest = self._times.priced(prices)
        area = self._area.priced(prices)
        latency = {name: self.steps * time_step[name] + time_sequence[name] for name in COMPONENTS}
        power = leakage_density(k, chip.design.node.value) * sum(a for n, a in area.items() if n != "cells")
        step["leakage"] = power * sum(time_step.values())
        energy = {name: self.steps * step[name] + sequence[name] for name in COMPONENTS}
        energy["leakage"] = power * sum(latency.values())
        return Totals(energy, step, latency, time_step, longest, area)

    def _weights(
        self, deployment: Deployment, taken: Iterable[Taken], activity: float
    ) -> dict[str, dict[tuple[str, str, str | None], float]]:
        """Units by rate, and by component, verb and store."""
        out: dict[str, dict[tuple[str, str, str | None], float]] = {rate: {} for rate in RATES}
        for one in taken:
            action = one.action
            key = action.component, action.verb, action.store
            share = action.times(self.steps) / self.steps if action.rate == "step" else 1.0
            rows = out[action.rate]
            rows[key] = rows.get(key, 0.0) + share * weight(deployment, one, activity)
        return out

    def _joules(self, weights: dict[tuple[str, str, str | None], float], prices: Prices) -> dict[str, Number]:
        out: dict[str, Number] = dict.fromkeys(COMPONENTS, 0.0)
        for (component, verb, store), count in weights.items():
            if verb != "control":
                out[component] = out[component] + count * prices.unit(verb, store)
        if any(verb == "control" for _, verb, _ in weights):
            out["control"] = out["control"] + prices.tiles.law.control * sum(out[name] for name in ANALOG)
        return out


class _Times:
    """What takes how long."""

    def __init__(self, deployment: Deployment, taken: list[Taken]) -> None:
        self.steps = deployment.steps
        chip = deployment.chip
        self.products: list[tuple[str, int, int]] = []
        """Rate, rounds and columns of each operator on tiles: parts that share a tile run one after the other."""
        places = dict(zip(map(id, deployment.placed), pack(deployment.placed, chip), strict=True))
        for operator in deployment.graph:
            own = on_tiles(deployment, operator)
            if own:
                shared = Counter(place.tile for matrix in own for place in places[id(matrix)])
                widest = max(matrix.widest() for matrix in own)
                self.products.append((operator.rate, max(shared.values()), widest))
        others = set(chip.digital.others)
        self.sequence = _Serial((t for t in taken if t.action.rate == "sequence"), others)
        kinds = kinds_of_steps(taken, deployment.steps)
        self.kinds = [
            (
                count / deployment.steps,
                _Serial((t for t in taken if t.action.rate == "step" and t.action.period <= period), others),
            )
            for period, count in kinds.items()
        ]

    def priced(self, prices: Prices) -> tuple[dict[str, Number], dict[str, Number], Number]:
        """s by component of a step (the mean) and a sequence, and of the longest step."""
        step: dict[str, Number] = dict.fromkeys(COMPONENTS, 0.0)
        sequence = self.sequence.priced(prices)
        for rate, rounds, columns in self.products:
            into = step if rate == "step" else sequence
            for component, time in prices.tiles.times(columns).items():
                into[component] = into[component] + rounds * time
        analog, longest = sum(step.values()), 0.0
        for share, serial in self.kinds:
            times = serial.priced(prices)
            longest = max(longest, sum(times.values()), key=lambda x: float(x if isinstance(x, float) else x[0]))
            for component, time in times.items():
                step[component] = step[component] + share * time
        return step, sequence, analog + longest


def kinds_of_steps(operations: Iterable[Taken], steps: int) -> dict[int, int]:
    """Longest period that is due (of those in use, each of which divides the next) -> steps at which it is."""
    periods = sorted({1} | {taken.action.period for taken in operations})
    due = [steps // period for period in periods]
    counts = (most - more for most, more in zip(due, [*due[1:], 0], strict=True))
    return {period: count for period, count in zip(periods, counts, strict=True) if count}


class _Serial:
    """Digital operators that run one after the other: slots, look-ups, words that move, bits that are read."""

    def __init__(self, taken: Iterable[Taken], others: set[str]) -> None:
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

    def priced(self, prices: Prices) -> dict[str, Number]:
        """s by component: a lane takes a slot every cycle, and a cycle is no shorter than its slowest stage."""
        digital, design = prices.chip.digital, prices.chip.design
        lanes, clock = design.lanes, 1.0 / design.clock.value
        cycle = max(
            clock, digital.multiply.latency.value, digital.add.latency.value, digital.flip_flop.latency.value
        )
        look = max(clock, digital.lookup.latency.value)
        out: dict[str, Number] = dict.fromkeys(COMPONENTS, 0.0)
        for component, count in self.slots:
            out[component] += math.ceil(count / lanes) * cycle
        for component, count in self.lookups:
            out[component] += math.ceil(count / lanes) * look
        for component, verb, count in self.own:
            out[component] += math.ceil(count / lanes) * digital.others[verb].latency.value
        wires, transfer = digital.bus.bits, digital.bus.latency.value
        for bits in self.traffic:
            out["movement"] += math.ceil(bits / wires) * transfer
        for store, all_bits in self.reads.items():
            memory = prices.memories[store]
            out["memories"] += sum(math.ceil(bits / memory.port) for bits in all_bits) * memory.latency
        return out


def serial(prices: Prices, operations: Iterable[Taken]) -> dict[str, Number]:
    """s of digital operators that run one after the other, by component."""
    return _Serial(operations, set(prices.chip.digital.others)).priced(prices)


class _Area:
    """What lies on the chip."""

    def __init__(self, deployment: Deployment, actions: list[Action]) -> None:
        digital, chip = deployment.chip.digital, deployment.chip
        self.tiles = tiles_of([m for op in deployment.graph for m in on_tiles(deployment, op)], chip)
        multiplier = max(
            (digital.multiply.scale(*op.bits) for op in actions if op.verb == "multiply"), default=0.0
        )
        widest = max((op.bits[0] for op in actions if op.verb == "add" and not op.parallel), default=0)
        shifter = max((digital.shift.scale(*op.bits) for op in actions if op.verb == "shift"), default=0.0)
        lane = (
            multiplier * digital.multiply.area.value
            + digital.add.scale(widest) * digital.add.area.value
            + digital.flip_flop.scale(widest) * digital.flip_flop.area.value
            + shifter * digital.shift.area.value
        )
        beside: dict[tuple[str, str], float] = {}
        for op in actions:
            if op.parallel:
                part = digital.add if op.verb == "add" else digital.flip_flop
                key = op.verb, op.purpose
                beside[key] = max(beside.get(key, 0.0), part.scale(*op.bits) * part.area.value)
        lane += sum(beside.values())
        for verb, other in digital.others.items():
            own = max((other.scale(*op.bits) for op in actions if op.verb == verb), default=0.0)
            lane += own * other.area.value
        self.lane = lane
        tables = (digital.lookup.scale(*op.bits) for op in actions if op.verb == "lookup")
        self.lookup = max(tables, default=0.0) * digital.lookup.area.value

    def priced(self, prices: Prices) -> dict[str, Number]:
        """m2 by component."""
        chip, k = prices.chip, prices.k
        design, digital = chip.design, chip.digital
        out: dict[str, Number] = dict.fromkeys(COMPONENTS, 0.0)
        if self.tiles:
            tiles = prices.tiles
            converters = math.ceil(design.columns / design.columns_per_adc)
            parts = {
                "cells": design.rows * design.bit_lines * tiles.law.area_cell,
                "lines": design.rows * tiles.law.area_row + design.columns * tiles.law.area_column,
                "dac": design.rows * tiles.area_input,
                "adc": converters * tiles.area_converter + design.columns * tiles.area_hold,
            }
            out |= {name: self.tiles * area for name, area in parts.items()}
            out["control"] = (tiles.law.overhead - 1.0) * sum(out[name] for name in ANALOG)
        out["digital update"] = design.lanes * self.lane * k.logic_spread
        out["memories"] = sum(memory.area for memory in prices.memories.values()) * k.logic_spread
        out["nonlinearity"] = design.lanes * self.lookup * k.logic_spread
        out["movement"] = digital.bus.area.value * k.logic_spread
        return out


def _plain(chip: Chip) -> Any:
    """What prices read of a chip, as an object whose numbers can be exchanged without validation."""
    design = chip.design
    names = ("rows", "columns", "bit_lines", "node", *NUMBERS)
    electrics = {name: getattr(design.electrics, name) for name in type(design.electrics).model_fields}
    plain = SimpleNamespace(
        **{name: getattr(design, name) for name in names}, electrics=SimpleNamespace(**electrics)
    )
    parts = {name: getattr(chip, name) for name in ("cell", "dac", "adc", "sample_hold", "digital")}
    return SimpleNamespace(design=plain, **parts)


def _changed(chip: Any, numbers: dict[str, float]) -> Any:
    """`_plain` with other numbers, unchecked but for name and sign: a call has to be quick."""
    design, electrics = dict(vars(chip.design)), dict(vars(chip.design.electrics))
    for name, value in numbers.items():
        if name not in NUMBERS and name not in electrics:
            raise ConfigError(unknown("number of a design", name, (*NUMBERS, *electrics)))
        if not value > 0:
            raise ConfigError(f"{name} = {value!r}; it must be more than 0")
        if name in electrics:
            electrics[name] = _Given(value)
        else:
            design[name] = _Given(value) if name == "clock" else value
    design["electrics"] = SimpleNamespace(**electrics)
    return SimpleNamespace(**{**vars(chip), "design": SimpleNamespace(**design)})


@dataclass(frozen=True)
class _Given:
    """A number in the place of a cited one."""

    value: float
