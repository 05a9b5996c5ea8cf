"""What a study is made of: recipe, jobs, experiments. Data only; nothing is computed here."""

from __future__ import annotations

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
from imc_ssm.quantization import Scheme
from imc_ssm.training import TrainConfig

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = [
    "NUMERICS",
    "Cell",
    "Constant",
    "Experiment",
    "Job",
    "Recipe",
    "Study",
    "full",
    "kernel",
    "poles",
    "ptq",
    "qat",
    "start_of",
]

Value = str | int | float
Coordinates = Mapping[str, Any]
"""Dimension -> value, for one cell without its seed."""
Kind = Literal["full", "ptq", "qat", "poles", "kernel"]
NUMERICS: dict[str, int] = {"full": 1, "ptq": 1, "qat": 1, "poles": 1, "kernel": 1, "state": 2}
"""Version of the arithmetic behind each kind of job, and behind formats per state, to be raised where a change of
the library changes its numbers: results of two arithmetics then never meet in one table."""


class Recipe(Config):
    """The training numbers of a study; the seed of a cell replaces the seeds in here."""

    pretraining: TrainConfig = TrainConfig(epochs=30, batch=512)
    """Training in full precision."""
    mode: Literal["recurrent", "convolution"] = "recurrent"
    """How the SSM runs in it: the same function, at different speeds."""
    qat: TrainConfig = TrainConfig(epochs=10, batch=64, learning_rate=1e-3)
    """Fine-tuning of the calibrated PTQ model, in recurrent mode."""
    calibration: int = Field(512, ge=1)
    """Training sequences, drawn by the seed, that fix the ranges (all if there are fewer); they run
    through the model at once."""


class Job(Config):
    """How one number is computed, but for the seed."""

    kind: Kind
    """What is done; see the functions below."""
    model: str
    """A model of the study."""
    scheme: Scheme | None = None
    """Its quantization; None: full precision."""
    steps: int | None = Field(None, ge=1)
    """Steps of the kernel (kind "kernel")."""
    training: TrainConfig | None = None
    """Training numbers of this job alone (kinds "full" and "qat"); None: those of the recipe."""


def full(model: str, training: TrainConfig | None = None) -> Job:
    """Test accuracy of the model, trained in full precision; `training`: other numbers than the recipe's."""
    return Job(kind="full", model=model, training=training)


def ptq(model: str, scheme: Scheme) -> Job:
    """Test accuracy after calibration alone."""
    return Job(kind="ptq", model=model, scheme=scheme)


def qat(model: str, scheme: Scheme, training: TrainConfig | None = None) -> Job:
    """Test accuracy after quantization-aware training of the last epoch, and the curves of all epochs.

    `training`: other numbers than the recipe's, for the QAT; the model that it starts from is the same.
    """
    return Job(kind="qat", model=model, scheme=scheme, training=training)


def poles(model: str, scheme: Scheme | None) -> Job:
    """The poles of the first layer, rounded as `scheme` says (None: as trained), and how many lie outside."""
    return Job(kind="poles", model=model, scheme=scheme)


def kernel(model: str, scheme: Scheme, steps: int) -> Job:
    """Relative error of the first layer's kernel over up to `steps` steps, quantiles over the heads."""
    return Job(kind="kernel", model=model, scheme=scheme, steps=steps)


def start_of(job: Job) -> Job:
    """The training that a job starts from; itself, if it is one."""
    return job if job.kind == "full" else full(job.model)


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
class Cell:
    """One point of an experiment's grid."""

    at: dict[str, Value]
    """Dimension -> value, without the seed."""
    seed: int
    job: Job

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
    job: Callable[[Coordinates], Job | None]
    """The job of a cell; None: this cell does not exist."""
    variables: tuple[str, ...] = ("accuracy",)
    """What of a job's results the dataset holds (`imc_ssm.experiment.jobs.VARIABLES`)."""
    seeds: int = 5
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
        if "seed" in self.dimensions or self.seeds < 1:
            raise ConfigError(f"{self.name}: declare at least one of `seeds`, and no dimension 'seed'")
        for name, values in self.dimensions.items():
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{self.name}: dimension {name!r} needs values, each once; it has {values!r}")
        short = [key for key in self.paper if len(key) != len(self.dimensions)]
        if short:
            raise ConfigError(f"{self.name}: the paper's number at {short[0]} needs {', '.join(self.dimensions)}")
        strays = [key for key in self.paper if any(v not in self.dimensions[d] for d, v in self._named(key))]
        if strays:
            raise ConfigError(f"{self.name}: the paper's number at {strays[0]} belongs to no cell")

    def _named(self, key: tuple[Value, ...]) -> Iterator[tuple[str, Value]]:
        return zip(self.dimensions, key, strict=True)

    def grid(self) -> Iterator[tuple[dict[str, Value], Job]]:
        """Coordinates and job of every cell that exists, without seeds."""
        for values in itertools.product(*self.dimensions.values()):
            at = dict(zip(self.dimensions, values, strict=True))
            job = self.job(at)
            if job is not None:
                yield at, job

    def cells(self, seeds: int | None = None, only: Mapping[str, Sequence[str]] | None = None) -> list[Cell]:
        """The cells, seed after seed: the first `seeds` seeds, and of each dimension in `only` the values named.

        Raises `ConfigError` for a dimension or value that the experiment does not vary, too many seeds, or where
        no cell is left.
        """
        count = self.seeds if seeds is None else seeds
        if not 1 <= count <= self.seeds:
            raise ConfigError(f"{self.name} declares {self.seeds} seeds; {count} is not within 1 .. {self.seeds}")
        chosen = self._chosen(only or {})
        cells = [
            Cell(at, seed, job)
            for seed in range(count)
            if str(seed) in chosen.get("seed", {str(seed)})
            for at, job in self.grid()
            if all(str(at[name]) in values for name, values in chosen.items() if name != "seed")
        ]
        if not cells:
            words = ", ".join(f"{name}={'/'.join(sorted(values))}" for name, values in chosen.items())
            raise ConfigError(
                f"{self.name}: no cell has {words} among the first {count} of {self.seeds} seeds; see "
                "`imc-ssm experiment list` and choose others"
            )
        return cells

    def _chosen(self, only: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
        """`only`, checked."""
        known = {**self.dimensions, "seed": range(self.seeds)}
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
        """The recipe of a job: its model's, with the training numbers that the job has of its own."""
        recipe = self.recipes.get(job.model, self.recipe)
        if job.training is None:
            return recipe
        return recipe.model_copy(update={"pretraining" if job.kind == "full" else "qat": job.training})

    def model(self, name: str) -> ModelConfig:
        """The configuration of a model; `ConfigError` names the nearest one."""
        if name not in self.models:
            raise ConfigError(unknown("model", name, self.models))
        return self.models[name]

    def identity(self, job: Job, seed: int, *, whole: bool = False) -> dict[str, Any]:
        """Everything that decides the numbers of a job, as JSON; fields at their defaults only if `whole`."""

        def plain(config: Config) -> dict[str, Any]:
            return config.model_dump(mode="json", exclude_defaults=not whole, exclude={"seed"})

        recipe, data = self.recipe_of(job), datasets.digest(self.task)
        out: dict[str, Any] = {"task": self.task, "seed": seed, "kind": job.kind, "mode": recipe.mode}
        out |= {"model": plain(self.model(job.model)), "pretraining": plain(recipe.pretraining)}
        if data is not None:
            out["data"] = data
        if job.scheme is not None:
            out["scheme"] = plain(job.scheme)
        if job.kind in ("ptq", "qat"):
            out["calibration"] = recipe.calibration
        if job.kind == "qat":
            out["qat"] = plain(recipe.qat)
        if job.steps is not None:
            out["steps"] = job.steps
        numerics: dict[str, int] = {kind: NUMERICS[kind] for kind in ("full", job.kind) if NUMERICS[kind] > 1}
        if job.scheme is not None and job.scheme.spec("state").granularity == "state":
            numerics["state"] = NUMERICS["state"]
        if numerics:
            out["numerics"] = numerics
        return out

    def key(self, job: Job, seed: int) -> str:
        """The name of a job's result: 20 hexadecimal digits of SHA-256 over its identity."""
        text = canonical_json(self.identity(job, seed), what="a job")
        return hashlib.sha256(text.encode()).hexdigest()[:20]
