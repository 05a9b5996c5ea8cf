"""How far the closed form of voltage drop is from nodal analysis, on the shipped designs: `wires.nc` and a figure.

    python experiments/wires/run.py

Every design's tile is filled with Gaussian weights, mapped and programmed as a chip's; its conductances stand
behind wires of the design's resistance times 1/4 to 16. Measured are the differences of a pair's currents, for
inputs uniform in [-1, 1] and in [0, 1] (all of one sign, which lift columns most). An error is that of the drop:
rms of what is wrong over rms of what the wires take away. Three minutes on one core, 2 GB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from imc_ssm import results
from imc_ssm.chip import map_matrix, program
from imc_ssm.chip.wires import closed_form, currents, first_order
from imc_ssm.devices import device_names, resolve
from imc_ssm.files import atomic_path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "wires.md"
FIGURE = HERE.parents[1] / "docs" / "wires.png"

NEUROSIM = (
    "assumed: wires 200 nm wide, 420 nm high, of 2.42e-8 ohm m, 0.29 ohm/um, as in DNN+NeuroSim at 130 nm (Peng "
    "et al., arXiv:2003.06471, wires of Param.cpp), along a cell of 1.46 um, the root of its area"
)
WIRES: dict[str, tuple[float, str]] = {
    "pcm-256": (0.35, "aihwkit 1.1.0, IOParameters.ir_drop_g_ratio: 0.35 ohm from cell to cell of a PCM tile"),
    "hermes-256": (0.15, "aihwkit 1.1.0, IOParametersIRDropT.ir_drop_rs: 0.15 ohm from unit cell to unit cell"),
    "hermes-256-single": (
        0.15,
        "aihwkit 1.1.0, IOParametersIRDropT.ir_drop_rs: 0.15 ohm from unit cell to unit cell",
    ),
    "reram-128": (0.42, NEUROSIM),
    "reram-wan-64": (0.42, NEUROSIM),
    "taox-yao-128": (0.42, NEUROSIM),
    "dpe-128": (0.42, NEUROSIM),
}
"""Resistance from one cell to the next, of rows and columns alike, ohm, and where it comes from."""
FACTORS = (0.25, 1.0, 4.0, 16.0)
INPUTS = ("both signs", "one sign")
SIZES = (16, 32, 64, 128, 256)
RESISTANCES = (0.1, 0.3, 1.0, 3.0, 10.0)
WINDOWS = {"PCM, 0 to 25 uS": (0.0, 25e-6), "CMO/HfOx, 9 to 88.2 uS": (9e-6, 88.2e-6)}
SAMPLES = 20
MEASURES = ("drop", "first", "closed", "current", "left")


def voltages(rows: int, kind: str, seed: int = 1) -> np.ndarray:
    """(samples, rows), full scales."""
    return np.random.default_rng(seed).uniform(-1.0 if kind == "both signs" else 0.0, 1.0, (SAMPLES, rows))


def gaussian(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """(columns, rows)."""
    return np.random.default_rng(seed).normal(size=(columns, rows))


def programmed(design: str) -> np.ndarray:
    """Conductances of a tile of a design, full of Gaussian weights, (polarities, devices, rows, columns), S."""
    chip = resolve(design)
    weight = gaussian(chip.design.rows, chip.design.columns)
    made = program(map_matrix("gaussian", "gaussian", weight, None, chip, input_range=1.0), chip, 0)
    (g,) = made.at(chip.cell.usual_times()[0])
    return g[0]


def measured(g: np.ndarray, ohm: float) -> dict[str, list[float]]:
    """For each kind of input: `MEASURES`, of g (polarities, devices, rows, columns) behind wires of `ohm`."""
    polarities, devices, rows, columns = g.shape
    lines = np.moveaxis(g.reshape(-1, rows, columns), 0, -1).reshape(rows, -1).astype(np.float64)

    def pairs(current: np.ndarray) -> np.ndarray:
        each = current.reshape(len(current), columns, polarities, devices).sum(axis=-1)
        return each[..., 0] - each[..., 1]

    x = np.concatenate([voltages(rows, kind) for kind in INPUTS])
    exact, ideal = pairs(currents(lines, x, ohm, ohm)), pairs(x @ lines)
    first, closed = (pairs(x @ solve(lines, ohm, ohm)) for solve in (first_order, closed_form))
    out: dict[str, list[float]] = {name: [] for name in MEASURES}
    for k in range(len(INPUTS)):
        part = slice(k * SAMPLES, (k + 1) * SAMPLES)
        y, y0 = exact[part], ideal[part]
        used = np.abs(y0).max(axis=0) > 0
        factor = (y * y0)[:, used].sum(axis=0) / np.square(y0[:, used]).sum(axis=0)
        out["drop"].append(rms(y - y0) / rms(y0))
        out["first"].append(rms(first[part] - y) / rms(y - y0))
        out["closed"].append(rms(closed[part] - y) / rms(y - y0))
        out["current"].append(rms(closed[part] - y) / rms(y))
        out["left"].append(rms((y[:, used] - factor * y0[:, used]) / rms(y0[:, used])))
    return out


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def designs() -> dict[str, Any]:
    """(design, factor, inputs): the shipped designs."""
    out: dict[str, Any] = {name: np.empty((len(WIRES), len(FACTORS), len(INPUTS))) for name in MEASURES}
    for i, (design, (ohm, _)) in enumerate(WIRES.items()):
        g = programmed(design)
        for k, factor in enumerate(FACTORS):
            for name, values in measured(g, ohm * factor).items():
                out[name][i, k] = values
            print(design, f"{ohm * factor:g} ohm", {name: out[name][i, k].round(4).tolist() for name in MEASURES})
    return out


def sizes() -> dict[str, Any]:
    """(window, size, resistance, inputs): square tiles without noise."""
    shape = (len(WINDOWS), len(SIZES), len(RESISTANCES), len(INPUTS))
    out: dict[str, Any] = {name: np.empty(shape) for name in MEASURES}
    for i, (low, high) in enumerate(WINDOWS.values()):
        for j, size in enumerate(SIZES):
            target = gaussian(size, size).T
            target /= np.abs(target).max(axis=0)
            g = low + (high - low) * np.stack([np.maximum(target, 0), np.maximum(-target, 0)])[:, None]
            for k, ohm in enumerate(RESISTANCES):
                for name, values in measured(g, ohm).items():
                    out[name][i, j, k] = values
        print(list(WINDOWS)[i], out["closed"][i].max())
    return out


def block() -> dict[str, Any]:
    """(ohm, inputs): weights of 1 in the far half of rows and columns of 128 x 128 CMO pairs, 0 elsewhere."""
    target = np.zeros((128, 128))
    target[:64, 64:] = 1.0
    low, high = WINDOWS["CMO/HfOx, 9 to 88.2 uS"]
    g = low + (high - low) * np.stack([target, 0 * target])[:, None]
    out: dict[str, Any] = {name: np.empty((len(RESISTANCES), len(INPUTS))) for name in MEASURES if name != "left"}
    for k, ohm in enumerate(RESISTANCES):
        found = measured(g, ohm)
        for name, values in out.items():
            values[k] = found[name]
    return out


LONG = {
    "drop": "Drop: rms of what wires take of the currents of pairs, over the currents without wires",
    "first": "Error of the first order, over the drop",
    "closed": "Error of the closed form, over the drop",
    "current": "Error of the closed form, over the currents",
    "left": "What wires change beyond one factor a column, over the currents without wires",
}


def dataset() -> xr.Dataset:
    assert set(WIRES) <= set(device_names("designs"))
    ds = xr.Dataset(
        coords={
            "design": ("design", list(WIRES), {"units": "1", "long_name": "Design"}),
            "factor": ("factor", list(FACTORS), {"units": "1", "long_name": "Factor on the wires' resistance"}),
            "inputs": ("inputs", list(INPUTS), {"units": "1", "long_name": "Inputs"}),
            "window": ("window", list(WINDOWS), {"units": "1", "long_name": "Conductances"}),
            "size": ("size", list(SIZES), {"units": "1", "long_name": "Rows and pairs of columns"}),
            "ohm": ("ohm", list(RESISTANCES), {"units": "ohm", "long_name": "Resistance of a wire, cell to cell"}),
        }
    )
    text = {"units": "ohm", "long_name": "Resistance of a wire of the design, cell to cell"}
    ds["resistance"] = ("design", [ohm for ohm, _ in WIRES.values()], text)
    for name, values in designs().items():
        ds[name] = (("design", "factor", "inputs"), values, {"units": "1", "long_name": LONG[name]})
    for name, values in sizes().items():
        attrs = {"units": "1", "long_name": f"{LONG[name]}; square tiles"}
        ds[f"{name}_size"] = (("window", "size", "ohm", "inputs"), values, attrs)
    for name, values in block().items():
        attrs = {"units": "1", "long_name": f"{LONG[name]}; a block of ones far from drivers and amplifiers"}
        ds[f"{name}_block"] = (("ohm", "inputs"), values, attrs)
    sources = {design: source for design, (_, source) in WIRES.items()}
    ds.attrs |= results.provenance({"samples": SAMPLES, "sources": sources}, 0)
    return ds


def figure(ds: xr.Dataset, path: Path) -> None:
    """Error against drop, and drop against resistance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, marker, label in (("first", "x", "first order"), ("closed", "o", "closed form")):
        colour = {"first": "0.55", "closed": "C0"}[name]
        for suffix in ("", "_size"):
            x, y = ds[f"drop{suffix}"].values.ravel(), ds[f"{name}{suffix}"].values.ravel()
            left.plot(100 * x, 100 * y, marker, color=colour, ms=4, label=label if not suffix else None)
    left.axhline(5, color="C3", lw=1, label="5 %")
    left.set(xscale="log", yscale="log", ylim=(1e-3, 3000))
    left.set(xlabel="Drop of the pairs' currents (%)", ylabel="Error of the drop (%)")
    left.legend(loc="upper left")
    for i, design in enumerate(ds["design"].values):
        part = ds.sel(design=design, inputs="both signs")
        style = "-" if i % 2 == 0 else "--"
        (line,) = right.plot(part["resistance"] * part["factor"], 100 * part["drop"], style, label=design)
        own = part.sel(factor=1.0)
        right.plot(own["resistance"], 100 * own["drop"], "o", color=line.get_color(), ms=5)
    right.set(xscale="log", xlabel="Resistance from cell to cell (ohm)", ylabel="Drop of the pairs' currents (%)")
    right.legend(title="full tile; dot: assumed wires", fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def percent(share: xr.DataArray) -> str:
    """The largest, in words; two digits."""
    value = 100 * float(share.max())
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"


def tables(ds: xr.Dataset) -> dict[str, str]:
    """The tables of the page by the name between their marks; of two kinds of inputs the worse."""
    lines = [
        "| Design | ohm | drop | error: first order | closed form | of the current | left "
        "| drop, closed form at 4x | at 16x |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    worst = ds.max("inputs")
    for design in ds["design"].values:
        row = worst.sel(design=design)
        own = row.sel(factor=1.0)
        cells = [f"`{design}`", f"{float(row['resistance']):g}"]
        cells += [percent(own[name]) for name in ("drop", "first", "closed", "current", "left")]
        for factor in (4.0, 16.0):
            there = row.sel(factor=factor)
            cells.append(", ".join(percent(there[name]) for name in ("drop", "closed")))
        lines.append(f"| {' | '.join(cells)} |")
    own = worst.sel(factor=1.0)
    weak, block = worst["closed_size"].where(worst["drop_size"] < 0.5), worst.sel(ohm=[0.3, 1.0, 3.0])
    far = "; ".join(
        f"at {ohm:g} ohm {percent(block['closed_block'].sel(ohm=ohm))} of a drop of "
        f"{percent(block['drop_block'].sel(ohm=ohm))}, {percent(block['current_block'].sel(ohm=ohm))} of what is "
        "left of the current"
        for ohm in block["ohm"].values
    )
    low, high = int(ds["size"].min()), int(ds["size"].max())
    sizes = f"{low} to {high} rows and {RESISTANCES[0]:g} to {RESISTANCES[-1]:g} ohm"
    summary = (
        f"The closed form is within {percent(own['closed'])} of the drop, and {percent(own['current'])} of the "
        f"current, for every shipped design with its wires, and within {percent(ds['closed'])} of the drop at "
        f"sixteen times their resistance; in square tiles of {sizes} within {percent(weak)} of drops below a half "
        f"and {percent(ds['closed_size'])} of all. The first order is off by the drop itself: by "
        f"{percent(own['first'].sel(design='pcm-256'))} of it on `pcm-256`, by more than all of it where half of "
        "the current is gone. A block of ones far from drivers and amplifiers is worst for the closed form "
        f"(128 x 128 CMO pairs): {far}."
    )
    return {"wires": "\n".join(lines), "summary": summary}


def put(page: str, ds: xr.Dataset) -> str:
    """`page` with the tables of `ds` between their marks."""
    for name, table in tables(ds).items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = page.partition(start)
        page = f"{before}{start}\n{table}\n{end}{rest.partition(end)[2]}"
    return page


def main() -> None:
    ds = dataset()
    results.save(ds, HERE / "wires.nc")
    figure(ds, FIGURE)
    text = put(PAGE.read_text(encoding="utf-8"), ds)
    with atomic_path(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
