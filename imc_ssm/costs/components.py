"""Peripheral components: what one action costs in energy, time and area, each number with its source.

A table (`devices/components/*.toml`) is for one process node. A component is an action with a reference
width; `Components.multiply_scale` and the like scale it to the width at hand. Leakage is not part of a table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

from pydantic import Field, model_validator

from imc_ssm.config import Config
from imc_ssm.devices import Cited, cited, device_path
from imc_ssm.errors import DesignError, unknown

__all__ = ["Components", "Entry", "Memory", "Sized", "Sram", "load_components"]

if TYPE_CHECKING:
    Joules: TypeAlias = Cited
    Seconds: TypeAlias = Cited
    SquareMetres: TypeAlias = Cited
    Metres: TypeAlias = Cited
else:
    Joules, Seconds, SquareMetres, Metres = cited("J"), cited("s"), cited("m2"), cited("m")


class Entry(Config):
    """One action of one component."""

    description: str
    """What it is, and what its numbers include."""
    energy: Joules
    """Energy of one action, J."""
    latency: Seconds
    """Time of one action, s."""
    area: SquareMetres
    """Silicon area of one instance, m2."""


class Sized(Entry):
    """An action on words of a stated width."""

    bits: int = Field(ge=1, le=1024)
    """Width the numbers are for, bits (a bus: its wires)."""


class Sram(Config):
    """One static memory: a row of the table that `Components.memory` interpolates."""

    capacity: int = Field(ge=1)
    """Capacity, bits."""
    read: Joules
    """Energy of reading one bit, J."""
    write: Joules
    """Energy of writing one bit, J."""
    latency: Seconds
    """Access time, s."""
    area: SquareMetres
    """Area of the whole memory, m2."""


@dataclass(frozen=True)
class Memory:
    """A static memory of a given capacity, interpolated between the table's rows."""

    capacity: int
    """Capacity asked for, bits."""
    read: float
    """Energy of reading one bit, J."""
    write: float
    """Energy of writing one bit, J."""
    latency: float
    """Access time, s."""
    area: float
    """Area, m2."""


class Components(Config):
    """A table of peripheral components for one process node."""

    name: str
    """Name of the table, as designs refer to it."""
    description: str
    """One line for lists."""
    node: Metres
    """Process node that all entries hold for, m."""
    adc: dict[str, Sized]
    """Analog-to-digital converters by name; one action is one conversion."""
    dac: dict[str, Sized]
    """Digital-to-analog converters by name; one action is one conversion of one row."""
    sample_hold: dict[str, Entry]
    """Sample-and-hold stages by name; one action holds one column once."""
    multiply: Sized
    """Integer multiplication of two words of `bits`."""
    add: Sized
    """Integer addition of two words of `bits`."""
    flip_flop: Sized
    """One clocked access to a register of `bits`."""
    lookup: Sized
    """One access to the table of a nonlinearity, words of up to `bits`."""
    bus: Sized
    """On-chip bus of `bits` wires: energy per bit, latency per transfer, area of the whole bus."""
    sram: tuple[Sram, ...] = Field(min_length=1)
    """Static memories, by growing capacity."""

    @model_validator(mode="after")
    def _growing(self) -> Self:
        """Interpolation needs strictly growing capacities."""
        sizes = [row.capacity for row in self.sram]
        if any(a >= b for a, b in pairwise(sizes)):
            raise ValueError(f"sram capacities {sizes} must grow from row to row")
        return self

    def multiply_scale(self, first: int, second: int) -> float:
        """How many reference multiplications a product of `first` x `second` bits costs.

        first * second / bits^2: an array multiplier has one cell per pair of bits. Horowitz (ISSCC 2014)
        has 3.1 / 0.2 = 15.5 between 32 and 8 bits, where this gives 16.
        """
        return first * second / self.multiply.bits**2

    def add_scale(self, bits: int) -> float:
        """How many reference additions a sum of `bits` costs: linear in the width."""
        return bits / self.add.bits

    def register_scale(self, bits: int) -> float:
        """How many reference accesses a register of `bits` costs: linear in the width."""
        return bits / self.flip_flop.bits

    def memory(self, capacity: int) -> Memory:
        """A memory of `capacity` bits: log-log interpolation between the rows.

        Below the smallest row: that row (a smaller macro saves nothing). Above the largest: banks of the
        largest, so energy per bit and access time stay and the area grows with the capacity.
        """
        rows = self.sram
        if capacity >= rows[-1].capacity:
            last = rows[-1]
            return Memory(
                capacity=capacity,
                read=last.read.value,
                write=last.write.value,
                latency=last.latency.value,
                area=last.area.value * capacity / last.capacity,
            )
        size = max(capacity, rows[0].capacity)
        upper = next(i for i, row in enumerate(rows) if row.capacity > size)
        low, high = rows[upper - 1], rows[upper]
        t = math.log(size / low.capacity) / math.log(high.capacity / low.capacity)

        def between(a: Cited, b: Cited) -> float:
            return math.exp((1 - t) * math.log(a.value) + t * math.log(b.value))

        return Memory(
            capacity=capacity,
            read=between(low.read, high.read),
            write=between(low.write, high.write),
            latency=between(low.latency, high.latency),
            area=between(low.area, high.area),
        )

    def converter(self, kind: str, name: str, bits: int) -> Sized:
        """The converter `name` of `kind` "adc" or "dac", which must resolve `bits`.

        Raises `DesignError` if there is none of that name, or it resolves fewer bits than the design asks.
        A converter with more bits than needed is allowed and costs what it costs.
        """
        entries: dict[str, Sized] = getattr(self, kind)
        if name not in entries:
            raise DesignError(f"table {self.name!r}: {unknown(kind, name, entries)}")
        if entries[name].bits < bits:
            enough = sorted(key for key, entry in entries.items() if entry.bits >= bits)
            hint = f"use one of: {', '.join(enough)}" if enough else f"add one to table {self.name!r}"
            raise DesignError(
                f"{kind} {name!r} resolves {entries[name].bits} bits, the design asks for {bits}; {hint}"
            )
        return entries[name]

    def hold(self, name: str) -> Entry:
        """The sample-and-hold stage `name`; `DesignError` if there is none."""
        if name not in self.sample_hold:
            raise DesignError(f"table {self.name!r}: {unknown('sample-and-hold', name, self.sample_hold)}")
        return self.sample_hold[name]


def load_components(name: str | Path) -> Components:
    """The component table behind a shipped name or a user's own TOML path.

    Raises `DesignError` for an unknown name, `FileError` or `ConfigError` for a wrong file.
    """
    return Components.from_toml(device_path("components", name))
