"""Gates against published digital logic, brought to one node after Stillmaker and Baas: ratios and figure.

    python -m benchmarks.gates.compare [DATASET]

prints the tables of docs/gates.md and draws docs/gates.png; of a dataset of your own, a figure beside it.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from imc_ssm import results
from imc_ssm.devices import load_components
from imc_ssm.plots import save_figure, styled

__all__ = [
    "area_factor",
    "draw",
    "energy_factor",
    "lanes_table",
    "laws_table",
    "nodes_table",
    "number",
    "numbers_table",
    "ratios_table",
]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REFERENCES: dict[str, Any] = tomllib.loads((HERE / "references.toml").read_text(encoding="utf-8"))
COMMON = (45e-9, 0.9)
"""Node (m) and supply (V) that everything is brought to in the figure."""
NAMES = {
    "add": "addition",
    "multiply": "multiplication",
    "multiply_8": "multiplication, n x 8",
    "multiply_24": "multiplication, n x 24",
    "register": "register",
    "shift_3": "right shift, 3 stages",
    "shift_5": "right shift, 5 stages",
    "multiply_accumulate": "multiply-accumulate",
    "lane_folded": "lane, multipliers folded",
    "lane_multiplied": "lane, multipliers apart",
    "lane_shifts": "lane, power-of-two scales",
}
_LIBRARIES = {"asap7": "ASAP7, 7 nm", "sky130": "SKY130, 130 nm", "ihp130": "SG13G2, 130 nm"}
_COLOURS = {"asap7": "#4477AA", "sky130": "#EE6677", "ihp130": "#228833"}


def _colour(library: Any) -> str:
    return _COLOURS.get(str(library), "#CCBB44")


def _at(node: float, name: str) -> float:
    """A row of the scaling table at a node, linear between its nodes."""
    table = REFERENCES["scaling"]
    order = np.argsort(table["nodes"])
    return float(np.interp(node, np.array(table["nodes"])[order], np.array(table[name])[order]))


def _edge(node: float, voltage: float) -> float:
    return _at(node, "a") * voltage**2 + _at(node, "b") * voltage + _at(node, "c")


def energy_factor(node: float, voltage: float, to: tuple[float, float] = COMMON) -> float:
    """What an energy at a node (m) and supply (V) is multiplied by to stand at another."""
    return _edge(*to) / _edge(node, voltage)


def area_factor(node: float, to: float = COMMON[0]) -> float:
    """What an area at a node (m) is multiplied by to stand at another."""
    return _at(to, "area") / _at(node, "area")


def published(block: str, quantity: str, to: tuple[float, float] = COMMON) -> dict[str, list[tuple[float, float]]]:
    """Horowitz's and Aladdin's figures of a block at one word length: source -> (bits, value at `to`).

    Aladdin's is the one for a clock of 1 ns, which the component table takes.
    """
    out = {}
    for source in ("horowitz", "aladdin"):
        table = REFERENCES[source]
        stated = table.get(block, {}).get(quantity)
        if stated is None:
            continue
        factor = (
            energy_factor(table["node"], table["voltage"], to)
            if quantity == "energy"
            else area_factor(table["node"], to[0])
        )
        if isinstance(stated, dict):
            out[source] = [(float(bits), value * factor) for bits, value in stated.items()]
        else:
            value = stated[table[block]["periods"].index(1e-9)]
            out[source] = [(1.0 if block == "register" else float(table["bits"]), value * factor)]
    return out


def scaled(ds: xr.Dataset, quantity: str, to: tuple[float, float] = COMMON) -> xr.DataArray:
    """Energies or areas of all blocks at another node."""
    factors = [
        energy_factor(float(node), float(volt), to) if quantity == "energy" else area_factor(float(node), to[0])
        for node, volt in zip(ds["node"].values, ds["voltage"].values, strict=True)
    ]
    return ds[quantity] * xr.DataArray(factors, dims="library", coords={"library": ds["library"]})


def number(value: float) -> str:
    """Three digits, or whole with commas."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def numbers_table(ds: xr.Dataset, bits: tuple[int, ...] = (8, 16)) -> list[str]:
    """Energy with its interval, area and delay of every block at some word lengths."""
    rows = ["| block | bits | library | energy, pJ | low to high | area, um2 | delay, ns | leakage, nW |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for block in ds["block"].values:
        for n in bits:
            for library in ds["library"].values:
                one = ds.sel(block=block, bits=n, library=library)
                low, mid, high = (float(one["energy"].sel(bound=b)) * 1e12 for b in ("low", "nominal", "high"))
                cells = [
                    NAMES[str(block)],
                    f"{n}",
                    str(library),
                    number(mid),
                    f"{number(low)} to {number(high)}",
                ]
                cells += [
                    number(float(one["area"]) * 1e12),
                    number(float(one["delay"].sel(bound="nominal")) * 1e9),
                    number(float(one["leakage"]) * 1e9),
                ]
                rows.append("| " + " | ".join(cells) + " |")
    return rows


def laws_table(ds: xr.Dataset) -> list[str]:
    """Coefficient, residual and free exponent of energy and area."""
    rows = ["| block | linear in | library | energy, fJ each | off by | power | area, um2 each | off by | power |"]
    rows.append("|---|---|---|---|---|---|---|---|---|")
    for block in ds["block"].values:
        for library in ds["library"].values:
            one = ds.sel(block=block, library=library)
            cells = []
            for quantity, unit in (("energy", 1e15), ("area", 1e12)):
                fit = one.sel(quantity=quantity)
                cells += [
                    number(float(fit["coefficient"]) * unit),
                    f"{float(fit['residual']):.0%}".replace("%", " %"),
                    f"{float(fit['exponent']):.2f}",
                ]
            rows.append(f"| {NAMES[str(block)]} | {one['size'].item()} | {library} | " + " | ".join(cells) + " |")
    return rows


def ratios(ds: xr.Dataset) -> dict[tuple[str, str, str, str], float]:
    """Gates over published, both at the published node: (block, quantity, source, library) -> ratio.

    Published word lengths beyond those that were synthesised are met by the law of the block; a register's is of
    one bit. `periphery-32nm` is the component table that the library ships.
    """
    out = {}
    components = load_components("periphery-32nm")
    shipped = {"multiply": components.multiply, "add": components.add, "register": components.flip_flop}
    for block in ("add", "multiply", "register", "shift_5"):
        for quantity in ("energy", "area"):
            cases = dict(published(block, quantity))
            if block in shipped:
                entry = shipped[block]
                value = (entry.energy if quantity == "energy" else entry.area).value
                cases["periphery-32nm"] = [(float(entry.bits), value)]
            for source, points in cases.items():
                to = (32e-9, 0.9) if source == "periphery-32nm" else COMMON
                here = scaled(ds, quantity, to).sel(block=block)
                here = here.sel(bound="nominal") if "bound" in here.dims else here
                for bits, value in points:
                    for library in ds["library"].values:
                        ours = here.sel(library=library)
                        if bits in ds["bits"].values:
                            mine = float(ours.sel(bits=bits))
                        else:
                            law = float(ds["coefficient"].sel(library=library, block=block, quantity=quantity))
                            one = ds.sel(library=library)
                            law *= (
                                energy_factor(float(one["node"]), float(one["voltage"]), to)
                                if quantity == "energy"
                                else area_factor(float(one["node"]), to[0])
                            )
                            mine = law * {"multiply": bits * bits, "shift_5": 5 * bits}.get(block, bits)
                        out[block, quantity, f"{source}, {bits:g} bits", str(library)] = mine / value
    return out


def ratios_table(ds: xr.Dataset) -> list[str]:
    """Gates over published figures, a row each."""
    libraries = [str(v) for v in ds["library"].values]
    found = ratios(ds)
    rows = [
        "| block | quantity | against | " + " | ".join(libraries) + " |",
        "|---|---|---|" + "---|" * len(libraries),
    ]
    for block, quantity, source in dict.fromkeys(key[:3] for key in found):
        cells = [number(found[block, quantity, source, library]) for library in libraries]
        rows.append(f"| {NAMES[block]} | {quantity} | {source} | " + " | ".join(cells) + " |")
    return rows


def nodes_table(ds: xr.Dataset, bits: int = 16) -> list[str]:
    """What energy and area fall by from each library of a node to the one of the smallest node, and should fall
    by."""
    small = ds.isel(library=int(np.argmin(ds["node"].values)))
    rows = ["| from | to | quantity | addition | multiplication | register | Stillmaker and Baas |"]
    rows.append("|---|---|---|---|---|---|---|")
    for library in ds["library"].values:
        one = ds.sel(library=library)
        if float(one["node"]) == float(small["node"]):
            continue
        to = (float(small["node"]), float(small["voltage"]))
        for quantity in ("energy", "area"):
            cells = []
            for block in ("add", "multiply", "register"):
                pair = [d[quantity].sel(block=block, bits=bits) for d in (one, small)]
                large, less = (float(v.sel(bound="nominal") if "bound" in v.dims else v) for v in pair)
                cells.append(number(large / less))
            expected = (
                1 / energy_factor(float(one["node"]), float(one["voltage"]), to)
                if quantity == "energy"
                else 1 / area_factor(float(one["node"]), to[0])
            )
            cells.append(number(expected))
            rows.append(f"| {library} | {small['library'].item()} | {quantity} | " + " | ".join(cells) + " |")
    return rows


def lanes_table(ds: xr.Dataset) -> list[str]:
    """Lanes at 45 nm, 0.9 V by bits of the state: energy of an update (low to high) and area, a library each."""
    energies, areas = scaled(ds, "energy") * 1e12, scaled(ds, "area") * 1e12
    rows = ["| lane | bits | library | energy, pJ | low to high | area, um2 |", "|---|---|---|---|---|---|"]
    for block in (b for b in ds["block"].values if b.startswith("lane")):
        for bits in areas.sel(block=block).dropna("bits", how="all")["bits"].values:
            for library in ds["library"].values:
                at = {"block": block, "bits": bits, "library": library}
                low, mid, high = (float(energies.sel(**at, bound=b)) for b in ("low", "nominal", "high"))
                cells = [NAMES[block].removeprefix("lane, "), f"{bits}", str(library), number(mid)]
                cells += [f"{number(low)} to {number(high)}", number(float(areas.sel(**at)))]
                rows.append("| " + " | ".join(cells) + " |")
    return rows


def draw(ds: xr.Dataset) -> Figure:
    """Energy and area at 45 nm against published figures, delay as it is; by word length."""
    blocks = (
        "add",
        "multiply",
        "register",
        *(b for b in ("lane_folded", "lane_shifts") if b in ds["block"].values),
    )
    lines = {"add": "-", "multiply": "--", "register": ":", "lane_folded": "-.", "lane_shifts": (0, (1, 3))}
    marks = {"add": "o", "multiply": "s", "register": "^", "lane_folded": "D", "lane_shifts": "v"}
    with styled(16.0, 6.6) as figure:
        axes = figure.subplots(1, 3)
        quantities = (("energy", 1e12, "Energy at 45 nm, 0.9 V (pJ)"), ("area", 1e12, "Area at 45 nm (µm²)"))
        for ax, (quantity, unit, label) in zip(axes, quantities, strict=False):
            values = scaled(ds, quantity) * unit
            for block in blocks:
                for library in ds["library"].values:
                    here = values.sel(block=block, library=library).dropna("bits", how="all")
                    if "bound" in here.dims:
                        low, high = here.sel(bound="low"), here.sel(bound="high")
                        ax.fill_between(here["bits"], low, high, color=_colour(library), alpha=0.08, lw=0)
                        here = here.sel(bound="nominal")
                    _line(ax, here, library, lines[block], marks[block])
                for source, mark in (("horowitz", "*"), ("aladdin", "P")):
                    for bits, value in published(block, quantity).get(source, ()):
                        words = 8 if bits == 1 else 1  # a register's bit is drawn as a register of eight
                        at = (bits * words, value * words * unit)
                        ax.plot(*at, mark, color="black", ms=11, zorder=5)
                        ax.annotate(block[:3], at, (7, -4), textcoords="offset points", fontsize=10, zorder=6)
            ax.set_ylabel(label)
        for block in blocks:
            for library in ds["library"].values:
                here = ds["delay"].sel(block=block, library=library, bound="nominal").dropna("bits") * 1e9
                if block != "register":
                    _line(axes[2], here, library, lines[block], marks[block])
        axes[2].set_ylabel("Longest path at the library's own node (ns)")
        for ax, title in zip(axes, ("Energy of an operation", "Area of the cells", "Delay"), strict=True):
            ax.set(
                xscale="log",
                yscale="log",
                xlim=(3.5, 48),
                xlabel="Word length n (bits; a lane's: of the state)",
                title=title,
            )
            ax.set_xticks([4, 6, 8, 12, 16, 24, 32], ["4", "6", "8", "12", "16", "24", "32"])
            ax.set_xticks([], minor=True)
            entries = [
                Line2D([], [], color=_colour(v), lw=3, label=_LIBRARIES.get(str(v), str(v)))
                for v in ds["library"].values
            ]
        entries += [
            Line2D(
                [],
                [],
                color="0.3",
                ls=lines[b],
                marker=marks[b],
                label=NAMES[b].replace("multiplication", "n x n multiplication"),
            )
            for b in blocks
        ]
        entries += [
            Line2D([], [], color="black", marker=m, ls="", ms=11, label=n)
            for m, n in (("*", "Horowitz, 45 nm (add, mul)"), ("P", "Aladdin, 40 nm, 1 ns (add, mul, reg)"))
        ]
        figure.legend(handles=entries, loc="outside lower center", ncols=5, frameon=False)
    return figure


def _line(ax: Any, values: xr.DataArray, library: Any, style: Any, mark: str) -> None:
    ax.plot(values["bits"], values, ls=style, marker=mark, ms=5, color=_colour(library))


TABLES = (numbers_table, laws_table, ratios_table, nodes_table, lanes_table)


def main() -> None:
    """The command."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "gates.nc"
    ds = results.load(path)
    save_figure(draw(ds), path.with_suffix(".png") if len(sys.argv) > 1 else ROOT / "docs" / "gates.png")
    for table in TABLES:
        print("\n".join(table(ds)), end="\n\n")


if __name__ == "__main__":
    main()
