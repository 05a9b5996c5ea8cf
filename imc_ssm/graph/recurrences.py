"""The recurrences of the digital unit: S4D's with its own inputs and outputs, the bare state of a MIMO layer, and
a state behind a gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from imc_ssm.fixedpoint import (
    Multipliers,
    Rounding,
    RoundingPlacement,
    ScanFormats,
    ScanPlan,
    Shifts,
    plan_gated,
    plan_scan,
)
from imc_ssm.fixedpoint import operations as integer
from imc_ssm.fixedpoint.dither import WORD
from imc_ssm.fixedpoint.formats import Nearest
from imc_ssm.fixedpoint.requantization import CONSTANT_BITS, MULTIPLIER_BITS, SHIFT_BITS
from imc_ssm.graph.actions import Action, Actions, Multiplication, Stored, grown
from imc_ssm.graph.operators import Operator, Words
from imc_ssm.graph.requantizing import Kind, Requantized
from imc_ssm.graph.signals import Formats, Parameter

__all__ = ["GatedUpdate", "Recurrence", "StateUpdate"]

GRID_BITS = 5 * 32
"""Constants of a grid of polar poles, five float32 (`fixedpoint.PoleGrid`): read at loading alone."""


@dataclass(frozen=True, kw_only=True)
class _Linear(Operator):
    """What linear recurrences have in common: how they round, and how their poles are stored."""

    rounding_placement: RoundingPlacement = "joint"
    rounding: Rounding = "half_even"
    residual_bits: int = 8
    """What error feedback keeps of every word of the state."""
    pole_words: tuple[int, int] | None = None
    """Bits of decay and phase as stored, where poles are polar: the format of the poles is then that of the
    Cartesian multipliers, which come from them once, at loading, and are what is kept and read."""

    def load(self, formats: Formats) -> list[Action]:
        """Polar poles become multipliers: for each the table of modulus, cosine and sine, and two products."""
        if self.pole_words is None:
            return []
        at, count, bits = Actions("sequence"), self._poles // 2, self._pole_bits(formats)
        return [
            *(
                at.lookup(count, own, bits, what)
                for own, what in zip(
                    (self.pole_words[0], self.pole_words[1], self.pole_words[1]),
                    ("modulus of the pole", "cosine of its phase", "sine of its phase"),
                    strict=True,
                )
            ),
            at.multiply(2 * count, bits, bits, "poles: real and imaginary part"),
            at.write("coefficients", 2 * count, bits, "poles"),
        ]

    def saved(self, formats: Formats) -> int:
        if self.pole_words is None:
            return 0
        words = self._poles // 2 * sum(self.pole_words) + self._grids * GRID_BITS
        return self._poles * self._pole_bits(formats) - words

    @property
    def _grids(self) -> int:
        """Sets of the constants that say what codes of polar poles mean."""
        return 1

    @property
    def _poles(self) -> int:
        return sum(parameter.words for parameter in self.parameters if parameter.pole)

    def _pole_bits(self, formats: Formats) -> int:
        return max(formats.bits(parameter.name) for parameter in self.parameters if parameter.pole)

    def _counter(self, at: Actions) -> tuple[Action, ...]:
        """What counts updates for the words that are added before a truncation."""
        bits = {"dithered": WORD, "stochastic": 2 * WORD}.get(self.rounding)
        return () if bits is None else at.add(1, bits, "counter of the updates", parallel=True)

    def _before(self, at: Actions, words: int) -> list[Action]:
        """What each word of the state takes before it is truncated, beside the adder that all roundings have.

        dithered    the next word (16 bits, by the counter's stride from register to register), and its sum with
                    the fraction of the accumulator, of each of its roundings (the second takes the complement)
        stochastic  the number of the word, two products modulo 2^32, of which the lower half exists (32 x 17 of
                    32 x 32), three exclusive-ors as one sum, and the sum with the fraction
        feedback    the residual read, added to the fraction, and written
        """
        fractions = words * (2 if self.rounding_placement == "separate" else 1)
        if self.rounding == "dithered":
            made = [*at.add(words, WORD, "word of the dither", parallel=True)]
        elif self.rounding == "stochastic":
            made = [
                *at.add(words, 2 * WORD, "number of the word", parallel=True),
                at.multiply(2 * words, 2 * WORD, WORD + 1, "mix the number"),
                at.add(words, 2 * WORD, "mix the number: exclusive-ors", parallel=True)[0],
            ]
        elif self.rounding == "feedback":
            return [
                at.read("state", words, self.residual_bits, "residual"),
                at.add(words, self.residual_bits, "fraction + residual", parallel=True)[0],
                at.write("state", words, self.residual_bits, "residual"),
            ]
        else:
            return []
        return [*made, at.add(fractions, WORD, "fraction + word", parallel=True)[0]]

    def _residuals(self, words: int) -> list[Stored]:
        return [Stored("state", words, self.residual_bits)] if self.rounding == "feedback" else []

    def _updated(
        self, at: Actions, words: int, state: int, update: int, drive: int, plan: ScanPlan, name: str
    ) -> list[Action]:
        """From the products a x (`update` bits) and b u, called `name` (`drive` bits), to words of the state."""
        own, shifts = Multipliers.of(plan), Shifts.of(plan)
        parts = [("a x", update, own.widest, 0), (name, drive, own.widest, 0)]
        if shifts is not None:
            parts = [("a x", update, 0, shifts.a), (name, drive, 0, shifts.b)]
        out = []
        for part, bits, multiplier, shift in parts:
            if shifts is None:
                out.append(at.multiply(words, bits, multiplier, f"requantize {part}"))
            elif shift:
                out.append(at.shift(words, min(bits + shift, own.sum), f"requantize {part}"))
        if self.rounding_placement == "joint":
            out += at.add(words, own.sum, f"a x + {name}")
        if shifts is not None and shifts.state:
            out.append(at.shift(words, own.sum, "requantize the state"))
        out += self._before(at, words)
        if self.rounding_placement == "separate":
            out += at.add(words, state + 1, f"round(a x) + round({name})", own_slot=True)
        return out


@dataclass(frozen=True)
class Recurrence(_Linear):
    """x[t] = a x[t-1] + b u[t], y[t] = 2 Re(sum_n c x[t]) on every head: the digital unit.

    Per update and complex state 4 products a x, 2 products b u, 4 requantizing products (m_a and m_b, real and
    imaginary part) and 2 products c x (the real part alone is needed). In the joint placement the sum of a x and b
    u is taken before the shift, on the accumulator; in the separate one after two roundings, on words of the
    state, and it follows no product. Where a format is one per head, the multipliers that follow from it are one
    set per head (m_a and m_b from those of a, b, u and x, m_y from those of c, x and y; heads of different periods
    have an m_b each); with formats per state m_a and m_b are read for every state; with formats for the tensor
    nothing is read. One multiplier takes m_a and m_b, and is as long as the longer of them: words that leave m_b
    fewer bits make no shorter multiplier. The sum of c x needs no alignment: C counts in units of the registers.
    Where all scales are powers of two, shifts take the place of the requantizing products.

    Heads of period k > 1 are updated every k-th step. In every step their input is added to a sum of
    log2 k bits more than its centred code, read from and written to the memory of the states; everything else
    happens with the update. Their output is held where it is written, in the activation buffer.
    """

    heads: int = 0
    states: int = 0
    """Complex states per head; each is a conjugate pair kept once."""
    periods: tuple[int, ...] | None = None
    """Steps between two updates of each head, powers of two; None: all are updated in every step."""
    counts: tuple[int, ...] | None = None
    """Complex states of each head where they differ, `states` the most: what a head has not is neither stored nor
    computed. None: all have `states`."""

    @property
    def total(self) -> int:
        """Complex states of all heads."""
        return self.heads * self.states if self.counts is None else sum(self.counts)

    def _of_period(self, period: int) -> int:
        """Complex states of the heads with this period."""
        counts = self.counts or (self.states,) * self.heads
        periods = self.periods or (1,) * self.heads
        return sum(own for own, k in zip(counts, periods, strict=True) if k == period)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        words = 2 * self.total
        return (
            Parameter(f"{self.module}.poles", words, pole=True),
            *(Parameter(f"{self.module}.{part}", words) for part in ("b", "c")),
            Parameter(f"{self.module}.state", words, kind="state"),
        )

    @property
    def codes(self) -> tuple[str, ...]:
        return (*(p.name for p in self.parameters), self.inputs[0].name, self.output.name)

    @property
    def _grids(self) -> int:
        return self.heads

    @property
    def groups(self) -> dict[int, int]:
        """Heads by their period, periods rising."""
        return dict(sorted(Counter(self.periods or (1,) * self.heads).items()))

    @property
    def updates(self) -> float:
        """Share of the states' updates that are left per step: the mean of 1 / period."""
        return sum(self._of_period(k) / k for k in self.groups) / max(self.total, 1)

    def formats(self, formats: Formats) -> ScanFormats:
        """What the unit computes with."""
        a, b, c, x = (formats[p.name] for p in self.parameters)
        u, y = formats[self.inputs[0].name], formats[self.output.name]
        rules = self.rounding_placement, self.rounding, self.residual_bits, self.periods
        return ScanFormats(a, u, x, b, c, y, *rules)

    def plan(self, formats: Formats) -> ScanPlan:
        """The integers of the unit (docs/fixed_point.md)."""
        return plan_scan(self.formats(formats), self.heads, self.states)

    def products(self, bits: Callable[[str], int]) -> list[Multiplication]:
        poles, b, c, state = (bits(p.name) for p in self.parameters)
        out = []
        for period in self.groups:
            n = self._of_period(period)
            inputs = bits(self.inputs[0].name) if period == 1 else grown(bits(self.inputs[0].name), period)
            for count, widths in ((4 * n, (poles, state)), (2 * n, (b, inputs)), (2 * n, (c, state))):
                out.append(Multiplication(count, widths, period))
        return out

    def integer(self, formats: Formats, words: Words) -> integer.ScanOperation:
        return integer.ScanOperation(
            self.plan(formats), *(self._words(words, name) for name in ("poles", "b", "c"))
        )

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, inputs, plan = Actions(self.rate), self._centred(formats), self.plan(formats)
        entering = [
            at.other("movement", "bus", self.heads, self._input(formats), "inputs to the digital unit"),
            self._read(at, formats),
        ]
        for period, heads in self.groups.items():
            if period > 1:
                total = grown(inputs, period)
                entering += [
                    at.read("state", heads, total, "sum of the inputs"),
                    *at.add(heads, total, "sum of the inputs", own_slot=True),
                    at.write("state", heads, total, "sum of the inputs"),
                ]
        updates = (self._update(formats, plan, *group) for group in self.groups.items())
        return [*entering, *(action for update in updates for action in update)]

    def _update(self, formats: Formats, plan: ScanPlan, period: int, heads: int) -> list[Action]:
        """An update of so many heads, and their outputs."""
        at, n = Actions(self.rate, period=period), self._of_period(period)
        stored = [formats.bits(p.name) for p in self.parameters]
        poles, b, c, state = (formats.centred(p.name) for p in self.parameters)
        inputs, outputs = grown(self._centred(formats), period), formats.bits(self.output.name)
        update, drive, total = poles + state + 1, b + inputs, grown(c + state, 2 * self.states)
        updating, leaving = self._sets(formats, heads, n)
        constants = 2 * updating + leaving
        return [
            *self._counter(at),
            at.read("coefficients", 2 * n, stored[0], "poles"),
            at.read("coefficients", 2 * n, stored[1], "B"),
            at.read("coefficients", 2 * n, stored[2], "C"),
            *([at.read("coefficients", constants, _constant(plan), "m_a, m_b, m_y")] if constants else []),
            at.read("state", 2 * n, stored[3], "state"),
            at.multiply(4 * n, poles, state, "a x"),
            *at.add(2 * n, update, "a x: real and imaginary part"),
            at.multiply(2 * n, b, inputs, "b u"),
            *self._updated(at, 2 * n, state, update, drive, plan, "b u"),
            at.write("state", 2 * n, stored[3], "state"),
            at.multiply(2 * n, c, state, "Re(c x)"),
            *at.add(2 * n, total, "sum over states"),
            *_output(at, heads, total, plan),
            at.write("activations", heads, outputs, "outputs"),
            at.other("movement", "bus", heads, outputs, "outputs of the digital unit"),
        ]

    def _sets(self, formats: Formats, heads: int, states: int) -> tuple[int, int]:
        """Sets of (m_a, m_b), and m_y, of so many heads with `states` in all; 0 where one serves all heads."""
        a, b, c, x = (p.name for p in self.parameters)
        u, y = self.inputs[0].name, self.output.name
        if any(formats[path].states is not None for path in (a, b, x)):
            updating = states
        else:
            updating = heads * int(formats.several(a, b, u, x) or len(self.groups) > 1)
        return updating, heads * int(formats.several(c, x, y))

    def _constants(self, formats: Formats) -> list[Stored]:
        *parameters, state = self.parameters
        inputs = self._centred(formats)
        updating, leaving = (max(sets, 1) for sets in self._sets(formats, self.heads, self.total))
        slow = ((k, heads) for k, heads in self.groups.items() if k > 1)
        return [
            *(Stored("parameters", p.words, formats.bits(p.name)) for p in parameters),
            Stored("requantization", 2 * updating + leaving, _constant(self.plan(formats))),
            Stored("state", state.words, formats.bits(state.name)),
            *(Stored("state", heads, grown(inputs, k)) for k, heads in slow),
            *self._residuals(state.words),
        ]


@dataclass(frozen=True)
class StateUpdate(_Linear):
    """x[t] = a x[t-1] + b v[t] on complex numbers: the states of a MIMO layer between two matrices.

    The drive v comes from a matrix and the states go to the next one: the output is the state register. Per step
    and state 4 products a x, 4 products b v, and 4 requantizing products.
    """

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
        return ScanFormats(a, v, x, b, None, None, self.rounding_placement, self.rounding, self.residual_bits)

    def plan(self, formats: Formats) -> ScanPlan:
        """The integers of the unit (docs/fixed_point.md)."""
        return plan_scan(self.formats(formats), self.states, 1, complex_drive=True)

    def products(self, bits: Callable[[str], int]) -> list[Multiplication]:
        poles, b = (bits(p.name) for p in self.parameters)
        n, inputs, state = self.states, bits(self.inputs[0].name), bits(self.output.name)
        return [Multiplication(4 * n, (poles, state)), Multiplication(4 * n, (b, inputs))]

    def integer(self, formats: Formats, words: Words) -> integer.StateOperation:
        return integer.StateOperation(self.plan(formats), *(self._words(words, name) for name in ("poles", "b")))

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, n, sets = Actions(self.rate), self.states, self._sets(formats)
        (a, poles), (of_b, b) = ((formats.bits(p.name), formats.centred(p.name)) for p in self.parameters)
        inputs, words = self._centred(formats), self.output_bits(formats, steps)
        state, plan = formats.centred(self.output.name), self.plan(formats)
        update, drive = poles + state + 1, b + inputs + 1
        return [
            at.other("movement", "bus", 2 * n, self._input(formats), "inputs to the digital unit"),
            self._read(at, formats),
            *self._counter(at),
            at.read("coefficients", 2 * n, a, "poles"),
            at.read("coefficients", 2 * n, of_b, "B"),
            *([at.read("coefficients", 2 * sets, _constant(plan), "m_a, m_b")] if sets > 1 else []),
            at.read("state", 2 * n, words, "state"),
            at.multiply(4 * n, poles, state, "a x"),
            *at.add(2 * n, update, "a x: real and imaginary part"),
            at.multiply(4 * n, b, inputs, "b v"),
            *at.add(2 * n, drive, "b v: real and imaginary part"),
            *self._updated(at, 2 * n, state, update, drive, plan, "b v"),
            at.write("state", 2 * n, words, "state"),
            at.other("movement", "bus", 2 * n, words, "outputs of the digital unit"),
        ]

    def _sets(self, formats: Formats) -> int:
        """Sets of (m_a, m_b): one a state where one of the formats is."""
        paths = (*(p.name for p in self.parameters), self.inputs[0].name, self.output.name)
        return self.states if formats.several(*paths) else 1

    def stored(self, formats: Formats, steps: int) -> list[Stored]:
        return [
            *(Stored("parameters", p.words, formats.bits(p.name)) for p in self.parameters),
            Stored("requantization", 2 * self._sets(formats), _constant(self.plan(formats))),
            Stored("state", self.output.width, self.output_bits(formats, steps)),
            *self._residuals(self.output.width),
        ]


@dataclass(frozen=True)
class GatedUpdate(Operator):
    """h[t] = h[t-1] + z[t] (v[t] - h[t-1]) on real channels; inputs (gate z, candidate v), output the state.

    Per step and channel the candidate is requantized to the state's grid; then a difference, its product with the
    gate, which is requantized by the gate's scale, and the sum with the state.
    """

    rounding: Nearest = "half_even"
    """Of the change."""

    def products(self, bits: Callable[[str], int]) -> list[Multiplication]:
        return [Multiplication(self.output.width, (bits(self.inputs[0].name), bits(self.output.name)))]

    def integer(self, formats: Formats, words: Words) -> integer.GatedOperation:
        gate, candidate = (self._format(formats, i) for i in (0, 1))
        state = self._format(formats)
        return integer.GatedOperation(plan_gated(gate, candidate, state, self.output.width, self.rounding))

    @property
    def codes(self) -> tuple[str, ...]:
        return (*(signal.name for signal in self.inputs), self.output.name)

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, width, (first, second) = Actions(self.rate), self.output.width, self._scaled(formats)
        gate, candidate = self._input(formats), self._input(formats, 1)
        state = self.output_bits(formats, steps)
        return [
            at.other("movement", "bus", width, gate, "gates to the digital unit"),
            at.other("movement", "bus", width, candidate, "candidates to the digital unit"),
            self._read(at, formats, "gate"),
            self._read(at, formats, "candidate", 1),
            *first.read(at, "requantization of the candidate"),
            *second.read(at, "requantization by the gate"),
            at.read("state", width, state, "state"),
            *first.products(at, width),
            *at.add(width, state + 1, "v - h", own_slot=True),
            at.multiply(width, self._centred(formats), state + 1, "z (v - h)"),
            *second.products(at, width),
            *at.add(width, state + 1, "h + z (v - h)"),
            at.write("state", width, state, "state"),
            at.other("movement", "bus", width, state, "outputs of the digital unit"),
        ]

    def _scaled(self, formats: Formats) -> tuple[Requantized, Requantized]:
        """The candidate to the state's grid, and its difference from the state by the gate's scale."""
        (gate, candidate), own = (signal.name for signal in self.inputs), self.output.name
        entering = Kind(formats.centred(candidate), (candidate,), "v")
        change = Kind(formats.centred(gate) + formats.bits(own) + 1, (gate,), "z (v - h)")
        width = self.output.width
        return (
            Requantized.of(formats, own, width, entering, also=(gate,)),
            Requantized.of(formats, None, width, change, also=(candidate, own)),
        )

    def stored(self, formats: Formats, steps: int) -> list[Stored]:
        return [
            *(scaled.stored() for scaled in self._scaled(formats)),
            Stored("state", self.output.width, self.output_bits(formats, steps)),
        ]


def _constant(plan: ScanPlan) -> int:
    """Length of a stored requantization constant: a multiplier and a shift, or a shift alone."""
    return CONSTANT_BITS if Shifts.of(plan) is None else SHIFT_BITS


def _output(at: Actions, heads: int, total: int, plan: ScanPlan) -> list[Action]:
    """From sums over the states to outputs."""
    shifts = Shifts.of(plan)
    if shifts is None:
        return [at.multiply(heads, total, MULTIPLIER_BITS, "requantize y")]
    return [at.shift(heads, total, "requantize y")] if shifts.output else []
