"""What a deployment costs: energy, latency, area and memory by component, from cited constants."""

from __future__ import annotations

from imc_ssm.costs.counts import Taken, actions_of
from imc_ssm.costs.model import COMPONENTS, by_operator, cost, energies
from imc_ssm.costs.tables import operation_table, table

__all__ = [
    "COMPONENTS",
    "Taken",
    "actions_of",
    "by_operator",
    "cost",
    "energies",
    "operation_table",
    "table",
]
