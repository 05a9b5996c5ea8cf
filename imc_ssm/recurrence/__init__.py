"""The diagonal recurrence: one function, several implementations that agree."""

from imc_ssm.fixedpoint import Noise
from imc_ssm.recurrence.codes import codes_of
from imc_ssm.recurrence.scan import diagonal_scan

__all__ = ["Noise", "codes_of", "diagonal_scan"]
