"""The command `import`: a checkpoint that another library wrote becomes a model file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imc_ssm.cli.inputs import load_data, writable
from imc_ssm.cli.learning import save_and_report
from imc_ssm.cli.options import DataDir, Device, UnusedSeed
from imc_ssm.cli.report import console

if TYPE_CHECKING:
    from rich.table import Table

    from imc_ssm.foreign import Imported

__all__ = ["import_checkpoint"]


def import_checkpoint(
    checkpoint: Annotated[
        Path, typer.Argument(help="Weights of an S4D model of state-spaces/s4: .pt, .pth, .ckpt, .safetensors.")
    ],
    out: Annotated[Path, typer.Option(help="Model file to write (.safetensors).")],
    dataset: Annotated[
        str | None, typer.Option(help="Task or .npz that it was trained on: its test accuracy is measured.")
    ] = None,
    prenorm: Annotated[
        bool | None,
        typer.Option("--prenorm/--postnorm", help="Norms stand before the layers, or behind the sums (default)."),
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="Behind each layer: gelu, gelu2 (applied twice), relu, none.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="What the decoder reads: mean (default), last, none.")] = None,
    discretisation: Annotated[str | None, typer.Option(help="zoh or bilinear (default: by the keys).")] = None,
    dt_transform: Annotated[
        str | None, typer.Option(help="dt of log_dt or inv_dt: exp (default), softplus, relu, sigmoid, none.")
    ] = None,
    real_transform: Annotated[
        str | None, typer.Option(help="-Re A of what is stored: exp (default), softplus, relu, sigmoid, none.")
    ] = None,
    data_dir: DataDir = None,
    device: Device = "cpu",
    seed: UnusedSeed = 0,
) -> None:
    """Import a checkpoint of state-spaces/s4's S4D, and say which of its keys went where.

    Options are for what keys do not say. Only weights are read; objects are never unpickled.
    """
    from imc_ssm.foreign import read_foreign
    from imc_ssm.kernels.device import named_device
    from imc_ssm.modelfile import StoredModel, save_model
    from imc_ssm.training import check_model_fits

    writable(out, ".safetensors")
    named_device(device)
    given = {
        "prenorm": prenorm,
        "activation": activation,
        "pool": pool,
        "discretisation": discretisation,
        "dt_transform": dt_transform,
        "real_transform": real_transform,
    }
    made = read_foreign(checkpoint, **{name: value for name, value in given.items() if value is not None})
    info = {"model": made.layout, "imported_from": checkpoint.name, "assumed": made.assumed}
    if dataset is not None:
        info["task"] = dataset
    data = None if dataset is None else load_data(dataset, data_dir)
    if data is not None:
        check_model_fits(made.model, data)
    console.print(moved_table(made))
    console.print(made.layout)
    for name, value in made.assumed.items():
        console.print(f"assumed: {name.replace('_', '-')} {value}")
    if data is not None:
        save_and_report(out, StoredModel(made.model, None, info), data, device)
        return
    save_model(out, StoredModel(made.model, None, info))
    console.print(f"wrote {out}", soft_wrap=True)


def moved_table(made: Imported) -> Table:
    """Every key of the checkpoint, and our parameter."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for column in ("key", "shape", "parameter", "as"):
        table.add_column(column, overflow="fold")
    for moved in made.moved:
        table.add_row(moved.key, " x ".join(map(str, moved.shape)) or "-", moved.path, moved.how)
    return table
