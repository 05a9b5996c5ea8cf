"""What hardware does when an operator runs, and what it has to store: counts of equal actions, widths of words.

Conventions
  * a product of p x q bits has p + q bits; where products of different scales meet, each is multiplied by an
    integer before one shift: in a recurrence by one as long as the longer multiplier of its own plan, elsewhere
    by one of 24 bits, the widest of the unit;
  * each product and each sum that follows no product takes one slot of one lane; the sum behind a product shares
    its slot (multiply-accumulate) and writes one accumulator register;
  * words lie in memories with n bits; what is multiplied and added are centred codes q - z, of n + 1 bits where a
    zero point is not 0 (`Formats.centred`). The adder that takes a zero point off is not counted;
  * every operator reads its inputs from, and writes its outputs to, the activation buffer. Requantization
    constants are one set a channel where one of the formats is, read each time, and else one set for the tensor,
    which sits in registers at the lane and is not read again;
  * a bias is brought to the unit of its accumulator once, when the model is loaded (docs/integer_model.md: B), and
    is kept and read as a word of that length;
  * where all scales are powers of two, a shift takes the place of each multiplier, behind its product in the same
    slot: a left shift by up to l bits in front of the sum (none where l = 0 throughout), and the right shift
    behind it, each by a barrel shifter of ceil(log2 bits) stages for its word. The right shift behind a multiplier
    is not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from imc_ssm.errors import ImcSsmError, unknown
from imc_ssm.graph.signals import Rate

__all__ = ["COMPONENTS", "Action", "Actions", "Multiplication", "Store", "Stored", "grown"]

COMPONENTS = (
    "cells",
    "lines",
    "dac",
    "adc",
    "control",
    "digital update",
    "memories",
    "nonlinearity",
    "movement",
    "leakage",
)
"""The parts of a cost breakdown, in the order of every result."""

Store = Literal["coefficients", "state", "activations"]


@dataclass(frozen=True)
class Action:
    """`count` equal actions that one operator takes each time it runs (per time step at rate "step")."""

    component: str
    """Who pays: one of `COMPONENTS`."""
    verb: str
    """What is done: "cell", "word line", "bit line", "dac", "adc", "sample hold", "control", "tile", "multiply",
    "shift", "add", "register", "lookup", "read", "write", "bus", or the name of a component of the table."""
    count: int
    """How often, each time the operator runs."""
    bits: tuple[int, ...]
    """Widths of the words: two factors of a product, word and stages of a shift, input and output of a table, one
    width otherwise."""
    purpose: str
    """What for, in words."""
    rate: Rate = "step"
    """Whether it is done every time step or once per sequence."""
    slots: int = 0
    """Lane slots taken (0: shares the slot of a product, or needs no lane)."""
    store: Store | None = None
    """Memory that is read or written."""
    period: int = 1
    """At rate "step": done in every `period`-th step alone, those with (t + 1) mod period = 0; a power of two."""
    parallel: bool = False
    """Whether every lane has an instance of its own for it, beside those that its slots use."""

    def __post_init__(self) -> None:
        """`ImcSsmError` for a component or a memory that there is not."""
        if self.component not in COMPONENTS:
            raise ImcSsmError(
                unknown(f"component (of an action {self.verb!r}, {self.purpose!r})", self.component, COMPONENTS)
            )
        stores = get_args(Store) if self.verb in ("read", "write") else (None,)
        if self.store not in stores:
            raise ImcSsmError(
                f"an action {self.verb!r} ({self.purpose!r}) with store {self.store!r}; allowed is "
                + ", ".join(map(repr, stores))
            )

    def times(self, steps: int) -> int:
        """How often the count is done in an inference of `steps` steps."""
        return steps // self.period if self.rate == "step" else 1


@dataclass(frozen=True)
class Multiplication:
    """`count` equal products of a model's own arithmetic: what its equations multiply, without requantizing."""

    count: int
    """How many, each time the operator runs."""
    bits: tuple[int, int]
    """Widths of the factors."""
    period: int = 1
    """As of an `Action`."""


@dataclass(frozen=True)
class Stored:
    """`count` words of `bits` that an operator keeps in a digital memory."""

    content: Literal["parameters", "requantization", "state", "activations"]
    """What they are."""
    count: int
    bits: int


@dataclass(frozen=True)
class Actions:
    """Makes the actions of one operator."""

    rate: Rate
    component: str = "digital update"
    """Who pays for arithmetic."""
    period: int = 1
    """Steps from one time to the next."""

    def multiply(self, count: int, first: int, second: int, purpose: str) -> Action:
        """Products, one slot each."""
        widths = (first, second)
        return Action(
            self.component, "multiply", count, widths, purpose, self.rate, slots=count, period=self.period
        )

    def add(
        self, count: int, bits: int, purpose: str, *, own_slot: bool = False, parallel: bool = False
    ) -> tuple[Action, Action]:
        """Sums and the accumulator registers that take them up."""
        rest: dict[str, Any] = {"period": self.period, "parallel": parallel}
        slots = count if own_slot else 0
        return (
            Action(self.component, "add", count, (bits,), purpose, self.rate, slots=slots, **rest),
            Action(
                self.component,
                "register",
                count,
                (bits,),
                purpose if parallel else "accumulator",
                self.rate,
                **rest,
            ),
        )

    def shift(self, count: int, bits: int, purpose: str) -> Action:
        """Shifts of words by amounts that differ, behind a product in its slot: ceil(log2 bits) stages each."""
        stages = max(bits - 1, 1).bit_length()
        return Action(self.component, "shift", count, (bits, stages), purpose, self.rate, period=self.period)

    def lookup(self, count: int, inputs: int, outputs: int, purpose: str) -> Action:
        """Accesses to a table with an entry of so many bits for each code of an input; beside the lanes' slots."""
        widths = (inputs, outputs)
        return Action("nonlinearity", "lookup", count, widths, purpose, self.rate, period=self.period)

    def read(self, store: Store, count: int, bits: int, purpose: str) -> Action:
        """Words that leave a memory."""
        return Action("memories", "read", count, (bits,), purpose, self.rate, store=store, period=self.period)

    def write(self, store: Store, count: int, bits: int, purpose: str) -> Action:
        """Words that enter a memory."""
        return Action("memories", "write", count, (bits,), purpose, self.rate, store=store, period=self.period)

    def other(self, component: str, verb: str, count: int, bits: int, purpose: str) -> Action:
        """Anything else that is no arithmetic."""
        return Action(component, verb, count, (bits,), purpose, self.rate, period=self.period)


def grown(bits: int, terms: int) -> int:
    """Width of a sum of `terms` words of `bits`: bits + ceil(log2 terms)."""
    return bits + math.ceil(math.log2(max(terms, 1)))
