"""`imc-ssm cost --baselines`: the chip beside digital machines on the same model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.table import Table

from imc_ssm.cli.report import console, print_whole
from imc_ssm.units import quantity

if TYPE_CHECKING:
    import xarray as xr

    from imc_ssm.chip import Deployment
    from imc_ssm.devices import Constants

__all__ = ["print_baselines"]

COLUMNS = (("energy", "J"), ("latency", "s"), ("area", "m2"))


def print_baselines(deployment: Deployment, constants: Constants | None = None) -> xr.Dataset:
    """Print what the chip and the shipped baselines take for an inference, and the chip over each; the dataset."""
    from imc_ssm.costs import compare

    ds = compare(deployment, constants=constants)
    print_whole(_table(ds))
    chip = str(ds["machine"].values[0])
    console.print(f"interval: that of the constants; ratio: {chip} over the machine", soft_wrap=True)
    return ds


def _table(ds: xr.Dataset) -> Table:
    out = Table(title=ds.attrs["title"], box=SIMPLE, padding=(0, 1, 0, 0))
    out.add_column("machine", no_wrap=True)
    for name, _ in COLUMNS:
        out.add_column(name, justify="right", no_wrap=True)
        if name == "energy":
            out.add_column("interval", no_wrap=True)
        out.add_column("ratio", justify="right", no_wrap=True)
    for machine in ds["machine"].values:
        cells = []
        for name, unit in COLUMNS:
            total = ds[f"{name}_total"]
            low, middle, high = (float(total.sel(machine=machine, bound=b)) for b in ("low", "nominal", "high"))
            chip = float(total.isel(machine=0).sel(bound="nominal"))
            cells.append(quantity(middle, unit))
            if name == "energy":
                cells.append(f"x {low / middle:.2g} to {high / middle:.2g}")
            cells.append(f"{chip / middle:.2g}")
        out.add_row(str(machine), *cells)
    return out
