"""The plan of one diagonal update: every integer that the unit needs, chosen before it runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint.formats import NEAREST, Format, ScanFormats
from imc_ssm.fixedpoint.normal import GAUSSIAN_MAX, GAUSSIAN_ONE
from imc_ssm.fixedpoint.requantization import NARROW_BITS, WORD_BITS, Requantizer, requantize

__all__ = ["ScanPlan", "plan_scan"]

_POLE_BITS = 9
"""Fewest bits of the poles' multiplier: its rounding moves a pole by up to 2^-9 of itself."""
_ALIGN_BITS = 16
"""Most bits of the multipliers that bring products of different scales to one."""
_NOISE_BITS = 8
"""The narrow accumulator is used where it leaves the noise at least this many bits: sigma is right to 2^-8."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ScanPlan:
    """All integers of one diagonal update, as the kernels and the oracle read them.

    Codes are centred on their zero points (a' = a - zero_a and so on); z is the integer of the noise
    (`fixedpoint.normal`), absent where m_z is None. State update, real and imaginary part each:
        joint     x' = clamp(round((m_a (a' x') + m_b (b' u') + m_z z) / 2^shift))
        separate  x' = clamp(clamp(round((m_a (a' x') + m_z z) / 2^shift)) + clamp(round(m_b (b' u') / 2^shift_b)))
    with clamp to [low, high]. round: as the formats say; `dithered`, `stochastic` and `feedback` add words
    (`fixedpoint.dither`) or what was cut off before, and truncate. A head of period k has, every k-th step, the
    sum of the centred inputs since its last update in the place of u'. Output, from the stored, saturated state,
    with clamp to the output's codes:
        sum = sum_n m_c Re(c' x');  y = clamp(round(m_y sum / 2^shift_y) + zero_y)   or the bare sum
    The specification is docs/fixed_point.md.
    """

    formats: ScanFormats
    heads: int
    states: int
    m_a: Ints
    """(head, state)"""
    m_b: Ints
    """(head, state)"""
    shift: Ints
    """(head, state); of a x alone in the separate order"""
    shift_b: Ints
    """(head, state); equal to `shift` in the joint order"""
    low: Ints
    """(head, state), lowest centred state code"""
    high: Ints
    """(head, state), highest centred state code"""
    m_z: Ints | None
    """(head, state); None without noise"""
    m_c: Ints
    """(head, state), 1 where c and x have one scale for all states of a head"""
    word: int
    """Length in bits, sign included, of the state's accumulators and of `sum`: 32 or 53 (m_y sum: always 53)."""
    m_y: Ints | None
    """(head,); None where y has no format"""
    shift_y: Ints | None
    """(head,)"""
    sum_scale: NDArray[np.float64]
    """(head,), the real value of one unit of `sum`: 2 scale_c scale_x, divided by m_c's unit."""
    complex_drive: bool = False
    """Whether the words allow for a complex input."""

    @property
    def periods(self) -> Ints:
        """Steps between two updates, (head,)."""
        given = self.formats.periods
        return np.ones(self.heads, np.int64) if given is None else np.asarray(given, np.int64)

    def zero(self, part: str) -> Ints:
        """Zero points of "a", "b", "c", "x" (head, state), or "u", "y" (head,); 0 for an absent format."""
        fmt: Format | None = getattr(self.formats, part)
        shape = (self.heads,) if part in "uy" else (self.heads, self.states)
        return np.zeros(shape, np.int64) if fmt is None else _full(fmt.zero_point, shape)


def _full(x: NDArray[np.generic], shape: tuple[int, ...]) -> Ints:
    """x (), (head,) or (head, state) as int64 of the whole shape."""
    return np.broadcast_to(x[:, None] if x.ndim == 1 and len(shape) == 2 else x, shape).astype(np.int64)


def plan_scan(
    formats: ScanFormats, heads: int, states: int, state_noise: ArrayLike = 0.0, *, complex_drive: bool = False
) -> ScanPlan:
    """Multipliers, shifts and bounds of a recurrence of `heads` heads with `states` complex states each.

    `state_noise`: standard deviation of the noise that is added to each part of the state in every step, in
    real units, () or (head,); 0: no noise and no multiplier for it. `complex_drive`: the input is complex, so a
    part of `b u` is a sum of two products (`state_codes`).

    Raises `FormatError` if a format is for another number of heads or states, a word would overflow, the poles'
    multiplier would keep fewer than 9 bits, or that of b u so few that b u moved by more than 2^-8 of itself and
    2^-4 of a code.
    """
    shape = (heads, states)
    for part in ("a", "b", "c", "u", "x", "y"):
        fmt = getattr(formats, part)
        if fmt is not None and fmt.heads not in (None, heads):
            raise FormatError(f"format of {part} is for {fmt.heads} heads, the recurrence has {heads}")
        if fmt is not None and fmt.states not in (None, states):
            raise FormatError(f"format of {part} is for {fmt.states} states, the recurrence has {states}")

    def scale(fmt: Format | None) -> NDArray[np.float64]:
        value = np.ones((), np.float32) if fmt is None else fmt.scale
        return np.broadcast_to(value[:, None] if value.ndim == 1 else value, shape).astype(np.float64)

    def magnitude(fmt: Format | None) -> Ints:  # at least 1, so that every folded coefficient fits the word
        return np.ones(shape, np.int64) if fmt is None else np.maximum(_full(fmt.magnitude(), shape), 1)

    s_a, s_b, s_c, s_u, s_x = (scale(getattr(formats, p)) for p in "abcux")
    p_a, p_b, p_c, p_u, p_x = (magnitude(getattr(formats, p)) for p in "abcux")
    sigma = np.asarray(state_noise, np.float64)
    if sigma.shape not in ((), (heads,)) or not np.all(np.isfinite(sigma) & (sigma >= 0)):
        raise FormatError(
            f"state noise {state_noise!r}; allowed is a finite standard deviation >= 0, shape () or ({heads},)"
        )
    noise = np.broadcast_to(sigma[..., None], shape) / (s_x * GAUSSIAN_ONE)
    if formats.periods is not None:
        if len(formats.periods) != heads or complex_drive:
            raise FormatError(
                f"periods of {len(formats.periods)} heads for {heads} "
                f"{'states between matrices, which have none' if complex_drive else 'heads; give one a head'}"
            )
        period = np.asarray(formats.periods, np.int64)[:, None]
        s_u, p_u = s_u / period, p_u * period  # the mean of so many inputs, by their sum
    m_c, align = _aligned(s_c * s_x, p_c * p_x)
    sum_bound = (m_c * 2 * p_c * p_x).sum(axis=1)
    narrow = bool(np.all(sum_bound < 2 ** (NARROW_BITS - 1)))
    products = 2 if complex_drive and formats.b is not None else 1  # without b, 1 + 0i leaves one of two
    kinds = [(s_a, 2 * p_a * p_x), (s_b * s_u / s_x, products * p_b * p_u)]
    if noisy := bool(np.any(sigma > 0)):
        kinds.append((noise, np.full(shape, GAUSSIAN_MAX, np.int64)))
    groups = (
        [[0, 1, *range(2, len(kinds))]]
        if formats.rounding_placement == "joint"
        else [[0, *range(2, len(kinds))], [1]]
    )

    added = 0.5 if formats.rounding in NEAREST else 1.0
    shifts = formats.power_of_two

    def fit(allow_narrow: bool) -> list[Requantizer]:
        pairs = ([kinds[k] for k in group] for group in groups)
        stacked = [[np.stack(v) for v in zip(*g, strict=True)] for g in pairs]
        return [requantize(*g, allow_narrow=allow_narrow, added=added, by_shifts=shifts) for g in stacked]

    parts = fit(narrow)
    weak = (noise > 0) & (parts[0].multipliers[-1] < 2 ** (_NOISE_BITS - 1))
    faint = noisy and not parts[0].exact and bool(np.any(weak))
    if faint or len({part.word for part in parts}) > 1:  # one length for all accumulators of the unit
        parts = fit(False)
    m_a, shift = parts[0].multipliers[0], parts[0].shift
    m_b = parts[0].multipliers[1] if len(parts) == 1 else parts[1].multipliers[0]
    if not parts[0].exact and np.any(m_a < 2 ** (_POLE_BITS - 1)):
        raise FormatError(
            "the state is so much finer than its input or its noise that the poles' multiplier keeps fewer than "
            f"{_POLE_BITS} bits; give the state or the poles fewer bits, or b and the input (encoder) more"
        )
    if any(part.lost for part in parts):
        raise FormatError(
            f"words of {WORD_BITS} bits leave b u so small a multiplier that it would vanish; give b or the input "
            "(encoder) fewer bits, or the poles or the noise a smaller range"
        )
    if np.any(sum_bound >= 2 ** (WORD_BITS - 1)):  # pragma: no cover - needs more than 2^18 states
        raise FormatError(f"the output sum of {states} states exceeds {WORD_BITS} bits; use fewer bits")
    m_y = shift_y = None
    sum_scale = 2.0 * align
    if formats.y is not None:
        s_y = np.broadcast_to(formats.y.scale.astype(np.float64), heads)
        out = requantize((sum_scale / s_y)[None], sum_bound[None], allow_narrow=False, by_shifts=shifts)
        m_y, shift_y = out.multipliers[0], out.shift
    zero_x = _full(formats.x.zero_point, shape)
    return ScanPlan(
        formats,
        heads,
        states,
        m_a,
        m_b,
        shift,
        parts[-1].shift,
        _full(formats.x.low, shape) - zero_x,
        _full(formats.x.high, shape) - zero_x,
        parts[0].multipliers[-1] if noisy else None,
        m_c,
        parts[0].word,
        m_y,
        shift_y,
        sum_scale,
        complex_drive,
    )


def _aligned(scales: NDArray[np.float64], bounds: Ints) -> tuple[Ints, NDArray[np.float64]]:
    """Integers m (head, state) and a unit (head,) with m * unit = scales, to at most 16 bits of the largest.

    They take no more than half of the bits that the sum leaves free: the other half is the output's multiplier's.
    m is 1 throughout a head whose scales are equal to 2^-22: products of float32 scales that are meant to be.
    """
    largest = scales.max(axis=1, keepdims=True)
    room = WORD_BITS - 1 - np.ceil(np.log2(np.maximum((2.0 * bounds).sum(axis=1, keepdims=True), 1.0)))
    equal = np.all(scales >= largest * (1 - 2.0**-22), axis=1, keepdims=True)
    steps = np.exp2(np.where(equal, 0, np.clip(room // 2, 0, _ALIGN_BITS)))
    return np.rint(scales / largest * steps).astype(np.int64), (largest / steps)[:, 0]
