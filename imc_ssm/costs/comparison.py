"""The chip beside digital machines on the same model, and where one overtakes the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
import xarray as xr

from imc_ssm.chip import Deployment, compile
from imc_ssm.chip.deployment import deployment_of
from imc_ssm.costs.baselines import baseline_names, load_baseline
from imc_ssm.costs.machines import PARTS, Baseline
from imc_ssm.costs.model import by_operator, cost
from imc_ssm.costs.work import Work
from imc_ssm.devices import load_design
from imc_ssm.devices.constants import Constants, ConstantsLike, constants_of
from imc_ssm.errors import ConfigError, unknown
from imc_ssm.graph import Matrix
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.pricing.intervals import BOUNDS, Number, bounds, scenarios
from imc_ssm.quantization import Scheme, quantize

if TYPE_CHECKING:
    from imc_ssm.devices import Design

__all__ = ["Axis", "baseline_cost", "break_even", "compare"]

BOUNDED = {
    "energy": ("J", "Energy per inference"),
    "energy_step": ("J", "Energy per time step"),
    "latency": ("s", "Serial time per inference"),
    "latency_step": ("s", "Serial time per time step"),
    "area": ("m2", "Silicon area"),
}
"""Variables by component, each with its unit and label."""
SHARED = (
    *BOUNDED,
    "memory",
    "energy_matrices",
    *(f"{name}_total" for name in ("energy", "latency", "area", "memory")),
)
"""What `cost` and `baseline_cost` have in common."""
MATRICES = "Energy per inference of the matrices alone"
Axis = Literal["tile", "heads", "steps"]
"""What `break_even` varies: rows and columns of a tile, heads of the model, steps of a sequence."""
DEFAULTS: dict[Axis, int] = {"tile": 256, "heads": 64, "steps": 128}
RATIOS = {"energy": "energy_total", "latency": "latency_total", "area": "area_total"}
RATIOS["matrices"] = "energy_matrices"
"""Variable of `break_even` -> what it is the ratio of."""


def baseline_cost(
    model: Deployment | Classifier | Work,
    machine: Baseline | str | Path,
    *,
    steps: int | None = None,
    constants: ConstantsLike = None,
) -> xr.Dataset:
    """What an inference of a quantized model takes on a digital machine, by component and bound.

    `model`: a deployment (its graph, words, steps and digital table), or a quantized model, which needs `steps`.
    Variables as of `cost`: `energy`, `energy_step`, `latency`, `latency_step`, `area` (bound, component) and their
    totals (bound); `energy_matrices` (bound), without leakage; `memory` (component; bits) and `memory_total`;
    `utilisation` (bound), the share of the multipliers' cycles that matrices use. An interval is that of the
    constants, as `intervals.bounds` has it.

    Raises `DesignError` for recurrences on tiles or an unknown machine, `ConfigError` for a model without `steps`.
    """
    work = model if isinstance(model, Work) else Work.of(model, steps=steps)
    own = machine if isinstance(machine, Baseline) else load_baseline(machine)
    laws = constants_of(constants)
    k = scenarios({**laws.entries, **own.constants()})
    bill = own.bill(work, k)
    out = xr.Dataset(coords={"bound": list(BOUNDS), "component": list(PARTS)})
    for name, (units, label) in BOUNDED.items():
        parts = getattr(bill, name)
        held = np.stack([_interval(parts[part], k) for part in PARTS], axis=-1)
        out[name] = (("bound", "component"), held, {"units": units, "long_name": label})
        long = f"{label}, all components"
        out[f"{name}_total"] = ("bound", _interval(bill.total(name), k), {"units": units, "long_name": long})
    memory = [bill.memory if part == "memories" else math.nan for part in PARTS]
    out["memory"] = ("component", np.array(memory), {"units": "bit", "long_name": "Digital memory"})
    out["memory_total"] = ((), bill.memory, {"units": "bit", "long_name": "Digital memory"})
    matrices = _interval(bill.matrices, k)
    out["energy_matrices"] = ("bound", matrices, {"units": "J", "long_name": MATRICES})
    label = "Multiply-accumulates of matrices over those that the multipliers could do"
    out["utilisation"] = ("bound", _interval(bill.utilisation, k), {"units": "1", "long_name": label})
    out.attrs = {"title": f"Cost on {own.name}", "machine": own.name, "steps": work.steps}
    return out


def _interval(value: Number, k: Any) -> np.ndarray[Any, Any]:
    return np.array([float(x) for x in bounds(value, k)])


def compare(
    deployment: Deployment,
    machines: Iterable[Baseline | str | Path] | None = None,
    *,
    constants: ConstantsLike = None,
) -> xr.Dataset:
    """The chip and digital machines on the same model: the variables of `cost` that all have, over `machine`.

    `machines`: shipped names, TOMLs or machines; all that ship when None. The chip is the first, by the name of
    its design. A component that a machine has not got is NaN. `constants` as in `cost`. Dimensions machine, bound,
    component.
    """
    deployment, constants = deployment_of(deployment, "compare"), constants_of(constants)
    found = [load_baseline(m) if not isinstance(m, Baseline) else m for m in machines or baseline_names()]
    chip = cost(deployment, constants=constants).assign(energy_matrices=_of_matrices(deployment, constants))
    parts = [
        _shared(chip),
        *(_shared(baseline_cost(deployment, machine, constants=constants)) for machine in found),
    ]
    names = [deployment.design.name, *(machine.name for machine in found)]
    if len(set(names)) < len(names):
        raise ConfigError(f"machines {', '.join(names)} are to be compared; give each its own name")
    ordered = list(dict.fromkeys(str(c) for part in parts for c in part["component"].values))
    whole = [part.reindex(component=ordered) for part in parts]
    out = xr.concat(whole, "machine", combine_attrs="drop").assign_coords(machine=names)
    out.attrs = {"title": f"{deployment.name} on {names[0]} and on digital machines", "steps": deployment.steps}
    return out


def _of_matrices(deployment: Deployment, constants: Constants) -> xr.DataArray:
    """Of the chip, nominal: what its tiles and the digital work behind them take."""
    found = by_operator(deployment, constants=constants)
    joules = sum(sum(parts.values()) for op, parts in found.items() if isinstance(op, Matrix))
    return xr.DataArray(joules, attrs={"units": "J", "long_name": MATRICES})


def _shared(ds: xr.Dataset) -> xr.Dataset:
    """What all machines have, every price with its interval."""
    out = ds[list(SHARED)]
    for name in SHARED:
        if f"{name}_bounds" in ds:
            out[name] = ds[f"{name}_bounds"].assign_attrs(ds[name].attrs)
        elif not name.startswith("memory") and "bound" not in out[name].dims:
            out[name] = out[name].expand_dims(bound=list(BOUNDS))
    return out.drop_vars([name for name in out.coords if name not in ("component", "bound")])


def break_even(
    over: Axis,
    values: Sequence[int],
    *,
    design: str | Path | Design = "pcm-256",
    heads: int = DEFAULTS["heads"],
    steps: int = DEFAULTS["steps"],
    scheme: str | Scheme = "uniform",
    machines: Iterable[Baseline | str | Path] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Chip over digital machine in energy, latency and area, against tile size, width or sequence length.

    For each value an untrained S4D classifier is quantized and compiled on random sequences, since counts and
    words follow from shapes: 8 inputs, one layer of 32 states a head, 10 classes. `over = "tile"`: rows and
    columns of a tile (32 columns a converter, or all), with as many tiles as it needs.

    Returns `energy`, `latency`, `area` and `matrices` (their energy alone; the chip's has no interval) over
    machine, bound and value, as ratios: below 1 the chip takes less. The
    interval adds both sides' in quadrature, as if no constant were in both, and so is wide rather than narrow.

    Raises `ConfigError` for another axis or values below 1.
    """
    if over not in get_args(Axis):
        raise ConfigError(unknown("axis", over, get_args(Axis)))
    if not len(values) or min(values) < 1:
        raise ConfigError(f"values {list(values)!r} of {over}; give one or more, each 1 or more")
    base = load_design(design) if isinstance(design, str | Path) else design
    rows = []
    for value in values:
        sizes = {"heads": heads, "steps": steps, "tile": 0} | {over: int(value)}
        chip = base.with_(tiles=10**6)
        if sizes["tile"]:
            edge = sizes["tile"]
            chip = chip.with_(rows=edge, columns=edge, columns_per_adc=min(edge, base.columns_per_adc))
        rows.append(_ratios(compare(synthetic(sizes["heads"], sizes["steps"], scheme, chip, seed), machines)))
    out = xr.concat(rows, "value").assign_coords(value=list(values))
    out["value"].attrs = {"long_name": AXES[over], "units": "1"}
    out.attrs = {"title": f"{base.name} over digital machines", "over": over, "design": base.name}
    out.attrs |= {
        "heads": heads,
        "steps": steps,
        "scheme": scheme if isinstance(scheme, str) else scheme.label,
        "seed": seed,
    }
    return out.transpose("machine", "bound", "value")


AXES: dict[Axis, str] = {"tile": "Rows and columns of a tile", "heads": "Heads", "steps": "Steps of a sequence"}


def synthetic(heads: int, steps: int, scheme: str | Scheme, design: Design, seed: int) -> Deployment:
    """An untrained model of a shape on a chip."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(ModelConfig.parse({"inputs": 8, "heads": heads, "classes": 10, "n_state": 64}))
    data = torch.randn(2, steps, 8, generator=generator)
    return compile(quantize(model, scheme, data), design, data, name=f"{heads} heads")


def _ratios(ds: xr.Dataset) -> xr.Dataset:
    """Of the first machine to the others, with bounds."""
    out = xr.Dataset(coords={"machine": ds["machine"].values[1:], "bound": list(BOUNDS)})
    for name, of in RATIOS.items():
        low, middle, high = (ds[of].sel(bound=bound).values for bound in BOUNDS)
        up, down = np.log(high / middle), np.log(middle / low)
        ratio = middle[0] / middle[1:]
        less, more = np.exp(-np.hypot(down[0], up[1:])), np.exp(np.hypot(up[0], down[1:]))
        held = np.stack([ratio * less, ratio, ratio * more])
        label = f"{'Energy of matrices' if name == 'matrices' else name.capitalize()}, chip over machine"
        out[name] = (("bound", "machine"), held, {"units": "1", "long_name": label})
    return out
