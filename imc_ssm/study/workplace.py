"""Where a study works: its folder, its ledger, its data and its models."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imc_ssm import datasets
from imc_ssm.datasets import SequenceDataset
from imc_ssm.errors import FileError
from imc_ssm.modelfile import StoredModel, load_model
from imc_ssm.study.declare import Experiment, GridCell, Study
from imc_ssm.study.duration import estimate, work
from imc_ssm.study.ledger import Ledger, Record, find_in, fits
from imc_ssm.training import check_model_fits

if TYPE_CHECKING:
    from imc_ssm.study.jobs.base import Job

__all__ = ["Workplace"]


class Workplace:
    """A study and the folder that it works in.

    `results/` datasets, figures and the ledger; `models/` full-precision models of the recipe; `runs/` other
    models, checkpoints and locks.
    """

    def __init__(self, study: Study, folder: Path, data_dir: Path | None = None) -> None:
        self.study, self.folder, self.data_dir = study, folder, data_dir
        self.runs, self.models = folder / "runs", folder / "models"
        self.ledger = Ledger(folder / "results" / "ledger.jsonl", self.runs / "ledger.lock")

    def result_path(self, experiment: Experiment) -> Path:
        """The dataset of an experiment."""
        return self.folder / "results" / f"{experiment.name}.nc"

    def run_path(self, job: Job, seed: int, suffix: str) -> Path:
        """A file of a job's own in `runs/`."""
        return self.runs / f"{job.kind}-{job.name}-seed{seed}-{self.study.key(job, seed)}{suffix}"

    @functools.cached_property
    def data(self) -> SequenceDataset:
        """The task's sequences."""
        return datasets.load(self.study.task, self.data_dir)

    @functools.cached_property
    def shape(self) -> dict[str, Any]:
        """What the task is, without reading it."""
        return datasets.info(self.study.task)

    def stored_model(self, job: Job, seed: int) -> StoredModel | None:
        """The model that a training or QAT wrote, None if it is not there.

        Raises `FileError` if the file was made with another recipe.
        """
        path = job.path(self, seed)
        if path is None or not path.exists():
            return None
        stored = load_model(path)
        settings = job.settings(self.study)
        training = settings["training"].with_(seed=seed).model_dump(mode="json")
        same = stored.info.get("key") == self.study.key(job, seed)
        # the key leaves out what is at its default, and a default can change
        same = same and fits(stored.info.get("training"), training)
        if not (same and stored.model.config == job.architecture(self.study)):
            raise FileError(
                f"{path} was trained with another recipe, model or task than the study declares now, or with "
                "other arithmetic than this version's; restore that, or move the file away to train it again"
            )
        check_model_fits(stored.model, self.data)
        return stored

    def written_model(self, cell: GridCell) -> Path | None:
        """The model file that a cell's jobs left on this machine, None if there is none."""
        paths = (job.path(self, cell.seed) for job in cell.jobs)
        return next((path for path in paths if path is not None and path.exists()), None)

    def find(self, job: Job, seed: int, records: dict[str, Record] | None = None) -> Record | None:
        """The finished job, None if it is not; `records`: the ledger, if it was read before."""
        records = self.ledger.records() if records is None else records
        return find_in(records, self.study.key(job, seed), self.study.identity(job, seed, whole=True))

    def done(self, cell: GridCell, records: dict[str, Record] | None = None) -> list[Record] | None:
        """The records of a cell's jobs, in their order; None if one is missing."""
        records = self.ledger.records() if records is None else records
        found = [self.find(job, cell.seed, records) for job in cell.jobs]
        there = [record for record in found if record is not None]
        return there if len(there) == len(found) else None

    def has_model(self, job: Job, seed: int, record: Record) -> bool:
        """Whether the model that a job leaves is there and is the one that its record measured.

        Raises `FileError` if it is another one (trained again elsewhere: other versions, other threads) while
        the ledger has results that start from the first: two models' results never meet in one dataset.
        """
        path = job.path(self, seed)
        if path is None:  # made again whenever it is needed, from the one that it starts from
            start = job.origin
            before = None if start is None else self.find(start, seed)
            return start is None or (before is not None and self.has_model(start, seed, before))
        stored = self.stored_model(job, seed)
        if stored is None:
            return False
        losses = record.measured["loss_train"][1:]  # epoch 0 has none
        if (
            stored.info["history"]["loss_train"] == losses
            and stored.info["accuracy_test"] == record.measured["accuracy"]
        ):
            return True
        others = [
            other for other in self.ledger.records().values() if _starts_from(other.identity, record.identity)
        ]
        if others:
            raise FileError(
                f"{path} is not the model behind {len(others)} results in "
                f"{self.ledger.path}, though of the same recipe (trained again with other versions or threads?); "
                f"restore the file, or remove the results of {job.name} seed {seed} from the ledger"
            )
        return False

    def work(self, job: Job) -> float:
        """Size of a job in state updates."""
        return work(self.study, job, self.shape)

    def left(self, cells: list[GridCell], records: dict[str, Record]) -> float:
        """Estimated seconds for the cells that are not done, with what they start from."""
        jobs: dict[str, Job] = {}
        for cell in cells:
            for job in cell.jobs:
                if self.find(job, cell.seed, records) is not None:
                    continue
                jobs[self.study.key(job, cell.seed)] = job
                for before in job.chain()[1:]:
                    path = before.path(self, cell.seed)
                    if path is not None and path.exists():
                        break  # nothing below it is needed
                    if path is not None or self.find(before, cell.seed, records) is None:
                        jobs[self.study.key(before, cell.seed)] = before
        done = records.values()
        return sum(estimate(self.study, job, self.work(job), done) for job in jobs.values())

    def spent(self, cells: list[GridCell], records: dict[str, Record]) -> float:
        """Compute time in s of the jobs that are done, with what they start from, each once."""
        found: dict[str, float] = {}
        for cell in cells:
            for job in cell.jobs:
                record = self.find(job, cell.seed, records)
                links = job.chain() if record is not None else []
                for record in (self.find(link, cell.seed, records) for link in links):
                    if record is not None:
                        found[record.key] = record.time_s
        return sum(found.values())


def _starts_from(identity: dict[str, Any], base: dict[str, Any]) -> bool:
    """Whether a job starts, over any number of jobs, from the job `base`."""
    job, same = identity["job"], all(identity.get(n) == base.get(n) for n in ("task", "seed", "data"))
    while same and "start" in job:
        job = job["start"]
        if fits(job, base["job"]):
            return True
    return False
