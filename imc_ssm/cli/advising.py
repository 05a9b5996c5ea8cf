"""The command that says what to change first: `advise`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.box import SIMPLE
from rich.table import Table

from imc_ssm.cli.inputs import writable_result
from imc_ssm.cli.options import Chips, DataDir, DesignName, Seed, TaskName
from imc_ssm.cli.report import console, print_whole, stages
from imc_ssm.errors import ConfigError, unknown
from imc_ssm.units import duration, quantity

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["advise"]

ROWS = 20
"""Changes that the table shows; all are in the dataset."""


def advise(
    model: Annotated[Path, typer.Argument(help="Quantized model file, as written by `quantize`.")],
    design: DesignName = "pcm-256",
    chips: Chips = 5,
    time: Annotated[str, typer.Option(help="Time after programming at which accuracy counts, such as 1d.")] = "1d",
    sequences: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many sequences, drawn by the seed; default: all of the split."),
    ] = None,
    split: Annotated[str, typer.Option(help="Whose sequences: validation, test or train.")] = "validation",
    by: Annotated[str, typer.Option(help="Which cost counts: energy, latency, area, or all.")] = "all",
    worth: Annotated[
        float, typer.Option(min=0.0, help="Percent of that cost that a point of accuracy is worth.")
    ] = 10.0,
    confirm: Annotated[
        int, typer.Option(min=0, help="So many of the first changes are evaluated once more, on other chips.")
    ] = 3,
    out: Annotated[
        Path | None, typer.Option(help="Dataset to write (.nc), with a tornado plot (.png) beside it.")
    ] = None,
    dataset: TaskName = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
) -> None:
    """What to change first: every field of a design is changed alone, and ranked by what that is worth.

    A change is worth the accuracy that it wins and the energy, latency and area that it saves, on the same chips
    and sequences.
    """

    from imc_ssm.pretrained import model_file
    from imc_ssm.sweeps import advise as advice

    if out is not None:
        writable_result(out)
    for name, given, known in (
        ("split", split, ("validation", "test", "train")),
        ("cost", by, ("energy", "latency", "area", "all")),
    ):
        if given not in known:
            raise ConfigError(unknown(name, given, known))
    point: dict[str, Any] = {"start": str(model_file(model)), "design": design, "chips": chips, "times": time}
    point |= {"sequences": sequences, "split": split, "seed": seed, "task": dataset}
    with stages() as stage:
        ds = advice(
            point, worth=worth, by=cast("Any", by), confirm=confirm, data_dir=data_dir, progress=stage("advise")
        )
    print_whole(table(ds))
    metric, reached = str(ds.attrs["metric"]), float(ds["accuracy_before"])
    there = f"{reached:.2f} %" if metric == "accuracy" else f"{reached:.3f}"
    console.print(
        f"before: {metric} {there} after {duration(float(ds.attrs['time_s']))}, "
        f"{quantity(float(ds['energy_before']), 'J')}, {quantity(float(ds['latency_before']), 's')}, "
        f"{quantity(float(ds['area_before']), 'm2')}; {ds.sizes['change']} changes tried, {ds.attrs['refused']} "
        "cannot be",
        soft_wrap=True,
    )
    if out is not None:
        from imc_ssm.plots import draw, save_figure
        from imc_ssm.results import save

        save(ds, out)
        save_figure(draw(ds), out.with_suffix(".png"))
        console.print(f"wrote {out} and {out.with_suffix('.png')}", soft_wrap=True)


def table(ds: xr.Dataset) -> Table:
    """The changes that are worth most."""
    point = f"{ds.attrs['worth_of_a_point']:g}"
    what_one = "a point of accuracy" if ds.attrs["metric"] == "accuracy" else f"0.01 of {ds.attrs['metric']}"
    what = f"What to change first ({what_one} is worth {point} % of {ds.attrs['by']})"
    made = Table(title=what, box=SIMPLE, padding=(0, 1, 0, 0))
    made.add_column("change", no_wrap=True)
    metric = str(ds.attrs["metric"])
    unit = "points" if metric == "accuracy" else "hundredths"
    columns = [f"{metric}, {unit}", "energy", "latency", "area", "worth"]
    confirmed = "confirmed_change" in ds
    for column in (*columns, *(["on other chips", "worth there"] if confirmed else [])):
        made.add_column(column, justify="right", no_wrap=True)
    for i in range(min(ds.sizes["change"], ROWS)):
        row = ds.isel(change=i)
        cells = [str(row["change"].values), _points(row, "accuracy")]
        cells += [f"{float(row[f'{name}_change']):+.1f} %" for name in ("energy", "latency", "area")]
        cells.append(f"{float(row['worth']):+.1f} %")
        if confirmed:
            known = math.isfinite(float(row["confirmed_change"]))
            cells += [
                _points(row, "confirmed") if known else "",
                f"{float(row['confirmed_worth']):+.1f} %" if known else "",
            ]
        made.add_row(*cells)
    return made


def _points(row: xr.Dataset, name: str) -> str:
    error = float(row[f"{name}_error"])
    spread = f" ± {error:.2f}" if math.isfinite(error) else ""
    return f"{float(row[f'{name}_change']):+.2f}{spread}"
