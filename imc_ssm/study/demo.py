"""The main job as a study: one model from training to chips, at several word lengths of the state.

`imc-ssm demo` runs it on the digits; `experiments/digits` over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr

from imc_ssm import datasets
from imc_ssm.layers import ModelConfig
from imc_ssm.quantization import Scheme
from imc_ssm.study.declare import Experiment, Recipe, Study
from imc_ssm.study.jobs import Cost, Deploy, Job, Ptq, Qat
from imc_ssm.training import TrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from imc_ssm.study.chips import Design

__all__ = ["FINE_TUNING", "RECIPE", "VARIABLES", "build", "initial_steps", "over_chips"]

FINE_TUNING = TrainConfig(epochs=40, batch=32, learning_rate=1e-2, noise=0.06, noise_output=0.04, clip_input=99.0)
"""Noise-aware QAT: weight noise of 6 %, a design's read noise of 0.04, and the largest 1 % of the inputs clipped.

Chosen by the accuracy of PCM chips after a day on the validation split of the digits, mean of five seeds: 93.65 %
with these, 92.48 % with noise 0.03 and 0.04, 92.96 % with 0.1 and 0.06, 91.86 % with 0.15 and 0.06 (deviations
over the seeds 0.8 to 2.2).
"""
RECIPE = Recipe(
    pretraining=TrainConfig(epochs=60, batch=32, weight_decay=0.05),
    mode="convolution",
    qat=FINE_TUNING,
    calibration_from="first",
    keep="best",
)
VARIABLES = tuple(variable.name for kind in (Deploy, Cost) for variable in kind.variables)


def initial_steps(time: int) -> tuple[float, float]:
    """(dt_min, dt_max) for sequences of `time` steps: memory from well under to somewhat over one sequence.

    dt_max = min(80 / time, 0.5), dt_min = min(0.8 / time, dt_max): the usual (1e-3, 1e-1) at 784 steps.
    """
    dt_max = min(80.0 / time, 0.5)
    return min(0.8 / time, dt_max), dt_max


def over_chips(dataset: xr.Dataset) -> xr.DataArray:
    """Accuracy over time after programming in percent, mean of a cell's chips: what a report shows."""
    mean = dataset["accuracy"].mean("chip", skipna=True)
    return mean.assign_attrs(units="percent", long_name="Accuracy of programmed chips, mean of the chips")


def build(
    name: str,
    design: str | Design = "pcm-256",
    *,
    experiment: str | None = None,
    title: str = "One model from training to chips",
    task: str = "digits",
    heads: int = 16,
    states: Sequence[int] = (4, 6, 8, 12),
    chips: int = 10,
    times: Sequence[float] | None = None,
    recipe: Recipe | None = None,
    seeds: int | Sequence[int] = 1,
    figure: Callable[[xr.Dataset], Figure] | None = None,
    headline: Callable[[xr.Dataset], xr.DataArray] = lambda ds: ds["accuracy_digital"],
) -> Study:
    """A study with one experiment over `model`: accuracy, energy, latency, area and memory of the same chip.

    Models: "fp32" (digital reference), "ptq-a8-x8", and "qat-a8-xN" for every word length N of the state; the
    poles have 8 bits, all in the forms of `Scheme.recommended`. Test data choose nothing. What does not apply to
    a model is NaN.
    """
    (_, time, channels), classes = datasets.info(task)["shape"], datasets.info(task)["classes"]
    dt_min, dt_max = initial_steps(time)
    sizes = {"inputs": channels, "heads": heads, "outputs": classes}
    model = ModelConfig.parse(sizes | {"dt_min": dt_min, "dt_max": dt_max}, where=task)
    given: dict[str, Any] = {"chips": chips} | ({} if times is None else {"times": tuple(times)})
    quantized: dict[str, Job] = {"ptq-a8-x8": Ptq(start="s4d", scheme=Scheme.recommended(poles=8, state=8))}
    for bits in states:
        quantized[f"qat-a8-x{bits}"] = Qat(start="s4d", scheme=Scheme.recommended(poles=8, state=bits))
    jobs: dict[str, tuple[Job, ...]] = {"fp32": (Deploy(start="s4d", design=None, **given),)}
    for label, job in quantized.items():
        jobs[label] = (Deploy(start=job, design=design, **given), Cost(start=job, design=design))
    declared = Experiment(
        experiment or name,
        title,
        {"model": tuple(jobs)},
        lambda cell: jobs[cell["model"]],
        variables=VARIABLES,
        seeds=seeds,
        figure=figure,
        headline=headline,
    )
    about = {"model": ("1", "Model"), "seed": ("1", "Seed")}
    return Study(name, title, task, recipe or RECIPE, (declared,), models={"s4d": model}, coordinates=about)
