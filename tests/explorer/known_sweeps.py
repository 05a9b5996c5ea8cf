"""A sweep whose numbers are known by a formula."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from imc_ssm.sweeps import ChipPoint, Space

COMPONENTS = ("cells", "adc", "memories")
CELLS = ("pcm-nandakumar-2019", "reram-wan-2022")


def known_sweep(**base: Any) -> xr.Dataset:
    """3 resolutions x 2 cells x 2 seeds, 4 chips, 3 times: accuracy and energy are sums over the places."""
    bits, cells, seeds, chips, times = (
        np.arange(4, 10, 2),
        CELLS,
        np.arange(2),
        np.arange(4),
        [1.0, 3600.0, 86400.0],
    )
    dims = ("design.adc.bits", "design.cell", "seed")
    at = np.ix_(range(3), range(2), range(2), range(4), range(3))
    accuracy = 80 + 5.0 * at[0] + 2.0 * at[1] - 0.5 * at[2] - 1.0 * at[3] - 1.5 * at[4]
    part = np.ix_(range(3), range(2), range(2), range(3), range(3))
    energy = (
        1e-9 * (1 + part[0] + 0.5 * part[1] + 0 * part[2]) * (1 + part[3]) * np.array([0.5, 1.0, 2.0])[part[4]]
    )

    latency = 1e-6 * np.broadcast_to(at[0][..., 0, 0] + 1, (3, 2, 2))

    def about(units: str, text: str) -> dict[str, Any]:
        return {"units": units, "long_name": text}

    ds = xr.Dataset(
        {
            "accuracy": ((*dims, "chip", "time"), accuracy, about("percent", "Accuracy of programmed chips")),
            "accuracy_digital": (dims, accuracy.max((3, 4)) + 1, about("percent", "Digital accuracy")),
            "energy": ((*dims, "component", "bound"), energy, about("J", "Energy per inference")),
            "latency_total": (dims, latency, about("s", "Latency")),
        },
        {
            "design.adc.bits": ("design.adc.bits", bits, about("1", "Resolution")),
            "design.cell": ("design.cell", list(cells), about("1", "Memory cell")),
            "seed": ("seed", seeds, about("1", "Seed")),
            "chip": ("chip", chips, about("1", "Chip")),
            "time": ("time", times, about("s", "Time after programming")),
            "component": ("component", list(COMPONENTS), about("1", "Component")),
            "bound": ("bound", ["low", "nominal", "high"], about("1", "End of the constants' ranges")),
        },
    )
    space = Space.of({"design.adc.bits": bits.tolist(), "design.cell": list(cells), "seed": seeds.tolist()})
    point = ChipPoint.parse({"start": "q.safetensors", "task": "digits", "chips": 4, "times": times, **base})
    configuration = {
        "space": space.model_dump(mode="json", exclude_none=True) | {"order": list(space.axes)},
        "search": {"method": "grid"},
        "objective": {"point": point.model_dump(mode="json")},
    }
    ds.attrs = {
        "title": "Known sweep",
        "configuration": json.dumps(configuration),
        "n_test": 77,
        "split": "validation",
    }
    return ds
