"""What pruning costs and frees: s4d-64h on sMNIST, QAT at 8 bits, half of the states, a third of the heads, zeros.

    python experiments/pruning/run.py [SEEDS [WAYS]] | report

The models are those of `experiments/zhao2025/models`, quantized with the scheme "uniform" (8 bits). Each way takes
something out of the quantized model and trains what is left for an epoch of QAT on 20,000 of the training
sequences, drawn by the seed, after each of its rounds; "none" is trained as long, and is what the others are
compared with. Each number is kept at once in `results/found.jsonl`: the same command goes on where it stopped.
`report` makes
`results/pruning.nc` and prints the table of docs/pruning.md.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import imc_ssm
from imc_ssm.analysis import complexity
from imc_ssm.datasets import SequenceDataset
from imc_ssm.layers import Classifier
from imc_ssm.pruning import Pruning, run
from imc_ssm.quantization import quantize
from imc_ssm.results import provenance, save
from imc_ssm.training import History, TrainConfig, accuracy, train

HERE = Path(__file__).parent
FOUND, DATASET = HERE / "results" / "found.jsonl", HERE / "results" / "pruning.nc"
MODELS = HERE.parent / "zhao2025" / "models"
SEEDS, SEQUENCES, DESIGN = (0, 1), 20_000, "pcm-256"
QAT = TrainConfig(epochs=1, batch=64, learning_rate=5e-3)
WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "states": {"states": 0.5},
    "heads": {"heads": 0.3},
    "weights": {"weights": 0.6},
    "all": {"states": 0.5, "heads": 0.3, "weights": 0.6},
    "none twice": {"rounds": 2},
    "heads twice": {"heads": 0.3, "rounds": 2},
    "all twice": {"states": 0.5, "heads": 0.3, "weights": 0.6, "rounds": 2},
}
"""Name -> what is taken out."""
ABOUT = {
    "accuracy": ("%", "Test accuracy after training"),
    "accuracy_before": ("%", "Test accuracy before training"),
    "states": ("1", "Complex states of all heads"),
    "heads": ("1", "Heads"),
    "energy": ("J", "Energy of one inference"),
    "energy_cells": ("J", "Energy of the cells of one inference"),
    "conversions": ("1", "ADC conversions of one inference"),
    "memory": ("bit", "Words in digital memories"),
    "tiles": ("1", "Tiles in use"),
    "utilisation": ("1", "Share of the places of these tiles that hold a weight"),
    "ace": ("1", "ACE: MACs x bits x bits"),
    "model_size": ("bit", "Bits of all parameters"),
    "time": ("s", "Processor time of the training"),
}


def measured(model: Classifier, data: SequenceDataset) -> dict[str, float]:
    """What the model's graph takes on the chip."""
    deployment = imc_ssm.compile_model(model, DESIGN, data)
    cost, metrics = imc_ssm.cost(deployment), complexity(deployment)
    counts = [n for own in model.config.layer_of(0).state_counts(model.config.width) for n in [own]]
    return {
        "states": float(sum(counts)),
        "heads": float(model.config.width),
        "energy": float(cost.energy_total),
        "energy_cells": float(cost.energy.sel(component="cells")),
        "memory": float(cost.memory.sum()),
        "tiles": float(cost.tiles),
        "utilisation": float(cost.utilisation),
        **{name: float(metrics[name]) for name in ("conversions", "ace", "model_size")},
    }


def compute(data: SequenceDataset, seed: int, way: str) -> dict[str, float]:
    """One way of one seed."""
    exact = imc_ssm.load_model(MODELS / f"s4d-64h-seed{seed}.safetensors").model
    model, test = quantize(exact, "uniform", data), data.split("test")
    some = np.sort(np.random.default_rng(seed).choice(data.splits["train"], SEQUENCES, replace=False))
    part = replace(data, splits={**data.splits, "train": some})
    before: list[float] = []
    took = 0.0

    def trained(made: Classifier, number: int) -> History:
        nonlocal took
        before.append(accuracy(made, test))
        start = time.process_time()
        history = train(made, part, QAT.with_(seed=seed))
        took += time.process_time() - start
        return history

    if way.startswith("none"):
        for number in range(WAYS[way].get("rounds", 1)):
            trained(model, number)
    else:
        model = run(model, Pruning(seed=seed, **WAYS[way]), part, trained).model
    return {"accuracy": accuracy(model, test), "accuracy_before": before[-1], "time": took} | measured(model, data)


def found() -> dict[tuple[int, str], dict[str, float]]:
    """(seed, way) -> what was measured."""
    if not FOUND.exists():
        return {}
    rows = (json.loads(line) for line in FOUND.read_text().splitlines())
    return {(row["seed"], row["way"]): row for row in rows}


def dataset() -> xr.Dataset:
    """Everything that was found, NaN where nothing was."""
    rows = found()
    ds = xr.Dataset(coords={"seed": list(SEEDS), "way": list(WAYS)})
    for name, (units, long_name) in ABOUT.items():
        values = [[rows.get((seed, way), {}).get(name, np.nan) for way in WAYS] for seed in SEEDS]
        ds[name] = (("seed", "way"), values, {"units": units, "long_name": long_name})
    ds["accuracy"].attrs["n_test"] = ds["accuracy_before"].attrs["n_test"] = 10_000
    ds["seed"].attrs = {"units": "1", "long_name": "Seed of model and training"}
    config = {"qat": QAT.model_dump(mode="json"), "ways": WAYS, "sequences": SEQUENCES, "design": DESIGN}
    return ds.assign_attrs(
        title="Pruning of s4d-64h on sMNIST", **provenance(config, None, float(ds["time"].sum()))
    )


def table(ds: xr.Dataset) -> list[str]:
    """Of each way the mean over the seeds, and what is left of what "none" takes."""
    lines = [
        "| taken out | before training | after | heads | states | ADC conversions | words | tiles' places "
        "| energy | of it cells | ACE | model |",
        "|---" * 12 + "|",
    ]
    ds = ds.dropna("seed", how="all", subset=["accuracy"]).dropna("way", how="all", subset=["accuracy"])
    for way in ds["way"].values:
        own, base = ds.sel(way=way), ds.sel(way="none twice" if str(way).endswith("twice") else "none")
        cells = [f"{float(own[name].mean()):.2f} %" for name in ("accuracy_before", "accuracy")]
        cells += [f"{float(own[name].mean()):.0f}" for name in ("heads", "states")]
        for name in ("conversions", "memory", "utilisation", "energy", "energy_cells", "ace", "model_size"):
            cells.append(f"{float((own[name] / base[name]).mean()):.2f}")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    if sys.argv[1:] == ["report"]:
        ds = dataset()
        save(ds, DATASET)
        print("\n".join(table(ds)))
        return
    data = imc_ssm.load_dataset("smnist")
    seeds = [int(word) for word in sys.argv[1].split(",")] if len(sys.argv) > 1 else list(SEEDS)
    ways = sys.argv[2].split(",") if len(sys.argv) > 2 else list(WAYS)
    FOUND.parent.mkdir(exist_ok=True)
    for seed, way in itertools.product(seeds, ways):
        if (seed, way) not in found():
            row = {"seed": seed, "way": way} | compute(data, seed, way)
            with FOUND.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    main()
