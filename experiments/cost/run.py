"""What two shipped models take on every shipped chip: `cost.nc`, its figure, and all numbers of docs/cost.md.

    python experiments/cost/run.py

The models are the full-precision ones that ship (sequential MNIST, seed 0), quantized to 8 bits without training
and calibrated on the 8 x 8 digits, each pixel drawn 3.5 times as wide and high: 784 steps, nothing to download.
Half a minute. `arithmetic.py` evaluates the hand calculation of the page.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import imc_ssm
from imc_ssm import results
from imc_ssm.costs import CostPlan, by_operator, swings
from imc_ssm.devices import device_names
from imc_ssm.files import atomic_path
from imc_ssm.fixedpoint import Multipliers
from imc_ssm.graph import Recurrence
from imc_ssm.plots import component_stacks, save_figure, styled
from imc_ssm.pretrained import pretrained_path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import arithmetic  # noqa: E402  (beside this file)

PAGE = HERE.parents[1] / "docs" / "cost.md"
FIGURE = HERE.parents[1] / "docs" / "cost.png"
DATASET = HERE / "cost.nc"
MODELS = ("s4d-16h", "s4d-64h")
DESIGN = "pcm-256"
"""That of the changes and of the hand calculation, with the first model."""
PRICES = ("energy", "latency", "area")
BOUNDED = [f"{name}{part}_bounds" for name in PRICES for part in ("", "_total")]
FIGURES = [
    *("throughput", "power", "energy_per_mac", "macs", "tiles", "memory_total"),
    *("tops", "tops_per_watt", "tops_per_mm2", "tops_peak", "tops_per_watt_peak", "tops_per_mm2_peak"),
]


@functools.cache
def sequences(count: int = 64) -> torch.Tensor:
    """(count, 784, 1): digits at 28 x 28."""
    images = np.asarray(imc_ssm.load_dataset("digits").values[:count]).reshape(count, 8, 8)
    at = np.arange(28) * 8 // 28
    return torch.as_tensor(images[:, at][:, :, at].reshape(count, 784, 1))


@functools.cache
def quantized(
    model: str, scheme: str = "uniform", options: tuple[tuple[str, Any], ...] = ()
) -> imc_ssm.Classifier:
    """A shipped model in the words of a scheme."""
    shipped = imc_ssm.load_model(pretrained_path(model)).model
    return imc_ssm.quantize(shipped, imc_ssm.Scheme.named(scheme, **dict(options)), sequences())


def deployed(model: str, design: Any = DESIGN, scheme: str = "uniform", **options: Any) -> imc_ssm.Deployment:
    """It on a chip."""
    return imc_ssm.compile_model(quantized(model, scheme, tuple(options.items())), design, sequences(), name=model)


def dataset() -> xr.Dataset:
    """Both models on all designs (model, design, component, bound); of the first model on `DESIGN` what changes do
    (change), what constants do (constant, end), and its operators' energies (operator)."""
    designs = device_names("designs")
    rows = [[imc_ssm.cost(deployed(model, design))[BOUNDED + FIGURES] for design in designs] for model in MODELS]
    ds = xr.concat([xr.concat(row, "design", coords="minimal") for row in rows], "model", coords="minimal")
    ds = ds.assign_coords(
        model=("model", list(MODELS)), design=("design", designs), component=rows[0][0]["component"].values
    )
    first = deployed(MODELS[0])
    plan, made = CostPlan(first), changes()
    found = [plan(**change) if isinstance(change, dict) else CostPlan(change)() for change in made.values()]
    ds = ds.assign_coords(change=("change", list(made)))
    for name, units in zip(PRICES, ("J", "s", "m2"), strict=True):
        text = {"units": units, "long_name": f"{name.capitalize()} with a change"}
        ds[f"{name}_changed"] = ("change", np.array([float(one.total(name)) for one in found]), text)
    moved = swings(first)
    ds["energy_swung"] = moved["energy"].isel(constant=slice(8))
    squares = np.log(moved["energy"].sel(end="high").values / float(moved["energy_total"])) ** 2
    text = {"units": "1", "long_name": "Share of the squared upper deviation of the logarithm of energy"}
    ds["upper_share"] = ("constant", (squares / squares.sum())[:8], text)
    operators = {op.name: sum(parts.values()) for op, parts in by_operator(first).items()}
    operators = {name: joules for name, joules in operators.items() if joules > 0}
    ds = ds.assign_coords(operator=("operator", list(operators)))
    text = {"units": "J", "long_name": "Energy per inference of an operator"}
    ds["operator_energy"] = ("operator", np.array(list(operators.values())), text)
    ds.attrs = {"title": "Two models on every shipped chip", "steps": 784}
    return ds


def figure(ds: xr.Dataset) -> Any:
    """Energy, latency and area by component, a row of panels for each model."""
    with styled(15.0, 8.6, "cost") as drawn:
        rows = drawn.subplots(len(MODELS), 3, sharey=True)
        for model, panels in zip(MODELS, rows, strict=True):
            for name, ax in zip(PRICES, panels, strict=True):
                component_stacks(ds.sel(model=model), name, ax)
            panels[0].set_ylabel(model, weight="bold")
        found = {}
        for ax in rows.ravel():
            found |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        order = [str(name) for name in ds["component"].values if name in found]
        drawn.legend([found[name] for name in order], order, loc="outside lower center", ncols=10, frameon=False)
    return drawn


def chips_table(ds: xr.Dataset) -> Iterator[str]:
    """Totals of every model and chip with their intervals."""
    yield "| Model | Chip | Energy (uJ) | Latency (us) | Area (mm2) | TOPS/W | pJ per MAC | Peak, TOPS/W |"
    yield "|---|---|---|---|---|---|---|---|"
    columns = (
        *((f"{name}_total_bounds", factor) for name, factor in zip(PRICES, (1e6, 1e6, 1e6), strict=True)),
        *(("tops_per_watt", 1.0), ("energy_per_mac", 1e12), ("tops_per_watt_peak", 1.0)),
    )
    for model in ds["model"].values:
        for design in ds["design"].values:
            one = ds.sel(model=model, design=design)
            cells = (interval(one[name].values * factor) for name, factor in columns)
            yield f"| {model} | `{design}` | {' | '.join(cells)} |"


def parts_table(ds: xr.Dataset) -> Iterator[str]:
    """Who takes the energy, the time and the area of the first model on its chip, in percent."""
    one = ds.sel(model=MODELS[0], design=DESIGN)
    yield "| Component | " + " | ".join(f"{name} (%)" for name in ("Energy", "Latency", "Area")) + " |"
    yield "|---|---:|---:|---:|"
    for component in ds["component"].values:
        shares = []
        for name in PRICES:
            part = float(one[f"{name}_bounds"].sel(component=component, bound="nominal"))
            shares.append(100 * part / float(one[f"{name}_total_bounds"].sel(bound="nominal")))
        yield f"| {component} | " + " | ".join(f"{s:.1f}" if s else "" for s in shares) + " |"


def operators_table(ds: xr.Dataset) -> Iterator[str]:
    """Energy of each operator of the first model on its chip, and of the leakage of the whole."""
    total = float(ds["energy_total_bounds"].sel(model=MODELS[0], design=DESIGN, bound="nominal"))
    rows = dict(zip(ds["operator"].values.tolist(), ds["operator_energy"].values.tolist(), strict=True))
    rows["leakage of the chip"] = total - sum(rows.values())
    yield "| Operator | Energy (nJ) | Share (%) |"
    yield "|---|---:|---:|"
    for name, joules in rows.items():
        yield f"| {name} | {1e9 * joules:.4g} | {100 * joules / total:.1f} |"


def agreement_table(values: dict[str, float]) -> Iterator[str]:
    """The program's numbers, and the hand calculation's over them."""
    ds = imc_ssm.cost(deployed(MODELS[0]))
    units = {"energy": ("nJ", 1e9), "latency": ("us", 1e6), "area": ("um2", 1e12)}
    yield "| | " + " | ".join(f"{name.capitalize()} ({unit}) | " for name, (unit, _) in units.items()) + " |"
    yield "|---|" + "---:|---:|" * len(units)
    for component in [*ds["component"].values, "total"]:
        cells = []
        for name, (_, factor) in units.items():
            own = ds[f"{name}_total"] if component == "total" else ds[name].sel(component=component)
            hand = values.get(name if component == "total" else f"{name}_{component.replace(' ', '_')}", 0.0)
            code = float(own) * factor
            off = round(100 * (hand / code - 1), 1) + 0.0 if code else 0.0  # never -0.0
            cells.append(f"{_digits(code)} | {off:.1f} %" if code else " | ")
        yield f"| {component} | {' | '.join(cells)} |"


def changes() -> dict[str, imc_ssm.Deployment | dict[str, Any]]:
    """What is changed: numbers for a plan, or another deployment."""
    first, design = MODELS[0], imc_ssm.load_design(DESIGN)
    return {
        "as it is": {},
        "64 lanes": {"lanes": 64},
        "a converter for 8 columns": {"columns_per_adc": 8},
        "6-bit converters at the columns": {"adc_bits": 6},
        "6-bit converters at the rows": {"dac_bits": 6},
        "read pulses of 20 ns": {"pulse": 20e-9},
        "tiles at 14 nm": {"node": 14e-9},
        "one tile for all matrices": deployed(first, design.with_(packing=True)),
        "states of 6 bits": deployed(first, state=6),
        "all words of 6 bits": deployed(first, state=6, poles=6, weights=6, activations=6),
        "scales of powers of two": deployed(first, scales="power_of_two"),
        "the recommended form of the unit": deployed(first, scheme="recommended"),
        "the last, 64 lanes, one tile": deployed(
            first, design.with_(packing=True, lanes=64), scheme="recommended"
        ),
    }


def changes_table(ds: xr.Dataset) -> Iterator[str]:
    """Energy, latency and area of each change, and by how much it differs from the design as it is."""
    yield "| Change | Energy (uJ) | | Latency (us) | | Area (mm2) | |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for i, name in enumerate(ds["change"].values):
        cells = []
        for price in PRICES:
            total, own = (float(ds[f"{price}_changed"][at]) for at in (i, 0))
            percent = round(100 * (total / own - 1))
            cells.append(f"{1e6 * total:.3g} | " + (f"{percent:+d} %" if i else ""))
        yield f"| {name} | {' | '.join(cells)} |"


def swings_table(ds: xr.Dataset) -> Iterator[str]:
    """The constants that move the energy most."""
    yield "| Constant | Energy at its ends (uJ) | Share of the upper deviation (%) |"
    yield "|---|---|---:|"
    for constant in ds["constant"].values[:6]:
        one = ds.sel(constant=constant)
        low, high = (f"{1e6 * float(v):.3g}" for v in one["energy_swung"])
        yield f"| `{constant}` | {low} to {high} | {100 * float(one['upper_share']):.0f} |"


def facts() -> dict[str, str]:
    """What the hand calculation takes of the model: the words of its plan, and what its devices conduct."""
    deployment = deployed(MODELS[0])
    (unit,) = (op for op in deployment.graph if isinstance(op, Recurrence))
    words = Multipliers.of(unit.plan(deployment.formats))
    out = {"factor_unit": f"{words.widest}", "accumulator": f"{words.sum}"}
    for matrix in deployment.matrices:
        assert matrix.input_activity is not None
        siemens = matrix.conductance(deployment.chip) * matrix.input_activity
        out[f"siemens_{matrix.name}"] = f"{1e6 * siemens:.1f}"
    return out


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def interval(values: np.ndarray) -> str:
    """Nominal (low to high)."""
    low, middle, high = (f"{float(v):.3g}" if v < 999.5 else f"{float(v):,.0f}" for v in values)
    return f"{middle} ({low} to {high})"


def tables(ds: xr.Dataset, text: str) -> dict[str, str]:
    """The tables of the page by their markers."""
    made = {
        "parts": parts_table(ds),
        "operators": operators_table(ds),
        "changes": changes_table(ds),
        "chips": chips_table(ds),
        "swings": swings_table(ds),
        "agreement": agreement_table(arithmetic.evaluated(text)),
    }
    return {name: "\n".join(rows) for name, rows in made.items()}


def main() -> None:
    """Compute, write, draw, and put all numbers into the page."""
    ds = dataset()
    results.save(ds, DATASET)
    save_figure(figure(ds), FIGURE)
    text = arithmetic.rewritten(PAGE.read_text(encoding="utf-8"), facts())
    for name, rows in tables(ds, text).items():
        new = f"<!-- {name} -->\n{rows}\n<!-- end -->"
        text, count = re.subn(rf"<!-- {name} -->.*?<!-- end -->", lambda _, new=new: new, text, flags=re.DOTALL)
        assert count == 1, f"docs/cost.md has no place for the table {name!r}"
    with atomic_path(PAGE) as path:
        path.write_text(text, encoding="utf-8")
    print(f"wrote {DATASET.name}, {FIGURE.name}, {PAGE.name}")


if __name__ == "__main__":
    main()
