"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Chips", "DataDir", "DesignName", "Seed", "TaskName", "Times", "UnusedSeed"]

Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything that is drawn.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder that holds the dataset's files (else IMC_SSM_DATA, cache, download).")
]
TaskName = Annotated[str | None, typer.Option(help="Task or .npz; default: what the model was trained on.")]
DesignName = Annotated[str, typer.Option(help="Chip design: a name from `imc-ssm devices`, or a path to a .toml.")]
Times = Annotated[
    str, typer.Option(help="Times after programming: seconds, or with s, min, h, d; comma-separated.")
]
Chips = Annotated[int, typer.Option(min=1, help="Chips to programme.")]
UnusedSeed = Annotated[int, typer.Option(help="Accepted by every command; nothing is drawn here.")]
