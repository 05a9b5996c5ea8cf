"""From a weight matrix to targets on tiles: splitting, column scales, differential pairs, levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from imc_ssm.chip.layout import layout_of
from imc_ssm.chip.packing import check_tiles
from imc_ssm.devices import Chip
from imc_ssm.errors import ConfigError, DataError, DesignError, brief, shown
from imc_ssm.fixedpoint.requantization import CONSTANT_BITS, MULTIPLIER_BITS
from imc_ssm.graph import Action, Rate, grown
from imc_ssm.graph.actions import Actions
from imc_ssm.kernels import full_scale

__all__ = [
    "MappedMatrix",
    "Tile",
    "Wired",
    "column_sums",
    "map_matrix",
    "tiles_needed",
    "with_output_ranges",
]

Floats = npt.NDArray[np.float32]
Block = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Tile:
    """One tile's part of a matrix."""

    row: tuple[int, int]
    """Half-open range of the matrix's inputs."""
    column: tuple[int, int]
    """Half-open range of the matrix's outputs."""
    output_range: float
    """ADC full scale, in units of the normalised column sum sum_i d_i w_ij: d the drive of a pulse in full
    voltages, w the weights of the slice."""
    slice: int = 0
    """Which slice of the weights; the slices of one part of a matrix share a tile."""


@dataclass(frozen=True, eq=False)
class Wired:
    """A matrix without the rows and columns that are zero: they have no devices, drivers and converters."""

    rows: npt.NDArray[np.int64]
    """(inputs,), rising: which of the operator's inputs drive a row."""
    columns: npt.NDArray[np.int64]
    """(outputs,), rising: which of its outputs have a column."""
    idle: Floats
    """(outputs of the operator,): what an output without a column is, its bias or 0; elsewhere 0."""
    width: int
    """Inputs of the operator."""

    __repr__ = brief

    def __post_init__(self) -> None:
        """`DesignError` for places that an operator does not have."""
        for own, size in ((self.rows, self.width), (self.columns, len(self.idle))):
            fits = own.ndim == 1 and own.size and own.dtype.kind == "i" and own[0] >= 0 and own[-1] < size
            if not (fits and (np.diff(own) > 0).all()):
                raise DesignError(
                    f"rows or columns in use are {shown(own)}; needed are rising numbers below {size}"
                )
        if not np.isfinite(self.idle).all():
            raise DesignError(f"outputs without a column are {shown(self.idle)}; needed are finite numbers")

    @classmethod
    def of(cls, weight: npt.NDArray[Any], bias: npt.NDArray[Any] | None) -> Wired | None:
        """What is in use of a weight (outputs, inputs), one row and column at least; None: everything."""
        there = weight != 0
        rows, columns = there.any(axis=0), there.any(axis=1)
        if rows.all() and columns.all():
            return None
        rows[0] |= not rows.any()
        columns[0] |= not columns.any()
        idle = (
            np.zeros(len(columns), np.float32) if bias is None else np.where(columns, 0, bias).astype(np.float32)
        )
        return cls(np.flatnonzero(rows), np.flatnonzero(columns), idle, len(rows))


@dataclass(frozen=True, eq=False)
class MappedMatrix:
    """A weight matrix as it will be programmed: W[j, i] = target[i, j] scale[j], up to the cell's levels."""

    name: str
    """Name, unique on the chip; no number depends on it."""
    module: str
    """Dotted path of the module that owns the weight."""
    target: Floats
    """(inputs, outputs) in [-1, 1]: (G+ - G-) / (g_max - g_min), on the cell's levels."""
    scale: Floats
    """(outputs,): digital factor of each column; 0 for a column of zeros."""
    bias: Floats | None
    """(outputs,), added in digital, or None."""
    input_range: float
    """DAC full scale, in units of the input."""
    tiles: tuple[Tile, ...]
    """The tiles, column block by column block, within it from the first rows to the last."""
    rate: Rate = "step"
    """How often the product runs."""
    input_activity: float | None = None
    """Calibrated mean energy of a device over that in a full-scale pulse (`Converter.activity`; with amplitudes
    the mean square of the inputs over input_range squared); None: unknown."""
    wired: Wired | None = None
    """Which inputs and outputs of the operator it has, where weights of others are all 0; None: all."""

    __repr__ = brief

    def __post_init__(self) -> None:
        """`DesignError` for arrays, ranges or tiles that no mapping makes."""
        target, scale, bias = self.target, self.scale, self.bias
        what = f"matrix {shown(self.name)}"
        if target.ndim != 2 or 0 in target.shape or not float(np.abs(target).max()) <= 1.0001:
            raise DesignError(f"{what}: its targets are {shown(target)}; needed are (inputs, outputs) in [-1, 1]")
        for name, array in (("scale", scale), ("bias", bias)):
            if array is not None and (array.shape != (self.outputs,) or not np.isfinite(array).all()):
                raise DesignError(
                    f"{what}: its {name} is {shown(array)}; needed are {self.outputs} finite numbers"
                )
        ranges = [self.input_range, *(tile.output_range for tile in self.tiles)]
        if not all(type(span) in (int, float) and 0 < span < math.inf for span in ranges):
            raise DesignError(f"{what}: its converter ranges are {shown(ranges)}; each must be more than 0")
        activity = self.input_activity
        if activity is not None and not (type(activity) in (int, float) and 0 <= activity < math.inf):
            raise DesignError(f"{what}: the mean square of its inputs is {shown(activity)}")
        slices = 1 + max((tile.slice for tile in self.tiles if type(tile.slice) is int), default=0)
        if slices > 16 or any(not (type(tile.slice) is int and tile.slice >= 0) for tile in self.tiles):
            raise DesignError(f"{what}: its slices are {shown([tile.slice for tile in self.tiles])}")
        covered = np.zeros((slices, *target.shape), np.int8)
        for tile in self.tiles:
            for (first, end), size in zip((tile.row, tile.column), target.shape, strict=True):
                if not (type(first) is type(end) is int and 0 <= first < end <= size):
                    raise DesignError(f"{what}: {shown(tile)} lies outside {target.shape}")
            covered[tile.slice, slice(*tile.row), slice(*tile.column)] += 1
        if not (covered == 1).all():
            raise DesignError(f"{what}: its tiles do not hold every weight once")

        if self.wired is not None and (len(self.wired.rows), len(self.wired.columns)) != target.shape:
            raise DesignError(f"{what}: {target.shape} targets for {shown(self.wired)}")

    @property
    def size(self) -> tuple[int, int]:
        """Inputs and outputs of the operator, those without a row or column too."""
        return (self.inputs, self.outputs) if self.wired is None else (self.wired.width, len(self.wired.idle))

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return int(self.target.shape[0])

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return int(self.target.shape[1])

    @property
    def parts(self) -> tuple[tuple[Block, Block], ...]:
        """(rows, columns) of the parts that lie on a tile each, all slices together."""
        return tuple((tile.row, tile.column) for tile in self.tiles if tile.slice == 0)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The column blocks, in order."""
        return tuple(sorted({tile.column for tile in self.tiles}))

    @property
    def columns(self) -> int:
        """Used columns over all tiles: row tiles and slices of one column count each."""
        return sum(tile.column[1] - tile.column[0] for tile in self.tiles)

    @property
    def scaled(self) -> int:
        """Codes that are multiplied by a scale: columns of all row tiles, slices and pulses added up."""
        return sum(end - start for _, (start, end) in self.parts)

    def widest(self) -> int:
        """Most columns in use on one tile."""
        slices = 1 + max(tile.slice for tile in self.tiles)
        return slices * max(end - start for start, end in self.blocks)

    def sum_bits(self, chip: Chip) -> int:
        """Width of an output before it is rounded: ADC code times multiplier, summed over row tiles and bias."""
        terms = len({row for row, _ in self.parts}) + 1
        return grown(self.code_bits(chip) + MULTIPLIER_BITS, terms)

    def code_bits(self, chip: Chip) -> int:
        """Width of a column's code when its pulses and slices are shifted and added up."""
        layout, pulses = layout_of(chip), chip.dac.pulses
        places = 0 if layout.base is None else (layout.slices - 1) * (layout.base.bit_length() - 1)
        return grown(chip.adc.bits + places + pulses - 1, 2 if places + pulses > 1 else 1)

    def conductance(self, chip: Chip) -> float:
        """All devices in use together, S: those of every weight's slices and polarities, and of references."""
        return layout_of(chip).conductance(self.target, self.blocks)

    def device_count(self, chip: Chip) -> int:
        """Devices in use: of weights, and of the reference columns of every tile."""
        layout = layout_of(chip)
        references = 0 if layout.pair else self.inputs * len(self.blocks)
        return layout.bit_lines * self.target.size + layout.slices * layout.devices * references

    def actions(self, chip: Chip, input_bits: int, input_constants: int = 1) -> list[Action]:
        """What one product does, from the centred codes of its inputs to the sums before they are rounded.

        The activation's grid is not the DAC's (its range is another one, and it may have a zero point): every
        centred code, of `input_bits`, is requantized by a multiplier of 24 bits, of which `input_constants` are
        stored (a single one sits at the lane and is not read again). Then: inputs to the tiles; for every pulse of
        the inputs the conversion of every used row, and hold and conversion of every used column; the cells; codes
        to the digital unit, where those of pulses and slices are shifted and added; their multiplication (weight
        scale, converter range and drift compensation in one number), partial sums of row tiles, and the bias, a
        word as long as these. A differential pair, or a reference column, is subtracted as currents.
        """
        scaled = self.scaled
        at, outputs, total = Actions(self.rate), self.outputs, self.sum_bits(chip)
        out = []
        if input_constants > 1:
            out.append(at.read("coefficients", input_constants, CONSTANT_BITS, "requantization of the inputs"))
        out += [
            at.multiply(self.inputs, input_bits, MULTIPLIER_BITS, "requantize the inputs"),
            *self.product_actions(chip),
        ]
        if scaled > outputs:
            out += at.add(scaled - outputs, total, "partial sums of row tiles")
        if self.bias is not None:
            out.append(at.read("coefficients", outputs, total, "bias"))
            out += at.add(outputs, total, "bias", own_slot=True)
        return out

    def product_actions(self, chip: Chip) -> list[Action]:
        """What one product does from the DAC's codes to the scaled sums of every tile column."""
        rows, columns = sum(end - start for (start, end), _ in self.parts), self.columns
        scaled = self.scaled
        at, dac, adc = Actions(self.rate), chip.dac.bits, chip.adc.bits
        pulses, code = chip.dac.pulses, self.code_bits(chip)
        out = [
            at.other("movement", "bus", rows, dac, "inputs to the tiles"),
            at.other("dac", "dac", pulses * rows, dac, "one conversion per used row, tile and pulse"),
            at.other("lines", "word line", rows, 1, "one per used row and tile, all pulses"),
            at.other("lines", "bit line", columns, 1, "one per used column and tile, all pulses"),
            at.other("cells", "cell", self.device_count(chip), 1, "used devices"),
            at.other("adc", "sample hold", pulses * columns, adc, "one per used column, tile and pulse"),
            at.other("adc", "adc", pulses * columns, adc, "one conversion per used column, tile and pulse"),
            at.other("control", "control", 1, 1, "share of all that the tiles take"),
            at.other("control", "tile", len(self.parts), 1, "buffers, sequencer and clock of each tile in use"),
            at.other("movement", "bus", pulses * columns, adc, "codes to the digital unit"),
        ]
        if pulses * columns > scaled:
            out += at.add(pulses * columns - scaled, code, "shift and add pulses and slices", own_slot=True)
        return [
            *out,
            at.read("coefficients", scaled, CONSTANT_BITS, "scale of each tile column"),
            at.multiply(scaled, code, MULTIPLIER_BITS, "scale of each tile column"),
        ]


def _blocks(size: int, step: int) -> list[tuple[int, int]]:
    """Half-open ranges that cut `size` into pieces of `step`, the last one partial."""
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def tiles_needed(inputs: int, outputs: int, chip: Chip) -> int:
    """ceil(inputs / rows) * ceil(outputs / (columns / slices)): tiles of one matrix that shares none."""
    return -(-inputs // chip.design.rows) * -(-outputs // _width(chip))


def _width(chip: Chip) -> int:
    """Weights side by side on one tile."""
    return chip.design.columns // chip.design.slices


def map_matrix(
    name: str,
    module: str,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    chip: Chip,
    *,
    input_range: float,
    output_ranges: Sequence[float] | None = None,
    rate: Rate = "step",
    scale: Literal["column", "tile"] = "column",
    least_scale: npt.ArrayLike = 0.0,
) -> MappedMatrix:
    """Put `weight` (outputs, inputs) on tiles of `chip`.

    target[i, j] = round_levels(weight[j, i] / scale[j]) (`Layout.on_levels`). With `scale="column"`,
    scale[j] = max_i |weight[j, i]| over the whole matrix, so that row tiles of a column share it and their
    sums can be added in digital; with "tile", one scale serves all columns of a column block. `least_scale` ()
    or (outputs,) bounds it from below: smaller conductances for a column whose sums would not fit.

    `input_range`: DAC full scale, in units of the input. `output_ranges`: ADC full scale of each tile (and slice)
    in units of the normalised column sum; None = the largest sum possible, max_j sum_i |w_ij|, which never clips
    (set tighter ones with `with_output_ranges`).

    Raises `DataError` for a weight or bias of the wrong shape or not finite, `ConfigError` for a range that
    is not positive, `DesignError` if the matrix alone needs more tiles than the design has.
    """
    matrix = np.asarray(weight, dtype=np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise DataError(f"weight of {name!r} has shape {matrix.shape}; give (outputs, inputs), both at least 1")
    offset = None if bias is None else np.asarray(bias, dtype=np.float32)
    if offset is not None and offset.shape != matrix.shape[:1]:
        raise DataError(f"bias of {name!r} has shape {offset.shape}; the weight has {matrix.shape[0]} outputs")
    if not np.isfinite(matrix).all() or (offset is not None and not np.isfinite(offset).all()):
        raise DataError(f"weight or bias of {name!r} holds NaN or infinite values; was the training stable?")
    _check_range(name, "input_range", input_range)
    if scale not in ("column", "tile"):
        raise ConfigError(f"scale = {scale!r}; use 'column' or 'tile'")
    outputs, inputs = matrix.shape
    check_tiles(tiles_needed(inputs, outputs, chip), chip, f"matrix {name!r} ({inputs} x {outputs})")

    layout, levels = layout_of(chip), chip.cell.levels
    columns = _blocks(outputs, _width(chip))
    factor = np.abs(matrix).max(axis=1).astype(np.float32)
    if scale == "tile":
        for start, stop in columns:
            factor[start:stop] = factor[start:stop].max()
    factor = np.where(factor > 0, np.maximum(factor, np.asarray(least_scale, np.float32)), factor)
    # A column of zeros keeps scale 0: the digital unit then removes its read noise as well.
    safe = np.where(factor > 0, factor, np.float32(1)).astype(np.float64)
    target = layout.on_levels(np.clip(matrix.T / safe, -1.0, 1.0), None if levels is None else int(levels.value))
    on_levels = np.ascontiguousarray(target, dtype=np.float32)

    sliced = layout.split(on_levels)
    places = [
        (row, column, number)
        for column in columns
        for row in _blocks(inputs, chip.design.rows)
        for number in range(layout.slices)
    ]
    if output_ranges is None:
        output_ranges = [
            _largest_sum(sliced[number, slice(*row), slice(*column)]) for row, column, number in places
        ]
    if len(output_ranges) != len(places):
        raise ConfigError(f"{name!r} has {len(places)} tiles, {len(output_ranges)} output_ranges were given")
    for value in output_ranges:
        _check_range(name, "output_range", value)
    tiles = tuple(
        Tile(row, column, float(full), number)
        for (row, column, number), full in zip(places, output_ranges, strict=True)
    )
    return MappedMatrix(name, module, on_levels, factor, offset, float(input_range), tiles, rate)


def _check_range(name: str, what: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ConfigError(
            f"{what} of {name!r} is {value}; it must be positive (was the calibration data all zero?)"
        )


def _largest_sum(target: Floats) -> float:
    """max_j sum_i |target_ij|, the bound of the normalised column sum; 1 for a tile of zeros."""
    largest = float(np.abs(target).sum(axis=0, dtype=np.float64).max())
    return largest if largest > 0 else 1.0


def column_sums(mapped: MappedMatrix, x: npt.ArrayLike, chip: Chip) -> list[Floats]:
    """The normalised column sums of every tile for inputs `x` (samples, inputs), without noise or rounding.

    sum_i d_i w_ij with d the drives (`_drives`), one array (samples x pulses, columns of the tile) per tile.
    Raises `DataError` if `x` has another shape.
    """
    values = np.asarray(x, dtype=np.float32)
    if values.ndim != 2 or values.shape[1] != mapped.inputs or len(values) == 0:
        raise DataError(f"inputs of {mapped.name!r} have shape {values.shape}; give (samples, {mapped.inputs})")
    drive, sliced = _drives(mapped, values, chip), layout_of(chip).split(mapped.target)
    return [
        drive[:, slice(*tile.row)] @ sliced[tile.slice, slice(*tile.row), slice(*tile.column)]
        for tile in mapped.tiles
    ]


def _drives(mapped: MappedMatrix, values: Floats, chip: Chip) -> Floats:
    """Full voltages on the rows (samples x pulses, inputs): the clipped inputs, not rounded, or bits."""
    if chip.dac.pulses == 1:
        return np.asarray(np.clip(values / np.float32(mapped.input_range), *chip.dac.limits), np.float32)
    codes = chip.dac.transfer(torch.from_numpy(values), mapped.input_range)
    return np.concatenate([drive.numpy() for drive, _ in chip.dac.drives(codes)])


def with_output_ranges(
    mapped: MappedMatrix, x: npt.ArrayLike, chip: Chip, percentile: float = 99.99
) -> MappedMatrix:
    """`mapped` with the ADC full scale of each tile at a percentile of |column sum| over calibration inputs.

    `x` is (samples, inputs). The range is never zero: a tile that sees only zeros gets its largest possible
    sum. Raises `ConfigError` for a percentile outside (0, 100], `DataError` for inputs of another shape or
    not finite.
    """
    if not 0 < percentile <= 100:
        raise ConfigError(f"percentile = {percentile}; use a value above 0 and at most 100, e.g. 99.99")
    tiles, sliced = [], layout_of(chip).split(mapped.target)
    for tile, sums in zip(mapped.tiles, column_sums(mapped, x, chip), strict=True):
        if not np.isfinite(sums).all():
            raise DataError(f"calibration inputs of {mapped.name!r} hold NaN or infinite values")
        full = full_scale(sums, percentile)
        if full < np.finfo(np.float32).tiny:
            full = _largest_sum(sliced[tile.slice, slice(*tile.row), slice(*tile.column)])
        tiles.append(replace(tile, output_range=full))
    return replace(mapped, tiles=tuple(tiles))
