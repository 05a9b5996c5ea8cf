"""A sweep on the workers of a dask cluster: processes here, or any scheduler whose workers see the sweep's folder.

A task is the cells that share an evaluation (`Objective.group`); the worker writes each of them into the folder as
it is done. A worker that is lost loses the cell that it was at: dask gives the task to another one, which leaves
out what is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.sweeps.store import Found, Store
from imc_ssm.sweeps.workshop import Workshop

if TYPE_CHECKING:
    from imc_ssm.sweeps.plan import Plan

__all__ = ["on_cluster"]

RETRIES = 3
"""How often a task that failed, other than by a point that cannot be, is done again."""
ANSWER = 20.0
"""How long a scheduler has to answer, s."""
_SHOPS: dict[tuple[str, str], Workshop] = {}
"""Of this worker."""


def on_cluster(
    plan: Plan,
    store: Store,
    address: str,
    workers: int | None,
    data_dir: Path | None,
    finished: Callable[[Found], None],
) -> None:
    """Do the missing cells on a cluster: "local", or the address of a scheduler.

    Raises `ConfigError` for a cluster that cannot be reached, and what a task raises.
    """
    from distributed import KilledWorker, as_completed

    with _client(address, workers) as client:
        own = plan, store, data_dir  # sent with every task: what is scattered can be lost with a worker
        options: dict[str, Any] = {"pure": False, "retries": RETRIES}
        if plan.search.guided:
            missing = (plan.search.trials or 0) - len(store.done())
            tasks = [client.submit(_trial, own, **options) for _ in range(missing)]
        else:
            tasks = _submitted(client, own, plan, store, data_dir, options)
        try:
            for future, cells in as_completed(tasks, with_results=True, loop=client.loop):
                for cell in cells:
                    finished(cell)
                future.release()
        except KilledWorker as error:
            raise ImcSsmError(
                f"a cell ended its worker {RETRIES + 1} times ({error.task}); out of memory? give fewer "
                "workers, or larger ones; the cells that are done are kept"
            ) from None


def _submitted(
    client: Any, own: Any, plan: Plan, store: Store, data_dir: Path | None, options: dict[str, Any]
) -> list[Any]:
    """The tasks of all cells that are not there, those of a model after the one that makes it."""
    shop, done = Workshop(store.folder, data_dir), store.done()
    groups: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for number, point in enumerate(plan.search.points(plan.space)):
        if number not in done:
            groups.setdefault(_group(plan, number, point, shop), []).append((number, point))
    models: dict[str, Any] = {}
    tasks = []
    for cells in groups.values():
        changes = plan.space.changes(cells[0][1])
        try:
            key = plan.objective.prepared(changes, shop)
        except ImcSsmError:
            key = None
        if key is not None and key not in models:
            models[key] = client.submit(_prepared, own, changes, **options)
        tasks.append(client.submit(_cells, own, cells, models.get(key or ""), **options))
    return tasks


def _group(plan: Plan, number: int, point: Mapping[str, Any], shop: Workshop) -> str:
    """The key of a cell's group; of a point that cannot be, or shares nothing, its own."""
    try:
        return plan.objective.group(plan.space.changes(point), shop) or str(number)
    except ImcSsmError:
        return str(number)


def _shop(store: Store, data_dir: Path | None) -> Workshop:
    key = str(store.folder), str(data_dir)
    if key not in _SHOPS:
        _SHOPS[key] = Workshop(store.folder, data_dir)
    return _SHOPS[key]


def _prepared(own: tuple[Plan, Store, Path | None], changes: Mapping[str, Any]) -> bool:
    plan, store, data_dir = own
    try:
        plan.objective.prepare(changes, _shop(store, data_dir))
    except ImcSsmError:
        return False  # the cells that need it will say so
    return True


def _cells(
    own: tuple[Plan, Store, Path | None], cells: list[tuple[int, dict[str, Any]]], made: bool | None
) -> list[Found]:
    plan, store, data_dir = own
    done = []
    for number, point in cells:
        if not store.has(number):
            cell = plan.measured(number, point, _shop(store, data_dir))
            store.write(cell)
            done.append(_brief(cell))
    return done


def _trial(own: tuple[Plan, Store, Path | None]) -> list[Found]:
    from imc_ssm.sweeps.trials import next_trial

    plan, store, data_dir = own
    cell = next_trial(plan, store, _shop(store, data_dir))
    return [] if cell is None else [_brief(cell)]


def _brief(cell: Found) -> Found:
    """Without its numbers, which lie in the store."""
    return replace(cell, values=cell.values[:0])


@contextmanager
def _client(address: str, workers: int | None) -> Iterator[Any]:
    """A client of the scheduler at `address`, or of processes that are started here, one thread each."""
    import dask
    from distributed import Client, LocalCluster

    if address != "local":
        if "://" not in address:
            raise ConfigError(f"cluster = {address!r}; give 'local', or a scheduler's address, tcp://host:8786")
        if workers is not None:
            raise ConfigError(f"workers = {workers}: the scheduler at {address} has its own; leave workers out")
        try:
            there = Client(address, timeout=ANSWER, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise ConfigError(f"no scheduler answers at {address} ({error}); start one, or give 'local'") from None
        with there:
            yield there
        return
    count = workers or os.cpu_count() or 1
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    settings = {
        "distributed.nanny.pre-spawn-environ": threads,
        "distributed.scheduler.allowed-failures": RETRIES,
        "distributed.worker.memory.terminate": False,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=count, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        ) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client
