"""The recurrences of the digital unit: S4D's with its own inputs and outputs, the bare state of a MIMO layer, and
a state behind a gate."""

from __future__ import annotations

from dataclasses import dataclass

from imc_ssm.fixedpoint import Multipliers, Rounding, RoundingPlacement, ScanFormats, ScanPlan, plan_scan
from imc_ssm.fixedpoint.requantization import CONSTANT_BITS, MULTIPLIER_BITS
from imc_ssm.graph.actions import Action, Actions, Stored, grown
from imc_ssm.graph.operators import Operator
from imc_ssm.graph.signals import Formats, Parameter

__all__ = ["GatedUpdate", "Recurrence", "StateUpdate"]


@dataclass(frozen=True)
class Recurrence(Operator):
    """x[t] = a x[t-1] + b u[t], y[t] = 2 Re(sum_n c x[t]) on every head: the digital unit.

    Per step and complex state 4 products a x, 2 products b u, 4 requantizing products (m_a and m_b, real and
    imaginary part) and 2 products c x (the real part alone is needed). In the joint placement the sum of a x and b
    u is taken before the shift, on the accumulator; in the separate one after two roundings, on words of the
    state, and it follows no product. With a format per head the multipliers are one set per head; with formats per
    state m_a and m_b are read for every state. The sum of c x needs no alignment: C counts in units of the
    registers.
    """

    heads: int = 0
    states: int = 0
    """Complex states per head; each is a conjugate pair kept once."""
    rounding_placement: RoundingPlacement = "joint"
    rounding: Rounding = "half_even"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        words = 2 * self.heads * self.states
        return (
            Parameter(f"{self.module}.poles", words, pole=True),
            *(Parameter(f"{self.module}.{part}", words) for part in ("b", "c")),
            Parameter(f"{self.module}.state", words, kind="state"),
        )

    @property
    def codes(self) -> tuple[str, ...]:
        return (*(p.name for p in self.parameters), self.inputs[0].name, self.output.name)

    def formats(self, formats: Formats) -> ScanFormats:
        """What the unit computes with."""
        a, b, c, x = (formats[p.name] for p in self.parameters)
        u, y = formats[self.inputs[0].name], formats[self.output.name]
        return ScanFormats(a, u, x, b, c, y, self.rounding_placement, self.rounding)

    def plan(self, formats: Formats) -> ScanPlan:
        """The integers of the unit (docs/fixed_point.md)."""
        return plan_scan(self.formats(formats), self.heads, self.states)

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, heads, n = Actions(self.rate), self.heads, self.heads * self.states
        poles, b, c, state = (formats.bits(p.name) for p in self.parameters)
        inputs, outputs = self._input(formats), self.output_bits(formats, steps)
        update, drive, total = poles + state + 1, b + inputs, grown(c + state, 2 * self.states)
        own = Multipliers.of(self.plan(formats))
        return [
            at.other("movement", "bus", heads, inputs, "inputs to the digital unit"),
            self._read(at, formats),
            at.read("coefficients", 2 * n, poles, "poles"),
            at.read("coefficients", 2 * n, b, "B"),
            at.read("coefficients", 2 * n, c, "C"),
            at.read("coefficients", self._sets(formats), CONSTANT_BITS, "m_a, m_b, m_y"),
            at.read("state", 2 * n, state, "state"),
            at.multiply(4 * n, poles, state, "a x"),
            *at.add(2 * n, update, "a x: real and imaginary part"),
            at.multiply(2 * n, b, inputs, "b u"),
            at.multiply(2 * n, update, own.a, "requantize a x"),
            at.multiply(2 * n, drive, own.b, "requantize b u"),
            *_combined(at, self.rounding_placement, 2 * n, own.sum, state, "b u"),
            at.write("state", 2 * n, state, "state"),
            at.multiply(2 * n, c, state, "Re(c x)"),
            *at.add(2 * n, total, "sum over states"),
            at.multiply(heads, total, MULTIPLIER_BITS, "requantize y"),
            self._write(at, formats, steps),
            at.other("movement", "bus", heads, outputs, "outputs of the digital unit"),
        ]

    def _sets(self, formats: Formats) -> int:
        """Requantization constants: m_a and m_b of each head or state, m_y of each head."""
        own = self.states if formats[f"{self.module}.state"].states is not None else 1
        return self.heads * (2 * own + 1)

    def _constants(self, formats: Formats) -> list[Stored]:
        *parameters, state = self.parameters
        return [
            *(Stored("parameters", p.words, formats.bits(p.name)) for p in parameters),
            Stored("requantization", self._sets(formats), CONSTANT_BITS),
            Stored("state", state.words, formats.bits(state.name)),
        ]


@dataclass(frozen=True)
class StateUpdate(Operator):
    """x[t] = a x[t-1] + b v[t] on complex numbers: the states of a MIMO layer between two matrices.

    The drive v comes from a matrix and the states go to the next one: the output is the state register. Per step
    and state 4 products a x, 4 products b v, and 4 requantizing products.
    """

    rounding_placement: RoundingPlacement = "joint"
    rounding: Rounding = "half_even"

    @property
    def states(self) -> int:
        """Complex states."""
        return self.output.width // 2

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        width = self.output.width
        return Parameter(f"{self.module}.poles", width, pole=True), Parameter(f"{self.module}.b", width)

    @property
    def codes(self) -> tuple[str, ...]:
        return (*(p.name for p in self.parameters), self.inputs[0].name, self.output.name)

    def formats(self, formats: Formats) -> ScanFormats:
        """What the unit computes with: every state is a head of one state."""
        a, b = (formats[p.name] for p in self.parameters)
        v, x = formats[self.inputs[0].name], formats[self.output.name]
        return ScanFormats(a, v, x, b, None, None, self.rounding_placement, self.rounding)

    def plan(self, formats: Formats) -> ScanPlan:
        """The integers of the unit (docs/fixed_point.md)."""
        return plan_scan(self.formats(formats), self.states, 1, complex_drive=True)

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, n = Actions(self.rate), self.states
        poles, b = (formats.bits(p.name) for p in self.parameters)
        inputs, state = self._input(formats), self.output_bits(formats, steps)
        update, drive = poles + state + 1, b + inputs + 1
        own = Multipliers.of(self.plan(formats))
        return [
            at.other("movement", "bus", 2 * n, inputs, "inputs to the digital unit"),
            self._read(at, formats),
            at.read("coefficients", 2 * n, poles, "poles"),
            at.read("coefficients", 2 * n, b, "B"),
            at.read("coefficients", 2 * n, CONSTANT_BITS, "m_a, m_b"),
            at.read("state", 2 * n, state, "state"),
            at.multiply(4 * n, poles, state, "a x"),
            *at.add(2 * n, update, "a x: real and imaginary part"),
            at.multiply(4 * n, b, inputs, "b v"),
            *at.add(2 * n, drive, "b v: real and imaginary part"),
            at.multiply(2 * n, update, own.a, "requantize a x"),
            at.multiply(2 * n, drive, own.b, "requantize b v"),
            *_combined(at, self.rounding_placement, 2 * n, own.sum, state, "b v"),
            at.write("state", 2 * n, state, "state"),
            at.other("movement", "bus", 2 * n, state, "outputs of the digital unit"),
        ]

    def stored(self, formats: Formats, steps: int) -> list[Stored]:
        return [
            *(Stored("parameters", p.words, formats.bits(p.name)) for p in self.parameters),
            Stored("requantization", 2 * self.states, CONSTANT_BITS),
            Stored("state", self.output.width, self.output_bits(formats, steps)),
        ]


@dataclass(frozen=True)
class GatedUpdate(Operator):
    """h[t] = h[t-1] + z[t] (v[t] - h[t-1]) on real channels; inputs (gate z, candidate v), output the state.

    Per step and channel the candidate is requantized to the state's grid; then a difference, its product with the
    gate, which is requantized by the gate's scale, and the sum with the state.
    """

    @property
    def codes(self) -> tuple[str, ...]:
        return (*(signal.name for signal in self.inputs), self.output.name)

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, width, wide = Actions(self.rate), self.output.width, MULTIPLIER_BITS
        gate, candidate = self._input(formats), self._input(formats, 1)
        state = self.output_bits(formats, steps)
        return [
            at.other("movement", "bus", 2 * width, max(gate, candidate), "inputs to the digital unit"),
            self._read(at, formats, "gate"),
            self._read(at, formats, "candidate", 1),
            at.read("coefficients", 2 * width, CONSTANT_BITS, "requantization of gate and candidate"),
            at.read("state", width, state, "state"),
            at.multiply(width, candidate, wide, "requantize v"),
            *at.add(width, state + 1, "v - h", own_slot=True),
            at.multiply(width, gate, state + 1, "z (v - h)"),
            at.multiply(width, gate + state + 1, wide, "requantize z (v - h)"),
            *at.add(width, state + 1, "h + z (v - h)"),
            at.write("state", width, state, "state"),
            at.other("movement", "bus", width, state, "outputs of the digital unit"),
        ]

    def stored(self, formats: Formats, steps: int) -> list[Stored]:
        width = self.output.width
        return [
            Stored("requantization", 2 * width, CONSTANT_BITS),
            Stored("state", width, self.output_bits(formats, steps)),
        ]


def _combined(
    at: Actions, placement: RoundingPlacement, words: int, total: int, state: int, drive: str
) -> tuple[Action, ...]:
    """The sum of a x and the drive: on the accumulator (`total` bits), or of two rounded states in their slot."""
    if placement == "joint":
        return at.add(words, total, f"a x + {drive}")
    return at.add(words, state + 1, f"round(a x) + round({drive})", own_slot=True)
