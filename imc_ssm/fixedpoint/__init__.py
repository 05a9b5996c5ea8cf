"""Fixed-point arithmetic of the digital update unit: formats, requantization and the int64 oracle (NumPy only).

The specification is docs/fixed_point.md.
"""

from imc_ssm.fixedpoint.dither import dither_words, stochastic_words
from imc_ssm.fixedpoint.formats import Format, Rounding, RoundingPlacement, ScanFormats, broadcast_heads
from imc_ssm.fixedpoint.normal import Noise
from imc_ssm.fixedpoint.norms import AffinePlan, NormPlan, affine_codes, norm_codes, plan_affine, plan_norm
from imc_ssm.fixedpoint.oracle import Overflows, UnitState, scan_codes, state_codes
from imc_ssm.fixedpoint.plan import ScanPlan, plan_scan
from imc_ssm.fixedpoint.requantization import Requantizer, requantize, round_shift
from imc_ssm.fixedpoint.widths import Multipliers

__all__ = [
    "AffinePlan",
    "Format",
    "Multipliers",
    "Noise",
    "NormPlan",
    "Overflows",
    "Requantizer",
    "Rounding",
    "RoundingPlacement",
    "ScanFormats",
    "ScanPlan",
    "UnitState",
    "affine_codes",
    "broadcast_heads",
    "dither_words",
    "norm_codes",
    "plan_affine",
    "plan_norm",
    "plan_scan",
    "requantize",
    "round_shift",
    "scan_codes",
    "state_codes",
    "stochastic_words",
]
