"""What is smaller at the same accuracy, in the measures of the literature: ACE, model size, ADC complexity.

    python experiments/qs4d/complexity.py [--seeds 0,1] [--only 3 5] [--device cuda]
    python experiments/qs4d/complexity.py --report

s4d-64h on sMNIST (models of `experiments/zhao2025`), quantized to few bits, without some of its states and
heads, and trained (QAT with learned ranges, in two rounds where something goes). Compared with the model in
full precision, 32 bits each. `imc_ssm.analysis.complexity` counts; of ADCs, conversions times 2^bits, with as
many bits as activations have, against the same chip with converters of 8 bits, as numbers in full precision
have no converter. Every result is a model file in `runs`; `--report` makes `results/complexity.nc`, the figure,
and prints the table of docs/reduction.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

import imc_ssm
from imc_ssm import results
from imc_ssm.analysis import complexity
from imc_ssm.chip import Deployment, training_for
from imc_ssm.chip.subsets import drawn
from imc_ssm.datasets import SequenceDataset
from imc_ssm.devices import Design, load_design
from imc_ssm.kernels.device import named_device, placed
from imc_ssm.layers import Classifier
from imc_ssm.modelfile import StoredModel, save_model
from imc_ssm.pruning import Pruning, run
from imc_ssm.quantization import Scheme, calibration_batch, quantize
from imc_ssm.training import History, TrainConfig, accuracy, train

HERE = Path(__file__).parent
MODELS, RUNS = HERE.parent / "zhao2025" / "models", HERE / "runs"
DATASET, FIGURE = HERE / "results" / "complexity.nc", HERE / "results" / "complexity.png"
MODEL, SEEDS, DESIGN, REFERENCE_BITS = "s4d-64h", (0, 1), "pcm-256", 8
SEQUENCES = 2000
"""Test sequences on tiles."""
ABOUT = {
    "accuracy": ("percent", "Test accuracy, integers"),
    "accuracy_tiles": ("percent", "Test accuracy on tiles of exact cells (full precision: as it is)"),
    "macs": ("1", "Multiply-accumulates of an inference"),
    "ace": ("1", "ACE: MACs x bits x bits"),
    "model_size": ("bit", "Bits of all parameters"),
    "conversions": ("1", "ADC conversions of an inference"),
    "adc_complexity": ("1", "ADC complexity: conversions x 2^bits"),
}
QAT = TrainConfig(epochs=1, batch=128, learning_rate=7e-3, ranges="learned")


class Reduced(NamedTuple):
    """Word lengths, and what is taken out."""

    poles: int
    state: int
    weights: int
    activations: int
    states: float = 0.0
    heads: float = 0.0
    after: str | None = None
    """The way that is trained first; fractions are then of what it left."""
    converters: bool = False
    """Whether the last epoch meets tiles of exact cells with converters as wide as the activations."""

    @property
    def scheme(self) -> Scheme:
        """Weights are rounded for their outputs, poles in polar form, states dithered; free scales."""
        words = {
            "poles": self.poles,
            "state": self.state,
            "weights": self.weights,
            "activations": self.activations,
        }
        return Scheme.recommended(**words, scales="free", rate_limit=None)


WAYS = {
    "8 bits": Reduced(8, 8, 8, 8),
    "W4A6 A6 x6": Reduced(6, 6, 4, 6),
    "W4A5 A6 x6": Reduced(6, 6, 4, 5),
    "W4A5 A6 x6, half of the states": Reduced(6, 6, 4, 5, states=0.5),
    "W4A5 A5 x6, half of the states": Reduced(5, 6, 4, 5, states=0.5),
    "W4A5 A6 x6, 60 % of the states": Reduced(6, 6, 4, 5, states=0.2, after="W4A5 A6 x6, half of the states"),
    "W4A5 A6 x6, 60 % of the states, trained for 5-bit converters": Reduced(
        6, 6, 4, 5, states=0.2, after="W4A5 A6 x6, half of the states", converters=True
    ),
    "W3A5 A5 x6, half of the states, 20 % of the heads": Reduced(5, 6, 3, 5, states=0.5, heads=0.2),
    "W4A4 A5 x6, half of the states": Reduced(5, 6, 4, 4, states=0.5),
}
"""Name -> how."""


def file_of(seed: int, way: str) -> Path:
    """Where a model is kept."""
    words = way.replace(", ", "-").replace(" % of the ", "-").replace(" of the ", "-").replace(" ", "-")
    return RUNS / f"reduced-{words}-seed{seed}.safetensors"


def compute(data: SequenceDataset, seed: int, way: str, device: str) -> None:
    """One model."""
    how, test = WAYS[way], data.split("test")
    if how.after is None:
        exact = imc_ssm.load_model(MODELS / f"{MODEL}-seed{seed}.safetensors").model
        model = quantize(exact, how.scheme, *calibration_batch(data, exact.config.width, 512, seed), device=device)
    else:
        model = imc_ssm.load_model(file_of(seed, how.after)).model
    recipe = training_for(tiles(how.activations), QAT) if how.converters else None
    config, disturbance = (QAT, None) if recipe is None else (recipe.config, recipe.disturbance)
    start = time.perf_counter()

    def trained(made: Classifier, number: int) -> History:
        own = config.with_(seed=seed)
        history = train(made, data, own, keep="last", device=device, disturbance=disturbance)
        print(seed, way, number, history.accuracy_validation, f"{time.perf_counter() - start:.0f} s", flush=True)
        return history

    if how.states or how.heads:
        plan = Pruning(states=how.states, heads=how.heads, rounds=1 if how.after else 2, seed=seed)
        model = run(model, plan, data, trained).model
    else:
        trained(model, 0)
        trained(model, 1)
    took = time.perf_counter() - start
    with placed(model, named_device(device)):
        reached = accuracy(model, test)
    about = {
        "task": "smnist",
        "training": config.model_dump(mode="json"),
        "accuracy_test": reached,
        "time_s": took,
    }
    RUNS.mkdir(exist_ok=True)
    save_model(file_of(seed, way), StoredModel(model, model.scheme, about | {"device": device}))
    print(seed, way, reached, flush=True)


def tiles(bits: int) -> Design:
    """Exact cells, with converters of so many bits."""
    return load_design(DESIGN).with_(cell="ideal", adc_bits=bits, dac_bits=bits, read_noise=0.0)


def deployed(model: Classifier, data: SequenceDataset, bits: int) -> Deployment:
    """On tiles of exact cells whose converters have as many bits as the activations."""
    return imc_ssm.compile_model(model, tiles(bits), data)


def counted(model: Classifier, data: SequenceDataset, bits: int) -> dict[str, float]:
    """Measures of the literature, converters included, and the test accuracy with these converters."""
    deployment = deployed(model, data, bits)
    measures = complexity(deployment)
    found = imc_ssm.evaluate(deployment, data, 1, (1.0,), sequences=SEQUENCES, seed=0)
    names = ("macs", "ace", "model_size", "conversions", "adc_complexity")
    return {"accuracy_tiles": float(found["accuracy"].mean())} | {name: float(measures[name]) for name in names}


def dataset(data: SequenceDataset) -> xr.Dataset:
    """Everything that was found, NaN where nothing was. "full precision": 32 bits, and converters of 8."""
    ways = ["full precision", *WAYS]
    ds = xr.Dataset(coords={"seed": list(SEEDS), "way": ways})
    for name, (units, long_name) in ABOUT.items():
        ds[name] = (
            ("seed", "way"),
            np.full((len(SEEDS), len(ways)), np.nan),
            {"units": units, "long_name": long_name},
        )
    seconds = 0.0
    for seed in SEEDS:
        exact = imc_ssm.load_model(MODELS / f"{MODEL}-seed{seed}.safetensors")
        whole = complexity(exact.model, data.time)
        wide = quantize(exact.model, "uniform", data)
        with_converters = counted(wide, data, REFERENCE_BITS)
        same = accuracy(exact.model, drawn(data.split("test"), SEQUENCES, "paired", 0, 0))
        row = with_converters | {"accuracy": exact.info["accuracy_test"], "accuracy_tiles": same}
        row |= {name: float(whole[name]) for name in ("macs", "ace", "model_size")}
        rows = {"full precision": row}
        for way, how in WAYS.items():
            if file_of(seed, way).exists():
                stored = imc_ssm.load_model(file_of(seed, way))
                rows[way] = {"accuracy": stored.info["accuracy_test"]} | counted(
                    stored.model, data, how.activations
                )
                seconds += stored.info["time_s"]
            elif DATASET.exists():  # a clone has no models: what was counted of them stays
                before = results.load(DATASET)
                if way in before["way"].values and seed in before["seed"].values:
                    kept = before.sel(way=way, seed=seed)
                    rows[way] = {name: float(kept[name]) for name in ABOUT if name in kept}
        for way, own in rows.items():
            for name, value in own.items():
                ds[name].loc[{"seed": seed, "way": way}] = value
    ds["accuracy"].attrs["n_test"] = len(data.split("test"))
    ds["accuracy_tiles"].attrs["n_test"] = SEQUENCES
    ds["seed"].attrs = {"units": "1", "long_name": "Seed of model and training"}
    ds["way"].attrs = {"units": "1", "long_name": "Word lengths, and what is taken out"}
    config = {"qat": QAT.model_dump(mode="json"), "ways": {name: list(how) for name, how in WAYS.items()}}
    about = results.provenance(
        config | {"design": DESIGN, "cell": "ideal", "bits": "of the activations"}, None, seconds
    )
    return ds.assign_attrs(title=f"Complexity of {MODEL} on sMNIST", **about)


def reductions(ds: xr.Dataset) -> xr.Dataset:
    """How many times less each way takes than full precision, and the points of accuracy that it loses."""
    whole = ds.sel(way="full precision")
    out = xr.Dataset({name: whole[name] / ds[name] for name in ("ace", "model_size", "adc_complexity")})
    out["lost"] = whole["accuracy"] - ds["accuracy"]
    out["lost_tiles"] = whole["accuracy_tiles"] - ds["accuracy_tiles"]
    return out


def _each(values: xr.DataArray) -> str:
    """The mean, and every seed."""
    known = values.dropna("seed")
    return f"{float(known.mean()):.2f} ({', '.join(f'{float(v):.2f}' for v in known)})"


def table(ds: xr.Dataset) -> list[str]:
    """Every way that was measured, mean of its seeds."""
    lines = [
        "| words | accuracy | lost | on exact tiles | lost | ACE less by | size by | ADC complexity by |",
        "|---" * 8 + "|",
    ]
    less = reductions(ds)
    for way in ds["way"].values:
        own, ratio = ds.sel(way=way).dropna("seed", subset=["accuracy"]), less.sel(way=way)
        if own.sizes["seed"]:
            tiles = own["accuracy_tiles"]
            cells = [f"{float(own['accuracy'].mean()):.2f}", _each(ratio["lost"])]
            cells += [f"{float(tiles.mean()):.2f}", _each(ratio["lost_tiles"])]
            cells += [f"{float(ratio[name].mean()):.1f}" for name in ("ace", "model_size", "adc_complexity")]
            lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def draw(ds: xr.Dataset) -> None:
    """Accuracy over how many times less is taken, of every measure."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    less = reductions(ds)
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), sharey=True, layout="constrained")
    whole = float(ds["accuracy"].sel(way="full precision").mean())
    for axis, (name, label, asked) in zip(
        axes,
        (("ace", "ACE", 50), ("model_size", "Model size", 8), ("adc_complexity", "ADC complexity", 6)),
        strict=True,
    ):
        axis.axhspan(whole - 1, whole, color="0.93", label="within a point of full precision")
        axis.axvline(asked, color="0.6", ls="--", lw=1, label="reduction looked for")
        for number, way in enumerate(str(way) for way in ds["way"].values):
            y = ds["accuracy_tiles" if name == "adc_complexity" else "accuracy"].sel(way=way).dropna("seed")
            if y.size:
                x = less[name].sel(way=way, seed=y["seed"])
                axis.plot(x, y, "o", ms=6, color="black" if number == 0 else f"C{number - 1}", label=way)
        axis.set(xscale="log", xlabel=f"{label}, times less")
        axis.set_title("on exact tiles" if name == "adc_complexity" else "in integers", fontsize=9)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("Test accuracy (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(FIGURE, dpi=120)
    plt.close(figure)


def main() -> None:
    """Train what is asked for, or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument(
        "--only", type=int, nargs="*", default=range(len(WAYS)), help="numbers of the ways, from 0"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    data = imc_ssm.load_dataset("smnist")
    if given.report:
        ds = dataset(data)
        results.save(ds, DATASET)
        draw(ds)
        print("\n".join(table(ds)))
        return
    for seed in map(int, given.seeds.split(",")):
        for way in [list(WAYS)[number] for number in given.only]:
            if not file_of(seed, way).exists():
                compute(data, seed, way, given.device)


if __name__ == "__main__":
    main()
