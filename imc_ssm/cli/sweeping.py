"""The commands of sweeps: `sweep run | status | best | front`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

from imc_ssm.cli.options import DataDir
from imc_ssm.cli.report import console, print_whole, stages
from imc_ssm.errors import ConfigError
from imc_ssm.files import atomic_path, check_writable
from imc_ssm.units import duration, quantity

if TYPE_CHECKING:
    import xarray as xr

    from imc_ssm.sweeps import Plan, Search, Standing, Store

__all__ = ["sweep"]

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""
ROWS = 30
"""Points that a table shows, at most."""

sweep = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Sweeps of a design space, as a TOML describes them: run, look at, the best point, the Pareto front.",
)

Folder = Annotated[Path, typer.Argument(help="Folder of a sweep, or its TOML.")]
Maximise = Annotated[
    list[str] | None,
    typer.Option(help="Number that should be large, such as accuracy@1d; may be repeated. Default: the TOML's."),
]
Minimise = Annotated[
    list[str] | None,
    typer.Option(help="Number that should be small, such as energy_total; may be repeated. Default: the TOML's."),
]
Constraints = Annotated[
    list[str] | None,
    typer.Option(
        "--constraint", help="Only points that keep it, such as 'latency_total <= 1e-3'; may be repeated."
    ),
]


@sweep.command()
def run(
    file: Annotated[Path, typer.Argument(help="The sweep: a .toml.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the sweep; default: the TOML's name without its ending.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many points, in place of the TOML's; those that are there stay.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="Workers of dask: local, or a scheduler's address, tcp://...; default: this process."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --cluster local: how many processes; default: one a core.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Measure the points that are not there yet; interrupted or killed, the same command goes on.

    Several such commands may run at once, on several machines too, where they see the folder.
    """
    from imc_ssm.sweeps import SweepFile, run_plan, standing

    plan = SweepFile.plan(file)
    if trials is not None:
        plan = _with(plan, plan.search.with_(trials=trials))
    folder = _folder(file) if out is None else out
    check_writable(folder / "cell")
    store = plan.store(folder)
    _say(plan, standing(plan, store), folder)
    try:
        with stages() as stage:
            run_plan(
                plan,
                folder,
                cluster=cluster,
                workers=workers,
                data_dir=data_dir,
                progress=stage(plan.title),
                stage=stage("training"),
            )
    except KeyboardInterrupt:
        print(
            "interrupted; finished cells are kept, and the same command, given again, goes on from there",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED)
    _say(plan, standing(plan, store), folder)
    ds = plan.dataset(store)
    if plan.search.goals:
        print_whole(_table(ds, _front(ds, plan.search, None, None, None), plan.search.goals, "Front"))


@sweep.command()
def status(folder: Folder) -> None:
    """How many cells are done, what became of them, and how long the others will take."""
    from imc_ssm.sweeps import standing
    from imc_ssm.sweeps.plan import plan_of

    store = _store(folder)
    plan = plan_of(store.about)
    if folder.suffix == ".toml":
        from imc_ssm.sweeps import SweepFile

        plan = SweepFile.plan(folder)
    _say(plan, standing(plan, store), store.folder)


@sweep.command()
def best(
    folder: Folder,
    maximise: Maximise = None,
    minimise: Minimise = None,
    constraint: Constraints = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write its chip design (.toml), for `deploy --design`.")
    ] = None,
) -> None:
    """The one point that is best in one number, and where it lies.

    Without --maximise and --minimise the number is the first goal of the TOML. With --out also its design, and the
    command that puts the model on it.
    """
    from imc_ssm.sweeps import best as chosen
    from imc_ssm.sweeps import load, written
    from imc_ssm.sweeps.fronts import points

    ds, search = load(_store(folder).folder), _search(folder)
    wanted: dict[str, Any] = {"maximise": maximise or (), "minimise": minimise or ()}
    if not maximise and not minimise:
        wanted = _first_goal(search)
    kept = list(search.constraints) if constraint is None else constraint
    point = chosen(ds, **wanted, constraints=kept)
    goals = dict.fromkeys([*search.goals, *wanted["maximise"], *wanted["minimise"]])
    print_whole(_table(ds, points(point), goals, "Best point"))
    if out is not None:
        if out.suffix != ".toml":
            raise ConfigError(f"--out {out}: a design is a .toml")
        check_writable(out)
        commands = written(point, out)
        console.print(f"wrote {out}", soft_wrap=True)
        for line in commands:
            console.print(line, soft_wrap=True)


@sweep.command()
def front(
    folder: Folder,
    maximise: Maximise = None,
    minimise: Minimise = None,
    constraint: Constraints = None,
    out: Annotated[Path | None, typer.Option(help="Figure to write (.png, .pdf, .svg).")] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write the points of the front as text (.csv).")] = None,
) -> None:
    """The Pareto front: the points that no other one beats in all goals."""
    import xarray as xr

    from imc_ssm.sweeps import load, value

    ds, search = load(_store(folder).folder), _search(folder)
    found = _front(ds, search, maximise, minimise, constraint)
    goals = _goals(search, maximise, minimise)
    table = _table(ds, found, goals, "Front")
    print_whole(table)
    if csv is not None:
        if csv.suffix != ".csv":
            raise ConfigError(f"--csv {csv}: the name must end in .csv")
        columns = {n: found[n].values for n in _varied(ds)} | {n: value(found, n).values for n in goals}
        frame = xr.Dataset({name: ("trial", values) for name, values in columns.items()}).to_dataframe()
        with atomic_path(csv) as temporary:
            frame.to_csv(temporary, index=False)
        console.print(f"wrote {csv}", soft_wrap=True)
    if out is not None:
        from imc_ssm.plots import save_figure

        save_figure(_drawn(ds, search, goals, constraint), out)
        console.print(f"wrote {out}", soft_wrap=True)


def _drawn(ds: xr.Dataset, search: Search, goals: dict[str, Any], constraint: list[str] | None) -> Any:
    """Two goals as axes, a third as colour."""
    import numpy as np

    from imc_ssm.plots import styled
    from imc_ssm.plots.pareto import front_points
    from imc_ssm.sweeps import front as undominated_points
    from imc_ssm.sweeps import value
    from imc_ssm.sweeps.fronts import points

    small = [name for name, way in goals.items() if way == "minimize"]
    large = [name for name, way in goals.items() if way == "maximize"]
    across, up, *rest = [*small[:1], *large[:1], *small[1:], *large[1:], *small[:1], *large[:1]]
    if len(goals) < 2:
        raise ConfigError("a front is drawn over two numbers; give --minimise and --maximise")
    flat = points(ds)
    kept = list(search.constraints) if constraint is None else constraint
    found = undominated_points(ds, minimise=small, maximise=large, constraints=kept)
    there = np.isin(flat["trial"].values, found["trial"].values)
    with styled(9.0, 6.0, "front") as figure:
        third = value(flat, rest[0]) if len(goals) > 2 else None
        axes = front_points(value(flat, across), value(flat, up), there, figure.subplots(), colour=third)
        axes.set_title(str(ds.attrs.get("title", "Pareto front")))
    return figure


def _with(plan: Plan, search: Search) -> Plan:
    from imc_ssm.sweeps import Plan as Made

    return Made(plan.space, search, plan.objective, title=plan.title)


def _folder(path: Path) -> Path:
    """The folder of a TOML, beside it; a folder as it is."""
    return path.with_suffix("") if path.suffix == ".toml" else path


def _store(path: Path) -> Store:
    from imc_ssm.sweeps import Store as Made

    return Made.open(_folder(path))


def _search(path: Path) -> Search:
    """What the sweep looks for, as its TOML says now, else as it did when it was started."""
    if path.suffix == ".toml":
        from imc_ssm.sweeps import SweepFile

        return SweepFile.plan(path).search
    from imc_ssm.sweeps import Search as Made

    return Made.parse(_store(path).about["configuration"]["search"])


def _goals(search: Search, maximise: list[str] | None, minimise: list[str] | None) -> dict[str, Any]:
    """Number -> direction: what the options say, else the sweep."""
    if not maximise and not minimise:
        if not search.goals:
            raise ConfigError(
                "the sweep says not what it looks for; give --maximise accuracy --minimise energy_total"
            )
        return dict(search.goals)
    return {**dict.fromkeys(minimise or (), "minimize"), **dict.fromkeys(maximise or (), "maximize")}


def _first_goal(search: Search) -> dict[str, Any]:
    if search.maximise:
        return {"maximise": [search.maximise[0]], "minimise": []}
    if search.minimise:
        return {"maximise": [], "minimise": [search.minimise[0]]}
    raise ConfigError("the sweep says not what it looks for; give --maximise accuracy or --minimise energy_total")


def _front(
    ds: xr.Dataset,
    search: Search,
    maximise: list[str] | None,
    minimise: list[str] | None,
    constraint: list[str] | None,
) -> xr.Dataset:
    from imc_ssm.sweeps import front as undominated_points

    goals = _goals(search, maximise, minimise)
    small = [name for name, way in goals.items() if way == "minimize"]
    large = [name for name, way in goals.items() if way == "maximize"]
    kept = list(search.constraints) if constraint is None else constraint
    return undominated_points(ds, minimise=small, maximise=large, constraints=kept)


def _varied(ds: xr.Dataset) -> list[str]:
    """The axes."""
    import json

    return [str(name) for name in json.loads(ds.attrs["configuration"])["space"]["order"]]


def _table(ds: xr.Dataset, found: xr.Dataset, goals: Any, title: str) -> Table:
    """Points with what was varied and the numbers that count."""
    from imc_ssm.sweeps import value

    count = found.sizes["trial"]
    more = f", the first {ROWS}" if count > ROWS else ""
    what = f"{title}: {count} of {ds.attrs['cells_done']} points{more}"
    table = Table(title=what, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("trial", justify="right")
    for name in (*_varied(ds), *goals):
        table.add_column(name, justify="right", no_wrap=True)
    numbers = {name: value(found, name) for name in goals}
    for i in range(min(count, ROWS)):
        fields = [found[name].values[i] for name in _varied(ds)]
        row = [str(found["trial"].values[i]), *(_short(field) for field in fields)]
        row += [_number(float(of.values[i]), str(of.attrs.get("units", "1"))) for of in numbers.values()]
        table.add_row(*row)
    return table


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: float, units: str) -> str:
    if units == "percent":
        return f"{value:.2f} %"
    return f"{value:.4g}" if units == "1" else quantity(value, units, 4)


def _say(plan: Plan, found: Standing, folder: Path) -> None:
    kinds = ", ".join(f"{count} {word}" for word, count in found.by_status.items() if word != "done")
    left = f"; about {duration(found.left_s, 2)} left in one process" if found.left_s > 0 else ""
    spent = f", {duration(found.seconds, 2)} of work" if found.done else ""
    console.print(
        f"{plan.title} ({folder}): {found.done} of {max(found.total, found.done)} cells done"
        f"{f' ({kinds})' if kinds else ''}{spent}{left}",
        soft_wrap=True,
    )
