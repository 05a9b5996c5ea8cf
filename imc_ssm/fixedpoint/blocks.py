"""`scan_codes` for many sequences: the same integers, in place, in pieces that fit a processor's cache.

Differences to the oracle are of form alone: one head after the other, slow ones on the sums of their inputs,
multipliers folded into coefficients (section 3), and words that are shown to fit 32 bits held in 32. The tests
compare the two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_ssm.fixedpoint.dither import dither_words, fractions, registers, stochastic_words
from imc_ssm.fixedpoint.formats import NEAREST
from imc_ssm.fixedpoint.oracle import Overflows, _checked, first_residual
from imc_ssm.fixedpoint.plan import ScanPlan
from imc_ssm.fixedpoint.requantization import NARROW_BITS, round_shift

__all__ = ["scan_blocks"]

Ints = NDArray[Any]
_BLOCK = 1 << 13
"""State words of one part that are worked on at a time."""


def scan_blocks(
    plan: ScanPlan, u: Ints, a: Ints, b: Ints | None = None, c: Ints | None = None
) -> tuple[Ints, Overflows]:
    """y (batch, head, time) and overflows of `scan_codes(plan, u, a, b, c)`, from a state of zero.

    Raises `FormatError` for shapes and codes, as that does.
    """
    f, time = plan.formats, u.shape[-1]
    shape = (plan.heads, plan.states, 2)
    one = np.zeros(shape, np.int64)
    one[..., 0] = 1
    u = _checked("u", u, f.u, (None, plan.heads, None), 1)
    given = (("a", a, f.a), ("b", b, f.b), ("c", c, f.c))
    words = [one if v is None or fmt is None else _checked(name, v, fmt, shape, 0) for name, v, fmt in given]
    y = np.empty(u.shape, np.int64)
    saturated, cut = np.zeros(plan.heads, np.int64), np.zeros(plan.heads, np.int64)
    zero_u, size = plan.zero("u"), max(1, _BLOCK // plan.states)
    for h in range(plan.heads):
        head, period = _Head(plan, h, *(v[h] for v in words)), int(plan.periods[h])
        updates = time // period
        for start in range(0, len(u), size):
            rows = (u[start : start + size, h] - zero_u[h])[:, : updates * period]
            sums, lost = head.run(rows.reshape(len(rows), updates, period).sum(-1).T)
            saturated[h] += lost
            # Before the first update the output is that of a state of zero.
            codes, beyond = _outputs(plan, h, np.concatenate([np.zeros((1, len(rows)), np.int64), sums]).T)
            cut[h] += np.count_nonzero(beyond[:, 1:])
            y[start : start + size, h] = codes[:, (np.arange(time) + 1) // period]
    return y, Overflows(saturated, cut)


def _outputs(plan: ScanPlan, head: int, sums: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """The codes of a head's sums, or these themselves, and where they saturated."""
    f = plan.formats
    if f.y is None or plan.m_y is None or plan.shift_y is None:
        return sums, np.zeros(sums.shape, np.bool_)
    low, high = (np.broadcast_to(v, plan.heads)[head] for v in (f.y.low, f.y.high))
    free = round_shift(plan.m_y[head] * sums, plan.shift_y[head], f.nearest) + plan.zero("y")[head]
    return np.clip(free, low, high), (free < low) | (free > high)


class _Head:
    """One head: the folded coefficients, (state, 1) each, beside states (state, batch)."""

    def __init__(self, plan: ScanPlan, head: int, a: Ints, b: Ints, c: Ints) -> None:
        f = plan.formats
        self.kind: Any = np.int32 if plan.word == NARROW_BITS else np.int64
        self.joint, self.rounding, self.bits = f.rounding_placement == "joint", f.rounding, f.residual_bits
        self.registers = registers(plan.heads, plan.states)[head]

        def folded(name: str, codes: Ints, factor: Ints) -> list[Ints]:
            """Real and imaginary part."""
            centred = (codes - plan.zero(name)[head, :, None]) * factor[head, :, None]
            return [self._column(centred[:, part]) for part in (0, 1)]

        self.a, self.b, self.c = folded("a", a, plan.m_a), folded("b", b, plan.m_b), folded("c", c, plan.m_c)
        self.low, self.high = self._column(plan.low[head]), self._column(plan.high[head])
        self.shifts = [self._rounding(s[head]) for s in (plan.shift, plan.shift_b)]

    def _column(self, v: Ints) -> Ints:
        return np.ascontiguousarray(v[:, None], self.kind)

    def _rounding(self, shift: Ints) -> tuple[Ints, Ints, Ints]:
        """A shift, what rounding adds but for what depends on the value, and 1 where there is a shift."""
        half = np.int64(1) << shift >> 1
        some = (half > 0).astype(np.int64)
        return (
            self._column(shift),
            self._column(half - some if self.rounding == "half_even" else half),
            self._column(some),
        )

    def run(self, u: Ints) -> tuple[Ints, int]:
        """Sums before the output's requantization (update, batch), int64, and how many words saturated.

        u (update, batch), centred.
        """
        given = np.ascontiguousarray(u, self.kind)
        shape = (len(self.low), u.shape[1])
        x, acc, drive, residual = ([np.zeros(shape, self.kind) for _ in (0, 1)] for _ in range(4))
        for rest in residual:
            rest += first_residual(self.bits)
        work, free = np.empty(shape, self.kind), np.empty(shape, np.bool_)
        out = np.empty(u.shape, np.int64)
        lost = 0
        for t, row in enumerate(given):
            words = self._words(t)
            for part in (0, 1):  # a_r x_r - a_i x_i, a_r x_i + a_i x_r
                np.multiply(self.a[0], x[part], out=acc[part])
                np.multiply(self.a[1], x[1 - part], out=work)
                (np.add if part else np.subtract)(acc[part], work, out=acc[part])
                np.multiply(self.b[part], row, out=drive[part])
            for part in (0, 1):
                word = None if words is None else words[:, part]
                lost += self._advance(acc[part], drive[part], word, residual[part], x[part], work, free)
            np.multiply(self.c[0], x[0], out=acc[0])
            np.multiply(self.c[1], x[1], out=work)
            np.subtract(acc[0], work, out=acc[0])
            out[t] = acc[0].sum(axis=0, dtype=self.kind)
        return out, lost

    def _words(self, update: int) -> Ints | None:
        """16-bit words of an update (state, 2), where the rounding has some."""
        if self.rounding in NEAREST or self.rounding == "feedback":
            return None
        make = dither_words if self.rounding == "dithered" else stochastic_words
        return make(np.asarray(update), self.registers)

    def _advance(
        self, acc: Ints, drive: Ints, word: Ints | None, residual: Ints, x: Ints, work: Ints, free: Any
    ) -> int:
        """The next states of one part, in x, and how many words saturated; `free`: room."""
        if self.joint:
            np.add(acc, drive, out=acc)
            if self.rounding == "feedback":
                self._fed_back(acc, residual, work)
            else:
                self._round(acc, 0, word, work)
            self._clamp(acc, x)
            return int(np.count_nonzero(np.not_equal(acc, x, out=free)))
        self._round(acc, 0, word, work)
        self._clamp(acc, x)
        np.not_equal(acc, x, out=free)
        self._round(drive, 1, None if word is None else 65535 - word, work)
        self._clamp(drive, work)
        free |= drive != work
        np.add(x, work, out=acc)
        self._clamp(acc, x)
        free |= acc != x
        return int(np.count_nonzero(free))

    def _clamp(self, v: Ints, to: Ints) -> None:
        np.minimum(v, self.high, out=to)
        np.maximum(to, self.low, out=to)

    def _round(self, v: Ints, which: int, word: Ints | None, work: Ints) -> None:
        """round(v / 2^shift), in place."""
        shift, half, some = self.shifts[which]
        if word is not None:
            half = fractions(word[:, None], shift).astype(self.kind)
        elif self.rounding == "half_even":
            np.right_shift(v, shift, out=work)
            np.bitwise_and(work, some, out=work)
            np.add(v, work, out=v)
        elif self.rounding == "half_away":
            np.subtract(v, (v < 0) * some, out=v)
        np.add(v, half, out=v)
        np.right_shift(v, shift, out=v)

    def _fed_back(self, v: Ints, residual: Ints, work: Ints) -> None:
        """Truncated with what was cut off before, in place; the new residual."""
        shift = self.shifts[0][0]
        up, down = (np.maximum(z, 0).astype(self.kind) for z in (shift - self.bits, self.bits - shift))
        np.left_shift(residual, up, out=work)
        np.right_shift(work, down, out=work)
        np.add(v, work, out=work)
        np.right_shift(work, shift, out=v)
        np.left_shift(v, shift, out=residual)
        np.subtract(work, residual, out=residual)
        np.right_shift(residual, up, out=residual)
        np.left_shift(residual, down, out=residual)
