"""Predicted against published: energy, throughput and area of macros, blind and calibrated: `macros.nc`, a figure.

    python experiments/cost_validation/run.py              predict, draw, put the tables into REPORT.md
    python experiments/cost_validation/run.py calibrate    fit the converters of each family first

A prediction is blind if no constant was published for, or fitted on, the family of the macro: `blind/FAMILY.toml`
has what takes the place of those that were. It is calibrated if the family's own converter was fitted to its
energies: `calibrated/FAMILY.toml`. Facts of a macro (`devices/macros`) are inputs of both. The macros of
`macro_table.py` are those that nothing was taken from. Ten seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.optimize import least_squares

from imc_ssm import results
from imc_ssm.costs import load_macro, predict
from imc_ssm.costs.prediction import MEASURED, PARTS
from imc_ssm.devices.constants import Constants, load_constants
from imc_ssm.files import atomic_path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import macro_table  # noqa: E402  (beside this file)

PAGE = HERE / "REPORT.md"
FIGURE = HERE / "cost_validation.png"
GIVEN = (
    *("hermes", "ibm-64-core", "neurram-1b-3b", "neurram-2b-4b", "neurram-3b-5b", "neurram-4b-6b"),
    *("ibm-34-tile-chip1", "ibm-34-tile-chip4", "ibm-34-tile-tile", "yao-2020", "wang-c2c-0.7v", "isaac"),
)
"""The macros that the model was made for."""
FURTHER = (
    *("ibm-64-core-4-phase", "neurram-5b-7b", "neurram-6b-8b", "neurram-8b-10b", "wang-c2c-1.1v"),
    *("jia-0.85v", "jia-1.2v", "sinangil-2021"),
)
"""Other points of theirs, and macros whose cells or converters gave constants."""
GROUPS = {"given": GIVEN, "further": FURTHER}
FITTED: dict[str, tuple[str, ...]] = {
    "hermes": ("cco_power",),
    "neurram": ("amp_cap",),
    "tile34": ("duration_power", "tile_power"),
    "yao": ("sar_bit",),
    "wang": ("sar_bit",),
    "isaac": ("sar_bit",),
}
"""Constants of a family's converter, and of the tile's control, that are fitted to its energies."""
WAYS = ("blind", "calibrated")


def constants_of(family: str, way: str) -> Constants | None:
    """Constants that predict a family; None: it was never calibrated."""
    own = HERE / way / f"{family}.toml"
    if way == "calibrated" and not own.is_file():
        return None
    return load_constants(own if own.is_file() else None)


def predicted(name: str, way: str) -> xr.Dataset | None:
    macro = load_macro(name)
    constants = constants_of(macro.family, way)
    return None if constants is None else predict(macro, constants)


def fitted(family: str) -> Constants:
    """The blind constants of a family, with its own converter's fitted: least squares of logs of energies."""
    blind = constants_of(family, "blind")
    assert blind is not None
    macros = [macro for name in GIVEN if (macro := load_macro(name)).family == family]
    names = FITTED[family]

    def changed(logs: np.ndarray) -> Constants:
        own = {}
        for name, log in zip(names, logs, strict=True):
            value = blind[name].value * float(np.exp(log))
            which = ", ".join(macro.name for macro in macros)
            own[name] = blind[name].with_(
                value=value,
                low=value,
                high=value,
                kind="derived",
                replaced_by="",
                source=f"fitted to the published energies of {which} (experiments/cost_validation/run.py)",
            )
        return blind.changed(own)

    def misses(logs: np.ndarray) -> list[float]:
        constants = changed(logs)
        ratios = [
            float(predict(macro, constants)["ratio"].sel(quantity="energy", bound="nominal")) for macro in macros
        ]
        return np.log(ratios).tolist()

    found = least_squares(misses, np.zeros(len(names)), x_scale=0.1, bounds=(-4.0, 4.0))
    return changed(found.x)


def calibrate() -> None:
    """Write `calibrated/FAMILY.toml`: what the blind constants of the family change, and the fitted ones."""
    shipped = load_constants()
    for family in FITTED:
        found = fitted(family)
        own = {name: entry for name, entry in found.entries.items() if entry != shipped[name]}
        lines = [f"# Constants of {family}, fitted to its published energies; see run.py.", ""]
        for name, entry in own.items():
            lines.append(f"[{name}]")
            for field, value in entry.model_dump().items():
                if value != "":
                    lines.append(f"{field} = {value!r}" if isinstance(value, float) else f'{field} = "{value}"')
            lines.append("")
        with atomic_path(HERE / "calibrated" / f"{family}.toml") as temporary:
            temporary.write_text("\n".join(lines), encoding="utf-8")
        print(family, {name: f"{found[name].value:.4g}" for name in FITTED[family]})


def dataset() -> xr.Dataset:
    names = [name for group in GROUPS.values() for name in group]
    shape = (len(names), len(WAYS))
    ratio = np.full((*shape, len(MEASURED), 3), np.nan)
    energy = np.full((*shape, len(PARTS), 3), np.nan)
    published = np.full((len(names), len(MEASURED)), np.nan)
    for i, name in enumerate(names):
        for j, way in enumerate(WAYS):
            ds = predicted(name, way)
            if ds is not None:
                ratio[i, j], energy[i, j], published[i] = ds["ratio"], ds["energy"], ds["published"]
    macros = [load_macro(name) for name in names]
    out = xr.Dataset(
        coords={
            "macro": ("macro", names, {"units": "1", "long_name": "Macro"}),
            "way": ("way", list(WAYS), {"units": "1", "long_name": "Constants"}),
            "quantity": ("quantity", list(MEASURED), {"units": "1", "long_name": "Published quantity"}),
            "component": ("component", list(PARTS), {"units": "1", "long_name": "Component"}),
            "bound": ("bound", ["low", "nominal", "high"], {"units": "1", "long_name": "Bound"}),
            "group": (
                "macro",
                [g for g, own in GROUPS.items() for _ in own],
                {"units": "1", "long_name": "Group"},
            ),
            "family": ("macro", [macro.family for macro in macros], {"units": "1", "long_name": "Family"}),
        }
    )
    dims = ("macro", "way", "quantity", "bound")
    out["ratio"] = (dims, ratio, {"units": "1", "long_name": "Predicted over published"})
    text = {"units": "J", "long_name": "Predicted energy per product or step, by component"}
    out["energy"] = (("macro", "way", "component", "bound"), energy, text)
    text = {"units": "1", "long_name": "As published: J, s, TOPS, TOPS/W, TOPS/mm2, m2"}
    out["published"] = (("macro", "quantity"), published, text)
    return out.merge(unseen())


def unseen() -> xr.Dataset:
    """Predictions for the rows of the public table, with the shipped constants."""
    rows = macro_table.rows()
    macros = [macro_table.described(row) for row in rows]
    each = [predict(macro) for macro in macros]
    names = [macro.name for macro in macros]
    out = xr.Dataset(coords={"row": ("row", names, {"units": "1", "long_name": "Macro of the table"})})
    kinds = [f"{row['memory']}, {macro.kind}" for row, macro in zip(rows, macros, strict=True)]
    out["kind"] = ("row", kinds, {"units": "1", "long_name": "Memory and cell"})
    ratio = np.array([ds["ratio"].sel(quantity=["energy", "latency"]).values for ds in each])
    text = {"units": "1", "long_name": "Predicted over published, of the table"}
    out["table_energy"] = (("row", "bound"), ratio[:, 0], text)
    out["table_latency"] = (("row", "bound"), ratio[:, 1], text)
    joules = [float(ds["published"].sel(quantity="energy")) / float(ds["macs"]) for ds in each]
    text = {"units": "J", "long_name": "Published energy per multiply-accumulate, of the table"}
    out["table_published"] = ("row", np.array(joules), text)
    return out


def factors(ds: xr.Dataset, quantity: str, way: str, group: str = "given") -> np.ndarray:
    """max(r, 1 / r) of nominal predictions where there is a published number."""
    r = ds["ratio"].sel(quantity=quantity, way=way, bound="nominal").values[ds["group"].values == group]
    r = r[np.isfinite(r)]
    return np.exp(np.abs(np.log(r)))


# ---------------------------------------------------------------- the page
def row(ds: xr.Dataset, name: str) -> str:
    one = ds.sel(macro=name)

    def ratio(quantity: str, way: str = "blind", bound: str = "nominal") -> str:
        value = float(one["ratio"].sel(quantity=quantity, way=way, bound=bound))
        return f"{value:.2f}" if np.isfinite(value) else "-"

    nanojoule = float(one["published"].sel(quantity="energy")) * 1e9
    joules = one["energy"].sel(way="blind", bound="nominal")
    shares = 100 * joules / joules.sum()
    parts = ", ".join(
        f"{p} {float(shares.sel(component=p)):.0f}" for p in PARTS if float(shares.sel(component=p)) >= 1
    )
    blind = f"{ratio('energy')} [{ratio('energy', bound='low')}, {ratio('energy', bound='high')}]"
    cells = [load_macro(name).name, f"{nanojoule:.3g}" if np.isfinite(nanojoule) else "-", blind]
    cells += [ratio("energy", "calibrated"), ratio("tops_per_watt"), ratio("tops_per_watt", "calibrated")]
    cells += [ratio("tops"), ratio("latency"), ratio("area"), ratio("tops_per_mm2"), parts]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| Macro | published, nJ | energy, blind | calibrated | TOPS/W, blind | calibrated | TOPS | latency | area "
    "| TOPS/mm2 | shares of energy, blind, % |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def tables(ds: xr.Dataset) -> dict[str, str]:
    """The tables of the page by the name between their marks."""
    out = {group: "\n".join([HEAD, *(row(ds, name) for name in names)]) for group, names in GROUPS.items()}
    lines = ["| Quantity | blind: median | worst | calibrated: median | worst | n |", "|---|---|---|---|---|---|"]
    for quantity in ("energy", "tops_per_watt", "tops", "latency", "area", "tops_per_mm2"):
        blind, own = factors(ds, quantity, "blind"), factors(ds, quantity, "calibrated")
        numbers = [np.median(blind), blind.max(), np.median(own), own.max()]
        lines.append(f"| {quantity} | {' | '.join(f'{x:.2f}' for x in numbers)} | {len(blind)} |")
    out["summary"] = "\n".join(lines)
    lines = [
        "| Memory, cell | n | median factor | within 2 | within 3 | within 5 | worst |",
        "|---|---|---|---|---|---|---|",
    ]
    kinds = ds["kind"].values
    for kind in (*sorted(set(kinds)), "all"):
        r = ds["table_energy"].sel(bound="nominal").values[(kinds == kind) | (kind == "all")]
        f = np.exp(np.abs(np.log(r)))
        within = " | ".join(f"{int((f < most).sum())}" for most in (2, 3, 5))
        lines.append(f"| {kind} | {len(f)} | {np.median(f):.2f} | {within} | {f.max():.0f} |")
    out["table"] = "\n".join(lines)
    lines = ["| Macro | energy | time |", "|---|---|---|"]
    for name in ds["row"].values:
        low, r, high = ds["table_energy"].sel(row=name).values
        time = float(ds["table_latency"].sel(row=name, bound="nominal"))
        lines.append(
            f"| {name} | {r:.2f} [{low:.2f}, {high:.2f}] | {f'{time:.2f}' if np.isfinite(time) else '-'} |"
        )
    out["rows"] = "\n".join(lines)
    return out


def put(page: str, ds: xr.Dataset) -> str:
    """`page` with the tables of `ds` between their marks."""
    for name, table in tables(ds).items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = page.partition(start)
        page = f"{before}{start}\n{table}\n{end}{rest.partition(end)[2]}"
    return page


def figure(ds: xr.Dataset, path: Path) -> None:
    """Ratios with intervals: energy blind and calibrated, throughput and area blind."""
    from matplotlib.figure import Figure

    names = [str(name) for name in ds["macro"].values]
    figure = Figure(figsize=(15, 7), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=(1.3, 0.8, 0.8, 1.7))
    y = np.arange(len(names))[::-1]
    panels: Any = (("energy", "Energy"), ("tops", "Throughput"), ("area", "Area"))
    for ax, (quantity, title) in zip(axes[:3], panels, strict=True):
        if quantity == "energy":
            ax.axvspan(0.5, 2.0, color="0.93", zorder=0)
        for way, colour, shift in (("blind", "C0", 0.15), ("calibrated", "C1", -0.2)):
            if way == "calibrated" and quantity != "energy":
                continue
            low, r, high = (
                ds["ratio"].sel(quantity=quantity, way=way, bound=b).values for b in ds["bound"].values
            )
            there = np.isfinite(r)
            error = np.stack([r - low, high - r])[:, there]
            ax.errorbar(
                r[there], y[there] + shift, xerr=error, fmt="o", ms=4, lw=1, capsize=2, color=colour, label=way
            )
        ax.axvline(1.0, color="0.4", lw=1)
        ax.axhline(len(FURTHER) - 0.5, color="0.6", lw=0.8, ls=":")
        ax.set_ylim(-0.7, len(names) - 0.3)
        ax.set_yticks(y, [load_macro(name).name for name in names] if ax is axes[0] else [])
        ax.set(xscale="log", title=title, xlabel="predicted / published")
        ax.set_xlim(0.15, 10)
        ticks = [0.2, 0.5, 1, 2, 5]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.grid(alpha=0.3, axis="x")
    axes[0].legend(loc="lower right")
    for words, at in (("given", len(names) - 1), ("further points", len(FURTHER) - 1)):
        axes[0].text(9.5, at, words, ha="right", va="center", fontsize=9, style="italic")
    scatter(axes[3], ds)
    figure.savefig(path, dpi=110)


def scatter(ax: Any, ds: xr.Dataset) -> None:
    """Energy per multiply-accumulate, predicted over published axes, of the table's macros and the twelve."""
    said = ds["table_published"].values * 1e15
    ends = np.array([0.3, 2e4])
    ax.fill_between(ends, ends / 3, ends * 3, color="0.93", zorder=0, label="factor 3")
    ax.plot(ends, ends, color="0.4", lw=1)
    for i, kind in enumerate(sorted(set(ds["kind"].values))):
        own = ds["kind"].values == kind
        low, r, high = (ds["table_energy"].sel(bound=b).values[own] * said[own] for b in ds["bound"].values)
        style = {"fmt": "os^Dv"[i], "ms": 4.5, "lw": 0.7, "capsize": 0, "color": f"C{i + 2}"}
        ax.errorbar(said[own], r, yerr=[r - low, high - r], label=kind, **style)
    energies = [(load_macro(name), ds.sel(macro=name, way="blind", quantity="energy")) for name in GIVEN]
    macs = np.array([float(predict(macro)["macs"]) for macro, _ in energies])
    x = np.array([float(own["published"]) for _, own in energies]) / macs * 1e15
    r = np.array([float(own["ratio"].sel(bound="nominal")) for _, own in energies])
    ax.plot(x, x * r, "*", ms=9, color="C0", label="the twelve, blind")
    ax.set(xscale="log", yscale="log", xlim=(0.3, 2e4), ylim=(0.3, 2e4), title="Unseen, from a row of a table")
    ax.set(xlabel="published energy per MAC (fJ)", ylabel="predicted energy per MAC (fJ)")
    ax.legend(loc="upper left")
    ax.grid(alpha=0.3)


def main() -> None:
    if sys.argv[1:] == ["calibrate"]:
        calibrate()
    ds = dataset()
    ds.attrs |= {"title": "Predicted over published"} | results.provenance(
        {"macros": [str(m) for m in ds.macro.values]}, 0
    )
    results.save(ds, HERE / "macros.nc")
    figure(ds, FIGURE)
    if PAGE.is_file():
        text = put(PAGE.read_text(encoding="utf-8"), ds)
        with atomic_path(PAGE) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(tables(ds)["summary"])


if __name__ == "__main__":
    main()
