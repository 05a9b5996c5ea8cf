"""Fixed-point arithmetic of the digital update unit: formats, requantisation and the int64 oracle (NumPy only).

The specification is docs/fixed_point.md.
"""

from imc_ssm.fixedpoint.formats import Format, ScanFormats, spread
from imc_ssm.fixedpoint.gaussian import Noise
from imc_ssm.fixedpoint.oracle import Overflows, scan_codes
from imc_ssm.fixedpoint.plan import ScanPlan, plan_scan
from imc_ssm.fixedpoint.requantise import Requantiser, requantise, round_shift

__all__ = [
    "Format",
    "Noise",
    "Overflows",
    "Requantiser",
    "ScanFormats",
    "ScanPlan",
    "plan_scan",
    "requantise",
    "round_shift",
    "scan_codes",
    "spread",
]
