"""A model on a chip: mapping of weights onto tiles, programming, drift, the product, deployments, evaluation."""

from imc_ssm.chip.ageing import run_stream
from imc_ssm.chip.compensation import factors
from imc_ssm.chip.compiler import compile
from imc_ssm.chip.crossbars import MappedRecurrence, OnCrossbar, map_recurrence
from imc_ssm.chip.deployment import Deployment, deployment_of
from imc_ssm.chip.disturbance import ChipDisturbance, digest, priced_digest
from imc_ssm.chip.evaluation import DAY, HOUR, TIMES, evaluate, stands
from imc_ssm.chip.layout import Layout, layout_of
from imc_ssm.chip.linear import AnalogLinear, Implementation
from imc_ssm.chip.mapping import (
    MappedMatrix,
    Tile,
    column_sums,
    map_matrix,
    tiles_needed,
    with_output_ranges,
)
from imc_ssm.chip.packing import check_fit, tiles_of, utilisation
from imc_ssm.chip.programming import Noise, ProgrammedMatrix, program
from imc_ssm.chip.recipe import ChipTraining, training_for, weight_error
from imc_ssm.chip.recurrence import AnalogRecurrence
from imc_ssm.chip.reference import Reference
from imc_ssm.chip.schedules import Maintenance
from imc_ssm.chip.streaming_noise import Stream

__all__ = [
    "DAY",
    "HOUR",
    "TIMES",
    "AnalogLinear",
    "AnalogRecurrence",
    "ChipDisturbance",
    "ChipTraining",
    "Deployment",
    "Implementation",
    "Layout",
    "Maintenance",
    "MappedMatrix",
    "MappedRecurrence",
    "Noise",
    "OnCrossbar",
    "ProgrammedMatrix",
    "Reference",
    "Stream",
    "Tile",
    "check_fit",
    "column_sums",
    "compile",
    "deployment_of",
    "digest",
    "evaluate",
    "factors",
    "layout_of",
    "map_matrix",
    "map_recurrence",
    "priced_digest",
    "program",
    "run_stream",
    "stands",
    "tiles_needed",
    "tiles_of",
    "training_for",
    "utilisation",
    "weight_error",
    "with_output_ranges",
]
