"""Guided search (optuna): which trial is next, in a journal that several processes write.

A trial is a function of the trials before it, the seed and its number: every one has a sampler of its own, so that
an interrupted search goes on as it would have. A trial that a killed process left is taken up by the next one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from imc_ssm.devices import stream_seed
from imc_ssm.errors import FileError
from imc_ssm.study.ledger import locked
from imc_ssm.sweeps.dataset import unflattened
from imc_ssm.sweeps.fronts import scalar
from imc_ssm.sweeps.objective import Values
from imc_ssm.sweeps.search import Constraint
from imc_ssm.sweeps.space import Axis
from imc_ssm.sweeps.store import Found, Status, Store

if TYPE_CHECKING:
    from imc_ssm.sweeps.plan import Plan
    from imc_ssm.sweeps.workshop import Workshop

__all__ = ["next_trial"]

_NAME = "sweep"
JOURNAL = "journal.log"
"""Optuna's storage, in a sweep's folder."""


class _Lock:
    """The journal's lock, freed by the operating system when its holder dies (optuna's own waits 30 s then)."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path, poll_interval=0.01)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without optuna's log and its warnings of experimental parts."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def next_trial(plan: Plan, store: Store, shop: Workshop) -> Found | None:
    """Do the next trial and keep it: one that was left, or a new one; None: all were done."""
    with _quiet():
        return _next(plan, store, shop)


def _next(plan: Plan, store: Store, shop: Workshop) -> Found | None:
    locks = store.folder / "locks"
    with locked(locks / "ask.lock"):
        try:
            study = shop.kept("study", str(store.folder), lambda: _study(plan, store))
            trials = study.get_trials(deepcopy=False)
        except ValueError as error:  # JSON that is none
            raise FileError(
                f"{store.folder / JOURNAL} is damaged ({error}); remove it: the cells that are there stay, and "
                "the search goes on from them"
            ) from None
        for trial in trials:
            if trial.state.is_finished():
                continue
            claim = FileLock(locks / f"trial-{trial.number}.lock")
            if not _claimed(claim):
                continue
            if not study.get_trials(deepcopy=False)[trial.number].state.is_finished():
                trial = _drawn(plan, study, trial)
                break
            claim.release()  # its process ended it in between
        else:
            number = len(trials)
            if number >= (plan.search.trials or 0):
                return None
            claim = FileLock(locks / f"trial-{number}.lock")
            claim.acquire()
            study.sampler = _sampler(plan, number)
            study.ask(_distributions(plan))
            trial = study.get_trials(deepcopy=False)[number]
    try:
        return _done(plan, store, shop, study, trial)
    finally:
        claim.release()
        Path(claim.lock_file).unlink(missing_ok=True)


def _drawn(plan: Plan, study: Any, trial: Any) -> Any:
    """A trial with all its parameters: one whose process was killed between two of them gets the rest.

    Those that it has are drawn once more and left aside, so that the others come as they would have.
    """
    import optuna

    wanted = _distributions(plan)
    if wanted.keys() <= trial.params.keys():
        return trial
    study.sampler = _sampler(plan, trial.number)
    whole = optuna.trial.Trial(study, trial._trial_id)
    for name, distribution in wanted.items():
        if name in trial.params and name not in whole.relative_params:
            study.sampler.sample_independent(study, trial, name, distribution)
        whole._suggest(name, distribution)
    return study.get_trials(deepcopy=False)[trial.number]


def _claimed(claim: FileLock) -> bool:
    from filelock import Timeout

    try:
        claim.acquire(blocking=False)
    except Timeout:
        return False
    return True


def _done(plan: Plan, store: Store, shop: Workshop, study: Any, trial: Any) -> Found:
    """Measure a trial, unless that is done already, and tell the search."""
    import optuna

    number, axes = trial.number, len(plan.space.axes)
    there = store.read(axes, [number])
    if there:
        cell = there[0]
    else:
        point = {name: _value(axis, trial.params[name]) for name, axis in plan.space.axes.items()}
        hopeless = _hopeless(plan, store, shop) if plan.search.hopeless is not None else None
        cell = plan.measured(number, point, shop, hopeless)
        store.write(cell)
    found = _known(plan, cell)
    numbers = [scalar(plan.declared, found, name) for name in plan.search.goals]
    if cell.status is not Status.REFUSED:
        told = optuna.trial.Trial(study, trial._trial_id)
        for constraint in plan.search.constraints:
            told.set_constraint(str(constraint), _violation(plan, found, constraint))
    study.sampler = _sampler(plan, number)
    if cell.status is Status.DONE and None not in numbers:
        study.tell(number, numbers)
    elif cell.status is Status.REFUSED:
        study.tell(number, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(number, state=optuna.trial.TrialState.PRUNED)
    return cell


def _known(plan: Plan, cell: Found) -> Values:
    """Variables of a cell that were measured."""
    found = unflattened(plan.variables, cell.values)
    return {name: values for name, values in found.items() if np.isfinite(values).all()}


def _violation(plan: Plan, found: Mapping[str, Any], constraint: Constraint) -> float:
    """How far a trial is beyond a constraint, relative to its bound; 0 where that is not known."""
    number = scalar(plan.declared, found, constraint.name)
    return 0.0 if number is None else constraint.violation(number) / (abs(constraint.bound) or 1.0)


def _hopeless(plan: Plan, store: Store, shop: Workshop) -> Any:
    """Whether a trial is beaten already: another one is nowhere worse in what is minimised and, on the first chip,
    by `Search.hopeless` better in all that is maximised."""
    margin = float(plan.search.hopeless or 0.0)

    def first(found: Values) -> tuple[list[float | None], list[float | None]]:
        shown = {n: _first_chip(plan, n, values) for n, values in found.items()}
        small = [scalar(plan.declared, found, name) for name in plan.search.minimise]
        large = [scalar(plan.declared, shown, name) for name in plan.search.maximise]
        return small, large

    # A cell is read once, not at every trial.
    firsts: dict[int, Any] = shop.kept("firsts", str(store.folder), dict)
    for cell in store.read(len(plan.space.axes), store.done() - firsts.keys()):
        firsts[cell.number] = first(_known(plan, cell)) if cell.status is Status.DONE else None
    others = [one for one in firsts.values() if one is not None]

    def beaten(found: Values) -> bool:
        small, large = first(found)
        return any(
            all(a is not None and b is not None and a <= b for a, b in zip(cheap, small, strict=True))
            and all(a is not None and b is not None and a >= b + margin for a, b in zip(good, large, strict=True))
            for cheap, good in others
        )

    return beaten


def _first_chip(plan: Plan, name: str, values: Any) -> Any:
    """A variable with its first chip in the place of all."""
    dims = [dimension.name for dimension in plan.declared[name].dimensions]
    if "chip" not in dims:
        return values
    axis = dims.index("chip")
    return np.repeat(np.take(values, [0], axis), values.shape[axis], axis)


def _study(plan: Plan, store: Store) -> Any:
    from optuna import create_study
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    lock: Any = _Lock(store.folder / "locks" / "journal.lock")
    storage = JournalStorage(JournalFileBackend(str(store.folder / JOURNAL), lock_obj=lock))
    return create_study(
        storage=storage, study_name=_NAME, directions=list(plan.search.goals.values()), load_if_exists=True
    )


def _sampler(plan: Plan, number: int) -> Any:
    """The sampler of a trial."""
    from optuna.samplers import NSGAIISampler, TPESampler

    seed = stream_seed(plan.search.seed, number, "trial") % 2**32
    if plan.search.method == "nsga2":
        return NSGAIISampler(population_size=max(10, min(50, (plan.search.trials or 0) // 5)), seed=seed)
    return TPESampler(seed=seed)


def _distributions(plan: Plan) -> dict[str, Any]:
    """What optuna draws an axis from: numbers of a range, places in a list."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    out: dict[str, Any] = {}
    for name, axis in plan.space.axes.items():
        if (listed := axis.listed) is not None:
            ordered = axis.numeric and list(listed) in (sorted(listed), sorted(listed, reverse=True))
            places = tuple(range(len(listed)))
            out[name] = IntDistribution(0, len(listed) - 1) if ordered else CategoricalDistribution(places)
        elif axis.whole:
            out[name] = IntDistribution(int(axis.low or 0), int(axis.high or 0), log=axis.log)
        else:
            out[name] = FloatDistribution(float(axis.low or 0), float(axis.high or 0), log=axis.log)
    return out


def _value(axis: Axis, drawn: Any) -> Any:
    return drawn if axis.listed is None else axis.listed[int(drawn)]
