"""Static timing of a netlist from the library's NLDM tables: the latest edge on every net, delays of every gate.

Longest path only, both edges apart, worst arc of every pin; wires have a capacitance and no resistance, the clock
arrives everywhere at once. Input ports change at 0 with the transition of a flip-flop that drives four inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .liberty import Arc, Cell, Library
from .netlist import Gate, Netlist

__all__ = ["Surroundings", "Timing", "analyse", "surroundings"]

RISE, FALL = 1, 0
"""Edges, as the value that the net takes."""


@dataclass(frozen=True)
class Surroundings:
    """What a block stands among: `slew` (s) of its inputs and its clock, `load` (F) of its outputs, `arrival` (s)
    after the clock's edge of what comes from a flip-flop, `setup` (s) of the flip-flop behind an output."""

    slew: float
    clock_slew: float
    load: float
    arrival: float
    setup: float


def surroundings(library: Library, flip_flop: str) -> Surroundings:
    """Inputs come from, outputs go to, flip-flops of the type named; each of them drives four inputs like its
    own."""
    cell = library[flip_flop]
    data = next(iter(cell.inputs))
    load = cell.pins[data].capacitance
    output = cell.outputs[0]
    launch = [arc for arc in cell.arcs if arc.source == cell.clock and arc.target == output]
    slew = 0.0
    clock_slew = float(np.median(next(table for arc in launch for table in (arc.rise,) if table).first[:3]))
    slew = max(
        table(clock_slew, 4 * load) for arc in launch for table in (arc.rise_transition, arc.fall_transition)
    )
    arrival = max(table(clock_slew, 4 * load) for arc in launch for table in (arc.rise, arc.fall))
    return Surroundings(slew, clock_slew, load, arrival, _setup(cell, data, slew, clock_slew))


def _setup(cell: Cell, pin: str, slew: float, clock_slew: float) -> float:
    """Setup time of a flip-flop's input, s."""
    arcs = [arc for arc in cell.arcs if arc.target == pin and arc.kind.startswith("setup")]
    tables = [table for arc in arcs for table in (arc.rise, arc.fall) if table]
    return max((table(slew, clock_slew) for table in tables), default=0.0)


@dataclass(frozen=True)
class Timing:
    """Latest arrival and largest transition (s) of both edges on every net, and each gate's delays.

    arrival, slew  (net, edge)
    gate_delay     for every gate an array (input, edge of the output), s
    launch         for every flip-flop an array (edge,): from clock to output, s
    period         shortest clock period: the latest output port, or input of a flip-flop with its setup time, s
    """

    arrival: np.ndarray
    slew: np.ndarray
    gate_delay: list[np.ndarray]
    launch: list[np.ndarray]
    period: float


def _edges(sense: str) -> tuple[tuple[int, int], ...]:
    """(edge of the input, edge of the output) that an arc has."""
    same, other = ((RISE, RISE), (FALL, FALL)), ((RISE, FALL), (FALL, RISE))
    return {"positive_unate": same, "negative_unate": other}.get(sense, same + other)


def _arcs(gate: Gate) -> dict[str, list[Arc]]:
    """The arcs to a gate's output, by the pin they begin at."""
    found: dict[str, list[Arc]] = {}
    for arc in gate.cell.arcs:
        if arc.target == gate.output and not arc.kind.startswith(("setup", "hold", "clear", "preset", "recovery")):
            found.setdefault(arc.source, []).append(arc)
    return found


def analyse(netlist: Netlist, around: Surroundings, loads: np.ndarray) -> Timing:
    """Timing of a netlist whose nets carry `loads` (F, (net,)). In a block with flip-flops the input ports arrive
    as these do, without flip-flops at 0; the period of the former holds the setup time."""
    arrival = np.full((netlist.nets, 2), -np.inf)
    slew = np.full((netlist.nets, 2), around.slew)
    registered = bool(netlist.flip_flops)
    arrival[netlist.inputs] = around.arrival if registered else 0.0
    launch = []
    for gate in netlist.flip_flops:
        at = np.zeros(2)
        for arc in _arcs(gate).get(gate.cell.clock, []):
            for edge, delay, transition in (
                (RISE, arc.rise, arc.rise_transition),
                (FALL, arc.fall, arc.fall_transition),
            ):
                at[edge] = max(at[edge], delay(around.clock_slew, loads[gate.net]))
                slew[gate.net, edge] = transition(around.clock_slew, loads[gate.net])
        arrival[gate.net] = at
        launch.append(at)
    gate_delay = [_through(gate, arrival, slew, loads[gate.net]) for gate in netlist.gates]
    ends = [
        float(arrival[net].max()) + (around.setup if registered else 0.0) for net in netlist.outputs if net > 1
    ]
    if registered:
        ends = [float(arrival[net].max()) for net in netlist.outputs if net > 1]
    for gate in netlist.flip_flops:
        for pin, net in zip(gate.cell.inputs, gate.inputs, strict=True):
            if net > 1:
                setup = _setup(gate.cell, pin, float(slew[net].max()), around.clock_slew)
                ends.append(float(arrival[net].max()) + setup)
    return Timing(arrival, slew, gate_delay, launch, max(ends, default=0.0))


def _through(gate: Gate, arrival: np.ndarray, slew: np.ndarray, load: float) -> np.ndarray:
    """Put a gate's output into `arrival` and `slew`; its delays (input, edge of the output)."""
    arcs = _arcs(gate)
    delays = np.zeros((len(gate.inputs), 2))
    worst = np.zeros(2)
    for k, (pin, net) in enumerate(zip(gate.cell.inputs, gate.inputs, strict=True)):
        for arc in arcs.get(pin, []):
            for before, after in _edges(arc.sense):
                delay, transition = (
                    (arc.rise, arc.rise_transition) if after == RISE else (arc.fall, arc.fall_transition)
                )
                if delay is None or transition is None:
                    continue
                came = slew[net, before]
                through = max(0.0, delay(came, load))
                delays[k, after] = max(delays[k, after], through)
                if np.isfinite(arrival[net, before]):
                    arrival[gate.net, after] = max(arrival[gate.net, after], arrival[net, before] + through)
                    worst[after] = max(worst[after], transition(came, load))
    for edge in (RISE, FALL):
        if worst[edge] > 0:
            slew[gate.net, edge] = worst[edge]
    return delays
