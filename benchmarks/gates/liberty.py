"""Liberty files: the cells of one or several standard-cell libraries, in SI units.

Only what energy, delay and area of a netlist need is read: areas, pin capacitances, boolean functions, the NLDM
tables of delay, transition and setup, internal energies and leakage. A cell is parsed when it is first asked for.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from bisect import bisect
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

__all__ = ["Arc", "Cell", "Group", "LibertyError", "Library", "Pin", "Power", "Table", "parse", "truth_table"]

_TOKEN = re.compile(r'"[^"]*"|[(){};:,]|[^\s"(){};:,]+')
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_CELL = re.compile(r"^\s*cell\s*\(\s*\"?([^\")\s]+)\"?\s*\)\s*\{", re.MULTILINE)
_BRACE = re.compile(r"[{}]")
_PREFIX = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3}


class LibertyError(Exception):
    """A library that cannot be read, or lacks what was asked for."""


@dataclass
class Group:
    """A group of Liberty, `name (arguments) { ... }`: its attributes (text) and the groups inside it."""

    name: str
    arguments: list[str]
    attributes: dict[str, list[str]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def text(self, name: str, default: str = "") -> str:
        """An attribute's first value."""
        return self.attributes.get(name, [default])[0]

    def number(self, name: str, default: float = 0.0) -> float:
        """An attribute as a number."""
        return float(self.text(name) or default)

    def all(self, name: str) -> list[Group]:
        """The groups of a name."""
        return [group for group in self.groups if group.name == name]


def parse(text: str) -> Group:
    """The one group that `text` is. Raises `LibertyError` where braces do not close."""
    tokens = _TOKEN.findall(_COMMENT.sub(" ", text).replace("\\\n", " "))
    position = 0

    def group(name: str, arguments: list[str]) -> Group:
        nonlocal position
        found = Group(name, arguments)
        while position < len(tokens):
            token = tokens[position]
            position += 1
            if token == "}":
                return found
            if token == ";":
                continue
            following = tokens[position] if position < len(tokens) else ""
            if following == ":":
                position += 1
                words = []
                while tokens[position] not in (";", "}"):
                    words.append(tokens[position].strip('"'))
                    position += 1
                    # an attribute without its semicolon ends where the next statement begins
                    if position + 1 < len(tokens) and tokens[position + 1] in (":", "("):
                        break
                found.attributes[token] = [" ".join(words)]
            elif following == "(":
                end = tokens.index(")", position)
                values = [word.strip('"') for word in tokens[position + 1 : end] if word != ","]
                position = end + 1
                if position < len(tokens) and tokens[position] == "{":
                    position += 1
                    found.groups.append(group(token, values))
                else:
                    found.attributes.setdefault(token, []).extend(values)
        raise LibertyError(f"group {name!r} is not closed; give a whole Liberty file")

    if len(tokens) < 4 or tokens[1] != "(":
        raise LibertyError("not Liberty text; it begins with a group such as library (name) { ... }")
    end = tokens.index(")")
    arguments = [word.strip('"') for word in tokens[2:end] if word != ","]
    position = end + 2
    return group(tokens[0], arguments)


def truth_table(function: str, pins: tuple[str, ...]) -> int:
    """Bit s of the result is the function's value where bit k of s is the value of `pins[k]`.

    Liberty's operators: `!` and a trailing `'` (not), `*`, `&` or a space (and), `^` (exclusive or), `+` or `|`
    (or). Raises `LibertyError` for anything else.
    """
    tokens = re.findall(r"[A-Za-z_][\w\[\]]*|[01!'*&+|^()]", function)
    if "".join(tokens) != re.sub(r"\s", "", function):
        raise LibertyError(f"function {function!r} has an unknown operator; known: ! ' * & ^ + | ( )")
    every = (1 << (1 << len(pins))) - 1
    of = {"0": 0, "1": every}
    for k, pin in enumerate(pins):
        of[pin] = sum(1 << s for s in range(1 << len(pins)) if s >> k & 1)
    at = 0

    def peek() -> str:
        return tokens[at] if at < len(tokens) else ""

    def factor() -> int:
        nonlocal at
        token = peek()
        at += 1
        if token == "!":
            return every ^ factor()
        if token == "(":
            value = either()
            at += 1
        elif token in of:
            value = of[token]
        else:
            raise LibertyError(f"function {function!r}: {token!r} is no pin of the cell ({', '.join(pins)})")
        while peek() == "'":
            at += 1
            value ^= every
        return value

    def exclusive() -> int:
        nonlocal at
        value = factor()
        while peek() == "^":
            at += 1
            value ^= factor()
        return value

    def both() -> int:
        nonlocal at
        value = exclusive()
        while peek() and peek() not in "+|)":
            if peek() in "*&":
                at += 1
            value &= exclusive()
        return value

    def either() -> int:
        nonlocal at
        value = both()
        while peek() and peek() in "+|":
            at += 1
            value |= both()
        return value

    return either()


@dataclass(frozen=True)
class Table:
    """A table over (first index, second index), linear between its points and beyond its ends."""

    first: tuple[float, ...]
    second: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]

    def __call__(self, first: float, second: float = 0.0) -> float:
        """The value at two indices."""
        i, u = _interval(self.first, first)
        j, v = _interval(self.second, second)
        low = _between(self.values[i], j, v)
        return low if u is None else low + (_between(self.values[i + 1], j, v) - low) * u


def _interval(index: tuple[float, ...], at: float) -> tuple[int, float | None]:
    """The interval that holds, or is nearest to, a value, and where in it the value lies; None for a single
    point."""
    if len(index) == 1:
        return 0, None
    i = min(max(bisect(index, at) - 1, 0), len(index) - 2)
    return i, (at - index[i]) / (index[i + 1] - index[i])


def _between(row: tuple[float, ...], j: int, v: float | None) -> float:
    return row[j] if v is None else row[j] + (row[j + 1] - row[j]) * v


@dataclass(frozen=True)
class Arc:
    """From `source` to `target`: delay and transition (s) over (input transition, load), or setup, both edges."""

    source: str
    target: str
    sense: str
    kind: str
    rise: Table | None
    fall: Table | None
    rise_transition: Table | None
    fall_transition: Table | None


@dataclass(frozen=True)
class Power:
    """Internal energy (J) of one edge of `pin`, over (input transition, load); `source` is empty for an input pin.

    The energy of a library that states it per rail (VDD and VSS) is the mean of both: what leaves one rail enters
    the other, so their sum would count it twice.
    """

    pin: str
    source: str
    when: str
    weight: float
    rise: Table | None
    fall: Table | None


@dataclass(frozen=True)
class Pin:
    """A pin: direction, capacitance (F), boolean function (empty for an input), whether it is a clock."""

    name: str
    direction: str
    capacitance: float
    function: str
    clock: bool


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell in SI units; `state` holds the names of a flip-flop's state and its complement, `next` its input."""

    name: str
    area: float
    leakage: float
    pins: dict[str, Pin]
    arcs: tuple[Arc, ...]
    powers: tuple[Power, ...]
    state: tuple[str, str] | None
    next: str
    clock: str

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Input pins in the file's order, without the clock."""
        return tuple(p.name for p in self.pins.values() if p.direction == "input" and p.name != self.clock)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Output pins that have a function."""
        return tuple(p.name for p in self.pins.values() if p.direction == "output" and p.function)

    @cached_property
    def tables(self) -> dict[str, int]:
        """Truth table of every output over `inputs`; a flip-flop's is of what follows the clock's edge."""
        if self.state is None:
            return {output: truth_table(self.pins[output].function, self.inputs) for output in self.outputs}
        after = truth_table(self.next, self.inputs)
        every = (1 << (1 << len(self.inputs))) - 1
        return {o: after if self.pins[o].function == self.state[0] else after ^ every for o in self.outputs}


class Library:
    """Liberty files read as one library: `library[name]` is a `Cell`.

    All files need the same units and supply. Raises `LibertyError` for a file that is none, or units that differ.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = list(files)
        self._texts: dict[str, str] = {}
        self._cells: dict[str, Cell] = {}
        self.sha256: dict[str, str] = {}
        heads = []
        for file in files:
            data = file.read_bytes()
            self.sha256[file.name] = hashlib.sha256(data).hexdigest()
            text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8", "replace")
            found = list(_cells_of(_COMMENT.sub(" ", text)))
            if not found:
                raise LibertyError(f"{file} holds no cell; give a Liberty file (.lib or .lib.gz)")
            self._texts.update(found)
            heads.append(parse(text[: next(iter(_CELL.finditer(text))).start()] + "\n}"))
        self.head = heads[0]
        units = {(*_units(head), head.number("nom_voltage") or _supply(head)) for head in heads}
        if len(units) != 1:
            raise LibertyError(f"{', '.join(f.name for f in files)}: units or supplies differ ({sorted(units)})")
        self.time, self.capacitance, self.power, self.voltage = units.pop()
        self.name = " + ".join(head.arguments[0] for head in heads)

    def __contains__(self, name: str) -> bool:
        return name in self._texts

    def __iter__(self):
        return iter(self._texts)

    def __getitem__(self, name: str) -> Cell:
        if name not in self._texts:
            raise LibertyError(f"no cell {name!r} in {self.name}")
        if name not in self._cells:
            self._cells[name] = self._cell(parse(self._texts[name]))
        return self._cells[name]

    @cached_property
    def templates(self) -> dict[str, Group]:
        """Table templates by name."""
        return {g.arguments[0]: g for g in self.head.groups if g.name.endswith("_template")}

    def text(self, name: str) -> str:
        """A cell's own Liberty text."""
        return self._texts[name]

    def _table(self, group: Group | None, unit: float, swapped: bool = False) -> Table | None:
        """A table in SI units; `unit` is that of its values. Its indices are brought to (transition, load)."""
        if group is None or "values" not in group.attributes:
            return None
        template = self.templates.get(group.arguments[0] if group.arguments else "", Group("", []))
        values = np.array([float(v) for row in group.attributes["values"] for v in row.replace(",", " ").split()])
        axes = []
        for k in (1, 2):
            listed = group.attributes.get(f"index_{k}") or template.attributes.get(f"index_{k}") or []
            index = " ".join(listed).replace(",", " ")
            axes.append(np.array([float(v) for v in index.split()]) if index and len(values) > 1 else np.zeros(1))
        loads = [template.text(f"variable_{k}").startswith("total_output") for k in (1, 2)]
        axes = [axis * (self.capacitance if load else self.time) for axis, load in zip(axes, loads, strict=True)]
        if len(values) != len(axes[0]) * len(axes[1]):
            raise LibertyError(
                f"a table {group.arguments} has {len(values)} values, its indices ask for another number"
            )
        square = values.reshape(len(axes[0]), len(axes[1])) * unit
        if loads[0]:
            axes, square = axes[::-1], square.T
        return Table(tuple(axes[0].tolist()), tuple(axes[1].tolist()), tuple(map(tuple, square.tolist())))

    def _cell(self, group: Group) -> Cell:
        pins: dict[str, Pin] = {}
        arcs: list[Arc] = []
        powers: list[Power] = []
        energy = self.capacitance  # J: capacitance times volt squared
        for pin in group.all("pin"):
            name, direction = pin.arguments[0], pin.text("direction")
            pins[name] = Pin(
                name,
                direction,
                pin.number("capacitance") * self.capacitance,
                pin.text("function"),
                pin.text("clock") == "true",
            )
            for timing in pin.all("timing"):
                tables = {g.name: g for g in timing.groups}
                setup = timing.text("timing_type").startswith("setup")
                rise = self._table(tables.get("rise_constraint" if setup else "cell_rise"), self.time)
                fall = self._table(tables.get("fall_constraint" if setup else "cell_fall"), self.time)
                if rise is None and fall is None:
                    continue
                slews = [self._table(tables.get(f"{edge}_transition"), self.time) for edge in ("rise", "fall")]
                kind = timing.text("timing_type") or "combinational"
                sense = timing.text("timing_sense")
                arcs += [
                    Arc(source, name, sense, kind, rise, fall, *slews)
                    for source in timing.text("related_pin").split()
                ]
            stated = pin.all("internal_power")
            rails = max(1, len({g.text("related_pg_pin") for g in stated}))
            for power in stated:
                tables = {g.name: g for g in power.groups}
                both = tables.get("power")
                rise = self._table(tables.get("rise_power", both), energy)
                fall = self._table(tables.get("fall_power", both), energy)
                powers += [
                    Power(name, source, power.text("when"), 1 / rails, rise, fall)
                    for source in power.text("related_pin").split() or [""]
                ]
        states = group.all("ff")
        state, following, clock = None, "", ""
        if states:
            state = (states[0].arguments[0], states[0].arguments[1])
            following = states[0].text("next_state")
            clock = states[0].text("clocked_on").strip("()! ")
        return Cell(
            group.arguments[0],
            group.number("area") * 1e-12,
            self._leakage(group) * self.power,
            pins,
            tuple(arcs),
            tuple(powers),
            state,
            following,
            clock,
        )

    @staticmethod
    def _leakage(group: Group) -> float:
        """Leakage without regard to the state: the cell's own value, else the mean of those of its states."""
        if "cell_leakage_power" in group.attributes:
            return group.number("cell_leakage_power")
        rows = group.all("leakage_power")
        supply = [row for row in rows if not row.text("related_pg_pin").upper().startswith(("VSS", "VGND", "GND"))]
        plain = [row.number("value") for row in supply if not row.text("when")]
        values = plain or [row.number("value") for row in supply]
        return float(np.mean(values)) if values else 0.0


def _supply(head: Group) -> float:
    return next((g.number("voltage") for g in head.all("operating_conditions")), 0.0)


def _units(head: Group) -> list[float]:
    """Seconds, farads and watts of a library's units."""

    def scale(text: str) -> float:
        value, unit = re.fullmatch(r"([\d.]+)\s*([a-zA-Z]+)", text).groups()
        return float(value) * (_PREFIX[unit[0].lower()] if len(unit) > 1 else 1.0)

    value, unit = head.attributes["capacitive_load_unit"][:2]
    return [
        scale(head.text("time_unit")),
        float(value) * _PREFIX[unit.lower()[0]],
        scale(head.text("leakage_power_unit")),
    ]


def _cells_of(text: str):
    """(name, text) of every cell of a library."""
    for match in _CELL.finditer(text):
        depth = 0
        for brace in _BRACE.finditer(text, match.end() - 1):
            depth += 1 if brace.group() == "{" else -1
            if not depth:
                yield match.group(1), text[match.start() : brace.end()].strip()
                break


def trimmed(library: Library, keep: list[str], path: Path) -> None:
    """Write one Liberty file with the cells `keep`, and nothing that synthesis does not read, to `path`.

    ABC in WebAssembly cannot merge several files, and reading 400 cells it must not use costs more than mapping.
    """
    head = library.files[0].read_bytes()
    text = (gzip.decompress(head) if library.files[0].suffix == ".gz" else head).decode("utf-8", "replace")
    text = _COMMENT.sub(" ", text)
    begin = text[: next(iter(_CELL.finditer(text))).start()]
    templates = {}
    for file in library.files[1:]:
        data = file.read_bytes()
        other = _COMMENT.sub(
            " ", (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8", "replace")
        )
        for match in re.finditer(
            r"^\s*lu_table_template\s*\(([^)]*)\)\s*\{.*?\}", other, re.MULTILINE | re.DOTALL
        ):
            if not re.search(r"lu_table_template\s*\(\s*" + re.escape(match.group(1).strip()) + r"\s*\)", begin):
                templates[match.group(1)] = match.group()
    with path.open("w", encoding="utf-8") as out:
        out.write(begin + "\n".join(templates.values()) + "\n")
        for name in keep:
            out.write(library.text(name) + "\n")
        out.write("}\n")
