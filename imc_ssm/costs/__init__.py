"""What a deployment costs: energy, latency, area and memory by component, from cited constants."""

from __future__ import annotations

from imc_ssm.costs.counts import Operation, operation_counts, operation_table
from imc_ssm.costs.model import COMPONENTS, cost, table

__all__ = [
    "COMPONENTS",
    "Operation",
    "cost",
    "operation_counts",
    "operation_table",
    "table",
]
