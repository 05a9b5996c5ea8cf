"""The device library: memory cells, converters, peripheral components and chip designs, each number cited."""

from typing import TYPE_CHECKING, Any

from imc_ssm.devices.cell import Cell, Draws, Programmed, Times, stream_seed
from imc_ssm.devices.cells import CELLS, load_cell, parse_cell
from imc_ssm.devices.components import Component, Components, Digital, Memory, load_components
from imc_ssm.devices.constants import Constants, CostConstant, load_constants
from imc_ssm.devices.converters import CONVERTERS, Adc, Choice, Converter, Dac, Transfers
from imc_ssm.devices.designs import Chip, Design, Slicing, Wires, load_design, load_entry, resolve
from imc_ssm.devices.generic import Generic
from imc_ssm.devices.library import Cited, cited, device_names, device_path

if TYPE_CHECKING:
    from imc_ssm.devices.comparison import behaviour
    from imc_ssm.devices.fitting import CellFit, fit_cell

__all__ = [
    "CELLS",
    "CONVERTERS",
    "Adc",
    "Cell",
    "CellFit",
    "Chip",
    "Choice",
    "Cited",
    "Component",
    "Components",
    "Constants",
    "Converter",
    "CostConstant",
    "Dac",
    "Design",
    "Digital",
    "Draws",
    "Generic",
    "Memory",
    "Programmed",
    "Slicing",
    "Times",
    "Transfers",
    "Wires",
    "behaviour",
    "cited",
    "device_names",
    "device_path",
    "fit_cell",
    "load_cell",
    "load_components",
    "load_constants",
    "load_design",
    "load_entry",
    "parse_cell",
    "resolve",
    "stream_seed",
]


def __getattr__(name: str) -> Any:
    """`fit_cell`, `CellFit` and `behaviour` when they are asked for: they import scipy and xarray."""
    if name == "behaviour":
        from imc_ssm.devices.comparison import behaviour

        return behaviour
    if name not in ("CellFit", "fit_cell"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from imc_ssm.devices import fitting

    return getattr(fitting, name)
