"""The states that real data reach: percentiles over all of them, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imc_ssm.errors import ImcSsmError

__all__ = ["RunningPercentile", "state_magnitudes"]

_BUFFER = 2**21
"""Complex states kept at once while they are computed."""
_LARGEST = 2**27
"""Values that a running percentile may keep."""


class RunningPercentile:
    """An exact high percentile of every series, from values that come in pieces.

    Of `samples` values of a series, the percentile p is the smallest one that at least p % of them do not
    exceed (NumPy's method "inverted_cdf"). Only the largest samples - ceil(p samples / 100) + 1 are kept.

    Raises `ImcSsmError` for p outside (0, 100], no samples, or more values to keep than fit 512 MiB.
    """

    def __init__(self, series: int, samples: int, percentile: float) -> None:
        if not 0 < percentile <= 100 or samples < 1:
            raise ImcSsmError(
                f"percentile {percentile} of {samples} values; allowed are above 0 to 100, of at least one"
            )
        # Rounded first: 99.9 % of 1000 is 999, whatever the last bit of the product says.
        self.keep = samples - max(1, math.ceil(round(samples * percentile / 100, 6))) + 1
        if series * self.keep > _LARGEST:
            raise ImcSsmError(
                f"percentile {percentile} of {samples} values in each of {series} series needs "
                f"{series * self.keep * 4 / 2**20:.0f} MiB; use a higher percentile or fewer sequences"
            )
        self.series, self.samples, self.seen = series, samples, 0
        self._top: NDArray[np.float32] = np.zeros((series, 0), np.float32)

    def add(self, values: NDArray[np.float32], valid: int | None = None) -> None:
        """More magnitudes (series, m), of which `valid` count (the others are 0; None: all)."""
        both = np.concatenate([self._top, values], axis=1)
        if both.shape[1] > self.keep:
            both = np.partition(both, both.shape[1] - self.keep, axis=1)[:, -self.keep :]
        self._top = np.ascontiguousarray(both)
        self.seen += values.shape[1] if valid is None else valid

    def value(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The percentile and the maximum of every series; `ImcSsmError` before all samples have come."""
        if self.seen != self.samples:
            raise ImcSsmError(f"{self.seen} of {self.samples} values have come; add the rest first")
        top = self._top.astype(np.float64)
        return np.partition(top, top.shape[1] - self.keep, axis=1)[:, -self.keep], top.max(axis=1)


@torch.no_grad()
def state_magnitudes(
    u: Tensor, a: Tensor, b: Tensor, lengths: Tensor | None = None
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """|Re x| and |Im x| of x[t] = a x[t-1] + b u[t], some time steps at once, in full precision.

    u (batch, head, time); a, b (head, state) complex64. Yields (head * state * 2, m) float32, parts fastest,
    and how many of the m columns lie within `lengths` (batch,); the others are 0.
    """
    batch, _, time = u.shape
    x = torch.zeros(batch, *a.shape, dtype=a.dtype)
    several = max(1, _BUFFER // x.numel())
    for start in range(0, time, several):
        steps = range(start, min(start + several, time))
        seen = torch.empty(len(steps), *x.shape, dtype=a.dtype)
        for i, t in enumerate(steps):
            x = torch.addcmul(b * u[..., t, None], a, x)
            seen[i] = x
        columns = len(steps) * batch
        magnitudes: Any = torch.view_as_real(seen).abs_()  # (steps, batch, head, state, 2)
        if lengths is not None:
            inside = torch.tensor(list(steps))[:, None] < lengths
            magnitudes = magnitudes * inside[..., None, None, None]
            columns = int(inside.sum())
        yield magnitudes.flatten(0, 1).flatten(1).T.contiguous().numpy(), columns
