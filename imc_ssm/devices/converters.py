"""Converters between codes and analog signals: each owns its resolution, its transfer and its price.

A design says which: `adc = { type = "sar", bits = 6 }`; its component table says what the type costs at which
resolutions (`components.ConverterType`). Every type transfers alike (`Converter`) unless a class below says how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator

from imc_ssm.config import Config
from imc_ssm.devices.components import Component, Components
from imc_ssm.errors import DesignError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CONVERTERS", "AnyConverter", "Choice", "Converter", "Driver", "Ideal", "converter"]


class Choice(Config):
    """A converter as a design names it."""

    type: str
    """A type of the component table ("sar", "cco", "capacitive", "driver"), or "ideal": no limit, no price."""
    bits: int = Field(ge=1, le=16)
    """Resolution: the only place where it stands."""


class Converter(Choice):
    """A uniform converter with 2^bits - 1 codes, symmetric about zero."""

    price: Component | None = None
    """Energy, latency and area of one conversion; None: it has no price."""

    signed: ClassVar[bool] = True
    """Whether codes have a sign."""

    @field_validator("bits")
    @classmethod
    def _wide_enough(cls, bits: int) -> int:
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

    def convert_(self, signal: Tensor) -> Tensor:
        """The codes of a signal that is given in steps, in place: round, then saturate."""
        return signal.round_().clamp_(*self.codes)

    def transfer(self, x: Tensor, full_scale: float) -> Tensor:
        """The codes of `x`, float32, as a new tensor: clip(round(x / full_scale / step))."""
        # Divided in this order, and by the same numbers, as aihwkit does: equal codes, also next to a tie.
        return self.convert_(x.div(full_scale).div_(self.step))

    def priced(self) -> Component:
        """What one conversion costs; `DesignError` for a converter without a price."""
        if self.price is None:
            raise DesignError(
                f"a converter of type {self.type!r} has no price; give the design one of its component table"
            )
        return self.price


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


CONVERTERS: dict[str, type[Converter]] = {"driver": Driver, "ideal": Ideal}
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

    Raises `DesignError` for a type that the table does not have, or a resolution at which it has no numbers.
    """
    cls = CONVERTERS.get(choice.type, Converter)
    price = None if cls is Ideal else table.conversion(kind, choice.type, choice.bits)
    return cls.parse({"type": choice.type, "bits": choice.bits, "price": price}, where=kind)
