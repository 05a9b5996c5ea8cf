"""Peripheral components: what one action costs in energy, time and area, each number with its source.

A table (`devices/components/*.toml`) is for one process node. A component is an action of a reference width and
says itself what the action costs at another one. Leakage is not part of a table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from imc_ssm.config import Config
from imc_ssm.devices.library import ENTRIES, Area, Cited, Duration, Energy, Length, read_entry
from imc_ssm.errors import DesignError, unknown

__all__ = ["Component", "Components", "ConverterType", "Digital", "Memory", "Sized", "Sram", "load_components"]


class Component(Config):
    """One action of one component."""

    description: str
    """What it is, and what its numbers include."""
    energy: Energy
    """Energy of one action, J."""
    latency: Duration
    """Time of one action, s."""
    area: Area
    """Silicon area of one instance, m2."""

    def scale(self, *bits: int) -> float:
        """How many reference actions one on words of `bits` costs."""
        return 1.0

    def joules(self, *bits: int) -> float:
        """Energy of one action on words of `bits`, J."""
        return self.energy.value * self.scale(*bits)


class Sized(Component):
    """An action on words of a stated width."""

    bits: int = Field(ge=1, le=1024)
    """Width the numbers are for, bits (a bus: its wires)."""


class Multiplier(Sized):
    """A product of two integers."""

    def scale(self, *bits: int) -> float:
        """first * second / bits^2: an array multiplier has one cell per pair of bits.

        Horowitz (ISSCC 2014) has 3.1 / 0.2 = 15.5 between 32 and 8 bits, where this gives 16.
        """
        first, second = bits
        return first * second / self.bits**2


class Linear(Sized):
    """A sum of two words, or an access to a register: linear in the width."""

    def scale(self, *bits: int) -> float:
        """width / bits."""
        (width,) = bits
        return width / self.bits


class LookUpTable(Sized):
    """The table of a nonlinearity, or the unit that stands in its place: linear in its address and its word."""

    def scale(self, *bits: int) -> float:
        """(input + output) / (2 bits): both words of the reference have `bits`.

        A memory of all entries, 2^8 of 8 bits, takes 0.112 pJ and 450 um2 by the rows of CACTI that the shipped
        table has, where this gives 0.109 pJ and 150 um2 from the unit of 16 bits of Shafiee et al. (ISCA 2016),
        whose 2^16 entries no table would hold.
        """
        return sum(bits) / (len(bits) * self.bits)


class Bus(Sized):
    """Wires: the energy is that of one bit."""

    def scale(self, *bits: int) -> float:
        """The number of bits."""
        (width,) = bits
        return float(width)


class Shifter(Component):
    """A shift of a word by an amount that differs from word to word: stages of one multiplexer a bit."""

    def scale(self, *bits: int) -> float:
        """word x stages: its multiplexers."""
        word, stages = bits
        return float(word * stages)


class Other(Sized):
    """A component of one's own: its name in the table is the verb of the actions that it takes."""

    grows: Literal["constant", "linear", "product"] = "constant"
    """How energy and area follow the widths of the words: not at all, as `Linear`, or as `Multiplier`."""

    def scale(self, *bits: int) -> float:
        """1, width / bits, or first * second / bits^2."""
        return 1.0 if self.grows == "constant" else math.prod(width / self.bits for width in bits)


Law = Literal["constant", "linear", "exponential"]


class Scaling(Config):
    """How a converter's numbers follow from those at another resolution, and where that holds."""

    least: int = Field(ge=1, le=16)
    """Fewest bits."""
    most: int = Field(ge=1, le=16)
    """Most bits."""
    energy: Law
    """Constant, proportional to the bits, or to 2^bits."""
    latency: Law
    """As for the energy."""
    area: Law
    """As for the energy."""
    source: str = Field(min_length=8)
    """Where the laws come from."""

    def scaled(self, reference: Sized, bits: int) -> Sized:
        """`reference` at another resolution."""
        ratio = {"constant": 1.0, "linear": bits / reference.bits, "exponential": 2.0 ** (bits - reference.bits)}

        def scaled(number: Cited, law: Law) -> Cited:
            why = f"{number.source}; x {ratio[law]:g} from {reference.bits} to {bits} bits: {self.source}"
            return Cited(value=number.value * ratio[law], unit=number.unit, source=why)

        numbers = {
            name: scaled(getattr(reference, name), getattr(self, name)) for name in ("energy", "latency", "area")
        }
        return reference.with_(bits=bits, **numbers)


class ConverterType(Config):
    """A type of converter at its resolutions; one action is one conversion."""

    sizes: tuple[Sized, ...] = Field(min_length=1)
    """The resolutions that numbers are known at."""
    scaling: Scaling | None = None
    """How other resolutions follow from the nearest of these; None: there are no others."""

    @field_validator("sizes")
    @classmethod
    def _once(cls, sizes: tuple[Sized, ...]) -> tuple[Sized, ...]:
        bits = [size.bits for size in sizes]
        if any(a >= b for a, b in pairwise(bits)):
            raise ValueError(f"bits {bits} must grow from size to size")
        return sizes

    def resolutions(self) -> list[int]:
        """The resolutions at which it has a price."""
        known = {size.bits for size in self.sizes}
        if self.scaling is not None:
            known |= set(range(self.scaling.least, self.scaling.most + 1))
        return sorted(known)

    def at(self, bits: int) -> Component:
        """What one conversion of `bits` costs, one of `resolutions()`."""
        nearest = min(self.sizes, key=lambda size: abs(size.bits - bits))
        if nearest.bits != bits:
            assert self.scaling is not None
            nearest = self.scaling.scaled(nearest, bits)
        return Component.parse(nearest.model_dump(exclude={"bits"}))


class Sram(Config):
    """One static memory: a row of the table that `Components.memory` interpolates."""

    capacity: int = Field(ge=1)
    """Capacity, bits."""
    read: Energy
    """Energy of reading one bit, J."""
    write: Energy
    """Energy of writing one bit, J."""
    latency: Duration
    """Access time, s."""
    area: Area
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
    port: int = 64
    """Bits of one access."""


PORT = 64
"""Bits that one bank reads or writes at once: what CACTI's rows of the shipped table are for."""
BANK = 65_536
"""Most bits of a bank, 8 KB."""
SMALLEST = 1024
"""Bits below which a memory gets no smaller: its decoder and sense amplifiers stay."""


class Digital(Config):
    """The digital part of a table: arithmetic, registers, tables of nonlinearities, bus and memories."""

    name: str
    """Name of the table, as designs refer to it."""
    description: str
    """One line for lists."""
    node: Length
    """Process node that all entries hold for, m."""
    multiply: Multiplier
    """Integer multiplication of two words of `bits`."""
    add: Linear
    """Integer addition of two words of `bits`."""
    flip_flop: Linear
    """One clocked access to a register of `bits`."""
    lookup: LookUpTable
    """One access to the table of a nonlinearity whose input and output have `bits`."""
    bus: Bus
    """On-chip bus of `bits` wires: energy per bit, latency per transfer, area of the whole bus."""
    sram: tuple[Sram, ...] = Field(min_length=1)
    """Static memories, by growing capacity."""
    others: dict[str, Other] = Field(default_factory=dict)
    """Components for actions of one's own operators, by the verb of the action; one in every lane."""

    @model_validator(mode="after")
    def _growing(self) -> Self:
        """Interpolation needs strictly growing capacities."""
        sizes = [row.capacity for row in self.sram]
        if any(a >= b for a, b in pairwise(sizes)):
            raise ValueError(f"sram capacities {sizes} must grow from row to row")
        return self

    @property
    def shift(self) -> Shifter:
        """A barrel shifter, by its multiplexers of one bit, each a share of an adder's bit.

        Energy: 0.4 of an addition's, as Shao et al. (Aladdin), ISCA 2014, doi:10.1109/ISCA.2014.6853196, have it
        at 40 nm and 1 ns: 0.417 pJ for a shifter of 32 bits in five stages, 0.21 pJ for an adder of 32 bits, 0.397
        a bit and stage. Gates agree: shifters of 24 to 53 bits in 3 to 6 stages and adders of 32 bits, synthesised
        with Yosys 0.70 and simulated with unit delays on 1,500 pairs of random words: 0.25 to 0.30 (SkyWater
        sky130hd), 0.26 to 0.31 (IHP SG13G2), 0.34 to 0.42 (ASAP7, whose multiplexers are of NAND gates). Area:
        0.44 of an adder's, the largest of these (0.32 to 0.33, 0.31 to 0.35, 0.42 to 0.44; Aladdin: 0.18).
        """

        def share(number: Cited, ratio: float) -> Cited:
            why = (
                f"{ratio:g} of a bit's addition (Shao et al. (Aladdin), ISCA 2014, doi:10.1109/ISCA.2014.6853196)"
            )
            return Cited(value=ratio * number.value / self.add.bits, unit=number.unit, source=why)

        return Shifter(
            description="One multiplexer of a barrel shifter: a bit of a word in one stage",
            energy=share(self.add.energy, 0.4),
            latency=self.add.latency,
            area=share(self.add.area, 0.44),
        )

    def banked(self, capacity: int, least: int) -> Memory:
        """A memory of `capacity` bits behind `least` ports of `PORT` bits, in at least so many banks.

        Energy per bit, latency: of one bank, which has `BANK` bits at most. Further banks share the ports of the
        first, and their area is in proportion to the bits: a larger memory never takes less.
        """
        one = self.memory(min(-(-capacity // least), BANK))
        banks = max(float(least), capacity / BANK)
        return replace(one, capacity=capacity, area=banks * one.area, port=least * PORT)

    def memory(self, capacity: int) -> Memory:
        """A memory of `capacity` bits in one bank: log-log interpolation between the rows.

        Below the smallest row: the smallest one's energy and time, and an area in proportion to the capacity, but
        not below `SMALLEST` bits (flip-flops would be smaller). Above the largest: banks of the largest, so energy
        per bit and access time stay and the area grows with the capacity.
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
        part = min(1.0, max(capacity, SMALLEST) / rows[0].capacity)
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
            area=part * between(low.area, high.area),
        )


class Components(Digital):
    """A table of peripheral components for one process node."""

    adc: dict[str, ConverterType] = Field(default_factory=dict)
    """Analog-to-digital converters by type, in the place of the laws of `pricing`."""
    dac: dict[str, ConverterType] = Field(default_factory=dict)
    """Digital-to-analog converters by type, likewise; one action is one conversion of one row."""
    sample_hold: dict[str, Component]
    """Sample-and-hold stages by name; one action holds one column once."""

    def digital(self) -> Digital:
        """The digital part alone."""
        return Digital.parse(self.model_dump(exclude={"adc", "dac", "sample_hold"}))

    def conversion(self, kind: Literal["adc", "dac"], name: str, bits: int) -> Component:
        """What a conversion of `bits` costs in a converter of type `name`.

        Raises `DesignError` if there is none of that type, or the type has no numbers at that resolution.
        """
        types: dict[str, ConverterType] = getattr(self, kind)
        if name not in types:
            raise DesignError(f"table {self.name!r}: {unknown(f'{kind} type', name, [*types, 'ideal'])}")
        known = types[name].resolutions()
        if bits not in known:
            raise DesignError(
                f"{kind} {name!r} has no numbers at {bits} bits in table {self.name!r}; it has "
                f"{', '.join(map(str, known))} (add a row with a source for another)"
            )
        return types[name].at(bits)

    def hold(self, name: str) -> Component:
        """The sample-and-hold stage `name`; `DesignError` if there is none."""
        if name not in self.sample_hold:
            raise DesignError(f"table {self.name!r}: {unknown('sample-and-hold', name, self.sample_hold)}")
        return self.sample_hold[name]


def load_components(name: str | Path) -> Components:
    """The component table behind a shipped name or a user's own TOML path.

    Raises `DesignError` for an unknown name, `FileError` or `ConfigError` for a wrong file.
    """
    data, path = read_entry("components", name)
    return Components.parse(data, where=str(path))


ENTRIES["components"] = Components
