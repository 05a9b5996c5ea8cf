"""What a deployment costs: energy, latency, area and memory by component, from cited constants."""

from __future__ import annotations

from imc_ssm.costs.baselines import baseline_names, load_baseline
from imc_ssm.costs.breakdown import by_layer
from imc_ssm.costs.comparison import baseline_cost, break_even, compare
from imc_ssm.costs.counts import Taken, actions_of
from imc_ssm.costs.machines import BASELINES, Baseline, Bill
from imc_ssm.costs.macros import Macro, MacroLayer, Published, Workload, load_macro, macro_names
from imc_ssm.costs.model import COMPONENTS, by_operator, cost, energies
from imc_ssm.costs.plan import CostPlan, Totals
from imc_ssm.costs.prediction import predict
from imc_ssm.costs.realtime import real_time
from imc_ssm.costs.schedules import Schedule, schedule, schedule_of
from imc_ssm.costs.stages import Stage, stages_of
from imc_ssm.costs.tables import constant_table, merit_table, operation_table, table
from imc_ssm.costs.uncertainty import swings
from imc_ssm.costs.work import Work
from imc_ssm.pricing.intervals import BOUNDS

__all__ = [
    "BASELINES",
    "BOUNDS",
    "COMPONENTS",
    "Baseline",
    "Bill",
    "CostPlan",
    "Macro",
    "MacroLayer",
    "Published",
    "Schedule",
    "Stage",
    "Taken",
    "Totals",
    "Work",
    "Workload",
    "actions_of",
    "baseline_cost",
    "baseline_names",
    "break_even",
    "by_layer",
    "by_operator",
    "compare",
    "constant_table",
    "cost",
    "energies",
    "load_baseline",
    "load_macro",
    "macro_names",
    "merit_table",
    "operation_table",
    "predict",
    "real_time",
    "schedule",
    "schedule_of",
    "stages_of",
    "swings",
    "table",
]
