"""Operands of the integer update as the kernels of every backend take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imc_ssm.fixedpoint import Format, ScanPlan, broadcast_heads

__all__ = ["Array", "Operands", "codes_of", "complex_of", "input_codes", "pair"]

Array = NDArray[Any]
Ints = NDArray[np.int64]


def pair(z: Tensor) -> Array:
    """A complex tensor (...,) as a contiguous real array (..., 2) on the host."""
    return torch.view_as_real(z.detach().resolve_conj()).cpu().contiguous().numpy()


def complex_of(x: Array) -> Tensor:
    """A real array (..., 2) as a complex64 tensor (...,)."""
    return torch.view_as_complex(torch.from_numpy(np.ascontiguousarray(x, np.float32)))


def codes_of(value: Array, fmt: Format) -> tuple[Ints, NDArray[np.bool_]]:
    """Codes of a coefficient (head, ...) and where it saturated (its straight-through gradient is zero)."""
    value = np.asarray(value, np.float64)
    codes = fmt.quantize(value)
    scale, zero = (broadcast_heads(x, value.ndim, 0) for x in (fmt.scale.astype(np.float64), fmt.zero_point))
    return codes, np.rint(value / scale) + zero != codes


def input_codes(u: Array, plan: ScanPlan) -> Ints:
    """Codes (batch, head, time) of a float32 input: clip(round_half_even(u / scale) + zero, low, high).

    The division is single precision's, correctly rounded, as in the kernels.
    """
    fmt = plan.formats.u
    scale, zero, low, high = (broadcast_heads(x, 3, 1) for x in (fmt.scale, fmt.zero_point, fmt.low, fmt.high))
    with np.errstate(over="ignore"):  # an infinite quotient saturates like any other
        nearest = np.rint(np.asarray(u, np.float32) / scale).astype(np.float64)
    return np.asarray(np.clip(nearest + zero, low, high), np.int64)


@dataclass(frozen=True, eq=False)
class Operands:
    """Coefficients of one update with the plan's multipliers folded in: exact integers, (head, state, 2).

    m_a (a'_re x'_re - a'_im x'_im) = (m_a a'_re) x'_re - (m_a a'_im) x'_im, so the kernels read `a` = m_a a',
    `b` = m_b b' and `c` = m_c c' and multiply once. `real` are the values of a, b, c on their grids (float32),
    for gradients, and `lost` where a coefficient saturated; None: the constant 1, which has no gradient.
    """

    plan: ScanPlan
    a: Ints
    b: Ints
    c: Ints
    real: tuple[Array, Array, Array]
    lost: tuple[Array | None, Array | None, Array | None]

    @classmethod
    def of_codes(cls, plan: ScanPlan, a: Ints, b: Ints | None, c: Ints | None) -> Operands:
        """From codes (head, state, 2); b or c None: exactly 1."""
        return cls._build(plan, (a, b, c), (None, None, None))

    @classmethod
    def of_values(cls, plan: ScanPlan, a: Tensor, b: Tensor | None, c: Tensor | None) -> Operands:
        """From complex coefficients (head, state), rounded to their formats."""
        f = plan.formats
        pairs = [
            (None, None) if z is None or fmt is None else codes_of(pair(z), fmt)
            for z, fmt in ((a, f.a), (b, f.b), (c, f.c))
        ]
        codes, lost = zip(*pairs, strict=True)
        return cls._build(plan, codes, lost)

    @classmethod
    def _build(cls, plan: ScanPlan, codes: Any, lost: Any) -> Operands:
        one = np.zeros((plan.heads, plan.states, 2), np.int64)
        one[..., 0] = 1
        folded, real = [], []
        for name, q, m in zip("abc", codes, (plan.m_a, plan.m_b, plan.m_c), strict=True):
            fmt: Format | None = getattr(plan.formats, name)
            centred = one if q is None or fmt is None else q - plan.zero(name)[..., None]
            scale = np.ones((), np.float32) if q is None or fmt is None else fmt.scale
            folded.append(np.ascontiguousarray(m[..., None] * centred))
            real.append(np.ascontiguousarray(broadcast_heads(scale, 3, 0) * centred, np.float32))
        return cls(plan, folded[0], folded[1], folded[2], (real[0], real[1], real[2]), tuple(lost))

    def input(self) -> tuple[Array, Array, Array]:
        """scale, lowest and highest centred code of the input, (head,) float32."""
        fmt = self.plan.formats.u
        parts = (fmt.scale, fmt.low - fmt.zero_point, fmt.high - fmt.zero_point)
        scale, low, high = (np.broadcast_to(x, self.plan.heads).astype(np.float32) for x in parts)
        return scale, low, high

    def output(self) -> tuple[Array, Array, Array, Array] | None:
        """m_y / 2^shift_y, lowest and highest centred code and scale of the output, (head,) float64, or None."""
        plan, fmt = self.plan, self.plan.formats.y
        if fmt is None or plan.m_y is None or plan.shift_y is None:
            return None
        parts = (fmt.low - fmt.zero_point, fmt.high - fmt.zero_point, fmt.scale)
        low, high, scale = (np.broadcast_to(x, plan.heads).astype(np.float64) for x in parts)
        return plan.m_y / np.exp2(plan.shift_y), low, high, scale

    def gradients(self, sums: tuple[Array, Array, Array]) -> list[Tensor | None]:
        """Gradients of a, b, c from sums (head, state, 2) over real gradients e, g and codes.

        sums: of e conj(x'[t-1]), of e u'[t] and of g conj(x'[t]); codes become real values by their scales
        here. Zero where a coefficient saturated, None where it is the constant 1.
        """
        f = self.plan.formats
        x, u = broadcast_heads(f.x.scale, 3, 0), broadcast_heads(f.u.scale, 3, 0)
        out: list[Tensor | None] = []
        for total, scale, lost in zip(sums, (x, u, x), self.lost, strict=True):
            out.append(None if lost is None else complex_of(np.where(lost, 0.0, total * scale)))
        return out
