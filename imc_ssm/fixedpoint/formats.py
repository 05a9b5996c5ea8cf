"""Number formats: what an integer code means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imc_ssm.errors import FormatError

__all__ = ["MAX_BITS", "MIN_BITS", "Format", "Rounding", "RoundingPlacement", "ScanFormats", "broadcast_heads"]
__all__ += ["nearest_of"]

MIN_BITS, MAX_BITS = 2, 16
MAX_PERIOD = 256
"""Longest period of a slow head: its accumulator then has 8 bits more than the centred input."""
RoundingPlacement = Literal["joint", "separate"]
Nearest = Literal["half_even", "half_up", "half_away"]
Rounding = Literal["half_even", "half_up", "half_away", "dithered", "stochastic", "feedback"]
ROUNDING_PLACEMENTS: tuple[str, ...] = get_args(RoundingPlacement)
NEAREST: tuple[str, ...] = get_args(Nearest)
"""Roundings that depend on the value alone."""
ROUNDINGS: tuple[str, ...] = get_args(Rounding)
_TINY = float(np.finfo(np.float32).tiny)


def _checked_scale(scale: ArrayLike) -> NDArray[np.float32]:
    """The scale in float32; `FormatError` unless it is positive, finite and normal there."""
    with np.errstate(over="ignore", under="ignore"):  # what float32 cannot hold is reported below
        single = np.asarray(scale).astype(np.float32)
    bad = ~(np.isfinite(single) & (single >= _TINY))
    if np.any(bad):
        worst = float(np.asarray(scale, np.float64)[bad].flat[0])
        raise FormatError(
            f"scale {worst!r} cannot be held by float32 (finite, at least {_TINY:.3g}); check the range"
        )
    return single


def _steps(wide: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scales, with one for empty ranges that spoils no sum with the others: the widest of these, or 1."""
    empty = wide < _TINY
    return np.where(empty, 1.0 if np.all(empty) else wide.max(), wide)


def up_to_power_of_two(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The smallest powers of two that are not below these scales; `FormatError` beyond float32."""
    mantissa, exponent = np.frexp(scale.astype(np.float64))
    return _checked_scale(np.exp2(exponent - (mantissa == 0.5)))


@dataclass(frozen=True, eq=False)
class Format:
    """A signed fixed-point format: the real value of code q is `scale * (q - zero_point)`.

    `scale` (float32) and `zero_point` (int64) have shape () for one format per tensor, (head,) for one per
    head or (head, state) for one per state; real and imaginary parts share them. The codes run over [low, high]:
    [-2^(bits-1), 2^(bits-1) - 1] asymmetric, [-(2^(bits-1) - 1), 2^(bits-1) - 1] with zero point 0
    symmetric, both narrowed further where a clip at a real value was folded in.

    Raises `FormatError` for a word length outside 2 to 16, a scale that is not positive, finite and normal
    in float32, or a zero point outside the code range.
    """

    bits: int
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    symmetric: bool = False
    clip: float | None = None

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise FormatError(f"word length {self.bits} bits; allowed are {MIN_BITS} to {MAX_BITS}")
        scale = _checked_scale(self.scale)
        zero = np.asarray(self.zero_point, np.int64)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero_point", zero)
        if scale.ndim > 2 or zero.shape != scale.shape:
            raise FormatError(
                f"scale has shape {scale.shape} and zero point {zero.shape}; both must be (), (head,) or "
                "(head, state)"
            )
        if self.symmetric and np.any(zero != 0):
            raise FormatError("a symmetric format has zero point 0; use symmetric=False for another")
        if np.any((zero < self.code_min) | (zero > self.code_max)):
            raise FormatError(
                f"zero point {zero.tolist()} is outside the codes [{self.code_min}, {self.code_max}]"
            )
        if self.clip is not None and not self.clip > 0:
            raise FormatError(f"clip {self.clip!r}; allowed is a positive real value or None")

    @classmethod
    def from_range(
        cls,
        low: ArrayLike,
        high: ArrayLike,
        bits: int,
        *,
        symmetric: bool = False,
        clip: float | None = None,
        power_of_two: bool = False,
    ) -> Format:
        """The uniform quantizer over [low, high] (widened to contain 0).

        asymmetric: scale = (high - low) / (2^bits - 1), zero_point = round(code_min - low / scale);
        symmetric: scale = max(|low|, |high|) / (2^(bits-1) - 1), zero_point = 0. An empty range (all zero, or with
        a scale below float32's smallest normal number) gets the widest scale beside it, or 1.
        `power_of_two`: the scale is the smallest power of two that is not below that; asymmetric, the codes that
        become free lie in halves on both sides of the range.
        Source: Zhao et al. 2025 (arXiv:2506.12480), Sec. II (uniform quantization).
        """
        if not MIN_BITS <= bits <= MAX_BITS:
            raise FormatError(f"word length {bits} bits; allowed are {MIN_BITS} to {MAX_BITS}")
        lo = np.minimum(np.asarray(low, np.float64), 0.0)
        hi = np.maximum(np.asarray(high, np.float64), 0.0)
        if not (np.all(np.isfinite(lo)) and np.all(np.isfinite(hi))):
            raise FormatError("the range is not finite; calibrate on finite data")
        top = 2 ** (bits - 1) - 1
        if symmetric:
            wide = np.maximum(-lo, hi) / top
            scale = _checked_scale(_steps(wide))
            scale = up_to_power_of_two(scale) if power_of_two else scale
            return cls(bits, scale, np.zeros(scale.shape, np.int64), True, clip)
        with np.errstate(over="ignore"):  # an infinite scale is refused below
            wide = (hi - lo) / (2**bits - 1)
        scale, free = _checked_scale(_steps(wide)), np.zeros(())
        if power_of_two:
            scale = up_to_power_of_two(scale)
            free = np.where(hi > lo, 2**bits - 1 - (hi - lo) / scale.astype(np.float64), 0.0)
        zero = np.rint(-(top + 1) - lo / scale.astype(np.float64) + free / 2)
        return cls(bits, scale, np.clip(zero, -(top + 1), top).astype(np.int64), False, clip)

    @property
    def code_max(self) -> int:
        """Largest code of the word."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def code_min(self) -> int:
        """Smallest code of the word (symmetric formats leave -2^(bits-1) unused)."""
        return -self.code_max if self.symmetric else -self.code_max - 1

    @property
    def low(self) -> NDArray[np.int64]:
        """Lowest code in use: max(code_min, ceil(-clip / scale) + zero_point)."""
        if self.clip is None:
            return np.full(self.scale.shape, self.code_min, np.int64)
        bound = np.ceil(-self.clip / self.scale.astype(np.float64)) + self.zero_point
        return np.asarray(np.maximum(self.code_min, bound), np.int64)

    @property
    def high(self) -> NDArray[np.int64]:
        """Highest code in use: min(code_max, floor(clip / scale) + zero_point)."""
        if self.clip is None:
            return np.full(self.scale.shape, self.code_max, np.int64)
        bound = np.floor(self.clip / self.scale.astype(np.float64)) + self.zero_point
        return np.asarray(np.minimum(self.code_max, bound), np.int64)

    @property
    def heads(self) -> int | None:
        """Number of heads with a format of their own; None for one format per tensor."""
        return int(self.scale.shape[0]) if self.scale.ndim else None

    @property
    def states(self) -> int | None:
        """Number of states with a format of their own in every head; None for one format per head or tensor."""
        return int(self.scale.shape[1]) if self.scale.ndim == 2 else None

    def magnitude(self) -> NDArray[np.int64]:
        """Largest |q - zero_point| of a code in use, in the shape of the scale."""
        return np.asarray(np.maximum(self.high - self.zero_point, self.zero_point - self.low), np.int64)

    def quantize(self, value: ArrayLike, head_axis: int = 0) -> NDArray[np.int64]:
        """Codes of real values: clip(round_half_even(value / scale) + zero_point, low, high), in float64.

        `head_axis` is the axis of `value` that counts heads (formats per tensor ignore it); a format per state
        takes the next axis as well.

        Raises `FormatError` for a value that is not a number.
        """
        value = np.asarray(value, np.float64)
        if np.any(np.isnan(value)):
            raise FormatError("a value to be quantized is not a number; look at what computed it")
        scale, zero, low, high = (
            broadcast_heads(x, value.ndim, head_axis) for x in (self.scale, self.zero_point, self.low, self.high)
        )
        codes = np.rint(value / scale.astype(np.float64)) + zero
        return np.asarray(np.clip(codes, low, high), np.int64)

    def dequantize(self, codes: ArrayLike, head_axis: int = 0) -> NDArray[np.float64]:
        """Real values of codes: scale * (q - zero_point), in float64."""
        codes = np.asarray(codes, np.int64)
        scale, zero = (broadcast_heads(x, codes.ndim, head_axis) for x in (self.scale, self.zero_point))
        return np.asarray(scale.astype(np.float64) * (codes - zero))


def broadcast_heads(x: NDArray[Any], ndim: int, head_axis: int) -> NDArray[Any]:
    """x of shape (), (head,) or (head, state), shaped to broadcast against `ndim` axes, heads on `head_axis`."""
    if not x.ndim:
        return x
    before = head_axis % ndim
    return x.reshape([1] * before + list(x.shape) + [1] * (ndim - before - x.ndim))


def nearest_of(rounding: Rounding) -> Nearest:
    """How a unit rounds what is not its state."""
    return rounding if rounding in NEAREST else "half_even"  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class ScanFormats:
    """The formats of one diagonal recurrence and the rules of its arithmetic.

    Poles `a`, `b`, `c`, input `u`, state `x`, output `y`. `b` or `c` None: that factor is the exact constant 1.
    `y` None: the output is not requantized, the exact integer sum is dequantized. `u` and `y` have one format
    per tensor or per head, the others per state as well.

    `order`: "joint" rounds once, after `a x + b u`; "separate" rounds `a x` and `b u` each to the state's
    format, and their sum only saturates (Zhao et al. 2025, arXiv:2506.12480: A x, B u and their sum share
    the state's format). `rounding` is that of every requantization: "half_even", "half_up" (towards plus
    infinity) or "half_away" (from zero); or what is added before the state is truncated, the output being rounded
    half to even: "dithered" (words of a Weyl sequence), "stochastic" (pseudorandom words) or "feedback" (the
    upper `residual_bits` bits of what the last step cut off; joint order only). `periods`: head h is updated every
    periods[h]-th step, from the sum of the inputs since its last update; a and b are those of so many steps.

    Raises `FormatError` for an unknown order or rounding, an input or output format per state, periods that are
    not powers of two up to 256, or residuals outside 1 to 16 bits or in the separate order.
    """

    a: Format
    u: Format
    x: Format
    b: Format | None = None
    c: Format | None = None
    y: Format | None = None
    rounding_placement: RoundingPlacement = "joint"
    rounding: Rounding = "half_even"
    residual_bits: int = 8
    """m, of error feedback."""
    periods: tuple[int, ...] | None = None
    """Steps between two updates of each head, powers of two; None: every head in every step."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("rounding_placement", self.rounding_placement, ROUNDING_PLACEMENTS),
            ("rounding", self.rounding, ROUNDINGS),
        ):
            if value not in known:
                raise FormatError(f"{name} {value!r}; allowed are {', '.join(map(repr, known))}")
        for name, fmt in (("u", self.u), ("y", self.y)):
            if fmt is not None and fmt.states is not None:
                raise FormatError(f"the format of {name} is per state; give one per head or per tensor")
        if not 1 <= self.residual_bits <= MAX_BITS:
            raise FormatError(f"residual_bits {self.residual_bits!r}; allowed are 1 to {MAX_BITS}")
        if self.rounding == "feedback" and self.rounding_placement != "joint":
            raise FormatError("feedback keeps one residual a word; use rounding_placement='joint'")
        if self.periods is not None:
            bad = [k for k in self.periods if not 1 <= k <= MAX_PERIOD or k & (k - 1)]
            if bad:
                raise FormatError(f"period {bad[0]!r} of a head; allowed are powers of two from 1 to {MAX_PERIOD}")

    @property
    def nearest(self) -> Nearest:
        """How the output is rounded."""
        return nearest_of(self.rounding)

    @property
    def power_of_two(self) -> bool:
        """Whether every scale is a power of two, so that requantizations are shifts."""
        given = (fmt for fmt in (self.a, self.u, self.x, self.b, self.c, self.y) if fmt is not None)
        return all(bool(np.all(np.frexp(fmt.scale)[0] == 0.5)) for fmt in given)

    @property
    def slow(self) -> bool:
        """Whether a head is not updated in every step."""
        return self.periods is not None and max(self.periods, default=1) > 1

    @property
    def timed(self) -> bool:
        """Whether the unit keeps more than its states: a counter, sums of inputs, or residuals."""
        return self.rounding not in NEAREST or self.slow
