"""What the command line shows: progress, tables, and a result with its figure."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from imc_ssm.units import deviation, duration, quantity

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["console", "on_first_step", "result_tables", "stages", "write_result"]

Advance = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, a short note)."""
# Names of files and tasks are printed as they are: "[x]" and ":x:" mean nothing.
console = Console(markup=False, emoji=False)


@contextmanager
def stages() -> Iterator[Callable[[str], Advance]]:
    """Progress of a job of several stages: bars with an estimate on a terminal, a line per tenth elsewhere."""
    if not console.is_terminal:
        yield _plain_stage
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    with Progress(*columns, console=console) as progress:

        def stage(title: str) -> Advance:
            task: TaskID = progress.add_task(title, total=None, note="")

            def update(done: int, total: int, note: str) -> None:
                progress.update(task, completed=done, total=total, note=note)

            return update

        yield stage


def on_first_step(stage: Callable[[str], Advance]) -> Callable[[str], AbstractContextManager[Advance]]:
    """The same for the jobs of a study, without a bar for those that say nothing of their progress."""

    @contextmanager
    def job(title: str) -> Iterator[Advance]:
        started: list[Advance] = []

        def update(done: int, total: int, note: str) -> None:
            if not started:
                started.append(stage(title))
            started[0](done, total, note)

        yield update

    return job


def _plain_stage(title: str) -> Advance:
    start, shown = time.perf_counter(), -1
    first: int | None = None

    def update(done: int, total: int, note: str) -> None:
        nonlocal first, shown
        first = done if first is None else first  # what an earlier run did took no time of this one
        tenth = 10 * done // max(total, 1)
        if tenth > shown:
            shown, elapsed = tenth, time.perf_counter() - start
            left = f", about {elapsed * (total - done) / (done - first):.0f} s left" if done > first else ""
            with suppress(OSError):  # the work goes on where a log cannot
                print(f"{title}: {10 * tenth} %, {elapsed:.0f} s{left} ({note})", flush=True)

    return update


def result_tables(ds: xr.Dataset) -> Group:
    """One row per model: accuracies in one table; energy, latency, area and memory of the same chip in another."""
    import numpy as np

    count = ds.attrs.get("n_test", "?")
    accuracy = Table(
        title=f"Accuracy in percent, {count} test sequences (chips: mean ± deviation)",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    price = Table(title="Cost of one inference on the same chip", box=SIMPLE, padding=(0, 1, 0, 0))
    accuracy.add_column("model", no_wrap=True)
    for column in ("state", "digital", *(duration(float(t)) for t in ds["time"].values)):
        accuracy.add_column(column, justify="right")
    price.add_column("model", no_wrap=True)
    for column in ("energy", "latency", "area", "memory"):
        price.add_column(column, justify="right")
    for name in ds["model"].values:
        row = ds.sel(model=name)
        bits = float(row["bits_state"])
        cells = ["fp32" if math.isnan(bits) else f"{bits:.0f} b", f"{float(row['accuracy_digital']):.2f}"]
        for t in range(ds.sizes["time"]):
            values = row["accuracy"].isel(time=t).values
            values = values[np.isfinite(values)]
            spread = f"±{deviation(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{spread}" if len(values) else "-")
        accuracy.add_row(str(name), *cells)
        if not np.isfinite(row["energy"].values).any():
            continue
        totals = [float(np.nansum(row[part].values)) for part in ("energy", "latency", "area", "memory")]
        units = ("J", "s", "m2", "bit")
        price.add_row(str(name), *(quantity(v, u) for v, u in zip(totals, units, strict=True)))
    title = str(ds.attrs.get("title", "result"))
    return Group(title, accuracy, price) if price.row_count else Group(title, accuracy)


def write_result(
    ds: xr.Dataset,
    out: Path,
    *,
    tables: Callable[[xr.Dataset], RenderableType] = result_tables,
    draw: Callable[[xr.Dataset], Figure] | None = None,
) -> None:
    """Save the dataset and its figure beside it, print the tables and where they are; `draw` None: `summary`."""
    from imc_ssm.plots import save_figure, summary
    from imc_ssm.results import save

    picture = out.with_suffix(".png")
    save(ds, out)
    save_figure((draw or summary)(ds), picture)
    console.print(tables(ds))
    console.print(f"wrote {out} and {picture}", soft_wrap=True)


def info_table(title: str, rows: Mapping[str, object]) -> Table:
    """Two columns: what, value."""
    table = Table(title=title, show_header=False)
    for key, value in rows.items():
        table.add_row(key, str(value))
    return table


def fail(message: str) -> None:
    """One line on standard error, exit code 2."""
    line = Text.assemble(("error:", "red"), " ", " ".join(message.splitlines()))
    Console(stderr=True).print(line, highlight=False, soft_wrap=True)
    sys.exit(2)
