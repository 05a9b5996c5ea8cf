"""What a deployment costs: energy, latency, area and memory by component, from cited constants."""

from __future__ import annotations

from imc_ssm.costs.counts import Taken, actions_of, operation_table
from imc_ssm.costs.model import COMPONENTS, cost, table

__all__ = [
    "COMPONENTS",
    "Taken",
    "actions_of",
    "cost",
    "operation_table",
    "table",
]
