"""What pruning costs and frees: s4d-64h on sMNIST, QAT at 8 bits, half of the states, a third of the heads, zeros.

    python experiments/pruning/run.py [--seeds 0,1,2] [--ways states,heads] [--device cuda]
    python experiments/pruning/run.py --report

The models are those of `experiments/zhao2025/models`, or of `models` here, where one that is in neither is
trained first (as that study does, in convolution mode). Each way quantizes with the scheme "uniform" (8 bits),
takes something out and trains what is left for an epoch of QAT on 20,000 of the training sequences, drawn by
the seed, after each of its rounds; "none" is trained as long, and is what the others are compared with. Every
result is a file of its own in `runs`, model included: the same command goes on where it stopped, and several
may run at once. `--report` gathers them in `results/found.jsonl`, counts what the models take (today's prices,
no training), makes `results/pruning.nc` and the figure beside it, and prints the table of docs/pruning.md.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import imc_ssm
from imc_ssm.analysis import complexity
from imc_ssm.datasets import SequenceDataset
from imc_ssm.kernels.device import named_device, placed
from imc_ssm.layers import PRESETS, Classifier
from imc_ssm.modelfile import StoredModel, save_model
from imc_ssm.pruning import Pruning, run
from imc_ssm.quantization import quantize
from imc_ssm.results import provenance, save
from imc_ssm.training import History, TrainConfig, accuracy, train

HERE = Path(__file__).parent
FOUND, DATASET, FIGURE = (HERE / "results" / name for name in ("found.jsonl", "pruning.nc", "pruning.png"))
RUNS = HERE / "runs"
MODELS = (HERE.parent / "zhao2025" / "models", HERE / "models")
MODEL, SEEDS, SEQUENCES, DESIGN = "s4d-64h", (0, 1, 2), 20_000, "pcm-256"
FULL = TrainConfig(epochs=30, batch=512, learning_rate=1e-2, warmup=0.1, clip=1.0)
QAT = TrainConfig(epochs=1, batch=64, learning_rate=5e-3)
WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "states": {"states": 0.5},
    "heads": {"heads": 0.3},
    "weights": {"weights": 0.6},
    "all": {"states": 0.5, "heads": 0.3, "weights": 0.6},
    "none twice": {"rounds": 2},
    "states twice": {"states": 0.5, "rounds": 2},
    "heads twice": {"heads": 0.3, "rounds": 2},
    "weights twice": {"weights": 0.6, "rounds": 2},
    "all twice": {"states": 0.5, "heads": 0.3, "weights": 0.6, "rounds": 2},
    "none long": {"rounds": 2, "epochs": 2},
    "heads long": {"heads": 0.3, "rounds": 2, "epochs": 2},
    "heads long gently": {"heads": 0.3, "rounds": 3, "schedule": "linear", "after": "none"},
}
"""Name -> what is taken out, in how many rounds (1) of how many epochs of QAT (1), after which other way."""
MEASURED = {
    "accuracy": ("%", "Test accuracy after training"),
    "accuracy_before": ("%", "Test accuracy before training"),
    "time": ("s", "Wall time of the training"),
}
"""Of a training; kept with it."""
COUNTED = {
    "states": ("1", "Complex states of all heads"),
    "heads": ("1", "Heads"),
    "energy": ("J", "Energy of one inference"),
    "energy_cells": ("J", "Energy of the cells of one inference"),
    "latency": ("s", "Latency of one inference"),
    "area": ("m2", "Area of the chip"),
    "conversions": ("1", "ADC conversions of one inference"),
    "memory": ("bit", "Words in digital memories"),
    "tiles": ("1", "Tiles in use"),
    "utilisation": ("1", "Share of the places of these tiles that hold a weight"),
    "ace": ("1", "ACE: MACs x bits x bits"),
    "model_size": ("bit", "Bits of all parameters"),
}
"""Of a model that is there; counted again with every report."""


def full(data: SequenceDataset, seed: int, device: str) -> Classifier:
    """The model in full precision, trained where it is nowhere."""
    name = f"{MODEL}-seed{seed}.safetensors"
    for folder in MODELS:
        if (folder / name).exists():
            return imc_ssm.load_model(folder / name).model
    torch.manual_seed(seed)
    model, path = Classifier(PRESETS[MODEL]), MODELS[-1] / name
    path.parent.mkdir(exist_ok=True)
    config, start = FULL.with_(seed=seed), time.perf_counter()
    train(model, data, config, mode="convolution", checkpoint=path.with_suffix(".checkpoint"), device=device)
    with placed(model, named_device(device)):
        reached = accuracy(model, data.split("test"))
    about = {"task": "smnist", "training": config.model_dump(mode="json"), "accuracy_test": reached}
    save_model(path, StoredModel(model, None, about | {"time_s": time.perf_counter() - start}))
    path.with_suffix(".checkpoint").unlink()
    return model


def compute(data: SequenceDataset, seed: int, way: str, device: str) -> None:
    """One way of one seed: a model file, that says what it answered."""
    plan, test = dict(WAYS[way]), data.split("test")
    after = plan.pop("after", None)
    if after is None:
        model = quantize(full(data, seed, device), "uniform", data, device=device)
    else:
        model = imc_ssm.load_model(file_of(seed, after)).model
    some = np.sort(np.random.default_rng(seed).choice(data.splits["train"], SEQUENCES, replace=False))
    part = replace(data, splits={**data.splits, "train": some})
    qat = QAT.with_(epochs=plan.pop("epochs", QAT.epochs), seed=seed)
    before: list[float] = []
    took = 0.0

    def tested(made: Classifier) -> float:
        with placed(made, named_device(device)):
            return accuracy(made, test)

    def trained(made: Classifier, number: int) -> History:
        nonlocal took
        before.append(tested(made))
        start = time.perf_counter()
        history = train(made, part, qat, device=device)
        took += time.perf_counter() - start
        return history

    if way.startswith("none"):
        for number in range(plan.get("rounds", 1)):
            trained(model, number)
    else:
        model = run(model, Pruning(seed=seed, **plan), part, trained).model
    found = {"accuracy": tested(model), "accuracy_before": before[-1], "time": took, "device": device}
    about = {"task": "smnist", "training": qat.model_dump(mode="json"), "found": found}
    path = file_of(seed, way)
    path.parent.mkdir(exist_ok=True)
    save_model(path, StoredModel(model, model.scheme, about))
    print({"seed": seed, "way": way} | found, flush=True)


def file_of(seed: int, way: str) -> Path:
    """Where a model is kept."""
    return RUNS / f"{way.replace(' ', '-')}-seed{seed}.safetensors"


def counted(model: Classifier, data: SequenceDataset) -> dict[str, float]:
    """What the model's graph takes on the chip."""
    deployment = imc_ssm.compile_model(model, DESIGN, data)
    cost, metrics = imc_ssm.cost(deployment), complexity(deployment)
    return {
        "states": float(sum(model.config.layer_of(0).state_counts(model.config.width))),
        "heads": float(model.config.width),
        "energy": float(cost.energy_total),
        "energy_cells": float(cost.energy.sel(component="cells")),
        "latency": float(cost.latency_total),
        "area": float(cost.area_total),
        "memory": float(cost.memory.sum()),
        "tiles": float(cost.tiles),
        "utilisation": float(cost.utilisation),
        **{name: float(metrics[name]) for name in ("conversions", "ace", "model_size")},
    }


def gathered(data: SequenceDataset) -> list[dict[str, Any]]:
    """What was measured, with what each model takes today."""
    rows, before = [], {}
    if FOUND.exists():  # a clone has no models: what was counted of them stays
        before = {(row["seed"], row["way"]): row for row in map(json.loads, FOUND.read_text().splitlines())}
    for seed in SEEDS:
        for way in WAYS:
            if not file_of(seed, way).exists():
                rows += [before[seed, way]] if (seed, way) in before else []
            else:
                stored = imc_ssm.load_model(file_of(seed, way))
                rows.append({"seed": seed, "way": way} | stored.info["found"] | counted(stored.model, data))
    return rows


def dataset(rows: list[dict[str, Any]]) -> xr.Dataset:
    """Everything that was found, NaN where nothing was."""
    found = {(row["seed"], row["way"]): row for row in rows}
    ds = xr.Dataset(coords={"seed": list(SEEDS), "way": list(WAYS)})
    for name, (units, long_name) in (MEASURED | COUNTED).items():
        values = [[found.get((seed, way), {}).get(name, np.nan) for way in WAYS] for seed in SEEDS]
        ds[name] = (("seed", "way"), values, {"units": units, "long_name": long_name})
    ds["accuracy"].attrs["n_test"] = ds["accuracy_before"].attrs["n_test"] = 10_000
    ds["seed"].attrs = {"units": "1", "long_name": "Seed of model and training"}
    ds["way"].attrs = {"units": "1", "long_name": "What is taken out"}
    config = {"qat": QAT.model_dump(mode="json"), "ways": WAYS, "sequences": SEQUENCES, "design": DESIGN}
    return ds.assign_attrs(
        title=f"Pruning of {MODEL} on sMNIST", **provenance(config, None, float(ds["time"].sum()))
    )


def reference(way: str) -> str:
    """The way that is trained as long and loses nothing."""
    return " ".join(["none", *(word for word in way.split() if word in ("twice", "long"))])


def lost(ds: xr.Dataset) -> xr.DataArray:
    """Points of accuracy that a way costs, against the same training without it."""
    base = [reference(str(way)) for way in ds["way"].values]
    whole = ds["accuracy"].sel(way=base).assign_coords(way=ds["way"])
    return (whole - ds["accuracy"]).assign_attrs(units="%", long_name="Accuracy lost")


def _spread(values: xr.DataArray, sign: str) -> str:
    """Mean and deviation over the seeds; of one seed the number."""
    known = values.dropna("seed")
    spread = f" ({float(known.std(ddof=1)):.2f})" if known.size > 1 else ", one seed"
    return f"{float(known.mean()):{sign}.2f}{spread}"


def table(ds: xr.Dataset) -> list[str]:
    """Of each way the mean and deviation over the seeds, and what is left of what "none" takes."""
    lines = [
        "| taken out | before training | after | lost | heads | states | ADC conversions | words | tiles' places "
        "| energy | of it cells | latency | area | ACE | model |",
        "|---" * 15 + "|",
    ]
    points = lost(ds)
    for way in ds["way"].values:
        own, base = ds.sel(way=way), ds.sel(way=reference(str(way)))
        if bool(own["accuracy"].isnull().all()):
            continue
        after, before = own["accuracy"], own["accuracy_before"]
        cells = [f"{float(before.mean()):.1f}", _spread(after, "")]
        cells.append("" if str(way).startswith("none") else _spread(points.sel(way=way), "+"))
        cells += [f"{float(own[name].mean()):.0f}" for name in ("heads", "states")]
        for name in ("conversions", "memory", "utilisation", "energy", "energy_cells", "latency", "area", "ace"):
            cells.append(f"{float((own[name] / base[name]).mean()):.2f}")
        cells.append(f"{float((own['model_size'] / base['model_size']).mean()):.2f}")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def draw(ds: xr.Dataset) -> None:
    """Points lost by each way, and shares of energy, words, conversions and places that are left."""
    import matplotlib.pyplot as plt

    known = ds["accuracy"].notnull().any("seed")
    ways = [str(way) for way in ds["way"].values[known.values] if not str(way).startswith("none")]
    points = lost(ds).sel(way=ways)
    base = [reference(way) for way in ways]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    rows = np.arange(len(ways))[::-1]
    for seed in ds["seed"].values:
        left.plot(
            points.sel(seed=seed), rows, "o", ms=5, color="0.65", label="a seed" if seed == ds["seed"][0] else None
        )
    left.plot(points.mean("seed"), rows, "D", ms=6, color="C0", label="mean")
    left.axvline(0, color="0.8", lw=1, zorder=0)
    for limit, style in ((0.5, "--"), (1.0, ":")):
        left.axvline(limit, color="C3", lw=1, ls=style, label=f"{limit:g} point{'s' * (limit != 1)}")
    left.set(xlabel="Accuracy lost against the same training (points)", yticks=rows, yticklabels=ways)
    left.legend(fontsize=8)
    for name, marker in (
        ("energy", "o"),
        ("memory", "s"),
        ("conversions", "^"),
        ("utilisation", "v"),
        ("ace", "x"),
    ):
        shares = (ds[name].sel(way=ways) / ds[name].sel(way=base).assign_coords(way=ways)).mean("seed")
        text = {"memory": "words", "utilisation": "tiles' places", "ace": "ACE"}.get(name, name)
        right.plot(shares, rows, marker, ms=6, label=text)
    right.set(xlabel="What is left of it", xlim=(0, 1.08))
    right.legend(fontsize=8, loc="lower left")
    for axes in (left, right):
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    figure.savefig(FIGURE, dpi=130)
    plt.close(figure)


def report(data: SequenceDataset) -> None:
    """Datasets, figure and table of what is there."""
    rows = gathered(data)
    FOUND.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ds = dataset(rows)
    save(ds, DATASET)
    draw(ds)
    print("\n".join(table(ds)))


def main() -> None:
    """Train what is asked for, or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument(
        "--ways", default=",".join(WAYS), help="comma-separated; 'full' trains in full precision only"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    data = imc_ssm.load_dataset("smnist")
    if given.report:
        report(data)
        return
    for seed in map(int, given.seeds.split(",")):
        for way in given.ways.split(","):
            if way == "full":
                full(data, seed, given.device)
            elif not file_of(seed, way).exists():
                compute(data, seed, way, given.device)


if __name__ == "__main__":
    main()
