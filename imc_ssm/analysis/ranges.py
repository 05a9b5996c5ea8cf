"""Guaranteed ranges of the states of a diagonal recurrence, and the word lengths they imply."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imc_ssm.errors import ImcSsmError

__all__ = ["MOST_STEPS", "TOLERANCE", "impulse_norms", "rounding_gains", "word_length"]

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

TOLERANCE = 1e-4
"""What may remain of a sum: this share of the closed form |b| / (1 - |a|)."""
MOST_STEPS = 2**20
"""Steps after which a sum stops even if more remains (the remainder is in the bound all the same)."""
_CHUNK, _STATES = 1024, 256


def impulse_norms(
    a: ArrayLike, b: ArrayLike, *, tolerance: float = TOLERANCE, most: int = MOST_STEPS
) -> tuple[Real, Real]:
    """Upper bounds on the L1 norm of every state's impulse response, and of its modulus.

    For x[t] = a x[t-1] + b u[t] from x = 0 and real |u| <= U, |Re x| <= U sum_t |Re(a^t b)|, and likewise the
    imaginary part; the input u[t-s] = U sign(Re(a^s b)) comes as close as one likes. The sum runs until the
    remainder |b| |a|^T / (1 - |a|) is at most `tolerance` of |b| / (1 - |a|), or for `most` steps; the
    remainder and a bound on the rounding of float64 are added, so the result is never too small.

    a, b complex (...); returns (..., 2), real part first, and |b| / (1 - |a|) (...). Infinite for |a| >= 1
    (unless that part is never driven: b = 0, or real a and that part of b zero); NaN where a or b is NaN.

    Raises `ImcSsmError` for other shapes, a tolerance outside (0, 1) or fewer than one step. Source: the
    l1 (peak gain) bound of fixed-point filter design; Jackson, Bell Syst. Tech. J. 49:159 (1970).
    """
    a, b = np.broadcast_arrays(np.asarray(a, np.complex128), np.asarray(b, np.complex128))
    if not 0 < tolerance < 1 or most < 1:
        raise ImcSsmError(f"tolerance = {tolerance} and most = {most}; allowed are 0 to 1, and 1 step or more")
    shape, a, b = a.shape, a.ravel(), b.ravel()
    radius, size = np.abs(a), np.abs(b)
    with np.errstate(divide="ignore", invalid="ignore"):
        modulus = np.where(size == 0, 0.0, np.where(radius >= 1, np.inf, size / (1 - radius)))
        modulus[np.isnan(a) | np.isnan(b)] = np.nan
        needed = np.ceil(np.log(tolerance) / np.log(radius))
    norms = np.repeat(modulus[:, None], 2, axis=1)
    # Sorted, so that the states of one block need about the same number of steps.
    summed = np.flatnonzero(np.isfinite(modulus) & (size > 0))
    summed = summed[np.argsort(needed[summed], kind="stable")]
    for start in range(0, len(summed), _STATES):
        block = summed[start : start + _STATES]
        steps = int(np.clip(needed[block].max(), 1, most))
        norms[block] = np.minimum(norms[block], _summed(a[block], b[block], steps))
    parts = np.stack([b.real, b.imag], axis=1)
    norms[(a.imag == 0)[:, None] & (parts == 0) & ~np.isnan(modulus)[:, None]] = 0.0
    return norms.reshape(*shape, 2), modulus.reshape(shape)


def _summed(a: Complex, b: Complex, steps: int) -> Real:
    """sum_{t < T} |Re, Im (a^t b)| + |b| |a|^T / (1 - |a|) for T >= steps, (states, 2); |a| < 1."""
    chunk = min(_CHUNK, steps)
    powers = np.cumprod(np.broadcast_to(a[:, None], (len(a), chunk)), axis=1)  # a^1 .. a^chunk
    ahead = np.concatenate([np.ones((len(a), 1)), powers[:, :-1]], axis=1)
    total, front, done = np.zeros((len(a), 2)), b.copy(), 0
    while done < steps:
        response = front[:, None] * ahead
        total[:, 0] += np.abs(response.real).sum(1)
        total[:, 1] += np.abs(response.imag).sum(1)
        front, done = front * powers[:, -1], done + chunk
    remainder = np.abs(front) / (1 - np.abs(a))
    # One complex product errs by less than 3 units in the last place, the sum by one a term.
    slack = 1 + 4 * (done + 2) * np.finfo(np.float64).eps
    return np.asarray((total + remainder[:, None]) * slack)


def rounding_gains(a: ArrayLike, *, tolerance: float = TOLERANCE, most: int = MOST_STEPS) -> Real:
    """How far rounding can carry a state: sum_t (|Re a^t| + |Im a^t|), (...), the same for both parts.

    A unit that rounds real and imaginary part of the state in every step, each by at most r, adds at most
    r times this to |Re x| and to |Im x|: Re(a^t (e + i f)) = Re(a^t) e - Im(a^t) f. Infinite for |a| >= 1.
    """
    norms, _ = impulse_norms(a, 1.0, tolerance=tolerance, most=most)
    return np.asarray(norms.sum(-1))


def word_length(bound: ArrayLike, resolution: ArrayLike) -> Real:
    """Bits of the shortest two's complement word, zero point 0, that holds every value up to +-bound.

        1 + ceil(log2(floor(bound / resolution + 1/2) + 1))

    `resolution` is the value of one unit of the word, as a state's scale or any other choice.
    Infinite for an infinite bound, NaN where either is NaN. Raises `ImcSsmError` for a negative bound or a
    resolution that is not positive and finite.
    """
    bound, resolution = np.asarray(bound, np.float64), np.asarray(resolution, np.float64)
    if np.any(bound < 0) or np.any(resolution <= 0) or np.any(np.isinf(resolution)):
        raise ImcSsmError("a bound is negative or a resolution not positive and finite; check the ranges")
    codes = np.floor(bound / resolution + 0.5)
    return np.asarray(1 + np.ceil(np.log2(codes + 1)))
