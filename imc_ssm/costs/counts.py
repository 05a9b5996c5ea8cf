"""How often each component acts, counted in one place so that a reader can audit it.

Word lengths follow the fixed-point unit (`imc_ssm.fixedpoint.requantize.ScanPlan`): a product of p x q bits
has p + q bits; where products of different scales meet, each is multiplied by an integer before one shift: in
the recurrence by the multipliers of its own plan (`Deployment.multipliers`), elsewhere by one of 24 bits, the
widest of the unit.

Per step and complex state the recurrence takes 4 products a x, 2 products b u, 4 requantizing products (m_a
and m_b, real and imaginary part) and 2 products c x (the real part alone is needed). In the joint order the sum
of a x and b u is taken before the shift, on the accumulator; in the separate order after two roundings, on words
of the state, and it follows no product. With a format per head the multipliers are one set per head; with formats
per state m_a and m_b are read for every state. The sum of c x needs no alignment: C counts in units of the
registers.

Conventions
  * every input of a matrix is requantized from its activation's grid to the DAC's, by a 24-bit integer;
  * a differential pair is subtracted as currents, so a signed column takes one conversion per tile;
  * every tile column's code is multiplied once by a 24-bit integer (weight scale, converter range and drift
    compensation in one number) before the row tiles' partial sums and the bias are added;
  * each product and each sum that follows no product takes one slot of one lane; the sum behind a product
    shares its slot (multiply-accumulate) and writes one accumulator register;
  * every operator reads its inputs from, and writes its outputs to, the activation buffer; multipliers of
    elementwise operators that hold for the whole tensor sit in registers at the lane and are not read again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from imc_ssm.errors import DesignError
from imc_ssm.fixedpoint.requantize import CONSTANT_BITS, MULTIPLIER_BITS
from imc_ssm.operators import Elementwise, Mvm, Rate, Recurrence

if TYPE_CHECKING:
    from rich.table import Table

    from imc_ssm.chip import Deployment, MappedMatrix

__all__ = [
    "Operation",
    "Store",
    "matrix_of",
    "operation_counts",
    "operation_table",
    "stores",
]

Action = Literal[
    "cell", "dac", "adc", "sample hold", "multiply", "add", "register", "lookup", "read", "write", "bus"
]
Store = Literal["coefficients", "state", "activations"]


@dataclass(frozen=True)
class Operation:
    """`count` equal actions that one operator takes each time it runs (per time step at rate "step")."""

    component: str
    """Component of the breakdown that pays: "cells", "dac", "adc", "digital update", ..."""
    operator: str
    """Name of the operator."""
    action: Action
    """What is done."""
    count: int
    """How often, each time the operator runs."""
    bits: tuple[int, ...]
    """Widths of the words: two factors of a product, one width otherwise."""
    rate: Rate
    """Whether the operator runs every time step or once per sequence."""
    purpose: str
    """What for, in words."""
    slots: int = 0
    """Lane slots taken (0: shares the slot of a product, or needs no lane)."""
    store: Store | None = None
    """Memory that is read or written."""


@dataclass(frozen=True)
class _Operator:
    """Makes the records of one operator."""

    name: str
    rate: Rate
    component: str = "digital update"

    def multiply(self, count: int, first: int, second: int, purpose: str) -> Operation:
        bits = (first, second)
        return Operation(self.component, self.name, "multiply", count, bits, self.rate, purpose, slots=count)

    def add(self, count: int, bits: int, purpose: str, *, own_slot: bool = False) -> list[Operation]:
        """Sums and the accumulator registers that take them up."""
        slots = count if own_slot else 0
        return [
            Operation(self.component, self.name, "add", count, (bits,), self.rate, purpose, slots=slots),
            Operation(self.component, self.name, "register", count, (bits,), self.rate, "accumulator"),
        ]

    def other(self, component: str, action: Action, count: int, bits: int, purpose: str) -> Operation:
        return Operation(component, self.name, action, count, (bits,), self.rate, purpose)

    def store(self, action: Action, store: Store, count: int, bits: int, purpose: str) -> Operation:
        return Operation("memories", self.name, action, count, (bits,), self.rate, purpose, store=store)


def matrix_of(deployment: Deployment, operator: Mvm) -> MappedMatrix:
    """The mapped matrix of an `Mvm`; `DesignError` if it was not compiled."""
    for matrix in deployment.matrices:
        if matrix.name == operator.name:
            return matrix
    known = ", ".join(matrix.name for matrix in deployment.matrices) or "(none)"
    raise DesignError(
        f"operator {operator.name!r} has no mapped matrix (mapped: {known}); compile the model again"
    )


def _grown(bits: int, terms: int) -> int:
    """Width of a sum of `terms` words of `bits`: bits + ceil(log2 terms)."""
    return bits + math.ceil(math.log2(max(terms, 1)))


def operation_counts(deployment: Deployment) -> list[Operation]:
    """All operations of a deployment, operator by operator, in the order in which they run."""
    out: list[Operation] = []
    for operator, inputs, layer_input in _walk(deployment):
        if isinstance(operator, Mvm):
            out += _mvm(deployment, operator, inputs)
        elif isinstance(operator, Recurrence):
            out += _recurrence(deployment, operator, inputs)
        else:
            out += _elementwise(deployment, operator, inputs, layer_input)
    return out


def _walk(deployment: Deployment) -> list[tuple[Mvm | Recurrence | Elementwise, int, int]]:
    """Each operator with the width of its input and of its layer's input (that of the last recurrence)."""
    rows = []
    current = layer_input = deployment.bits["input"]
    for operator in deployment.operators:
        if isinstance(operator, Recurrence):
            layer_input = current
        rows.append((operator, current, layer_input))
        current = output_bits(deployment, operator, current)
    return rows


def output_bits(deployment: Deployment, operator: Mvm | Recurrence | Elementwise, inputs: int) -> int:
    """Width of an operator's output words, bits.

    A matrix that feeds no named activation (the decoder) leaves sums of converter codes times their
    multiplier (`MappedMatrix.sum_bits`). A norm keeps the width of its input.
    """
    bits = deployment.bits
    if isinstance(operator, Mvm):
        for name in ("encoder", "mixing"):
            if name in operator.name:
                return bits[name]
        return matrix_of(deployment, operator).sum_bits(deployment.chip)
    if isinstance(operator, Recurrence):
        return bits["recurrent"]
    key = {"scale": "after_d", "gelu": "gelu", "glu": "glu", "add": "residual", "mean": "pool"}
    return bits[key[operator.kind]] if operator.kind in key else inputs


def _mvm(deployment: Deployment, operator: Mvm, inputs: int) -> list[Operation]:
    """Drive, read, convert, scale and add up a matrix on its tiles."""
    matrix = matrix_of(deployment, operator)
    at, biases = _Operator(operator.name, operator.rate), deployment.bits["biases"]
    result = output_bits(deployment, operator, inputs)
    work = matrix.actions(deployment.chip, inputs, biases, _input_constants(deployment, operator))
    return [
        at.store("read", "activations", operator.inputs, inputs, "inputs"),
        *(Operation(operator=operator.name, rate=operator.rate, **vars(action)) for action in work),
        at.store("write", "activations", operator.outputs, result, "outputs"),
    ]


def _input_constants(deployment: Deployment, operator: Mvm) -> int:
    """Requantization constants from an activation's grid to the DAC's: one a channel, or one for all."""
    return 1 if deployment.scheme.granularity == "tensor" else operator.inputs


def _recurrence(deployment: Deployment, operator: Recurrence, inputs: int) -> list[Operation]:
    """x = round((m_a a x + m_b b u) / 2^s) or each rounded apart, y = round(m_y sum Re(c x) / 2^s'): see
    `fixedpoint.ScanPlan`."""
    bits, at = deployment.bits, _Operator(operator.name, operator.rate)
    heads, n = operator.heads, operator.heads * operator.states
    poles, b, c, state = bits["poles"], bits["b"], bits["c"], bits["state"]
    update, drive = poles + state + 1, b + inputs
    total = _grown(c + state, 2 * operator.states)
    own = deployment.multipliers[operator.name]
    if deployment.scheme.rounding_placement == "joint":
        combined = at.add(2 * n, own.sum, "a x + b u")
    else:
        combined = at.add(2 * n, state + 1, "round(a x) + round(b u)", own_slot=True)
    return [
        at.other("movement", "bus", heads, inputs, "inputs to the digital unit"),
        at.store("read", "activations", heads, inputs, "inputs"),
        at.store("read", "coefficients", 2 * n, poles, "poles"),
        at.store("read", "coefficients", 2 * n, b, "B"),
        at.store("read", "coefficients", 2 * n, c, "C"),
        at.store("read", "coefficients", _constants(deployment, operator), CONSTANT_BITS, "m_a, m_b, m_y"),
        at.store("read", "state", 2 * n, state, "state"),
        at.multiply(4 * n, poles, state, "a x"),
        *at.add(2 * n, update, "a x: real and imaginary part"),
        at.multiply(2 * n, b, inputs, "b u"),
        at.multiply(2 * n, update, own.a, "requantize a x"),
        at.multiply(2 * n, drive, own.b, "requantize b u"),
        *combined,
        at.store("write", "state", 2 * n, state, "state"),
        at.multiply(2 * n, c, state, "Re(c x)"),
        *at.add(2 * n, total, "sum over states"),
        at.multiply(heads, total, MULTIPLIER_BITS, "requantize y"),
        at.store("write", "activations", heads, bits["recurrent"], "outputs"),
        at.other("movement", "bus", heads, bits["recurrent"], "outputs of the digital unit"),
    ]


def _constants(deployment: Deployment, operator: Recurrence) -> int:
    """Requantization constants of a recurrence: m_a and m_b of each head or state, m_y of each head."""
    sets = operator.states if deployment.scheme.granularity == "state" else 1
    return operator.heads * (2 * sets + 1)


def _elementwise(deployment: Deployment, operator: Elementwise, inputs: int, layer_input: int) -> list[Operation]:
    """D u, GELU, GLU, residual sum, norm and running mean, on `width` values."""
    width, kind, bits = operator.width, operator.kind, deployment.bits
    lane = "nonlinearity" if kind in ("gelu", "glu") else "digital update"
    at = _Operator(operator.name, operator.rate, lane)
    once = _Operator(operator.name, "sequence")
    wide = MULTIPLIER_BITS
    result = output_bits(deployment, operator, inputs)
    read = at.store("read", "activations", width, inputs, "inputs")
    write = at.store("write", "activations", width, result, "outputs")
    other = at.store("read", "activations", width, layer_input, "input of the layer")
    if kind == "scale":
        product = bits["d"] + layer_input
        return [
            read,
            other,
            at.store("read", "coefficients", width, bits["d"], "D"),
            at.multiply(width, bits["d"], layer_input, "D u"),
            at.multiply(width, product, wide, "requantize D u"),
            at.multiply(width, inputs, wide, "requantize y"),
            *at.add(width, max(product, inputs) + wide + 1, "y + D u"),
            write,
        ]
    if kind == "gelu" and deployment.scheme.gelu == "piecewise":
        return [
            read,
            *at.add(width, inputs + 1, "x + 2, clamped", own_slot=True),
            at.multiply(width, inputs, inputs + 1, "x (x + 2)"),
            at.multiply(width, 2 * inputs + 1, wide, "requantize"),
            write,
        ]
    if kind == "gelu":
        return [read, at.other("nonlinearity", "lookup", width, inputs, "GELU"), write]
    if kind == "glu":
        return [
            at.store("read", "activations", 2 * width, inputs, "value and gate"),
            at.other("nonlinearity", "lookup", width, inputs, "sigmoid of the gate"),
            at.multiply(width, inputs, inputs, "value x sigmoid"),
            at.multiply(width, 2 * inputs, wide, "requantize"),
            write,
        ]
    if kind == "add":
        return [
            read,
            other,
            at.multiply(width, inputs, wide, "requantize the branch"),
            at.multiply(width, layer_input, wide, "requantize the input of the layer"),
            *at.add(width, max(inputs, layer_input) + wide + 1, "residual sum"),
            write,
        ]
    if kind == "mean":
        total = _grown(inputs, deployment.steps)
        return [
            read,
            *at.add(width, total, "running sum", own_slot=True),
            once.multiply(width, total, wide, "1 / steps"),
            once.store("write", "activations", width, result, "outputs"),
        ]
    # Statistics of the vector (mean, variance), then scale and shift: what a layer norm takes at most.
    return [
        read,
        at.multiply(width, inputs, inputs, "squares"),
        *at.add(2 * width, _grown(2 * inputs, width), "sums of values and squares", own_slot=True),
        at.store("read", "coefficients", width, CONSTANT_BITS, "scale"),
        at.multiply(width, inputs, wide, "scale"),
        *at.add(width, inputs + wide + 1, "shift"),
        write,
    ]


def stores(deployment: Deployment) -> dict[str, int]:
    """Bits of digital memory, by what they hold.

    parameters      poles, B, C (two words per complex state), D, biases
    requantization  a multiplier and a shift per head (or state) and product kind, input of a matrix, tile column,
                    elementwise operand
    state           2 x heads x states words
    activations     one word per output of every operator
    """
    held = {"parameters": 0, "requantization": 0, "state": 0, "activations": 0}
    bits = deployment.bits
    for operator, inputs, _ in _walk(deployment):
        word = output_bits(deployment, operator, inputs)
        if isinstance(operator, Mvm):
            matrix = matrix_of(deployment, operator)
            own = matrix.columns + _input_constants(deployment, operator)
            held["requantization"] += own * CONSTANT_BITS
            held["parameters"] += 0 if matrix.bias is None else operator.outputs * bits["biases"]
            held["activations"] += operator.outputs * word
        elif isinstance(operator, Recurrence):
            n = operator.heads * operator.states
            held["parameters"] += 2 * n * (bits["poles"] + bits["b"] + bits["c"])
            held["requantization"] += _constants(deployment, operator) * CONSTANT_BITS
            held["state"] += 2 * n * bits["state"]
            held["activations"] += operator.heads * word
        else:
            held["parameters"] += operator.width * bits["d"] if operator.kind == "scale" else 0
            constants = {"scale": 2, "add": 2, "glu": 1, "mean": 1, "norm": operator.width}
            constants["gelu"] = int(deployment.scheme.gelu == "piecewise")
            held["requantization"] += constants[operator.kind] * CONSTANT_BITS
            held["activations"] += operator.width * word
    return held


def operation_table(deployment: Deployment) -> Table:
    """The operation counts as a table for the terminal."""
    from rich.table import Table

    out = Table(title=f"Operations ({deployment.steps} steps an inference)")
    for name in ("operator", "component", "action", "count", "bits", "rate", "purpose"):
        out.add_column(name, justify="right" if name == "count" else "left")
    for op in operation_counts(deployment):
        widths = " x ".join(str(width) for width in op.bits)
        where = f" ({op.store})" if op.store else ""
        action = op.action + where
        out.add_row(op.operator, op.component, action, f"{op.count:,}", widths, f"per {op.rate}", op.purpose)
    return out
