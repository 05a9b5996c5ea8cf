"""The commands that show what there is: `show` and `data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from imc_ssm.cli.inputs import load_data, writable
from imc_ssm.cli.inspection import INSPECTED, inspection_tables, is_inspection
from imc_ssm.cli.options import DataDir, UnusedSeed
from imc_ssm.cli.report import console, info_table, result_tables
from imc_ssm.errors import FileError
from imc_ssm.files import atomic_path

__all__ = ["data", "show"]

SHOWN = (
    *("time", "accuracy_digital", "accuracy", "energy", "latency", "area", "memory", "bits_state"),
    *("chip", "component"),
)
"""Variables that `show` reads of a dataset of models."""


def show(
    result: Annotated[Path, typer.Argument(help="Dataset written by demo, deploy or inspect (.nc).")],
    out: Annotated[
        Path | None, typer.Option(help="Figure to write (.png, .pdf, .svg); default: beside it.")
    ] = None,
    seed: UnusedSeed = 0,
) -> None:
    """Print a dataset as a table and plot it."""
    from imc_ssm.plots import inspection, save_figure, summary
    from imc_ssm.results import load

    ds = load(result)
    recurrences = is_inspection(ds)
    if "model" not in ds.dims and not recurrences:
        raise FileError(
            f"{result} holds no models (variables: {', '.join(map(str, ds.data_vars))}); give a dataset "
            "written by demo, deploy or inspect"
        )
    missing = [name for name in (INSPECTED if recurrences else SHOWN) if name not in ds.variables]
    if missing:
        raise FileError(f"{result} has no {', '.join(missing)}; give a dataset written by demo, deploy or inspect")
    picture = out or result.with_suffix(".png")
    writable(picture, ".png", ".pdf", ".svg")
    console.print(inspection_tables(ds) if recurrences else result_tables(ds))
    save_figure(inspection(ds) if recurrences else summary(ds), picture)
    console.print(f"wrote {picture}", soft_wrap=True)


def data(
    name: Annotated[str | None, typer.Argument(help="A task or FILE.npz: read and check it.")] = None,
    data_dir: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="Write the same as JSON.")] = None,
    seed: UnusedSeed = 0,
) -> None:
    """List the tasks, or read one, check it and say what it holds."""
    from imc_ssm import datasets

    if out is not None:
        writable(out, ".json")
    names = datasets.names() if name is None else [name]
    described = {n: datasets.info(n) for n in names}
    if name is not None:
        loaded = load_data(name, data_dir)
        described[name]["read and checked"] = {part: len(loaded.split(part)) for part in loaded.splits}
    for n, about in described.items():
        console.print(info_table(n, about))
    _write_json(out, described)


def _write_json(out: Path | None, content: Any) -> None:
    if out is not None:
        with atomic_path(out) as temporary:
            temporary.write_text(json.dumps(content, indent=2, default=str), encoding="utf-8")
        console.print(f"wrote {out}", soft_wrap=True)
