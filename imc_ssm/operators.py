"""What a layer does, as records. Compiling, costing and pruning walk these and never mention a layer by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Elementwise", "Mvm", "Operator", "Rate", "Recurrence"]

Rate = Literal["step", "sequence"]
"""How often an operator runs: once per time step, or once per sequence (after pooling)."""


@dataclass(frozen=True)
class Mvm:
    """A dense matrix-vector product y = W x + bias: belongs on analog crossbar tiles.

    `module` is the dotted path of the module that owns the weight, relative to the module whose
    `operators()` lists it.
    """

    name: str
    module: str
    inputs: int
    outputs: int
    rate: Rate = "step"


@dataclass(frozen=True)
class Recurrence:
    """The diagonal state update x[t] = a x[t-1] + b u[t], y[t] = 2 Re(sum_n c x[t]): the digital unit.

    `states` counts complex states per head; each is a conjugate pair kept once.
    """

    name: str
    module: str
    heads: int
    states: int
    rate: Rate = "step"


@dataclass(frozen=True)
class Elementwise:
    """A digital elementwise operation on `width` values.

    `kind`: "scale" (D u, one product and one sum a value), "gelu", "glu" (one sigmoid and one product an
    output), "add" (residual), "norm", "mean" (running mean over time).
    """

    name: str
    module: str
    kind: Literal["scale", "gelu", "glu", "add", "norm", "mean"]
    width: int
    rate: Rate = "step"


Operator = Mvm | Recurrence | Elementwise
