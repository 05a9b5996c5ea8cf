"""What each choice of a tile does to accuracy, energy and area: one model, one chip, one field changed at a time.

    imc-ssm experiment run tiles

The digits' classifier (noise-aware QAT at 8 bits) on pcm-256 with other devices, polarities, slices,
pulses, converters and compensation. Every seed trains anew; its chips have the same numbers in every variant.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from imc_ssm.devices import load_design
from imc_ssm.layers import ModelConfig
from imc_ssm.quantization import Scheme
from imc_ssm.study import Cost, Deploy, Experiment, Qat, Study, initial_steps
from imc_ssm.study.demo import RECIPE, VARIABLES, over_chips

DT_MIN, DT_MAX = initial_steps(64)
SIX = {"type": "sar", "bits": 6}
SERIAL = {"type": "bipolar", "bits": 8, "encoding": "bit-serial"}
ERRORS = {"offset": 1.0, "gain_error": 0.02, "inl": 1.0, "noise": 0.5}
VARIANTS: dict[str, dict[str, Any]] = {
    "pcm-256 as it is": {},
    "2 devices a polarity": {"devices": 2},
    "4 devices a polarity": {"devices": 4},
    "reference column": {"polarity": "reference"},
    "2 slices of 4 bits": {"slicing": {"cells": 2, "bits": 4}},
    "4 slices of 2 bits": {"slicing": {"cells": 4, "bits": 2}},
    "pulse-width inputs": {"dac": {"type": "pulse-width", "bits": 8, "encoding": "pulse-width"}},
    "bit-serial inputs": {"dac": SERIAL},
    "6-bit ADC": {"adc": SIX},
    "6-bit ADC, bit-serial": {"adc": SIX, "dac": SERIAL},
    "ADC with errors": {"adc": {"type": "sar", "bits": 8} | ERRORS},
    "compensated by column": {"drift_compensation": "column"},
    "not compensated": {"drift_compensation": "none"},
    "matrices packed": {"packing": True},
}
SCHEME = Scheme.uniform(poles=8, state=8)


def jobs(variant: str) -> tuple[Deploy, Cost]:
    """The chips of a variant and their cost."""
    design = load_design("pcm-256").with_(VARIANTS[variant])
    tuned = Qat(start="s4d", scheme=SCHEME)
    return Deploy(start=tuned, design=design), Cost(start=tuned, design=design)


def draw(ds: xr.Dataset) -> Figure:
    """Accuracy after 1 s and 30 days, energy and area of every variant."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 5.2), sharey=True, layout="constrained")
    names = ds["tile"].values
    place = np.arange(len(names))[::-1]
    chips = over_chips(ds)
    for seconds, color, marker in ((1.0, "C0", "o"), (86400.0, "C1", "s"), (30 * 86400.0, "C3", "D")):
        each = chips.sel(time=seconds)
        label = {1.0: "1 s", 86400.0: "1 day"}.get(seconds, "30 days")
        error = each.std("seed") if each.sizes["seed"] > 1 else None
        axes[0].errorbar(
            each.mean("seed"), place, xerr=error, fmt=marker, color=color, label=label, capsize=2, ms=4
        )
    axes[0].set_yticks(place, names)
    axes[0].set_xlabel("accuracy of chips (%)")
    axes[0].legend(title="after", loc="center left")
    axes[1].barh(place, ds["energy"].sum("component").mean("seed") * 1e9, color="C2")
    axes[1].set_xlabel("energy an inference (nJ)")
    axes[2].barh(place, ds["area"].sum("component").mean("seed") * 1e6, color="C4")
    axes[2].set_xlabel("area of tiles and unit (mm$^2$)")
    for axis in axes:
        axis.grid(axis="x", alpha=0.3)
    return figure


STUDY = Study(
    "tiles",
    "Choices of a tile",
    "digits",
    RECIPE,
    (
        Experiment(
            "tiles",
            "One field of pcm-256 changed at a time, digits",
            {"tile": tuple(VARIANTS)},
            lambda cell: jobs(cell["tile"]),
            variables=VARIABLES,
            seeds=5,
            figure=draw,
            headline=over_chips,
        ),
    ),
    models={"s4d": ModelConfig.parse({"heads": 16, "n_state": 64, "dt_min": DT_MIN, "dt_max": DT_MAX})},
    coordinates={"tile": ("1", "Variant of the tile"), "seed": ("1", "Seed")},
)
