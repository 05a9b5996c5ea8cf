"""An event-driven simulation of a netlist that counts what switches: outputs by cause, inputs by state.

Times are integers (ticks). How much of its glitches a netlist keeps is a matter of the gates' analog behaviour;
three answers stand for its range:

    settled    every gate waits until all its inputs have settled: at most one transition a cycle, no glitches
    inertial   a pulse shorter than the gate's own delay is swallowed
    half       a pulse shorter than half of the gate's own delay is swallowed
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numba import njit

from .netlist import Netlist
from .timing import Timing

__all__ = ["MODES", "Activity", "simulate"]

MODES = {"settled": 1.0, "inertial": 1.0, "half": 0.5}
"""Shortest pulse that passes a gate, over the gate's delay."""
TICK = 1e-14
"""Seconds of a tick."""
WIDTH = 6
"""Inputs of a gate, at most."""
MEMORY = 1 << 20
"""Events that may wait at once."""


@dataclass(frozen=True)
class Activity:
    """What switched in `cycles` cycles after the first.

    outputs     (gate, input that caused it, value taken)
    inputs      (gate, input that changed, state of all inputs after it)
    launched    (flip-flop, value taken)
    clocked     (flip-flop, half, state): states (inputs, then output before the edge as the highest bit) at the
                rising (half 1) and falling (half 0) edges of the clock
    net         (net, value taken)
    values      (cycle, output port bit): what stood at the output ports when each cycle had settled
    """

    cycles: int
    outputs: np.ndarray
    inputs: np.ndarray
    launched: np.ndarray
    clocked: np.ndarray
    net: np.ndarray
    values: np.ndarray


def simulate(netlist: Netlist, timing: Timing, stimuli: np.ndarray, mode: str, arrival: float = 0.0) -> Activity:
    """Run `stimuli` (cycle, input bit) through a netlist, whose flip-flops begin at 0.

    Input ports change `arrival` seconds after the clock's edge. The first cycle only brings the nets to a state;
    it is not counted. `values` has a row for every cycle.
    """
    gates, flops = netlist.gates, netlist.flip_flops
    widest = max((len(g.inputs) for g in [*gates, *flops]), default=1)
    if widest > WIDTH:
        raise ValueError(f"{netlist.name} has a cell of {widest} inputs; at most {WIDTH} are simulated")
    delays = np.zeros((len(gates), WIDTH, 2), dtype=np.int64)
    for i, delay in enumerate(timing.gate_delay):
        delays[i, : len(delay)] = np.maximum(1, np.round(delay / TICK))
    level = np.zeros(netlist.nets, dtype=np.int64)
    for gate in gates:
        level[gate.net] = 1 + max(level[net] for net in gate.inputs)
    readers: list[list[tuple[int, int]]] = [[] for _ in range(netlist.nets)]
    for i, gate in enumerate(gates):
        for k, net in enumerate(gate.inputs):
            readers[net].append((i, k))
    start = np.cumsum([0, *(len(r) for r in readers)])
    flat = np.array([pair for r in readers for pair in r], dtype=np.int64).reshape(-1, 2)
    settled = mode == "settled"
    launch = np.array([[0, 0] if settled else np.round(at / TICK) for at in timing.launch], dtype=np.int64)
    found = _run(
        settled,
        MODES[mode],
        np.ascontiguousarray(stimuli, dtype=np.int8),
        np.array(netlist.inputs, dtype=np.int64),
        np.array(netlist.outputs, dtype=np.int64),
        _padded([g.inputs for g in gates]),
        np.array([len(g.inputs) for g in gates], dtype=np.int64),
        np.array([g.table for g in gates], dtype=np.uint64),
        np.array([g.net for g in gates], dtype=np.int64),
        delays,
        level,
        start,
        flat,
        _padded([g.inputs for g in flops]),
        np.array([len(g.inputs) for g in flops], dtype=np.int64),
        np.array([g.table for g in flops], dtype=np.uint64),
        np.array([g.net for g in flops], dtype=np.int64),
        launch.reshape(-1, 2),
        0 if settled else round(arrival / TICK),
        netlist.nets,
    )
    return Activity(len(stimuli) - 1, *found)


def _padded(rows: list[tuple[int, ...]]) -> np.ndarray:
    """Nets of inputs, (gate, WIDTH); absent ones are the constant 0."""
    out = np.zeros((len(rows), WIDTH), dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


@njit(cache=False)
def _state(value, nets, count):
    state = 0
    for k in range(count):
        state |= np.int64(value[nets[k]]) << k
    return state


@njit(cache=False)
def _run(
    settled,
    reject,
    stimuli,
    ports,
    watched,
    nets_in,
    width,
    table,
    net_out,
    delays,
    level,
    start,
    readers,
    flop_in,
    flop_width,
    flop_table,
    flop_out,
    launch,
    arrival,
    nets,
):
    cycles, gates, flops = len(stimuli), len(table), len(flop_table)
    value = np.zeros(nets, dtype=np.int8)
    value[1] = 1
    # a consistent beginning: gates stand in the order of their dependence
    for g in range(gates):
        value[net_out[g]] = (table[g] >> np.uint64(_state(value, nets_in[g], width[g]))) & np.uint64(1)
    driver = np.full(nets, -1, dtype=np.int64)
    for g in range(gates):
        driver[net_out[g]] = g
    last = value.copy()  # what each net will hold when all its events have passed
    pending = np.zeros(nets, dtype=np.int64)  # serial number of the net's last event; 0: none waits
    due = np.zeros(nets, dtype=np.int64)  # its time
    before = np.zeros(nets, dtype=np.int64)  # that of the one before it
    dead = np.zeros(MEMORY, dtype=np.bool_)  # events that were taken back, by serial number
    outputs = np.zeros((gates, WIDTH, 2), dtype=np.int64)
    inputs = np.zeros((gates, WIDTH, 1 << WIDTH), dtype=np.int32)
    launched = np.zeros((flops, 2), dtype=np.int64)
    clocked = np.zeros((flops, 2, 2 << WIDTH), dtype=np.int64)
    toggles = np.zeros((nets, 2), dtype=np.int64)
    shown = np.zeros((cycles, len(watched)), dtype=np.int8)
    held = np.zeros(flops, dtype=np.int8)
    serial = 0
    for cycle in range(cycles):
        counts = cycle > 0
        queue = [(np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0))]
        queue.pop()
        due[:] = 0
        before[:] = 0
        for f in range(flops):
            state = _state(value, flop_in[f], flop_width[f])
            now = value[flop_out[f]]
            held[f] = (flop_table[f] >> np.uint64(state)) & np.uint64(1)
            if counts:
                clocked[f, 1, state | np.int64(now) << WIDTH] += 1
        for f in range(flops):
            net = flop_out[f]
            if held[f] != value[net]:
                serial += 1
                pending[net] = serial
                last[net] = held[f]
                heapq.heappush(queue, (launch[f, held[f]], np.int64(serial), net, np.int64(held[f]), np.int64(f)))
        for p in range(len(ports)):
            net = ports[p]
            if stimuli[cycle, p] != value[net]:
                serial += 1
                pending[net] = serial
                last[net] = stimuli[cycle, p]
                heapq.heappush(
                    queue, (np.int64(arrival), np.int64(serial), net, np.int64(stimuli[cycle, p]), np.int64(-1))
                )
        while len(queue) > 0:
            time, number, net, taken, cause = heapq.heappop(queue)
            source = driver[net]
            if dead[number % MEMORY]:
                dead[number % MEMORY] = False
                continue
            if pending[net] == number:
                pending[net] = 0
            value[net] = taken
            if counts:
                toggles[net, taken] += 1
                if source >= 0:
                    outputs[source, cause, taken] += 1
                elif cause >= 0:
                    launched[cause, taken] += 1
            for r in range(start[net], start[net + 1]):
                g, pin = readers[r, 0], readers[r, 1]
                state = _state(value, nets_in[g], width[g])
                if counts:
                    inputs[g, pin, state] += 1
                after = np.int64((table[g] >> np.uint64(state)) & np.uint64(1))
                out = net_out[g]
                if after == last[out]:
                    continue
                delay = delays[g, pin, after]
                when = level[out] if settled else time + delay
                if pending[out] > 0 and (settled or when - due[out] < reject * delay):
                    dead[pending[out] % MEMORY] = True  # the pulse is too short to leave the gate
                    pending[out] = 0
                    due[out] = before[out]
                    last[out] = after
                    continue
                if (
                    not settled and when <= due[out]
                ):  # behind one that was taken back another may wait: it stays first
                    when = due[out] + 1
                last[out] = after
                serial += 1
                before[out] = due[out]
                pending[out] = serial
                due[out] = when
                heapq.heappush(queue, (np.int64(when), np.int64(serial), out, after, pin))
        for f in range(flops):
            if counts:
                state = _state(value, flop_in[f], flop_width[f])
                clocked[f, 0, state | np.int64(value[flop_out[f]]) << WIDTH] += 1
        for o in range(len(watched)):
            shown[cycle, o] = value[watched[o]]
    return outputs, inputs, launched, clocked, toggles, shown
