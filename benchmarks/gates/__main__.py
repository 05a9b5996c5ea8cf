"""Area, delay, energy and leakage of the digital unit's building blocks by word length, from gates.

    pip install -r benchmarks/gates/requirements.txt
    python -m benchmarks.gates FOLDER [library ...] [--blocks add ...] [--out benchmarks/gates/gates.nc]

In an environment that has imc-ssm, from the folder of the repository. FOLDER holds the Liberty files that
`libraries.toml` names; `--libraries FILE` reads another table of the same form, for libraries of your own. Every
netlist is simulated against the integers that it has to return.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import tomllib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xarray as xr

from imc_ssm import results

from . import laws
from .blocks import BITS, BLOCKS, LANES, Block, make, sizes
from .energy import Energy, energy
from .liberty import LibertyError, Library
from .netlist import Netlist, read
from .simulation import simulate
from .synthesis import choose, synthesise, usable
from .timing import Surroundings, analyse, surroundings

HERE = Path(__file__).parent
SEED = 0
CYCLES, LANE_CYCLES = 501, 201
"""Stimuli of a block, of a lane; the first only sets the beginning."""
WIRE = 0.2e-9
"""Capacitance of a wire, F/m: about the same at every node, Ho, Mai and Horowitz 2001, doi:10.1109/5.920580."""
FILLED = 0.7
"""Share of a placed block's area that cells take."""
BOUNDS = {"low": ("settled", 0.0), "nominal": ("inertial", 2.0), "high": ("half", 4.0)}
"""How glitches pass a gate (simulation.py), and the length of wire to every pin in widths of a cell."""


@dataclass(frozen=True)
class Measured:
    """One block of one library: areas in m2, times in s, powers in W, energies in J by bound."""

    area: float
    leakage: float
    cells: int
    flip_flops: int
    form: str
    delay: dict[str, float]
    energy: dict[str, Energy]
    toggles: dict[str, float]


def cycles_of(name: str) -> int:
    """Stimuli of a block."""
    return LANE_CYCLES if name in LANES else CYCLES


def stimuli_of(netlist: Netlist, block: Block) -> np.ndarray:
    """Bits of a block's stimuli in the order of the netlist's inputs, (cycle, bit)."""
    columns = []
    for name, (direction, nets) in netlist.ports.items():
        if direction == "input":
            values = block.stimuli[name]
            columns += [[value >> k & 1 for value in values] for k in range(len(nets))]
    return np.array(columns, dtype=np.int8).T


def check(netlist: Netlist, block: Block, values: np.ndarray) -> None:
    """Raise `LibertyError` where the netlist's outputs are not the block's integers."""
    at = 0
    for name, (direction, nets) in netlist.ports.items():
        if direction != "output":
            continue
        found = values[:, at : at + len(nets)].astype(object) @ [1 << k for k in range(len(nets))]
        at += len(nets)
        wanted = [value % (1 << len(nets)) for value in block.answers[name]]
        got, want = (list(found[1:]), wanted[:-1]) if block.registered else (list(found), wanted)
        if got != want:
            first = next(t for t, (g, w) in enumerate(zip(got, want, strict=True)) if g != w)
            raise LibertyError(f"{netlist.name}.{name} is {got[first]} in cycle {first}, not {want[first]}")


def measure(netlist: Netlist, block: Block, library: Library, around: Surroundings, form: str) -> Measured:
    """Check a netlist against its integers, and measure it at every bound."""
    stimuli = stimuli_of(netlist, block)
    width = float(np.sqrt(netlist.area / max(1, len(netlist.cells)) / FILLED))
    delay, spent, toggles = {}, {}, {}
    for bound, (mode, lengths) in BOUNDS.items():
        wire = WIRE * lengths * width
        timing = analyse(netlist, around, netlist.loads(wire, around.load))
        activity = simulate(netlist, timing, stimuli, mode, around.arrival if netlist.flip_flops else 0.0)
        check(netlist, block, activity.values)
        delay[bound] = timing.period
        spent[bound] = energy(netlist, timing, activity, around, wire, library.voltage)
        toggles[bound] = activity.net.sum() / activity.cycles
    flops = sum(cell.state is not None for cell, _ in netlist.cells)
    return Measured(netlist.area, netlist.leakage, len(netlist.cells), flops, form, delay, spent, toggles)


def measure_library(
    library: Library, exclude: list[str], names: list[str], folder: Path
) -> dict[tuple[str, int], Measured]:
    """Every named block at every size."""
    cells = usable(library, exclude)
    flip_flop, _ = choose(library, cells)
    around = surroundings(library, flip_flop)
    blocks = {f"{name}_{bits}": make(name, bits, SEED, cycles_of(name)) for name in names for bits in sizes(name)}
    paths = synthesise({k: b.text for k, b in blocks.items()}, library, cells, around.load, folder)
    out = {}
    for name, block in blocks.items():
        found = {form: read(path, name, library) for form, path in paths[name].items()}
        form = min(found, key=lambda f: found[f].area)
        out[block.name, block.bits] = measure(found[form], block, library, around, form)
    return out


QUANTITIES = {
    "area": ("m2", "area of the cells, not of the wires between them"),
    "delay": ("s", "longest path: inputs to outputs, or shortest clock period of a block with registers"),
    "energy": ("J", "energy of one operation, switching and internal"),
    "clock_energy": ("J", "the part of the energy that clock pins take, whatever the data"),
    "leakage": ("W", "leakage, mean over the states of every cell"),
    "cells": ("1", "cells"),
    "flip_flops": ("1", "flip-flops"),
    "toggles": ("1", "transitions of nets per operation"),
    "booth": ("1", "1 where the smaller multiplier was Booth's, 0 where partial products in a carry-save tree"),
}


def dataset(measured: dict[str, dict[tuple[str, int], Measured]], known: dict, libraries: dict[str, Library]):
    """The measured numbers as a labelled dataset with their fitted laws."""
    names, bounds = list(measured), list(BOUNDS)
    blocks = [block for block in BLOCKS if any(block == b for found in measured.values() for b, _ in found)]
    plain = ("library", "block", "bits")
    shape = (len(names), len(blocks), len(BITS))
    data = {
        q: np.full((*shape, len(bounds)) if q in ("delay", "energy", "clock_energy", "toggles") else shape, np.nan)
        for q in QUANTITIES
    }
    for i, name in enumerate(names):
        for (block, bits), m in measured[name].items():
            at = (i, blocks.index(block), BITS.index(bits))
            data["area"][at], data["leakage"][at] = m.area, m.leakage
            data["cells"][at], data["flip_flops"][at] = m.cells, m.flip_flops
            data["booth"][at] = float(m.form == "booth")
            for b, bound in enumerate(bounds):
                data["delay"][at][b], data["toggles"][at][b] = m.delay[bound], m.toggles[bound]
                data["energy"][at][b], data["clock_energy"][at][b] = m.energy[bound].total, m.energy[bound].clock
    out = xr.Dataset(
        {
            q: ((*plain, "bound") if data[q].ndim == 4 else plain, data[q], {"units": units, "long_name": text})
            for q, (units, text) in QUANTITIES.items()
        },
        {
            "library": names,
            "block": blocks,
            "bits": ("bits", list(BITS), {"units": "bit", "long_name": "word length (of a lane: of the state)"}),
            "bound": bounds,
            "node": ("library", [known[n]["node"] for n in names], {"units": "m", "long_name": "technology node"}),
            "voltage": ("library", [libraries[n].voltage for n in names], {"units": "V", "long_name": "supply"}),
        },
    )
    return xr.merge([out, laws.fit(out)], join="exact", combine_attrs="drop_conflicts")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the Liberty files lie")
    parser.add_argument("library", nargs="*", help="names of the table (default: all)")
    parser.add_argument("--libraries", type=Path, default=HERE / "libraries.toml", help="table of libraries")
    parser.add_argument("--out", type=Path, default=HERE / "gates.nc", help="dataset to write")
    parser.add_argument("--blocks", nargs="*", choices=list(BLOCKS), default=list(BLOCKS), help="default: all")
    given = parser.parse_args()
    known = tomllib.loads(given.libraries.read_text(encoding="utf-8"))
    started = time.perf_counter()
    measured, read_in = {}, {}
    for name in given.library or known:
        begun = time.perf_counter()
        library = read_in[name] = Library([given.folder / file for file in known[name]["files"]])
        with tempfile.TemporaryDirectory() as folder:
            measured[name] = measure_library(library, known[name]["exclude"], given.blocks, Path(folder))
        print(f"{name}: {len(measured[name])} blocks in {time.perf_counter() - begun:.0f} s", flush=True)
    out = dataset(measured, known, read_in)
    configuration = {
        "libraries": {n: {**known[n], "name": read_in[n].name, "sha256": read_in[n].sha256} for n in measured},
        "cycles": {"blocks": CYCLES, "lanes": LANE_CYCLES},
        "stimuli": "blocks: uniform words; lanes: see blocks.py",
        "wire_farad_per_metre": WIRE,
        "bounds": {b: {"pulses": mode, "wire_cell_widths": length} for b, (mode, length) in BOUNDS.items()},
        "tools": {tool: version(tool) for tool in ("amaranth", "pyosys")},
    }
    out.attrs = {
        "title": "Building blocks of the digital unit, synthesised to standard cells",
        **results.provenance(configuration, SEED, time.perf_counter() - started),
        "tools": json.dumps(configuration["tools"]),
    }
    results.save(out, given.out)
    print(given.out)


if __name__ == "__main__":
    main()
