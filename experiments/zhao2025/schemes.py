"""From the coordinates of a cell to its `Scheme`: the only place that knows how the two belong together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imc_ssm.layers import ModelConfig
from imc_ssm.quantization import Bits, Scheme
from imc_ssm.study import Job, Ptq, Qat, Train

from .memory import memory_saving

FULL_PRECISION = 32
"""The word length that stands for full precision in the dimension `bits`."""

PAPER: dict[str, Any] = {"percentile": 99.999, "state_clip": 50.0, "grad_clamp": 1000.0, "symmetric": False}
"""Asymmetric, static, per head; ranges, clip and clamp as the paper states them."""
PARAMETERISATION = "continuous"
"""What QAT trains in Table III: dt, A and B of the continuous system, rounded after discretisation."""

WEIGHTS = ("poles", "b", "c", "d", "weights")
OTHERS = (
    "input",
    "encoder",
    "recurrent",
    "after_d",
    "both",
    "gelu",
    "relu",
    "mixing",
    "glu",
    "residual",
    "norm",
    "pool",
)
PARTS: dict[str, tuple[str, ...]] = {
    "A": ("poles",),
    "B": ("b",),
    "C": ("c",),
    "D": ("d",),
    "W": ("weights",),
    "x": ("state",),
    "activations": OTHERS,
    "parameters": WEIGHTS,
    "all": (*WEIGHTS, *OTHERS, "state"),
}
"""What the dimension `part` names. W: encoder, mixing and decoder; activations: all but the state. Biases
stay in full precision."""

CALIBRATION = ("static", "dynamic")
SYMMETRY = {"asymmetric": False, "symmetric": True}
TABLE3: dict[str, tuple[int, int, int, int] | None] = {
    # name: (bits of the matrices and of B, C, D; of the activations; of A; of x)
    "FP": None,
    "PTQ W4A6 A8 x8": (4, 6, 8, 8),
    "W8A8": (8, 8, 8, 8),
    "W4A6 A16 x16": (4, 6, 16, 16),
    "W4A6 A8 x8": (4, 6, 8, 8),
    "W4A6 A6 x6": (4, 6, 6, 6),
}
"""Columns of Table III; all but the first two after QAT."""


def part_scheme(part: str, bits: int, **options: Any) -> Scheme:
    """Only `part` rounded, to `bits`.

    Where the state has bits, `A x` and `B u` are rounded apart and their sum saturates; where the GELU has, it
    is the piecewise one. A part of the recurrence without bits of its own has 16 where the state is an integer.
    """
    widths = Bits.only(**dict.fromkeys(PARTS[part], bits))
    if widths.state is not None:
        options = {"rounding_placement": "separate", **options}
    if widths.gelu is not None:
        options = {"gelu": "piecewise", **options}
    return Scheme(bits=widths, **{**PAPER, **options})


def dynamic(part: str, calibration: str) -> dict[str, Any]:
    """The option that makes the ranges of `part` follow the batch."""
    return {"state_calibration" if part == "x" else "calibration": calibration}


def ptq_cell(model: str, part: str, bits: int, **options: Any) -> Job:
    """PTQ of one part; full precision where `bits` says so, whatever the options."""
    return Train(model) if bits == FULL_PRECISION else Ptq(model, part_scheme(part, bits, **options))


def qat_scheme(poles: int, state: int, weights: int, activations: int, parameterisation: str) -> Scheme:
    """The schemes that are trained: W8A8 or W4A6, with A and x of their own."""
    make = {(8, 8): Scheme.w8a8, (4, 6): Scheme.w4a6}[weights, activations]
    return make(poles, state, parameterisation=parameterisation, **PAPER)


def table3_cell(cell: Mapping[str, Any]) -> Job:
    """A column of Table III."""
    model, name = cell["model"], cell["scheme"]
    widths = TABLE3[name]
    if widths is None:
        return Train(model)
    weights, activations, a, x = widths
    scheme = qat_scheme(a, x, weights, activations, PARAMETERISATION)
    return Ptq(model, scheme) if name.startswith("PTQ") else Qat(model, scheme)


def saving(model: ModelConfig, name: str) -> float:
    """Memory saving of a column of Table III, percent; 0 in full precision."""
    widths = TABLE3[name]
    if widths is None:
        return 0.0
    weights, activations, a, x = widths
    return memory_saving(model, qat_scheme(a, x, weights, activations, PARAMETERISATION))
