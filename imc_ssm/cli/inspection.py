"""The command `inspect`: what quantization does to the recurrences of a model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table

from imc_ssm.cli.inputs import data_of, writable_result
from imc_ssm.cli.options import DataDir, TaskName
from imc_ssm.cli.report import console, stages, updates, write_result
from imc_ssm.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

__all__ = ["INSPECTED", "inspect", "inspection_tables"]

INSPECTED = (
    *("pole", "circle_distance", "poles_outside", "kernel_error", "bits_guaranteed", "bits_calibrated"),
    *("bits_state", "bits_coefficient", "saturated_state", "saturated_output"),
    *("layer", "stage", "part", "rounded", "coefficient", "step"),
)
"""Variables that `show` reads of an inspection."""


def inspect(
    model: Annotated[
        Path,
        typer.Argument(
            help="Model file, as written by `train` or `quantize`, or a shipped model: s4d-16h, s4d-16h-seed1."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Dataset to write (.nc); the figure goes beside it.")] = None,
    bits: Annotated[
        int | None,
        typer.Option(min=2, max=16, help="Bits of A, B, C and x to try on a full-precision model; default: 8."),
    ] = None,
    sequences: Annotated[
        int, typer.Option(min=1, help="Sequences for calibrated bounds, and as many for saturation.")
    ] = 64,
    dataset: TaskName = None,
    data_dir: DataDir = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed that draws the sequences.")] = 0,
) -> None:
    """Where rounding moves the poles, what that does to the kernel, and how wide the states are.

    Ranges of every state: guaranteed (L1 norm of its impulse response) and calibrated (on training sequences);
    what saturates in the integer unit on test sequences. Computed on the CPU.
    """
    from imc_ssm.analysis import inspect_model
    from imc_ssm.modelfile import load_model
    from imc_ssm.plots import inspection
    from imc_ssm.pretrained import model_file
    from imc_ssm.results import provenance

    if out is not None:
        writable_result(out)
    start = time.perf_counter()
    model = model_file(model)
    stored = load_model(model)
    if stored.scheme is not None and bits is not None:
        raise ConfigError(
            f"--bits {bits} is for models in full precision; {model} is quantized already "
            f"({stored.scheme.label}): leave --bits out or give the model it came from"
        )
    data, task = data_of(stored, dataset, data_dir)
    width = 8 if bits is None else bits
    with stages() as stage:
        ds = inspect_model(
            stored.model, data, sequences=sequences, bits=width, seed=seed, progress=stage(f"inspect {model.name}")
        )
    ds.attrs["title"] = f"{model.name}, {task}"
    if out is None:
        console.print(inspection_tables(ds))
        return
    config = {"model": model.name, "task": task, "sequences": sequences, "info": stored.info}
    config["scheme"] = {"bits": width} if stored.scheme is None else stored.scheme.model_dump(mode="json")
    ds.attrs |= provenance(config, seed, time.perf_counter() - start)
    write_result(ds, out, tables=inspection_tables, draw=inspection)


def inspection_tables(ds: xr.Dataset) -> Group:
    """One table a layer: poles, kernel error, word lengths and saturation, as trained and rounded."""
    layers = (ds.isel(layer=i) for i in range(ds.sizes["layer"]))
    return Group(str(ds.attrs.get("title", "inspection")), *map(_table, layers))


def _table(ds: xr.Dataset) -> Table:
    import numpy as np

    widths = ", ".join(
        f"{name} {'full precision' if np.isnan(bits) else f'{bits:.0f} bit'}"
        for name, bits in zip(ds["coefficient"].values, ds["bits_coefficient"].values, strict=True)
    )
    table = Table(title=f"{ds['layer'].item()}: {widths}", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("")
    for column in ("as trained", "rounded"):
        table.add_column(column, justify="right")
    both = [ds.sel(stage=stage) for stage in ("before", "after")]
    count = ds.sizes["head"] * ds.sizes["state"]
    table.add_row("poles outside the unit circle", *(f"{int(s['poles_outside'].sum())} of {count}" for s in both))
    table.add_row("smallest distance 1 - |a|", *(f"{float(s['circle_distance'].min()):.2g}" for s in both))
    steps = int(ds.attrs.get("steps", ds["step"].values[-1]))
    error = ds["kernel_error"].sel(step=steps, method="nearest")
    medians = {  # the nearest rank: no NaN between two infinite errors
        str(part): f"{100 * np.quantile(error.sel(rounded=part).values, 0.5, method='nearest'):.2g}"
        for part in ds["rounded"].values
    }
    table.add_row(f"kernel error at {int(error['step'])} steps, median head", "", f"{medians['all']} %")
    table.add_row("  a, b, c alone", "", ", ".join(medians[part] for part in "abc") + " %")
    if "period" in ds and (ds["period"] > 1).any():
        periods = ds["period"].values
        table.add_row("updates of the heads", "", updates(periods[np.isfinite(periods)].tolist()))
    register = float(ds["bits_state"])
    kind = "state register" if ds.attrs.get("register") == "real" else "state register (assumed)"
    table.add_row(kind, "", f"{register:.0f} bit")
    data, guaranteed = ds["bits_calibrated"].values, [s["bits_guaranteed"].values for s in both]
    table.add_row(f"  longest word for {ds.attrs.get('percentile', np.nan):g} % of the data", _longest(data), "")
    table.add_row("  longest guaranteed word", *map(_longest, guaranteed))
    table.add_row("  states longer than the register on data", _share(data > register), "")
    table.add_row("  without a guarantee in the register", *(_share(bits > register) for bits in guaranteed))
    table.add_row("  without any guarantee", *(_share(np.isinf(bits)) for bits in guaranteed))
    for name, what in (("saturated_state", "state words"), ("saturated_output", "outputs")):
        values = ds[name].values
        if not np.isnan(values).all():
            mean, worst = np.nanmean(values), np.nanmax(values)
            table.add_row(f"saturated {what}: mean, worst head", "", f"{mean:.2g} %, {worst:.2g} %")
    return table


def _longest(bits: np.ndarray) -> str:
    """The longest finite word length."""
    import numpy as np

    finite = bits[np.isfinite(bits)]
    return f"{finite.max():.0f} bit" if finite.size else "-"


def _share(which: np.ndarray) -> str:
    return f"{100.0 * float(which.mean()):.2g} %"
