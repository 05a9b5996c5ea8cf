"""Pruning: smaller models of models, in full precision or quantized.

    smaller = imc_ssm.prune(model, states=0.5, heads=0.3, data=data, training=imc_ssm.TrainConfig(epochs=3))

States and heads that go are gone: from the configuration, every tensor, the graph, the file, the chip. Weights
that go are zeros, of which cells have less to conduct and nothing else.
"""

from imc_ssm.pruning.criteria import CRITERIA, Case, Criterion, Part, Scores, criterion, scores_of, weights_of
from imc_ssm.pruning.energy import Modes, gramians, hankel, head_energy, mode_energy, modes, real_form
from imc_ssm.pruning.greedy import Greedy, largest_allowed
from imc_ssm.pruning.procedure import Pruning, Rounds, prune, run
from imc_ssm.pruning.selection import Schedule, Scope, best_states, fractions, left
from imc_ssm.pruning.structure import Keep, Structure, smaller, streams
from imc_ssm.pruning.zeros import kept_zeros, least, matching, sparsity, zero, zero_weights

__all__ = [
    "CRITERIA",
    "Case",
    "Criterion",
    "Greedy",
    "Keep",
    "Modes",
    "Part",
    "Pruning",
    "Rounds",
    "Schedule",
    "Scope",
    "Scores",
    "Structure",
    "best_states",
    "criterion",
    "fractions",
    "gramians",
    "hankel",
    "head_energy",
    "kept_zeros",
    "largest_allowed",
    "least",
    "left",
    "matching",
    "mode_energy",
    "modes",
    "prune",
    "real_form",
    "run",
    "scores_of",
    "smaller",
    "sparsity",
    "streams",
    "weights_of",
    "zero",
    "zero_weights",
]
