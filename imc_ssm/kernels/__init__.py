"""The compiled passes: the diagonal recurrences and what happens between two grids, behind `torch.ops.imc_ssm`.

Every operator has an implementation for the CPU (Numba), one for a GPU and a reference for everything else; all
return the same values. `using("reference")` runs the references wherever a tensor lies.
"""

from imc_ssm.fixedpoint import Noise
from imc_ssm.kernels.codes import codes_of
from imc_ssm.kernels.functions import (
    add,
    gate,
    linear,
    linear_on_grids,
    look_up,
    mean,
    mean_on_grids,
    quantize,
    scale_add,
)
from imc_ssm.kernels.gated import gated_scan
from imc_ssm.kernels.grid import DeviceArray, Grid
from imc_ssm.kernels.integers import GateConstants, MatrixConstants, MeanConstants, SumConstants
from imc_ssm.kernels.mimo import StateScanUnit, state_scan
from imc_ssm.kernels.operators import Pass, using
from imc_ssm.kernels.ranges import drawn, full_scale, state_range, value_range
from imc_ssm.kernels.scan import diagonal_scan
from imc_ssm.kernels.tile import room_for, tile_product
from imc_ssm.kernels.unit import ScanUnit

__all__ = [
    "DeviceArray",
    "GateConstants",
    "Grid",
    "MatrixConstants",
    "MeanConstants",
    "Noise",
    "Pass",
    "ScanUnit",
    "StateScanUnit",
    "SumConstants",
    "add",
    "codes_of",
    "diagonal_scan",
    "drawn",
    "full_scale",
    "gate",
    "gated_scan",
    "linear",
    "linear_on_grids",
    "look_up",
    "mean",
    "mean_on_grids",
    "quantize",
    "room_for",
    "scale_add",
    "state_range",
    "state_scan",
    "tile_product",
    "using",
    "value_range",
]
