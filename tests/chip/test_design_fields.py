"""Every field of a design and of its cell moves what physics says it moves, and nothing else.

`DESIGN` and `CELL` are the expectation: a field, another value, and the quantities that change. A field that is
not in them fails the test. The model is trained, quantized to 8 bits and compiled on tiles of 8 x 8, all real:

    programmed  the weights in the devices of one chip, right after programming
    output      what its tiles return a day later
    energy, latency, area by component, and the bits of memory: of `costs.cost`
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imc_ssm.chip import compile
from imc_ssm.costs import cost
from imc_ssm.datasets import SequenceDataset
from imc_ssm.devices import Chip, Design, device_path, load_design, resolve
from imc_ssm.devices.converters import Adc, Dac
from imc_ssm.devices.designs import Electrics
from imc_ssm.devices.pcm import PcmLike
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Scheme, calibration_batch

DAY = 86400.0
DIGITAL = ("energy/digital update", "energy/memories", "energy/movement")
DERIVED = {"control", "leakage"}
"""Components that follow from others: a share of what tiles take, and of area and time."""
SHARE = {"value": 0.1, "unit": "1", "source": "assumed: a test"}
STUCK = {"value": 1e-6, "unit": "S", "source": "assumed: a test"}
OHM = {"value": 20.0, "unit": "ohm", "source": "assumed: a test"}


def cited(value: float, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "source": "assumed: a test"}


DESIGN: dict[str, tuple[Any, set[str]]] = {
    "name": ("other", set()),
    "description": ("other", set()),
    "sources": ({}, set()),
    "cell": (
        "reram-cmo-falcone",
        {"programmed", "output", "energy/cells", "energy/lines", "latency/cells", "area/cells"},
    ),
    # Two row tiles in place of one: twice the columns to hold, convert, move, scale and add up; the inputs are
    # converted as often as before. Tiles of half the size, twice as many where the matrix needs them. More
    # constants to store. The codes still fit one transfer of the bus; the widest word is that of the recurrence.
    "rows": (
        4,
        {"output", "energy/adc", *DIGITAL, "latency/digital update", "latency/memories"}
        | {"energy/lines", "area/lines", "area/cells", "area/dac", "area/adc", "memory"},
    ),
    # More column blocks, each of which takes its inputs anew; 10 outputs leave 2 columns unused, not 6.
    "columns": (
        4,
        {"output", "energy/dac", "energy/lines", "energy/movement"}
        | {f"area/{part}" for part in ("lines", "dac", "cells", "adc")},
    ),
    "dac.type": ("pulse", {"energy/dac", "latency/dac", "area/dac"}),
    # Two devices for each polarity: half the variance, twice the devices.
    "devices": (2, {"programmed", "output", "energy/cells", "energy/lines", "area/cells"}),
    # One bit line a weight and one of references a tile; all devices stand in the middle of their range.
    "polarity": ("reference", {"programmed", "output", "energy/cells", "energy/lines", "area/cells"}),
    # Two digits on columns of their own: tiles hold half the weights, columns are converted twice, codes added.
    # The codes need a second transfer; a converter is shared by as many columns as before.
    "slicing": (
        {"cells": 2, "bits": 3},
        {"programmed", "output", "energy/cells", "energy/dac", "energy/adc", *DIGITAL}
        | {"latency/digital update", "latency/movement"}
        | {"energy/lines", "area/lines", "area/cells", "area/dac", "area/adc", "memory"},
    ),
    "wires": ({"row": OHM, "column": OHM}, {"programmed", "output"}),
    "packing": (True, set()),  # the parts of this model fill their tiles in one direction
    "dac.encoding": ("pulse-width", {"energy/cells", "energy/dac", "area/dac"}),
    "adc.offset": (1.0, {"output"}),
    "adc.gain_error": (0.02, {"output"}),
    "adc.inl": (1.0, {"output"}),
    "adc.noise": (0.5, {"output"}),
    "dac.bits": (6, {"output", "energy/cells", "energy/dac", "area/dac", "energy/movement"}),
    # An oscillator integrates: rows are driven again, and the array read, for every column that shares one.
    "adc.type": (
        "cco",
        {"energy/adc", "latency/adc", "area/adc", "energy/dac", "energy/lines", "latency/cells"},
    ),
    "adc.bits": (6, {"output", "energy/adc", "latency/adc", "area/adc", *DIGITAL, "memory", "latency/memories"}),
    "read_noise": (0.08, {"output"}),
    "drift_compensation": ("none", {"output"}),
    "tiles": (128, set()),  # the area is that of the tiles in use
    "columns_per_adc": (2, {"latency/adc", "area/adc"}),
    # With a table for that node, whose numbers decide for logic; lines and converters follow the node.
    "node": (28e-9, {"energy/lines", "area/lines", "area/dac", "area/adc"}),
    "clock": (5e8, {"latency/digital update", "latency/nonlinearity"}),
    # A lane has a bank of coefficients and states.
    "lanes": (
        4,
        {
            f"{name}/{part}"
            for name in ("latency", "area")
            for part in ("digital update", "nonlinearity", "memories")
        },
    ),
    "components": ("dear.toml", {"energy/digital update", "energy/nonlinearity"}),
    "sample_hold": ("slow", {"energy/adc", "latency/adc", "area/adc"}),
    "electrics.analog_supply": (cited(0.8, "V"), {"energy/adc"}),
    "electrics.logic_supply": (cited(0.8, "V"), {"energy/dac", "energy/lines"}),
    "electrics.line_voltage": (cited(1.8, "V"), {"energy/lines"}),
    "electrics.pulse": (cited(64e-9, "s"), {"energy/cells", "latency/cells"}),
    "electrics.conversion_rate": (cited(6e8, "Hz"), {"latency/adc", "area/adc"}),
    "electrics.cycle": (cited(2e-10, "s"), {"latency/adc", "area/adc"}),
}
"""Field of a design: another value, and what it changes."""
CELL: dict[str, tuple[Any, set[str]]] = {
    "name": ("other", set()),
    "kind": ("reram", set()),
    "description": ("other", set()),
    "source": ("another paper", set()),
    "times": ({"latest": 1e6}, set()),
    "g_min": (2e-6, {"programmed", "output", "energy/cells"}),
    # Noise is that of the conductance: a part of the window has relatively more. Rescaled to all of it: equal.
    "g_max": (20e-6, {"programmed", "output", "energy/cells"}),
    "rescaling": ("proportional", set()),
    "stuck_low": (SHARE, {"programmed", "output"}),
    "stuck_high": (SHARE, {"programmed", "output"}),
    "g_stuck_low": (STUCK, set()),  # no device is
    "g_stuck_high": (STUCK, set()),
    "v_read": (0.3, {"energy/cells", "energy/lines"}),
    "t_read": (64e-9, {"energy/cells", "latency/cells"}),
    "levels": (8, {"programmed", "output", "energy/cells"}),
    "area": (1e-13, {"area/cells", "energy/lines"}),  # longer lines
    "t_0": (10.0, {"output"}),
    "programming_scale": (0.5, {"programmed", "output"}),
    "read_scale": (0.5, {"output"}),
    "drift_scale": (0.5, {"output"}),
}
"""Field of the PCM cell: another value, and what it changes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Component tables of a user: the shipped one with further entries; dear products; another node."""
    path = tmp_path_factory.mktemp("tables")
    text = device_path("components", "periphery-32nm").read_text(encoding="utf-8")
    entry = "\n".join(
        f'{name} = {{ value = {value}, unit = "{unit}", source = "assumed: a test" }}'
        for name, value, unit in (("energy", 1e-12, "J"), ("latency", 5e-9, "s"), ("area", 1e-9, "m2"))
    )
    text += f'\n[[dac.pulse.sizes]]\ndescription = "test"\nbits = 8\n{entry}\n'
    text += f'\n[sample_hold.slow]\ndescription = "test"\n{entry}\n'
    (path / "base.toml").write_text(text, encoding="utf-8")
    (path / "dear.toml").write_text(text.replace("0.12820e-12", "1e-12"), encoding="utf-8")
    (path / "node.toml").write_text(text.replace("value = 32e-9", "value = 28e-9"), encoding="utf-8")
    shutil.copy(device_path("designs", "pcm-256"), path / "design.toml")
    return path


def _base(folder: Path) -> Design:
    return load_design(folder / "design.toml").with_(
        components=str(folder / "base.toml"), rows=8, columns=8, columns_per_adc=4
    )


def _with_field(design: Design, field: str, value: Any, folder: Path) -> Chip:
    """The chip of the design with one field changed."""
    outer, _, inner = field.partition(".")
    old = getattr(design, outer)
    if inner:
        value = old.with_(**{inner: value})
    elif hasattr(old, "value"):
        value = old.with_(value=value)
    elif field == "components":
        value = str(folder / value)
    changes = {outer: value}
    if field == "node":
        changes["components"] = str(folder / "node.toml")
    return resolve(design.with_(**changes))


def _with_cell_field(chip: Chip, field: str, value: Any) -> Chip:
    old = getattr(chip.cell, field)
    if field == "levels":
        value = chip.design.read_noise.with_(value=value)
    elif field == "times":
        value = old.with_(**value)
    elif hasattr(old, "value"):
        value = old.with_(value=value)
    return chip.with_(cell=chip.cell.with_(**{field: value}))


Measure = Callable[[Chip], dict[str, np.ndarray]]


@pytest.fixture
def measure(quantized: Callable[[Scheme], Classifier], digits: SequenceDataset) -> Measure:
    """All quantities of a chip."""
    model, calibration = quantized(Scheme()), calibration_batch(digits, 8, most=50)

    def found(chip: Chip) -> dict[str, np.ndarray]:
        placed = compile(model, chip, *calibration)
        _, layers = placed.analog()
        out = {"programmed": [], "output": []}
        for layer in layers:
            x = torch.randn(200, layer.mapped.inputs, generator=torch.Generator().manual_seed(0))
            made = layer.program(1, 1).programmed
            assert made is not None
            out["programmed"].append(made.weights().ravel())
            out["output"].append(layer.set_time(DAY)(layer.mapped.input_range * x).numpy().ravel())
        quantities = {name: np.concatenate(parts) for name, parts in out.items()}
        priced = cost(placed)
        for name in ("energy", "latency", "area"):
            for component in set(priced["component"].values.tolist()) - DERIVED:
                quantities[f"{name}/{component}"] = priced[name].sel(component=component).values
        return quantities | {"memory": priced["memory_total"].values}

    return found


def _changed(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> set[str]:
    """What differs by more than the rounding of single precision."""
    return {name for name in one if not np.allclose(one[name], two[name], rtol=1e-5, atol=1e-30)}


def test_every_field_is_expected() -> None:
    inner = {"dac", "adc", "electrics"}
    fields = set(Design.model_fields) - inner
    fields |= {f"dac.{field}" for field in Dac.model_fields} | {f"adc.{field}" for field in Adc.model_fields}
    fields |= {f"electrics.{field}" for field in Electrics.model_fields}
    assert set(DESIGN) == fields
    assert set(CELL) == set(PcmLike.model_fields) - {"model"}


def test_fields_of_a_design(measure: Measure, folder: Path) -> None:
    design = _base(folder)
    base = measure(resolve(design))
    for field, (value, expected) in DESIGN.items():
        other = _with_field(design, field, value, folder)
        assert other != resolve(design), field
        assert _changed(base, measure(other)) == expected, field


def test_fields_of_a_cell(measure: Measure, folder: Path) -> None:
    chip = resolve(_base(folder))
    base = measure(chip)
    for field, (value, expected) in CELL.items():
        other = _with_cell_field(chip, field, value)
        assert other != chip, field
        assert _changed(base, measure(other)) == expected, field


@pytest.mark.parametrize("kind", ["adc", "dac"])
def test_more_bits_cost_more(measure: Measure, folder: Path, kind: str) -> None:
    """8, 6 and 4 bits: energy and area, and with a SAR the time, in that order."""
    design = _base(folder)
    converters = [getattr(design, kind).with_(bits=bits) for bits in (4, 6, 8)]
    found = [measure(resolve(design.with_(**{kind: converter}))) for converter in converters]
    for name in ("energy", "area", *(["latency"] if kind == "adc" else [])):
        four, six, eight = (float(one[f"{name}/{kind}"]) for one in found)
        assert four < six < eight, name
