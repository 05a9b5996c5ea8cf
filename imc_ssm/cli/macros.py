"""`imc-ssm cost --macro`: what a macro of a paper takes, predicted from its table, beside what was published."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.table import Table

from imc_ssm.cli.inputs import writable
from imc_ssm.cli.report import console
from imc_ssm.errors import ConfigError
from imc_ssm.units import quantity

if TYPE_CHECKING:
    import xarray as xr

    from imc_ssm.costs.macros import Macro

__all__ = ["cost_of_macro"]

ROWS = (
    ("energy", "energy_total", "J", "energy per {unit}"),
    ("", "energy_per_mac", "J", "energy per MAC"),
    ("tops_per_watt", "tops_per_watt", "TOPS/W", "efficiency"),
    ("latency", "latency", "s", "time of one {unit}"),
    ("", "period", "s", "from one {unit} to the next"),
    ("tops", "tops", "TOPS", "throughput"),
    ("", "power", "W", "power"),
    ("area", "area_total", "m2", "area"),
    ("tops_per_mm2", "tops_per_mm2", "TOPS/mm2", "throughput by area"),
)
"""Published as, variable, unit, what it is."""
BOUNDS = ("nominal", "low", "high")
"""In the order of the tables."""


def cost_of_macro(
    name: str, *, published: bool = False, constants: Path | None = None, out: Path | None = None, seed: int = 0
) -> None:
    """Print, and with `out` write, the prediction for a shipped macro or a TOML of one's own."""
    from imc_ssm.costs import load_macro, predict
    from imc_ssm.devices.constants import load_constants
    from imc_ssm.results import provenance, save

    if out is not None:
        writable(out, ".nc")
    macro = load_macro(name)
    if published and macro.published is None:
        raise ConfigError(
            f"nothing is published in macro {macro.name!r}; give it a table [published], or leave --published"
        )
    ds = predict(macro, load_constants(constants))
    console.print(_title(macro), soft_wrap=True)
    console.print(_quantities(ds))
    console.print(_components(ds))
    if published and macro.published is not None:
        console.print(_ratios(ds))
        console.print(f"published: {macro.published.source}; {macro.published.scope}", soft_wrap=True)
    if ds.attrs["defaulted"]:
        console.print(f"not given, so by default: {ds.attrs['defaulted']}", soft_wrap=True)
    if out is not None:
        ds.attrs |= provenance({"macro": macro.model_dump(mode="json")}, seed)
        save(ds, out)
        console.print(f"wrote {out}", soft_wrap=True)


def _title(macro: Macro) -> str:
    on = (
        ""
        if (macro.driven, macro.read) == (macro.rows, macro.columns)
        else f", {macro.driven} x {macro.read} at once"
    )
    size = f"{macro.arrays} x {macro.rows} x {macro.columns} {macro.device}{on}, {macro.node * 1e9:g} nm"
    words = f"{macro.in_bits}-bit inputs ({macro.coded}), {macro.weight_bits}-bit weights"
    return f"{macro.name}: {size}; {words}, {macro.out_bits}-bit {macro.adc}"


def _shown(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}" if unit.startswith("TOPS") else quantity(value, unit)


def _quantities(ds: xr.Dataset) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("predicted", no_wrap=True)
    for head in BOUNDS:
        table.add_column(head, justify="right", no_wrap=True)
    for _, name, unit, label in ROWS:
        bound = (float(ds[name].sel(bound=b)) for b in BOUNDS)
        table.add_row(label.format(unit=ds.attrs["unit"]), *(_shown(value, unit) for value in bound))
    return table


def _ratios(ds: xr.Dataset) -> Table:
    """Predicted over published; a rate that follows from a given period is an input."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("predicted / published", no_wrap=True)
    for head in ("published", "ratio", "from", "to"):
        table.add_column(head, justify="right", no_wrap=True)
    for said, _, unit, label in ROWS:
        there = float(ds["published"].sel(quantity=said)) if said else math.nan
        if not math.isnan(there):
            ratios = [float(ds["ratio"].sel(quantity=said, bound=b)) for b in BOUNDS]
            words = ("an input", "", "") if math.isnan(ratios[0]) else (f"{r:.2f}" for r in ratios)
            table.add_row(label.format(unit=ds.attrs["unit"]), _shown(there, unit), *words)
    return table


def _components(ds: xr.Dataset) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("component")
    for head in ("energy", "share", "low", "high", "area"):
        table.add_column(head, justify="right", no_wrap=True)
    for part in ds["component"].values:
        row = ds.sel(component=part)
        joules, area = float(row["energy"].sel(bound="nominal")), float(row["area"].sel(bound="nominal"))
        if joules == 0 and area == 0:
            continue
        low, high = (quantity(float(row["energy"].sel(bound=b)), "J") for b in ("low", "high"))
        share = f"{100 * float(row['energy_share'].sel(bound='nominal')):.1f} %"
        table.add_row(str(part), quantity(joules, "J"), share, low, high, quantity(area, "m2") if area else "-")
    return table
