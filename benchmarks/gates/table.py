"""A component table of the gates: `periphery-32nm` with the multiplier, adder and register of the dataset.

    python -m benchmarks.gates.table [DATASET] [--library NAME ...] [--out TABLE.toml]

writes devices/components/periphery-32nm-gates.toml and its tables in docs/gates.md; with a dataset,
libraries or a file of your own, a table named after the file. Everything but these three components is that of
periphery-32nm.

The geometric mean of libraries, each brought to 32 nm and 0.9 V: energies and areas after Stillmaker and Baas,
delays in proportion to the feature size. Reference widths are those from which the law of a component meets the
nominal energies of all synthesised words best: the n with the least r.m.s. over words m of
ln(E(m) / s(m)) - ln(E(n) / s(n)), with s what the law is linear in.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from imc_ssm import results
from imc_ssm.devices import device_path

from . import laws
from .compare import HERE, NAMES, REFERENCES, ROOT, area_factor, energy_factor, number

__all__ = ["PARTS", "SHIPPED", "Brought", "Law", "Part", "component_table", "delay_factor", "main", "mean"]

NODE, SUPPLY = 32e-9, 0.9
"""m and V of the table."""
TO = f"to {NODE * 1e9:g} nm"
FILLED = 0.7
"""Share of a placed block's area that cells take, as for the wires of the energies (`__main__.FILLED`)."""
SHIPPED = ("sky130", "ihp130")
"""Libraries of the shipped table: real cells, both of the node that is nearest above."""
BASE = "periphery-32nm"
PAGE = ROOT / "docs" / "gates.md"
TABLE = ROOT / "devices" / "components" / f"{BASE}-gates.toml"
HEADER = f"""# {BASE} with multiplier, adder and register from gates, written by `python -m benchmarks.gates.table`
# (docs/gates.md) from benchmarks/gates/gates.nc and {BASE}.toml: change those, not this file."""
SCALED = "Stillmaker and Baas 2017, doi:10.1016/j.vlsi.2017.02.002"
WIRES = "Ho, Mai and Horowitz 2001, doi:10.1109/5.920580"


@dataclass(frozen=True)
class Part:
    """A component of the table, and the blocks that its law has to meet; the first has the reference width."""

    block: str
    also: tuple[str, ...]
    description: str
    """With the reference width as {n}."""
    operands: str
    """What was simulated."""
    path: str
    """What the delay is."""

    @property
    def blocks(self) -> tuple[str, ...]:
        """All blocks."""
        return (self.block, *self.also)


PARTS = {
    "multiply": Part(
        "multiply",
        ("multiply_8", "multiply_24"),
        "{n} x {n}-bit integer multiplication from gates; energy and area grow with the product of both widths",
        "pairs of uniform random words",
        "longest path",
    ),
    "add": Part(
        "add",
        (),
        "{n}-bit integer addition from gates; energy and area grow with the width",
        "pairs of uniform random words",
        "longest path",
    ),
    "flip_flop": Part(
        "register",
        (),
        "A register of {n} bits from gates, one clocked access; energy and area grow with the width",
        "uniform random words, clock pins included,",
        "shortest clock period, from register to register,",
    ),
}


def delay_factor(node: float, voltage: float, kind: str) -> float:
    """What a delay at a node (m) and supply (V) is multiplied by at 32 nm and 0.9 V, after Stillmaker and Baas.

    `kind` of transistors at 32 nm: "high_performance" or "low_power". Linear between nodes.
    """
    nodes = np.array(REFERENCES["scaling"]["nodes"])
    order, rows = np.argsort(nodes), np.array(REFERENCES["delay"][kind], float)

    def of(at: float, supply: float) -> float:
        return float(np.polyval([np.interp(at, nodes[order], row[order]) for row in rows.T], supply))

    return of(NODE, SUPPLY) / of(node, voltage)


@dataclass(frozen=True)
class Law:
    """How the words of a component lie to its law, from a reference width."""

    bits: int
    """Reference width."""
    spread: float
    """r.m.s. of ln(value / law) over all words."""
    farthest: tuple[str, int]
    """Block and bits of the word that is farthest off."""
    off: float
    """Its value over the law's."""
    words: int

    @classmethod
    def of(cls, values: xr.DataArray, part: Part, bits: int | None = None) -> Law:
        """`values` over block and bits; `bits` None: the width with the least spread."""
        logs = {}
        for block in part.blocks:
            here = values.sel(block=block).dropna("bits")
            for n, value in zip(here["bits"].values, here.values, strict=True):
                logs[block, int(n)] = float(np.log(value / laws.SIZES[block][1](float(n))))
        every = np.array(list(logs.values()))
        spread = {n: float(np.sqrt(np.mean((every - at) ** 2))) for (b, n), at in logs.items() if b == part.block}
        bits = min(spread, key=lambda n: spread[n]) if bits is None else bits
        off = {word: at - logs[part.block, bits] for word, at in logs.items()}
        farthest = max(off, key=lambda word: abs(off[word]))
        return cls(bits, spread[bits], farthest, float(np.exp(off[farthest])), len(every))


def mean(values: xr.DataArray) -> xr.DataArray:
    """Geometric mean over libraries."""
    out: xr.DataArray = np.exp(np.log(values).mean("library"))
    return out


class Brought:
    """Libraries at 32 nm and 0.9 V, and what each was multiplied by."""

    def __init__(self, ds: xr.Dataset) -> None:
        self.ds = ds
        self.names = [str(library) for library in ds["library"].values]
        self.to = {
            "energy": self._over(lambda node, v: energy_factor(node, v, (NODE, SUPPLY))),
            "area": self._over(lambda node, v: area_factor(node, NODE)),
            "delay": self._over(lambda node, v: NODE / node),
            "high_performance": self._over(lambda node, v: delay_factor(node, v, "high_performance")),
            "low_power": self._over(lambda node, v: delay_factor(node, v, "low_power")),
        }
        self.energy = ds["energy"] * self.to["energy"]
        """J, with bounds."""
        self.area = ds["area"] * self.to["area"] / FILLED
        """m2, placed."""
        self.delay = ds["delay"].sel(bound="nominal", drop=True) * self.to["delay"]
        """s, with nominal wires."""

    def _over(self, factor: Callable[[float, float], float]) -> xr.DataArray:
        pairs = zip(self.ds["node"].values, self.ds["voltage"].values, strict=True)
        factors = [factor(float(node), float(supply)) for node, supply in pairs]
        return xr.DataArray(factors, dims="library", coords={"library": self.ds["library"]})


def _each(values: xr.DataArray, unit: float = 1.0) -> str:
    """ "a and b", three digits each; once where they are the same."""
    return " and ".join(dict.fromkeys(_three(v, unit) for v in values.values))


def _three(value: xr.DataArray | float, unit: float = 1.0) -> str:
    return number(float(value) * unit)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _energy(part: Part, law: Law, used: Brought, left: Brought, cycles: int) -> str:
    """What stands behind an energy."""
    at = {"block": part.block, "bits": law.bits}
    raw = used.ds["energy"].sel(bound="nominal", **at)
    low, high = (used.energy.sel(bound=bound, **at) for bound in ("low", "high"))
    sizes = ", ".join(laws.SIZES[b][0].replace(" ", " x ") for b in part.blocks)
    span = f"{int(used.ds['bits'].min())} to {int(used.ds['bits'].max())} bits"
    block, bits = law.farthest
    others = left.energy.sel(bound="nominal", **at)
    alike = [f"; {one} brought here alike {_three(others.sel(library=one), 1e12)} pJ" for one in left.names]
    return (
        f"mean over {cycles} {part.operands} of {law.bits} bits, switching and internal energy with glitches and "
        f"estimated wires: {_each(raw, 1e12)} pJ; x {_each(used.to['energy'])} {TO} and {SUPPLY:g} V after "
        f"{SCALED}{_by(used)}; interval {_three(low.min(), 1e12)} pJ (lowest library, no glitches, no wires) to "
        f"{_three(high.max(), 1e12)} pJ (highest, pulses of half a gate's delay, twice the wires)"
        f"{''.join(alike)}; law off by {_percent(law.spread)}, r.m.s. of logarithms, over {law.words} words "
        f"({sizes}, n of {span}), most in {NAMES[block]}, n = {bits}: {_three(law.off)} of the law"
    )


def _latency(part: Part, law: Law, used: Brought) -> str:
    """What stands behind a latency."""
    at = {"block": part.block, "bits": law.bits}
    raw = used.ds["delay"].sel(bound="nominal", **at)
    fast, slow = used.to["high_performance"], used.to["low_power"]
    least = np.minimum(used.delay.sel(**at), raw * fast).min()
    widest = mean(used.delay.sel(block=part.block)).dropna("bits").isel(bits=-1)
    return (
        f"{part.path} at {law.bits} bits: {_each(raw, 1e9)} ns; x {_each(used.to['delay'])} {TO}, as the feature "
        f"size ({WIRES}){_by(used)}; interval {_three(least, 1e9)} ns (fastest library) to "
        f"{_three((raw * slow).max(), 1e9)} ns (slowest, low-power transistors); {SCALED}, has x {_each(fast)} "
        f"for high-performance and x {_each(slow)} for low-power transistors at {SUPPLY:g} V; "
        f"{int(widest['bits'])} bits take {_three(widest, 1e9)} ns"
    )


def _area(part: Part, law: Law, used: Brought) -> str:
    """What stands behind an area."""
    at = {"block": part.block, "bits": law.bits}
    placed = used.area.sel(**at)
    off = Law.of(mean(used.area), part, law.bits).spread
    return (
        f"cells of {law.bits} bits, {_each(used.ds['area'].sel(**at), 1e12)} um2; x {_each(used.to['area'])} {TO} "
        f"after {SCALED}; / {FILLED:g}, the share of a placed block that cells are taken to fill{_by(used)}; "
        f"interval {_three(placed.min() * FILLED, 1e12)} um2 (smallest library, cells alone) to "
        f"{_three(placed.max(), 1e12)} um2 (largest, placed); law off by {_percent(off)}"
    )


def _by(used: Brought) -> str:
    return "; geometric mean" if used.ds.sizes["library"] > 1 else ""


def component_table(ds: xr.Dataset, libraries: tuple[str, ...] = SHIPPED, name: str = TABLE.stem) -> str:
    """The table as TOML, from these libraries of a dataset of `benchmarks.gates`."""
    configuration = json.loads(ds.attrs["configuration"])
    rest = [library for library in ds["library"].values if library not in libraries]
    used, left = Brought(ds.sel(library=list(libraries))), Brought(ds.sel(library=rest))
    voltages = {
        str(library): float(v) for library, v in zip(ds["library"].values, ds["voltage"].values, strict=True)
    }
    cells = [f"{configuration['libraries'][one]['description']} ({voltages[one]:g} V)" for one in libraries]
    tools = configuration["tools"]
    made = f"Synthesised with Yosys {tools['pyosys']} and Amaranth {tools['amaranth']} on {' and '.join(cells)}: "
    text = device_path("components", BASE).read_text(encoding="utf-8")
    text = HEADER + text[text.index("\n\n") :]
    text = re.sub(r'(?m)^name = ".*"$', f'name = "{name}"', text, count=1)
    words = "Converters, memories and bus at 32 nm, digital unit from gates"
    text = re.sub(r'(?m)^description = ".*"$', f'description = "{words}"', text, count=1)
    for component, part in PARTS.items():
        nominal = mean(used.energy.sel(bound="nominal"))
        law = Law.of(nominal, part)
        at = {"block": part.block, "bits": law.bits}
        cycles = configuration["cycles"]["blocks"] - 1
        numbers = (
            ("energy", nominal.sel(**at), "J", _energy(part, law, used, left, cycles)),
            ("latency", mean(used.delay.sel(**at)), "s", _latency(part, law, used)),
            ("area", mean(used.area.sel(**at)), "m2", _area(part, law, used)),
        )
        rows = [f"[{component}]", f'description = "{part.description.format(n=law.bits)}"', f"bits = {law.bits}"]
        rows += [
            f'{quantity} = {{ value = {float(value):.4g}, unit = "{unit}", source = "{made}{source}" }}'
            for quantity, value, unit, source in numbers
        ]
        text, found = re.subn(rf"(?ms)^\[{component}\]\n.*?(?=\n\n)", lambda _, rows=rows: "\n".join(rows), text)
        assert found == 1, component
    return text


def main() -> None:
    """The command."""
    from .priced import TABLES

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", nargs="?", type=Path, help="of `python -m benchmarks.gates`; default: gates.nc")
    parser.add_argument("--library", nargs="+", help="to take the mean of; default: all in a dataset of your own")
    parser.add_argument("--out", type=Path, help="table to write; default: beside a dataset of your own")
    given = parser.parse_args()
    ds = results.load(given.dataset or HERE / "gates.nc")
    libraries = tuple(given.library or (SHIPPED if given.dataset is None else map(str, ds["library"].values)))
    for name in libraries:
        if name not in ds["library"].values:
            parser.error(f"no library {name!r} in the dataset; it has {', '.join(ds['library'].values)}")
    if given.library and given.dataset is None and given.out is None:
        parser.error("other libraries than the shipped table's go to a file of your own: --out TABLE.toml")
    out = given.out or (TABLE if given.dataset is None else given.dataset.with_suffix(".toml"))
    out.write_text(component_table(ds, libraries, out.stem), encoding="utf-8")
    print(out, end="\n\n")
    for table in TABLES:
        rows = table(ds, out, libraries)
        print("\n".join(rows), end="\n\n")
        if given.dataset is None and out == TABLE:
            page = PAGE.read_text(encoding="utf-8")
            start = page.index(rows[0])
            text = page[:start] + "\n".join(rows) + page[page.index("\n\n", start) :]
            PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
