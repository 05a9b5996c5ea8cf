"""A macro as papers describe one: arrays, voltages, words, converters; read from a TOML (`devices/macros`).

The entries of a paper's table are enough: what a file leaves out comes from the constants, with their range, or is
the usual choice for such a device. Every prediction says what that was (`prediction.defaulted`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from imc_ssm.config import Config
from imc_ssm.devices.library import device_names, read_entry
from imc_ssm.errors import unknown

__all__ = ["Macro", "MacroLayer", "Published", "Workload", "load_macro", "macro_names"]

SAME = {"rram": "reram", "pwm": "pulse-width", "csa": "sense", "oscillator": "cco", "vco": "cco"}
"""Other names of devices, codings and converters."""
INTEGRATING = ("cco", "duration")
"""Converters that count or ramp as long as the column integrates: inputs are pulse widths."""
GATES = {"dense": (0, 0, 0, 1), "lstm": (3, 1, 5, 4), "gru": (3, 3, 3, 3)}
"""Per output: products, sums, table accesses; and columns. LSTM: c = f c + i g, h = o tanh c (products f c, i g, o
tanh; one sum; four gates and tanh c). GRU: r h, (1 - z) n + z h; candidate n has its recurrent part apart."""


class Published(Config):
    """What a paper says of the macro, to compare with."""

    source: str = Field(min_length=8)
    """Paper (with DOI or arXiv number), table, or who read it off."""
    scope: str = Field(min_length=3)
    """What is inside: array alone, macro, chip; measured, simulated or projected."""
    energy: float | None = Field(None, gt=0)
    """Energy of one product of one array; with a workload that of one step, J."""
    latency: float | None = Field(None, gt=0)
    """Time from inputs to outputs of one product; with a workload of one step, s."""
    tops: float | None = Field(None, gt=0)
    """Throughput of all arrays, 1e12 operations (two a multiply-accumulate) per second."""
    tops_per_watt: float | None = Field(None, gt=0)
    """Operations per energy, 1e12 per joule."""
    tops_per_mm2: float | None = Field(None, gt=0)
    """Throughput by area, 1e12 operations per second and mm2."""
    area: float | None = Field(None, gt=0)
    """Area of all arrays with what belongs to the scope, m2."""
    notes: dict[str, str] = Field(default_factory=dict)
    """By field: how a number was derived, or another source."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        fields = ("energy", "latency", "tops", "tops_per_watt", "tops_per_mm2", "area")
        if all(getattr(self, name) is None for name in fields):
            raise ValueError(f"nothing is published in it; give one of {', '.join(fields)}")
        for name in self.notes:
            if name not in fields:
                raise ValueError(unknown("published quantity", name, fields))
        return self


class MacroLayer(Config):
    """A layer whose weights lie in arrays: a matrix, or the matrices of a recurrent cell, side by side."""

    name: str
    """Name of the layer."""
    kind: Literal["dense", "lstm", "gru"] = "dense"
    """"dense": one matrix. "lstm": (inputs + outputs) rows, 4 outputs columns, and the gates' operations; "gru": 3
    outputs columns."""
    inputs: int = Field(ge=1, le=10**7)
    """Inputs of the layer; the recurrent ones of a cell are its outputs, and not among them."""
    outputs: int = Field(ge=1, le=10**7)
    """Outputs; the hidden units of a recurrent cell."""
    tiles: int | None = Field(None, ge=1, le=10**7)
    """Arrays that hold it; None: as many as a dense packing needs."""
    products: int = Field(1, ge=1, le=10**9)
    """Times that it is used in a step (positions of a convolution)."""

    @property
    def rows(self) -> int:
        """Rows of its weights."""
        return self.inputs + (0 if self.kind == "dense" else self.outputs)

    @property
    def columns(self) -> int:
        """Columns of its weights."""
        return self.outputs * GATES[self.kind][3]

    @property
    def gates(self) -> tuple[int, int, int]:
        """Products, sums and table accesses beside the matrices, in a step."""
        products, sums, lookups, _ = GATES[self.kind]
        return (self.outputs * products, self.outputs * sums, self.outputs * lookups)


class Workload(Config):
    """What is executed in one step, such as a time step of an LSTM over several arrays."""

    layers: list[MacroLayer] = Field(min_length=1)
    """In the order of their use: one after the other within a step."""
    tiles: int | None = Field(None, ge=1, le=10**7)
    """Arrays that run in every step, with weights or without; None: those of the layers."""
    gates: bool = True
    """Whether the gates' operations and sums over arrays are done, and paid, on this chip."""

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [layer.name for layer in self.layers]
        if len({*names}) < len(names):
            raise ValueError("two layers have the same name; give each its own")
        return self


class Macro(Config):
    """A macro, or a chip of macros: SI units; None where the law or the usual choice takes its place."""

    name: str
    """Name, as papers call it."""
    description: str = ""
    """One line for people."""
    source: str = Field("", min_length=0)
    """Where its facts were read: paper with DOI or arXiv number."""
    sources: dict[str, str] = Field(default_factory=dict)
    """By field: other sources, and how a number was derived."""
    family: str = ""
    """Macros of the same circuits: constants taken from one do not predict another blindly."""

    device: Literal["pcm", "reram", "mram", "fefet", "flash", "sram"]
    """The memory device."""
    cell: Literal["resistive", "capacitive", "discharge"] | None = None
    """How a cell multiplies: by its conductance (SRAM too, where its current is static), by charging a capacitor,
    by discharging its bit line. None: resistive; of SRAM capacitive."""
    rows: int = Field(ge=1, le=65536)
    """Rows of an array, as its paper counts them (physical)."""
    columns: int = Field(ge=1, le=65536)
    """Columns of cells of an array."""
    arrays: int = Field(1, ge=1, le=10**7)
    """Arrays that work side by side."""
    rows_on: int | None = Field(None, ge=1, le=65536)
    """Rows that are driven at once, in one product; None: all."""
    columns_on: int | None = Field(None, ge=1, le=65536)
    """Columns that are read in one product; None: all."""
    rows_per_weight: int = Field(1, ge=1, le=64)
    """Rows of a weight: 2 where pairs lie along a column."""
    columns_per_weight: int | None = Field(None, ge=1, le=64)
    """Columns of a weight: its pair, its slices or bits. None: 1; of SRAM one a weight bit."""
    columns_per_conversion: int | None = Field(None, ge=1, le=64)
    """Columns that are joined before they are converted. None: those of a weight where inputs are amplitudes or
    pulses, 1 where they come bit by bit."""
    cell_area: float | None = Field(None, gt=1e-18, lt=1e-8)
    """Area of a cell, m2; None: by cell and node."""

    node: float = Field(gt=1e-9, lt=1e-5)
    """Process node of the array, m."""
    node_periphery: float | None = Field(None, gt=1e-9, lt=1e-5)
    """Process node of the converters, m; None: that of the array."""
    supply: float | None = Field(None, gt=0.1, lt=20)
    """Supply of logic and drivers, V; None: the nominal one of the node."""
    supply_analog: float | None = Field(None, gt=0.1, lt=20)
    """Supply of the converters, V; None: `supply`, or the nominal one of the periphery's node."""
    read_voltage: float | None = Field(None, gt=0.001, lt=20)
    """Voltage over a cell that is read, V; None: of the usual read of a memristive cell; `supply` for SRAM."""
    line_voltage: float | None = Field(None, gt=0.01, lt=20)
    """Swing of a word line, V; None: `supply`."""

    in_bits: int = Field(ge=1, le=32)
    """Bits of an input."""
    in_signed: bool = False
    """Whether one of them is the sign, which is no pulse of its own."""
    weight_bits: int = Field(ge=1, le=32)
    """Bits of a weight."""
    out_bits: int = Field(ge=1, le=24)
    """Bits of one conversion."""
    coding: Literal["bit-serial", "pulse-width", "pulse-count", "amplitude"] | None = None
    """How inputs come: bit by bit, as widths, numbers or heights of pulses. None: widths for converters that
    integrate, else bit by bit."""
    pulse_bits: int = Field(1, ge=1, le=8)
    """Input bits of one pulse, where they come bit by bit."""
    activity: float | None = Field(None, ge=0, le=1)
    """Mean input in its coding: share of ones, mean width, mean squared height; None: of Gaussian inputs."""
    phases: int = Field(1, ge=1, le=64)
    """Times that all is repeated for one product (signs of inputs, polarities of weights)."""
    phase_bits: list[int] | None = Field(None, min_length=1, max_length=16)
    """Of a charge-decrement converter: magnitude bits of each integration; None: all in one."""

    adc: str
    """Converter preset: sar, sar-survey, cco, duration, charge-decrement, ramp, flash."""
    share: int | None = Field(None, ge=1, le=65536)
    """Conversions that one converter does one after the other; None: 1."""
    adc_rate: float | None = Field(None, gt=1, lt=1e12)
    """Conversions per second of one converter, Hz; None: by its law."""
    cycle: float | None = Field(None, ge=0, lt=1)
    """Of a converter that decides in cycles, one of them, s; of a duration converter its ramp. None: by constant;
    a ramp as long as the pulse."""
    step: float | None = Field(None, gt=1e-12, lt=1)
    """Of a charge-decrement converter: one integration, s; None: by constant."""
    affine: bool = False
    """Whether every output is scaled and shifted in the macro."""
    pulse: float | None = Field(None, gt=0, lt=1)
    """Time for which a cell is read by one pulse; of pulse widths the longest, s. None: the usual one."""
    period: float | None = Field(None, gt=0, lt=1)
    """Time from one product (or step) to the next as the paper has it, s; None: by law."""
    word_lines_along_outputs: bool = False
    """Whether the word lines run along the outputs, so that all toggle with every input pulse."""

    g_min: float | None = Field(None, ge=0, lt=1)
    """Lowest conductance of a cell, S."""
    g_max: float | None = Field(None, gt=0, lt=1)
    """Highest conductance of a cell, S; None: the usual one of the device."""
    g_mean: float | None = Field(None, gt=0, lt=1)
    """Mean conductance of a cell, S; None: of Gaussian weights, the largest of a column at full scale."""
    differential: bool = True
    """Whether of two cells of a weight one holds it and the other is at `g_min` (for the mean conductance)."""

    scope: Literal["macro", "chip"] = "macro"
    """"chip": with the power of its tiles' control and of its links; "macro": without."""
    arrays_per_tile: int = Field(1, ge=1, le=10**6)
    """Arrays that share the control and buffers of a tile."""
    io_bits: int = Field(0, ge=0, le=10**9)
    """Bits that a product moves between array and buffer."""
    link_rate: float = Field(0.0, ge=0, lt=1e16)
    """Rate of the chip's links, bit/s, which are on all the time."""
    tile_area: float = Field(0.0, ge=0, lt=1e-2)
    """Area of a tile beside its arrays, m2."""

    workload: Workload | None = None
    """What is executed per step; None: single products."""
    published: Published | None = None
    """What was published, to compare with."""

    @field_validator("device", "cell", "coding", "adc", mode="before")
    @classmethod
    def _as_written(cls, value: Any) -> Any:
        """As papers write it: "ReRAM", "SAR", "PWM"."""
        word = value.strip().lower() if isinstance(value, str) else value
        return SAME.get(word, word) if isinstance(word, str) else word

    @field_validator("node", "node_periphery", mode="before")
    @classmethod
    def _in_metres(cls, value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value <= 1000:
            raise ValueError(f"lengths are in m; give {value:g}e-9 for {value:g} nm")
        return value

    @field_validator("sources")
    @classmethod
    def _fields(cls, sources: dict[str, str]) -> dict[str, str]:
        for field in sources:
            if field not in cls.model_fields:
                raise ValueError(unknown("field", field, cls.model_fields))
        return sources

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for on, whole, word in ((self.driven, self.rows, "rows"), (self.read, self.columns, "columns")):
            if on > whole:
                raise ValueError(f"{word}_on = {on} of {whole} {word}; give at most all")
        for what, count, whole in (
            ("rows_per_weight", self.rows_per_weight, self.driven),
            ("columns_per_weight", self.weight_columns, self.read),
            ("columns_per_conversion", self.joined, self.read),
        ):
            if whole % count:
                raise ValueError(f"{what} = {count} does not divide the {whole} that are on")
        if self.shared > self.conversions:
            raise ValueError(f"share = {self.shared}, but a product takes {self.conversions} conversions")
        if self.kind == "resistive" and self.device not in ("pcm", "reram") and self.g_max is self.g_mean is None:
            raise ValueError(f"no conductance is usual for {self.device}; give g_max or g_mean")
        if self.workload is not None and (need := self.needed) > self.arrays and self.workload.tiles is None:
            raise ValueError(
                f"its layers take {need} arrays of {self.arrays}; give more arrays, or the tiles of each layer"
            )
        if self.g_max is not None and (self.g_min or 0.0) > self.g_max:
            raise ValueError(f"g_min = {self.g_min} S is above g_max = {self.g_max} S")
        return self

    # ---------------------------------------------------------------- what follows from the fields
    @property
    def kind(self) -> str:
        """How a cell multiplies."""
        return self.cell or ("capacitive" if self.device == "sram" else "resistive")

    @property
    def coded(self) -> str:
        """How inputs come."""
        return self.coding or ("pulse-width" if self.adc in INTEGRATING else "bit-serial")

    @property
    def driven(self) -> int:
        """Rows of one product."""
        return self.rows if self.rows_on is None else self.rows_on

    @property
    def read(self) -> int:
        """Columns of one product."""
        return self.columns if self.columns_on is None else self.columns_on

    @property
    def weight_columns(self) -> int:
        """Columns of a weight."""
        if self.columns_per_weight is not None:
            return self.columns_per_weight
        return self.weight_bits if self.device == "sram" else 1

    @property
    def joined(self) -> int:
        """Columns that are converted together."""
        if self.columns_per_conversion is not None:
            return self.columns_per_conversion
        return 1 if self.coded == "bit-serial" else self.weight_columns

    @property
    def conversions(self) -> int:
        """Converted columns of one product."""
        return self.read // self.joined

    @property
    def shared(self) -> int:
        """Conversions of a converter in one product."""
        return 1 if self.share is None else self.share

    @property
    def inputs(self) -> int:
        """Inputs of one product of an array."""
        return self.driven // self.rows_per_weight

    @property
    def outputs(self) -> int:
        """Outputs of one product of an array."""
        return self.read // self.weight_columns

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one product of an array."""
        return self.inputs * self.outputs

    @property
    def needed(self) -> int:
        """Arrays that the layers of the workload take."""
        return sum(self.tiles_of(layer) for layer in self.workload.layers) if self.workload is not None else 0

    def tiles_of(self, layer: MacroLayer) -> int:
        """Arrays that a layer takes, packed densely: each array holds rows x columns of weights, all of them."""
        if layer.tiles is not None:
            return layer.tiles
        held = (self.rows // self.rows_per_weight, self.columns // self.weight_columns)
        return math.ceil(layer.rows / held[0]) * math.ceil(layer.columns / held[1])

    def choices(self) -> dict[str, str]:
        """What was not given and is the usual choice for such a macro, in words; numbers are in `assumed`."""
        usual = {
            "cell": self.kind if self.device == "sram" else "",
            "coding": self.coded,
            "columns_per_weight": self.weight_columns if self.device == "sram" and self.weight_bits > 1 else "",
            "columns_per_conversion": self.joined if self.weight_columns > 1 else "",
            "share": "a converter for every conversion",
        }
        return {field: str(words) for field, words in usual.items() if words and getattr(self, field) is None}


def macro_names() -> list[str]:
    """The shipped macros."""
    return device_names("macros")


def load_macro(name: str | Path) -> Macro:
    """The macro of a shipped name or of a user's own TOML.

    Raises `DesignError` for an unknown name or another kind of file, `FileError` or `ConfigError` for a wrong one.
    """
    data, path = read_entry("macros", name)
    return Macro.parse(data, where=str(path))
