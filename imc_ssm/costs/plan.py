"""A deployment's costs as counts and weights, folded once, and priced as often as numbers of the design change.

What a model's structure and words decide is counted when a `CostPlan` is made. What is left depends on few numbers
each: tiles on those of their circuits, the digital unit on its lanes, and time on the clock. Each of the two parts
is priced once for every setting of its own numbers, so that a sweep over all of them adds few rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from imc_ssm.chip.deployment import deployment_of
from imc_ssm.chip.packing import tiles_of
from imc_ssm.costs.counts import actions_of, on_tiles, rounds_of, stores, widest
from imc_ssm.costs.given import activity_of
from imc_ssm.costs.prices import ANALOG, ON_TILES, SPREAD, Prices, Serial, kinds_of_steps, stage_times, weight
from imc_ssm.devices import Chip, device_names, load_components
from imc_ssm.devices.constants import ConstantsLike, constants_of
from imc_ssm.devices.converters import Choice, Converter, converter
from imc_ssm.errors import ConfigError, DesignError, shown, unknown
from imc_ssm.graph import COMPONENTS, Action
from imc_ssm.pricing.intervals import Number, Values, nominal
from imc_ssm.pricing.nodes import leakage_density

if TYPE_CHECKING:
    from imc_ssm.chip import Deployment

__all__ = ["DEFAULT_ACTIVITY", "CostPlan", "Totals"]

DEFAULT_ACTIVITY = 1.0 / 9.0
"""Mean squared input over squared DAC full scale: the range of a centred input set at three deviations."""
KINDS: tuple[Literal["adc", "dac"], ...] = ("adc", "dac")
KEPT = 16384
"""Settings of tiles or lanes whose prices a plan keeps."""
Numbers = npt.NDArray[np.float64]
_PLACE = {component: index for index, component in enumerate(COMPONENTS)}
_ANALOG = [_PLACE[name] for name in ANALOG]
_LEAKING = np.array([name != "cells" for name in COMPONENTS], float)
"""Of memristive cells nothing leaks."""


@dataclass(frozen=True, eq=False)
class Totals:
    """Energy, time and area; the last axis in the order of `COMPONENTS`, before it those of designs."""

    energy: Numbers
    """(..., component), J per inference."""
    energy_step: Numbers
    """(..., component), J per time step, of operators of that rate."""
    latency: Numbers
    """(..., component), s per inference."""
    latency_step: Numbers
    """(..., component), s per time step, the mean over steps."""
    longest: Numbers
    """(...), s of the longest step."""
    area: Numbers
    """(..., component), m2."""

    def total(self, name: str) -> Numbers:
        """The sum over components of one of the above, by its name."""
        return np.asarray(getattr(self, name).sum(-1))


@dataclass(frozen=True, eq=False)
class _TilePart:
    """What tiles take; rows are of `COMPONENTS`."""

    energy: Numbers
    """(..., rate, component), J: of a step and of a sequence."""
    time: Numbers
    """(..., rate, component), s, likewise."""
    area: Numbers
    """(..., component), m2."""
    control: Numbers
    """(...), 1: share of what tiles take."""
    leakage: Numbers
    """(...), W/m2."""


@dataclass(frozen=True, eq=False)
class _UnitPart:
    """What the digital unit takes; `kind` is the sequence, then every kind of step."""

    energy: Numbers
    """(..., rate, component), J."""
    cycles: Numbers
    """(..., kind, component)."""
    looks: Numbers
    """(..., kind, component), cycles of look-up tables."""
    fixed: Numbers
    """(..., kind, component), s that no clock changes; of memories and bus with the spread of logic."""
    area: Numbers
    """(..., component), m2."""


Part = TypeVar("Part", _TilePart, _UnitPart)


class CostPlan:
    """`cost` of one deployment for other numbers of its design, in microseconds a call.

        >>> import imc_ssm
        >>> from imc_ssm.costs import CostPlan
        >>> data = imc_ssm.load_dataset("digits")
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))
        >>> plan = CostPlan(imc_ssm.compile_model(imc_ssm.quantize(model, "uniform", data), "pcm-256", data))
        >>> plan(lanes=[8, 16, 32], clock=5e8, adc_bits=6).total("latency").shape
        (3,)

    `activity` and `constants` as in `cost`; an activity that was calibrated stays, also where inputs come in other
    bits. Fields that move weights to other tiles (rows, columns, slices, packing) need a new deployment. Raises
    what `cost` raises.
    """

    def __init__(
        self, deployment: Deployment, *, activity: float = DEFAULT_ACTIVITY, constants: ConstantsLike = None
    ) -> None:
        self.deployment = deployment_of(deployment, "CostPlan")
        self.activity = activity_of(activity)
        self._constants = nominal(constants_of(constants).entries)
        self._folded: dict[tuple[int, int], _Folded] = {}
        self._at(None, None)

    def __call__(
        self, *, adc_bits: int | None = None, dac_bits: int | None = None, **numbers: npt.ArrayLike
    ) -> Totals:
        """The cost with other numbers of the design, in SI units; without any, with its own.

        `numbers` are `lanes`, `clock` (Hz), `columns_per_adc`, `node` (m) and the fields of `Design.electrics`:
        numbers, or arrays that broadcast. Raises `ConfigError` for another name and a number that the design's
        field does not allow, `DesignError` for a resolution without a price.
        """
        return self._at(adc_bits, dac_bits).priced(self._constants, numbers)

    def priced(self, k: Values) -> Totals:
        """As it is, with constants `k`; of scenarios one row each."""
        return self._at(None, None).priced(k, {})

    def _at(self, adc: int | None, dac: int | None) -> _Folded:
        chip = self.deployment.chip
        for name, bits in (("adc_bits", adc), ("dac_bits", dac)):
            if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int | np.integer)):
                raise ConfigError(f"{name} = {shown(bits)}; give one whole number, and call once for each")
        at = (chip.adc.bits if adc is None else adc, chip.dac.bits if dac is None else dac)
        if at not in self._folded:
            case = replace(self.deployment, chip=_with_bits(chip, *at))
            self._folded[at] = _Folded(case, self.activity, self._constants)
        return self._folded[at]


class _Folded:
    """A deployment with converters of two resolutions, folded."""

    def __init__(self, deployment: Deployment, activity: float, constants: Values) -> None:
        chip, taken = deployment.chip, actions_of(deployment)
        self.chip, self.steps, self.parts = _plain(chip), deployment.steps, stores(deployment)
        self.weights: dict[tuple[int, str, str, int | str | None], float] = {}
        """Units by rate, component, verb, and columns of a tile or store."""
        for one in taken:
            action = one.action
            where = widest(deployment, one.operator) if action.verb in ON_TILES else action.store
            key = int(action.rate == "sequence"), action.component, action.verb, where
            share = action.times(self.steps) / self.steps if action.rate == "step" else 1.0
            self.weights[key] = self.weights.get(key, 0.0) + share * weight(deployment, one, activity)
        self.controlled = any(verb == "control" for _, _, verb, _ in self.weights)
        rounds = rounds_of(deployment)
        self.products = [
            (int(op.rate == "sequence"), rounds[op], widest(deployment, op))
            for op in deployment.graph
            if rounds[op]
        ]
        """Rate, rounds and columns of each operator on tiles: parts that share a tile run one after the other."""
        kinds = kinds_of_steps(taken, self.steps)
        self.share = np.array([count / self.steps for count in kinds.values()])
        """Of every kind of step."""
        steps = [t for t in taken if t.action.rate == "step"]
        once = [t for t in taken if t.action.rate == "sequence"]
        due = [once, *([t for t in steps if t.action.period <= period] for period in kinds)]
        self.serial = [Serial(each, chip.digital.others) for each in due]
        self.area = _Area(deployment, [t.action for t in taken])
        self.slowest = stage_times(chip.digital)
        self.constants = constants
        """Those whose prices are kept."""
        self.kept: dict[tuple[Any, ...], Any] = {}
        self.allowed: dict[str, tuple[float, float, bool]] = {
            "lanes": (1, 10**6, True),
            "columns_per_adc": (1, self.chip.design.columns, True),
            "clock": (1.0, 1e15, False),
            "node": (1e-9, 1e-3, False),
        } | dict.fromkeys(vars(self.chip.design.electrics), (0.0, 1e15, False))
        """Numbers of a design that can be given: least, most, whether they are whole."""

    def priced(self, k: Values, numbers: Mapping[str, npt.ArrayLike]) -> Totals:
        """With constants `k`: floats, or scenarios where no numbers are given."""
        given = {name: _number(name, value, self.allowed) for name, value in numbers.items()}
        shapes = {name: value.shape for name, value in given.items() if value.ndim}
        if len(set(shapes.values())) > 1:
            _broadcast(shapes)
        clock = given.pop("clock", np.asarray(self.chip.design.clock.value))
        lanes = given.pop("lanes", np.asarray(self.chip.design.lanes))
        tiles = _gathered(given, lambda **own: self._once(("tiles", *own.items()), k, lambda: self._tiles(k, own)))
        unit = _gathered(
            {"lanes": lanes}, lambda lanes: self._once(("unit", lanes), k, lambda: self._unit(k, int(lanes)))
        )
        return self._sum(tiles, unit, clock, k.logic_spread)

    def _once(self, key: tuple[Any, ...], k: Values, make: Callable[[], Any]) -> Any:
        if k is not self.constants:
            return make()
        if key not in self.kept:
            if len(self.kept) >= KEPT:
                self.kept.clear()
            self.kept[key] = make()
        return self.kept[key]

    def _sum(self, tiles: _TilePart, unit: _UnitPart, clock: Numbers, spread: Number) -> Totals:
        cycle, look = (np.maximum(1.0 / clock, stage * spread)[..., None, None] for stage in self.slowest)
        serial = unit.cycles * cycle + unit.looks * look + unit.fixed
        sequence, kinds = serial[..., 0, :], serial[..., 1:, :]
        time_step = tiles.time[..., 0, :] + (self.share[:, None] * kinds).sum(-2)
        longest = tiles.time[..., 0, :].sum(-1) + kinds.sum(-1).max(-1)
        latency = self.steps * time_step + (tiles.time[..., 1, :] + sequence)
        area = tiles.area + unit.area
        joules = tiles.energy + unit.energy
        joules[..., _PLACE["control"]] += tiles.control[..., None] * joules[..., _ANALOG].sum(-1)
        shape = np.broadcast_shapes(joules.shape[:-2], latency.shape[:-1], area.shape[:-1])
        step, once = (np.broadcast_to(joules[..., i, :], (*shape, len(COMPONENTS))).copy() for i in range(2))
        whole = self.steps * step + once
        power = tiles.leakage * (area @ _LEAKING)
        step[..., _PLACE["leakage"]] = power * time_step.sum(-1)
        whole[..., _PLACE["leakage"]] = power * latency.sum(-1)
        latency, time_step, area = (np.broadcast_to(part, step.shape) for part in (latency, time_step, area))
        return Totals(whole, step, latency, time_step, np.broadcast_to(longest, shape), area)

    def _tiles(self, k: Values, numbers: Mapping[str, float]) -> _TilePart:
        chip = _changed(self.chip, numbers)
        prices = Prices(chip, self.parts, k)
        energy, time = _empty(2), _empty(2)
        for (rate, component, verb, where), count in self.weights.items():
            if verb in ON_TILES:
                energy[rate][component] = energy[rate][component] + count * prices.on_tile(verb, int(where or 0))
        for rate, rounds, columns in self.products:
            for component, seconds in prices.tiles.times(columns).items():
                time[rate][component] = time[rate][component] + rounds * seconds
        return _TilePart(
            _rows(energy),
            _rows(time),
            _rows(self.area.tile_parts(prices)) if self.area.tiles else np.zeros(len(COMPONENTS)),
            np.asarray(prices.tiles.law.control if self.controlled else 0.0),
            np.asarray(leakage_density(k, chip.design.node.value)),
        )

    def _unit(self, k: Values, lanes: int) -> _UnitPart:
        digital = self.chip.digital
        prices = Prices(self.chip, self.parts, k, lanes)
        energy = _empty(2)
        for (rate, component, verb, where), count in self.weights.items():
            if verb != "control" and verb not in ON_TILES:
                price = prices.digital(verb, None if where is None else str(where))
                energy[rate][component] = energy[rate][component] + count * price
        times = [one.on(lanes, digital, prices.memories) for one in self.serial]
        cycles, looks, fixed = (np.array([list(each[i].values()) for each in times]) for i in range(3))
        fixed = fixed * _rows(dict.fromkeys(COMPONENTS, 1.0) | dict.fromkeys(SPREAD, k.logic_spread))[..., None, :]
        return _UnitPart(_rows(energy), cycles, looks, fixed, _rows(self.area.unit_parts(prices, lanes)))


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

    def tile_parts(self, prices: Prices) -> dict[str, Number]:
        """m2 of tiles by component."""
        design, tiles = prices.chip.design, prices.tiles
        converters = math.ceil(design.columns / design.columns_per_adc)
        parts = {
            "cells": design.rows * design.bit_lines * tiles.law.area_cell,
            "lines": design.rows * tiles.law.area_row + design.columns * tiles.law.area_column,
            "dac": design.rows * tiles.area_input,
            "adc": converters * tiles.area_converter + design.columns * tiles.area_hold,
        }
        out: dict[str, Number] = dict.fromkeys(COMPONENTS, 0.0)
        out |= {name: self.tiles * area for name, area in parts.items()}
        out["control"] = (tiles.law.overhead - 1.0) * sum(out[name] for name in ANALOG)
        return out

    def unit_parts(self, prices: Prices, lanes: int) -> dict[str, Number]:
        """m2 of the digital unit by component."""
        spread, digital = prices.k.logic_spread, prices.chip.digital
        out: dict[str, Number] = dict.fromkeys(COMPONENTS, 0.0)
        out["digital update"] = lanes * self.lane * spread
        out["memories"] = sum(memory.area for memory in prices.memories.values()) * spread
        out["nonlinearity"] = lanes * self.lookup * spread
        out["movement"] = digital.bus.area.value * spread
        return out


def _empty(count: int) -> list[dict[str, Number]]:
    return [dict.fromkeys(COMPONENTS, 0.0) for _ in range(count)]


def _rows(values: Any) -> Numbers:
    """Rows of components, one or several, as an array (..., component); scenarios become its first axis."""
    many = isinstance(values, list)
    flat = [number for row in (values if many else [values]) for number in row.values()]
    if any(isinstance(number, np.ndarray) for number in flat):
        out = np.stack(np.broadcast_arrays(*flat), axis=-1)
    else:
        out = np.array(flat, float)
    return out.reshape(*out.shape[:-1], len(values), len(COMPONENTS)) if many else out


def _gathered(numbers: Mapping[str, Numbers], make: Callable[..., Part]) -> Part:
    """What `make` gives of numbers, once for each setting of them; the axes that they broadcast to come first."""
    if all(value.ndim == 0 for value in numbers.values()):
        return make(**{name: float(value) for name, value in numbers.items()})
    shape = np.broadcast_shapes(*(value.shape for value in numbers.values()))
    rows = np.stack([np.broadcast_to(value, shape).ravel() for value in numbers.values()], axis=-1)
    settings, at = np.unique(rows, axis=0, return_inverse=True)
    parts = [make(**dict(zip(numbers, row, strict=True))) for row in settings.tolist()]
    found = {}
    for field in fields(parts[0]):
        values = np.stack([getattr(part, field.name) for part in parts])
        found[field.name] = values[at.ravel()].reshape(*shape, *values.shape[1:])
    return type(parts[0])(**found)


def _broadcast(shapes: Mapping[str, tuple[int, ...]]) -> None:
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ConfigError(f"numbers of a plan broadcast, these shapes do not: {given}; add axes of 1") from None


def _number(name: str, given: npt.ArrayLike, allowed: Mapping[str, tuple[float, float, bool]]) -> Numbers:
    """A number of a design, checked as its field is."""
    if name not in allowed:
        raise ConfigError(unknown("number of a design", name, ("adc_bits", "dac_bits", *allowed)))
    least, top, whole = allowed[name]
    try:
        values = np.asarray(given)
        real = values.dtype.kind in "iuf"
    except ValueError:  # rows of different lengths
        values, real = np.empty(0), False
    if real and values.ndim:
        fits = bool(values.size > 0 and values.min() >= least and values.max() <= top and values.min() > 0)
        broken = whole and bool((values % 1).any())
    elif real:
        number = float(values)
        fits, broken = least <= number <= top and number > 0, whole and bool(number % 1)
    if not real or not fits or broken:
        kind = "whole numbers" if whole else "numbers"
        raise ConfigError(f"{name} = {shown(given)}; allowed are {kind} from {least:g} to {top:g}, more than 0")
    return values.astype(np.float64)


def _with_bits(chip: Chip, adc: int, dac: int) -> Chip:
    """The chip with converters of other resolutions: by their laws, or from the shipped table's own rows.

    Raises `DesignError` for a chip with prices of another table: it embeds those of its own resolutions alone.
    """
    if (adc, dac) == (chip.adc.bits, chip.dac.bits):
        return chip
    design = chip.design.with_(adc_bits=adc, dac_bits=dac)
    return chip.with_(design=design, **{kind: _with_price(chip, kind, getattr(design, kind)) for kind in KINDS})


def _with_price(chip: Chip, kind: Literal["adc", "dac"], choice: Choice) -> Converter:
    now: Converter = getattr(chip, kind)
    name = chip.design.components
    if now.price is None:
        return now.with_(bits=choice.bits)
    table = load_components(name) if name in device_names("components") else None
    if table is None or converter(kind, getattr(chip.design, kind), table).price != now.price:
        raise DesignError(
            f"the chip has prices at its own resolutions alone, its table {name!r} is not the shipped one; "
            f"compile for the design with {kind}_bits={choice.bits}, and plan that"
        )
    return converter(kind, choice, table)


def _plain(chip: Chip) -> Any:
    """What prices read of a chip, as an object whose numbers can be exchanged without validation."""
    design = chip.design
    names = ("rows", "columns", "bit_lines", "node", "clock", "lanes", "columns_per_adc")
    electrics = {name: getattr(design.electrics, name) for name in type(design.electrics).model_fields}
    plain = SimpleNamespace(
        **{name: getattr(design, name) for name in names}, electrics=SimpleNamespace(**electrics)
    )
    parts = {name: getattr(chip, name) for name in ("cell", "dac", "adc", "sample_hold", "digital")}
    return SimpleNamespace(design=plain, **parts)


def _changed(chip: Any, numbers: Mapping[str, float]) -> Any:
    """`_plain` with other numbers."""
    design, electrics = dict(vars(chip.design)), dict(vars(chip.design.electrics))
    for name, value in numbers.items():
        if name in electrics:
            electrics[name] = _Given(value)
        else:
            design[name] = int(value) if name == "columns_per_adc" else _Given(value)
    design["electrics"] = SimpleNamespace(**electrics)
    return SimpleNamespace(**{**vars(chip), "design": SimpleNamespace(**design)})


@dataclass(frozen=True)
class _Given:
    """A number in the place of a cited one."""

    value: float
