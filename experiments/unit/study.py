"""The update unit's forms on sMNIST: the full-precision models of `../zhao2025`.

imc-ssm experiment run unit/rounding unit/rates unit/poles unit/scales unit/rows_16h
imc-ssm experiment run unit/qat_16h
"""

from imc_ssm.layers import PRESETS
from imc_ssm.study import Recipe
from imc_ssm.training import TrainConfig

from . import figures
from .grid import Plan, build

RECIPE = Recipe(
    pretraining=TrainConfig(epochs=30, batch=512, learning_rate=1e-2),
    qat=TrainConfig(epochs=3, batch=64, learning_rate=3e-3),
)
"""Full precision as in `../zhao2025`; QAT is shorter: it starts from what PTQ leaves."""
PLAN = Plan(
    "unit",
    "smnist",
    {name: PRESETS[name] for name in ("s4d-16h", "s4d-64h")},
    RECIPE,
    "s4d-16h",
    bits=(4, 5, 6, 7, 8, 10),
    bits_coarse=(6, 8),
    seeds={"s4d-16h": 5, "s4d-64h": 2},
    recipes={"s4d-64h": RECIPE.with_(pretraining__micro_batch=64)},
)
STUDY = build(PLAN, figures)
