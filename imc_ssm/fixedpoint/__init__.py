"""Fixed-point arithmetic of the digital update unit: formats, requantization and the int64 oracle (NumPy only).

The specification is docs/fixed_point.md.
"""

from imc_ssm.fixedpoint.blocks import scan_blocks
from imc_ssm.fixedpoint.dither import dither_words, stochastic_words
from imc_ssm.fixedpoint.formats import Format, Rounding, RoundingPlacement, ScanFormats, broadcast_heads
from imc_ssm.fixedpoint.normal import Noise
from imc_ssm.fixedpoint.norms import AffinePlan, NormPlan, affine_codes, norm_codes, plan_affine, plan_norm
from imc_ssm.fixedpoint.operations import reversed_codes
from imc_ssm.fixedpoint.operators import (
    GATE_BITS,
    GatedPlan,
    GatePlan,
    LinearPlan,
    MeanPlan,
    SumPlan,
    function_table,
    gate_codes,
    gate_table,
    gated_codes,
    grid_values,
    linear_codes,
    look_up_codes,
    mean_codes,
    of_parts,
    plan_gate,
    plan_gated,
    plan_linear,
    plan_mean,
    plan_scale_add,
    plan_sum,
    scale_add_codes,
    sum_codes,
)
from imc_ssm.fixedpoint.oracle import Overflows, UnitState, scan_codes, state_codes
from imc_ssm.fixedpoint.plan import ScanPlan, plan_scan
from imc_ssm.fixedpoint.poles import PoleForm, PoleGrid, settled
from imc_ssm.fixedpoint.requantization import Requantizer, requantize, round_shift
from imc_ssm.fixedpoint.running import IntegerRun, input_codes, operations_of, run
from imc_ssm.fixedpoint.widths import Multipliers, Shifts

__all__ = [
    "GATE_BITS",
    "AffinePlan",
    "Format",
    "GatePlan",
    "GatedPlan",
    "IntegerRun",
    "LinearPlan",
    "MeanPlan",
    "Multipliers",
    "Noise",
    "NormPlan",
    "Overflows",
    "PoleForm",
    "PoleGrid",
    "Requantizer",
    "Rounding",
    "RoundingPlacement",
    "ScanFormats",
    "ScanPlan",
    "Shifts",
    "SumPlan",
    "UnitState",
    "affine_codes",
    "broadcast_heads",
    "dither_words",
    "function_table",
    "gate_codes",
    "gate_table",
    "gated_codes",
    "grid_values",
    "input_codes",
    "linear_codes",
    "look_up_codes",
    "mean_codes",
    "norm_codes",
    "of_parts",
    "operations_of",
    "plan_affine",
    "plan_gate",
    "plan_gated",
    "plan_linear",
    "plan_mean",
    "plan_norm",
    "plan_scale_add",
    "plan_scan",
    "plan_sum",
    "requantize",
    "reversed_codes",
    "round_shift",
    "run",
    "scale_add_codes",
    "scan_blocks",
    "scan_codes",
    "settled",
    "state_codes",
    "stochastic_words",
    "sum_codes",
]
