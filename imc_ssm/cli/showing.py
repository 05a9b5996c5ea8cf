"""The command `show`: whatever a command wrote, as a table and, where there is something to draw, a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imc_ssm.cli.inputs import writable
from imc_ssm.cli.inspection import INSPECTED, inspection_tables
from imc_ssm.cli.options import UnusedSeed
from imc_ssm.cli.report import console, info_table, print_whole, result_tables, slow_heads
from imc_ssm.errors import ConfigError, FileError, ImcSsmError
from imc_ssm.files import atomic_path

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

__all__ = ["show"]

PICTURES = (".png", ".pdf", ".svg")


def show(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="What a command wrote: a dataset (.nc; several are compared), a model or deployment "
            "(.safetensors), a list (.json) or a report (.md).",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Figure to write (.png, .pdf, .svg); default: beside the file.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Also write the numbers as text (.csv): loss curves, or a dataset.")
    ] = None,
    seed: UnusedSeed = 0,
) -> None:
    """Print and plot what a command wrote; several datasets are compared in one figure.

    Paths are relative to where you are. A picture that `show` did not make is never overwritten.
    """
    if out is not None:
        writable(out, *PICTURES)
        if not _may_write(out):
            raise FileError(f"{out} was not made by show and is not overwritten; give --out another name")
    if csv is not None:
        writable(csv, ".csv")
    ds, tables = _read(files[0]) if len(files) == 1 else _compared(files)
    whole = len(files) > 1 or files[0].suffix == ".nc"  # tables of numbers; lists of texts wrap
    for table in tables:
        (print_whole if whole else console.print)(table)
    if ds is None:
        for option, path in (("--out", out), ("--csv", csv)):
            if path is not None:
                raise ConfigError(f"{files[0]} holds nothing to draw; leave {option} {path} out")
        return
    if csv is not None:
        _write_csv(ds, csv)
    _draw(ds, out, files)


def _draw(ds: xr.Dataset, out: Path | None, files: list[Path]) -> None:
    """The picture: where it was asked for, or beside the file if no other picture is there."""
    from imc_ssm.plots import draw, save_figure

    picture = out or (files[0] if len(files) == 1 else files[0].with_name("comparison")).with_suffix(".png")
    if out is None and not _may_write(picture):
        console.print(f"{picture} was not made by show and stays; --out NAME.png draws another", soft_wrap=True)
        return
    writable(picture, *PICTURES)
    save_figure(draw(ds), picture)
    console.print(f"wrote {picture}", soft_wrap=True)


def _may_write(picture: Path) -> bool:
    """Whether no picture is there, or one that `show` makes."""
    from imc_ssm.plots import made_here

    return not picture.is_file() or picture.stat().st_size == 0 or made_here(picture)


def _read(path: Path) -> tuple[xr.Dataset | None, list[RenderableType]]:
    """What is drawn of a file, None for nothing, and its tables."""
    suffix = path.suffix.lower()
    if suffix == ".safetensors" or (suffix == "" and not path.exists()):
        return _of_tensors(path)
    if suffix == ".json":
        return None, _of_json(path)
    if suffix == ".md":
        from rich.markdown import Markdown

        return None, [Markdown(_text(path))]
    hints = {
        ".npz": "imc-ssm data",
        ".toml": "imc-ssm devices",
        **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), "imc-ssm import"),
    }
    if suffix in hints and path.is_file():
        raise FileError(f"{path} is not a result: `{hints[suffix]} {path}` reads it")
    if suffix in PICTURES and path.is_file():
        raise FileError(f"{path} is a picture; give the dataset that it was drawn from (.nc)")
    return _of_dataset(path)


def _of_dataset(path: Path) -> tuple[xr.Dataset, list[RenderableType]]:
    from imc_ssm.plots import kind_of
    from imc_ssm.results import load

    ds = load(path)
    try:
        kind = kind_of(ds)
    except ConfigError as error:
        raise FileError(f"{path}: {error}") from None
    if kind == "inspection":
        missing = [name for name in INSPECTED if name not in ds.variables]
        if missing:
            raise FileError(f"{path} has no {', '.join(missing)}; write it again with inspect")
        return ds, [inspection_tables(ds)]
    if kind == "grid":
        return ds, _of_grid(ds)
    if kind == "schedule":
        from imc_ssm.cli.timing import schedule_table

        return ds, [schedule_table(ds)]
    if kind == "swings":
        from imc_ssm.costs import constant_table
        from imc_ssm.devices import load_constants

        return ds, [constant_table(ds, load_constants().entries)]
    if kind == "cost":
        from imc_ssm.costs import table

        return ds, [table(ds) if "model" not in ds.dims else result_tables(ds)]
    return ds, [result_tables(ds)]


def _of_grid(ds: xr.Dataset) -> list[RenderableType]:
    """Every variable of a study over what was varied, in tables; the cells that are missing."""
    from imc_ssm.cli.grids import grid_tables

    about = {"title": ds.attrs.get("title"), "over": ", ".join(f"{n} ({size})" for n, size in ds.sizes.items())}
    if "cells" in ds.attrs:
        about["cells done"] = f"{ds.attrs['cells_done']} of {ds.attrs['cells']}"
    if "n_test" in ds.attrs:
        about["test sequences"] = ds.attrs["n_test"]
    return [info_table("Study", about), *grid_tables(ds)]


def _of_tensors(path: Path) -> tuple[xr.Dataset | None, list[RenderableType]]:
    """A model with its curves, or a deployment with its costs."""
    from imc_ssm.chip import Deployment
    from imc_ssm.modelfile import load_model
    from imc_ssm.pretrained import model_file

    path = model_file(path)
    try:
        return _of_model(load_model(path))
    except FileError as error:
        if "'deployment' file" in str(error):
            return _of_deployment(Deployment.load(path))
        for kind in ("checkpoint", "evaluation"):
            if f"{kind!r} file" in str(error):
                raise FileError(
                    f"{path} is unfinished work; the command that left it, given again, goes on from there"
                ) from None
        raise


def _of_deployment(placed: Any) -> tuple[xr.Dataset | None, list[RenderableType]]:
    from imc_ssm.costs import cost, table

    chip = placed.chip
    about = {
        "model": f"{placed.name}, {placed.steps} steps, scheme {placed.scheme.label}",
        "design": f"{chip.design.name}, cell {chip.cell.name}, {len(placed.matrices)} matrices on tiles",
        "digest": placed.digest()[:16],
        "to evaluate": "imc_ssm.chip.evaluate(Deployment.load(path), data)",
    }
    tables: list[RenderableType] = [info_table("Deployment", about), placed.table()]
    try:
        priced = cost(placed)
    except ImcSsmError as error:  # a converter or component without a price
        return None, [*tables, f"no costs: {error}"]
    priced.attrs["model"] = placed.name
    return priced, [*tables, table(priced)]


def _of_model(stored: Any) -> tuple[xr.Dataset | None, list[RenderableType]]:
    from imc_ssm.plots import curves

    info, config = stored.info, stored.model.config
    reached = [
        f"{name.removesuffix('_test')} {value:.2f} %" if name == "accuracy_test" else f"{name[:-5]} {value:.4g}"
        for name, value in info.items()
        if name.endswith("_test") and name != "n_test" and isinstance(value, float)
    ]
    about = {
        "model": f"{config.layers} x {config.layer.type}, {config.heads} heads, norm {config.norm}",
        "parameters": f"{sum(p.numel() for p in stored.model.parameters()):,}",
        "precision": "full" if stored.scheme is None else f"quantized, {stored.scheme.label}",
        **{f"updates of {path}": what for path, what in slow_heads(stored.model).items()},
        "task": info.get("task", "not said"),
        "test split": f"{', '.join(reached)} on {info.get('n_test')} sequences" if reached else None,
        "quantized from": info.get("quantized_from"),
        "next": _next(stored.scheme is None),
    }
    tables: list[RenderableType] = [info_table("Model", {k: v for k, v in about.items() if v is not None})]
    key = next((k for k in ("qat_history", "history") if isinstance(info.get(k), dict)), None)
    ds = None if key is None else curves(info[key])
    if ds is None or not ds.sizes.get("epoch"):
        return None, tables
    ds.attrs["title"] = "QAT" if key == "qat_history" else "Training"
    last = {str(n): f"{float(ds[n][-1]):.4g}" for n in ds.data_vars if n != "time"}
    return ds, [*tables, info_table(f"{ds.attrs['title']}, after {ds.sizes['epoch']} epochs", last)]


def _next(full: bool) -> str:
    return "imc-ssm quantize, imc-ssm inspect" if full else "imc-ssm deploy, imc-ssm cost, imc-ssm inspect"


def _of_json(path: Path) -> list[RenderableType]:
    """What `devices` or `data` wrote: one table an entry."""
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise FileError(f"{path} holds no entries; give what `imc-ssm data` or `devices` wrote with --out")
    lists = {str(k): v for k, v in content.items() if isinstance(v, dict) and "value" not in v}
    entries = lists if len(lists) == len(content) and lists else {path.name: content}
    return [info_table(name, entry) for name, entry in entries.items()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise FileError(f"cannot read {path}: {reason}; give the path of an existing file") from None


def _compared(files: list[Path]) -> tuple[xr.Dataset, list[RenderableType]]:
    """Several datasets side by side."""
    from imc_ssm.plots import together
    from imc_ssm.results import load

    other = next((path for path in files if path.suffix != ".nc"), None)
    if other is not None:
        raise ConfigError(f"{other} is no dataset; only datasets (.nc) are compared, show the others one by one")
    stems = [path.stem for path in files]
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in files]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"{next(n for n in names if names.count(n) > 1)} is given twice; give different datasets"
        )
    ds = together({name: load(path) for name, path in zip(names, files, strict=True)})
    return ds, [result_tables(ds)]


def _write_csv(ds: xr.Dataset, path: Path) -> None:
    """One column a variable if all have the same dimensions (curves), else one line a number."""
    import pandas as pd  # type: ignore[import-untyped]

    dims = {ds[name].dims for name in ds.data_vars}
    if len(dims) == 1 and dims != {()}:
        frame = ds.to_dataframe().reset_index()
    else:
        parts = []
        for name in ds.data_vars:
            values = ds[name].reset_coords(drop=True)
            one = values.to_series().reset_index() if values.dims else pd.DataFrame({name: [values.item()]})
            one = one.rename(columns={str(name): "value"})
            parts.append(one.assign(variable=str(name), units=str(values.attrs.get("units", "1"))))
        frame = pd.concat(parts, ignore_index=True)
        last = ["variable", "value", "units"]
        frame = frame[[column for column in frame.columns if column not in last] + last]
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False)
    console.print(f"wrote {path}", soft_wrap=True)
