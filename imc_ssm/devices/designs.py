"""What the TOML files of `devices/designs` say, and the chip that comes of one with all that it refers to."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from imc_ssm.config import Config, read_toml
from imc_ssm.devices.cell import Cell
from imc_ssm.devices.cells import AnyCell, load_cell
from imc_ssm.devices.components import Component, Components, Digital, load_components
from imc_ssm.devices.converters import Adc, AnyConverter, Dac, converter
from imc_ssm.devices.library import (
    ENTRIES,
    Frequency,
    Kind,
    Length,
    Number,
    Pulse,
    Resistance,
    Voltage,
    beside,
    device_names,
    device_path,
    kind_of,
    read_entry,
)
from imc_ssm.errors import ConfigError, DesignError, unknown

__all__ = [
    "PLAIN",
    "Chip",
    "Compensation",
    "Design",
    "Electrics",
    "Slicing",
    "Wires",
    "load_design",
    "load_entry",
    "resolve",
]

PLAIN = ("rows", "columns", "dac", "adc", "tiles", "columns_per_adc", "lanes")
"""Fields of a design without a source of their own; their sources stand in its table `sources`."""
Compensation = Literal["none", "global", "tile", "column"]
"""How drift is compensated."""
CHOICES = ("devices", "polarity", "slicing", "packing", "drift_compensation")
"""Fields that may have one there too."""


class Slicing(Config):
    """The magnitude of a weight cut into digits, each in devices of its own, with a column of its own."""

    cells: int = Field(ge=2, le=16)
    """Number of slices."""
    bits: int = Field(ge=1, le=8)
    """Bits of a slice: a device takes 2^bits conductances, equally spaced from g_min to g_max."""


class Wires(Config):
    """Resistance of the array's wires, which lowers the voltage over devices far from drivers and converters."""

    row: Resistance
    """Resistance of a word line from one cell to the next, ohm."""
    column: Resistance
    """Resistance of a bit line from one cell to the next, ohm."""
    solve: Literal["closed-form", "nodal", "time-stepped"] = "closed-form"
    """How effective conductances are found (`chip.wires`): in closed form, or by exact nodal analysis (slow).
    "time-stepped": aihwkit's model of columns takes their place, with implementation "aihwkit" and row 0."""

    @model_validator(mode="after")
    def _columns_only(self) -> Self:
        if self.solve == "time-stepped" and self.row.value > 0:
            raise ValueError(
                "aihwkit's time-stepped wires are columns; give row the value 0, or solve in closed form"
            )
        return self


class Electrics(Config):
    """Voltages and times of the tiles' circuits, where the laws of `pricing` shall not take their own."""

    analog_supply: Voltage | None = None
    """Supply of converters and amplifiers, V; None: the node's nominal one."""
    logic_supply: Voltage | None = None
    """Supply of drivers and logic beside the array, V; None: the node's nominal one."""
    line_voltage: Voltage | None = None
    """Swing of the word lines that open a row's access devices, V; None: that of `logic_supply`."""
    pulse: Pulse | None = None
    """Longest input pulse, s; None: the cell's `t_read`."""
    conversion_rate: Frequency | None = None
    """Conversions of one output converter in a second, Hz; None: what its law says. It takes the place of `cycle`,
    and is refused for a converter that integrates while a column is read ("cco", "duration", "charge-decrement").
    Taken as given, however fast: the area of a SAR grows with its rate, its energy only as type "sar-survey"."""
    cycle: Pulse | None = None
    """Cycle of a converter that decides step by step (SAR, "sense": a bit; "flash": all; charge-decrement; a count
    of a ramp) or, of "duration", its ramp, s; None: what its law says. A "cco" has none, and leaves it aside."""


class Design(Config):
    """A chip: tiles of one cell, their converters, and the digital unit beside them."""

    name: str
    """Name of the design."""
    description: str
    """One line for people."""
    cell: str
    """Memory cell: name of a shipped one, or the path of a TOML (in a file: relative to the file)."""
    rows: int = Field(ge=1, le=65536)
    """Inputs of a tile (word lines)."""
    columns: int = Field(ge=1, le=65536)
    """Signed outputs of a tile, each converted by itself; a slice of a weight takes one."""
    devices: int = Field(1, ge=1, le=16)
    """Devices of one polarity of a weight (or slice), whose currents add up."""
    polarity: Literal["pair", "reference"] = "pair"
    """"pair": every weight has devices that add and devices that subtract, on two bit lines. "reference": it has
    those of one bit line, of which a column of devices in the middle of the range is subtracted, one for each
    column block of a matrix."""
    slicing: Slicing | None = None
    """Weights cut into digits on columns of their own, shifted and added after conversion; None: whole weights."""
    wires: Wires | None = None
    """Resistance of the wires; None: none. Parts of matrices lie at the drivers and converters of their tiles."""
    packing: bool = False
    """Whether several matrices may share a tile, side by side, running one after the other; if not, each part of
    a matrix has a tile of its own."""
    dac: Dac
    """Input converter, one a row: `{ type = "capacitive", bits = 8, encoding = "amplitude" }`."""
    adc: Adc
    """Output converter: `{ type = "sar", bits = 8 }`, with its errors (`converters.Adc`)."""
    read_noise: Number
    """Standard deviation of the Gaussian noise on every column sum of every matrix-vector product, in units
    of (full-scale input) x (full-scale weight); added before the output converter."""
    drift_compensation: Compensation
    """The factor that outputs are multiplied with in digital (`chip.factors`): of each tile from mean magnitudes
    ("global"), of each tile or of each of its columns from least squares, or none."""
    tiles: int = Field(ge=1, le=10**9)
    """Tiles on the chip."""
    columns_per_adc: int = Field(ge=1, le=65536)
    """Columns that share one output converter, converted one after the other."""
    node: Length
    """Process node of the periphery, m."""
    clock: Frequency
    """Clock of the digital unit, Hz. No cycle is shorter than the slowest stage of the component table (adder,
    multiplier, register; the look-up table by itself): a clock faster than that changes no cost."""
    lanes: int = Field(ge=1, le=10**6)
    """Parallel multiply-accumulate lanes of the digital unit."""
    components: str
    """Component table: name of a shipped one, or the path of a TOML (in a file: relative to the file)."""
    sample_hold: str
    """Entry of the sample-and-hold circuit in the component table."""
    electrics: Electrics = Field(default_factory=Electrics)
    """Voltages and times that prices follow from."""
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

    @model_validator(mode="after")
    def _wide_enough(self) -> Self:
        if self.slices > self.columns:
            raise ValueError(f"a weight of {self.slices} slices does not fit {self.columns} columns of a tile")
        return self

    @property
    def slices(self) -> int:
        """Slices of a weight."""
        return 1 if self.slicing is None else self.slicing.cells

    @property
    def bit_lines(self) -> int:
        """Bit lines of a tile; a reference takes as many as one column."""
        if self.polarity == "pair":
            return 2 * self.devices * self.columns
        return self.devices * (self.columns + self.slices)

    @field_validator("sources")
    @classmethod
    def _known(cls, sources: dict[str, str]) -> dict[str, str]:
        for field in sources:
            if field not in PLAIN + CHOICES:
                raise ValueError(
                    f"{field!r} is none of the fields without a source of their own: {', '.join(PLAIN + CHOICES)}"
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
            if any(getattr(made, field) != value for field, value in named):
                raise ValueError(
                    f"its {kind} is not the design's {named.type!r} of {named.bits} bits; resolve again"
                )
        return self

    @model_validator(mode="after")
    def _fine_enough(self) -> Self:
        cut, levels = self.design.slicing, self.cell.levels
        if cut is not None and levels is not None and 2**cut.bits > levels.value:
            raise ValueError(
                f"slices of {cut.bits} bits need {2**cut.bits} levels a device, cell {self.cell.name!r} has "
                f"{levels.value:g}; use slices of fewer bits"
            )
        return self


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


def design_toml(design: Design, folder: Path | None = None) -> str:
    """A design as TOML for a file in `folder`, which `load_design` reads back as the same chip.

    Paths of cells and component tables of one's own become relative to the folder; None: absolute, for a file
    that may lie anywhere.
    """
    import tomli_w

    def placed(reference: str) -> str:
        if Path(reference).suffix != ".toml":
            return reference
        whole = Path(reference).resolve()
        return str(whole) if folder is None else os.path.relpath(whole, Path(folder).resolve())

    own = design.with_(cell=placed(design.cell), components=placed(design.components))
    return tomli_w.dumps(own.model_dump(mode="json", exclude_none=True))


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
        if kind == "macros":
            raise DesignError(f"{name} is a macro; imc-ssm cost --macro {name} predicts it")
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
