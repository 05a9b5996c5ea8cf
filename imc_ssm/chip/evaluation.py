"""How good a deployment is over programmed chips and over time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.chip.deployment import Deployment, deployment_of
from imc_ssm.datasets import dataset_of
from imc_ssm.datasets.sequence import SequenceDataset
from imc_ssm.errors import FileError
from imc_ssm.files import load_tensors, save_tensors
from imc_ssm.kernels.device import named_device
from imc_ssm.training import check_model_fits, metrics
from imc_ssm.units import DAY, HOUR, moments, whole

if TYPE_CHECKING:
    from imc_ssm.chip.linear import Implementation
    from imc_ssm.chip.programming import Noise

__all__ = ["DAY", "HOUR", "METRICS", "TIMES", "evaluate"]

METRICS = {
    "accuracy": ("percent", "Accuracy"),
    "f1": ("1", "F1 of a class"),
    "f1_macro": ("1", "Mean F1 of the classes"),
    "mae": ("1", "Mean absolute error"),
    "r2": ("1", "R2"),
}
"""Unit and name of each metric of a task."""

TIMES = (1.0, HOUR, DAY, 30 * DAY)
"""Default times after programming, s."""


def evaluate(
    deployment: Deployment,
    data: SequenceDataset,
    chips: int = 20,
    times: Any = None,
    *,
    seed: int = 0,
    split: str = "test",
    implementation: Implementation = "fast",
    noise: Noise = "native",
    device: str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
    checkpoint: Path | None = None,
) -> xr.Dataset:
    """Program `chips` chips and run the split on each of them at each time after programming.

    `times`: seconds or words ("1h", "1s,1d"), one or several, an array or a coordinate; None: 1 s, an hour, a day
    and 30 days, or those that the cell's model has.

        >>> import imc_ssm
        >>> data = imc_ssm.load_dataset("digits")
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))
        >>> quantized = imc_ssm.quantize(model, "uniform", data)
        >>> deployment = imc_ssm.compile_model(quantized, "pcm-256", data)
        >>> dict(imc_ssm.evaluate(deployment, data, chips=2, times=[1.0, 86400.0])["accuracy"].sizes)
        {'chip': 2, 'time': 2}

    Returns a dataset with the metrics of the task (`training.metrics`) over (chip, time), and those of the
    reference with digital matrices: `accuracy(chip, time)` and `accuracy_digital` in percent, `f1(chip, time,
    class)`, `f1_macro` and theirs for classes; `mae` and `r2` for values. Each says `n_test`, the number of
    sequences, and where every step has an answer `n_steps`, those that count. Chip i of a seed is the
    same chip whatever else is evaluated. With `checkpoint`, metrics are written there chip by chip and read again
    by the same call, so that an interrupted evaluation goes on; remove the file when the result is safe. `device`:
    where the products run, "cpu" or "cuda" (whose read noise is another stream).

    Raises `ImcSsmError` for no chips, for what is no time, or a device that cannot be used, `DesignError` for a
    time that the cell's model does not cover, `FileError` for a checkpoint of another evaluation.
    """
    deployment, data = deployment_of(deployment, "evaluate"), dataset_of(data)
    chips, seed = whole(chips, "chips", least=1), whole(seed, "seed")
    cell = deployment.chip.cell
    times = cell.usual_times() if times is None else tuple(cell.check_time(time) for time in moments(times))
    part, there = data.split(split), named_device(device)
    model, tiles = deployment.analog(implementation, noise)
    check_model_fits(model, data)
    identity = {"seed": seed, "times": list(times), "chips": chips, "split": split, "task": data.task}
    identity |= {"deployment": deployment.digest(), "implementation": implementation, "noise": noise}
    identity |= {"device": there.type, "data": part.digest()}
    digital = metrics(deployment.digital().to(there), part)
    shapes = {name: (chips, len(times), *np.shape(value)) for name, value in digital.items()}
    out, done = _resumed(checkpoint, identity, shapes)
    for i in range(done, chips):
        for tile in tiles:
            tile.program(seed, i)
        for k, seconds in enumerate(times):
            for tile in tiles:
                tile.set_time(seconds)
            for name, value in metrics(model.to(there), part).items():
                out[name][i, k] = value
            if progress is not None:
                progress(i * len(times) + k + 1, chips * len(times), f"{deployment.name}: chip {i + 1}/{chips}")
        if checkpoint is not None:
            save_tensors(checkpoint, out | {"done": np.array(i + 1)}, identity, "evaluation")
    about: dict[str, int] = {"n_test": len(part)} | ({"n_steps": part.counted} if part.per_step else {})
    dataset = xr.Dataset(
        coords={
            "chip": np.arange(chips),
            "time": (
                "time",
                np.asarray(times, np.float64),
                {"units": "s", "long_name": "Time after programming"},
            ),
        },
    )
    for name, value in digital.items():
        units, what = METRICS[name]
        dims = ("class",) if np.ndim(value) else ()
        attrs = {"units": units, **about}
        dataset[name] = (("chip", "time", *dims), out[name], {**attrs, "long_name": f"{what} of programmed chips"})
        attrs["long_name"] = f"{what} with digital matrices"
        dataset[f"{name}_digital"] = (dims, value, attrs)
    if "class" in dataset.dims:
        names = np.arange(data.outputs) if data.class_names is None else np.array(data.class_names)
        dataset = dataset.assign_coords({"class": ("class", names, {"units": "1", "long_name": "Class"})})
    return dataset


def _resumed(
    checkpoint: Path | None, identity: dict[str, object], shapes: dict[str, tuple[int, ...]]
) -> tuple[dict[str, np.ndarray[Any, Any]], int]:
    """Metrics (chip, time, ...) so far, NaN where not computed, and the number of chips that are done."""
    if checkpoint is None or not checkpoint.exists():
        return {name: np.full(shape, np.nan) for name, shape in shapes.items()}, 0
    arrays, header = load_tensors(checkpoint, "evaluation")
    if header != identity or {n: a.shape for n, a in arrays.items() if n != "done"} != shapes:
        raise FileError(
            f"{checkpoint} is the checkpoint of another evaluation; run that one to its end, or remove the file"
        )
    return {name: arrays[name] for name in shapes}, int(arrays["done"])
