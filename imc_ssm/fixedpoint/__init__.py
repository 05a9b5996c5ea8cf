"""Fixed-point arithmetic of the digital update unit: formats, requantisation and the int64 oracle (NumPy only)."""

from imc_ssm.fixedpoint.formats import Format, ScanFormats
from imc_ssm.fixedpoint.oracle import Overflows, scan_codes
from imc_ssm.fixedpoint.requantise import Requantiser, ScanPlan, plan_scan, requantise, round_shift

__all__ = [
    "Format",
    "Overflows",
    "Requantiser",
    "ScanFormats",
    "ScanPlan",
    "plan_scan",
    "requantise",
    "round_shift",
    "scan_codes",
]
