"""Poles as decay and phase: codes of few bits, and the Cartesian multipliers that the unit makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint.formats import MAX_BITS, Format, broadcast_heads

__all__ = ["PoleForm", "PoleGrid", "settled"]

PoleForm = Literal["polar", "log_polar"]
SLOWEST, FASTEST = 2.0**-20, 12.0
"""Decay rates -ln |a| from a pole on the circle to one at 0, of which multipliers of 16 bits leave nothing."""
_LEAST = 8
"""Fewest states of a head whose phases are taken from a line: it would hold those of fewer nearly exactly."""
Real = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PoleGrid:
    """Poles rho exp(i theta) by unsigned codes of decay d and phase p, 0 to 2^bits - 1, n the state of the head.

        decay = decay_start + decay_step (d + 1/2)
        theta = phase_start + phase_slope n + phase_step (p + 1/2)

    `form` "log_polar": decay is ln(-ln rho), so that rho < 1 whatever the codes; "polar": it is rho, which no code
    takes beyond the start's and the end's. The phases of a state-space model lie near a line over the index of the
    state, so that their codes say how far from it. The constants (float32) have shape () or (head,).

    Raises `FormatError` for another form, or decays outside 1 to 16 bits or phases outside 2 to 16.
    """

    form: PoleForm
    decay_bits: int
    phase_bits: int
    decay_start: NDArray[np.float32]
    decay_step: NDArray[np.float32]
    phase_start: NDArray[np.float32]
    phase_slope: NDArray[np.float32]
    phase_step: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.form not in ("polar", "log_polar"):
            raise FormatError(f"form {self.form!r} of poles; allowed are 'polar' and 'log_polar'")
        for name, bits, least in (("decay", self.decay_bits, 1), ("phase", self.phase_bits, 2)):
            if not least <= bits <= MAX_BITS:
                raise FormatError(f"{bits} bits for the {name} of a pole; allowed are {least} to {MAX_BITS}")
        for name in ("decay_start", "decay_step", "phase_start", "phase_slope", "phase_step"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float32))

    @classmethod
    def over(
        cls, a: ArrayLike, form: PoleForm, decay_bits: int, phase_bits: int, *, granularity: str = "head"
    ) -> PoleGrid:
        """The grid over the ranges of poles (head, state) complex, of each head or ("tensor") of all.

        A range from low to high is cut into 2^bits cells of one width, whose middles are the grid. Decays: of the
        poles inside the unit circle; one on it or outside is held as the slowest of them, and rates -ln rho count
        from 2^-20 to 12. Phases: the residuals from the line of least squares through the unwrapped angles, or the
        smallest arc that holds all angles, where that is shorter or a head has fewer than 8 states.

        Raises `FormatError` for poles that are not finite.
        """
        poles = np.asarray(a, np.complex128)
        if poles.ndim != 2 or not np.all(np.isfinite(poles)):
            raise FormatError(f"poles of shape {poles.shape}; needed are finite numbers (head, state)")
        whole = granularity == "tensor"
        rows = poles.reshape(1, -1) if whole else poles
        start, step = _cells(*_decay_ends(rows, form), decay_bits)
        low, high, slope = _phase_ends(rows, line=_LEAST <= poles.shape[1] == rows.shape[1])
        parts = (start, step, *_cells(low, high, phase_bits), slope)
        start, step, first, width, slope = (p[0] if whole else p for p in parts)
        return cls(form, decay_bits, phase_bits, start, step, first, slope, width)

    @property
    def constants(self) -> int:
        """Stored float32 numbers: five of each head, or of all."""
        return 5 * self.decay_start.size

    def codes(self, a: ArrayLike) -> tuple[Ints, Ints]:
        """Codes of decay and phase (head, state) of the nearest point of the grid: the cells that poles lie in."""
        poles = np.asarray(a, np.complex128)
        decay = _cell(
            _decays(poles, self.form), self._wide("decay_start"), self._wide("decay_step"), self.decay_bits
        )
        start, step = self._wide("phase_start"), self._wide("phase_step")
        middle = start + step * 2.0 ** (self.phase_bits - 1)
        apart = _wrapped(np.angle(poles) - self._lines(poles.shape[1]) - middle) + middle
        return decay, _cell(apart, start, step, self.phase_bits)

    def values(self, decay: ArrayLike, phase: ArrayLike) -> NDArray[np.complex128]:
        """The poles (head, state) of codes, in double precision."""
        d, p = np.asarray(decay, np.float64), np.asarray(phase, np.float64)
        radius = self._wide("decay_start") + self._wide("decay_step") * (d + 0.5)
        if self.form == "log_polar":
            radius = np.exp(-np.exp(radius))
        angle = self._lines(p.shape[1]) + self._wide("phase_start") + self._wide("phase_step") * (p + 0.5)
        return np.asarray(radius * np.exp(1j * angle))

    def quantize(self, a: ArrayLike) -> NDArray[np.complex128]:
        """The poles on the grid: `values(*codes(a))`."""
        return self.values(*self.codes(a))

    def inside(self, a: ArrayLike) -> NDArray[np.bool_]:
        """Where a pole's decay is one that the form tells apart; elsewhere it saturates (no gradient passes)."""
        rate = _rates(np.asarray(a, np.complex128))
        return (rate >= SLOWEST) & (rate <= (FASTEST if self.form == "log_polar" else np.inf))

    def _wide(self, name: str) -> Real:
        """A constant in double precision, (head, 1)."""
        return broadcast_heads(getattr(self, name).astype(np.float64), 2, 0)

    def _lines(self, states: int) -> Real:
        """Where the phases are expected, less the start."""
        return self._wide("phase_slope") * np.arange(states)


def settled(values: NDArray[np.complex128], fmt: Format) -> NDArray[np.complex128]:
    """Poles (head, state) on the grid of the multipliers, none outside the unit circle that was not before.

    Both parts are rounded half to even; where the result lies outside, to the nearest of the grid's points around
    the pole that are inside.
    """
    pairs = np.stack([values.real, values.imag], axis=-1)
    scale, zero, low, high = (broadcast_heads(x, 3, 0) for x in (fmt.scale, fmt.zero_point, fmt.low, fmt.high))
    wide = scale.astype(np.float64)

    def kept(codes: NDArray[np.float64]) -> NDArray[np.complex128]:
        held = wide * np.clip(codes, low - zero, high - zero)
        return np.asarray(held[..., 0] + 1j * held[..., 1])

    exact = pairs / wide
    nearest = kept(np.rint(exact))
    # What ends up outside takes the nearest of the four points around it that are inside: towards 0 there is one.
    best, least = nearest, np.where(np.abs(nearest) > 1, np.inf, -1.0)
    inwards, outwards = np.trunc(exact), np.trunc(exact) + np.sign(exact)
    for chosen in ((True, True), (True, False), (False, True)):
        point = kept(np.where(chosen, inwards, outwards))
        apart = np.where(np.abs(point) > 1, np.inf, np.abs(point - values))
        best, least = np.where(apart < least, point, best), np.minimum(apart, least)
    return np.asarray(best)


def _rates(poles: NDArray[np.complex128]) -> Real:
    """-ln |a|, infinite at 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(np.abs(poles)))


def _decays(poles: NDArray[np.complex128], form: PoleForm) -> Real:
    """What the codes of decay count: ln(-ln |a|), within the rates that are told apart, or |a| up to 1."""
    if form == "polar":
        return np.minimum(np.abs(poles), np.exp(-SLOWEST))
    return np.log(np.clip(_rates(poles), SLOWEST, FASTEST))


def _decay_ends(rows: NDArray[np.complex128], form: PoleForm) -> tuple[Real, Real]:
    """Lowest and highest decay of every row, of the poles inside the circle if there are any."""
    values, stable = _decays(rows, form), _rates(rows) >= SLOWEST
    stable = stable | ~stable.any(axis=1, keepdims=True)
    return np.where(stable, values, np.inf).min(axis=1), np.where(stable, values, -np.inf).max(axis=1)


def _phase_ends(rows: NDArray[np.complex128], *, line: bool) -> tuple[Real, Real, NDArray[np.float32]]:
    """Lowest and highest residual of every row, and the slope from which they are taken; 0: the angles
    themselves, from the end of the largest gap between two of them to its start."""
    angles = np.sort(np.angle(rows), axis=1)
    gaps = np.diff(angles, axis=1, append=angles[:, :1] + 2 * np.pi)
    last = gaps.argmax(axis=1)
    low = np.take_along_axis(np.roll(angles, -1, axis=1), last[:, None], axis=1)[:, 0]
    high = low + 2 * np.pi - gaps.max(axis=1)
    slope = np.zeros(len(rows), np.float32)
    if not line:
        return low, high, slope
    n = np.arange(rows.shape[1], dtype=np.float64)
    unwrapped = np.unwrap(np.angle(rows), axis=1)
    centred = n - n.mean()
    slopes = ((unwrapped * centred).sum(axis=1) / np.square(centred).sum()).astype(np.float32)
    residual = unwrapped - slopes[:, None].astype(np.float64) * n
    near = np.ptp(residual, axis=1) < high - low
    low, high = np.where(near, residual.min(axis=1), low), np.where(near, residual.max(axis=1), high)
    return low, high, np.where(near, slopes, slope)


def _cells(low: Real, high: Real, bits: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Start and width of 2^bits cells from low to high."""
    return low.astype(np.float32), ((high - low) / 2**bits).astype(np.float32)


def _cell(value: Real, start: Real, step: Real, bits: int) -> Ints:
    """The number of the cell that a value lies in, the nearest one's outside."""
    with np.errstate(divide="ignore", invalid="ignore"):  # a range without width has one cell
        number = np.where(step > 0, np.floor((value - start) / step), 0.0)
    return np.asarray(np.clip(number, 0, 2**bits - 1), np.int64)


def _wrapped(angle: Real) -> Real:
    """An angle in [-pi, pi)."""
    return np.asarray((angle + np.pi) % (2 * np.pi) - np.pi)
