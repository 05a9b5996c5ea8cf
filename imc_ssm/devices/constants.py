"""Constants of the cost model's laws: numbers with a range, a source, and where they hold.

`devices/constants.toml` ships with the library; a TOML of one's own overrides some of them by name. What a table
of components or a cell says of itself stays there.
"""

from __future__ import annotations

import functools
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from imc_ssm.config import Config, read_toml
from imc_ssm.devices.library import devices_folder
from imc_ssm.errors import ConfigError, shown, unknown

__all__ = ["Constants", "ConstantsLike", "CostConstant", "constants_of", "load_constants"]


class CostConstant(Config):
    """A number of a law, in SI units."""

    value: float
    """The nominal value, in `unit`."""
    low: float
    """Lower end of its range, in `unit`."""
    high: float
    """Upper end of its range, in `unit`."""
    unit: str
    """SI unit without prefix ("F/m", "J", "s", "W"), or "1" for a pure number."""
    source: str = Field(min_length=8)
    """Paper (with DOI or arXiv number), equation or table, of the value and of the ends of the range."""
    kind: Literal["cited", "derived", "assumed"]
    """"cited": as it stands in the source. "derived": arithmetic on cited numbers. "assumed": not
    published by anybody."""
    holds: str = Field(min_length=3)
    """Where it is valid: nodes, bits, circuits."""
    replaced_by: str = ""
    """Of an assumed one: the measurement or datum that would take its place."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(
                f"low {self.low!r}, value {self.value!r} and high {self.high!r} must grow in this order"
            )
        if (self.kind == "assumed") != bool(self.replaced_by):
            raise ValueError("replaced_by belongs to an assumed constant, and to no other")
        return self


class Constants(Config):
    """Constants by name."""

    entries: dict[str, CostConstant]
    """Each with its range and source."""

    def __getitem__(self, name: str) -> CostConstant:
        """The constant of a name; `ConfigError` that names the nearest one where there is none."""
        if name not in self.entries:
            raise ConfigError(unknown("constant", name, self.entries))
        return self.entries[name]

    def changed(self, own: dict[str, CostConstant]) -> Constants:
        """With other values for some; `ConfigError` for a name that there is none of, or another unit."""
        for name, constant in own.items():
            if self[name].unit != constant.unit:
                raise ConfigError(f"constant {name!r} is in {constant.unit!r}; give it in {self[name].unit!r}")
        return Constants(entries={**self.entries, **own})


ConstantsLike = Constants | str | Path | None
"""An argument `constants=`: what `load_constants` returns, the path of a TOML, None for the shipped ones."""


def load_constants(own: str | Path | None = None) -> Constants:
    """The shipped constants, with those of a TOML of one's own (`[NAME]` tables) in their place.

    Raises `FileError` or `ConfigError` for a file that cannot be read, a wrong field or an unknown name.
    """
    shipped = _shipped()
    return shipped if own is None else shipped.changed(_parsed(read_toml(own), str(own)))


def constants_of(given: ConstantsLike) -> Constants:
    """The constants that an argument `constants=` means: themselves, those of a path, the shipped ones for None.

    Raises `ConfigError` for anything else, and for a path what `load_constants` raises.
    """
    if isinstance(given, Constants):
        return given
    if given is None or isinstance(given, (str, PathLike)):
        return load_constants(given)
    raise ConfigError(
        f"constants = {shown(given)}; give the path of a TOML with your own, or what "
        "imc_ssm.devices.load_constants returns"
    )


@functools.cache
def _shipped() -> Constants:
    path = devices_folder() / "constants.toml"
    return Constants(entries=_parsed(read_toml(path), str(path)))


def _parsed(data: dict[str, Any], where: str) -> dict[str, CostConstant]:
    return {name: CostConstant.parse(entry, where=f"{where}, {name}") for name, entry in data.items()}
