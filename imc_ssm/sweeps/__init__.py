"""Sweeps of a design space: which chip for this model, and which model for this chip?

    import imc_ssm
    from imc_ssm import sweeps

    ds = imc_ssm.sweep(
        {"design.adc.bits": [4, 6, 8], "design.columns_per_adc": [1, 8, 32], "design.cell": ["pcm-hermes-dual",
        ...]}, {"start": "q.safetensors", "design": "pcm-256", "chips": 5},
        folder="converters",
    )
    sweeps.front(ds, minimise="energy_total", maximise="accuracy@1d")

A *space* has axes over fields of a point: model, training, scheme, design, cell. An *objective* measures a point;
the one that is built in trains, quantizes, compiles, prices and evaluates, each once for all points that have it
in common, on the same chips and sequences. A *search* says which points: a grid, random or Sobol draws, or trials
guided by goals and constraints. Cells are kept one by one in a folder, read as one `xarray.Dataset`.
"""

from imc_ssm.sweeps.candidate import ChipObjective
from imc_ssm.sweeps.fronts import best, front, undominated, value
from imc_ssm.sweeps.objective import FunctionObjective, Objective
from imc_ssm.sweeps.plan import Plan, SweepFile
from imc_ssm.sweeps.point import ChipPoint, Fractions
from imc_ssm.sweeps.remade import again, load, made, written
from imc_ssm.sweeps.running import Standing, run_plan, standing, sweep
from imc_ssm.sweeps.search import Constraint, Search
from imc_ssm.sweeps.sensitivity import advise
from imc_ssm.sweeps.space import Axis, Space
from imc_ssm.sweeps.store import Status, Store

__all__ = [
    "Axis",
    "ChipObjective",
    "ChipPoint",
    "Constraint",
    "Fractions",
    "FunctionObjective",
    "Objective",
    "Plan",
    "Search",
    "Space",
    "Standing",
    "Status",
    "Store",
    "SweepFile",
    "advise",
    "again",
    "best",
    "front",
    "load",
    "made",
    "run_plan",
    "standing",
    "sweep",
    "undominated",
    "value",
    "written",
]
