"""The diagonal recurrence: one function, several implementations that agree."""

from imc_ssm.recurrence.codes import codes_of, scan_codes_cpu
from imc_ssm.recurrence.scan import diagonal_scan

__all__ = ["codes_of", "diagonal_scan", "scan_codes_cpu"]
