"""What a study is made of: recipe, experiments, cells. Data only; nothing is computed here."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from imc_ssm import datasets
from imc_ssm.config import Config
from imc_ssm.errors import ConfigError, unknown
from imc_ssm.files import canonical_json
from imc_ssm.layers import PRESETS, ModelConfig
from imc_ssm.training import TrainConfig

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from imc_ssm.study.jobs.base import Job, Variable

__all__ = ["Constant", "Experiment", "GridCell", "Recipe", "Study", "vary"]

Value = str | int | float
Coordinates = Mapping[str, Any]
"""Dimension -> value, for one cell without its seed."""


class Recipe(Config):
    """The training numbers of a study; the seed of a cell replaces the seeds in here."""

    pretraining: TrainConfig = TrainConfig(epochs=30, batch=512)
    """Training in full precision."""
    mode: Literal["recurrent", "convolution"] = "recurrent"
    """How the SSM runs in it: the same function, at different speeds."""
    qat: TrainConfig = TrainConfig(epochs=10, batch=64, learning_rate=1e-3)
    """Fine-tuning of the calibrated PTQ model, in recurrent mode."""
    calibration: int = Field(512, ge=1)
    """Training sequences that fix the ranges (all if there are fewer); they run through the model at once."""
    calibration_from: Literal["drawn", "first"] = "drawn"
    """Drawn by the seed, or the first ones of the training split."""
    keep: Literal["best", "last"] = "last"
    """The parameters that a training leaves: of its best epoch on the validation sequences, or of its last."""


@dataclass(frozen=True)
class Constant:
    """A number of every cell that needs no training, such as a memory saving."""

    units: str
    long_name: str
    value: Callable[[Coordinates], float]
    """From the coordinates of a cell."""
    paper: Mapping[tuple[Value, ...], float] = field(default_factory=dict)
    """Published values by cell."""


@dataclass(frozen=True)
class GridCell:
    """One point of an experiment's grid."""

    at: dict[str, Value]
    """Dimension -> value, without the seed."""
    seed: int
    jobs: tuple[Job, ...]
    """What fills it; a variable comes from the first that measures it."""

    @property
    def label(self) -> str:
        """ "model=s4d-16h bits=8 seed=0"."""
        return " ".join(f"{name}={value}" for name, value in (self.at | {"seed": self.seed}).items())


def _means(text: str, value: Value) -> bool:
    """Whether a text names a value: as it is written, or as the same number ("1e-2" is 0.01)."""
    if text == str(value) or isinstance(value, str):
        return text == str(value)
    try:
        return float(text) == value
    except ValueError:
        return False


def _accuracy(ds: xr.Dataset) -> xr.DataArray:
    return ds["accuracy"]


@dataclass(frozen=True)
class Experiment:
    """A table or figure: the grid that it varies and how a cell is computed."""

    name: str
    title: str
    dimensions: Mapping[str, Sequence[Value]]
    """Name -> values, in the order of the dataset; `seed` is added as the last one."""
    job: Callable[[Coordinates], Job | tuple[Job, ...] | None]
    """The job of a cell, or several that fill it together; None: this cell does not exist."""
    variables: tuple[str, ...] = ("accuracy",)
    """What of the jobs' results the dataset holds, by the names that their kinds declare."""
    seeds: int | Sequence[int] = 5
    """How many seeds, from 0 on; or which."""
    figure: Callable[[xr.Dataset], Figure] | None = None
    """Draws the dataset."""
    paper: Mapping[tuple[Value, ...], tuple[float, float]] = field(default_factory=dict)
    """Published mean and deviation of the accuracy, percent, by cell in the order of the dimensions."""
    constants: Mapping[str, Constant] = field(default_factory=dict)
    headline: Callable[[xr.Dataset], xr.DataArray] = _accuracy
    """What the report shows, over the dimensions and `seed`."""
    center: Literal["mean", "median"] = "mean"
    """How the report sums it up over the seeds; "median" for what can be infinite."""

    def __post_init__(self) -> None:
        if "seed" in self.dimensions or not self.all_seeds:
            raise ConfigError(f"{self.name}: declare at least one of `seeds`, and no dimension 'seed'")
        job: object = self.job  # a study.py is not type-checked
        variables: object = self.variables
        if not callable(job):
            kind = type(job).__name__
            raise ConfigError(
                f"{self.name}: job is a {kind}; give a function of the coordinates, such as vary({kind}(...))"
            )
        if isinstance(variables, str):
            raise ConfigError(f"{self.name}: variables = {variables!r}; give a tuple, ({variables!r},)")
        for name, values in self.dimensions.items():
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise ConfigError(f"{self.name}: dimension {name!r} = {values!r}; give a tuple, ({values!r},)")
            if any(not isinstance(value, str | int | float) for value in values):
                raise ConfigError(f"{self.name}: dimension {name!r} has {values!r}; values are texts or numbers")
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{self.name}: dimension {name!r} needs values, each once; it has {values!r}")
        short = [key for key in self.paper if len(key) != len(self.dimensions)]
        if short:
            raise ConfigError(f"{self.name}: the paper's number at {short[0]} needs {', '.join(self.dimensions)}")
        strays = [key for key in self.paper if any(v not in self.dimensions[d] for d, v in self._named(key))]
        if strays:
            raise ConfigError(f"{self.name}: the paper's number at {strays[0]} belongs to no cell")

    @functools.cached_property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else tuple(self.seeds)

    @functools.cached_property
    def measured(self) -> dict[str, Variable]:
        """`variables` as the kinds of the experiment's jobs declare them.

        Raises `ConfigError` for a name that none of them has, or that two of them give different dimensions.
        """
        kinds = {type(job): None for _, jobs in self.grid() for job in jobs}
        known: dict[str, list[Variable]] = {}
        for kind in kinds:
            for variable in kind.variables:
                known.setdefault(variable.name, []).append(variable)
        for name in self.variables:
            if name not in known:
                raise ConfigError(f"{self.name}: {unknown('variable', name, known)}")
            if len({variable.dimensions for variable in known[name]}) > 1:
                both = " and ".join(kind.kind for kind in kinds if any(v.name == name for v in kind.variables))
                raise ConfigError(
                    f"{self.name}: {name!r} has other dimensions in each of the kinds {both}; leave it out, or "
                    "declare an experiment for each"
                )
        return {name: known[name][0] for name in self.variables}

    def _named(self, key: tuple[Value, ...]) -> Iterator[tuple[str, Value]]:
        return zip(self.dimensions, key, strict=True)

    def grid(self) -> Iterator[tuple[dict[str, Value], tuple[Job, ...]]]:
        """Coordinates and jobs of every cell that exists, without seeds."""
        return iter(self._grid)

    @functools.cached_property
    def _grid(self) -> list[tuple[dict[str, Value], tuple[Job, ...]]]:
        points = []
        for values in itertools.product(*self.dimensions.values()):
            at = dict(zip(self.dimensions, values, strict=True))
            jobs = self.job(at)
            if jobs is None:
                continue
            each = jobs if isinstance(jobs, tuple) else (jobs,)
            for one in each:
                _check_job(self.name, one)
            points.append((at, each))
        return points

    def cells(self, seeds: int | None = None, only: Mapping[str, Sequence[str]] | None = None) -> list[GridCell]:
        """The cells, seed after seed: the first `seeds` seeds, and of each dimension in `only` the values named.

        Raises `ConfigError` for a dimension or value that the experiment does not vary, too many seeds, or where
        no cell is left.
        """
        most = len(self.all_seeds)
        count = most if seeds is None else seeds
        if not 1 <= count <= most:
            raise ConfigError(f"{self.name} declares {most} seeds; {count} is not within 1 .. {most}")
        chosen = self._chosen(only or {})
        cells = [
            GridCell(at, seed, jobs)
            for seed in self.all_seeds[:count]
            if str(seed) in chosen.get("seed", {str(seed)})
            for at, jobs in self.grid()
            if all(str(at[name]) in values for name, values in chosen.items() if name != "seed")
        ]
        if not cells:
            words = ", ".join(f"{name}={'/'.join(sorted(values))}" for name, values in chosen.items())
            raise ConfigError(
                f"{self.name}: no cell has {words} among the first {count} of {most} seeds; see "
                "`imc-ssm experiment list` and choose others"
            )
        return cells

    def _chosen(self, only: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
        """`only`, checked."""
        known = {**self.dimensions, "seed": self.all_seeds}
        chosen: dict[str, set[str]] = {}
        for name, values in only.items():
            if name not in known:
                raise ConfigError(f"{self.name}: {unknown('dimension', name, known)}")
            for value in values:
                found = [str(v) for v in known[name] if _means(value, v)]
                if not found:
                    raise ConfigError(f"{self.name}: {unknown(name, value, map(str, known[name]), sort=False)}")
                chosen.setdefault(name, set()).update(found)
        return chosen


@dataclass(frozen=True)
class Study:
    """Several experiments on one task with one recipe."""

    name: str
    title: str
    task: str
    """A shipped task or the path of an `.npz`."""
    recipe: Recipe
    experiments: tuple[Experiment, ...]
    models: Mapping[str, ModelConfig] = field(default_factory=lambda: PRESETS)
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    """Recipes of models that need their own."""
    coordinates: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Dimension -> (units, long name), for the datasets."""
    source: str = ""
    """The paper."""

    def __post_init__(self) -> None:
        given = self.experiments
        if not isinstance(given, Sequence) or not all(isinstance(one, Experiment) for one in given):
            raise ConfigError(
                f"{self.name}: experiments is a {type(given).__name__}; give a tuple of Experiment, (e,)"
            )
        names = [experiment.name for experiment in self.experiments]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"{self.name}: several experiments are named {twice[0]!r}; each needs its own name")

    def experiment(self, name: str) -> Experiment:
        """The experiment of a name; `ConfigError` names the nearest one."""
        found = {experiment.name: experiment for experiment in self.experiments}
        if name not in found:
            raise ConfigError(unknown("experiment", name, found))
        return found[name]

    def recipe_of(self, job: Job) -> Recipe:
        """The recipe of a job: its model's."""
        return self.recipes.get(job.name, self.recipe)

    def model(self, name: str) -> ModelConfig:
        """The configuration of a model; `ConfigError` names the nearest one."""
        if name not in self.models:
            raise ConfigError(unknown("model", name, self.models))
        return self.models[name]

    def identity(self, job: Job, seed: int, *, whole: bool = False) -> dict[str, Any]:
        """Everything that decides the numbers of a job, as JSON; fields at their defaults only if `whole`."""
        data = datasets.digest(self.task)
        out: dict[str, Any] = {"task": self.task, "seed": seed, "job": job.description(self, whole=whole)}
        return out if data is None else out | {"data": data}

    def key(self, job: Job, seed: int) -> str:
        """The name of a job's result: 20 hexadecimal digits of SHA-256 over its identity."""
        text = canonical_json(self.identity(job, seed), what="a job")
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def vary(*base: Job) -> Callable[[Coordinates], tuple[Job, ...]]:
    """For `Experiment.job`: the jobs `base` with the fields that the dimensions name, such as "scheme.bits.state".

    A name is the path of a field: of the job itself or else of the one that it starts from, the nearest that has
    it ("design.columns", "scheme.bits.state", "model.heads"); or of one kind, where several have it
    ("train.training.epochs", "qat.training.epochs"). What is varied inside (a model, a training) has to be given
    to the job, not left to the study. Raises `ConfigError` for a path that no job has, and for a wrong value.
    """

    for job in base:
        _check_job("vary", job)

    def jobs(at: Coordinates) -> tuple[Job, ...]:
        changed = list(base)
        for path, value in at.items():
            places = [inside(job, path) for job in changed]
            if not any(places):
                fields = {f for job in base for link in job.chain() for f in type(link).model_fields}
                wrong = unknown("field", path.partition(".")[0], fields)
                raise ConfigError(f"dimension {path!r}: {wrong}")
            try:
                changed = [
                    job if place is None else job.with_({place: value})
                    for job, place in zip(changed, places, strict=True)
                ]
            except ConfigError as error:
                raise ConfigError(f"dimension {path!r} = {value!r}: {error}") from None
        return tuple(changed)

    return jobs


def _check_job(where: str, job: object) -> None:
    """`ConfigError` for what is no job."""
    from imc_ssm.study.jobs.base import Job

    if not isinstance(job, Job):
        raise ConfigError(f"{where}: a {type(job).__name__} is no job; give one such as Ptq(start, Scheme())")


def inside(job: Job, path: str) -> str | None:
    """The path of a field of `vary` from the job itself: "scheme" -> "start.scheme"; None: it has none."""
    head, _, rest = path.partition(".")
    for depth, link in enumerate(job.chain()):
        way = "start." * depth
        if head == link.kind and rest:
            return way + rest
        if head in type(link).model_fields:
            return way + path
    return None
