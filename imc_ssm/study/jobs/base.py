"""What every kind of job has: its declaration, its variables, and how it gets at models and data.

A kind is a subclass of `Job` in a file of its own, and a line in `imc_ssm.study.jobs.KINDS`. It declares

    kind, word       its name in keys and files, and in progress
    variables        what it measures; `run` returns a dataset of exactly these
    settings(study)  what decides its numbers, besides the job that it starts from
    run(bench)       how they are computed
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import xarray as xr
from pydantic import BeforeValidator, SerializeAsAny, field_validator

from imc_ssm.config import Config
from imc_ssm.datasets import SequenceDataset
from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.kernels.device import named_device, placed
from imc_ssm.layers import ModelConfig
from imc_ssm.modelfile import StoredModel, save_model
from imc_ssm.quantization import Scheme, calibration_batch, quantize
from imc_ssm.training import Progress, TrainConfig, accuracy, train

if TYPE_CHECKING:
    from torch import Tensor

    from imc_ssm.layers import Classifier
    from imc_ssm.noise import Disturbance
    from imc_ssm.study.declare import Study
    from imc_ssm.study.workplace import Workplace

__all__ = ["FORWARD", "Bench", "Dimension", "FromModel", "Job", "Variable"]

FORWARD = 1 / 3
"""Cost of a forward pass, in passes forward and back."""
STATE_NUMERICS = 2
"""Version of the arithmetic behind formats per state, as `Job.numerics` of a kind."""


@dataclass(frozen=True)
class Dimension:
    """A dimension that a kind of job has of its own, beside those of an experiment."""

    name: str
    long_name: str
    units: str = "1"
    labels: tuple[Any, ...] | None = None
    """Its coordinates, where they are always the same; None: those of a result, or 0, 1, ..."""


@dataclass(frozen=True)
class Variable:
    """Something that a kind of job measures."""

    name: str
    units: str
    long_name: str
    dimensions: tuple[Dimension, ...] = ()
    test: bool = False
    """Measured on the test sequences: the dataset says how many those are."""


class Job(Config):
    """How numbers are computed, but for the seed. Fields may be given in order: `Ptq("s4d-16h", Scheme())`."""

    kind: ClassVar[str]
    """Its name in keys and files."""
    word: ClassVar[str]
    """Its name for people."""
    variables: ClassVar[tuple[Variable, ...]]
    """What it measures."""
    numerics: ClassVar[int] = 1
    """Version of the arithmetic behind it, to be raised where a change of the library changes its numbers: results
    of two arithmetics then never meet in one table."""
    update_s: ClassVar[float] = 1e-9
    """Seconds per state update forward and back (`work`) before anything was measured, on two cores."""
    leaves_model: ClassVar[bool] = False
    """Whether other jobs can start from it."""

    def __init__(self, *values: Any, **fields: Any) -> None:
        names = list(type(self).model_fields)
        if len(values) > len(names):
            raise ConfigError(f"{type(self).__name__} has the fields {', '.join(names)}, {len(values)} were given")
        given = dict(zip(names, values, strict=False))
        twice = given.keys() & fields.keys()
        if twice:
            raise ConfigError(f"{type(self).__name__}: {', '.join(sorted(twice))} is given twice")
        super().__init__(**given, **fields)

    @property
    def origin(self) -> Job | None:
        """The job whose model it starts from; None for a training from the beginning."""
        start = getattr(self, "start", None)
        return start if isinstance(start, Job) else None

    def chain(self) -> list[Job]:
        """This job, the one that it starts from, and so on to the training."""
        return [self, *(self.origin.chain() if self.origin is not None else ())]

    @property
    def name(self) -> str:
        """What its model is called in files and titles."""
        return self.origin.name if self.origin is not None else "model"

    def architecture(self, study: Study) -> ModelConfig:
        """The configuration of its model."""
        if self.origin is None:
            raise ConfigError(f"a job of kind {self.kind!r} names no model and starts from none")
        return self.origin.architecture(study)

    @property
    def label(self) -> str:
        """What it does to the model in short, fit for file names; "" where the kind says it all."""
        return ""

    def title(self, seed: int) -> str:
        """ "QAT s4d-16h seed 0 a8-x8", "evaluate s4d-16h seed 0 QAT a8-x8 on 10 chips"."""
        before = [f"{job.word} {job.label}" for job in reversed(self.chain()[1:]) if job.label]
        return " ".join([self.word, self.name, "seed", str(seed), *before, self.label]).rstrip()

    def settings(self, study: Study) -> dict[str, Any]:
        """Everything that decides its numbers, besides task, seed and the job that it starts from."""
        raise NotImplementedError

    def description(self, study: Study, *, whole: bool) -> dict[str, Any]:
        """`settings` of the whole chain as JSON, with the version of the arithmetic where it was raised.

        Fields of a configuration at their defaults only if `whole`: one that is added later changes no key.
        """
        out: dict[str, Any] = {"kind": self.kind}
        for name, value in self.settings(study).items():
            plain = _plain(value, whole) if isinstance(value, Config) else value
            if plain is not None:
                out[name] = plain
        versions = {} if self.numerics == 1 else {self.kind: self.numerics}
        scheme = getattr(self, "scheme", None)
        if isinstance(scheme, Scheme) and scheme.spec("state").granularity == "state":
            versions["state"] = STATE_NUMERICS
        if versions:
            out["numerics"] = versions
        if self.origin is not None:
            out["start"] = self.origin.description(study, whole=whole)
        return out

    def declared(self) -> dict[str, Any]:
        """The job as it was declared, as JSON."""
        out = {"kind": self.kind} | self.model_dump(mode="json", exclude_defaults=True, exclude={"start"})
        return out if self.origin is None else out | {"start": self.origin.declared()}

    def tested(self, shape: Mapping[str, Any]) -> int:
        """How many test sequences it measures with; `shape`: `datasets.info` of the task."""
        return int(shape["splits"]["test"])

    def work(self, study: Study, shape: Mapping[str, Any]) -> float:
        """Its size in sequences that go forward and back; `shape`: `datasets.info` of the task."""
        return 0.0

    def run(self, bench: Bench) -> xr.Dataset:
        """Compute it: a dataset of `variables` (`dataset`), with the attribute `compute_time_s` where that is not
        the time that this call takes.

        What can be interrupted keeps a checkpoint at `bench.checkpoint`, so that the same call goes on from there;
        it is removed when the result is safe. Raises `ImcSsmError` for what cannot be computed.
        """
        raise NotImplementedError

    def path(self, place: Workplace, seed: int) -> Path | None:
        """The model file that it writes; None: it writes none."""
        return None

    def load(self, bench: Bench) -> StoredModel | None:
        """The model that it leaves, for the jobs that start from it; None: it is not there (any more)."""
        return None

    @classmethod
    def dataset(cls, values: Mapping[str, Any], labels: Mapping[str, Any] | None = None) -> xr.Dataset:
        """`values` as declared in `variables`; `labels`: coordinates of dimensions that have none of their own."""
        out = xr.Dataset()
        for variable in cls.variables:
            dims = tuple(dimension.name for dimension in variable.dimensions)
            attrs = {"units": variable.units, "long_name": variable.long_name}
            out[variable.name] = (dims, np.asarray(values[variable.name], float), attrs)
        for dimension in {d.name: d for v in cls.variables for d in v.dimensions}.values():
            marks = dimension.labels if dimension.labels is not None else (labels or {}).get(dimension.name)
            if marks is None:
                marks = np.arange(out.sizes[dimension.name])
            attrs = {"units": dimension.units, "long_name": dimension.long_name}
            out.coords[dimension.name] = (dimension.name, np.asarray(marks), attrs)
        return out


def _job(start: Any) -> Any:
    """A model, by name or configuration, stands for its training."""
    from imc_ssm.study.jobs.train import Train

    return Train(model=start) if isinstance(start, str | ModelConfig) else start


class FromModel(Job):
    """A job that starts from the model that another one leaves."""

    start: Annotated[SerializeAsAny[Job], BeforeValidator(_job)]
    """A job that leaves a model; a model of the study by name, or a configuration: its training in full
    precision."""

    @field_validator("start")
    @classmethod
    def _leaves_a_model(cls, start: Job) -> Job:
        if not start.leaves_model:
            raise ValueError(f"a job of kind {start.kind!r} leaves no model to start from")
        return start


@dataclass(frozen=True)
class Bench:
    """What a job has while it runs: its seed, the data, the model that it starts from, and where its files go."""

    place: Workplace
    job: Job
    seed: int
    progress: Progress
    device: str = "cpu"
    """Where passes of models are computed."""

    @property
    def study(self) -> Study:
        """The study that it belongs to."""
        return self.place.study

    @property
    def data(self) -> SequenceDataset:
        """The task's sequences."""
        return self.place.data

    @property
    def checkpoint(self) -> Path:
        """Where interrupted work is kept."""
        return self.place.run_path(self.job, self.seed, ".checkpoint.safetensors")

    def start(self) -> StoredModel:
        """The model that the job starts from."""
        origin = self.job.origin
        stored = None if origin is None else origin.load(replace(self, job=origin))
        if stored is None:
            raise ImcSsmError(f"{self.job.title(self.seed)}: the model it starts from was removed while it ran")
        return stored

    def calibration(self) -> tuple[Tensor, Tensor | None]:
        """The sequences that fix the ranges of the job's model, and their lengths."""
        recipe = self.study.recipe_of(self.job)
        seed = self.seed if recipe.calibration_from == "drawn" else None
        return calibration_batch(self.data, self.job.architecture(self.study).width, recipe.calibration, seed)

    def quantized(self, model: Classifier, scheme: Scheme) -> Classifier:
        """`model` after calibration."""
        return quantize(model, scheme, *self.calibration(), device=self.device)

    def accuracy(self, model: Classifier, split: str) -> float:
        """Percent of the sequences of a split that are answered right."""
        with placed(model, named_device(self.device)):
            return accuracy(model, self.data.split(split))

    def fit(
        self,
        model: Classifier,
        config: TrainConfig,
        mode: Any = None,
        disturbance: Disturbance | None = None,
        teacher: Classifier | None = None,
    ) -> tuple[dict[str, list[float]], float]:
        """Train, going on from a checkpoint if there is one.

        Returns the history of all epochs, with the time of each, and the seconds that an earlier call had of them.
        """
        start, checkpoint = time.perf_counter(), self.checkpoint
        keep = self.study.recipe_of(self.job).keep if disturbance is None else "last"
        try:
            history = train(
                model,
                self.data,
                config,
                mode=mode,
                progress=self.progress,
                keep=keep,
                checkpoint=checkpoint,
                disturbance=disturbance,
                teacher=teacher,
                device=self.device,
            )
        except ImcSsmError as error:
            if type(error) is ImcSsmError:  # it diverged and would again
                checkpoint.unlink(missing_ok=True)
            raise
        return vars(history), sum(history.time) - (time.perf_counter() - start)

    def store(self, model: Classifier, config: TrainConfig, **info: Any) -> StoredModel:
        """Write the model file of the job."""
        scheme = getattr(self.job, "scheme", None)
        about = {
            "task": self.study.task,
            "model": self.job.name,
            "study": self.study.name,
            "key": self.study.key(self.job, self.seed),
            "n_test": len(self.data.split("test")),
        }
        stored = StoredModel(model, scheme, about | {"training": config.model_dump(mode="json")} | info)
        path = self.job.path(self.place, self.seed)
        assert path is not None
        save_model(path, stored)
        return stored


def _plain(config: Config, whole: bool) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_defaults=not whole, exclude={"seed"})
