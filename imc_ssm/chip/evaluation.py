"""Accuracy of a deployment over programmed chips and over time, and the dataset that says everything at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from imc_ssm.chip.deployment import Deployment
from imc_ssm.datasets.sequence import SequenceDataset, Split
from imc_ssm.errors import FileError, ImcSsmError
from imc_ssm.files import load_tensors, save_tensors
from imc_ssm.training import accuracy, check_model_fits

if TYPE_CHECKING:
    from imc_ssm.chip.linear import Implementation
    from imc_ssm.chip.programming import Noise

__all__ = ["DAY", "HOUR", "TIMES", "Entry", "evaluate", "gather"]

HOUR, DAY = 3600.0, 86400.0
TIMES = (1.0, HOUR, DAY, 30 * DAY)
"""Default times after programming, s."""


def evaluate(
    deployment: Deployment,
    data: SequenceDataset,
    chips: int = 20,
    times: Sequence[float] = TIMES,
    *,
    seed: int = 0,
    split: str = "test",
    implementation: Implementation = "fast",
    noise: Noise = "native",
    progress: Callable[[int, int, str], None] | None = None,
    checkpoint: Path | None = None,
) -> xr.Dataset:
    """Program `chips` chips and classify the split with each of them at each time after programming (s).

    Returns a dataset with `accuracy(chip, time)` and the scalar `accuracy_digital`, in percent. Chip i of a
    seed is the same chip whatever else is evaluated. With `checkpoint`, accuracies are written there chip by
    chip and read again by the same call, so that an interrupted evaluation goes on; remove the file when the
    result is safe.

    Raises `ImcSsmError` for no chips or times, `DesignError` for a time that the cell's model does not cover,
    `FileError` for a checkpoint of another evaluation.
    """
    if chips < 1 or not times:
        raise ImcSsmError(f"chips = {chips} at {len(times)} times; evaluate at least one chip at one time")
    part = data.split(split)
    model, tiles = deployment.analog(implementation, noise)
    check_model_fits(model, data)
    identity = {"seed": seed, "times": list(times), "chips": chips, "split": split, "task": data.task}
    identity |= {"deployment": deployment.digest(), "implementation": implementation, "noise": noise}
    out = _resumed(checkpoint, identity, (chips, len(times)))
    for i in range(chips):
        if np.isfinite(out[i]).all():
            continue
        for tile in tiles:
            tile.program(seed, i)
        for k, seconds in enumerate(times):
            for tile in tiles:
                tile.set_time(seconds)
            out[i, k] = accuracy(model, part)
            if progress is not None:
                progress(i * len(times) + k + 1, chips * len(times), f"{deployment.name}: chip {i + 1}/{chips}")
        if checkpoint is not None:
            save_tensors(checkpoint, {"accuracy": out}, identity, "evaluation")
    percent = {"units": "percent", "n_test": len(part)}
    dataset = xr.Dataset(
        {
            "accuracy": (("chip", "time"), out, {**percent, "long_name": "Accuracy of programmed chips"}),
            "accuracy_digital": (
                (),
                digital_accuracy(deployment, part),
                {**percent, "long_name": "Accuracy with digital matrices"},
            ),
        },
        coords={
            "chip": np.arange(chips),
            "time": (
                "time",
                np.asarray(times, np.float64),
                {"units": "s", "long_name": "Time after programming"},
            ),
        },
    )
    return dataset


def _resumed(
    checkpoint: Path | None, identity: dict[str, object], shape: tuple[int, int]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Accuracies (chip, time) so far, NaN where not computed."""
    if checkpoint is None or not checkpoint.exists():
        return np.full(shape, np.nan)
    arrays, header = load_tensors(checkpoint, "evaluation")
    if header != identity:
        raise FileError(
            f"{checkpoint} is the checkpoint of another evaluation; run that one to its end, or remove the file"
        )
    return arrays["accuracy"]


def digital_accuracy(deployment: Deployment, part: Split) -> float:
    """Accuracy, in percent, of the deployment's reference: the quantized model without analog tiles."""
    return accuracy(deployment.digital(), part)


@dataclass(frozen=True, eq=False)
class Entry:
    """One model of a study: its name, digital accuracy and, where it was deployed, everything else."""

    name: str
    accuracy_digital: float
    """Percent."""
    deployment: Deployment | None = None
    chips: xr.Dataset | None = None
    """What `evaluate` returned."""


def gather(entries: Sequence[Entry], n_test: int) -> xr.Dataset:
    """One dataset over `model`: accuracy, energy, latency, area and memory of the same chip.

    Variables: `accuracy_digital(model)`, `accuracy(model, chip, time)`, `energy`, `energy_step`, `latency`,
    `area`, `memory` (each over model and component), `bits_state(model)`, `bits_poles(model)`. What does not
    apply to a model is NaN.
    """
    from imc_ssm.costs import COMPONENTS, cost  # a room above

    names = [entry.name for entry in entries]
    evaluated = [entry.chips for entry in entries if entry.chips is not None]
    chip = max((len(d["chip"]) for d in evaluated), default=0)
    time = evaluated[0]["time"].values if evaluated else np.zeros(0)
    over_chips = np.full((len(entries), chip, len(time)), np.nan)
    parts = ("energy", "energy_step", "latency", "area", "memory")
    costs = {part: np.full((len(entries), len(COMPONENTS)), np.nan) for part in parts}
    bits = np.full((2, len(entries)), np.nan)
    about: dict[str, dict[str, object]] = {}
    for i, entry in enumerate(entries):
        if entry.chips is not None:
            if not np.array_equal(entry.chips["time"].values, time):
                raise ImcSsmError(f"{entry.name} was evaluated at other times than the models before it")
            over_chips[i, : len(entry.chips["chip"])] = entry.chips["accuracy"].values
        if entry.deployment is not None:
            priced = cost(entry.deployment)
            for part in parts:
                costs[part][i] = priced[part].values
                about[part] = dict(priced[part].attrs)
            bits[0, i] = entry.deployment.scheme.bits.state
            bits[1, i] = entry.deployment.scheme.bits.poles
    percent = {"units": "percent", "n_test": n_test}
    dataset = xr.Dataset(
        coords={
            "model": names,
            "chip": np.arange(chip),
            "time": ("time", time, {"units": "s", "long_name": "Time after programming"}),
            "component": list(COMPONENTS),
        }
    )
    digital = np.array([entry.accuracy_digital for entry in entries])
    dataset["accuracy_digital"] = (
        "model",
        digital,
        {**percent, "long_name": "Accuracy with digital matrices"},
    )
    dataset["accuracy"] = (
        ("model", "chip", "time"),
        over_chips,
        {**percent, "long_name": "Accuracy of programmed chips"},
    )
    for part in parts:
        attrs = about.get(part) or {"units": "1", "long_name": f"{part} (no model was deployed)"}
        dataset[part] = (("model", "component"), costs[part], attrs)
    dataset["bits_state"] = ("model", bits[0], {"units": "bit", "long_name": "Word length of the state"})
    dataset["bits_poles"] = ("model", bits[1], {"units": "bit", "long_name": "Word length of the poles"})
    dataset.attrs["n_test"] = n_test
    return dataset
