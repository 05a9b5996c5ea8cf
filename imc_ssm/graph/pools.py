"""What makes one vector of a sequence: its last step, or the mean over its steps."""

from __future__ import annotations

from dataclasses import dataclass

from imc_ssm.fixedpoint import operations as integer
from imc_ssm.fixedpoint.requantization import CONSTANT_BITS, MULTIPLIER_BITS
from imc_ssm.graph.actions import Action, Actions, Stored, grown
from imc_ssm.graph.operators import Operator, Words
from imc_ssm.graph.signals import Formats

__all__ = ["Last", "Mean"]


@dataclass(frozen=True)
class Last(Operator):
    """The last step of a sequence: what is in the buffer when it ends."""

    def integer(self, formats: Formats, words: Words) -> integer.EndOperation:
        self._format(formats, 0)
        return integer.EndOperation()

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        return []

    def stored(self, formats: Formats, steps: int) -> list[Stored]:
        return []


@dataclass(frozen=True)
class Mean(Operator):
    """Running mean over time: a sum every step, one product at the end of a sequence.

    The sums are a memory of the state: read, added to and written in every step, read once more at the end.
    """

    def integer(self, formats: Formats, words: Words) -> integer.MeanOperation:
        return integer.MeanOperation(self._format(formats, 0), self._format(formats), self.output.width)

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, once, width = Actions(self.rate), Actions("sequence"), self.output.width
        total, sets = self._total(formats, steps), self._sets(formats)
        return [
            self._read(at, formats),
            at.read("state", width, total, "running sum"),
            *at.add(width, total, "running sum", own_slot=True),
            at.write("state", width, total, "running sum"),
            once.read("state", width, total, "sum"),
            *([once.read("coefficients", sets, CONSTANT_BITS, "1 / steps")] if sets > 1 else []),
            once.multiply(width, total, MULTIPLIER_BITS, "1 / steps"),
            self._write(once, formats, steps),
        ]

    def stored(self, formats: Formats, steps: int) -> list[Stored]:
        held = Stored("state", self.output.width, self._total(formats, steps))
        return [*super().stored(formats, steps), held]

    def _total(self, formats: Formats, steps: int) -> int:
        """Width of the sums of centred codes."""
        return grown(self._centred(formats), steps)

    def _sets(self, formats: Formats) -> int:
        """Multipliers and shifts: one a channel where one of the formats is."""
        return self.output.width if formats.several(self.inputs[0].name, self.output.name) else 1

    def _constants(self, formats: Formats) -> list[Stored]:
        return [Stored("requantization", self._sets(formats), CONSTANT_BITS)]
