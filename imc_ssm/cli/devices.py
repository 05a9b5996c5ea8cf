"""The commands of the device library: `devices [NAME | FILE.toml]` and `devices fit MEASUREMENTS.csv`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from imc_ssm.cli.inputs import writable
from imc_ssm.cli.options import Seed, UnusedSeed
from imc_ssm.cli.report import console
from imc_ssm.files import atomic_path

__all__ = ["devices"]

FIGURES = (".png", ".pdf", ".svg")


class _ShowsByDefault(TyperGroup):
    """A group whose first word may be an argument of `show`: `devices pcm-256` is `devices show pcm-256`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


devices = typer.Typer(
    cls=_ShowsByDefault,
    pretty_exceptions_enable=False,
    help="Memory cells, chip designs and component tables with their sources; a cell from measurements.",
    epilog="`imc-ssm devices NAME`, FILE.toml or nothing is short for `imc-ssm devices show ...` (--out, --seed).",
)


@devices.command("show")
def show_(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A cell, design or component table, by name or FILE.toml: every number and its source."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the same as .json; with a NAME also its .toml, to copy and change; or a figure of "
            "programming error, drift and spread of cells (.png, .pdf, .svg)."
        ),
    ] = None,
    seed: Seed = 0,
) -> None:
    """List memory cells, chip designs and component tables, or show one with the source of every number."""
    from imc_ssm.cli import library

    if out is not None:
        writable(out, *((".json",) if name is None else (".json", ".toml")), *FIGURES)
    content = library.show(name)
    if out is None:
        return
    if out.suffix in FIGURES:
        from imc_ssm.devices import behaviour
        from imc_ssm.plots import cells_compared, save_figure

        save_figure(cells_compared(behaviour(library.shown_cells(name), seed=seed)), out)
        console.print(f"wrote {out}", soft_wrap=True)
        return
    with atomic_path(out) as temporary:
        copied = name is not None and out.suffix == ".toml"
        text = library.toml_of(name) if copied and name else json.dumps(content, indent=2, default=str)
        temporary.write_text(text, encoding="utf-8")
    console.print(f"wrote {out}", soft_wrap=True)


@devices.command()
def fit(
    measurements: Annotated[
        Path,
        typer.Argument(
            help="CSV with columns target and measured, and time and device where devices were read again; units "
            "in the header (target_uS, time_h) or as options."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Cell to write (.toml); the figure of data and fit goes beside it.")],
    conductance_unit: Annotated[
        str | None, typer.Option(help="Unit of target and measured without one in the header: S, mS, uS, nS, pS.")
    ] = None,
    time_unit: Annotated[
        str | None, typer.Option(help="Unit of a time without one in the header: us, ms, s, min, h, d.")
    ] = None,
    g_min: Annotated[
        float | None, typer.Option(help="Lowest conductance used, S (default: lowest target).")
    ] = None,
    g_max: Annotated[
        float | None, typer.Option(help="Highest conductance used, S (default: highest target).")
    ] = None,
    latest: Annotated[
        str | None, typer.Option(help="Use the cell until then, such as 30d (default: the last measured time).")
    ] = None,
    like: Annotated[
        str, typer.Option(help="Cell, by name or path, whose read pulse, area and kind are taken.")
    ] = "generic-reram",
    seed: UnusedSeed = 0,
) -> None:
    """Fit a cell to measurements: programming error, drift, retention, read noise, stuck devices."""
    from imc_ssm.cli import library
    from imc_ssm.devices import fit_cell
    from imc_ssm.plots import cell_fit, save_figure
    from imc_ssm.units import seconds

    writable(out, ".toml")
    picture = out.with_suffix(".png")
    writable(picture, ".png")
    until = None if latest is None else seconds(latest)
    found = fit_cell(
        measurements,
        name=out.stem,
        conductance_unit=conductance_unit,
        time_unit=time_unit,
        g_min=g_min,
        g_max=g_max,
        latest=until,
        like=like,
    )
    console.print(library.fitted(found))
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True)
    found.save(out)
    save_figure(cell_fit(found), picture)
    console.print(f"wrote {out} and {picture}", soft_wrap=True)
