"""The device library: memory cells, converters, peripheral components and chip designs, each number cited."""

from imc_ssm.devices.cell import Cell, Draws, Programmed, Times, stream_seed
from imc_ssm.devices.cells import CELLS, load_cell, parse_cell
from imc_ssm.devices.components import Component, Components, Digital, Memory, load_components
from imc_ssm.devices.converters import CONVERTERS, Choice, Converter
from imc_ssm.devices.designs import Chip, Design, load_design, load_entry, resolve
from imc_ssm.devices.library import Cited, cited, device_names, device_path

__all__ = [
    "CELLS",
    "CONVERTERS",
    "Cell",
    "Chip",
    "Choice",
    "Cited",
    "Component",
    "Components",
    "Converter",
    "Design",
    "Digital",
    "Draws",
    "Memory",
    "Programmed",
    "Times",
    "cited",
    "device_names",
    "device_path",
    "load_cell",
    "load_components",
    "load_design",
    "load_entry",
    "parse_cell",
    "resolve",
    "stream_seed",
]
