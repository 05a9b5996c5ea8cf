"""What a table of gates does to prices: of one update against whole lanes of gates, and of a model on a chip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from imc_ssm import (
    Classifier,
    ModelConfig,
    compile_model,
    cost,
    load_dataset,
    load_design,
    quantize,
    resolve_design,
)
from imc_ssm.costs.tabulated import Tabulated
from imc_ssm.devices import Digital, load_components
from imc_ssm.devices.constants import load_constants
from imc_ssm.graph.actions import Action, Actions
from imc_ssm.pricing.intervals import nominal

from .compare import NAMES
from .table import BASE, SHIPPED, TABLE, Brought, mean

__all__ = ["LANES", "TABLES", "costs", "lane_table", "model_table", "priced", "synthesised"]

BITS = 8
"""Of states and of all other codes."""
ACCUMULATOR = 32
SCHEMES = {"uniform": "free scales", "recommended": "recommended: powers of two, dithered"}


def _lanes() -> dict[str, list[Action]]:
    """What the cost model counts for one update of a complex state, by lane: products, sums with accumulators and
    shifts, of the words that the lanes have (docs/gates.md, Lanes), and the new state's register.
    """
    at, n = Actions("step"), BITS
    product = 2 * n + 1
    state = at.add(2, n, "")[1]
    folded = [
        at.multiply(4, n, ACCUMULATOR - n, "a x"),
        *at.add(2, ACCUMULATOR, "a x"),
        at.multiply(2, 8, ACCUMULATOR - 7, "b u"),
        *at.add(2, ACCUMULATOR, "a x + b u"),
        state,
    ]
    same = [at.multiply(4, n, 8, "a x"), *at.add(2, product, "a x"), at.multiply(2, 8, 8, "b u")]
    apart = [
        *same,
        at.multiply(2, product, ACCUMULATOR - 8 - n, "requantize a x"),
        at.multiply(2, 16, ACCUMULATOR - 15, "requantize b u"),
        *at.add(2, ACCUMULATOR, "a x + b u"),
        state,
    ]
    shifted = [Action("digital update", "shift", 4, (n + 16, 3), "left"), *at.add(2, n + 16, "a x + b u")]
    shifted += [Action("digital update", "shift", 2, (n + 16, 4), "right"), state]
    return {"lane_folded": folded, "lane_multiplied": apart, "lane_shifts": [*same, *shifted]}


LANES = _lanes()


def priced(digital: Digital, actions: Sequence[Action]) -> tuple[float, float]:
    """J of all of these actions, and m2 of a circuit for each."""
    table = Tabulated(digital, nominal(load_constants().entries))
    energy = sum(action.count * table.joules(action.verb, action.bits) for action in actions)
    area = sum(action.count * table.silicon(action.verb, action.bits) for action in actions)
    return float(energy), float(area)


FAMILIES = {
    "multiply": {"multiply": None, "multiply_8": 8, "multiply_24": 24},
    "add": {"add": None},
    "register": {"register": None},
    "shift": {"shift_3": 3, "shift_5": 5},
}
"""Verb of an action -> blocks that do it, with the width or stages that they have beside n."""


def synthesised(used: Brought, actions: Sequence[Action]) -> tuple[float, float]:
    """As `priced`, from the synthesised words nearest to those of the actions, in proportion to their sizes."""
    energies, areas = mean(used.energy.sel(bound="nominal")), mean(used.area)
    energy = area = 0.0
    for action in actions:
        own = sorted(action.bits)
        words = []
        for block, other in FAMILIES[action.verb].items():
            for n in energies.sel(block=block).dropna("bits")["bits"].values:
                have = sorted([int(n)] * len(own) if other is None else [int(n), other])
                words.append((math.dist(np.log(have), np.log(own)), math.prod(own) / math.prod(have), block, n))
        _, times, block, n = min(words)
        energy += action.count * times * float(energies.sel(block=block, bits=n))
        area += action.count * times * float(areas.sel(block=block, bits=n))
    return energy, area


def lane_table(ds: xr.Dataset, path: Path = TABLE, libraries: tuple[str, ...] = SHIPPED) -> list[str]:
    """An update of an 8-bit state: synthesised lanes at 32 nm over sums of prices and of single blocks."""
    rows = [
        "| lane | whole, pJ | low to high | sum of | sum, pJ | whole / sum | low / sum | um2 | area / sum |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    used = Brought(ds.sel(library=list(libraries)))
    tables = {f"`{digital.name}`": digital for digital in map(load_components, (BASE, path))}
    for lane, actions in LANES.items():
        energies, area = (mean(v).sel(block=lane, bits=BITS) for v in (used.energy, used.area))
        low, middle, high = (float(energies.sel(bound=bound)) for bound in ("low", "nominal", "high"))
        sums = {name: priced(digital, actions) for name, digital in tables.items()}
        for name, (energy, silicon) in (sums | {"single blocks": synthesised(used, actions)}).items():
            cells = [NAMES[lane].removeprefix("lane, "), f"{middle * 1e12:.3g}"]
            cells += [f"{low * 1e12:.3g} to {high * 1e12:.3g}", name, f"{energy * 1e12:.3g}"]
            cells += [f"{middle / energy:.2f}", f"{low / energy:.2f}", f"{float(area) * 1e12:,.0f}"]
            rows.append("| " + " | ".join([*cells, f"{float(area) / silicon:.2f}"]) + " |")
    return rows


@cache
def costs(scheme: str, path: Path) -> tuple[xr.Dataset, xr.Dataset]:
    """A layer of 16 heads with 32 complex states, seed 0, on `pcm-256`: under the base table, that at `path`."""
    torch.manual_seed(0)
    data = load_dataset("digits")
    model = quantize(Classifier(ModelConfig(heads=16)), scheme, data)
    design = load_design("pcm-256")
    found = [
        cost(compile_model(model, resolve_design(design.with_(components=str(name))), data))
        for name in (BASE, path)
    ]
    return found[0], found[1]


def model_table(ds: xr.Dataset, path: Path = TABLE, libraries: tuple[str, ...] = SHIPPED) -> list[str]:
    """Energy, latency and area of one inference under both tables."""
    rows = [f"| scheme | quantity | `{BASE}` | low to high | `{path.stem}` | low to high | ratio |"]
    rows.append("|---|---|---|---|---|---|---|")
    units = {"energy": (1e9, "nJ"), "latency": (1e6, "us"), "area": (1e6, "mm2")}
    for scheme, words in SCHEMES.items():
        pair = costs(scheme, path)
        for quantity, (unit, symbol) in units.items():
            for part in ("digital update", "total"):
                spans = [
                    one[f"{quantity}_total_bounds"]
                    if part == "total"
                    else one[f"{quantity}_bounds"].sel(component=part)
                    for one in pair
                ]
                cells = [words, f"{quantity}, {part}, {symbol}"]
                for low, middle, high in (span.values * unit for span in spans):
                    cells += [f"{middle:.3g}", f"{low:.3g} to {high:.3g}"]
                ratio = float(spans[1].sel(bound="nominal") / spans[0].sel(bound="nominal"))
                rows.append("| " + " | ".join([*cells, f"{ratio:.2f}"]) + " |")
    return rows


TABLES = (lane_table, model_table)
