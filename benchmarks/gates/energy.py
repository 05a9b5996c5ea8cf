"""What a netlist's activity costs: internal energies of the library, and C V^2 / 2 of every edge of a net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from .liberty import Cell, Power, truth_table
from .netlist import Gate, Netlist
from .simulation import WIDTH, Activity
from .timing import FALL, RISE, Surroundings, Timing

__all__ = ["Energy", "energy"]


@dataclass(frozen=True)
class Energy:
    """Joules a cycle: of nets, of cells with their flip-flops' data side, of the clock (pins, wires,
    flip-flops)."""

    nets: float
    cells: float
    clock: float

    @property
    def total(self) -> float:
        """All three."""
        return self.nets + self.cells + self.clock


@cache
def _when(cell: Cell, condition: str) -> Callable[[int, int, int], bool]:
    """Whether a condition holds, of (state of the inputs, value of the state or output, clock)."""
    outputs = tuple(p.name for p in cell.pins.values() if p.direction == "output")
    names = (*cell.inputs, *outputs, *((cell.clock,) if cell.clock else ()))
    table = truth_table(condition, names)
    width = len(cell.inputs)
    tables = [cell.tables[o] if o in cell.outputs else 0 for o in outputs]

    def holds(state: int, value: int, clock: int) -> bool:
        at = state
        for i, output in enumerate(outputs):
            if cell.state is None:
                bit = tables[i] >> state & 1
            else:
                bit = value if cell.pins[output].function == cell.pins[cell.outputs[0]].function else 1 - value
            at |= bit << width + i
        return bool(table >> (at | clock << width + len(outputs)) & 1)

    return holds


@cache
def _powers(cell: Cell, pin: str, source: str) -> tuple[Power, ...]:
    """What a library states of one pin, of an output for one cause."""
    return tuple(p for p in cell.powers if p.pin == pin and p.source == source)


def _edge(power: Power, value: int, slew: float, load: float) -> float:
    table = power.rise if value == RISE else power.fall
    return power.weight * table(slew, load) if table else 0.0


def _at_output(gate: Gate, source: str, value: int, slew: float, load: float) -> float:
    """Energy of one edge of an output, the mean over the states that the library tells apart, J."""
    powers = _powers(gate.cell, gate.output, source)
    if not powers:
        return 0.0
    # one entry per rail has the same condition: they add up, conditions are averaged
    conditions = {p.when for p in powers}
    return sum(_edge(p, value, slew, load) for p in powers) / len(conditions)


@cache
def _applying(cell: Cell, pin: str, state: int, held: int, clock: int) -> tuple[Power, ...]:
    """What a library states of an input at a state: the conditions that hold, else what has none."""
    powers = _powers(cell, pin, "")
    matching = tuple(p for p in powers if p.when and _when(cell, p.when)(state, held, clock))
    return matching or tuple(p for p in powers if not p.when)


def _at_input(cell: Cell, pin: str, value: int, slew: float, state: int, held: int, clock: int | None) -> float:
    """Energy of one edge of an input at a state; of an unknown clock the mean of both its values, J."""
    clocks = (0, 1) if clock is None else (clock,)
    found = (_edge(p, value, slew, 0.0) for at in clocks for p in _applying(cell, pin, state, held, at))
    return sum(found) / len(clocks)


def energy(
    netlist: Netlist, timing: Timing, activity: Activity, around: Surroundings, wire: float, voltage: float
) -> Energy:
    """Energy of a cycle. A net's energy is that of the pins that read it, with `wire` (F) to each, and so belongs
    to the block that reads it: an input port's is inside, what an output port drives is not."""
    inside = netlist.loads(wire, 0.0)
    loads = netlist.loads(wire, around.load)
    nets = float((inside * activity.net.sum(axis=1)).sum()) * voltage**2 / 2
    slew = timing.slew.max(axis=1)
    cells = 0.0
    counted: set[tuple[int, ...]] = set()
    for i, gate in enumerate(netlist.gates):
        load = loads[gate.net]
        key = (id(gate.cell), *gate.inputs)
        for k, (pin, net) in enumerate(zip(gate.cell.inputs, gate.inputs, strict=True)):
            for value in (FALL, RISE):
                count = activity.outputs[i, k, value]
                if count:
                    cells += count * _at_output(gate, pin, value, slew[net], load)
            if key in counted:
                continue  # the second output of a cell: its inputs have been charged
            for state in np.flatnonzero(activity.inputs[i, k]):
                count = activity.inputs[i, k, state]
                cells += count * _at_input(gate.cell, pin, int(state) >> k & 1, slew[net], int(state), 0, 0)
        counted.add(key)
    clock = 0.0
    seen: set[tuple[int, ...]] = set()
    for i, gate in enumerate(netlist.flip_flops):
        cell = gate.cell
        for value in (FALL, RISE):
            count = activity.launched[i, value]
            if count:
                cells += count * _at_output(gate, cell.clock, value, around.clock_slew, loads[gate.net])
        key = (id(cell), *gate.inputs)
        if key in seen:
            continue
        seen.add(key)
        for half in (FALL, RISE):
            for state in np.flatnonzero(activity.clocked[i, half]):
                held = int(state) >> WIDTH
                plain = int(state) & ((1 << WIDTH) - 1)
                clock += activity.clocked[i, half, state] * _at_input(
                    cell, cell.clock, half, around.clock_slew, plain, held, half
                )
        for pin, net in zip(cell.inputs, gate.inputs, strict=True):
            for value in (FALL, RISE):
                count = activity.net[net, value]
                if count:
                    state = sum(1 << k for k, other in enumerate(cell.inputs) if other != pin) | (
                        value << cell.inputs.index(pin)
                    )
                    cells += count * _at_input(cell, pin, value, slew[net], state, value, None)
        clock += activity.cycles * (cell.pins[cell.clock].capacitance + wire) * voltage**2
    n = activity.cycles
    return Energy(nets / n, cells / n, clock / n)
