"""Two layers on the same chip: S4D (a system for every head) and S5 (one system for all, dense B and C on tiles).

    imc-ssm experiment run layers

One block of 16 heads on the digits, noise-aware QAT at 8 bits, programmed onto pcm-256. Every seed trains and
programs anew. S4D has 512 complex states and S5 has 32: the unit shrinks, and two matrices come to the tiles.
"""

from __future__ import annotations

from imc_ssm.layers import ModelConfig
from imc_ssm.quantization import Scheme
from imc_ssm.study import Cost, Deploy, Experiment, Qat, Study, initial_steps
from imc_ssm.study.demo import RECIPE, VARIABLES, over_chips

DT_MIN, DT_MAX = initial_steps(64)
SCHEME = Scheme.recommended(poles=8, state=8)


def model(layer: str) -> ModelConfig:
    """The classifier of a layer; N = 64 of every head, or of all."""
    return ModelConfig.parse({"heads": 16, "layer": layer, "n_state": 64, "dt_min": DT_MIN, "dt_max": DT_MAX})


def jobs(layer: str) -> tuple[Deploy, Cost]:
    """QAT of the layer's model, its chips and their cost."""
    tuned = Qat(start=layer, scheme=SCHEME)
    return Deploy(start=tuned, design="pcm-256"), Cost(start=tuned, design="pcm-256")


LAYERS = ("s4d", "s5")
STUDY = Study(
    "layers",
    "S4D and S5 on the same chip",
    "digits",
    RECIPE,
    (
        Experiment(
            "layers",
            "QAT at 8 bits of two layers, on pcm-256",
            {"layer": LAYERS},
            lambda cell: jobs(cell["layer"]),
            variables=VARIABLES,
            seeds=5,
            headline=over_chips,
        ),
    ),
    models={layer: model(layer) for layer in LAYERS},
    coordinates={"layer": ("1", "Sequence layer"), "seed": ("1", "Seed")},
)
