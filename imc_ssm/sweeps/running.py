"""Runs a sweep: the cells that are not there, in this process, or on the workers of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from imc_ssm.errors import ConfigError
from imc_ssm.study.ledger import locked
from imc_ssm.sweeps.candidate import ChipObjective
from imc_ssm.sweeps.objective import FunctionObjective, Objective
from imc_ssm.sweeps.plan import Plan
from imc_ssm.sweeps.point import ChipPoint
from imc_ssm.sweeps.search import Search
from imc_ssm.sweeps.space import Space
from imc_ssm.sweeps.store import Found, Store
from imc_ssm.sweeps.trials import next_trial
from imc_ssm.sweeps.workshop import Workshop

if TYPE_CHECKING:
    import xarray as xr

    from imc_ssm.training import Progress

__all__ = ["Standing", "run_plan", "standing", "sweep"]

_PUBLISH_EVERY = 60.0
"""Seconds between two writings of the labelled dataset, and at least ten times what one takes."""


def sweep(
    space: Mapping[str, Any] | Space,
    objective: Objective | ChipPoint | Mapping[str, Any] | Callable[..., Any],
    *,
    method: str = "grid",
    trials: int | None = None,
    seed: int = 0,
    maximise: Any = (),
    minimise: Any = (),
    constraints: Any = (),
    hopeless: float | None = None,
    variables: Mapping[str, tuple[str, str]] | None = None,
    folder: str | Path | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    data_dir: Path | None = None,
    title: str = "Sweep",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Measure the points of a space, and return them as one dataset.

        >>> import imc_ssm
        >>> ds = imc_ssm.sweep({"x": [1.0, 2.0, 3.0]}, lambda at: {"y": at["x"] ** 2}, variables={"y": ("1", "Y")})
        >>> ds["y"].values.tolist()
        [1.0, 4.0, 9.0]

    `space`: axes by the paths of fields (`Axis`): lists, or ranges as `{"low": 0.01, "high": 0.1, "log": True}`.
    `objective`: the point that they change, a `ChipPoint` or its fields, such as `{"start": "q.safetensors",
    "design": "pcm-256"}`; accuracy, energy, latency and area are measured on the same chips at every point. Or a
    function of a point, with `variables`, name -> (units, long name), of what it returns.

    `method`, `trials`, `seed`, `maximise`, `minimise`, `constraints`, `hopeless`: as in `Search`. `folder`: where
    cells are kept, so that the same call goes on from there and other processes take part; None: nowhere.
    `cluster`: "local" for `workers` processes here, or the address of a scheduler of dask ("tcp://..."), whose
    workers see the folder; None: this process alone. `progress(done, total, note)` is called after every cell.

    A point that cannot be (too few tiles, a training that diverges) is refused: its numbers are NaN, `status` says
    so, and the attribute `refused` why. Raises `ConfigError` for an axis, a goal or a method that is none,
    `FileError` for the folder of another sweep.
    """
    space = Space.of(space)
    goals = {"maximise": maximise, "minimise": minimise, "constraints": constraints, "hopeless": hopeless}
    goals = {name: list(g) if isinstance(g, tuple | list) else g for name, g in goals.items()}
    search = Search.parse({"method": method, "trials": trials, "seed": seed, **goals})
    plan = Plan(space, search, _objective(objective, variables), title=title)
    with ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(TemporaryDirectory(prefix="imc-ssm-sweep-"))
        run_plan(plan, folder, cluster=cluster, workers=workers, data_dir=data_dir, progress=progress)
        return plan.dataset(plan.store(folder))


def _objective(given: Any, variables: Any) -> Objective:
    if isinstance(given, Objective):
        return given
    if isinstance(given, ChipPoint | Mapping):
        return ChipObjective(given)
    if callable(given):
        return FunctionObjective(given, variables or {})
    raise ConfigError(
        f"objective is a {type(given).__name__}; give a ChipPoint, its fields, or a function of a point"
    )


def run_plan(
    plan: Plan,
    folder: str | Path,
    *,
    cluster: str | None = None,
    workers: int | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
    stage: Progress | None = None,
) -> Store:
    """Compute the cells that are not there, and publish the dataset, now and then and at the end, an interrupt
    too.

    `stage`: progress of a training. Raises as `sweep`.
    """
    folder = Path(folder).absolute()
    store = plan.store(folder)
    shown = _Shown(plan, store, progress)
    try:
        if cluster is not None:
            from imc_ssm.sweeps.cluster import on_cluster

            on_cluster(plan, store, cluster, workers, data_dir, shown.cell)
        elif workers is not None and workers != 1:
            raise ConfigError(f"workers = {workers}: several processes are a cluster; give cluster = 'local' too")
        else:
            _here(plan, store, Workshop(folder, data_dir, stage), shown.cell)
    finally:
        shown.publish()
    return store


def _here(plan: Plan, store: Store, shop: Workshop, finished: Callable[[Found], None]) -> None:
    if plan.search.guided:
        while (cell := next_trial(plan, store, shop)) is not None:
            finished(cell)
        return
    points = plan.search.points(plan.space)
    for wait in (False, True):  # what other processes are at is left to them, and looked at again at the end
        done = store.done()
        for number, point in enumerate(points):
            if number not in done and (cell := claimed(plan, store, shop, number, point, wait=wait)) is not None:
                finished(cell)


def claimed(
    plan: Plan, store: Store, shop: Workshop, number: int, point: Mapping[str, Any], *, wait: bool
) -> Found | None:
    """Do a cell that no other process is at and keep it; None: another one is, or did it. `wait`: for it."""
    with locked(store.folder / "locks" / f"cell-{number}.lock", wait=wait) as ours:
        if not ours or store.has(number):
            return None
        cell = plan.measured(number, point, shop)
        store.write(cell)
        return cell


class _Shown:
    """Says what was done, and writes the dataset now and then."""

    def __init__(self, plan: Plan, store: Store, progress: Progress | None) -> None:
        self.plan, self.store, self.progress = plan, store, progress
        self.total = plan.search.count(plan.space)
        self.done = len(store.done())
        self._written, self._took = time.monotonic(), 0.0

    def cell(self, cell: Found) -> None:
        """A cell was done."""
        self.done += 1
        if self.progress is not None:
            note = cell.status.name.lower() if not cell.message else f"refused: {cell.message}"
            self.progress(min(self.done, self.total), self.total, f"cell {cell.number} {note}")
        if time.monotonic() - self._written > max(_PUBLISH_EVERY, 10 * self._took):
            self.publish()

    def publish(self) -> None:
        """Write the dataset."""
        start = time.monotonic()
        self.store.publish(self.plan.dataset(self.store))
        self._written = time.monotonic()
        self._took = self._written - start


@dataclass(frozen=True)
class Standing:
    """How far a sweep is."""

    total: int
    """Cells that were asked for."""
    done: int
    """Cells that are there."""
    by_status: dict[str, int]
    """What became of them."""
    seconds: float
    """Compute time so far, s."""
    left_s: float
    """What the others will take in one process, s, by the mean of those that are done."""


def standing(plan: Plan, store: Store) -> Standing:
    """How far a sweep is."""
    cells = store.read(len(plan.space.axes))
    total = plan.search.count(plan.space)
    counts: dict[str, int] = {}
    for cell in cells:
        counts[cell.status.name.lower()] = counts.get(cell.status.name.lower(), 0) + 1
    spent = sum(cell.seconds for cell in cells)
    left = max(total - len(cells), 0) * spent / len(cells) if cells else float("nan")
    return Standing(total, len(cells), counts, spent, left)
