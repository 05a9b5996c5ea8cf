"""The training numbers, all of them. The seed of a cell sets initialisation, order of the data and calibration.

The paper: pre-training in convolution mode for 30 epochs, QAT for 10 epochs in recurrent mode from the
calibrated PTQ model, no weight decay. Recurrent mode is the same function as convolution, at the same speed here
(an epoch of s4d-16h in 65 and 64 s, one after the other on a busy machine of two cores).
"""

from __future__ import annotations

from imc_ssm.study import Recipe
from imc_ssm.training import TrainConfig

SCHEDULE = {"weight_decay": 0.0, "warmup": 0.1, "clip": 1.0}
"""Linear warm-up over a tenth of the steps, then half a cosine to zero; gradients of norm 1 at most."""
RECIPE = Recipe(
    pretraining=TrainConfig(epochs=30, batch=512, learning_rate=1e-2, **SCHEDULE),
    mode="recurrent",
    qat=TrainConfig(epochs=10, batch=64, learning_rate=1e-2, **SCHEDULE),
    calibration=512,
)
"""For all models that have no recipe of their own below."""


def _wide(micro_batch: int, calibration: int) -> Recipe:
    """The same training in micro-batches, in the memory of a laptop: a step of s4d-64h takes 0.9 GB in 64s, 2.9 GB
    at once, and no more time (`make bench`)."""
    return RECIPE.with_(pretraining__micro_batch=micro_batch, calibration=calibration)


RECIPES: dict[str, Recipe] = {
    "s4d-64h": _wide(64, 512),
    "s4d-256h": _wide(16, 128),
    "s4d-512h": _wide(8, 64),
}
"""Model -> its own recipe."""
