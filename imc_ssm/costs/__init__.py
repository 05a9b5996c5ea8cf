"""What a deployment costs: energy, latency, area and memory by component, from cited constants."""

from __future__ import annotations

from imc_ssm.costs.counts import Taken, actions_of
from imc_ssm.costs.macros import Macro, MacroLayer, Published, Workload, load_macro, macro_names
from imc_ssm.costs.model import COMPONENTS, by_operator, cost, energies
from imc_ssm.costs.plan import CostPlan, Totals
from imc_ssm.costs.prediction import predict
from imc_ssm.costs.tables import operation_table, table

__all__ = [
    "COMPONENTS",
    "CostPlan",
    "Macro",
    "MacroLayer",
    "Published",
    "Taken",
    "Totals",
    "Workload",
    "actions_of",
    "by_operator",
    "cost",
    "energies",
    "load_macro",
    "macro_names",
    "operation_table",
    "predict",
    "table",
]
