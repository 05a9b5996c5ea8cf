"""A table of digital components as constants with ranges, and its prices as laws over them.

The numbers of `Digital` are named "multiply.energy", "sram.0.read" and so on, beside the constants of the laws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from imc_ssm.costs.intervals import Number, Values
from imc_ssm.devices import Digital
from imc_ssm.devices.components import Component
from imc_ssm.devices.constants import CostConstant
from imc_ssm.devices.library import Cited
from imc_ssm.errors import DesignError

__all__ = ["Banked", "Tabulated", "digital_constants"]

PARTS = {"multiply": "multiply", "add": "add", "register": "flip_flop", "lookup": "lookup", "bus": "bus"}
"""Verb of an action -> field of the table."""


def digital_constants(digital: Digital) -> dict[str, CostConstant]:
    """Every number of a table by name; one without a range is its own."""
    found: dict[str, Cited] = {}
    for part in PARTS.values():
        own: Component = getattr(digital, part)
        found |= {f"{part}.{name}": getattr(own, name) for name in ("energy", "latency", "area")}
    for verb, other in digital.others.items():
        found |= {f"{verb}.{name}": getattr(other, name) for name in ("energy", "latency", "area")}
    for i, row in enumerate(digital.sram):
        found |= {f"sram.{i}.{name}": getattr(row, name) for name in ("read", "write", "latency", "area")}
    return {name: _constant(number, digital.name) for name, number in found.items()}


def _constant(number: Cited, table: str) -> CostConstant:
    assumed = number.source.startswith("assumed")
    return CostConstant(
        value=number.value,
        low=number.value if number.low is None else number.low,
        high=number.value if number.high is None else number.high,
        unit=number.unit,
        source=number.source,
        kind="assumed" if assumed else "cited",
        holds=f"table {table}",
        replaced_by="a number from a synthesised or measured circuit" if assumed else "",
    )


@dataclass(frozen=True)
class Banked:
    """A static memory of equal banks, each with a port of its own."""

    capacity: int
    """Bits that it has to hold."""
    banks: int
    read: Number
    """J of reading one bit."""
    write: Number
    """J of writing one bit."""
    latency: Number
    """Access time, s."""
    area: Number
    """Of all banks, m2."""


class Tabulated:
    """Prices of a digital table, of floats or of all scenarios at once."""

    def __init__(self, digital: Digital, k: Values) -> None:
        self.digital, self.k = digital, k
        self._share = {
            name: getattr(digital.shift, name).value / getattr(digital.add, name).value
            for name in ("energy", "area")
        }

    def joules(self, verb: str, bits: tuple[int, ...]) -> Number:
        """J of one action on words of `bits`."""
        return self._priced(verb, "energy", bits)

    def silicon(self, verb: str, bits: tuple[int, ...]) -> Number:
        """m2 of one instance for words of `bits`."""
        return self._priced(verb, "area", bits)

    def seconds(self, verb: str) -> Number:
        """Latency of an action, s."""
        return self.k[f"{PARTS.get(verb, verb)}.latency"]

    def _priced(self, verb: str, what: str, bits: tuple[int, ...]) -> Number:
        if verb == "shift":
            return self.k[f"add.{what}"] * (self._share[what] * self.digital.shift.scale(*bits))
        if verb in PARTS:
            own: Component = getattr(self.digital, PARTS[verb])
            return self.k[f"{PARTS[verb]}.{what}"] * own.scale(*bits)
        if verb in self.digital.others:
            return self.k[f"{verb}.{what}"] * self.digital.others[verb].scale(*bits)
        known = ", ".join((*PARTS, "shift", *self.digital.others))
        raise DesignError(f"action {verb!r} has no price in table {self.digital.name!r}; known: {known}")

    def memory(self, capacity: int, bank: int) -> Banked:
        """A memory of `capacity` bits in banks of `bank` bits at most; between the rows log-log."""
        rows = self.digital.sram
        bank = min(bank, rows[-1].capacity)
        banks = max(math.ceil(capacity / bank), 1)
        size = min(max(math.ceil(capacity / banks), rows[0].capacity), rows[-1].capacity)
        found = {name: self._row(size, name) for name in ("read", "write", "latency", "area")}
        found["area"] = found["area"] * banks
        return Banked(capacity, banks, **found)

    def _row(self, size: int, name: str) -> Number:
        numbered = list(enumerate(self.digital.sram))
        for (i, low), (j, high) in pairwise(numbered):
            if size <= high.capacity:
                t = math.log(size / low.capacity) / math.log(high.capacity / low.capacity)
                return np.exp(
                    (1 - t) * np.log(self.k[f"sram.{i}.{name}"]) + t * np.log(self.k[f"sram.{j}.{name}"])
                )
        return self.k[f"sram.{numbered[-1][0]}.{name}"]
