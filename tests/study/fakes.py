"""Made-up results for datasets and figures, and places to work in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from imc_ssm.analysis.poles import PARTS, step_grid
from imc_ssm.layers import S4D
from imc_ssm.study import Experiment, Workplace, load_study
from imc_ssm.study.dataset import assemble
from imc_ssm.study.declare import GridCell
from imc_ssm.study.ledger import Record

ROOT = Path(__file__).parents[2]
ZHAO = ROOT / "experiments" / "zhao2025"
SMOKE = Path(__file__).parent / "smoke_study.py"


@contextlib.contextmanager
def silent(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Progress that nobody sees."""
    yield lambda done, total, note: None


def smoke_folder(folder: Path) -> Path:
    """`folder/experiments/smoke` with the smoke study."""
    study = folder / "experiments" / "smoke"
    study.mkdir(parents=True)
    (study / "study.py").write_text(SMOKE.read_text(encoding="utf-8"), encoding="utf-8")
    return study


def smoke_place(folder: Path) -> Workplace:
    study = smoke_folder(folder)
    return Workplace(load_study(study), study)


def fake_record(place: Workplace, cell: GridCell, accuracy: float) -> Record:
    """What a job of this kind could have measured."""
    rng = np.random.default_rng(cell.seed)
    (job,), labels = cell.jobs, {}
    measured: dict = {"accuracy": accuracy}
    if job.kind in ("train", "qat"):
        epochs = 11 if job.kind == "qat" else 31
        rise = accuracy - 60 * np.exp(-np.arange(epochs) / 3) + rng.normal(0, 0.3, epochs)
        measured |= {"accuracy_validation": rise.tolist(), "loss_train": [float("nan"), *([0.1] * (epochs - 1))]}
    elif job.kind == "poles":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cell.seed)
            config = job.architecture(place.study)
            a = S4D(config.heads, config.layer).discrete()[0].detach().numpy()
        pairs = np.stack([a.real, a.imag], -1)
        if job.scheme is not None:
            step = 2.0 / 2**job.scheme.bits.poles
            pairs = np.round(pairs / step) * step
        outside = 100 * np.mean(np.hypot(pairs[..., 0], pairs[..., 1]) >= 1)
        measured = {"pole": pairs.tolist(), "poles_outside": float(outside)}
    elif job.kind == "kernel":
        steps = step_grid(job.steps)
        size = 2.0**-job.scheme.bits.poles * steps**0.5 * (1 + 0.1 * rng.normal())
        measured = {"kernel_error": [[(size * f).tolist() for f in (0.4, 1, 3)] for _ in PARTS]}
        labels = {"step": steps.tolist()}
    identity = place.study.identity(job, cell.seed, whole=True)
    return Record(place.study.key(job, cell.seed), identity, measured, 10000, 10.0, place.work(job), labels)


def fake_dataset(
    place: Workplace, experiment: Experiment, accuracy: Callable[[GridCell], float | None]
) -> xr.Dataset:
    """The dataset with made-up accuracies (percent); None: the cell is missing."""
    found = [(cell, accuracy(cell)) for cell in experiment.cells()]
    records = [fake_record(place, cell, value) for cell, value in found if value is not None]
    return assemble(place, experiment, {record.key: record for record in records})
