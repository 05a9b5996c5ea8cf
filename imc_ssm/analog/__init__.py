"""Analog tiles: cells and designs (TOML), mapping of weights, programming, drift, and the product itself."""

from imc_ssm.analog.linear import AnalogLinear
from imc_ssm.analog.mapping import (
    MappedMatrix,
    Tile,
    check_fit,
    column_sums,
    map_matrix,
    tiles_needed,
    with_output_ranges,
)
from imc_ssm.analog.programming import ProgrammedMatrix, compensation, noise_model, program, stream_seed
from imc_ssm.analog.schema import Cell, Design, Times, load_cell, load_design

__all__ = [
    "AnalogLinear",
    "Cell",
    "Design",
    "MappedMatrix",
    "ProgrammedMatrix",
    "Tile",
    "Times",
    "check_fit",
    "column_sums",
    "compensation",
    "load_cell",
    "load_design",
    "map_matrix",
    "noise_model",
    "program",
    "stream_seed",
    "tiles_needed",
    "with_output_ranges",
]
