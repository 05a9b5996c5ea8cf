"""What a model does, as data: operators between named signals, and the formats of everything that has a word.

A model's `graph()` gives its `Graph`. Compiling, costing, memory and quantization fold over it and never mention a
layer, a class or a name: an operator says itself which signals it joins, which words it stores and what hardware
does each time it runs.
"""

from imc_ssm.graph.actions import COMPONENTS, Action, Multiplication, Store, Stored, grown
from imc_ssm.graph.norms import Affine, Normalize
from imc_ssm.graph.operators import (
    Gate,
    Join,
    LookUp,
    Matrix,
    Operator,
    Piecewise,
    Rectify,
    Scale,
    Source,
    Sum,
)
from imc_ssm.graph.pools import Last, Mean
from imc_ssm.graph.recurrences import GatedUpdate, Recurrence, StateUpdate
from imc_ssm.graph.signals import Formats, Graph, Kind, Parameter, Place, Rate, Signal

__all__ = [
    "COMPONENTS",
    "Action",
    "Affine",
    "Formats",
    "Gate",
    "GatedUpdate",
    "Graph",
    "Join",
    "Kind",
    "Last",
    "LookUp",
    "Matrix",
    "Mean",
    "Multiplication",
    "Normalize",
    "Operator",
    "Parameter",
    "Piecewise",
    "Place",
    "Rate",
    "Rectify",
    "Recurrence",
    "Scale",
    "Signal",
    "Source",
    "StateUpdate",
    "Store",
    "Stored",
    "Sum",
    "grown",
]
