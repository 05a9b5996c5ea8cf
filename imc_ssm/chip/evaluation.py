"""Accuracy of a deployment over programmed chips and over time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from imc_ssm.chip.deployment import Deployment, deployment_of
from imc_ssm.datasets import dataset_of
from imc_ssm.datasets.sequence import SequenceDataset, Split
from imc_ssm.errors import FileError, ImcSsmError
from imc_ssm.files import load_tensors, save_tensors
from imc_ssm.kernels.device import named_device
from imc_ssm.training import accuracy, check_model_fits
from imc_ssm.units import DAY, HOUR

if TYPE_CHECKING:
    from imc_ssm.chip.linear import Implementation
    from imc_ssm.chip.programming import Noise

__all__ = ["DAY", "HOUR", "TIMES", "evaluate"]

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
    device: str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
    checkpoint: Path | None = None,
) -> xr.Dataset:
    """Program `chips` chips and classify the split with each of them at each time after programming (s).

        >>> import imc_ssm
        >>> data = imc_ssm.load_dataset("digits")
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))
        >>> quantized = imc_ssm.quantize(model, "uniform", data)
        >>> deployment = imc_ssm.compile_model(quantized, "pcm-256", data)
        >>> dict(imc_ssm.evaluate(deployment, data, chips=2, times=[1.0, 86400.0])["accuracy"].sizes)
        {'chip': 2, 'time': 2}

    Returns a dataset with `accuracy(chip, time)` and the scalar `accuracy_digital`, in percent. Chip i of a
    seed is the same chip whatever else is evaluated. With `checkpoint`, accuracies are written there chip by
    chip and read again by the same call, so that an interrupted evaluation goes on; remove the file when the
    result is safe. `device`: where the products run, "cpu" or "cuda" (whose read noise is another stream).

    Raises `ImcSsmError` for no chips or times or a device that cannot be used, `DesignError` for a time that the
    cell's model does not cover, `FileError` for a checkpoint of another evaluation.
    """
    deployment, data = deployment_of(deployment, "evaluate"), dataset_of(data)
    if chips < 1 or not times:
        raise ImcSsmError(f"chips = {chips} at {len(times)} times; evaluate at least one chip at one time")
    part, there = data.split(split), named_device(device)
    model, tiles = deployment.analog(implementation, noise)
    check_model_fits(model, data)
    identity = {"seed": seed, "times": list(times), "chips": chips, "split": split, "task": data.task}
    identity |= {"deployment": deployment.digest(), "implementation": implementation, "noise": noise}
    identity |= {"device": there.type, "data": _digest(part)}
    out = _resumed(checkpoint, identity, (chips, len(times)))
    for i in range(chips):
        if np.isfinite(out[i]).all():
            continue
        for tile in tiles:
            tile.program(seed, i)
        for k, seconds in enumerate(times):
            for tile in tiles:
                tile.set_time(seconds)
            out[i, k] = accuracy(model.to(there), part)
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
                digital_accuracy(deployment, part, device),
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


def _digest(part: Split) -> str:
    """SHA-256 of the sequences, where they end, and their labels."""
    arrays = (part.values, part.labels, *(() if part.lengths is None else (part.lengths,)))
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


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


def digital_accuracy(deployment: Deployment, part: Split, device: str = "cpu") -> float:
    """Accuracy, in percent, of the deployment's reference: the quantized model without analog tiles."""
    return accuracy(deployment.digital().to(named_device(device)), part)
