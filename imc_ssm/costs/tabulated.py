"""Prices of a table of digital components as laws over constants: logic is known to `k.logic_spread`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from imc_ssm.devices import Digital
from imc_ssm.devices.components import Component
from imc_ssm.errors import DesignError
from imc_ssm.pricing.intervals import Number, Values

__all__ = ["Banked", "Tabulated"]

FIELDS = {"multiply": "multiply", "add": "add", "shift": "shift", "register": "flip_flop", "lookup": "lookup"}
FIELDS["bus"] = "bus"
"""Verb of an action -> field of the table."""


@dataclass(frozen=True)
class Banked:
    """A static memory of equal banks, each with a port of its own."""

    banks: int
    read: Number
    """J of reading one bit."""
    write: Number
    """J of writing one bit."""
    latency: float
    """Access time, s."""
    area: Number
    """Of all banks, m2."""


class Tabulated:
    """A digital table with constants `k`, floats or all scenarios at once."""

    def __init__(self, digital: Digital, k: Values) -> None:
        self.digital, self.k = digital, k

    def _of(self, verb: str) -> Component:
        if verb in FIELDS:
            own: Component = getattr(self.digital, FIELDS[verb])
            return own
        if verb not in self.digital.others:
            known = ", ".join((*FIELDS, *self.digital.others))
            raise DesignError(f"action {verb!r} has no price in table {self.digital.name!r}; known: {known}")
        return self.digital.others[verb]

    def joules(self, verb: str, bits: tuple[int, ...]) -> Number:
        """J of one action on words of `bits`."""
        return self._of(verb).joules(*bits) * self.k.logic_spread

    def silicon(self, verb: str, bits: tuple[int, ...]) -> Number:
        """m2 of one instance for words of `bits`."""
        own = self._of(verb)
        return own.area.value * own.scale(*bits) * self.k.logic_spread

    def seconds(self, verb: str) -> float:
        """Latency of an action, s."""
        return self._of(verb).latency.value

    def memory(self, capacity: int, bank: int, least: int) -> Banked:
        """A memory of `capacity` bits in at least so many equal banks, of `bank` bits at most."""
        banks = max(least, math.ceil(capacity / bank))
        one, spread = self.digital.memory(math.ceil(capacity / banks)), self.k.logic_spread
        return Banked(banks, one.read * spread, one.write * spread, one.latency, banks * one.area * spread)
