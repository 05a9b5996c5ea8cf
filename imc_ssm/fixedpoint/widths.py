"""How wide the integers of a planned recurrence really are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from imc_ssm.fixedpoint.formats import NEAREST
from imc_ssm.fixedpoint.plan import ScanPlan

__all__ = ["Multipliers", "Shifts"]


@dataclass(frozen=True)
class Multipliers:
    """Widths of one recurrence's integers in bits, the widest of all heads and states.

    Significant bits for what is multiplied: the zeros below are a shift.
    """

    a: int
    """m_a, of a x."""
    b: int
    """m_b, of b u."""
    sum: int
    """The accumulator m_a a x + m_b b u with rounding's half, or the larger one of the two in the separate
    placement; sign included."""

    @property
    def widest(self) -> int:
        """The longer of m_a and m_b: what one multiplier has to take, whichever of them it is given."""
        return max(self.a, self.b)

    @classmethod
    def of(cls, plan: ScanPlan) -> Multipliers:
        """Those of a plan."""
        shape = (plan.heads, plan.states)

        def largest(part: str) -> Any:
            """Largest centred code as Python's integers, (head, state)."""
            fmt = getattr(plan.formats, part)
            p = np.ones((), np.int64) if fmt is None else np.maximum(fmt.magnitude(), 1)
            return np.broadcast_to(p[:, None] if p.ndim == 1 else p, shape).astype(object)

        whole = plan.formats.rounding not in NEAREST
        first = plan.m_a * 2 * largest("a") * largest("x") + _added(plan.shift, whole)
        products = 2 if plan.complex_drive and plan.formats.b is not None else 1
        inputs = largest("u") * plan.periods.astype(object)[:, None]
        second = plan.m_b * products * largest("b") * inputs
        if plan.formats.rounding_placement == "joint":
            sums = [first + second]
        else:
            sums = [first, second + _added(plan.shift_b, whole)]
        word = 1 + max(int(v).bit_length() for one in sums for v in one.ravel())
        return cls(_significant(plan.m_a), _significant(plan.m_b), word)


@dataclass(frozen=True)
class Shifts:
    """The longest shifts of a recurrence whose scales are all powers of two, over heads and states."""

    a: int
    """Left, of a x in front of the sum with b u; in the separate placement a x's whole shift, left or right."""
    b: int
    """As `a`, of b u."""
    state: int
    """Right, behind the sum; 0 in the separate placement."""
    output: int
    """Of the sum over states, left or right."""

    @classmethod
    def of(cls, plan: ScanPlan) -> Shifts | None:
        """Those of a plan; None where a scale is no power of two, so that multipliers are needed."""
        if not plan.formats.power_of_two:
            return None
        a, b = _powers(plan.m_a), _powers(plan.m_b)
        output = 0
        if plan.m_y is not None and plan.shift_y is not None:
            output = int(np.abs(plan.shift_y - _powers(plan.m_y)).max(initial=0))
        if plan.formats.rounding_placement == "joint":
            return cls(int(a.max(initial=0)), int(b.max(initial=0)), int(plan.shift.max(initial=0)), output)
        of_a, of_b = (np.abs(s - p).max(initial=0) for s, p in ((plan.shift, a), (plan.shift_b, b)))
        return cls(int(of_a), int(of_b), 0, output)


def _powers(multipliers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """log2 of multipliers that are powers of two; 0 for one that is 0, whose product is dropped."""
    return np.array([max(m, 1).bit_length() - 1 for m in multipliers.ravel().tolist()]).reshape(multipliers.shape)


def _added(shift: np.ndarray[Any, Any], whole: bool) -> Any:
    """What rounding adds: half of 2^shift, or up to all of it."""
    words = [(1 << s) - 1 if whole else 1 << s >> 1 for s in shift.ravel().tolist()]
    return np.array(words, dtype=object).reshape(shift.shape)


def _significant(multipliers: np.ndarray[Any, Any]) -> int:
    """Most bits of the multipliers without the zeros below."""
    return max((m // (m & -m)).bit_length() if m else 1 for m in multipliers.ravel().tolist())
