"""The commands of studies: `experiment list | run | report`."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

from imc_ssm.cli.options import DataDir, Device
from imc_ssm.cli.report import console, stages
from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.files import atomic_path, check_writable
from imc_ssm.units import duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imc_ssm.study import Experiment, Finished, Workplace
    from imc_ssm.training import Progress

__all__ = ["experiment"]

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""

experiment = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Studies of the folder experiments/: list them, run them cell by cell, compare them with the paper. "
    "Reading a study runs its study.py: that of the one that is named, or, to list them, of all.",
)


def _left_out(folder: Path, error: Exception) -> None:
    """Say that a study is broken, and go on with the others."""
    console.print(f"left out: {folder}/study.py cannot be read: {type(error).__name__}: {error}", soft_wrap=True)


@experiment.command("list")
def list_(
    names: Annotated[list[str] | None, typer.Argument(help="Experiments whose cells to list.")] = None,
    data_dir: DataDir = None,
) -> None:
    """The experiments: cells done and missing, compute time so far, and an estimate for the rest.

    With names: the cells of these, which seeds are done and which are missing. The estimate scales with what was
    measured on this study's jobs; before that, it is for two cores.
    """
    from imc_ssm.study import find, studies

    places = studies(data_dir, named=names or (), left_out=_left_out)
    if names:
        for name in names:
            _list_cells(*find(name, places))
        return
    for place in places:
        records = place.ledger.records()
        table = Table(title=f"{place.study.title} ({place.study.name})", box=SIMPLE, padding=(0, 1, 0, 0))
        table.add_column("experiment", no_wrap=True)
        table.add_column("what")
        for column in ("cells done", "time so far", "time left"):
            table.add_column(column, justify="right", no_wrap=True)
        for declared in place.study.experiments:
            cells = declared.cells()
            done = sum(place.done(cell, records) is not None for cell in cells)
            spent, left = place.spent(cells, records), place.left(cells, records)
            rest = f"about {duration(left, 2)}" if done < len(cells) else "-"
            room = max(20, console.width - 57)  # one line an experiment
            title = declared.title if len(declared.title) <= room else f"{declared.title[: room - 3].strip()}..."
            so_far = duration(spent, 2) if done else "-"
            table.add_row(declared.name, title, f"{done} of {len(cells)}", so_far, rest)
        jobs = {
            place.study.key(job, cell.seed): replace(cell, jobs=(job,))
            for declared in place.study.experiments
            for cell in declared.cells()
            for job in cell.jobs
        }
        cells = list(jobs.values())
        done = sum(place.done(cell, records) is not None for cell in cells)
        table.add_section()
        spent, left = place.spent(cells, records), place.left(cells, records)
        rest = f"about {duration(left, 2)}" if left else "-"
        table.add_row("all", "each job once", f"{done} of {len(cells)}", duration(spent, 2), rest)
        console.print(table)
    console.print(
        "Times include the trainings that experiments share; 'all' counts every job once. "
        "`imc-ssm experiment list NAME` lists the cells of one."
    )


def _list_cells(place: Workplace, declared: Experiment) -> None:
    """One line for every point of the grid: the values for `--only`, and the seeds."""
    records = place.ledger.records()
    seeds: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
    for cell in declared.cells():
        pair = seeds.setdefault(tuple(map(str, cell.at.values())), ([], []))
        pair[place.done(cell, records) is None].append(str(cell.seed))
    rows = [[*at, *(" ".join(numbers) or "-" for numbers in pair)] for at, pair in seeds.items()]
    _print(f"{declared.name}: {declared.title}", ([*declared.dimensions, "seeds done", "missing"], rows))


@experiment.command()
def run(
    names: Annotated[list[str], typer.Argument(help="Experiments from `imc-ssm experiment list`, in this order.")],
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many seeds; default: all that are declared.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only these cells: KEY=VALUE or KEY=VALUE,VALUE; may be repeated. KEY may be seed."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of this process; default: all.")] = None,
    device: Device = "cpu",
    data_dir: DataDir = None,
) -> None:
    """Compute the missing cells, one after the other; interrupted or killed, the same command goes on.

    Several processes may run different cells at once (`--only seed=0` here, `--only seed=1` there).
    """
    from imc_ssm.kernels.device import named_device
    from imc_ssm.study import find, studies
    from imc_ssm.study import run as compute

    named_device(device)

    places = studies(data_dir, named=names)
    wanted = selection(only or [])
    chosen = [find(name, places) for name in names]
    plans = [(place, declared, declared.cells(seeds, wanted)) for place, declared in chosen]
    for place, declared, _ in plans:
        for path in (place.result_path(declared), place.runs / "lock", place.models / "model"):
            check_writable(path)
    _set_threads(threads)
    failures: list[Finished] = []
    try:
        for place, declared, cells in plans:
            _announce(place, declared, cells)
            failures += compute(
                place,
                declared,
                cells,
                stage=_stage,
                device=device,
                finished=partial(_say, place),
                waiting=lambda c: console.print(f"{c.label}: another process computes this cell; waiting"),
            )
            _show(place, declared)
    except KeyboardInterrupt:
        print(
            "interrupted; finished cells are in the dataset, and a training goes on from its last whole epoch "
            "when the same command is given again",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED)
    if failures:
        first = failures[0]
        raise ImcSsmError(
            f"{len(failures)} cells failed and stay missing, the first one {first.cell.label}: {first.error}"
        )


@experiment.command()
def report(
    study: Annotated[str | None, typer.Argument(help="One study; default: all.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Ours beside the paper's, with the difference in the paper's deviations; writes REPORT.md into the study.

    Datasets and figures are written anew from the ledger, with all cells that other experiments computed.
    """
    from imc_ssm.errors import unknown
    from imc_ssm.study import studies
    from imc_ssm.study.dataset import write
    from imc_ssm.study.report import comparison_table, markdown

    places = {
        place.study.name: place
        for place in studies(data_dir, named=[] if study is None else [study], left_out=_left_out)
    }
    if study is not None and study not in places:
        raise ConfigError(unknown("study", study, places))
    for place in places.values() if study is None else [places[study]]:
        out = place.folder / "REPORT.md"
        check_writable(out)
        parts = []
        for declared in place.study.experiments:
            ds = write(place, declared, draw=True)
            if declared.paper:
                _print(_compared(declared), comparison_table(ds, declared))
            picture = None if declared.figure is None else f"results/{declared.name}.png"
            parts.append((declared, ds, picture))
        with atomic_path(out) as temporary:
            temporary.write_text(markdown(place.study.title, place.study.source, parts), encoding="utf-8")
        console.print(f"wrote {out}", soft_wrap=True)


def selection(words: list[str]) -> dict[str, list[str]]:
    """["model=a,b", "seed=1"] -> {"model": ["a", "b"], "seed": ["1"]}; commas may also separate pairs."""
    out: dict[str, list[str]] = {}
    for word in words:
        key = ""
        for part in word.split(","):
            name, equals, value = part.partition("=")
            key, value = (name.strip(), value) if equals else (key, part)
            if not key or not value.strip():
                raise ConfigError(f"--only {word!r} is not understood; give KEY=VALUE, such as model=s4d-16h")
            out.setdefault(key, []).append(value.strip())
    return out


@contextmanager
def _stage(title: str) -> Iterator[Progress]:
    """Progress of one job: a bar, or lines, from its first step on."""
    with ExitStack() as stack:
        update: list[Progress] = []

        def progress(done: int, total: int, note: str) -> None:
            if not update:
                update.append(stack.enter_context(stages())(title))
            update[0](done, total, note)

        yield progress


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    import numba
    import torch

    most = int(numba.config.NUMBA_NUM_THREADS)
    if threads > most:
        raise ConfigError(
            f"--threads {threads}: this process may use up to {most} (set NUMBA_NUM_THREADS for more)"
        )
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)


def _announce(place: Workplace, declared: Experiment, cells: list[Any]) -> None:

    records = place.ledger.records()
    missing = sum(place.done(cell, records) is None for cell in cells)
    rest = f", about {duration(place.left(cells, records), 2)}" if missing else ": nothing to do"
    console.print(
        f"{declared.name}: {declared.title}; {missing} of {len(cells)} cells to compute{rest}", soft_wrap=True
    )


def _say(place: Workplace, finished: Finished) -> None:
    """One line for a finished cell, with the model that it left."""

    head = f"[{finished.done}/{finished.total}] {finished.cell.label}: "
    if finished.error:
        console.print(f"{head}failed: {finished.error}", soft_wrap=True)
        return
    reached = [v for record in finished.records for v in _accuracies(record.measured)]
    value = "" if not reached else f"{reached[0]:.2f} %, "
    left = f"; about {duration(finished.left_s, 2)} left" if finished.left_s > 0 else ""
    model = place.written_model(finished.cell)
    where = "" if model is None else f" ({model.relative_to(place.folder)})"
    took = duration(sum(record.time_s for record in finished.records), 2)
    console.print(f"{head}{value}{took}{where}{left}", soft_wrap=True)


def _accuracies(measured: dict[str, Any]) -> list[float]:
    """The accuracies that a job measured once."""
    return [v for n, v in measured.items() if n.startswith("accuracy") and isinstance(v, float)]


def _show(place: Workplace, declared: Experiment) -> None:
    """The table of an experiment, and where its files are."""
    from imc_ssm import results
    from imc_ssm.study.report import comparison_table, headlines, summary_table

    path = place.result_path(declared)
    ds = results.load(path)
    if declared.paper:
        _print(_compared(declared), comparison_table(ds, declared))
    else:
        for name, values in headlines(ds, declared).items():
            _print(f"{declared.title}: {name}", summary_table(values, declared))
    figure = f" and {path.with_suffix('.png')}" if declared.figure is not None else ""
    console.print(f"see {path}{figure}", soft_wrap=True)


def _compared(declared: Experiment) -> str:
    return f"{declared.title}: accuracy in percent; difference in the paper's deviations"


def _print(title: str, content: tuple[list[str], list[list[str]]]) -> None:
    """A table of texts under its title."""
    header, rows = content
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for name in header:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    console.print(title, table)
