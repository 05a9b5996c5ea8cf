"""What the TOML files of `devices/designs` say, and the chip that comes of one with all that it refers to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from imc_ssm.config import Config, read_toml
from imc_ssm.devices.cell import Cell
from imc_ssm.devices.cells import AnyCell, load_cell
from imc_ssm.devices.components import Component, Components, Digital, load_components
from imc_ssm.devices.converters import AnyConverter, Choice, converter
from imc_ssm.devices.library import (
    ENTRIES,
    Frequency,
    Kind,
    Length,
    Number,
    beside,
    device_names,
    device_path,
    kind_of,
    read_entry,
)
from imc_ssm.errors import ConfigError, DesignError, unknown

__all__ = ["PLAIN", "Chip", "Design", "load_design", "load_entry", "resolve"]

PLAIN = ("rows", "columns", "dac", "adc", "tiles", "columns_per_adc", "lanes")
"""Fields of a design without a source of their own; their sources stand in its table `sources`."""


class Design(Config):
    """A chip: tiles of one cell, their converters, and the digital unit beside them."""

    name: str
    """Name of the design."""
    description: str
    """One line for people."""
    cell: str
    """Name of a shipped cell, or the path of a TOML (in a file: relative to the file)."""
    rows: int = Field(ge=1, le=65536)
    """Inputs of a tile (word lines)."""
    columns: int = Field(ge=1, le=65536)
    """Signed outputs of a tile; each is a differential pair of bit lines, two devices a weight."""
    dac: Choice
    """Input converter, one a row: `{ type = "capacitive", bits = 8 }`."""
    adc: Choice
    """Output converter: `{ type = "sar", bits = 8 }`."""
    read_noise: Number
    """Standard deviation of the Gaussian noise on every column sum of every matrix-vector product, in units
    of (full-scale input) x (full-scale weight); added before the output converter."""
    drift_compensation: Literal["global", "none"]
    """"global": every tile's outputs are multiplied by readout(programmed) / readout(now) in digital."""
    tiles: int = Field(ge=1, le=10**9)
    """Tiles on the chip."""
    columns_per_adc: int = Field(ge=1, le=65536)
    """Columns that share one output converter, converted one after the other."""
    node: Length
    """Process node of the periphery, m."""
    clock: Frequency
    """Clock of the digital unit, Hz."""
    lanes: int = Field(ge=1, le=10**6)
    """Parallel multiply-accumulate lanes of the digital unit."""
    components: str
    """Component table: name of a shipped one, or the path of a TOML (in a file: relative to the file)."""
    sample_hold: str
    """Entry of the sample-and-hold circuit in the component table."""
    sources: dict[str, str] = Field(default_factory=dict)
    """Where the numbers without a source of their own come from, by field name."""

    @classmethod
    def parse(cls, data: Any, *, where: str = "") -> Self:
        """As `Config.parse`; the fields of older designs are refused with their new form."""
        old = [f"{kind}_bits" for kind in ("dac", "adc") if isinstance(data, dict) and f"{kind}_bits" in data]
        if old:
            kind, place = old[0].removesuffix("_bits"), f"{where}: " if where else ""
            example = '{ type = "sar", bits = %s }' if kind == "adc" else '{ type = "capacitive", bits = %s }'
            raise ConfigError(
                f"{place}field {old[0]!r} is gone, a converter owns its resolution; "
                f"write {kind} = {example % data[old[0]]}"
            )
        return super().parse(data, where=where)

    @field_validator("dac", "adc", mode="before")
    @classmethod
    def _named_by_type(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            example = "sar" if info.field_name == "adc" else "capacitive"
            raise ValueError(f'give type and resolution: {info.field_name} = {{ type = "{example}", bits = 8 }}')
        return value

    @field_validator("columns_per_adc")
    @classmethod
    def _shared(cls, count: int, info: ValidationInfo) -> int:
        columns = info.data.get("columns", count)
        if count > columns:
            raise ValueError(f"a tile has only {columns} columns to share one ADC")
        return count

    @field_validator("sources")
    @classmethod
    def _known(cls, sources: dict[str, str]) -> dict[str, str]:
        for field in sources:
            if field not in PLAIN:
                raise ValueError(
                    f"{field!r} is none of the fields without a source of their own: {', '.join(PLAIN)}"
                )
        return sources


class Chip(Config):
    """A design with everything that it refers to, read once: plain data that depends on no file.

    Evaluating, costing and storing a deployment need nothing else. `design.cell` and `design.components` are the
    names of what is embedded here.
    """

    design: Design
    """Sizes, noise, clock."""
    cell: AnyCell
    """The memory cell."""
    dac: AnyConverter
    """The input converter."""
    adc: AnyConverter
    """The output converter."""
    sample_hold: Component
    """The sample-and-hold stage of a column."""
    digital: Digital
    """Arithmetic, memories and bus of the digital unit."""

    @model_validator(mode="after")
    def _one_resolution(self) -> Self:
        for kind in ("dac", "adc"):
            made, named = getattr(self, kind), getattr(self.design, kind)
            if (made.type, made.bits) != (named.type, named.bits):
                raise ValueError(
                    f"its {kind} is not the design's {named.type!r} of {named.bits} bits; resolve again"
                )
        return self

    def product_latency(self, columns: int) -> dict[str, float]:
        """Serial time of one product by component, s, for tiles of which the widest uses so many columns."""
        shared = min(self.design.columns_per_adc, columns)
        return {
            "dac": self.dac.priced().latency.value,
            "cells": self.cell.t_read.value,
            "adc": self.sample_hold.latency.value + shared * self.adc.priced().latency.value,
        }

    def tile_area(self) -> dict[str, float]:
        """Area of one whole tile by component, m2."""
        design = self.design
        converters = math.ceil(design.columns / design.columns_per_adc)
        hold = design.columns * self.sample_hold.area.value
        return {
            "cells": 2 * design.rows * design.columns * self.cell.area.value,
            "dac": design.rows * self.dac.priced().area.value,
            "adc": converters * self.adc.priced().area.value + hold,
        }


def load_design(name: str | Path) -> Design:
    """A shipped design by name, or a user's own TOML by path, whose references become relative to nothing.

        >>> import imc_ssm
        >>> design = imc_ssm.load_design("pcm-256")
        >>> design.with_(adc_bits=6, read_noise=0.02).adc.bits
        6

    Raises `DesignError` (unknown name), `FileError` (not readable) or `ConfigError` (a wrong field).
    """
    data, path = read_entry("designs", name)
    design = Design.parse(data, where=str(path))
    return design.with_(cell=beside(path, design.cell), components=beside(path, design.components))


ENTRIES["designs"] = Design


def load_entry(name: str | Path) -> Cell | Design | Components:
    """A cell, a design or a component table, whichever the shipped name or the TOML at the path is.

    Raises `DesignError` for an unknown name or a TOML that is none of them, else as the loader of its kind.
    """
    loaders: dict[Kind, Any] = {"cells": load_cell, "designs": load_design, "components": load_components}
    if Path(name).suffix == ".toml":
        kind = kind_of(read_toml(device_path("designs", name)))
        if kind is None:
            raise DesignError(f"{name} has no field of a memory cell, a chip design or a component table")
    else:
        known = {n: kind for kind in loaders for n in device_names(kind)}
        if str(name) not in known:
            hint = "a file of your own is given by its path, ending in .toml"
            raise DesignError(f"{unknown('cell, design or component table', str(name), known)}; {hint}")
        kind = known[str(name)]
    loaded: Cell | Design | Components = loaders[kind](name)
    return loaded


def resolve(design: Design | Chip | str | Path) -> Chip:
    """The chip of a design: a shipped name, a path, or a `Design`; a `Chip` is returned as it is.

    Raises as `load_design` does, also for the cell and the component table, and `DesignError` for a converter or
    sample-and-hold that the table does not have, or a table for another node.
    """
    if isinstance(design, Chip):
        return design
    if not isinstance(design, Design):
        design = load_design(design)
    cell, table = load_cell(design.cell), load_components(design.components)
    if not math.isclose(design.node.value, table.node.value, rel_tol=1e-3):
        raise DesignError(
            f"design {design.name!r} has a periphery at {design.node.value * 1e9:g} nm, its component table "
            f"{table.name!r} is for {table.node.value * 1e9:g} nm; name a table for that node"
        )
    parts = {
        "design": design.with_(cell=cell.name, components=table.name),
        "cell": cell,
        "dac": converter("dac", design.dac, table),
        "adc": converter("adc", design.adc, table),
        "sample_hold": table.hold(design.sample_hold),
        "digital": table.digital(),
    }
    return Chip.parse(parts, where=design.name)
