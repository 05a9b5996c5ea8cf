"""Does it hold for long sequences? Spoken digits, 4,096 steps, the shipped model of `experiments/audio`.

    python experiments/unit/spoken.py                 # some minutes
    python experiments/unit/spoken.py --draw          # the figure alone, from the dataset that is there

Everything at 8 bits without training, state of 6 and 8 bits, the forms of `grid.py`. Writes `results/spoken.nc`
and `results/spoken.png`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from figures import spoken

import imc_ssm
from imc_ssm import results
from imc_ssm.layers import Classifier
from imc_ssm.plots import save_figure
from imc_ssm.quantization import Scheme

FOLDER = Path(__file__).parent
RESULT = FOLDER / "results" / "spoken.nc"
MODELS = {"layer norm": "audio-layer"}
UNITS: dict[str, dict[str, Any]] = {
    "to nearest, per head, separate": {"granularity": "head", "rounding_placement": "separate"},
    "to nearest": {"granularity": "state", "pole_form": "log_polar"},
    "stochastic": {"granularity": "state", "pole_form": "log_polar", "rounding": "stochastic"},
    "dithered": {"granularity": "state", "pole_form": "log_polar", "rounding": "dithered"},
    "dithered, slow heads": {
        "granularity": "state",
        "pole_form": "log_polar",
        "rounding": "dithered",
        "rate_limit": 1.5,
    },
    "recommended": {
        "granularity": "state",
        "pole_form": "log_polar",
        "pole_multiplier_bits": 12,
        "rounding": "dithered",
        "rate_limit": 1.5,
        "scales": "power_of_two",
        "weight_rounding": "outputs",
    },
    "error feedback": {"granularity": "state", "pole_form": "log_polar", "rounding": "feedback"},
}
BITS = (6, 8)


def main() -> None:
    """Quantize, test, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=300, help="test sequences (all: 300)")
    parser.add_argument("--draw", action="store_true", help="only draw what is there again")
    asked = parser.parse_args()
    if not asked.draw:
        results.save(measured(asked.sequences), RESULT)
    save_figure(spoken(results.load(RESULT)), RESULT.with_suffix(".png"))


def measured(sequences: int) -> xr.Dataset:
    """Accuracy of every form at every word length, and in full precision; what `RESULT` has of it is kept."""
    data = imc_ssm.load_dataset("fsdd")
    test = data.split("test").take(sequences)
    calibration = data.split("train").sample(64, np.random.default_rng(0))
    shape = (len(MODELS), len(UNITS), len(BITS))
    found, left, exact = np.full(shape, np.nan), np.full(shape[:2], np.nan), np.empty(len(MODELS))
    before = results.load(RESULT) if RESULT.exists() else None
    for m, (called, name) in enumerate(MODELS.items()):
        model = imc_ssm.load_model(FOLDER.parent / "audio" / "models" / f"{name}.safetensors").model
        exact[m] = imc_ssm.accuracy(model, test)
        for k, (form, options) in enumerate(UNITS.items()):
            for j, bits in enumerate(BITS):
                if before is not None and before.attrs["n_test"] == len(test.values) and form in before["unit"]:
                    at = {"model": called, "unit": form, "bits_state": bits}
                    found[m, k, j] = before["accuracy"].sel(at)
                quantized = imc_ssm.quantize(model, Scheme.uniform(state=bits, **options), calibration)
                left[m, k] = 100 * updates(quantized)
                if np.isnan(found[m, k, j]):
                    found[m, k, j] = imc_ssm.accuracy(quantized, test)
                print(name, form, bits, f"{found[m, k, j]:.2f} of {exact[m]:.2f} %", flush=True)
    percent = {"units": "percent"}
    return xr.Dataset(
        {
            "accuracy": (("model", "unit", "bits_state"), found, percent | {"long_name": "Test accuracy"}),
            "updates": (("model", "unit"), left, percent | {"long_name": "State updates that are left"}),
            "accuracy_exact": (("model",), exact, percent | {"long_name": "In full precision"}),
        },
        {"model": list(MODELS), "unit": list(UNITS), "bits_state": ("bits_state", list(BITS), {"units": "bit"})},
        {"n_test": len(test.values), "title": "Spoken digits, 4,096 steps, no training"},
    )


def updates(model: Classifier) -> float:
    """Share of the state updates that slow heads leave."""
    shares = []
    for block in model.blocks:
        rates = block.ssm.rates()
        shares.append(1.0 if rates is None else float(np.mean(1 / np.array(rates))))
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
