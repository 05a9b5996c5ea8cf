"""A study of seconds on the digits: copied to `experiments/smoke/study.py` by the tests."""

from imc_ssm.layers import ModelConfig
from imc_ssm.quantization import Scheme
from imc_ssm.study import Experiment, Kernel, Poles, Ptq, Qat, Recipe, Study, Train
from imc_ssm.training import TrainConfig


def rounded(bits):
    return Scheme.uniform(poles=bits, state=bits)


def either(cell):
    """Full precision at 32 bits; no cell at 2."""
    if cell["bits"] == 2:
        return None
    return Train(cell["model"]) if cell["bits"] == 32 else Ptq(cell["model"], rounded(cell["bits"]))


STUDY = Study(
    "smoke",
    "Smoke study",
    "digits",
    Recipe(
        pretraining=TrainConfig(epochs=2, batch=64, learning_rate=3e-2),
        qat=TrainConfig(epochs=2, batch=64, learning_rate=1e-3),
        calibration=64,
    ),
    (
        Experiment(
            "widths",
            "PTQ over the word length",
            {"model": ("tiny",), "bits": (32, 8, 4, 2)},
            either,
            seeds=2,
            paper={("tiny", 32): (50.0, 10.0), ("tiny", 8): (40.0, 5.0)},
        ),
        Experiment(
            "curves",
            "QAT",
            {"model": ("tiny",), "bits": (8, 5)},
            lambda cell: Qat(cell["model"], rounded(cell["bits"])),
            variables=("accuracy", "accuracy_validation", "loss_train"),
            seeds=2,
        ),
        Experiment(
            "again",
            "The same QAT",
            {"bits": (8,)},
            lambda cell: Qat("tiny", rounded(cell["bits"])),
            seeds=2,
        ),
        Experiment(
            "poles",
            "Poles",
            {"bits": (32, 5)},
            lambda cell: Poles("tiny", None if cell["bits"] == 32 else rounded(5)),
            variables=("pole", "poles_outside"),
            seeds=1,
            headline=lambda ds: ds["poles_outside"],
        ),
        Experiment(
            "kernel",
            "Kernel",
            {"bits": (5, 3)},
            lambda cell: Kernel("tiny", rounded(cell["bits"]), 64),
            variables=("kernel_error",),
            seeds=1,
            headline=lambda ds: ds["kernel_error"].sel(rounded="all", quantile=0.5).isel(step=-1),
        ),
    ),
    models={"tiny": ModelConfig(heads=4, n_state=8, dt_min=0.0125, dt_max=0.5)},
)
