"""The study of `../unit` on the digits: 64 steps, all forms with each other.

imc-ssm experiment run unit-digits/grid
"""

import importlib.util
import sys
from pathlib import Path

from imc_ssm.layers import ModelConfig
from imc_ssm.study import Recipe
from imc_ssm.training import TrainConfig

NEIGHBOUR = Path(__file__).parents[1] / "unit"


def _module(name: str):
    """A module of the neighbouring study."""
    spec = importlib.util.spec_from_file_location(f"imc_ssm_study_unit_{name}", NEIGHBOUR / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


grid = _module("grid")
PLAN = grid.Plan(
    "unit-digits",
    "digits",
    {"s4d-16h": ModelConfig(heads=16, dt_min=0.0125, dt_max=0.5)},
    Recipe(
        pretraining=TrainConfig(epochs=60, batch=32, weight_decay=0.05),
        mode="convolution",
        qat=TrainConfig(epochs=30, batch=32, learning_rate=1e-2),
    ),
    "s4d-16h",
    bits=(4, 5, 6, 7, 8, 10),
    bits_coarse=(6, 8),
    rates=(0.0, 1.5, 3.0),
    wide=True,
)
STUDY = grid.build(PLAN, _module("figures"))
