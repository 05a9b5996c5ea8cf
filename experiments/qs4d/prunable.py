"""What can go from models in full precision, 10 and 7 bits: digits, no training afterwards.

    python experiments/qs4d/prunable.py

The full-precision models of `models`, and QAT of each at 10 and 7 bits of everything (recipe of the study).
`fraction`: accuracy without the least salient states or weights; `greedy`: how many of them go while the
accuracy on **validation** sequences stays within a point of what it was (QS4D's criterion). Writes
`results/prunable.nc` and its figure.
"""

from __future__ import annotations

import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import imc_ssm
from imc_ssm import results
from imc_ssm.layers import Classifier
from imc_ssm.modelfile import StoredModel, save_model
from imc_ssm.pruning import Pruning, run, sparsity
from imc_ssm.quantization import Scheme, calibration_batch, quantize
from imc_ssm.training import TrainConfig, accuracy, train

HERE = Path(__file__).parent
MODELS, RUNS, OUT = HERE / "models", HERE / "runs", HERE / "results"
SEEDS, BITS, PARTS = range(5), (32, 10, 7), ("states", "weights")
FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
QAT = TrainConfig(epochs=30, batch=32, learning_rate=1e-2)
TOLERANCE, MOST = 1.0, 0.95


def model_at(bits: int, seed: int) -> Classifier:
    """In full precision (32), or after QAT at so many bits of everything."""
    exact = imc_ssm.load_model(MODELS / f"s4d-16h-seed{seed}.safetensors").model
    if bits == 32:
        return exact
    path = RUNS / f"uniform-{bits}-seed{seed}.safetensors"
    if not path.exists():
        data = imc_ssm.load_dataset("digits")
        scheme = Scheme.uniform(poles=bits, state=bits, weights=bits, activations=bits)
        model = quantize(exact, scheme, *calibration_batch(data, 16, 512, seed))
        train(model, data, QAT.with_(seed=seed), keep="last")
        RUNS.mkdir(exist_ok=True)
        save_model(path, StoredModel(model, scheme, {"task": "digits"}))
    return imc_ssm.load_model(path).model


def measured() -> xr.Dataset:
    """Accuracy over the fraction, and the greedy fraction."""
    data, start = imc_ssm.load_dataset("digits"), time.perf_counter()
    test = data.split("test")
    coords = {"seed": list(SEEDS), "bits": list(BITS), "part": list(PARTS), "fraction": list(FRACTIONS)}
    ds = xr.Dataset(coords=coords)
    ds["accuracy"] = (tuple(coords), np.full([len(c) for c in coords.values()], np.nan))
    ds["greedy"] = (("seed", "bits", "part"), np.full((len(SEEDS), len(BITS), len(PARTS)), np.nan))
    ds["accuracy_greedy"] = ds["greedy"].copy()
    for seed in SEEDS:
        for bits in BITS:
            model = model_at(bits, seed)
            for part in PARTS:
                at = {"seed": seed, "bits": bits, "part": part}
                for fraction in FRACTIONS:
                    plan = Pruning(seed=seed, **{part: fraction}) if fraction else None
                    left = model if plan is None else run(model, plan, data).model
                    ds["accuracy"].loc[at | {"fraction": fraction}] = accuracy(left, test)
                left = run(model, Pruning(seed=seed, tolerance=TOLERANCE, **{part: MOST}), data).model
                ds["accuracy_greedy"].loc[at] = accuracy(left, test)
                ds["greedy"].loc[at] = gone(model, left, part)
            print(seed, bits, ds.sel(seed=seed, bits=bits)["greedy"].values.round(2), flush=True)
    ds["accuracy"].attrs = {"units": "percent", "long_name": "Test accuracy", "n_test": len(test)}
    ds["accuracy_greedy"].attrs = {"units": "percent", "long_name": "Test accuracy, greedy", "n_test": len(test)}
    ds["greedy"].attrs = {"units": "1", "long_name": "Share that goes within a point of validation accuracy"}
    names = {
        "seed": "Seed",
        "bits": "Word length (32: full precision)",
        "part": "What goes",
        "fraction": "Share that goes",
    }
    for name, long_name in names.items():
        ds[name].attrs = {"units": "bit" if name == "bits" else "1", "long_name": long_name}
    config = {"qat": QAT.model_dump(mode="json"), "tolerance": TOLERANCE, "most": MOST}
    about = results.provenance(config, None, time.perf_counter() - start)
    return ds.assign_attrs(title="What can be pruned without training", **about)


def gone(before: Classifier, after: Classifier, part: str) -> float:
    """The share that went."""
    if part == "weights":
        return float(sparsity(after, "blocks.*"))
    states = [sum(one.config.layer_of(0).state_counts(one.config.width)) for one in (before, after)]
    return 1 - states[1] / states[0]


def draw(ds: xr.Dataset) -> None:
    """Accuracy over the share that goes; squares: what the greedy criterion takes."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for axis, part in zip(axes, PARTS, strict=True):
        for bits, colour in zip(BITS, ("black", "C0", "C1"), strict=True):
            own = ds.sel(part=part, bits=bits)
            label = "full precision" if bits == 32 else f"QAT, {bits} bits"
            mean, spread = own["accuracy"].mean("seed"), own["accuracy"].std("seed", ddof=1)
            axis.errorbar(
                100 * ds["fraction"], mean, spread, fmt="o-", ms=4, lw=1.3, capsize=2, color=colour, label=label
            )
            x, y = 100 * own["greedy"], own["accuracy_greedy"]
            said = "greedy, within a point of validation accuracy" if bits == 32 else None
            axis.errorbar(
                x.mean(),
                y.mean(),
                y.std(ddof=1),
                x.std(ddof=1),
                fmt="s",
                ms=8,
                mfc="none",
                color=colour,
                label=said,
            )
        axis.set(xlabel=f"{part.capitalize()} that go, no training afterwards (%)", ylim=(0, 101))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("Test accuracy (%)")
    axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(OUT / "prunable.png", dpi=120)
    plt.close(figure)


def main() -> None:
    """Measure, keep, draw."""
    ds = measured()
    results.save(ds, OUT / "prunable.nc")
    draw(ds)
    for part in PARTS:
        for bits in BITS:
            own = ds.sel(part=part, bits=bits)
            words = f"{100 * float(own['greedy'].mean()):.0f} ({100 * float(own['greedy'].std(ddof=1)):.0f}) % go"
            print(f"{part}, {bits} bits: {words}, {float(own['accuracy_greedy'].mean()):.2f} % right")


if __name__ == "__main__":
    main()
