"""What the TOML files of `devices/cells` and `devices/designs` say: a memory cell, a chip of its tiles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from pydantic import Field, ValidationInfo, field_validator, model_validator

from imc_ssm.config import Config
from imc_ssm.devices import Cited, cited, device_path
from imc_ssm.errors import DesignError

if TYPE_CHECKING:  # a type checker sees the class, pydantic the class with its unit and range
    Conductance: TypeAlias = Cited
    Duration: TypeAlias = Cited
    Frequency: TypeAlias = Cited
    Length: TypeAlias = Cited
    Number: TypeAlias = Cited
    Area: TypeAlias = Cited
    Voltage: TypeAlias = Cited
else:
    Conductance = cited("S")
    Duration = cited("s")
    Frequency = cited("Hz", low=1.0)
    Length = cited("m", low=1e-10)
    Number = cited("1")
    Area = cited("m2")
    Voltage = cited("V")

__all__ = ["Cell", "Design", "Times", "load_cell", "load_design"]

WAN_G_MAX = 40e-6
"""S; the polynomials of Wan et al. 2022 (doi:10.1038/s41586-022-04992-8) are fitted for this g_max only."""
WAN_TIMES = (1.0, 86400.0, 172800.0)
"""s; the times after programming at which Wan et al. 2022 measured."""
CMO_ACCEPTANCE = (0.002, 0.02)
"""Relative acceptance ranges of program-and-verify measured by Falcone et al. 2025 (arXiv:2502.04524)."""


class Times(Config):
    """The times after programming, in s, at which a cell's noise model holds."""

    earliest: float = Field(ge=0.0)
    """Earliest time, s."""
    latest: float = Field(gt=0.0)
    """Latest time, s."""
    only: tuple[float, ...] = ()
    """If not empty, the model exists at these times only, s."""
    source: str = Field(min_length=8)
    """Where the range comes from."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.earliest < self.latest:
            raise ValueError(f"earliest = {self.earliest} s must be before latest = {self.latest} s")
        if any(not self.earliest <= time <= self.latest for time in self.only):
            raise ValueError(f"every time of only must lie in [{self.earliest}, {self.latest}] s")
        return self


class Cell(Config):
    """One kind of analog memory device; SI units, every measured number with its source."""

    name: str
    """Name, as in `Design.cell`."""
    kind: Literal["pcm", "reram"]
    """Phase-change memory, or filamentary resistive memory."""
    description: str
    """One line for people."""
    model: Literal["pcm-like", "reram-cmo", "reram-wan2022"]
    """aihwkit's PCMLikeNoiseModel, ReRamCMONoiseModel or ReRamWan2022NoiseModel."""
    g_min: Conductance
    """Lowest conductance a device is programmed to, S; the unused device of a pair stays there."""
    g_max: Conductance
    """Highest conductance a device is programmed to, S."""
    v_read: Voltage
    """Read voltage of a full-scale input, V."""
    t_read: Duration
    """Length of the read pulse of one matrix-vector product, s (not the constant of the 1/f fit)."""
    levels: Number | None = None
    """Distinguishable conductances per device, both ends included; None = continuous."""
    t_0: Duration | None = Field(default=None, validate_default=True)
    """pcm-like only: drift G(t) = G_prog ((t + t_0) / t_0)^-nu starts t_0 after the last pulse, s."""
    acceptance_range: Number | None = Field(default=None, validate_default=True)
    """reram-cmo only: relative half-width of the program-and-verify window, 0.002 or 0.02."""
    times: Times
    """When the noise model holds."""
    area: Area
    """Area of one device with its access transistor, m2."""
    programming_scale: float = Field(default=1.0, ge=0.0)
    """Factor on the published programming noise (0 = none)."""
    read_scale: float = Field(default=1.0, ge=0.0)
    """Factor on the published 1/f read noise of the conductances (0 = none)."""
    drift_scale: float = Field(default=1.0, ge=0.0)
    """Factor on the published drift or relaxation (0 = none)."""
    source: str = Field(min_length=8)
    """The paper of the noise model."""

    # Every noise model has constants of its own; one that aihwkit would ignore or misread is an error here.

    @field_validator("g_max")
    @classmethod
    def _range(cls, g_max: Cited, info: ValidationInfo) -> Cited:
        g_min, model = info.data.get("g_min"), info.data.get("model")
        if g_min is not None and not g_max.value > g_min.value:
            raise ValueError(f"g_max must exceed g_min = {g_min.value} S")
        if model == "reram-wan2022" and not math.isclose(g_max.value, WAN_G_MAX, rel_tol=1e-6):
            raise ValueError(f"model {model!r} is fitted for g_max = {WAN_G_MAX} S only")
        return g_max

    @field_validator("levels")
    @classmethod
    def _levels(cls, levels: Cited | None) -> Cited | None:
        if levels is not None and not (levels.value >= 2 and levels.value == int(levels.value)):
            raise ValueError("give a whole number of levels, at least 2, or leave levels out (continuous)")
        return levels

    @field_validator("t_0", "acceptance_range")
    @classmethod
    def _own_constants(cls, number: Cited | None, info: ValidationInfo) -> Cited | None:
        owner = "pcm-like" if info.field_name == "t_0" else "reram-cmo"
        model = info.data.get("model")
        if number is None:
            if model == owner:
                raise ValueError(f"model {owner!r} needs it")
            return None
        if model is not None and model != owner:
            raise ValueError(f"model {model!r} does not use it (only {owner!r} does)")
        if info.field_name == "t_0" and not number.value > 0:
            raise ValueError("it must be positive")
        if info.field_name == "acceptance_range" and number.value not in CMO_ACCEPTANCE:
            raise ValueError(f"measured are {CMO_ACCEPTANCE} (relative)")
        return number

    @field_validator("times")
    @classmethod
    def _measured(cls, times: Times, info: ValidationInfo) -> Times:
        if info.data.get("model") == "reram-wan2022" and times.only != WAN_TIMES:
            raise ValueError(f"model 'reram-wan2022' exists at these times only: only = {list(WAN_TIMES)} s")
        return times

    @field_validator("read_scale", "drift_scale")
    @classmethod
    def _scales(cls, scale: float, info: ValidationInfo) -> float:
        if info.data.get("model") == "reram-wan2022" and scale != 1.0:
            raise ValueError("model 'reram-wan2022' has one noise: use programming_scale")
        return scale

    def check_time(self, time: float) -> float:
        """`time` in s since programming if the noise model holds there, else `DesignError`."""
        allowed = self.times
        if allowed.only:
            if time not in allowed.only:
                known = ", ".join(f"{t:g} s" for t in allowed.only)
                raise DesignError(
                    f"cell {self.name!r} is measured only at {known} after programming, not at {time:g} s; "
                    f"use one of these times, or a cell whose noise model is continuous in time"
                )
        elif not allowed.earliest <= time <= allowed.latest:
            raise DesignError(
                f"cell {self.name!r} has no model at {time:g} s after programming; "
                f"use a time from {allowed.earliest:g} to {allowed.latest:g} s"
            )
        return float(time)


_PLAIN = ("rows", "columns", "dac_bits", "adc_bits", "tiles", "columns_per_adc", "lanes")
"""Whole numbers of a design; their sources stand in its table `sources`."""


class Design(Config):
    """A chip: tiles of one cell, their converters, and the digital unit beside them."""

    name: str
    """Name of the design."""
    description: str
    """One line for people."""
    cell: str
    """Name of a shipped cell, or the path of a TOML (relative paths: beside the design's file)."""
    rows: int = Field(ge=1, le=65536)
    """Inputs of a tile (word lines)."""
    columns: int = Field(ge=1, le=65536)
    """Signed outputs of a tile; each is a differential pair of bit lines, two devices a weight."""
    dac_bits: int = Field(ge=2, le=16)
    """Input converter: 2^bits - 1 codes, symmetric about zero."""
    adc_bits: int = Field(ge=2, le=16)
    """Output converter: 2^bits - 1 codes, symmetric about zero."""
    read_noise: Number
    """Standard deviation of the Gaussian noise on every column sum of every matrix-vector product, in units
    of (full-scale input) x (full-scale weight); added before the output converter."""
    drift_compensation: Literal["global", "none"]
    """"global": every tile's outputs are multiplied by readout(programmed) / readout(now) in digital."""
    tiles: int = Field(ge=1)
    """Tiles on the chip."""
    columns_per_adc: int = Field(ge=1)
    """Columns that share one output converter, converted one after the other."""
    node: Length
    """Process node of the periphery, m."""
    clock: Frequency
    """Clock of the digital unit, Hz."""
    lanes: int = Field(ge=1)
    """Parallel multiply-accumulate lanes of the digital unit."""
    components: str
    """Component table (name of a shipped one, or a path)."""
    adc: str
    """Entry of the output converter in the component table."""
    dac: str
    """Entry of the input converter in the component table."""
    sample_hold: str
    """Entry of the sample-and-hold circuit in the component table."""
    sources: dict[str, str] = Field(default_factory=dict)
    """Where the whole numbers come from, by field name."""

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
            if field not in _PLAIN:
                raise ValueError(
                    f"{field!r} is none of the fields without a source of their own: {', '.join(_PLAIN)}"
                )
        return sources

    def load_cell(self) -> Cell:
        """The design's memory cell; errors as of `load_cell`."""
        return load_cell(self.cell)


def load_cell(name: str | Path) -> Cell:
    """A shipped cell by name, or a user's own TOML by path.

    Raises `DesignError` (unknown name), `FileError` (not readable) or `ConfigError` (a wrong field).
    """
    return Cell.from_toml(device_path("cells", name))


def load_design(name: str | Path) -> Design:
    """A shipped design by name, or a user's own TOML by path; its cell is checked too.

    Raises as `load_cell` does.
    """
    path = device_path("designs", name)
    design = Design.from_toml(path)
    beside = path.parent / design.cell
    if Path(design.cell).suffix == ".toml" and beside.is_file():
        design = design.model_copy(update={"cell": str(beside)})
    design.load_cell()
    return design
