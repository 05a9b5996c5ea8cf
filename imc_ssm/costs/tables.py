"""Costs as tables for the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from imc_ssm.costs.counts import actions_of, loads_of
from imc_ssm.costs.model import energies
from imc_ssm.units import quantity

if TYPE_CHECKING:
    from rich.table import Table

    from imc_ssm.chip import Deployment
    from imc_ssm.graph import Action

__all__ = ["operation_table", "table"]


def table(ds: xr.Dataset) -> Table:
    """A cost dataset as a table for the terminal: one row per component, the total last."""
    from rich.box import SIMPLE
    from rich.table import Table

    columns = (
        ("energy", "nJ", 1e9),
        ("energy_step", "pJ per step", 1e12),
        ("latency", "us", 1e6),
        ("area", "mm2", 1e6),
        ("memory", "bit", 1.0),
    )
    out = Table(title=ds.attrs.get("title", "Cost"), box=SIMPLE, padding=(0, 1, 0, 0))
    out.add_column("component", no_wrap=True)
    for name, unit, _ in columns:
        out.add_column(f"{name.replace('_step', '')} ({unit})", justify="right")

    def cell(value: float) -> str:
        return "-" if math.isnan(value) else f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"

    for i, component in enumerate(ds["component"].values):
        out.add_row(str(component), *(cell(float(ds[name][i]) * factor) for name, _, factor in columns))
    totals = (cell(float(np.nansum(ds[name])) * factor) for name, _, factor in columns)
    out.add_row("total", *totals, style="bold")
    return out


def operation_table(deployment: Deployment) -> Table:
    """Every action that is counted, with its energy per inference; the rows add up to that of `cost`.

    Rows of the rate "per load" say what loading takes, once, and are not in that sum.
    """
    from rich.table import Table

    out = Table(title=f"Operations ({deployment.steps} steps an inference)")
    for name in ("operator", "component", "action", "count", "bits", "rate", "energy", "purpose"):
        out.add_column(name, justify="right" if name in ("count", "energy") else "left", no_wrap=True)
    steps = [(taken, _rate(taken.action)) for taken in actions_of(deployment)]
    loads = [(taken, "per load") for taken in loads_of(deployment)]
    rows = [*steps, *loads]
    for (taken, rate), joules in zip(rows, energies(deployment, [row[0] for row in rows]), strict=True):
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
    return out


def _rate(action: Action) -> str:
    return f"per {action.rate}" if action.period == 1 else f"per {action.period} {action.rate}s"
