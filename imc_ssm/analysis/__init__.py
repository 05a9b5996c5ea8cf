"""What quantization does to a recurrence: ranges of its states, and where its poles go.

`inspect_model(model, data)` gathers all of it in one labelled dataset; the parts are functions of arrays.
"""

from imc_ssm.analysis.inspection import inspect_model
from imc_ssm.analysis.layers import Coefficients, full_precision, rounded_coefficients, unit_coefficients
from imc_ssm.analysis.literature import complexity, most_alive
from imc_ssm.analysis.poles import circle_distance, kernel_errors, pole_displacement, step_grid
from imc_ssm.analysis.ranges import impulse_norms, rounding_gains, word_length
from imc_ssm.analysis.saturation import Saturation
from imc_ssm.analysis.states import RunningPercentile, state_magnitudes
from imc_ssm.analysis.yields import chip_yield

__all__ = [
    "Coefficients",
    "RunningPercentile",
    "Saturation",
    "chip_yield",
    "circle_distance",
    "complexity",
    "full_precision",
    "impulse_norms",
    "inspect_model",
    "kernel_errors",
    "most_alive",
    "pole_displacement",
    "rounded_coefficients",
    "rounding_gains",
    "state_magnitudes",
    "step_grid",
    "unit_coefficients",
    "word_length",
]
