"""Converters between codes and analog signals: each owns its resolution, its transfer and its price.

A design says which: `adc = { type = "sar", bits = 6 }`; its component table says what the type costs at which
resolutions (`components.ConverterType`). Every type transfers alike (`Converter`) unless a class below says how.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator

from imc_ssm.config import Config
from imc_ssm.devices.cell import Array, Draws
from imc_ssm.devices.components import Component, Components
from imc_ssm.errors import DesignError, unknown

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CONVERTERS",
    "LAWS",
    "Adc",
    "AnyConverter",
    "Choice",
    "Converter",
    "Dac",
    "Driver",
    "Ideal",
    "Transfers",
    "converter",
]

Numbers = npt.NDArray[np.float64]
Encoding = Literal["amplitude", "pulse-width", "bit-serial"]


class Choice(Config):
    """A converter as a design names it."""

    type: str
    """A type of the component table ("sar", "cco", "capacitive", "driver"), or "ideal": no limit, no price."""
    bits: int = Field(ge=1, le=16)
    """Resolution: the only place where it stands."""


class Dac(Choice):
    """An input converter as a design names it."""

    encoding: Encoding = "amplitude"
    """How a code becomes a voltage: its height; a pulse of full height and of that width (the energy of a device
    follows the mean magnitude, not the mean square); or bit by bit, a pulse and a conversion of all columns for
    each bit of the magnitude, the partial results shifted and added in digital."""


class Adc(Choice):
    """An output converter as a design names it, with its errors.

    The code of a signal s, in codes: clip(round((1 + g) s + o + INL(s) + n)), with g and o drawn once for each
    converter of each chip and n for every conversion. The columns that share a converter share its errors.
    """

    offset: float = Field(0.0, ge=0.0, le=256.0)
    """Standard deviation of the converters' offsets o, in codes."""
    gain_error: float = Field(0.0, ge=0.0, le=0.5)
    """Standard deviation of the converters' gains g, relative."""
    inl: float = Field(0.0, ge=0.0, le=256.0)
    """Largest integral nonlinearity of every converter, in codes; its shape is the type's."""
    noise: float = Field(0.0, ge=0.0, le=256.0)
    """Standard deviation of a conversion's own noise n, in codes."""


@dataclass(frozen=True, eq=False)
class Transfers:
    """The drawn errors of the converters of one tile, on several chips, column by column."""

    gain: Array
    """(chips, columns): 1 + g."""
    offset: Array
    """(chips, columns), codes."""
    inl: Array | None
    """(chips, columns, codes), codes: what is added to a signal that lies at the code; None: nothing."""


class Converter(Dac, Adc):
    """A uniform converter with 2^bits - 1 codes, symmetric about zero."""

    price: Component | None = None
    """Energy, latency and area of one conversion; None: it has no price."""

    signed: ClassVar[bool] = True
    """Whether codes have a sign."""

    @field_validator("bits")
    @classmethod
    def _sign_fits(cls, bits: int) -> int:
        if cls.signed and bits < 2:
            raise ValueError('codes with a sign take at least 2 bits (type "driver" has one, on or off)')
        return bits

    @property
    def codes(self) -> tuple[int, int]:
        """The lowest and the highest code; the highest is full scale."""
        top = 2 ** (self.bits - 1) - 1
        return -top, top

    @property
    def step(self) -> float:
        """Signal of one code, in full scales."""
        return 1.0 / self.codes[1]

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest signal, in full scales."""
        low, high = self.codes
        return low * self.step, high * self.step

    @property
    def pulses(self) -> int:
        """Pulses of one input: one, or with bit-serial encoding one for each bit of a code's magnitude."""
        return self.codes[1].bit_length() if self.encoding == "bit-serial" else 1

    @property
    def erroneous(self) -> bool:
        """Whether converters differ from the uniform one, but for noise."""
        return bool(self.offset or self.gain_error or self.inl)

    def convert_(self, signal: Tensor) -> Tensor:
        """The codes of a signal that is given in steps, in place: round, then saturate."""
        return signal.round_().clamp_(*self.codes)

    def transfer(self, x: Tensor, full_scale: float) -> Tensor:
        """The codes of `x`, float32, as a new tensor: clip(round(x / full_scale / step))."""
        # Divided in this order, and by the same numbers, as aihwkit does: equal codes, also next to a tie.
        return self.convert_(x.div(full_scale).div_(self.step))

    def drives(self, codes: Tensor) -> list[tuple[Tensor, float]]:
        """What the rows are driven with, pulse after pulse, in full voltages times their share of the sum.

        `codes` as they are, or for bit-serial encoding the bits of their magnitudes with their signs, the least
        significant first: sum of drive x share = codes.
        """
        if self.encoding != "bit-serial":
            return [(codes, 1.0)]
        size = codes.abs()
        out = []
        for place in range(self.pulses):
            halved = (size / 2).floor_()
            out.append(((size - 2 * halved) * codes.sign(), float(2**place)))
            size = halved
        return out

    def activity(self, codes: Tensor) -> float:
        """Mean energy of a device over its energy in one full-scale pulse, for inputs of these codes.

        amplitude: mean d^2, d = codes step; pulse-width: mean |d|; bit-serial: mean number of bits that are set.
        """
        drive = codes.double()
        if self.encoding == "bit-serial":
            return sum(float(np.square(pulse.numpy()).mean()) for pulse, _ in self.drives(drive))
        size = np.abs(drive.numpy() * self.step)  # torch's mean depends on the threads
        return float((size if self.encoding == "pulse-width" else np.square(size)).mean())

    def drawn(self, draws: Draws, columns: int, shared: int) -> Transfers:
        """The errors of the converters of a tile, one for every `shared` of its `columns`."""
        count = -(-columns // shared)
        of = np.repeat(np.arange(count), shared)[:columns]
        gain, offset = draws.normal((count,)), draws.normal((count,))
        inl = None
        if self.inl:
            low, high = self.codes
            curve = self.bend(np.arange(low, high + 1) / high, draws, count)
            peak = np.abs(curve).max(axis=-1, keepdims=True)
            inl = np.asarray(self.inl * curve / np.where(peak > 0, peak, 1), np.float32)[:, of]
        gain = 1 + self.gain_error * gain
        return Transfers(gain[:, of].astype(np.float32), (self.offset * offset)[:, of].astype(np.float32), inl)

    def bend(self, levels: Numbers, draws: Draws, count: int) -> Numbers:
        """(chips, count, levels): nonlinearities of any scale at `levels` of full scale, zero at both ends.

        Of a successive-approximation converter, whose binary-weighted elements are each wrong by a part that falls
        with the root of its size (Pelgrom's law): a sum over the elements that are on.
        """
        codes = np.arange(len(levels))
        places = np.arange(int(codes[-1]).bit_length())
        on = (codes[:, None] >> places) & 1
        error = draws.normal((count, len(places))) * np.sqrt(2.0**places)
        curve = error @ on.T.astype(np.float64)
        line = codes / codes[-1] * curve[..., -1:]
        return np.asarray(curve - line)


class Driver(Converter):
    """A row driver of `bits` without a sign, 2^bits codes from 0 up: with one bit, on or off. Negative is off."""

    type: Literal["driver"]
    """The type."""
    signed: ClassVar[bool] = False

    @property
    def codes(self) -> tuple[int, int]:
        """The lowest and the highest code."""
        return 0, 2**self.bits - 1


class Ideal(Converter):
    """Any resolution, for studies of accuracy; it has no price."""

    type: Literal["ideal"]
    """The type."""
    price: None = None


class Ramp(Converter):
    """A counter and a ramp that all columns of a tile are compared with: its curvature is common to them."""

    type: Literal["ramp"]
    """The type."""

    def bend(self, levels: Numbers, draws: Draws, count: int) -> Numbers:
        """±(1 - s^2), a bow, its sign drawn for each tile."""
        sign = np.where(draws.normal((1,)) < 0, -1.0, 1.0)
        return np.broadcast_to((sign * (1 - np.square(levels)))[:, None], (len(sign), count, len(levels)))


class Cco(Converter):
    """A current-controlled oscillator and a counter: its frequency lags behind large currents."""

    type: Literal["cco"]
    """The type."""

    def bend(self, levels: Numbers, draws: Draws, count: int) -> Numbers:
        """s - s^3: compression, with the ends calibrated; alike in all converters."""
        return np.broadcast_to(levels - levels**3, (len(draws.seeds), count, len(levels)))


class ChargeDecrement(Converter):
    """Charge taken off an integrated sum in equal steps until its sign turns; the steps shrink with the charge."""

    type: Literal["charge-decrement"]
    """The type."""

    def bend(self, levels: Numbers, draws: Draws, count: int) -> Numbers:
        """s (1 - |s|): the same on both sides of zero; alike in all converters."""
        return np.broadcast_to(levels * (1 - np.abs(levels)), (len(draws.seeds), count, len(levels)))


LAWS: dict[str, tuple[str, ...]] = {
    "adc": ("sar", "sar-survey", "cco", "duration", "charge-decrement", "ramp", "flash", "sense"),
    "dac": ("capacitive", "driver", "pulse-width", "bipolar"),
}
"""Types whose price is a law of `pricing`, at any resolution; a row of a component table takes its place."""
CONVERTERS: dict[str, type[Converter]] = {
    "driver": Driver,
    "ideal": Ideal,
    "ramp": Ramp,
    "cco": Cco,
    "charge-decrement": ChargeDecrement,
}
"""Types whose transfer or price is their own; every other type of a component table is a `Converter`."""


def _chosen(value: Any) -> Any:
    """The converter that a dictionary describes, of the class of its type."""
    if not isinstance(value, dict):
        return value
    return CONVERTERS.get(str(value.get("type")), Converter).parse(value)


AnyConverter = Annotated[SerializeAsAny[Converter], BeforeValidator(_chosen)]
"""A field that holds a converter of any type."""


def converter(kind: Literal["adc", "dac"], choice: Choice, table: Components) -> Converter:
    """The converter of a design with its price from the table.

    A type with a class of its own that the table has no numbers for has no price: accuracy can be studied, and
    costing is an error. Raises `DesignError` for any other type that the table does not have, or a resolution at
    which it has no numbers.
    """
    cls = CONVERTERS.get(choice.type, Converter)
    known: dict[str, Any] = getattr(table, kind)
    price = None
    lawful = choice.type in LAWS[kind]
    if choice.type in known or (cls is Converter and not lawful):
        if choice.type not in known:
            own = [name for name in (*LAWS[kind], *CONVERTERS) if name not in known]
            raise DesignError(f"table {table.name!r}: {unknown(f'{kind} type', choice.type, [*known, *own])}")
        one_bit = getattr(choice, "encoding", "amplitude") == "bit-serial"  # each pulse is driven by itself
        price = table.conversion(kind, choice.type, 1 if one_bit else choice.bits)
    return cls.parse({**choice.model_dump(), "price": price}, where=kind)
