"""All actions of a deployment: a fold over its graph, where every operator says what it takes.

What is on tiles says it itself: a differential pair is subtracted as currents, so a signed column takes one
conversion per tile; every tile column's code is multiplied once by a 24-bit integer (weight scale, converter range
and drift compensation in one number) before the row tiles' partial sums and the bias are added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imc_ssm.errors import DesignError
from imc_ssm.fixedpoint.requantize import MULTIPLIER_BITS
from imc_ssm.graph import Action, Matrix, Operator, Stored, grown
from imc_ssm.graph.actions import CONSTANT_BITS, Actions

if TYPE_CHECKING:
    from rich.table import Table

    from imc_ssm.analog.mapping import MappedMatrix
    from imc_ssm.deployment import Deployment

__all__ = ["Taken", "actions_of", "matrix_of", "operation_table", "stores"]


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


def _output_bits(deployment: Deployment, operator: Matrix) -> int:
    """Width of a matrix's output words.

    One without a format (a decoder's logits) leaves sums of converter codes times their multiplier: adc_bits + 24
    bits, grown by its row tiles and the bias.
    """
    if operator.output.name in deployment.formats:
        return deployment.formats.bits(operator.output.name)
    tiles = matrix_of(deployment, operator).tiles
    return grown(deployment.design.adc_bits + MULTIPLIER_BITS, len({tile.row for tile in tiles}) + 1)


def _on_tiles(deployment: Deployment, operator: Matrix) -> list[Action]:
    """Drive, read, convert, scale and add up a matrix on its tiles."""
    matrix, design, formats = matrix_of(deployment, operator), deployment.design, deployment.formats
    at, inputs = Actions(operator.rate), formats.bits(operator.inputs[0].name)
    sizes = [(t.row[1] - t.row[0], t.column[1] - t.column[0]) for t in matrix.tiles]
    rows, columns = sum(r for r, _ in sizes), sum(c for _, c in sizes)
    outputs, partial = operator.output.width, design.adc_bits + MULTIPLIER_BITS
    total = grown(partial, len({t.row for t in matrix.tiles}) + 1)
    out = [
        at.read("activations", operator.inputs[0].width, inputs, "inputs"),
        at.other("movement", "bus", rows, inputs, "inputs to the tiles"),
        at.other("dac", "dac", rows, design.dac_bits, "one conversion per used row and tile"),
        at.other("cells", "cell", 2 * sum(r * c for r, c in sizes), 1, "used devices, two per weight"),
        at.other("adc", "sample hold", columns, design.adc_bits, "one per used column and tile"),
        at.other("adc", "adc", columns, design.adc_bits, "one conversion per used column and tile"),
        at.other("movement", "bus", columns, design.adc_bits, "codes to the digital unit"),
        at.read("coefficients", columns, CONSTANT_BITS, "scale of each tile column"),
        at.multiply(columns, design.adc_bits, MULTIPLIER_BITS, "scale of each tile column"),
    ]
    if columns > outputs:
        out += at.add(columns - outputs, total, "partial sums of row tiles")
    if operator.bias is not None:
        out.append(at.read("coefficients", outputs, formats.bits(operator.bias), "bias"))
        out += at.add(outputs, total, "bias", own_slot=True)
    out.append(at.write("activations", outputs, _output_bits(deployment, operator), "outputs"))
    return out


def _stored_of(deployment: Deployment, operator: Operator) -> list[Stored]:
    if not isinstance(operator, Matrix):
        return operator.stored(deployment.formats, deployment.steps)
    columns = sum(tile.column[1] - tile.column[0] for tile in matrix_of(deployment, operator).tiles)
    out = [
        Stored("requantization", columns, CONSTANT_BITS),
        Stored("activations", operator.output.width, _output_bits(deployment, operator)),
    ]
    if operator.bias is not None:
        out.append(Stored("parameters", operator.output.width, deployment.formats.bits(operator.bias)))
    return out


def stores(deployment: Deployment) -> dict[str, int]:
    """Bits of digital memory, by what they hold.

    parameters      poles, B, C (two words per complex state), D, biases
    requantization  a multiplier and a shift per head (or state) and product kind, tile column, elementwise operand
    state           2 x heads x states words
    activations     one word per output of every operator
    """
    held = dict.fromkeys(("parameters", "requantization", "state", "activations"), 0)
    for operator in deployment.graph:
        for words in _stored_of(deployment, operator):
            held[words.content] += words.count * words.bits
    return held


def operation_table(deployment: Deployment) -> Table:
    """The actions as a table for the terminal."""
    from rich.table import Table

    out = Table(title=f"Operations ({deployment.steps} steps an inference)")
    for name in ("operator", "component", "action", "count", "bits", "rate", "purpose"):
        out.add_column(name, justify="right" if name == "count" else "left")
    for taken in actions_of(deployment):
        action = taken.action
        widths = " x ".join(str(width) for width in action.bits)
        where = f" ({action.store})" if action.store else ""
        out.add_row(
            taken.operator.name,
            action.component,
            action.verb + where,
            f"{action.count:,}",
            widths,
            f"per {action.rate}",
            action.purpose,
        )
    return out
