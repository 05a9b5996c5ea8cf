"""Where a study works: its folder, its ledger, its data and its full-precision models."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from imc_ssm import datasets
from imc_ssm.datasets import SequenceDataset
from imc_ssm.errors import FileError
from imc_ssm.experiment.declare import Cell, Experiment, Job, Study, full, start_of
from imc_ssm.experiment.estimate import estimate, work
from imc_ssm.experiment.ledger import Entry, Ledger, find_in, fits
from imc_ssm.modelfile import StoredModel, load_model
from imc_ssm.training import check_model_fits

__all__ = ["Workplace"]


class Workplace:
    """A study and the folder that it works in.

    `results/` datasets, figures and the ledger; `models/` full-precision models; `runs/` checkpoints,
    quantized models and locks.
    """

    def __init__(self, study: Study, folder: Path, data_dir: Path | None = None) -> None:
        self.study, self.folder, self.data_dir = study, folder, data_dir
        self.runs, self.models = folder / "runs", folder / "models"
        self.ledger = Ledger(folder / "results" / "ledger.jsonl", self.runs / "ledger.lock")

    def result_path(self, experiment: Experiment) -> Path:
        """The dataset of an experiment."""
        return self.folder / "results" / f"{experiment.name}.nc"

    def model_path(self, job: Job, seed: int) -> Path:
        """The model that a job of kind "full" writes: in `models/`, unless its training is not the recipe's."""
        if self.study.key(job, seed) != self.study.key(full(job.model), seed):
            return self.run_path(job, seed, ".safetensors")
        return self.models / f"{job.model}-seed{seed}.safetensors"

    def run_path(self, job: Job, seed: int, suffix: str) -> Path:
        """A file of a job's own in `runs/`."""
        return self.runs / f"{job.kind}-{job.model}-seed{seed}-{self.study.key(job, seed)}{suffix}"

    def quantized_path(self, job: Job, seed: int) -> Path:
        """The model that a job of kind "qat" writes."""
        return self.run_path(job, seed, ".safetensors")

    @functools.cached_property
    def data(self) -> SequenceDataset:
        """The task's sequences."""
        return datasets.load(self.study.task, self.data_dir)

    @functools.cached_property
    def shape(self) -> dict[str, Any]:
        """What the task is, without reading it."""
        return datasets.info(self.study.task)

    def stored_model(self, job: Job, seed: int) -> StoredModel | None:
        """The model that a job of kind "full" wrote, None if it is not there.

        Raises `FileError` if the file was made with another recipe.
        """
        path = self.model_path(job, seed)
        if not path.exists():
            return None
        stored = load_model(path)
        recipe = self.study.recipe_of(job)
        training = recipe.pretraining.model_copy(update={"seed": seed}).model_dump(mode="json")
        same = stored.info.get("key") == self.study.key(job, seed)
        # the key leaves out what is at its default, and a default can change
        same = same and fits(stored.info.get("training"), training | {"mode": recipe.mode})
        if not (same and stored.model.config == self.study.model(job.model)):
            raise FileError(
                f"{path} was trained with another recipe, model or task than the study declares now, or with "
                "other arithmetic than this version's; restore that, or move the file away to train it again"
            )
        check_model_fits(stored.model, self.data)
        return stored

    def written_model(self, job: Job, seed: int) -> Path | None:
        """The model file that a job left on this machine, None if there is none."""
        paths = {"full": self.model_path, "qat": self.quantized_path}
        path = paths[job.kind](job, seed) if job.kind in paths else None
        return path if path is not None and path.exists() else None

    def find(self, job: Job, seed: int, entries: dict[str, Entry] | None = None) -> Entry | None:
        """The finished job, None if it is not; `entries`: the ledger, if it was read before."""
        entries = self.ledger.entries() if entries is None else entries
        return find_in(entries, self.study.key(job, seed), self.study.identity(job, seed, whole=True))

    def model_fits(self, job: Job, seed: int, entry: Entry) -> bool:
        """Whether the model that a job of kind "full" wrote is there and is the one that its entry measured.

        Raises `FileError` if it is another one (trained again elsewhere: other versions, other threads) while
        the ledger has results that start from the first: two models' results never meet in one dataset.
        """
        stored = self.stored_model(job, seed)
        if stored is None:
            return False
        losses = entry.measured["loss_train"][1:]  # epoch 0 has none
        if (
            stored.info["history"]["loss_train"] == losses
            and stored.info["accuracy_test"] == entry.measured["accuracy"]
        ):
            return True
        same = ("task", "data", "seed", "mode", "model", "pretraining")
        others = [
            other
            for other in self.ledger.entries().values()
            if other.key != entry.key and all(other.identity.get(n) == entry.identity.get(n) for n in same)
        ]
        if others:
            raise FileError(
                f"{self.model_path(job, seed)} is not the model behind {len(others)} results in "
                f"{self.ledger.path}, though of the same recipe (trained again with other versions or threads?); "
                f"restore the file, or remove the results of {job.model} seed {seed} from the ledger"
            )
        return False

    def work(self, job: Job) -> float:
        """Size of a job in state updates."""
        return work(self.study, job, self.shape)

    def left(self, cells: list[Cell], entries: dict[str, Entry]) -> float:
        """Estimated seconds for the cells that are not done, with the trainings that they start from."""
        jobs: dict[str, Job] = {}
        for cell in cells:
            if self.find(cell.job, cell.seed, entries) is not None:
                continue
            jobs[self.study.key(cell.job, cell.seed)] = cell.job
            base = start_of(cell.job)
            if not self.model_path(base, cell.seed).exists():
                jobs[self.study.key(base, cell.seed)] = base
        done = entries.values()
        return sum(estimate(job, self.work(job), done, self.study.model(job.model).heads) for job in jobs.values())

    def spent(self, cells: list[Cell], entries: dict[str, Entry]) -> float:
        """Compute time in s of the cells that are done, with the trainings that they start from."""
        found: dict[str, float] = {}
        for cell in cells:
            entry = self.find(cell.job, cell.seed, entries)
            if entry is None:
                continue
            found[entry.key] = entry.time_s
            base = self.find(start_of(cell.job), cell.seed, entries)
            if base is not None:
                found[base.key] = base.time_s
        return sum(found.values())
