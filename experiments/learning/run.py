"""What a teacher and learned ranges buy in QAT: the digits, everything at the same word length, five seeds.

    python experiments/learning/run.py [SEEDS [BITS [ROUNDINGS]]] | report

Each number that is found is kept at once in `results/found.jsonl`: the same command goes on where it stopped.
`report` makes `results/learning.nc` and prints the tables of docs/training.md. About three seconds of a core for
each training, and half a minute for each of the full-precision models, which are kept in `runs/`.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import imc_ssm
from imc_ssm.datasets import SequenceDataset
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.modelfile import load_model, save_model
from imc_ssm.quantization import Scheme, quantize
from imc_ssm.results import provenance, save
from imc_ssm.study import initial_steps
from imc_ssm.training import TrainConfig, accuracy, train

HERE = Path(__file__).parent
FOUND, DATASET = HERE / "results" / "found.jsonl", HERE / "results" / "learning.nc"
SEEDS, BITS, ROUNDINGS = (0, 1, 2, 3, 4), (8, 6, 5, 4), ("half_even", "dithered")
BASE = TrainConfig(epochs=60, batch=32, weight_decay=0.05)
QAT = TrainConfig(epochs=10, batch=64, learning_rate=1e-2)
WAYS: dict[str, dict[str, Any]] = {
    "QAT": {},
    "teacher": {"distill": 0.5},
    "ranges": {"ranges": "learned"},
    "both": {"distill": 0.5, "ranges": "learned"},
}
"""Name in the tables -> what is not the default."""
MEASURED = ("accuracy", "ptq", "loss_train", "time")


def exact(data: SequenceDataset, seed: int) -> Classifier:
    """The model in full precision: 16 heads of 32 complex states."""
    path = HERE / "runs" / f"digits-16h-seed{seed}.safetensors"
    if not path.exists():
        dt_min, dt_max = initial_steps(data.time)
        torch.manual_seed(seed)
        model = Classifier(ModelConfig(heads=16, n_state=64, dt_min=dt_min, dt_max=dt_max))
        train(model, data, BASE.with_(seed=seed), mode="convolution")
        path.parent.mkdir(exist_ok=True)
        save_model(path, model)
    return load_model(path).model


def compute(data: SequenceDataset, seed: int, bits: int, rounding: str, way: str) -> dict[str, float]:
    """Test accuracy in percent of one training, and of what it started from; processor time in s."""
    teacher = exact(data, seed)
    scheme = Scheme.uniform(poles=bits, state=bits, weights=bits, activations=bits, rounding=rounding)
    model, test = quantize(teacher, scheme, data), data.split("test")
    before, config = accuracy(model, test), QAT.with_(seed=seed, **WAYS[way])
    start = time.process_time()
    history = train(model, data, config, teacher=teacher if config.distill else None)
    took = time.process_time() - start
    return {"accuracy": accuracy(model, test), "ptq": before, "loss_train": history.loss_train[-1], "time": took}


def found() -> dict[tuple[int, int, str, str], dict[str, float]]:
    """(seed, bits, rounding, way) -> what was measured."""
    if not FOUND.exists():
        return {}
    rows = (json.loads(line) for line in FOUND.read_text().splitlines())
    return {(row["seed"], row["bits"], row["rounding"], row["way"]): row for row in rows}


def dataset(data: SequenceDataset) -> xr.Dataset:
    """Everything that was found, NaN where nothing was, and the accuracy in full precision."""
    rows = found()
    shape = len(SEEDS), len(BITS), len(ROUNDINGS), len(WAYS)
    dims = ("seed", "bits", "rounding", "way")
    coordinates = {"seed": list(SEEDS), "bits": list(BITS), "rounding": list(ROUNDINGS), "way": list(WAYS)}
    ds = xr.Dataset(coords=coordinates)
    about = {
        "accuracy": ("%", "Test accuracy after QAT"),
        "ptq": ("%", "Test accuracy before it"),
        "loss_train": ("1", "Mean loss of the last epoch, each its own"),
        "time": ("s", "Processor time of the training"),
    }
    for name in MEASURED:
        values = np.full(shape, np.nan)
        for place, key in zip(np.ndindex(shape), itertools.product(SEEDS, BITS, ROUNDINGS, WAYS), strict=True):
            if key in rows:
                values[place] = rows[key][name]
        units, long_name = about[name]
        ds[name] = (dims, values, {"units": units, "long_name": long_name})
    test = data.split("test")
    whole = [accuracy(exact(data, seed), test) for seed in SEEDS]
    ds["full_precision"] = ("seed", whole, {"units": "%", "long_name": "Test accuracy in full precision"})
    ds["accuracy"].attrs["n_test"] = len(test)
    ds["bits"].attrs = {"units": "bit", "long_name": "Word length of everything but the biases"}
    ds["seed"].attrs = {"units": "1", "long_name": "Seed of model and training"}
    config = {"base": BASE.model_dump(mode="json"), "qat": QAT.model_dump(mode="json"), "ways": WAYS}
    whole_time = float(ds["time"].sum())
    return ds.assign_attrs(title="A teacher and learned ranges in QAT", **provenance(config, None, whole_time))


def tables(ds: xr.Dataset) -> list[str]:
    """The table of the page: mean over the seeds, standard deviation; behind it the seeds that are better than
    without."""
    ways = [str(way) for way in ds["way"].values]
    lines = [
        f"| rounding | bits | PTQ | {' | '.join(ways)} |",
        "|---" * (3 + len(ways)) + "|",
    ]
    for rounding in ds["rounding"].values:
        for bits in ds["bits"].values:
            part = ds.sel(rounding=rounding, bits=bits)
            values = part["accuracy"].transpose("way", "seed").values
            if not np.isfinite(values).all():
                continue
            cells = [f"{float(part['ptq'].isel(way=0).mean()):.1f}"]
            for i, own in enumerate(values):
                better = f", {int((own > values[0]).sum())} of {len(own)}" if i else ""
                cells.append(f"{own.mean():.1f} ± {own.std(ddof=1):.1f}{better}")
            lines.append(f"| {str(rounding).replace('_', ' ')} | {int(bits)} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    data = imc_ssm.load_dataset("digits")
    if sys.argv[1:] == ["report"]:
        ds = dataset(data)
        save(ds, DATASET)
        print("\n".join(tables(ds)))
        print((ds["time"] / ds["time"].sel(way="QAT")).median(("seed", "bits", "rounding")).values)
        return
    chosen: list[Any] = [SEEDS, BITS, ROUNDINGS]
    for i, words in enumerate(sys.argv[1:]):
        chosen[i] = [word if i == 2 else int(word) for word in words.split(",")]
    FOUND.parent.mkdir(exist_ok=True)
    for seed, bits, rounding in itertools.product(*chosen):
        for way in WAYS:
            if (seed, bits, rounding, way) not in found():
                row = {"seed": seed, "bits": bits, "rounding": rounding, "way": way}
                row |= compute(data, seed, bits, rounding, way)
                with FOUND.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)


if __name__ == "__main__":
    main()
