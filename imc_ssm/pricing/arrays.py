"""The analog array: what cells, lines, inputs and converters of one matrix-vector product take, and how long.

A product reads the array `phases` times `pulses` times: bit by bit there is a pulse a magnitude bit (mean of the
inputs a: the mean bit), widths come as one pulse (a: mean width), amplitudes too (a: mean square), numbers of
pulses as (2^b - 1) mean input pulses. With R rows, C columns of cells of pitch d, pulse t:

    cells, resistive   phases pulses V_read^2 a t          per S of conductance in use
    cells, capacitive  pulses cell_cap area V^2            per cell; no data dependence
    cells, discharge   pulses d (wire_cap + junction_cap) V^2/2   per cell: half of the bit line's swing
    word line          phases pulses a driver_self C (d wire_cap + gate_cap access_width node) V_line^2   per row
    bit line           phases pulses R d wire_cap V_read^2                                       per column
    inputs             by circuit (`pricing.inputs`): widths are compared to a counter, amplitudes take capacitors
    settling           (n + 1) ln 2 (driver_res + R_wire / 2) C_line: the pulse is at least as long

Word lines that run along the outputs (NeuRRAM) toggle with every pulse, whatever the input is.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from imc_ssm.errors import ConfigError
from imc_ssm.pricing.inputs import BY_CODING, input_of
from imc_ssm.pricing.intervals import Number, Values, least, most
from imc_ssm.pricing.nodes import leakage_density
from imc_ssm.pricing.presets import INTEGRATING, preset_of

__all__ = ["ArrayPrices", "ArraySpec", "held", "prices"]

SIGMAS = 3.0
"""Full scale of Gaussian inputs, in deviations."""


@dataclass(frozen=True)
class ArraySpec:
    """An array with its inputs and converters, in SI units. What a constant stands for may be scenarios."""

    cell: str
    """"resistive", "capacitive" or "discharge"."""
    coding: str
    """"bit-serial", "pulse-width", "pulse-count" or "amplitude"."""
    rows: int
    """Rows of cells, physical."""
    columns: int
    """Columns that are converted in one product."""
    cells_per_row: int
    """Cells on one word line."""
    cell_area: Number
    """m2."""
    node: float
    """m, of the array."""
    v_read: Number
    """V over a cell that is read."""
    v_logic: Number
    """V, supply of logic and drivers."""
    v_analog: Number
    """V, supply of the converters."""
    g_mean: Number
    """S, mean conductance of a cell; nothing here depends on it."""
    in_bits: int
    """Bits of an input."""
    out_bits: int
    """Bits of one conversion."""
    adc: str
    """Converter preset."""
    pulse: Number = 0.0
    """s for which one pulse reads a cell (of widths the longest)."""
    in_signed: bool = False
    """Whether one input bit is the sign."""
    weight_bits: int = 8
    """Bits of a weight."""
    lines_per_column: int = 1
    """Bit lines of a converted column."""
    node_periphery: float = 0.0
    """m, of the converters; 0: that of the array."""
    v_line: Number = None
    """V, swing of a word line; None: `v_logic`."""
    activity: float | None = None
    """Mean input in its coding; None: of Gaussian inputs, full scale at three deviations."""
    dac: str = ""
    """Input circuit, of `pricing.inputs`; "": that of the coding."""
    phases: int = 1
    """Repetitions of all of it for one product."""
    phase_bits: tuple[int, ...] | None = None
    """Magnitude bits of each integration, of charge-decrement converters; None: all in one."""
    share: int = 1
    """Columns that one converter converts one after the other."""
    adc_rate: float | None = None
    """Conversions per second, Hz, of a converter that does not integrate; None: by law."""
    t_cycle: float | None = None
    """s of one cycle of a converter that has cycles; of a duration converter its ramp. None: by constant."""
    t_step: float | None = None
    """s of one integration of charge-decrement converters; None: by constant."""
    period: float | None = None
    """s from one product to the next; None: by law."""
    word_lines_along_outputs: bool = False
    """Whether word lines run along the outputs."""

    def __post_init__(self) -> None:
        if not self.node_periphery:
            object.__setattr__(self, "node_periphery", self.node)
        if self.v_line is None:
            object.__setattr__(self, "v_line", self.v_logic)

    @property
    def magnitude(self) -> int:
        """Bits of an input without its sign; at least 1."""
        return max(self.in_bits - self.in_signed, 1)

    @property
    def mean_input(self) -> float:
        """Mean of the inputs in their coding, in [0, 1]."""
        if self.activity is not None:
            return self.activity
        if self.coding == "bit-serial":
            return mean_bit(self.magnitude) if self.in_signed else 0.5
        return {"pulse-width": math.sqrt(2 / math.pi) / SIGMAS, "pulse-count": 0.5}.get(self.coding, 1 / SIGMAS**2)

    @property
    def pulses(self) -> float:
        """Read pulses of one input in one phase; of numbers of pulses the mean."""
        if self.coding == "bit-serial":
            return float(self.magnitude)
        return (2**self.in_bits - 1) * self.mean_input if self.coding == "pulse-count" else 1.0


@functools.cache
def mean_bit(bits: int) -> float:
    """Mean of the magnitude bits of Gaussian inputs, rounded to codes, full scale at three deviations."""
    bits = min(bits, 12)
    top = 2**bits - 1

    def below(code: float) -> float:
        return math.erf(min(code / top, 1.0) * SIGMAS / math.sqrt(2)) if code < top else 1.0

    share = (below(code + 0.5) - below(code - 0.5) if code else below(0.5) for code in range(top + 1))
    return sum(p * code.bit_count() for code, p in enumerate(share)) / bits


@dataclass(frozen=True)
class ArrayPrices:
    """What one product takes, by what it is counted with; J, s, m2."""

    driver: Number
    """J per driven row: the input's circuit."""
    word_line: Number
    """J per driven row."""
    bit_line: Number
    """J per converted column."""
    convert: Number
    """J per converted column, all pulses and phases."""
    hold: Number
    """J per converted column."""
    siemens: Number
    """J per S of conductance in use."""
    cell: Number
    """J per cell in use, capacitive and discharge."""
    control: Number
    """1, share of all the above."""
    conversions: int
    """Conversions of a column in one product."""
    leakage_density: Number
    """W/m2 of the array's area; of memristive cells nothing leaks, so of the area beside them."""
    pulse_time: Number
    """s of one pulse: as given, or as long as the line takes to settle."""
    settle: Number
    """s that a line takes to settle to half a step of the converter."""
    integration: Number
    """s that a column is read before one conversion: a pulse, or as long as its converter integrates."""
    convert_time: Number
    """s of one conversion after its pulse."""
    phase_time: Number
    """s from one pulse's conversion to the next."""
    product_time: Number
    """s from the inputs to the last output."""
    period: Number
    """s from one product to the next."""
    area_cell: Number
    """m2 of a cell."""
    area_row: Number
    """m2 of a row's driver."""
    area_input: Number
    """m2 of the input circuit of a row that is driven."""
    area_column: Number
    """m2 of a column's drivers."""
    area_converter: Number
    """m2 of a converter."""
    overhead: Number
    """Area of the array over that of its counted parts, at least 1."""


def prices(spec: ArraySpec, k: Values) -> ArrayPrices:
    """The prices of an array from constants.

    Raises `ConfigError` for an unknown converter or input circuit, and for a rate of a converter that integrates.
    """
    preset = preset_of(spec.adc)
    if spec.adc_rate is not None and not held(spec.adc):
        raise ConfigError(
            f"{spec.adc_rate:g} conversions a second: a converter of type {spec.adc!r} integrates while a column "
            "is read, and takes as long as its pulse and its counts; give those, and no rate"
        )
    phases, pulses, mean = spec.phases, spec.pulses, spec.mean_input
    pitch = spec.cell_area**0.5
    settle = _settle(spec, k, pitch)
    pulse = most(spec.pulse, settle)
    found = preset(spec, k, pulse * (2**spec.in_bits - 1) if spec.coding == "pulse-count" else pulse)
    driven = input_of(spec.dac or BY_CODING.get(spec.coding, "driver"))(spec, k)
    serial = spec.magnitude if spec.coding == "bit-serial" and preset.serial else 1
    conversions = phases * serial
    one = _phase_time(spec, pulse, found.time, found.integration)
    # Where the next pulse reads while columns are converted, the first pulse or the last conversions stand alone.
    behind = least(pulse, spec.share * found.time) if _overlaps(spec) else 0.0
    # Of widths and amplitudes every line rises once; of bits and counted pulses with those that are there.
    # Rows come once for each column that an integrator is shared by; columns that are not read carry no current.
    reads = 1 if held(spec.adc) else spec.share
    toggles = reads * phases * pulses * (mean if spec.coding == "bit-serial" else 1.0)
    if spec.word_lines_along_outputs:
        word_line: Number = 0.0
        bit_line = phases * pulses * _line(spec, k, spec.rows, pitch, True) * k.driver_self * spec.v_line**2
        driver = reads * driven.energy
        driver = driver + toggles * spec.cells_per_row * pitch * k.wire_cap * k.driver_self * spec.v_read**2
    else:
        gates = spec.cell != "capacitive"
        word_line = toggles * _line(spec, k, spec.cells_per_row, pitch, gates) * k.driver_self * spec.v_line**2
        bit_line = phases * pulses * spec.rows * pitch * k.wire_cap * spec.v_read**2 * spec.lines_per_column
        if spec.cell == "discharge":  # in the price of its cells
            bit_line = 0.0
        driver = reads * driven.energy
    return ArrayPrices(
        driver=driver,
        word_line=word_line,
        bit_line=bit_line,
        convert=conversions * found.energy,
        hold=conversions * k.hold if spec.share > 1 else 0.0,
        siemens=phases * pulses * spec.v_read**2 * (1.0 if spec.coding == "pulse-count" else mean) * pulse,
        cell=_cell(spec, k, pitch),
        control=k.control,
        conversions=conversions,
        leakage_density=leakage_density(k, spec.node),
        pulse_time=pulse,
        settle=settle,
        integration=found.integration,
        convert_time=found.time,
        phase_time=one,
        product_time=conversions * one + behind,
        period=spec.period if spec.period is not None else conversions * one,
        area_cell=spec.cell_area,
        area_row=k.line_area * spec.node**2,
        area_input=driven.area,
        area_column=2 * k.line_area * spec.node**2 if spec.word_lines_along_outputs else 0.0,
        area_converter=found.area,
        overhead=1.0 / k.utilised_area,
    )


def _line(spec: ArraySpec, k: Values, cells: int, pitch: Number, gates: bool) -> Number:
    """F of a line along so many cells: wire, and the gates of access transistors."""
    gate = k.gate_cap * k.access_width * spec.node if gates else 0.0
    return cells * (pitch * k.wire_cap + gate)


def _settle(spec: ArraySpec, k: Values, pitch: Number) -> Number:
    """s that the longer line, wires two nodes wide and four high, takes to half a step of the converter."""
    cells = max(spec.cells_per_row, spec.rows)
    resistance = k.driver_res + 0.5 * cells * pitch * k.wire_rho / (8 * spec.node**2)
    line = _line(spec, k, cells, pitch, spec.cell == "resistive")
    return (spec.out_bits + 1) * math.log(2) * resistance * line


def _phase_time(spec: ArraySpec, pulse: Number, convert: Number, integration: Number) -> Number:
    """s from one pulse to the next: converters that integrate read one column after the other, since a current
    cannot be held; charge on capacitors settles within the conversion; elsewhere columns are read, then converted,
    and that overlaps with the next pulse where there is one."""
    if not held(spec.adc):
        return spec.share * (integration + convert)
    if spec.cell == "capacitive":
        return spec.share * convert
    if _overlaps(spec):
        return most(pulse, spec.share * convert)
    return integration + spec.share * convert


def held(adc: str) -> bool:
    """Whether a column is sampled and then converted; else the converter integrates its current."""
    return adc not in INTEGRATING


def _overlaps(spec: ArraySpec) -> bool:
    """Whether a held column is converted while the next pulse reads."""
    return held(spec.adc) and spec.cell != "capacitive" and spec.coding != "pulse-count"


def _cell(spec: ArraySpec, k: Values, pitch: Number) -> Number:
    """J per cell in use, in one product."""
    pulses = spec.phases * (spec.magnitude if spec.coding == "bit-serial" else 1)
    if spec.cell == "capacitive":
        return pulses * k.cell_cap * spec.cell_area * spec.v_read**2
    if spec.cell == "discharge":
        return pulses * 0.5 * pitch * (k.wire_cap + k.junction_cap) * spec.v_read**2
    return 0.0
