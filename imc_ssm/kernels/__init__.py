"""The diagonal recurrence: one function, several implementations that agree."""

from imc_ssm.fixedpoint import Noise
from imc_ssm.kernels.codes import codes_of
from imc_ssm.kernels.scan import diagonal_scan

__all__ = ["Noise", "codes_of", "diagonal_scan"]
