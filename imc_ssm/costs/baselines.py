"""Digital machines that compute the same quantized model: what analog tiles have to be measured against.

A machine is one class, registered in `BASELINES`, and its TOMLs (`devices/baselines`). Each takes the actions of
the graph with matrices computed digitally (`Matrix.actions`), and prices them from the same digital table as the
chip's own unit:

  digital          narrow lanes of multiply-accumulate for matrices, and the chip's digital unit for the rest;
                   weights from banks of static memory in every step, or in registers
  systolic         elements of rows x columns that hold weights; a block of b steps takes, for each of the
                   ceil(inputs / rows) ceil(outputs / columns) folds, 2 rows + columns + b - 2 cycles: rows to load
                   the weights, rows + columns - 2 to fill and drain (Samajdar et al., SCALE-Sim, arXiv:1811.02883)
  microcontroller  cycles by instruction, and energy by cycle, both cited

Operators run one after the other, memories after lanes, as on the chip. A digital lane starts one product a cycle;
the cycle is that of the clock or the slowest stage, whichever is longer. `control` is
paid on matrix products, as tiles pay it, and leakage on all area while the inference runs.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from imc_ssm.config import read_toml
from imc_ssm.costs.machines import BASELINES, PRODUCTS, WEIGHTS, Baseline, Bill, component_of
from imc_ssm.costs.tabulated import Banked, Tabulated
from imc_ssm.costs.work import Work, cycles, due
from imc_ssm.devices.constants import CostConstant
from imc_ssm.devices.library import device_names, device_path
from imc_ssm.errors import ConfigError
from imc_ssm.graph import Action, Matrix, Operator, Recurrence
from imc_ssm.graph.recurrences import GatedUpdate, StateUpdate
from imc_ssm.pricing.intervals import Number, Values, most
from imc_ssm.pricing.nodes import leakage_density

__all__ = ["DigitalAccelerator", "Microcontroller", "SystolicArray", "baseline_names", "load_baseline"]


@dataclass(frozen=True)
class Taking:
    """An action so many times per inference."""

    component: str
    action: Action
    times: float


class Clocked(Baseline):
    """A machine of multipliers, registers and banked memories from the digital table."""

    bank: int = Field(ge=1)
    """Largest bank of a static memory, bits."""
    port: int = Field(ge=1)
    """Bits that a bank gives or takes in one cycle."""
    clock: CostConstant | None = None
    """Hz; None: that of the chip compared with."""

    @abstractmethod
    def lanes_of(self, operator: Operator, work: Work) -> int:
        """Slots of an operator that can start in one cycle, products of matrices apart."""

    @abstractmethod
    def product_cycles(self, operator: Matrix, work: Work) -> float:
        """Cycles of a matrix's products, each time that it runs."""

    @abstractmethod
    def product_area(self, work: Work, prices: Tabulated) -> Number:
        """Of what computes the products of matrices, with the weights that it holds, m2."""

    @abstractmethod
    def unit_lanes(self, work: Work) -> int:
        """Lanes as wide as the widest word."""

    @abstractmethod
    def weight_traffic(self, work: Work) -> int:
        """Bits of weights that can be used in a cycle: so many banks hold them as give that."""

    @abstractmethod
    def multipliers(self) -> int:
        """That could compute products of matrices."""

    def kept(self, work: Work) -> int:
        """Bits of weights that are in registers, and in no memory."""
        return 0

    def together(self, work: Work) -> int:
        """Steps whose activations are in the buffer at once."""
        return 1

    def taken(self, operator: Operator, work: Work) -> Iterator[Taking]:
        """Every action, as this machine takes it."""
        for action in work.actions(operator):
            yield Taking(component_of(operator, action), action, action.count * action.times(work.steps))

    def busy(self, operator: Operator, actions: list[Action], work: Work) -> dict[str, float]:
        """Cycles of arithmetic by component, each time that these actions are taken."""
        matrix = isinstance(operator, Matrix)
        out = self._slots(operator, [a for a in actions if not (matrix and a.purpose == PRODUCTS)], work)
        if isinstance(operator, Matrix):
            out["products"] = out.get("products", 0.0) + self.product_cycles(operator, work)
        return out

    def _slots(self, operator: Operator, actions: list[Action], work: Work) -> dict[str, float]:
        """Cycles of what is not a product of a matrix."""
        lanes, slots, looked = self.lanes_of(operator, work), dict[str, int](), dict[str, int]()
        for action in actions:
            own = action.count if action.verb in work.digital.others else action.slots
            place = component_of(operator, action)
            slots[place] = slots.get(place, 0) + own
            if action.verb == "lookup":
                looked[place] = looked.get(place, 0) + action.count
        places = {**slots, **looked}
        return {p: float(cycles(slots.get(p, 0), lanes) + cycles(looked.get(p, 0), lanes)) for p in places}

    def read(self, operator: Operator, actions: list[Action], work: Work) -> list[Action]:
        """Of the actions, those that go to memories."""
        return [action for action in actions if action.verb in ("read", "write")]

    def bill(self, work: Work, k: Values) -> Bill:
        prices, out, held = Tabulated(work.digital, k), Bill(), work.stored()
        held["weights"] -= self.kept(work)
        held["activations"] += (self.together(work) - 1) * work.vectors()
        lanes, feeding = self.unit_lanes(work), cycles(self.weight_traffic(work), self.port)
        least = {"coefficients": lanes, "state": lanes, "activations": 1, "weights": feeding}
        memories = {store: prices.memory(bits, self.bank, least[store]) for store, bits in held.items() if bits}
        cycle = self._cycle(work, prices)
        macs: Number = 0.0
        for op in work.graph:
            spent: Number = 0.0
            for taking in self.taken(op, work):
                joules = taking.times * _each(op, taking.action, prices, memories)
                out.pay(taking.component, joules, work.steps, taking.action.rate)
                spent = spent + joules
            if isinstance(op, Matrix):
                macs = macs + work.macs(op) * work.runs(op)
                out.pay("control", k.control * spent, work.steps, op.rate)
                out.matrices = out.matrices + (1.0 + k.control) * spent
            for actions, times in due(work.actions(op), work.steps):
                busy = self.busy(op, actions, work)
                for component, count in busy.items():
                    out.wait(component, times * count * cycle, work.steps, actions[0].rate)
                served = self._served(op, self.read(op, actions, work), memories)
                out.wait("memories", times * served, work.steps, actions[0].rate)
                moved = sum(a.count * a.bits[0] for a in actions if a.verb == "bus")
                transfers = cycles(moved, work.digital.bus.bits)
                out.wait("movement", times * transfers * prices.seconds("bus"), work.steps, actions[0].rate)
        out.area["digital update"] = lanes * _lane(work, prices)
        out.area["nonlinearity"] = lanes * _tables(work, prices)
        out.area["products"] = self.product_area(work, prices)
        out.area["memories"] = sum(memory.area for memory in memories.values())
        out.area["movement"] = work.digital.bus.area.value * k.logic_spread
        out.memory = float(sum(held.values()) + self.kept(work))
        out.utilisation = macs * cycle / (self.multipliers() * out.total("latency"))
        power = leakage_density(k, work.digital.node.value) * out.total("area")
        out.pay("leakage", power * out.total("latency"), work.steps, "sequence")
        out.energy_step["leakage"] = power * out.total("latency_step")
        return out

    def _cycle(self, work: Work, prices: Tabulated) -> Number:
        """s from one start to the next."""
        clock = work.clock if self.clock is None else prices.k["clock"]
        slowest = max(prices.seconds(stage) for stage in ("multiply", "add", "register", "lookup"))
        return most(1.0 / clock, slowest)

    def _served(self, operator: Operator, traffic: list[Action], memories: dict[str, Banked]) -> float:
        """s in which every bank gives or takes a port's bits at once, memory after memory."""
        bits: dict[str, int] = {}
        for action in traffic:
            store = store_of(operator, action)
            bits[store] = bits.get(store, 0) + action.count * action.bits[0]
        found = ((memories[store], count) for store, count in bits.items())
        return sum(cycles(count, self.port * memory.banks) * memory.latency for memory, count in found)


def store_of(operator: Operator, action: Action) -> str:
    """The memory that an action goes to."""
    return "weights" if isinstance(operator, Matrix) and action.purpose == WEIGHTS else str(action.store)


def _each(operator: Operator, action: Action, prices: Tabulated, memories: dict[str, Banked]) -> Number:
    """J of one."""
    if action.verb in ("read", "write"):
        memory = memories[store_of(operator, action)]
        return (memory.read if action.verb == "read" else memory.write) * action.bits[0]
    return prices.joules(action.verb, action.bits)


def _lane(work: Work, prices: Tabulated) -> Number:
    """m2 of one lane: the widest multiplier, adder, register and shifter, and what every lane has beside."""
    widest: dict[str, Number] = {}
    for op in work.graph:
        for action in work.actions(op):
            if action.verb in ("read", "write", "bus", "lookup"):
                continue
            key = f"{action.verb}, {action.purpose}" if action.parallel else action.verb
            widest[key] = most(widest.get(key, 0.0), prices.silicon(action.verb, action.bits))
    return sum(widest.values())


def _narrow(work: Work, prices: Tabulated, holding: bool) -> Number:
    """m2 of a multiplier, an adder and an accumulator for matrices; `holding` weight and input too."""
    one: Number = 0.0
    for op in work.matrices:
        factors = next(a.bits for a in work.actions(op) if a.purpose == PRODUCTS)
        total = next(a.bits[0] for a in work.actions(op) if a.purpose == "sum over inputs")
        held = total + (sum(factors) if holding else 0)
        parts = (("multiply", factors), ("add", (total,)), ("register", (held,)))
        one = most(one, sum(prices.silicon(verb, bits) for verb, bits in parts))
    return one


def _tables(work: Work, prices: Tabulated) -> Number:
    """m2 of one lane's look-up tables, as large as the longest words need."""
    out: Number = 0.0
    for op in work.graph:
        for action in work.actions(op):
            if action.verb == "lookup":
                out = most(out, prices.silicon("lookup", action.bits))
    return out


@BASELINES.register
class DigitalAccelerator(Clocked):
    """Narrow lanes of multiply-accumulate for matrices, beside a unit like the chip's for everything else."""

    type: Literal["digital"] = "digital"
    lanes: int = Field(ge=1, le=10**7)
    """Products of matrices in one cycle."""
    unit: int | None = Field(None, ge=1, le=10**7)
    """Lanes of the unit for everything else; None: as many as the chip's."""
    weights: Literal["sram", "registers"] = "sram"
    """Where weights are: in banks, read in every step, or in registers beside the lanes."""

    def lanes_of(self, operator: Operator, work: Work) -> int:
        return self.unit_lanes(work)

    def product_cycles(self, operator: Matrix, work: Work) -> float:
        return cycles(work.macs(operator), self.lanes)

    def multipliers(self) -> int:
        return self.lanes

    def weight_traffic(self, work: Work) -> int:
        return self.lanes * work.widest_weight()

    def kept(self, work: Work) -> int:
        return work.weights() if self.weights == "registers" else 0

    def taken(self, operator: Operator, work: Work) -> Iterator[Taking]:
        for taking in super().taken(operator, work):
            if self.weights == "registers" and isinstance(operator, Matrix) and taking.action.purpose == WEIGHTS:
                held = replace(taking.action, component="digital update", verb="register", store=None)
                taking = Taking("products", held, taking.times)
            yield taking

    def read(self, operator: Operator, actions: list[Action], work: Work) -> list[Action]:
        out = super().read(operator, actions, work)
        local = self.weights == "registers" and isinstance(operator, Matrix)
        return [action for action in out if not (local and action.purpose == WEIGHTS)]

    def unit_lanes(self, work: Work) -> int:
        return work.lanes if self.unit is None else self.unit

    def product_area(self, work: Work, prices: Tabulated) -> Number:
        return prices.silicon("register", (1,)) * self.kept(work) + self.lanes * _narrow(work, prices, False)


@BASELINES.register
class SystolicArray(Clocked):
    """Elements that hold one weight each; inputs move along rows, partial sums along columns."""

    type: Literal["systolic"] = "systolic"
    rows: int = Field(ge=1, le=4096)
    """Elements that an input vector enters."""
    columns: int = Field(ge=1, le=4096)
    """Elements that sums leave."""
    arrays: int = Field(1, ge=1, le=4096)
    """Arrays; where they hold all weights at once, none is loaded again."""
    block: int = Field(1, ge=1)
    """Steps that are computed with weights once loaded, and buffered; 1: one sample at a time."""
    recurrence: Literal["vector", "array"] = "vector"
    """Where states are updated: in a unit of one lane a column, or in the elements, which hold them."""
    element_area: CostConstant
    """Area of an element over that of its multiplier, adder and registers."""

    def multipliers(self) -> int:
        return self.rows * self.columns * self.arrays

    def weight_traffic(self, work: Work) -> int:
        return self.columns * work.widest_weight()

    def together(self, work: Work) -> int:
        return min(self.block, work.steps)

    def folds(self, operator: Matrix) -> int:
        """Parts of a matrix that fit one array."""
        return cycles(operator.inputs[0].width, self.rows) * cycles(operator.output.width, self.columns)

    def resident(self, work: Work) -> bool:
        """Whether all weights are in arrays at once."""
        return sum(self.folds(op) for op in work.matrices) <= self.arrays

    def lanes_of(self, operator: Operator, work: Work) -> int:
        return self.multipliers() if self._inside(operator) else self.columns * self.arrays

    def _inside(self, operator: Operator) -> bool:
        return self.recurrence == "array" and isinstance(operator, Recurrence | StateUpdate | GatedUpdate)

    def _held(self, operator: Operator, work: Work) -> bool:
        """Whether the elements keep an operator's states and coefficients from step to step."""
        states = sum(a.count for a in work.actions(operator) if a.store == "state" and a.verb == "read")
        return self._inside(operator) and states <= 2 * self.multipliers()  # real and imaginary part in one

    def blocks(self, operator: Operator, work: Work) -> int:
        """How often the weights of a matrix are needed in an inference."""
        return cycles(work.runs(operator), self.block)

    def taken(self, operator: Operator, work: Work) -> Iterator[Taking]:
        held = self._held(operator, work)
        for taking in super().taken(operator, work):
            action = taking.action
            if held and action.store in ("state", "coefficients"):
                own = replace(action, verb="register", store=None)
                yield Taking(component_of(operator, replace(own, component="digital update")), own, taking.times)
                continue
            if not isinstance(operator, Matrix) or action.purpose not in (WEIGHTS, PRODUCTS):
                yield taking
                continue
            if action.purpose == PRODUCTS:  # each input moves through a register in every element that it meets
                moving = replace(action, verb="register", bits=(action.bits[1],), slots=0)
                yield from (taking, Taking("products", moving, taking.times))
            elif not self.resident(work):
                loads = action.count * self.blocks(operator, work)
                shifted = replace(action, verb="register", store=None)
                yield Taking("memories", action, loads)
                yield Taking("products", shifted, loads * (min(self.rows, operator.inputs[0].width) + 1) / 2)

    def busy(self, operator: Operator, actions: list[Action], work: Work) -> dict[str, float]:
        out = super().busy(operator, actions, work)
        if self._inside(operator):  # sums over states leave through the columns
            out["digital update"] = out.get("digital update", 0.0) + self.rows + self.columns - 2
        return out

    def product_cycles(self, operator: Matrix, work: Work) -> float:
        """Cycles of a matrix in one step, mean over the blocks: 2 rows + columns + b - 2 for a fold and block."""
        load, runs = 0 if self.resident(work) else self.rows, work.runs(operator)
        rounds = cycles(self.folds(operator), self.arrays)
        whole = self.blocks(operator, work) * (load + self.rows + self.columns - 2) + runs
        return rounds * whole / runs

    def read(self, operator: Operator, actions: list[Action], work: Work) -> list[Action]:
        held = self._held(operator, work)
        own = ("state", "coefficients") if held else ()
        return [
            action
            for action in super().read(operator, actions, work)
            if action.store not in own and not (isinstance(operator, Matrix) and action.purpose == WEIGHTS)
        ]

    def unit_lanes(self, work: Work) -> int:
        return self.columns * self.arrays

    def product_area(self, work: Work, prices: Tabulated) -> Number:
        return self.multipliers() * _narrow(work, prices, True) * prices.k["element_area"]


@BASELINES.register
class Microcontroller(Baseline):
    """A 32-bit integer core: matrices by a library with SIMD, everything else by scalar code."""

    type: Literal["microcontroller"] = "microcontroller"
    node: Annotated[float, Field(gt=0)]
    """Process node, m; for people: no number follows from it."""
    mac: CostConstant
    """Cycles of a multiply-accumulate of a matrix, words of up to 16 bits, loads included."""
    instruction: CostConstant
    """Cycles of a product, sum or shift of 32-bit registers."""
    access: CostConstant
    """Cycles of loading or storing up to 32 bits."""
    overhead: CostConstant
    """Cycles of scalar code over those of its arithmetic and accesses."""
    cycle_energy: CostConstant
    """J of a cycle, memories included."""
    clock: CostConstant
    """Hz."""
    core_area: CostConstant
    """m2 without memories."""
    memory_bit: CostConstant
    """m2 of a bit of memory."""

    def bill(self, work: Work, k: Values) -> Bill:
        out = Bill()
        for op in work.graph:
            for action in work.actions(op):
                spent = action.count * action.times(work.steps) * self.cycles_of(op, action, work, k)
                component = component_of(op, action)
                out.pay(component, spent * k.cycle_energy, work.steps, action.rate)
                if isinstance(op, Matrix):
                    out.matrices = out.matrices + spent * k.cycle_energy
                out.wait(component, spent / k.clock, work.steps, action.rate)
        out.memory = float(sum(work.stored().values()))
        out.area["digital update"] = k.core_area
        out.area["memories"] = out.memory * k.memory_bit
        macs = sum(work.macs(op) * work.runs(op) for op in work.matrices)
        out.utilisation = macs / (2 * out.total("latency") * k.clock)  # two 16-bit products in an SMLAD
        return out

    def cycles_of(self, operator: Operator, action: Action, work: Work, k: Values) -> Number:
        """Cycles of one action; registers and buses cost none of their own."""
        if isinstance(operator, Matrix) and self._fits(operator, action, work):
            return k.mac if action.purpose == PRODUCTS else 0.0
        if action.verb in ("register", "bus"):
            return 0.0
        words = math.prod(cycles(width, 32) for width in action.bits[: 2 if action.verb == "multiply" else 1])
        if action.verb in ("read", "write"):
            return words * k.access * k.overhead
        return (words * k.instruction + (k.access if action.verb == "lookup" else 0.0)) * k.overhead

    def _fits(self, operator: Matrix, action: Action, work: Work) -> bool:
        """Whether an action is inside the library's products: their words, loads and sums."""
        widest = max(work.formats.centred(operator.weight), work.formats.centred(operator.inputs[0].name))
        return widest <= 16 and action.purpose in (PRODUCTS, "sum over inputs", WEIGHTS, "inputs")


def baseline_names() -> list[str]:
    """Of the machines that ship with the library."""
    return device_names("baselines")


def load_baseline(name: str | Path) -> Baseline:
    """The machine of a shipped name or of a TOML of one's own.

    Raises `DesignError` for an unknown name, `FileError` or `ConfigError` for a wrong file.
    """
    path = device_path("baselines", name)
    data = read_toml(path)
    try:
        made = BASELINES.of(data)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    assert isinstance(made, Baseline)
    return made
