"""What the command line shows: progress, tables, and a result with its figure."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from imc_ssm.units import deviation, duration, quantity

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr
    from matplotlib.figure import Figure

    from imc_ssm.layers import Classifier

__all__ = [
    "console",
    "on_first_step",
    "print_whole",
    "result_tables",
    "slow_heads",
    "stages",
    "updates",
    "write_result",
    "yield_table",
]

Advance = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, a short note)."""
# Names of files and tasks are printed as they are: "[x]" and ":x:" mean nothing.
console = Console(markup=False, emoji=False)


def updates(periods: Sequence[float]) -> str:
    """How often the heads of a layer are updated, of the steps between two updates of each."""
    counts = {k: sum(own == k for own in periods) for k in sorted(set(periods))}
    share = 100 * sum(1 / k for k in periods) / len(periods)
    listed = ", ".join(f"{count} every {'step' if k == 1 else f'{k:.0f} steps'}" for k, count in counts.items())
    return f"{share:.1f} % of the updates ({listed})"


def slow_heads(model: Classifier) -> dict[str, str]:
    """`updates` of every layer of a model that has slow heads, by its path."""
    from imc_ssm.quantization import QuantizedS4D

    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, QuantizedS4D)}
    return {path: updates(rates) for path, layer in layers.items() if (rates := layer.rates()) is not None}


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
    first: tuple[int, float] | None = None

    def update(done: int, total: int, note: str) -> None:
        nonlocal first, shown
        now = time.perf_counter()
        first = first or (done, now)  # what an earlier run did, and compiling, says nothing of what is left
        tenth = 10 * done // max(total, 1)
        if tenth > shown:
            shown, elapsed = tenth, now - start
            rate = (now - first[1]) / (done - first[0]) if done > first[0] else None
            left = "" if rate is None else f", about {rate * (total - done):.0f} s left"
            with suppress(OSError):  # the work goes on where a log cannot
                print(f"{title}: {10 * tenth} %, {elapsed:.0f} s{left} ({note})", flush=True)

    return update


def result_tables(ds: xr.Dataset) -> Group:
    """One row per model: the metric in one table; energy, latency, area and memory of the same chip in another.

    The metric is accuracy in percent, or of a regression R2 or the mean absolute error.
    """
    from imc_ssm.plots.reading import accuracy_label, metric, model_names, of_models

    ds = of_models(ds)
    name = metric(ds)
    count = ds.attrs.get("n_test", ds[name].attrs.get("n_test", "?") if name in ds else "?")
    what = "Accuracy in percent" if name == "accuracy" else accuracy_label(ds).split(", ")[0]
    times = ds["time"].values if "time" in ds.dims else ()
    reached = Table(
        title=f"{what}, {count} test sequences (chips: mean ± deviation)", box=SIMPLE, padding=(0, 1, 0, 0)
    )
    price = Table(title="Cost of one inference on the same chip", box=SIMPLE, padding=(0, 1, 0, 0))
    reached.add_column("model", no_wrap=True)
    for column in ("state", "digital", *(duration(float(t)) for t in times)):
        reached.add_column(column, justify="right")
    price.add_column("model", no_wrap=True)
    for column in _UNITS:
        price.add_column(column, justify="right")
    for model in model_names(ds):
        row = ds.sel(model=model) if "model" in ds.dims else ds
        _add_reached(reached, row, model, name)
        _add_price(price, row, model)
    parts: list[RenderableType] = [str(ds.attrs.get("title", "result"))]
    if name in ds or f"{name}_digital" in ds:
        parts.append(reached)
    if "f1" in ds and "class" in ds.coords and ds["class"].dtype.kind in "UOT":
        parts.append(_f1_table(ds, model_names(ds)))
    return Group(*parts, *([price] if price.row_count else []))


def _f1_table(ds: xr.Dataset, models: list[str]) -> Table:
    """F1 of every class that has a name: digital, and the mean of the chips at every time."""
    table = Table(title="F1 of each class (mean of the chips)", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for column in (
        "class",
        "digital",
        *(duration(float(t)) for t in (ds["time"].values if "time" in ds.dims else ())),
    ):
        table.add_column(column, justify="right")
    for model in models:
        row = ds.sel(model=model) if "model" in ds.dims else ds
        chips = row["f1"].mean([dim for dim in row["f1"].dims if dim not in ("class", "time")], skipna=True)
        for name in ds["class"].values:
            here = chips.sel({"class": name})
            digital = float(row["f1_digital"].sel({"class": name})) if "f1_digital" in row else math.nan
            values = [float(value) for value in here.values.reshape(-1)] if here.size else []
            table.add_row(model, str(name), *("-" if math.isnan(v) else f"{v:.3f}" for v in (digital, *values)))
    return table


_UNITS = {"energy": "J", "latency": "s", "area": "m2", "memory": "bit"}


def yield_table(share: xr.Dataset) -> Table:
    """What `analysis.chip_yield` found: the share of good chips at each time, with its interval.

    And of a subset of the sequences the share of the chips that it does not decide on.
    """
    attrs = share["yield"].attrs
    table = Table(title=attrs["long_name"], box=SIMPLE, padding=(0, 1, 0, 0))
    undecided = "yield_undecided" in share
    columns = ("time", "yield", f"{attrs['confidence']:.0%} interval (Wilson)")
    for column in (*columns, *(["within 2 s.e."] * undecided)):
        table.add_column(column, justify="right", no_wrap=True)
    for moment in share["time"].values:
        row = share.sel(time=moment)
        ends = f"{float(row['yield_low']):.1f} to {float(row['yield_high']):.1f} %"
        rest = [f"{float(row['yield_undecided']):.1f} %"] if undecided else []
        table.add_row(duration(float(moment)), f"{float(row['yield']):.1f} %", ends, *rest)
    return table


def _add_reached(table: Table, row: xr.Dataset, model: str, metric: str) -> None:
    """State bits, digital value, and mean and deviation over chips at every time."""
    import numpy as np

    digits = 1 if metric == "accuracy" else 3
    bits = float(row["bits_state"]) if "bits_state" in row else math.nan
    digital = float(row[f"{metric}_digital"]) if f"{metric}_digital" in row else math.nan
    state = ("fp32" if model.startswith("fp") else "-") if math.isnan(bits) else f"{bits:.0f} b"
    cells = [state, "-" if math.isnan(digital) else f"{digital:.{digits + 1}f}"]
    for t in range(row.sizes.get("time", 0)):
        values = row[metric].isel(time=t).values
        values = values[np.isfinite(values)]
        spread = f"±{deviation(values):.{digits}f}" if len(values) > 1 else ""
        cells.append(f"{values.mean():.{digits}f}{spread}" if len(values) else "-")
    table.add_row(model, *cells)


def _add_price(table: Table, row: xr.Dataset, model: str) -> None:
    """Totals over the components, where there are any."""
    import numpy as np

    there = {name: row[name].values for name in _UNITS if name in row and "component" in row[name].dims}
    if not any(np.isfinite(values).any() for values in there.values()):
        return
    totals = {name: float(np.nansum(values)) for name, values in there.items()}
    table.add_row(model, *(quantity(totals[n], u) if n in totals else "-" for n, u in _UNITS.items()))


def print_whole(table: RenderableType) -> None:
    """Print a table as wide as it is, cut at no column, into a file or a pipe too."""
    width = Measurement.get(console, console.options.update(width=10_000), table).maximum
    Console(markup=False, emoji=False, width=max(width, console.width)).print(table, crop=False)


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
