"""Where rounding moves the poles, and how the error of the convolution kernel grows with the number of steps.

After Zhao, Torchet, Payvand, Kriener and Moro 2025 (arXiv:2506.12480), Fig. 4: poles on the quantized grid, and
the error that they make against the number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imc_ssm.analysis.layers import Coefficients
from imc_ssm.errors import ImcSsmError
from imc_ssm.quantization.rates import groups_of

__all__ = ["PARTS", "circle_distance", "kernel_errors", "pole_displacement", "step_grid"]

PARTS = ("a", "b", "c", "all")
"""Which coefficients are rounded: one at a time, or all three."""
_CHUNK, _ELEMENTS = 1024, 2**21
Real = NDArray[np.float64]
Complex = NDArray[np.complex128]


def pole_displacement(before: ArrayLike, after: ArrayLike) -> Real:
    """|a_q - a|, how far rounding moves each pole."""
    return np.abs(np.asarray(after, np.complex128) - np.asarray(before, np.complex128))


def circle_distance(a: ArrayLike) -> Real:
    """1 - |a|, the distance of each pole to the unit circle; 0 or negative: the state need not stay bounded."""
    return 1.0 - np.abs(np.asarray(a, np.complex128))


def step_grid(most: int, per_decade: int = 8) -> NDArray[np.int64]:
    """Numbers of steps from 1 to `most`, about equally spaced on a logarithmic axis, both ends included."""
    if most < 1 or per_decade < 1:
        raise ImcSsmError(f"a grid of {per_decade} points a decade up to {most} steps; both must be at least 1")
    points = int(np.ceil(np.log10(most) * per_decade)) + 1
    return np.unique(np.rint(np.geomspace(1, most, points)).astype(np.int64))


def kernel_errors(before: Coefficients, after: Coefficients, steps: Sequence[int] | NDArray[np.int64]) -> Real:
    """Relative error of the kernel's first L steps when a, b, c, or all of them are rounded.

        e(L) = ||k_q - k||_2 / ||k||_2,    k[t] = 2 Re(sum_n c a^t b),    t = 0 .. L-1

    per head, in complex128; returns (4, head, len(steps)) in the order of `PARTS`. Exactly 0 where nothing
    was rounded; infinite where the rounded kernel leaves float64 or the exact one is zero so far, and 0 where
    both are. Memory does not grow with the number of steps. Of a head with a period of k, L steps are L // k
    updates, at least one.

    Raises `ImcSsmError` unless `steps` are rising numbers of at least 1, or if the shapes differ.
    """
    grid = np.asarray(steps, np.int64)
    if grid.ndim != 1 or grid.size == 0 or grid[0] < 1 or np.any(np.diff(grid) <= 0):
        raise ImcSsmError("the numbers of steps must rise, each at least 1")
    shapes = {z.shape for side in (before, after) for z in (side.a, side.b, side.c)}
    if len(shapes) != 1 or before.a.ndim != 2:
        raise ImcSsmError(f"the coefficients have shapes {sorted(shapes)}; all must be (head, state)")
    heads, states = before.a.shape
    if before.periods is not None and max(before.periods) > 1:
        slow = np.empty((len(PARTS), heads, grid.size))
        for period, at in groups_of(before.periods):
            updates, places = np.unique(np.maximum(grid // period, 1), return_inverse=True)
            one, two = (Coefficients(side.a[at], side.b[at], side.c[at]) for side in (before, after))
            slow[:, at] = kernel_errors(one, two, updates)[..., places]
        return slow
    # Differences of the weights, not of the kernels: what was not rounded gives exactly 0.
    exact = before.c * before.b
    weights = np.stack(
        [
            exact,
            before.c * (after.b - before.b),
            (after.c - before.c) * before.b,
            after.c * after.b - exact,
        ],
        axis=1,
    )  # (head, 4, state)
    chunk = int(np.clip(_ELEMENTS // max(heads * states, 1), 16, _CHUNK))
    chunk = min(chunk, int(grid[-1]))
    exact_powers, moved_powers = _Powers(before.a, chunk), _Powers(after.a, chunk)
    same = (after.a == before.a).all(axis=1)  # products of other shapes may differ in the last bit
    energy = np.zeros((len(PARTS) + 1, heads))
    out = np.zeros((len(PARTS) + 1, heads, grid.size))
    done = 0
    with np.errstate(over="ignore", invalid="ignore"):
        while done < grid[-1]:
            k = exact_powers.next(weights[:, :3])
            moved = moved_powers.next(weights[:, [0, 3]])
            by_a = np.where(same[:, None], 0.0, moved[:, 0] - k[:, 0])
            rows = np.stack([by_a, k[:, 1], k[:, 2], moved[:, 1] + by_a, k[:, 0]])  # (5, head, chunk)
            sums = energy[..., None] + np.cumsum(rows * rows, axis=-1)
            here = (grid > done) & (grid <= done + chunk)
            out[..., here] = sums[..., grid[here] - done - 1]
            energy, done = sums[..., -1], done + chunk
    return _ratio(out[:-1], out[-1])


class _Powers:
    """2 Re(sum_n w a^t) for one piece of time steps after the other."""

    def __init__(self, a: Complex, chunk: int) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            powers = np.cumprod(np.broadcast_to(a[..., None], (*a.shape, chunk)), axis=-1)
        self.ahead = np.concatenate([np.ones((*a.shape, 1)), powers[..., :-1]], axis=-1)  # (head, state, chunk)
        self.last = powers[..., -1]
        self.front = np.ones(a.shape, np.complex128)

    def next(self, weights: Complex) -> Real:
        """weights (head, kind, state) -> (head, kind, chunk)."""
        k = 2.0 * ((weights * self.front[:, None]) @ self.ahead).real
        self.front = self.front * self.last
        return np.asarray(k)


def _ratio(error: Real, reference: Real) -> Real:
    """sqrt(error / reference); NaN sums are kernels beyond float64."""
    error = np.where(np.isnan(error), np.inf, error)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt(error) / np.sqrt(reference)
    return np.where(error == 0, 0.0, ratio)
