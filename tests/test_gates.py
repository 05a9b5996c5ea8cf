"""The gate-level flow of `benchmarks/gates` on a library of three cells whose numbers are known by hand."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


def module(name: str) -> ModuleType:
    """A module of the benchmark, which is no part of the installed package."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib.import_module(f"benchmarks.gates.{name}")


liberty, netlist, timing, simulation, energy = map(
    module, ("liberty", "netlist", "timing", "simulation", "energy")
)


def table(name: str, base: float, per_load: float, per_slew: float) -> str:
    """base + per_slew slew + per_load load on a grid of 2 x 2."""
    values = [[base + per_slew * s + per_load * c for c in (1, 3)] for s in (10, 30)]
    rows = ", ".join('"' + ", ".join(f"{v:g}" for v in row) + '"' for row in values)
    return f'{name} (grid) {{ index_1 ("10, 30"); index_2 ("1, 3"); values ({rows}); }}'


def arc(source: str, sense: str, delay: float, kind: str = "combinational") -> str:
    """Delay of `delay` ps and 2 ps per fF, transition 10 ps whatever drives it."""
    tables = " ".join(
        table(f"cell_{e}", delay, 2, 0) + table(f"{e}_transition", 10, 0, 0) for e in ("rise", "fall")
    )
    return f'timing () {{ related_pin : "{source}"; timing_sense : {sense}; timing_type : {kind}; {tables} }}'


def power(rise: float, fall: float, extra: str) -> str:
    """Internal energies in fJ."""
    return f"internal_power () {{ {extra} {table('rise_power', rise, 0, 0)} {table('fall_power', fall, 0, 0)} }}"


def pin(name: str, capacitance: float = 1.0, extra: str = "") -> str:
    return f"pin ({name}) {{ direction : input; capacitance : {capacitance}; {extra} }}"


def output(name: str, function: str, inside: str) -> str:
    return f'pin ({name}) {{ direction : output; function : "{function}"; {inside} }}'


def library_text(inverter: float = 5.0, nand: float = 8.0) -> str:
    both = power(4, 2, 'related_pin : "A"; related_pg_pin : VDD;') + power(
        2, 4, 'related_pin : "A"; related_pg_pin : VSS;'
    )
    return f"""library (tiny) {{
      /* a comment {{ with a brace */
      time_unit : "1ps"; voltage_unit : "1V"; leakage_power_unit : "1nW"; capacitive_load_unit (1, ff);
      nom_voltage : 2;
      lu_table_template (grid) {{
        variable_1 : input_net_transition; variable_2 : total_output_net_capacitance;
        index_1 ("10, 30"); index_2 ("1, 3");
      }}
      cell (INV) {{ area : 1; cell_leakage_power : 3; {pin("A")}
        {output("Y", "!A", arc("A", "negative_unate", inverter) + both)} }}
      cell (NAND) {{ area : 2.5;
        leakage_power () {{ value : 1; when : "A"; }} leakage_power () {{ value : 5; when : "!A"; }}
        {pin("A", 1, power(0, 0.5, 'when : "!B";'))} {pin("B", 2)}
        {
        output(
            "Y",
            "(A * B)'",
            arc("A", "negative_unate", nand)
            + arc("B", "negative_unate", nand)
            + power(3, 1, 'related_pin : "A B";'),
        )
    } }}
      cell (DFF) {{ area : 6; ff (IQ, IQN) {{ clocked_on : "CLK"; next_state : "D"; }}
        {
        pin(
            "D",
            1,
            "timing () { related_pin : CLK; timing_type : setup_rising; "
            + table("rise_constraint", 7, 0, 0)
            + table("fall_constraint", 7, 0, 0)
            + " }",
        )
    }
        {pin("CLK", 1.5, 'clock : "true"; ' + power(0, 0, 'when : "D * !Q";') + power(0.25, 0.75, ""))}
        {output("Q", "IQ", arc("CLK", "non_unate", 20, "rising_edge") + power(10, 12, 'related_pin : "CLK";'))} }}
    }}"""


@pytest.fixture
def library(tmp_path: Path):
    (tmp_path / "tiny.lib").write_text(library_text())
    return liberty.Library([tmp_path / "tiny.lib"])


def circuit(tmp_path: Path, library, cells: list[tuple[str, dict[str, int]]], inputs: dict, outputs: dict):
    """A netlist of cells, connected by numbered nets; net 99 is the clock."""
    ports = {n: {"direction": "input", "bits": b} for n, b in inputs.items()}
    ports |= {n: {"direction": "output", "bits": b} for n, b in outputs.items()}
    ports["clk"] = {"direction": "input", "bits": [99]}
    found = {
        f"c{i}": {"type": kind, "connections": {p: [n] for p, n in pins.items()}}
        for i, (kind, pins) in enumerate(cells)
    }
    path = tmp_path / "netlist.json"
    path.write_text(json.dumps({"modules": {"top": {"ports": ports, "cells": found}}}))
    return netlist.read(path, "top", library)


AROUND = timing.Surroundings(slew=10e-12, clock_slew=10e-12, load=1e-15, arrival=22e-12, setup=7e-12)


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        ("!A", 0b0101),
        ("A B", 0b1000),
        ("A*B+!A*!B", 0b1001),
        ("(A + B)'", 0b0001),
        ("A ^ B", 0b0110),
        ("1", 0b1111),
    ],
)
def test_functions(function: str, wanted: int) -> None:
    assert liberty.truth_table(function, ("A", "B")) == wanted


def test_functions_of_unknown_pins_are_refused() -> None:
    with pytest.raises(liberty.LibertyError, match="'C' is no pin"):
        liberty.truth_table("A * C", ("A", "B"))


def test_the_library_is_in_si_units(library) -> None:
    cell = library["INV"]
    assert cell.area == 1e-12
    assert cell.leakage == pytest.approx(3e-9)
    assert library["NAND"].leakage == pytest.approx(3e-9)  # the mean of its states
    assert cell.pins["A"].capacitance == pytest.approx(1e-15)
    (found,) = cell.arcs
    assert found.rise(10e-12, 2e-15) == pytest.approx(9e-12)
    assert found.rise(10e-12, 7e-15) == pytest.approx(19e-12)  # beyond the table, linear
    assert library.voltage == 2.0
    with pytest.raises(liberty.LibertyError, match="no cell 'XOR'"):
        library["XOR"]


def test_a_trimmed_library_holds_the_same_cells(library, tmp_path: Path) -> None:
    liberty.trimmed(library, ["NAND", "DFF"], tmp_path / "less.lib")
    less = liberty.Library([tmp_path / "less.lib"])
    assert list(less) == ["NAND", "DFF"]
    assert less["NAND"].powers == library["NAND"].powers


def test_the_longest_path_by_hand(library, tmp_path: Path) -> None:
    """INV drives NAND's B (2 fF): 5 + 2 x 2 = 9 ps; NAND drives the port (1 fF): 8 + 2 = 10 ps."""
    net = circuit(
        tmp_path,
        library,
        [("NAND", {"A": 2, "B": 4, "Y": 5}), ("INV", {"A": 3, "Y": 4})],
        {"a": [2], "b": [3]},
        {"y": [5]},
    )
    assert [g.cell.name for g in net.gates] == ["INV", "NAND"]
    loads = net.loads(0.0, AROUND.load)
    assert timing.analyse(net, AROUND, loads).period == pytest.approx(19e-12)
    # half a femtofarad of wire to every pin: one pin behind INV, none behind NAND
    assert timing.analyse(net, AROUND, net.loads(0.5e-15, AROUND.load)).period == pytest.approx(20e-12)
    assert net.area == pytest.approx(3.5e-12)


def test_a_loop_and_a_second_clock_are_refused(library, tmp_path: Path) -> None:
    with pytest.raises(liberty.LibertyError, match="loop"):
        circuit(tmp_path, library, [("NAND", {"A": 2, "B": 3, "Y": 3})], {"a": [2]}, {"y": [3]})
    with pytest.raises(liberty.LibertyError, match="clock"):
        circuit(tmp_path, library, [("DFF", {"D": 2, "CLK": 3, "Q": 4})], {"a": [2, 3]}, {"y": [4]})


def test_energy_of_an_inverter_by_hand(library, tmp_path: Path) -> None:
    """Every cycle one edge: half of 1 fF x 4 V^2 at its input; 3 fJ inside, the mean over both rails."""
    net = circuit(tmp_path, library, [("INV", {"A": 2, "Y": 3})], {"a": [2]}, {"y": [3]})
    at = timing.analyse(net, AROUND, net.loads(0.0, AROUND.load))
    active = simulation.simulate(net, at, np.array([[0], [1], [0], [1], [0]]), "inertial")
    spent = energy.energy(net, at, active, AROUND, 0.0, library.voltage)
    assert active.values.ravel().tolist() == [1, 0, 1, 0, 1]
    assert spent.nets == pytest.approx(2e-15)
    assert spent.cells == pytest.approx(3e-15)
    assert spent.clock == 0.0
    wired = energy.energy(net, at, active, AROUND, 1e-15, library.voltage)
    assert wired.nets == pytest.approx(4e-15)


def test_an_input_costs_by_the_state_of_the_others(library, tmp_path: Path) -> None:
    """With B at 0 the output stands; each falling edge of A costs 0.5 fJ inside, each edge 2 fJ outside."""
    net = circuit(tmp_path, library, [("NAND", {"A": 2, "B": 3, "Y": 4})], {"a": [2], "b": [3]}, {"y": [4]})
    at = timing.analyse(net, AROUND, net.loads(0.0, AROUND.load))
    active = simulation.simulate(net, at, np.array([[0, 0], [1, 0], [0, 0]]), "inertial")
    spent = energy.energy(net, at, active, AROUND, 0.0, library.voltage)
    assert spent.cells == pytest.approx(0.5e-15 / 2)
    assert spent.nets == pytest.approx(2e-15)


@pytest.mark.parametrize(
    ("inverter", "nand", "mode", "pulses"),
    [
        (20, 8, "settled", 0),
        (20, 8, "inertial", 2),
        (4, 12, "inertial", 0),
        (4, 12, "half", 2),
        (1, 40, "half", 0),
    ],
)
def test_glitches(tmp_path: Path, inverter: float, nand: float, mode: str, pulses: int) -> None:
    """a NAND !a is 1 for good; where a rises, both are 1 for the inverter's delay (its own and 2 ps/fF x 2 fF)."""
    (tmp_path / "tiny.lib").write_text(library_text(inverter, nand))
    cells = [("NAND", {"A": 2, "B": 3, "Y": 4}), ("INV", {"A": 2, "Y": 3})]
    net = circuit(tmp_path, liberty.Library([tmp_path / "tiny.lib"]), cells, {"a": [2]}, {"y": [4]})
    at = timing.analyse(net, AROUND, net.loads(0.0, AROUND.load))
    active = simulation.simulate(net, at, np.array([[0], [1], [0]]), mode)
    assert active.values.ravel().tolist() == [1, 1, 1]
    assert active.net[net.outputs[0]].sum() == pulses


def test_a_register_by_hand(library, tmp_path: Path) -> None:
    net = circuit(tmp_path, library, [("DFF", {"D": 2, "CLK": 99, "Q": 3})], {"a": [2]}, {"y": [3]})
    at = timing.analyse(net, AROUND, net.loads(0.0, AROUND.load))
    # a port arrives as a flip-flop's output would, 22 ps, and is set up for 7; from the clock to Q it is 20 + 2
    assert at.period == pytest.approx(29e-12)
    active = simulation.simulate(net, at, np.array([[0], [1], [1], [0], [0]]), "inertial", AROUND.arrival)
    assert active.values.ravel().tolist() == [0, 0, 1, 1, 0]
    spent = energy.energy(net, at, active, AROUND, 0.0, library.voltage)
    # four cycles: Q rises once (10 fJ) and falls once (12 fJ)
    assert spent.cells == pytest.approx(22e-15 / 4)
    # D changes twice: 2 fJ each
    assert spent.nets == pytest.approx(4e-15 / 4)
    # the clock's pin 1.5 fF x 4 V^2 a cycle; inside 0.25 up, 0.75 down, nothing where D is 1 and Q still 0:
    # the rising edge of the second counted cycle, and the falling edge of the first
    assert spent.clock == pytest.approx(6e-15 + (3 * 0.25e-15 + 3 * 0.75e-15) / 4)


@pytest.mark.parametrize("mode", ["settled", "inertial", "half"])
def test_random_logic_settles_to_its_function(library, tmp_path: Path, mode: str) -> None:
    """NANDs at random, a hundred vectors: every mode ends where the functions say, and none switches less than
    the settled one."""
    rng = np.random.default_rng(0)
    cells, nets = [], list(range(2, 10))
    for k in range(60):
        a, b = rng.choice(nets[-20:], 2, replace=False)
        cells.append(("NAND", {"A": int(a), "B": int(b), "Y": 10 + k}))
        nets.append(10 + k)
    net = circuit(tmp_path, library, cells, {"a": list(range(2, 10))}, {"y": list(range(40, 70))})
    at = timing.analyse(net, AROUND, net.loads(0.0, AROUND.load))
    vectors = rng.integers(0, 2, (100, 8))
    active = simulation.simulate(net, at, vectors, mode)
    for row, bits in zip(active.values, vectors, strict=True):
        value = dict(zip(range(2, 10), bits, strict=True))
        for _, pins in cells:
            value[pins["Y"]] = 1 - value[pins["A"]] * value[pins["B"]]
        assert row.tolist() == [value[n] for n in range(40, 70)]
    settled = simulation.simulate(net, at, vectors, "settled")
    assert (active.net.sum(axis=1) >= settled.net.sum(axis=1)).all()
    assert settled.net.sum(axis=1).max() <= 99
