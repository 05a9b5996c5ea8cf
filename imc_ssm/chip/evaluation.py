"""How good a deployment is over programmed chips and over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.chip.deployment import Deployment, deployment_of
from imc_ssm.chip.population import Population
from imc_ssm.chip.schedules import Maintenance, Moment
from imc_ssm.chip.streaming_noise import stream_of
from imc_ssm.chip.subsets import Subset, drawn, standard_errors
from imc_ssm.datasets import dataset_of
from imc_ssm.datasets.sequence import SequenceDataset, Split
from imc_ssm.devices import Chip
from imc_ssm.errors import DesignError, FileError
from imc_ssm.files import load_tensors, save_tensors
from imc_ssm.kernels.device import named_device
from imc_ssm.training import check_model_fits, metrics_of, predict
from imc_ssm.units import DAY, HOUR, duration, moments, whole

if TYPE_CHECKING:
    from imc_ssm.chip.linear import Implementation
    from imc_ssm.chip.programming import Noise
    from imc_ssm.chip.streaming_noise import Within

__all__ = ["DAY", "HOUR", "METRICS", "QUANTILES", "TIMES", "evaluate", "stands"]

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
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Which quantiles over chips a dataset has."""
_Arrays = dict[str, np.ndarray[Any, Any]]
_DONE = "done"


def evaluate(
    deployment: Deployment,
    data: SequenceDataset,
    chips: int = 20,
    times: Any = None,
    *,
    seed: int = 0,
    split: str = "test",
    sequences: int | None = None,
    subset: Subset = "paired",
    refresh: Any = None,
    recalibrate: Any = None,
    implementation: Implementation = "fast",
    noise: Noise = "native",
    within: Within = "held",
    step: Any = None,
    device: str = "cpu",
    at_once: int | None = None,
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
        >>> found = imc_ssm.evaluate(deployment, data, chips=2, times=[1.0, 86400.0], sequences=50)
        >>> dict(found["accuracy"].sizes), float(found["accuracy_error"].max()) < 8
        ({'chip': 2, 'time': 2}, True)

    Returns a dataset with the metrics of the task (`training.metrics`) over (chip, time), and those of the
    reference with digital matrices: `accuracy(chip, time)` and `accuracy_digital` in percent, `f1(chip, time,
    class)`, `f1_macro` and theirs for classes; `mae` and `r2` for values; and of all but `f1` the quantiles over
    chips, `accuracy_quantile(quantile, time)`. Each says `n_test`, the number of sequences, and where every step
    has an answer `n_steps`, those that count.

    `sequences`: so many of the split, drawn by the seed (`subsets.drawn`): the same for all chips ("paired"), or
    each chip its own ("fresh"). Then `accuracy_error(chip, time)` and the like are standard errors against the
    whole split (`subsets.standard_errors`): of paired chips one and the same draw, of fresh ones independent. The
    digital reference runs on the paired sequences, else on all.

    `refresh` and `recalibrate`: intervals, seconds or words, at which chips are programmed again, with new errors,
    and their drift compensation is measured again (`schedules.Maintenance`); None: never, and at every reading.
    `programmings(time)` and `calibrations(time)` count them.

    `within`: what the devices' slow noise does while sequences run (`Stream`): "held" stands still, all sequences
    see one reading; "correlated" moves from step to step as its spectrum says, as far as it is faster than a
    sequence; "white" redraws that in every product. `step`: from one time step to the next, s; None: the analog
    products of a step, one matrix after the other (`step_latency`).

    Chip i of a seed is the same chip whatever else is evaluated, so that designs that differ in one field are
    compared chip by chip. `at_once`: chips that run together, None: 8; no number depends on it but by the rounding
    of float32 sums. With `checkpoint`, metrics are written there as they come and read again by the same
    call, so that an interrupted evaluation goes on; remove the file when the result is safe. `device`: where the
    products run, "cpu" or "cuda".

    Raises `ImcSsmError` for no chips, for what is no time, or a device that cannot be used, `ConfigError` for a
    subset or interval that cannot be, `DesignError` for a time that the cell's model does not cover, or
    recalibration where the design compensates nothing, `FileError` for a checkpoint of another evaluation.
    """
    deployment, data = deployment_of(deployment, "evaluate"), dataset_of(data)
    chips, seed = whole(chips, "chips", least=1), whole(seed, "seed")
    at_once = None if at_once is None else whole(at_once, "at_once", least=1)
    upkeep, cell = Maintenance.every(refresh, recalibrate), deployment.chip.cell
    times = cell.usual_times() if times is None else moments(times)
    standing = stands(deployment.chip, upkeep, times)
    part, there = data.split(split), named_device(device)
    one_by_one = [
        *deployment.matrices,
        *(max(r.matrices, key=lambda m: m.widest()) for r in deployment.recurrences),
    ]
    stream = stream_of(deployment.chip, one_by_one, part.values.shape[1], within, step)
    population = Population(deployment, seed, implementation, noise, there, stream)
    check_model_fits(population.model, data)
    apart = sequences is not None and subset == "fresh"
    own = {i: drawn(part, sequences, subset, seed, i) for i in (range(chips) if apart else (0,))}
    shared, total = part if apart else own[0], None if sequences is None else len(part)

    identity = {"seed": seed, "times": list(times), "chips": chips, "split": split, "task": data.task}
    identity |= {"deployment": deployment.digest(), "implementation": implementation, "noise": noise}
    identity |= {"device": there.type, "data": part.digest(), "sequences": sequences, "subset": subset}
    identity |= {"refresh": upkeep.refresh, "recalibrate": upkeep.recalibrate}
    identity |= {} if stream is None else {"within": within, "step": stream.step}
    digital = _measured(predict(deployment.digital().to(there), shared), shared, total)
    shapes = {name: (chips, len(times), *np.shape(value)) for name, value in digital.items()}
    out = _resumed(checkpoint, identity, shapes)
    size = population.together(at_once, apart, part)
    for first in range(0, chips, size):
        group = range(first, min(first + size, chips))
        for k, moment in enumerate(standing):
            if out[_DONE][group, k].all():
                continue
            population.bring(group, moment)
            answers = population.predict([own[i] for i in group] if apart else [shared], part)
            for i, found in zip(group, answers, strict=True):
                for name, value in _measured(found, own[i] if apart else shared, total).items():
                    out[name][i, k] = value
                out[_DONE][i, k] = 1
            if checkpoint is not None:
                save_tensors(checkpoint, out, identity, "evaluation")
            if progress is not None:
                note = f"chip {first + 1}" if len(group) == 1 else f"chips {first + 1} to {group[-1] + 1}"
                progress(int(out[_DONE].sum()), chips * len(times), f"{deployment.name}: {note} of {chips}")
    about: dict[str, Any] = {"n_test": len(own[0])} | (
        {} if total is None else {"n_split": total, "subset": subset}
    )
    about |= {} if stream is None else {"within": within, "step": f"{stream.step:.4g} s"}
    about |= {"n_steps": part.counted} if part.per_step and total is None else {}
    return _dataset(out, digital, about, upkeep, times, data)


def stands(chip: Chip, upkeep: Maintenance, times: Sequence[float]) -> list[Moment]:
    """The moments of `times` (s) after programming.

    Raises `DesignError` for an age that the cell has no model for, or for recalibration of what the design does
    not compensate.
    """
    if upkeep.recalibrate is not None and chip.design.drift_compensation == "none":
        raise DesignError(
            f"recalibrate = {duration(upkeep.recalibrate)}, but design {chip.design.name!r} compensates no drift; "
            "give it drift_compensation = 'column', or leave recalibrate out"
        )
    found = [upkeep.at(time) for time in times]
    for moment in found:
        chip.cell.check_time(moment.age)
        if moment.calibrated:
            chip.cell.check_time(moment.calibrated)
    return found


def _measured(found: np.ndarray[Any, Any], part: Split, total: int | None) -> dict[str, Any]:
    """Metrics, and with the number of sequences that `part` was drawn from their standard errors."""
    out = metrics_of(found, part)
    if total is not None:
        out |= {f"{name}_error": value for name, value in standard_errors(found, part, total).items()}
    return out


def _dataset(
    out: _Arrays,
    digital: dict[str, Any],
    about: dict[str, Any],
    upkeep: Maintenance,
    times: Sequence[float],
    data: SequenceDataset,
) -> xr.Dataset:
    """Arrays (chip, time, ...) and the digital reference as `evaluate` returns them."""
    of_time = {"units": "s", "long_name": "Time after programming"}
    of_quantile = {"units": "1", "long_name": "Share of the chips that are not above"}
    dataset = xr.Dataset(
        coords={
            "chip": np.arange(len(out[_DONE])),
            "time": ("time", np.asarray(times, np.float64), of_time),
            "quantile": ("quantile", np.asarray(QUANTILES), of_quantile),
        },
    )
    for name, value in digital.items():
        metric, error = name.removesuffix("_error"), name.endswith("_error")
        units, what = METRICS[metric]
        dims = ("class",) if np.ndim(value) else ()
        attrs = {"units": units, **about}
        what = f"Standard error of {what[0].lower()}{what[1:]} from drawing sequences," if error else what
        said = {"long_name": f"{what} of programmed chips"}
        dataset[name] = (("chip", "time", *dims), out[name], attrs | said)
        if not error or about["subset"] == "paired":
            shown = f"{metric}_digital{'_error' if error else ''}"
            dataset[shown] = (dims, value, attrs | {"long_name": f"{what} with digital matrices"})
        if not error and not dims:
            said = {"long_name": f"{what}: quantiles over programmed chips"}
            dataset[f"{name}_quantile"] = (
                ("quantile", "time"),
                np.quantile(out[name], QUANTILES, axis=0),
                attrs | said,
            )
    moments = [upkeep.at(time) for time in times]
    if upkeep.refresh is not None:
        said = {"units": "1", "long_name": f"Programmings until then, every {duration(upkeep.refresh)}"}
        dataset["programmings"] = ("time", np.array([1 + moment.cycle for moment in moments]), said)
    if upkeep.recalibrate is not None:
        said = {"units": "1", "long_name": f"Calibrations until then, every {duration(upkeep.recalibrate)}"}
        dataset["calibrations"] = ("time", np.array([moment.calibrations for moment in moments]), said)
    if "class" in dataset.dims:
        names = np.arange(data.outputs) if data.class_names is None else np.array(data.class_names)
        dataset = dataset.assign_coords({"class": ("class", names, {"units": "1", "long_name": "Class"})})
    return dataset


def _resumed(checkpoint: Path | None, identity: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> _Arrays:
    """Metrics (chip, time, ...) so far, NaN where not computed, and which (chip, time) are done."""
    (cells,) = {shape[:2] for shape in shapes.values()}
    if checkpoint is None or not checkpoint.exists():
        empty = {name: np.full(shape, np.nan) for name, shape in shapes.items()}
        return empty | {_DONE: np.zeros(cells, np.uint8)}
    arrays, header = load_tensors(checkpoint, "evaluation")
    if header != identity or {n: a.shape for n, a in arrays.items()} != shapes | {_DONE: cells}:
        raise FileError(
            f"{checkpoint} is the checkpoint of another evaluation; run that one to its end, or remove the file"
        )
    return arrays
