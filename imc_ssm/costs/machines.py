"""What digital machines have in common: their components, what they pay, their constants, their registry."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from pydantic import Field

from imc_ssm.config import Config, Kinds
from imc_ssm.costs.work import Work
from imc_ssm.devices.constants import CostConstant
from imc_ssm.graph import Action, Matrix, Operator
from imc_ssm.pricing.intervals import Number, Values

__all__ = ["BASELINES", "PARTS", "PRODUCTS", "WEIGHTS", "Baseline", "Bill", "component_of"]

PARTS = ("products", "digital update", "memories", "nonlinearity", "movement", "control", "leakage")
"""Components of a baseline: "products" are those of matrices, in place of the chip's cells and converters."""
WEIGHTS, PRODUCTS = "weights", "W x"
"""Purposes of a matrix's actions that a dataflow changes."""


@dataclass
class Bill:
    """What an inference takes, by component."""

    energy: dict[str, Number] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """J per inference."""
    energy_step: dict[str, Number] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """J per time step, mean over the steps."""
    latency: dict[str, Number] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """s per inference."""
    latency_step: dict[str, Number] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """s per time step, mean over the steps."""
    area: dict[str, Number] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """m2."""
    memory: float = 0.0
    """Bits of memory, registers for weights included."""
    matrices: Number = 0.0
    """J per inference of matrices alone: products, their memories, control."""
    utilisation: Number = math.nan
    """Multiply-accumulates of matrices over those that the multipliers could do in the inference."""

    def pay(self, component: str, joules: Number, steps: int, rate: str) -> None:
        """Add energy of a whole inference."""
        self.energy[component] = self.energy[component] + joules
        if rate == "step":
            self.energy_step[component] = self.energy_step[component] + joules / steps

    def wait(self, component: str, seconds: Number, steps: int, rate: str) -> None:
        """Add time of a whole inference."""
        self.latency[component] = self.latency[component] + seconds
        if rate == "step":
            self.latency_step[component] = self.latency_step[component] + seconds / steps

    def total(self, name: str) -> Number:
        """Of all components."""
        return sum(getattr(self, name).values())


class Baseline(Config, ABC):
    """A machine; what it is comes from a TOML."""

    type: str
    """Kind of machine: a key of `BASELINES`."""
    name: str
    """Name in results."""
    description: str
    """One line for people."""
    sources: dict[str, str] = Field(default_factory=dict)
    """Where numbers without a source of their own come from, by field."""

    def constants(self) -> dict[str, CostConstant]:
        """Its own constants by field."""
        fields = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: value for name, value in fields if isinstance(value, CostConstant)}

    @abstractmethod
    def bill(self, work: Work, k: Values) -> Bill:
        """What the model takes; `k` has the constants of the laws, of the table and its own."""


BASELINES: Kinds[Baseline] = Kinds("baseline")
"""Machines by type."""


def component_of(operator: Operator, action: Action) -> str:
    """Who pays: "products" for the arithmetic of matrices."""
    own = isinstance(operator, Matrix) and action.component == "digital update"
    return "products" if own else action.component
