"""Operators of a graph in integers: their constants, and what each makes of codes.

Codes are (batch, time, channel), or (batch, channel) behind a pool. An operation is a plan and the words that it
reads, ready to run; `constants` gives all of its integers by name, as docs/integer_model.md lists them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint.blocks import scan_blocks
from imc_ssm.fixedpoint.formats import Format
from imc_ssm.fixedpoint.norms import AffinePlan, NormPlan, affine_codes, norm_codes, root_table
from imc_ssm.fixedpoint.operators import (
    Channels,
    GatedPlan,
    GatePlan,
    LinearPlan,
    SumPlan,
    gate_codes,
    gated_codes,
    linear_codes,
    look_up_codes,
    mean_codes,
    plan_mean,
    scale_add_codes,
    sum_codes,
)
from imc_ssm.fixedpoint.oracle import Overflows, state_codes
from imc_ssm.fixedpoint.plan import ScanPlan

__all__ = ["AddOperation", "AffineOperation", "EndOperation", "GateOperation", "GatedOperation", "LinearOperation"]
__all__ += ["MeanOperation", "NormOperation", "Operation", "ScaleAddOperation", "ScanOperation", "StateOperation"]
__all__ += ["TableOperation", "reversed_codes"]

Ints = NDArray[np.int64]


def reversed_codes(codes: Ints, lengths: Ints | None) -> Ints:
    """Codes (batch, time, channel) from the end of each sequence to its start; what follows the end stays."""
    if lengths is None:
        return codes[:, ::-1]
    time = np.arange(codes.shape[1])
    places = np.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)
    return np.take_along_axis(codes, places[..., None], 1)


def _words(prefix: str, words: Channels) -> dict[str, Ints]:
    return {f"{prefix}_zero": words.zero, f"{prefix}_low": words.low, f"{prefix}_high": words.high}


def _of_format(prefix: str, fmt: Format, shape: tuple[int, ...]) -> dict[str, Ints]:
    """Zero points and bounds of a format, spread to a shape."""

    def spread(v: NDArray[np.int64]) -> Ints:
        return np.broadcast_to(v.reshape(v.shape + (1,) * (len(shape) - v.ndim)), shape).astype(np.int64)

    parts = {"zero": fmt.zero_point, "low": fmt.low, "high": fmt.high}
    return {f"{prefix}_{name}": spread(v) if v.ndim else np.broadcast_to(v, shape) for name, v in parts.items()}


class Operation(ABC):
    """What one operator makes of codes."""

    kind: ClassVar[str]
    """Its name in a bundle."""

    @abstractmethod
    def run(self, inputs: Sequence[Ints], lengths: Ints | None) -> Ints:
        """Codes of the output; `lengths` (batch,) are the valid steps, None: all."""

    @abstractmethod
    def constants(self, steps: Sequence[int]) -> dict[str, Ints]:
        """Its integers by name; `steps`: lengths of sequences that it has to know."""

    @property
    def how(self) -> dict[str, str | int]:
        """What it does beside its integers: roundings."""
        return {}


@dataclass(eq=False)
class LinearOperation(Operation):
    """A matrix."""

    kind: ClassVar[str] = "linear"
    plan: LinearPlan
    weight: Ints

    def run(self, inputs: Sequence[Ints], lengths: Ints | None) -> Ints:
        return linear_codes(self.plan, inputs[0], self.weight)

    def constants(self, steps: Sequence[int]) -> dict[str, Ints]:
        plan, source = self.plan, self.plan.source
        return {
            "weight": self.weight,
            "weight_zero": plan.weight_zero,
            "source_zero": source.zero,
            "align": source.align,
            "align_shift": np.array(source.align_shift),
            "multiplier": plan.multiplier,
            "bias": plan.bias,
            "shift": plan.shift,
            **({} if plan.output is None else _words("output", plan.output)),
        }


@dataclass(eq=False)
class AddOperation(Operation):
    """A sum."""

    kind: ClassVar[str] = "sum"
    plan: SumPlan

    def run(self, inputs: Sequence[Ints], lengths: Ints | None) -> Ints:
        return sum_codes(self.plan, *inputs)

    def constants(self, steps: Sequence[int]) -> dict[str, Ints]:
        plan = self.plan
        return {
            "first_zero": plan.zeros[0],
            "second_zero": plan.zeros[1],
            "first": plan.first,
            "second": plan.second,
            "shift": plan.shift,
            **_words("output", plan.output),
        }


@dataclass(eq=False)
class ScaleAddOperation(Operation):
    """y + D u."""

    kind: ClassVar[str] = "scale add"
    plan: SumPlan
    d: Ints

    def run(self, inputs: Sequence[Ints], lengths: Ints | None) -> Ints:
        return scale_add_codes(self.plan, inputs[0], self.d, inputs[1])

    def constants(self, steps: Sequence[int]) -> dict[str, Ints]:
        plan = self.plan
        zeros = dict(zip(("first_zero", "d_zero", "second_zero"), plan.zeros, strict=True))
        own = {"d": self.d, "first": plan.first, "second": plan.second, "shift": plan.shift}
        return {**zeros, **own, **_words("output", plan.output)}


@dataclass(eq=False)
class TableOperation(Operation):
    """A function of one code."""

    kind: ClassVar[str] = "table"
    table: Ints
    """(channels or 1, codes), from the lowest code upwards."""
    low: Ints
    """(channels,), the lowest codes."""

    def run(self, inputs: Sequence[Ints], lengths: Ints | None) -> Ints:
        return look_up_codes(self.table, self.low, inputs[0])

    def constants(self, steps: Sequence[int]) -> dict[str, Ints]:
        return {"table": self.table, "source_low": self.low}


@dataclass(eq=False)
class GateOperation(Operation):
    """x_1 sigmoid(x_2)."""

    kind: ClassVar[str] = "gate"
    plan: GatePlan
    table: Ints

    def run(self, inputs: Sequence[Ints], lengths: Ints | None) -> Ints:
        return gate_codes(self.plan, inputs[0], self.table)

    def constants(self, steps: Sequence[int]) -> dict[str, Ints]:
        plan, half = self.plan, len(self.plan.shift)
        return {
            "table": self.table,
            "source_zero": plan.source.zero[:half],
            "source_low": plan.source.low[half:],
            "multiplier": plan.multiplier,
            "shift": plan.shift,
            **_words("output", plan.output),
        }


@dataclass(eq=False)
class MeanOperation(Operation):
    """The mean over time."""

    kind: ClassVar[str] = "mean"
    source: Format
    output: Format
    channels: int

    def run(self, inputs: Sequence[Ints], lengths: Ints | None) -> Ints:
        (codes,) = inputs
        ends = np.array([codes.shape[1]]) if lengths is None else lengths
        return mean_codes(plan_mean(self.source, self.output, ends, self.channels), codes, ends)

    def constants(self, steps: Sequence[int]) -> dict[str, Ints]:
        plan = plan_mean(self.source, self.output, steps, self.channels)
        return {
            "steps": np.asarray(steps, np.int64),
            "source_zero": plan.zero,
            "multiplier": plan.multiplier,
            "shift": plan.shift,
            **_words("output", plan.output),
        }


@dataclass(eq=False)
class EndOperation(Operation):
    """The last step."""

    kind: ClassVar[str] = "last"

    def run(self, inputs: Sequence[Ints], lengths: Ints | None) -> Ints:
        (codes,) = inputs
        return codes[:, -1] if lengths is None else codes[np.arange(len(codes)), lengths - 1]

    def constants(self, steps: Sequence[int]) -> dict[str, Ints]:
        return {}


@dataclass(eq=False)
class AffineOperation(Operation):
    """A scale and a shift of every channel."""

    kind: ClassVar[str] = "affine"
    plan: AffinePlan

    def run(self, inputs: Sequence[Ints], lengths: Ints | None) -> Ints:
        return affine_codes(self.plan, inputs[0])

    def constants(self, steps: Sequence[int]) -> dict[str, Ints]:
        plan, channels = self.plan, (len(self.plan.gain),)
        return {
            "source_zero": _of_format("source", plan.source, channels)["source_zero"],
            "gain": plan.gain,
            "offset": plan.offset,
            "shift": plan.shift,
            **_of_format("output", plan.output, channels),
        }


@dataclass(eq=False)
class NormOperation(AffineOperation):
    """A layer norm or an RMS norm."""

    kind: ClassVar[str] = "norm"
    plan: NormPlan

    def run(self, inputs: Sequence[Ints], lengths: Ints | None) -> Ints:
        return norm_codes(self.plan, inputs[0])

    def constants(self, steps: Sequence[int]) -> dict[str, Ints]:
        plan = self.plan
        names = ("centred", "align_shift", "reciprocal", "reciprocal_shift", "eps")
        return {
            **super().constants(steps),
            "align": plan.align,
            "root_table": root_table(),
            **{name: np.array(int(getattr(plan, name))) for name in names},
        }


@dataclass(eq=False)
class ScanOperation(Operation):
    """The diagonal recurrence of every head."""

    kind: ClassVar[str] = "scan"
    plan: ScanPlan
    a: Ints
    b: Ints
    c: Ints
    overflows: list[Overflows] = field(default_factory=list, init=False)
    """Of every call."""

    def run(self, inputs: Sequence[Ints], lengths: Ints | None) -> Ints:
        rows = np.ascontiguousarray(inputs[0].transpose(0, 2, 1))
        y, lost = scan_blocks(self.plan, rows, self.a, self.b, self.c)
        self.overflows.append(lost)
        return y.transpose(0, 2, 1)

    @property
    def how(self) -> dict[str, str | int]:
        return _roundings(self.plan)

    def constants(self, steps: Sequence[int]) -> dict[str, Ints]:
        plan, shape = self.plan, (self.plan.heads, self.plan.states)
        if plan.m_y is None or plan.shift_y is None or plan.formats.y is None:
            raise FormatError("a recurrence without a format of its output has no place in a bundle")
        return {
            **_unit_constants(plan, self.a, self.b),
            "c": self.c - plan.zero("c")[..., None],
            "m_c": plan.m_c,
            "m_y": plan.m_y,
            "shift_y": plan.shift_y,
            "source_zero": plan.zero("u"),
            "periods": np.broadcast_to(plan.periods, shape[:1]).astype(np.int64),
            **_of_format("output", plan.formats.y, shape[:1]),
        }


def _roundings(plan: ScanPlan) -> dict[str, str | int]:
    f = plan.formats
    return {
        "rounding": f.rounding,
        "rounding_placement": f.rounding_placement,
        "residual_bits": f.residual_bits,
        "word": plan.word,
    }


def _unit_constants(plan: ScanPlan, a: Ints, b: Ints) -> dict[str, Ints]:
    """Of the state's update; a, b (head, state, 2) stored codes."""
    return {
        "a": a - plan.zero("a")[..., None],
        "b": b - plan.zero("b")[..., None],
        "m_a": plan.m_a,
        "m_b": plan.m_b,
        "shift": plan.shift,
        "shift_b": plan.shift_b,
        "low": plan.low,
        "high": plan.high,
    }


@dataclass(eq=False)
class StateOperation(Operation):
    """The diagonal recurrence of a complex input, whose states are the output."""

    kind: ClassVar[str] = "states"
    plan: ScanPlan
    a: Ints
    b: Ints
    overflows: list[Overflows] = field(default_factory=list, init=False)

    def run(self, inputs: Sequence[Ints], lengths: Ints | None) -> Ints:
        batch, time, width = inputs[0].shape
        rows = inputs[0].transpose(0, 2, 1).reshape(batch, 2, width // 2, time)
        x, _, lost = state_codes(self.plan, rows, self.a, self.b)
        self.overflows.append(lost)
        return x.reshape(batch, width, time).transpose(0, 2, 1)

    @property
    def how(self) -> dict[str, str | int]:
        return _roundings(self.plan)

    def constants(self, steps: Sequence[int]) -> dict[str, Ints]:
        plan = self.plan
        return {
            **_unit_constants(plan, self.a[:, None], self.b[:, None]),
            "source_zero": plan.zero("u"),
            "state_zero": plan.zero("x")[:, 0],
        }


@dataclass(eq=False)
class GatedOperation(Operation):
    """A state behind a gate."""

    kind: ClassVar[str] = "gated"
    plan: GatedPlan

    def run(self, inputs: Sequence[Ints], lengths: Ints | None) -> Ints:
        return gated_codes(self.plan, *inputs)[0]

    @property
    def how(self) -> dict[str, str | int]:
        return {"rounding": self.plan.rounding}

    def constants(self, steps: Sequence[int]) -> dict[str, Ints]:
        plan = self.plan
        return {
            "gate_zero": plan.gate_zero,
            "candidate_zero": plan.candidate_zero,
            "candidate": plan.candidate,
            "candidate_shift": plan.candidate_shift,
            "gate": plan.gate,
            "gate_shift": plan.gate_shift,
            **_words("output", plan.output),
        }
