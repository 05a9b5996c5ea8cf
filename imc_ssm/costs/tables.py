"""Costs as tables for the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from imc_ssm.chip.deployment import deployment_of
from imc_ssm.costs.counts import actions_of, loads_of
from imc_ssm.costs.model import energies
from imc_ssm.costs.plan import CostPlan
from imc_ssm.devices.constants import constants_of
from imc_ssm.graph import COMPONENTS
from imc_ssm.units import prefix, quantity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from imc_ssm.chip import Deployment
    from imc_ssm.devices import CostConstant
    from imc_ssm.devices.constants import ConstantsLike
    from imc_ssm.graph import Action

__all__ = ["constant_table", "merit_table", "operation_table", "table"]

MERITS = (
    ("energy_total_bounds", "J", "energy"),
    ("energy_per_mac", "J", "energy per MAC"),
    ("latency_total_bounds", "s", "time"),
    ("throughput", "1/s", "inferences a second"),
    ("power", "W", "power"),
    ("tops", "TOPS", "throughput"),
    ("tops_per_watt", "TOPS/W", "efficiency"),
    ("tops_per_watt_peak", "TOPS/W", "peak of the tiles alone"),
    ("area_total_bounds", "m2", "area"),
    ("tops_per_mm2", "TOPS/mm2", "throughput by area"),
    ("memory_total", "bit", "digital memory"),
)
"""Variable, unit, what it is."""
FEW = 6
"""Constants that are shown, and the factor that one has to move energy, time or area by."""
LEAST = 1.01


def table(ds: xr.Dataset) -> Table:
    """A cost dataset as a table for the terminal: one row per component, the total last; shares of energy
    and time in percent, and the interval of energies where the dataset has one."""
    from rich.box import SIMPLE
    from rich.table import Table

    columns = (("energy", "nJ", 1e9), ("latency", "us", 1e6), ("area", "mm2", 1e6))
    out = Table(title=ds.attrs.get("title", "Cost"), box=SIMPLE, padding=(0, 1, 0, 0))
    out.add_column("component", no_wrap=True)
    for name, unit, _ in columns:
        out.add_column(f"{name}\n({unit})", justify="right", no_wrap=True)
        if name == "energy" and "energy_bounds" in ds:
            out.add_column("low to high", justify="right", no_wrap=True)
        if name != "area":
            out.add_column("%", justify="right", no_wrap=True)

    def row(component: str | None) -> list[str]:
        cells = []
        for name, _, factor in columns:
            total = float(np.nansum(ds[name]))
            value = total if component is None else float(ds[name].sel(component=component))
            cells.append(_cell(value * factor) if value > 0 else "")
            if name == "energy" and "energy_bounds" in ds:
                own = (
                    ds["energy_total_bounds"]
                    if component is None
                    else ds["energy_bounds"].sel(component=component)
                )
                ends = [float(own.sel(bound=end)) * factor for end in ("low", "high")]
                cells.append(f"{_cell(ends[0], 3)} to {_cell(ends[1], 3)}")
            if name != "area":
                cells.append(f"{100 * value / total:.1f}" if value > 0 else "")
        return cells

    for component in ds["component"].values:
        out.add_row(str(component), *row(component))
    out.add_row("total", *row(None), style="bold")
    return out


def merit_table(ds: xr.Dataset) -> Table:
    """Energy, time, efficiency and area of a cost dataset, each with its interval."""
    from rich.box import SIMPLE
    from rich.table import Table

    out = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    out.add_column(f"{ds.attrs['steps']} steps an inference", no_wrap=True)
    for head in ("nominal", "low", "high"):
        out.add_column(head, justify="right", no_wrap=True)
    for name, unit, label in MERITS:
        if name in ds and not ds[name].dims:
            out.add_row(label, f"{float(ds[name]):,.0f} {unit}", "", "")
        elif name in ds:
            out.add_row(label, *(_shown(float(ds[name].sel(bound=b)), unit) for b in ("nominal", "low", "high")))
    return out


def constant_table(ds: xr.Dataset, entries: Mapping[str, CostConstant]) -> Table:
    """Of what `swings` returns: the constants that intervals come from, each with its range and what the totals
    are at the ends that it moves them to."""
    from rich.box import SIMPLE
    from rich.table import Table

    names = ("energy", "latency", "area")
    out = Table(title="Where the intervals come from", box=SIMPLE, padding=(0, 1, 0, 0))
    out.add_column("constant", no_wrap=True)
    out.add_column("x nominal", justify="right", no_wrap=True)
    for name in names:
        out.add_column(name, justify="right", no_wrap=True)
    moved = [(str(name), [ds[part].sel(constant=name).values for part in names]) for name in ds["constant"].values]
    shown = [one for one in moved if any(high > LEAST * low for low, high in one[1])]
    shown.sort(key=lambda one: -max(high / low for low, high in one[1]))
    for constant, totals in shown[:FEW]:
        entry, cells = entries[constant], []
        for (low, high), unit in zip(totals, ("J", "s", "m2"), strict=True):
            factor, words = (1e6, "mm2") if unit == "m2" else prefix(high, unit)
            digits = 2 if unit == "m2" else 3
            ends = " to ".join(f"{value * factor:.{digits}g}" for value in (low, high))
            cells.append(f"{ends} {words}" if high > LEAST * low else "")
        out.add_row(constant, f"{entry.low / entry.value:.2g} to {entry.high / entry.value:.2g}", *cells)
    return out


def _cell(value: float, digits: int = 4) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.{digits}g}" if value < 999.5 or value < 10**digits else f"{value:,.0f}"


def _shown(value: float, unit: str) -> str:
    if unit == "1/s":
        return _cell(value, 3)
    if unit.startswith("TOPS"):
        return f"{value:.3g} {unit}" if value >= 0.1 else f"{1000 * value:.3g} G{unit[1:]}"
    return f"{1e6 * value:.3g} mm2" if unit == "m2" else quantity(value, unit)


def operation_table(deployment: Deployment, *, constants: ConstantsLike = None) -> Table:
    """Every action that is counted, with its energy per inference, and what leaks meanwhile; the rows add up to
    the energy of `cost` with the same `constants`, which raises the same.

    Rows of the rate "per load" say what loading takes, once, and are not in that sum.
    """
    deployment, laws = deployment_of(deployment, "operation_table"), constants_of(constants)
    from rich.table import Table

    out = Table(title=f"Operations ({deployment.steps} steps an inference)")
    for name in ("operator", "component", "action", "count", "bits", "rate", "energy", "purpose"):
        out.add_column(name, justify="right" if name in ("count", "energy") else "left", no_wrap=True)
    steps = [(taken, _rate(taken.action)) for taken in actions_of(deployment)]
    loads = [(taken, "per load") for taken in loads_of(deployment)]
    rows = [*steps, *loads]
    leaks = float(CostPlan(deployment, constants=laws)().energy[COMPONENTS.index("leakage")])
    leakage = ("whole chip", "leakage", "leak", "", "", "per inference", quantity(leaks, "J"), "while it works")
    spent = energies(deployment, [row[0] for row in rows], constants=laws)
    for i, ((taken, rate), joules) in enumerate(zip(rows, spent, strict=True)):
        if i == len(steps):
            out.add_row(*leakage)
        action = taken.action
        where = f" ({action.store})" if action.store else ""
        out.add_row(
            taken.operator.name,
            action.component,
            action.verb + where,
            f"{action.count:,}",
            " x ".join(str(width) for width in action.bits),
            rate,
            quantity(joules, "J"),
            action.purpose,
        )
    if not loads:
        out.add_row(*leakage)
    return out


def _rate(action: Action) -> str:
    return f"per {action.rate}" if action.period == 1 else f"per {action.period} {action.rate}s"
