"""A model on a chip: mapping of weights onto tiles, programming, drift, the product, deployments, evaluation."""

from imc_ssm.chip.compiler import compile
from imc_ssm.chip.deployment import Deployment, deployment_of
from imc_ssm.chip.evaluation import DAY, HOUR, TIMES, evaluate
from imc_ssm.chip.linear import AnalogLinear, Implementation
from imc_ssm.chip.mapping import (
    MappedMatrix,
    Tile,
    check_fit,
    column_sums,
    map_matrix,
    tiles_needed,
    with_output_ranges,
)
from imc_ssm.chip.programming import Noise, ProgrammedMatrix, compensation, program
from imc_ssm.chip.reference import Reference

__all__ = [
    "DAY",
    "HOUR",
    "TIMES",
    "AnalogLinear",
    "Deployment",
    "Implementation",
    "MappedMatrix",
    "Noise",
    "ProgrammedMatrix",
    "Reference",
    "Tile",
    "check_fit",
    "column_sums",
    "compensation",
    "compile",
    "deployment_of",
    "evaluate",
    "map_matrix",
    "program",
    "tiles_needed",
    "with_output_ranges",
]
