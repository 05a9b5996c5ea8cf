"""The command `explore`: a page about results, or one file of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imc_ssm.cli.inputs import writable
from imc_ssm.cli.options import UnusedSeed
from imc_ssm.cli.report import console

__all__ = ["explore"]


def explore(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS...", help="Datasets (.nc) or folders of sweeps (Zarr); several are shown together."
        ),
    ],
    x: Annotated[
        str | None,
        typer.Option(
            "--x", help="Quantity across: a variable or what was varied, such as energy_total, energy@adc."
        ),
    ] = None,
    y: Annotated[
        str | None,
        typer.Option("--y", help="Quantity up, such as accuracy@1d or accuracy@1d:worst (of the chips)."),
    ] = None,
    colour: Annotated[str | None, typer.Option(help="What colours the points: a field or a quantity.")] = None,
    minimise: Annotated[
        list[str] | None, typer.Option(help="What the front wants small; can be repeated. Default: by the axes.")
    ] = None,
    maximise: Annotated[list[str] | None, typer.Option(help="What it wants large; can be repeated.")] = None,
    over: Annotated[
        str | None,
        typer.Option(
            help="Dimensions whose every value is a point, comma-separated; default: all that was varied."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", "--out", help="Write one file (.html) that opens without anything; no page."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0: any that is free.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    seed: UnusedSeed = 0,
) -> None:
    """Explore results in a page: choose axes, filter, see the front, click a point for what it is made of.

    The page is served from this machine to this machine alone, until Ctrl-C; nothing is loaded from elsewhere.
    """
    from imc_ssm import explorer
    from imc_ssm.explorer.views import view_of

    if report is not None:
        writable(report, ".html")
    points = explorer.Points(explorer.opened(results), over.split(",") if over else None)
    view = view_of(points, x, y, colour, tuple(minimise or ()), tuple(maximise or ()))
    if report is not None:
        explorer.report(points, report, view)
        console.print(f"wrote {report}", soft_wrap=True)
        return
    source = str(results[0]) if len(results) == 1 else ""
    _serve(explorer.server_of(points, view, port=port, source=source), browser)


def _serve(server: object, browser: bool) -> None:
    """Until Ctrl-C."""
    import webbrowser
    from typing import Any

    running: Any = server
    address = f"http://127.0.0.1:{running.port}/"
    running.start()
    console.print(f"{address} (Ctrl-C ends it)", soft_wrap=True)
    try:
        if browser:
            webbrowser.open(address)
        running.io_loop.start()
    except KeyboardInterrupt:
        running.stop()
