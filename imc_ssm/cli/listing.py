"""The command that lists the tasks: `data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from imc_ssm.cli.inputs import load_data, writable
from imc_ssm.cli.options import DataDir, UnusedSeed
from imc_ssm.cli.report import console, info_table
from imc_ssm.files import atomic_path

__all__ = ["data"]


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
