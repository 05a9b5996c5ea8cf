"""Synthesis with Yosys: from RTLIL to netlists of library cells.

`synth -noabc`, flip-flops from the library, then one `abc -liberty` with buffering and sizing. Both kinds of
multiplier that Yosys has (array of partial products with a carry-save tree, Booth) are built; the smaller stays.
Of designs with many multipliers, which take long, only the latter is.
"""

from __future__ import annotations

import fnmatch
import subprocess
import sys
from pathlib import Path

from .liberty import Cell, LibertyError, Library, trimmed

__all__ = ["FORMS", "SCRIPT", "choose", "synthesise", "usable"]

FORMS = {"tree": "", "booth": "-booth"}
SCRIPT = "+strash;dc2;&get,-n;&dch,-f;&nf;&put;buffer;upsize;dnsize;stime,-p"
"""Yosys's own script for a Liberty file and constraints, without its search for equivalent nodes (fraig, scorr):
in sums of products that search takes minutes and finds nothing."""
_RUN = "import sys; from pyosys import libyosys as y; y.run_pass('script ' + sys.argv[1], y.Design())"


def usable(library: Library, exclude: list[str]) -> list[str]:
    """Cells for synthesis: one output of a function of inputs, or a plain flip-flop; none that a pattern
    excludes."""
    out = []
    for name in library:
        text = library.text(name)
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude):
            continue
        if any(word in text for word in ("three_state", "latch", "clock_gating", "test_cell", "statetable")):
            continue
        if "dont_use : true" in text or 'dont_use : "true"' in text:
            continue
        cell = library[name]
        if not cell.inputs or not cell.outputs or len(cell.inputs) > 6:
            continue
        if (len(cell.outputs) == 1) if cell.state is None else plain(cell, library):
            out.append(name)
    return out


def forms_of(text: str) -> tuple[str, ...]:
    """The kinds of multiplier to build a design with."""
    multipliers = text.count("cell $mul")
    return ("tree",) if not multipliers else ("tree", "booth") if multipliers <= 2 else ("booth",)


def plain(cell: Cell, library: Library) -> bool:
    """A flip-flop of the rising edge whose state follows one input; a reset is allowed, it is tied off."""
    if cell.state is None or "!" in clocked_on(cell, library) or "'" in clocked_on(cell, library):
        return False
    return cell.next.strip("()!' ") in cell.inputs and len(cell.inputs) <= 2


def clocked_on(cell: Cell, library: Library) -> str:
    """The clock's expression in the library."""
    text = library.text(cell.name)
    begin = text.index("clocked_on")
    return text[begin : text.index(";", begin)].split(":")[1]


def choose(library: Library, cells: list[str]) -> tuple[str, str]:
    """The flip-flop and the inverter a block stands among: the smallest flip-flop with the fewest inputs, the
    second smallest inverter."""
    flops = sorted((len(library[c].inputs), library[c].area, c) for c in cells if library[c].state is not None)
    inverters = sorted(
        (library[c].area, library[c].leakage, c)
        for c in cells
        if library[c].state is None
        and len(library[c].inputs) == 1
        and library[c].tables[library[c].outputs[0]] == 1
    )
    if not flops or not inverters:
        raise LibertyError(
            f"{library.name} has no plain flip-flop of the rising edge, or no inverter; exclude less"
        )
    return flops[0][2], inverters[min(1, len(inverters) - 1)][2]


def synthesise(
    texts: dict[str, str], library: Library, cells: list[str], load: float, folder: Path
) -> dict[str, dict[str, Path]]:
    """Netlists (JSON) of designs given as RTLIL: name -> form -> path. `load` (F) is at every output.

    Raises `LibertyError` with the end of the log where Yosys fails.
    """
    _, driver = choose(library, cells)
    liberty, constraint = folder / "cells.lib", folder / "constraint"
    trimmed(library, cells, liberty)
    constraint.write_text(f"set_driving_cell {driver}\nset_load {load / 1e-15:.4f}\n", encoding="ascii")
    lines: list[str] = []
    out: dict[str, dict[str, Path]] = {}
    for name, text in texts.items():
        source = folder / f"{name}.il"
        source.write_text(text, encoding="utf-8")
        for form, option in FORMS.items():
            if form not in forms_of(text):
                continue
            result = folder / f"{name}.{form}.json"
            lines += [
                f"read_rtlil {source}",
                f"synth -noabc -flatten {option} -top {name}",
                "setattr -unset init w:*",
                "opt",
                f"dfflibmap -liberty {liberty}",
                f'abc -script "{SCRIPT}" -liberty {liberty} -constr {constraint}',
                "clean -purge",
                f"write_json {result}",
                "design -reset",
            ]
            out.setdefault(name, {})[form] = result
    script, log = folder / "run.ys", folder / "run.log"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with log.open("w", encoding="utf-8") as to:
        done = subprocess.run([sys.executable, "-c", _RUN, str(script)], stdout=to, stderr=to, check=False)
    missing = [str(p) for forms in out.values() for p in forms.values() if not p.exists()]
    if done.returncode or missing:
        end = log.read_text(encoding="utf-8", errors="replace")[-400:]
        raise LibertyError(f"Yosys stopped ({done.returncode}; {len(missing)} netlists missing): {end}")
    return out
