"""Multi-rate heads: how often each is updated, its coefficients of k steps, and the same in full precision.

A head of period k is updated at the steps with (t + 1) mod k = 0, from the mean of the k inputs since its last
update, and holds its output in between (docs/fixed_point.md, section 15).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["groups_of", "held", "several_steps", "slowest", "windows"]


@torch.no_grad()
def slowest(a: Tensor, limit: float, most: int) -> Tensor:
    """Periods (head,) int64 of poles a (head, state): the largest power of two k up to `most` for which the head's
    fastest pole turns by at most `limit` rad in k steps, k max_n |arg a_n| <= limit; 1 where none is."""
    angle = torch.angle(a.resolve_conj().to(torch.complex128)).abs().amax(1)
    periods = torch.ones(len(a), dtype=torch.int64, device=a.device)
    for exponent in range(1, most.bit_length()):
        periods = torch.where(2**exponent * angle <= limit, 2**exponent, periods)
    return periods


def several_steps(a: Tensor, b: Tensor, periods: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """a and b (head, state) of k steps with the input held at its mean: a^k and b (1 + a + ... + a^(k-1)).

    By squarings, b <- b (1 + a) and a <- a a; `most` is the largest of the powers of two in `periods` (head,).
    Differentiable.
    """
    for exponent in range(most.bit_length() - 1):
        on = (periods > 2**exponent)[:, None]
        a, b = torch.where(on, a * a, a), torch.where(on, b * (1 + a), b)
    return a, b


def groups_of(periods: tuple[int, ...]) -> Iterator[tuple[int, list[int]]]:
    """(period, heads that have it), periods rising."""
    for period in sorted(set(periods)):
        yield period, [head for head, own in enumerate(periods) if own == period]


def windows(u: Tensor, period: int) -> Tensor:
    """Means of u (batch, head, time) over the whole windows of a period, (batch, head, time // period)."""
    whole = u.shape[-1] // period
    return u[..., : whole * period].reshape(*u.shape[:-1], whole, period).mean(-1)


def held(y: Tensor, period: int, time: int) -> Tensor:
    """Outputs y (batch, head, updates) over all steps (batch, head, time): each until the next one, and zero, that
    of the state at rest, before the first."""
    before = y.new_zeros(*y.shape[:-1], period - 1)
    return torch.cat([before, y.repeat_interleave(period, -1)], -1)[..., :time]
