"""A mapped netlist (the JSON of yosys) as arrays: gates with truth tables, flip-flops, nets and their readers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .liberty import Cell, LibertyError, Library

__all__ = ["Gate", "Netlist", "read"]

ZERO, ONE = 0, 1
"""The nets that hold constants."""


@dataclass
class Gate:
    """One output of one cell: input nets in the order of `cell.inputs`, output net, truth table over the
    inputs."""

    cell: Cell
    output: str
    inputs: tuple[int, ...]
    net: int
    table: int


@dataclass
class Netlist:
    """A flat netlist of library cells with one clock.

    nets        how many nets there are; net 0 is constant 0, net 1 constant 1
    ports       name -> (direction, nets from the lowest bit up), without the clock
    gates       combinational outputs, each after those it depends on
    flip_flops  outputs of flip-flops; `table` is what follows the clock's edge
    cells       every instance
    """

    name: str
    nets: int
    ports: dict[str, tuple[str, list[int]]]
    gates: list[Gate]
    flip_flops: list[Gate]
    cells: list[tuple[Cell, dict[str, int]]]

    @property
    def inputs(self) -> list[int]:
        """Input nets, port by port."""
        return [net for direction, nets in self.ports.values() if direction == "input" for net in nets]

    @property
    def outputs(self) -> list[int]:
        """Output nets, port by port."""
        return [net for direction, nets in self.ports.values() if direction == "output" for net in nets]

    @property
    def area(self) -> float:
        """Sum of the cells' areas, m2."""
        return sum(cell.area for cell, _ in self.cells)

    @property
    def leakage(self) -> float:
        """Sum of the cells' leakages, W."""
        return sum(cell.leakage for cell, _ in self.cells)

    def loads(self, wire: float, port: float) -> np.ndarray:
        """Capacitance on every net, F: the pins that read it, `wire` for each of them, `port` at an output
        port."""
        load = np.zeros(self.nets)
        for cell, pins in self.cells:
            for name, net in pins.items():
                if cell.pins[name].direction == "input":
                    load[net] += cell.pins[name].capacitance + wire
        for net in self.outputs:
            load[net] += port
        return load


def read(path: Path, top: str, library: Library, clock: str = "clk") -> Netlist:
    """The module `top` of a netlist that yosys wrote.

    Raises `LibertyError` for a cell that the library lacks, a loop or a net that nothing drives.
    """
    module = json.loads(path.read_text(encoding="utf-8"))["modules"][top]
    number: dict[int | str, int] = {"0": ZERO, "1": ONE, "x": ZERO, "z": ZERO}

    def net(bit: int | str) -> int:
        return number.setdefault(bit, len(number) - 2)

    ports = {
        name: (port["direction"], [net(bit) for bit in port["bits"]])
        for name, port in module["ports"].items()
        if name != clock
    }
    clocks = {bit for name, port in module["ports"].items() if name == clock for bit in port["bits"]}
    cells: list[tuple[Cell, dict[str, int]]] = []
    gates: list[Gate] = []
    flip_flops: list[Gate] = []
    for name, found in module["cells"].items():
        cell = library[found["type"]]
        pins = {pin: bits[0] for pin, bits in found["connections"].items() if bits}
        if cell.state is not None and pins.pop(cell.clock) not in clocks:
            raise LibertyError(
                f"flip-flop {name} of {top} is not on the clock {clock!r}; give a design of one clock"
            )
        held = {pin: net(bit) for pin, bit in pins.items()}
        cells.append((cell, held))
        inputs = tuple(held[pin] for pin in cell.inputs)
        for pin in cell.outputs:
            if pin in held:
                gate = Gate(cell, pin, inputs, held[pin], cell.tables[pin])
                (gates if cell.state is None else flip_flops).append(gate)
    netlist = Netlist(top, len(number) - 2, ports, [], flip_flops, cells)
    netlist.gates = _ordered(netlist, gates)
    return netlist


def _ordered(netlist: Netlist, gates: list[Gate]) -> list[Gate]:
    """Gates, each after those that drive its inputs."""
    known = np.zeros(netlist.nets, dtype=bool)
    known[[ZERO, ONE, *netlist.inputs, *(gate.net for gate in netlist.flip_flops)]] = True
    waiting = [sum(not known[net] for net in set(gate.inputs)) for gate in gates]
    readers: dict[int, list[int]] = {}
    for i, gate in enumerate(gates):
        for net in set(gate.inputs):
            readers.setdefault(net, []).append(i)
    ready = [i for i, count in enumerate(waiting) if not count]
    order = []
    for i in ready:
        order.append(gates[i])
        known[gates[i].net] = True
        for j in readers.get(gates[i].net, ()):
            waiting[j] -= 1
            if not waiting[j]:
                ready.append(j)
    if len(order) != len(gates):
        raise LibertyError(
            f"{netlist.name}: {len(gates) - len(order)} gates are in a loop or read an undriven net"
        )
    return order
