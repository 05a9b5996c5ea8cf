"""All actions of a deployment: a fold over its graph, where every operator says what it takes.

What is on tiles says it itself: a differential pair is subtracted as currents, so a signed column takes one
conversion per tile; every tile column's code is multiplied once by a 24-bit integer (weight scale, converter range
and drift compensation in one number) before the row tiles' partial sums and the bias are added. The bias counts in
the unit of that product since the model was loaded.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imc_ssm.chip.crossbars import OnCrossbar
from imc_ssm.chip.packing import pack
from imc_ssm.errors import DesignError
from imc_ssm.fixedpoint.requantization import CONSTANT_BITS
from imc_ssm.graph import Action, Matrix, Operator, Stored
from imc_ssm.graph.actions import Actions

if TYPE_CHECKING:
    from imc_ssm.chip import Deployment, MappedMatrix

__all__ = [
    "Taken",
    "actions_of",
    "bits_of",
    "loaded",
    "loads_of",
    "matrix_of",
    "on_tiles",
    "rounds_of",
    "stores",
    "widest",
]


@dataclass(frozen=True)
class Taken:
    """One action and the operator that takes it."""

    operator: Operator
    action: Action


def matrix_of(deployment: Deployment, operator: Matrix) -> MappedMatrix:
    """The mapped matrix of an operator; `DesignError` if it was not compiled."""
    for matrix in deployment.matrices:
        if matrix.module == operator.module:
            return matrix
    known = ", ".join(matrix.module for matrix in deployment.matrices) or "(none)"
    raise DesignError(
        f"operator {operator.name!r} ({operator.module}) has no mapped matrix (mapped: {known}); compile the "
        "model again"
    )


def on_tiles(deployment: Deployment, operator: Operator) -> tuple[MappedMatrix, ...]:
    """The matrices of an operator that sit on tiles and are read at once; none for one of the digital unit."""
    if isinstance(operator, Matrix):
        return (matrix_of(deployment, operator),)
    return operator.matrices if isinstance(operator, OnCrossbar) else ()


def widest(deployment: Deployment, operator: Operator) -> int:
    """Most columns that a product of an operator on tiles reads of one tile."""
    return max(matrix.widest() for matrix in on_tiles(deployment, operator))


def actions_of(deployment: Deployment) -> list[Taken]:
    """All actions of a deployment, operator by operator, in the order in which they run."""
    out = []
    for op in deployment.graph:
        if isinstance(op, Matrix):
            actions = _on_tiles(deployment, op)
        else:
            actions = op.actions(deployment.formats, deployment.steps)
        out += [Taken(op, action) for action in actions]
    return out


def loads_of(deployment: Deployment) -> list[Taken]:
    """What is done once, when the model is loaded, beyond writing words as they come."""
    return [Taken(op, action) for op in deployment.graph for action in _loads_of(deployment, op)]


def _loads_of(deployment: Deployment, operator: Operator) -> list[Action]:
    if not isinstance(operator, Matrix):
        return operator.load(deployment.formats)
    return operator.bias_loaded(deployment.formats, matrix_of(deployment, operator).sum_bits(deployment.chip))


def _saved_of(deployment: Deployment, operator: Operator) -> int:
    if not isinstance(operator, Matrix):
        return operator.saved(deployment.formats)
    return operator.bias_saved(deployment.formats, matrix_of(deployment, operator).sum_bits(deployment.chip))


def loaded(deployment: Deployment) -> int:
    """Bits of the digital unit's parameters as they come from outside: polar poles as decay and phase, biases in
    their own words."""
    return stores(deployment)["parameters"] - sum(_saved_of(deployment, op) for op in deployment.graph)


def _output_bits(deployment: Deployment, operator: Matrix) -> int:
    """Width of a matrix's output words: of its sums where they have no format (a decoder's logits)."""
    if operator.output.name in deployment.formats:
        return deployment.formats.bits(operator.output.name)
    return matrix_of(deployment, operator).sum_bits(deployment.chip)


def _input_constants(deployment: Deployment, operator: Matrix) -> int:
    """Requantization constants from an activation's grid to the DAC's: one a channel, or one for all."""
    (entering,) = operator.inputs
    return matrix_of(deployment, operator).inputs if deployment.formats[entering.name].scale.ndim else 1


def _on_tiles(deployment: Deployment, operator: Matrix) -> list[Action]:
    """The product of a matrix where it sits, between the activation buffer and the activation buffer."""
    matrix, formats, at = matrix_of(deployment, operator), deployment.formats, Actions(operator.rate)
    (entering,) = operator.inputs
    return [
        at.read("activations", entering.width, formats.bits(entering.name), "inputs"),
        *matrix.actions(deployment.chip, formats.centred(entering.name), _input_constants(deployment, operator)),
        at.write("activations", operator.output.width, _output_bits(deployment, operator), "outputs"),
    ]


def _stored_of(deployment: Deployment, operator: Operator) -> list[Stored]:
    """Words of an operator in digital memories; the weights of a matrix are in the cells."""
    if not isinstance(operator, Matrix):
        return operator.stored(deployment.formats, deployment.steps)
    matrix = matrix_of(deployment, operator)
    constants = matrix.scaled + _input_constants(deployment, operator)
    out = [
        Stored("requantization", constants, CONSTANT_BITS),
        Stored("activations", operator.output.width, _output_bits(deployment, operator)),
    ]
    if operator.bias is not None:
        out.append(Stored("parameters", operator.output.width, matrix.sum_bits(deployment.chip)))
    return out


def stores(deployment: Deployment) -> dict[str, int]:
    """Bits of digital memory, by what they hold.

    parameters      poles, B, C (two words per complex state), D, biases as long as what they are added to
    requantization  a multiplier and a shift per tensor, channel, head or state, as the formats are, and product
                    kind; per tile column, all slices together
    state           2 x heads x states words, and the sums of a mean
    activations     one word per output of every operator
    """
    held = dict.fromkeys(("parameters", "requantization", "state", "activations"), 0)
    for operator in deployment.graph:
        for words in _stored_of(deployment, operator):
            held[words.content] += words.count * words.bits
    return held


def bits_of(deployment: Deployment, operator: Operator) -> int:
    """Bits of digital memory of one operator."""
    return sum(words.count * words.bits for words in _stored_of(deployment, operator))


def rounds_of(deployment: Deployment) -> dict[Operator, int]:
    """How often the tiles of an operator are read in one product: parts that share a tile run one by one."""
    places = dict(zip(map(id, deployment.placed), pack(deployment.placed, deployment.chip), strict=True))
    out = {}
    for operator in deployment.graph:
        shared = Counter(place.tile for matrix in on_tiles(deployment, operator) for place in places[id(matrix)])
        out[operator] = max(shared.values(), default=0)
    return out
