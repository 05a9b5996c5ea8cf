"""The command `import`: a checkpoint that another library wrote becomes a model file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imc_ssm.cli.inputs import load_data, writable
from imc_ssm.cli.learning import save_and_report
from imc_ssm.cli.options import DataDir, Device, UnusedSeed
from imc_ssm.cli.report import console

if TYPE_CHECKING:
    from imc_ssm.foreign import Imported

__all__ = ["import_checkpoint"]

_BLOCK = re.compile(r"((?:^|\.)(?:s4_layers|layers|norms|blocks)\.)\d+\.")


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
    console.print(made.layout)
    for line in moved_lines(made):
        console.print(line, soft_wrap=True, highlight=False)
    if made.assumed:
        console.print("assumed, because keys do not say it (options of these names do):")
    for name, value in made.assumed.items():
        console.print(f"  {name.replace('_', '-')}: {value}", soft_wrap=True)
    if data is not None:
        save_and_report(out, StoredModel(made.model, None, info), data, device)
        return
    save_model(out, StoredModel(made.model, None, info))
    console.print(f"wrote {out}", soft_wrap=True)


def moved_lines(made: Imported) -> list[str]:
    """Every key of the checkpoint, its shape and our parameter, in columns; blocks that are alike share a line."""
    rows: dict[tuple[str, str, str], None] = {}
    for moved in made.moved:
        key, path = (_BLOCK.sub(r"\1i.", name, count=1) for name in (moved.key, moved.path))
        how = f" ({moved.how})" if moved.how else ""
        rows[key, " x ".join(map(str, moved.shape)) or "-", path + how] = None
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    blocks = len(made.model.blocks)
    lines = [f"{key:{first}}  {shape:>{second}}  ->  {path}" for key, shape, path in rows]
    return [*lines, f"i: blocks 0 to {blocks - 1}" if blocks > 1 else "i: block 0"]
