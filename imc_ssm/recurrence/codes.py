"""Operands of the integer update as arrays, and the fused CPU kernel on codes (the twin of the oracle)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Format, ScanPlan
from imc_ssm.recurrence import kernels

__all__ = ["Operands", "codes_of", "input_codes", "pair", "scan_codes_cpu"]

Array = NDArray[Any]


def pair(z: Tensor) -> Array:
    """A complex tensor (...,) as a contiguous real array (..., 2)."""
    return torch.view_as_real(z.detach().resolve_conj()).contiguous().numpy()


def codes_of(value: Array, fmt: Format) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Codes of a coefficient (head, ...) and where it saturated (its straight-through gradient is zero)."""
    value = np.asarray(value, np.float64)
    codes = fmt.quantise(value)
    spread = [Format._spread(x, value.ndim, 0) for x in (fmt.scale.astype(np.float64), fmt.zero_point)]
    free = np.rint(value / spread[0]) + spread[1]
    return codes, free != codes


def _per_head(x: Array, heads: int, dtype: type) -> Array:
    return np.ascontiguousarray(np.broadcast_to(x, heads), dtype)


def input_codes(u: Tensor, plan: ScanPlan) -> Array:
    """Codes (batch, head, time) int32 of a float32 input: clip(round_half_even(u / scale) + zero, low, high)."""
    fmt, heads = plan.formats.u, plan.heads
    codes = np.empty(u.shape, np.int32)
    kernels.quantise(
        u.detach().contiguous().numpy(),
        _per_head(fmt.scale, heads, np.float32),
        _per_head(fmt.zero_point, heads, np.int64),
        _per_head(fmt.low, heads, np.int64),
        _per_head(fmt.high, heads, np.int64),
        codes,
    )
    return codes


@dataclass(frozen=True, eq=False)
class Operands:
    """Coefficients and plan in the accumulator's word, as the kernels take them."""

    a: Array
    b: Array
    c: Array
    plan: ScanPlan

    @classmethod
    def build(cls, plan: ScanPlan, a: Array, b: Array | None, c: Array | None) -> Operands:
        """Centre the codes a, b, c (head, state, 2) on their zero points; b or c None: exactly 1."""
        word = np.int32 if plan.word == 32 else np.int64
        one = np.zeros((plan.heads, plan.states, 2), word)
        one[..., 0] = 1

        def centred(codes: Array | None, part: str) -> Array:
            if codes is None:
                return one
            return np.ascontiguousarray(codes - plan.zero(part)[:, None, None], word)

        return cls(centred(a, "a"), centred(b, "b"), centred(c, "c"), plan)

    def constants(self) -> tuple[Array, ...]:
        """zero_u, m_a, m_b, shift, low, high (word) and m_y, shift_y, zero_y, low_y, high_y (int64)."""
        plan, word = self.plan, self.a.dtype
        zero_u = plan.zero("u").astype(word)
        update = [x.astype(word) for x in (plan.m_a, plan.m_b, plan.shift, plan.low, plan.high)]
        none = np.zeros(0, np.int64)
        y = plan.formats.y
        if y is None or plan.m_y is None or plan.shift_y is None:
            return (zero_u, *update, none, none, none, none, none)
        low, high = (np.ascontiguousarray(np.broadcast_to(v, plan.heads)) for v in (y.low, y.high))
        return (zero_u, *update, plan.m_y, plan.shift_y, plan.zero("y"), low, high)

    def run(self, u: Array, x: Array) -> Array:
        """Codes u (batch, head, time) int32 to output codes (or bare sums); `x` (centred) is updated in place."""
        small = self.plan.formats.y is not None or self.plan.word == 32
        y = np.empty(u.shape, np.int32 if small else np.int64)
        kernels.forward_codes(u, self.a, self.b, self.c, *self.constants(), x, y)
        return y


def scan_codes_cpu(
    plan: ScanPlan,
    u: Array,
    a: Array,
    b: Array | None = None,
    c: Array | None = None,
    x0: Array | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The fused CPU kernel on codes: same arguments and same codes as `fixedpoint.scan_codes`, no counters."""
    if u.ndim != 3 or u.shape[1] != plan.heads:
        raise FormatError(f"u has shape {u.shape}; needed is (any, {plan.heads}, any)")
    operands = Operands.build(plan, a, b, c)
    zero_x = plan.zero("x")[:, None, None]
    shape = (u.shape[0], plan.heads, plan.states, 2)
    x = np.zeros(shape, np.int32) if x0 is None else np.ascontiguousarray(x0 - zero_x, np.int32)
    y = operands.run(np.ascontiguousarray(u, np.int32), x)
    return y.astype(np.int64), x.astype(np.int64) + zero_x
