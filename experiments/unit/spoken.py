"""Does it hold for long sequences? Spoken digits, 4,096 steps, the shipped model of `experiments/audio`.

    python experiments/unit/spoken.py                 # some minutes

Everything at 8 bits without training, state of 6 and 8 bits, the forms of `grid.py`. Writes `results/spoken.nc`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import imc_ssm
from imc_ssm import results
from imc_ssm.quantization import Scheme

FOLDER = Path(__file__).parent
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
}
BITS = (6, 8)


def main() -> None:
    """Quantize, test, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=300, help="test sequences (all: 300)")
    asked = parser.parse_args()
    data = imc_ssm.load_dataset("fsdd")
    test = data.split("test").take(asked.sequences)
    calibration = data.split("train").sample(64, np.random.default_rng(0))
    found = np.full((len(MODELS), len(UNITS), len(BITS)), np.nan)
    exact = np.empty(len(MODELS))
    for m, name in enumerate(MODELS.values()):
        model = imc_ssm.load_model(FOLDER.parent / "audio" / "models" / f"{name}.safetensors").model
        exact[m] = imc_ssm.accuracy(model, test)
        for k, options in enumerate(UNITS.values()):
            for j, bits in enumerate(BITS):
                quantized = imc_ssm.quantize(model, Scheme.uniform(state=bits, **options), calibration)
                found[m, k, j] = imc_ssm.accuracy(quantized, test)
                print(name, *list(UNITS)[k : k + 1], bits, f"{found[m, k, j]:.2f} of {exact[m]:.2f} %", flush=True)
    ds = xr.Dataset(
        {
            "accuracy": (
                ("model", "unit", "bits_state"),
                found,
                {"units": "percent", "long_name": "Test accuracy"},
            ),
            "accuracy_exact": (("model",), exact, {"units": "percent", "long_name": "In full precision"}),
        },
        {"model": list(MODELS), "unit": list(UNITS), "bits_state": ("bits_state", list(BITS), {"units": "bit"})},
        {"n_test": len(test.values), "title": "Spoken digits, 4,096 steps, no training"},
    )
    results.save(ds, FOLDER / "results" / "spoken.nc")


if __name__ == "__main__":
    main()
