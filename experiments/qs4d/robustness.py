"""Robustness to analog noise, after QS4D (Siegel et al. 2025, arXiv:2507.06079): what training with it buys.

    imc-ssm experiment run qs4d/noise qs4d/devices
    imc-ssm experiment report qs4d

Two experiments on one task. `noise`: Gaussian noise on poles, relative to the largest of their head, and on
matrices, relative to the largest of their column, at test alone or in training too, for full precision and for
word lengths of everything. `devices`: the same models on programmed chips over a month, and models that were
trained for these chips (`imc_ssm.training_for`). `build` makes the study of a task; `study.py` here is that of the
digits, those of sMNIST and spoken digits lie beside this folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imc_ssm.devices import load_design
from imc_ssm.layers import ModelConfig
from imc_ssm.quantization import Scheme
from imc_ssm.study import Deploy, Disturb, Experiment, Job, Ptq, Qat, Recipe, Study, Train
from imc_ssm.training import TrainConfig

FULL_PRECISION = 32
PARTS = ("poles", "matrices")
COMPENSATIONS = ("none", "global", "column")
MONTH = (1.0, 3600.0, 86400.0, 30 * 86400.0)
COORDINATES = {
    "bits": ("bit", "Word length of poles, state, matrices and activations (32: full precision)"),
    "training": ("1", "Training"),
    "part": ("1", "What has noise, or few bits"),
    "noise": ("1", "Deviation of the noise, relative to the range"),
    "design": ("1", "Chip design"),
    "compensation": ("1", "Compensation of drift"),
    "epochs": ("1", "Epochs of training"),
    "heads": ("1", "Heads"),
    "n_state": ("1", "Real states of a head"),
    "seed": ("1", "Seed"),
}


@dataclass(frozen=True)
class Plan:
    """The sizes of a task's study."""

    task: str
    model: ModelConfig
    name: str
    recipe: Recipe
    noise_poles: float
    """Deviation of the noise on poles in noise-aware training."""
    noise: float
    """That of the noise on matrices."""
    bits: Sequence[int] = (FULL_PRECISION, 10, 8, 6, 4)
    full_precision: bool = True
    """Whether full precision is trained with noise, too."""
    sizes: Mapping[str, Sequence[float]] | None = None
    """Deviations at test, by part."""
    designs: Sequence[str] = ("pcm-256", "taox-yao-128")
    trainings: Sequence[str] = ("ptq", "qat", "noise", "chip")
    """Of the models on chips: calibrated alone, QAT, QAT with Gaussian noise, QAT for the chip."""
    chips: int = 20
    sequences: int | None = None
    """Test sequences on chips; None: all."""
    longer: Sequence[int] = ()
    """Epochs of training for the first design."""
    seeds: int = 5
    seeds_devices: int = 5


def scheme(bits: int) -> Scheme:
    """Everything at one word length; biases as chips have them."""
    return Scheme.uniform(poles=bits, state=bits, weights=bits, activations=bits)


def trained(plan: Plan, bits: int, training: str) -> Job | None:
    """The job that leaves a model; None: there is no such model."""
    noisy = {"noise_poles": plan.noise_poles, "noise": plan.noise}
    if bits == FULL_PRECISION:
        if training == "ptq":
            return Train(plan.name)
        noisily = training == "noise" and plan.full_precision
        return Train(plan.name, plan.recipe.pretraining.with_(noisy)) if noisily else None
    if training == "ptq":
        return Ptq(plan.name, scheme(bits))
    return Qat(plan.name, scheme(bits), plan.recipe.qat.with_(noisy) if training == "noise" else None)


def disturbed(plan: Plan, cell: Mapping[str, Any]) -> Job | None:
    """A model with noise at test; without any, once for both parts."""
    start = trained(plan, cell["bits"], cell["training"])
    if start is None or (plan.sizes is not None and cell["noise"] not in plan.sizes[cell["part"]]):
        return None
    return Disturb(start, **{"poles" if cell["part"] == "poles" else "weights": cell["noise"]})


def deployed(plan: Plan, cell: Mapping[str, Any]) -> Job:
    """An 8-bit model on the chips of a design."""
    design = load_design(cell["design"]).with_(drift_compensation=cell["compensation"])
    start = trained(plan, 8, cell["training"])
    if cell["training"] == "chip":
        start = Qat(plan.name, scheme(8), None, load_design(cell["design"]).with_(drift_compensation="column"))
    assert start is not None
    return Deploy(start, design, chips=plan.chips, times=MONTH, sequences=plan.sequences)


def lasting(plan: Plan, cell: Mapping[str, Any]) -> Job:
    """An 8-bit model that was trained for a chip for so many epochs."""
    design = load_design(cell["design"]).with_(drift_compensation="column")
    given = plan.recipe.qat.with_(epochs=cell["epochs"])
    usual = given == plan.recipe.qat
    start = Qat(plan.name, scheme(8), None if usual else given, design)
    return Deploy(start, design, chips=plan.chips, times=MONTH, sequences=plan.sequences)


def over_draws(ds: Any) -> Any:
    """What the report shows of noise: the mean of the draws."""
    found = ds["accuracy_disturbed"].mean("draw", skipna=True)
    return found.assign_attrs(units="percent", long_name="Test accuracy with noise, mean of the draws")


def over_chips(ds: Any) -> Any:
    """What the report shows of chips: their mean."""
    found = ds["accuracy"].mean("chip", skipna=True)
    return found.assign_attrs(units="percent", long_name="Accuracy of programmed chips, mean of the chips")


def build(
    plan: Plan,
    figures: Any = None,
    more: Sequence[Experiment] = (),
    models: Mapping[str, ModelConfig] | None = None,
    recipes: Mapping[str, Recipe] | None = None,
) -> Study:
    """The study of a task, with `more` experiments, and their models and recipes."""
    sizes = plan.sizes or dict.fromkeys(PARTS, (0.0, 0.005, 0.01, 0.02, 0.05, 0.1))
    noise = Experiment(
        "noise",
        "Gaussian noise on poles and on matrices, at test and in training",
        {
            "bits": plan.bits,
            "training": ("ptq", "qat", "noise"),
            "part": PARTS,
            "noise": tuple(sorted({size for part in PARTS for size in sizes[part]})),
        },
        lambda cell: disturbed(plan, cell),
        ("accuracy_disturbed",),
        plan.seeds,
        figure=None if figures is None else figures.noise,
        headline=over_draws,
    )
    devices = Experiment(
        "devices",
        "8-bit models on programmed chips over a month",
        {"design": plan.designs, "training": plan.trainings, "compensation": COMPENSATIONS},
        lambda cell: deployed(plan, cell),
        ("accuracy", "accuracy_digital"),
        plan.seeds_devices,
        figure=None if figures is None else figures.devices,
        headline=over_chips,
    )
    experiments = [noise, devices]
    if plan.longer:
        longer = Experiment(
            "longer",
            "Training for a chip over more epochs, compensation per column",
            {"design": plan.designs[:1], "epochs": plan.longer},
            lambda cell: lasting(plan, cell),
            ("accuracy", "accuracy_digital"),
            1,
            headline=over_chips,
        )
        experiments.append(longer)
    where = "qs4d" if plan.task == "digits" else f"qs4d-{plan.task}"
    return Study(
        where,
        f"Quantization and robustness, after QS4D: {plan.task}",
        plan.task,
        plan.recipe,
        (*experiments, *more),
        models={plan.name: plan.model, **(models or {})},
        recipes=recipes or {},
        coordinates=COORDINATES,
        source="Siegel et al. 2025, QS4D, arXiv:2507.06079",
    )


def digits() -> Plan:
    """64 steps; a training takes seconds."""
    return Plan(
        "digits",
        ModelConfig(heads=16, dt_min=0.0125, dt_max=0.5),
        "s4d-16h",
        Recipe(
            pretraining=TrainConfig(epochs=60, batch=32, weight_decay=0.05),
            mode="convolution",
            qat=TrainConfig(epochs=30, batch=32, learning_rate=1e-2),
        ),
        noise_poles=0.01,
        noise=0.06,
    )


def smnist() -> Plan:
    """784 steps: full precision as in `experiments/zhao2025`, whose models these are."""
    from imc_ssm.layers import PRESETS

    pretraining = TrainConfig(epochs=30, batch=512, learning_rate=1e-2)
    small = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02)
    return Plan(
        "smnist",
        PRESETS["s4d-16h"],
        "s4d-16h",
        Recipe(pretraining=pretraining, qat=TrainConfig(epochs=6, batch=64, learning_rate=1e-2)),
        noise_poles=0.002,
        noise=0.06,
        bits=(FULL_PRECISION, 8, 4),
        full_precision=False,
        sizes={"poles": small, "matrices": (0.0, 0.01, 0.02, 0.05, 0.1)},
        trainings=("qat", "chip"),
        sequences=1000,
        longer=(6, 12),
        seeds=1,
        seeds_devices=3,
    )


def fsdd() -> Plan:
    """Spoken digits at 8 kHz, one layer of 64 heads."""
    return Plan(
        "fsdd",
        ModelConfig(heads=64, n_state=16, norm="batch", dropout=0.1, dt_min=0.001, dt_max=0.1),
        "s4d-64h-16",
        Recipe(
            pretraining=TrainConfig(epochs=8, batch=16, learning_rate=5e-3, weight_decay=0.05),
            qat=TrainConfig(epochs=3, batch=16, learning_rate=2e-3),
            calibration=64,
        ),
        noise_poles=0.0005,
        noise=0.06,
        bits=(FULL_PRECISION, 8, 4),
        full_precision=False,
        sizes={"poles": (0.0, 0.0005, 0.001, 0.002, 0.005), "matrices": (0.0, 0.01, 0.02, 0.05, 0.1)},
        designs=("pcm-256",),
        trainings=("qat", "chip"),
        chips=5,
        seeds=1,
        seeds_devices=1,
    )
