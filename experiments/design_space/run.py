"""The design space of sMNIST: what `chips.toml` found, beside digital machines, and the chips to choose.

    imc-ssm sweep run experiments/design_space/chips.toml --out experiments/design_space/runs/chips
    python experiments/design_space/run.py [--chosen]

Made of the sweep's cells: `results/chips.nc`, the sweep's dataset; `results/machines.nc`, the same models on
digital machines of several widths; `results/points.nc`, both as one list of points; the figure, and the table of
REPORT.md. `--chosen` measures the chosen chips again, 20 of each, on test sequences: `results/chosen.nc`, with
their designs as TOML beside it.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import imc_ssm
from imc_ssm import results, sweeps
from imc_ssm.costs import baseline_cost, load_baseline
from imc_ssm.costs.baselines import DigitalAccelerator

HERE = Path(__file__).parent
RESULTS, FOLDER, MODELS = HERE / "results", HERE / "runs" / "chips", HERE / "models"
STEPS = 784
LANES = (8, 32, 128, 512)
MACHINES = ("digital", "digital-registers", "systolic")
TECHNOLOGY = {
    "pcm-hermes-dual": "PCM (HERMES)",
    "pcm-nandakumar-2019": "PCM (Nandakumar)",
    "reram-cmo-falcone": "ReRAM (CMO)",
    "reram-wan-2022": "ReRAM (Wan)",
    "digital": "all-digital",
}
COLOURS = dict(zip(TECHNOLOGY.values(), ("C0", "C9", "C1", "C3", "black"), strict=True))
AT = "accuracy@1d"
LOOK = {"split": "test", "chips": 20, "sequences": 1000}
"""How chosen chips are looked at again."""
GOALS = {
    "energy_total": ("Energy per inference", "uJ", 1e6),
    "latency_total": ("Latency per inference", "us", 1e6),
    "area_total": ("Silicon area", "mm2", 1e6),
}
"""What is small on a front: long name, unit shown, factor."""
LEVELS = (95.0, 97.0, 98.0)
"""Accuracies after a day that chips are chosen for, percent of the validation sequences."""


def model_of(path: str) -> str:
    """ "8h-16n-w4"."""
    return Path(path).stem


def shape_of(name: str) -> tuple[int, int, int]:
    """Heads, real states of a head, bits of the weights."""
    heads, states, bits = map(int, re.fullmatch(r"(\d+)h-(\d+)n-w(\d+)", name).groups())  # type: ignore[union-attr]
    return heads, states, bits


def _say(ds: xr.Dataset, chips: xr.Dataset, names: dict[str, str]) -> None:
    """Units and long names of costs, as `chips` has them, and of coordinates."""
    for name, (long_name, _, _) in GOALS.items():
        ds[name].attrs = {"units": chips[name].attrs["units"], "long_name": long_name}
    for name, long_name in names.items():
        ds[name].attrs = {"units": "1", "long_name": long_name}


def on_machines(chips: xr.Dataset) -> xr.Dataset:
    """Every model of the sweep on every digital machine, with the accuracy that it has in integers."""
    done = chips.isel(trial=np.flatnonzero(chips["status"].values == 1))
    rows: list[dict[str, Any]] = []
    for path in dict.fromkeys(done["start"].values.tolist()):
        stored = imc_ssm.load_model(path)
        model = stored.model
        for name in MACHINES:
            machine = load_baseline(name)
            wide = (
                [machine.with_(lanes=n) for n in LANES] if isinstance(machine, DigitalAccelerator) else [machine]
            )
            for one in wide:
                cost = baseline_cost(model, one, steps=STEPS).sel(bound="nominal")
                rows.append(
                    {
                        "start": path,
                        "machine": name,
                        "lanes": getattr(one, "lanes", np.nan),
                        "accuracy": float(stored.info["accuracy_validation"]),
                        **{goal: float(cost[goal]) for goal in GOALS},
                    }
                )
    ds = xr.Dataset({name: ("point", [row[name] for row in rows]) for name in rows[0]})
    ds = ds.set_coords(["start", "machine", "lanes"])
    ds["accuracy"].attrs = {"units": "percent", "long_name": "Accuracy in integers, whole validation split"}
    names = {"start": "Model", "machine": "Digital machine", "lanes": "Products of matrices a cycle"}
    _say(ds, chips, names)
    config = {"machines": list(MACHINES), "lanes": list(LANES), "steps": STEPS}
    return ds.assign_attrs(title="sMNIST on digital machines", **results.provenance(config, None, 0.0))


def together(chips: xr.Dataset, machines: xr.Dataset) -> xr.Dataset:
    """All points that have numbers: technology, model, accuracy after a day, costs.

    The accuracy of a chip is that of its model in integers, on the whole validation split, less what the chip
    loses against them on the sequences that it was asked: few sequences say well what is lost, and badly how hard
    they are.
    """
    done = chips.isel(trial=np.flatnonzero(chips["status"].values == 1))
    parts = []
    for ds, where in ((done, "trial"), (machines, "point")):
        analog = where == "trial"
        cells = (
            [TECHNOLOGY[str(cell)] for cell in ds["design.cell"].values]
            if analog
            else ["all-digital"] * ds.sizes[where]
        )
        names = [model_of(path) for path in ds["start"].values.tolist()]
        shapes = np.array([shape_of(name) for name in names])
        coords = {"technology": cells, "model": names, "heads": shapes[:, 0], "n_state": shapes[:, 1]}
        coords |= {"weight_bits": shapes[:, 2], "trial": ds["trial"].values if analog else np.full(len(names), -1)}
        if analog:
            lost = done["accuracy_digital"].values - sweeps.value(done, AT).values
            accuracy = np.array(
                [float(machines["accuracy"][machines["start"] == path][0]) for path in ds["start"].values]
            )
            numbers = {"accuracy": accuracy - lost, "lost": lost}
        else:
            numbers = {"accuracy": ds["accuracy"].values, "lost": np.zeros(len(names))}
        numbers["accuracy_std"] = sweeps.value(done, f"{AT}:std").values if analog else np.zeros(len(names))
        numbers |= {goal: ds[goal].values for goal in GOALS}
        parts.append(
            xr.Dataset(
                {name: ("point", values) for name, values in numbers.items()},
                {name: ("point", values) for name, values in coords.items()},
            )
        )
    out = xr.concat(parts, "point")
    out["accuracy"].attrs = {"units": "percent", "long_name": "Accuracy after a day, mean of the chips"}
    out["lost"].attrs = {"units": "percent", "long_name": "Lost against the model's integers"}
    out["accuracy_std"].attrs = {"units": "percent", "long_name": "Deviation of the accuracy between chips"}
    for name in ("lost", "accuracy_std"):
        out[name].attrs["n_test"] = int(chips.attrs["n_test"])
    names = {
        "technology": "Cells, or digital arithmetic",
        "model": "Model",
        "heads": "Heads",
        "n_state": "Real states of a head",
        "trial": "Trial of the sweep; -1: none",
    }
    _say(out, chips, names)
    out["weight_bits"].attrs = {"units": "bit", "long_name": "Word length of the weights"}
    config = {"at": AT, "n_test": int(chips.attrs["n_test"])}
    return out.assign_attrs(title="sMNIST: chips and digital machines", **results.provenance(config, None, 0.0))


def fronts(points: xr.Dataset) -> None:
    """Accuracy against energy, latency and area: all points, and the front of every technology."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = plt.subplots(1, 3, figsize=(12, 4.6), sharey=True, layout="constrained")
    for axis, (goal, (long_name, unit, factor)) in zip(axes, GOALS.items(), strict=True):
        for name, colour in COLOURS.items():
            own = points.isel(point=np.flatnonzero(points["technology"].values == name))
            x, y = factor * own[goal].values, own["accuracy"].values
            axis.plot(x, y, ".", ms=4, color=colour, alpha=0.3)
            best = np.flatnonzero(sweeps.undominated(np.stack([own[goal].values, -y], -1)))
            best = best[np.argsort(x[best])]
            axis.step(x[best], y[best], where="post", lw=1.6, color=colour, label=name)
            axis.plot(x[best], y[best], "o", ms=4, color=colour)
        axis.set(
            xscale="log", xlabel=f"{long_name} ({unit.replace('mm2', 'mm²').replace('u', 'µ', 1)})", ylim=(80, 100)
        )
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("Accuracy after a day (%, validation)")
    axes[-1].legend(loc="lower right", fontsize=8)
    figure.savefig(RESULTS / "fronts.png", dpi=120)
    plt.close(figure)


def choices(points: xr.Dataset) -> list[tuple[float, str, str, int]]:
    """(accuracy wanted, goal, technology, point): the least of each goal, of every technology."""
    found = []
    for level in LEVELS:
        for goal in GOALS:
            for name in COLOURS:
                fit = (points["technology"].values == name) & (points["accuracy"].values >= level)
                if fit.any():
                    number = np.where(fit, points[goal].values, np.inf)
                    found.append((level, goal, name, int(np.argmin(number))))
    return found


def table(points: xr.Dataset) -> str:
    """The least energy, latency and area of every technology for an accuracy, as Markdown."""
    lines = [
        "| accuracy | technology | energy (uJ) | model | latency (us) | model | area (mm2) | model |",
        "|---" * 8 + "|",
    ]
    found = {(level, name, goal): point for level, goal, name, point in choices(points)}
    for level in LEVELS:
        for name in COLOURS:
            cells = []
            for goal, (_, _, factor) in GOALS.items():
                point = found.get((level, name, goal))
                if point is None:
                    cells += ["-", ""]
                else:
                    cells += [f"{factor * float(points[goal][point]):.3g}", str(points["model"].values[point])]
            lines.append(f"| {level:g} % | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def stem_of(technology: str) -> str:
    """The name of a chosen design's file."""
    return re.sub(r"\W+", "-", technology.lower()).strip("-")


def chosen(chips: xr.Dataset, points: xr.Dataset) -> xr.Dataset:
    """The chips of least energy for 97 and 98 %, one of every cell: 20 of each, test sequences."""
    rows, picks = {}, {}
    for level, goal, name, point in choices(points):
        trial = int(points["trial"].values[point])
        if level >= 97 and goal == "energy_total" and trial >= 0:
            one = chips.isel(trial=int(np.flatnonzero(chips["trial"].values == trial)[0]))
            label = f"{name}, {level:g} %"
            rows[label] = sweeps.again(one, changes=LOOK)
            picks[label] = {"trial": trial, "model": model_of(str(one["start"].item()))}
            print(label, trial, *sweeps.written(one, RESULTS / f"{stem_of(label)}.toml"), sep="\n  ", flush=True)
    kept = ["accuracy", "accuracy_digital", "energy_total", "energy_total_bounds", "latency_total", "area_total"]
    out = xr.concat([ds[kept] for ds in rows.values()], "choice", coords="minimal", compat="override")
    about = {"units": "1", "long_name": "Cells, and the accuracy that they were chosen for"}
    out = out.assign_coords(choice=("choice", list(rows), about))
    config = {"trials": picks, "changes": LOOK, "of": chips.attrs["configuration_sha256"]}
    return out.assign_attrs(title="Chosen chips, test sequences", **results.provenance(config, None, 0.0))


def main() -> None:
    """Gather, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chosen", action="store_true", help="measure the chosen chips again")
    given = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    chips = sweeps.load(FOLDER)
    results.save(chips, RESULTS / "chips.nc")
    machines = on_machines(chips)
    results.save(machines, RESULTS / "machines.nc")
    points = together(chips, machines)
    results.save(points, RESULTS / "points.nc")
    fronts(points)
    if given.chosen:
        results.save(chosen(chips, points), RESULTS / "chosen.nc")
    print(f"{points.sizes['point']} points of {len(set(points['model'].values))} models\n")
    print(table(points))


if __name__ == "__main__":
    main()
