"""Norms on integers: the plan of their constants, and the int64 oracle (docs/fixed_point.md, section 12)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint.formats import Format
from imc_ssm.fixedpoint.requantization import requantize, round_shift

__all__ = ["AffinePlan", "NormPlan", "affine_codes", "norm_codes", "plan_affine", "plan_norm", "root_table"]

ALIGN_BITS = 23
"""The widest channel's alignment multiplier is 2^23."""
VALUE_BITS = 18
"""Aligned values are at most 2^18."""
RECIPROCAL_BITS = 19
"""1 / channels has so many bits behind its leading one."""
ROOT_BITS = 22
"""Normalized values are at most 2^22: that is sqrt(channels)."""
MOST_CHANNELS = 1 << 14
"""Channels up to which every word has at most 53 bits."""
_MOST_EPS = 2.0**51

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AffinePlan:
    """code = clamp(round((gain q' + offset) / 2^shift) + zero): a scale and a shift for each channel."""

    source: Format
    output: Format
    gain: Ints
    """(channels,), signed."""
    offset: Ints
    """(channels,), signed."""
    shift: Ints
    """(channels,)."""


@dataclass(frozen=True, eq=False)
class NormPlan(AffinePlan):
    """LayerNorm (`centred`) or RMSNorm over channels, then the scale and shift of values of
    2^-22 sqrt(channels)."""

    centred: bool
    align: Ints
    """(channels,), 2^23 for the widest."""
    align_shift: int
    """Of what `align` makes of a code."""
    reciprocal: int
    """1 / channels, times 2^reciprocal_shift."""
    reciprocal_shift: int
    eps: int
    """channels eps, in squares of the aligned unit."""
    unit: float
    """The real value of an aligned 1."""


@lru_cache(maxsize=1)
def root_table() -> Ints:
    """T[i] = half_even(2^27 / sqrt((i + 1/2) 2^15)) for i = 128 ... 511 (384 entries of 16 bits, from i = 128)."""
    table: Ints = np.rint(2.0**27 / np.sqrt((np.arange(128, 512) + 0.5) * 2.0**15)).astype(np.int64)
    return table


def _per_channel(fmt: Format, channels: int, what: str) -> tuple[Reals, Ints]:
    """Scale float64 and zero point (channels,) of a format; `FormatError` for one of another shape."""
    if fmt.scale.shape not in ((), (channels,)):
        raise FormatError(
            f"the format of a norm's {what} has shape {fmt.scale.shape}; allowed is one for all, or one for each "
            f"of {channels} channels"
        )
    scale = np.broadcast_to(fmt.scale.astype(np.float64), channels)
    return scale, np.broadcast_to(fmt.zero_point, channels)


def _largest(fmt: Format, channels: int) -> Ints:
    """The largest centred magnitude of a code in use, (channels,)."""
    ends = np.maximum(np.abs(fmt.low - fmt.zero_point), np.abs(fmt.high - fmt.zero_point))
    return np.broadcast_to(np.maximum(ends, 1).astype(np.int64), channels)


def _scaled(
    unit: Reals, bound: Ints, source: Format, output: Format, gain: Reals, offset: Reals
) -> tuple[Format, Format, Ints, Ints, Ints]:
    """The last stage: multipliers and shift for values of `unit`, of magnitude `bound`."""
    scale, _ = _per_channel(output, len(gain), "output")
    if not (np.all(np.isfinite(gain)) and np.all(np.isfinite(offset))):
        raise FormatError("the gain or offset of a norm is not finite; try a smaller learning rate")
    ratios = np.stack([np.abs(gain) * unit / scale, np.abs(offset) / scale])
    made = requantize(ratios, np.stack([bound, np.ones_like(bound)]), allow_narrow=False)
    signs = np.stack([np.where(gain < 0, -1, 1), np.where(offset < 0, -1, 1)])
    first, second = made.multipliers * signs
    return source, output, first, second, made.shift


def plan_affine(source: Format, output: Format, gain: Reals, offset: Reals) -> AffinePlan:
    """Constants of gain x + offset, (channels,) each; `FormatError` for formats of other shapes or no words."""
    scale, _ = _per_channel(source, len(gain), "input")
    return AffinePlan(*_scaled(scale, _largest(source, len(gain)), source, output, gain, offset))


def plan_norm(
    source: Format, output: Format, gain: Reals, offset: Reals, eps: float, *, centred: bool = True
) -> NormPlan:
    """Constants of gain (x - mean) / sqrt(variance + eps) + offset; not `centred`: gain x / sqrt(mean x^2 + eps) +
    offset. gain, offset (channels,).

    Raises `FormatError` for formats of other shapes, more than 16,384 channels, or an output so fine that no word
    holds the result.
    """
    channels = len(gain)
    if not 1 <= channels <= MOST_CHANNELS:
        raise FormatError(f"a norm over {channels} channels; the unit's words allow 1 to {MOST_CHANNELS}")
    scale, _ = _per_channel(source, channels, "input")
    widest = float(scale.max())
    bits = VALUE_BITS - int(_largest(source, channels).max()).bit_length()
    if eps > 0:  # where the range is far below sqrt(eps), eps decides what is worth resolving
        bits = min(bits, int(np.floor(np.log2(widest) + np.log2(_MOST_EPS / (channels * eps)) / 2)))
    bits = max(bits, ALIGN_BITS - 52)
    unit = widest / 2.0**bits
    reciprocal_shift = RECIPROCAL_BITS + (channels - 1).bit_length()
    root = np.full(channels, np.sqrt(channels) / 2.0**ROOT_BITS)
    bound = np.full(channels, (1 << ROOT_BITS) + 1, np.int64)  # rounding may add one
    last = _scaled(root, bound, source, output, gain, offset)
    return NormPlan(
        *last,
        centred=centred,
        align=np.rint(2.0**ALIGN_BITS * scale / widest).astype(np.int64),
        align_shift=ALIGN_BITS - bits,
        reciprocal=int(np.rint(2.0**reciprocal_shift / channels)),
        reciprocal_shift=reciprocal_shift,
        eps=int(np.rint(min(channels * eps / unit**2, _MOST_EPS))),
        unit=unit,
    )


def _centred(fmt: Format, codes: Ints) -> Ints:
    """q' of codes (..., channels); `FormatError` for what is no code of the format."""
    codes = np.asarray(codes)
    if codes.dtype.kind != "i" or np.any((codes < fmt.low) | (codes > fmt.high)):
        raise FormatError("a norm reads integer codes inside its input's format")
    centred: Ints = codes.astype(np.int64) - fmt.zero_point
    return centred


def _finished(plan: AffinePlan, values: Ints) -> Ints:
    codes = round_shift(plan.gain * values + plan.offset, plan.shift) + plan.output.zero_point
    return np.asarray(np.clip(codes, plan.output.low, plan.output.high), np.int64)


def affine_codes(plan: AffinePlan, codes: Ints) -> Ints:
    """The output's codes (..., channels)."""
    return _finished(plan, _centred(plan.source, codes))


def normalized(plan: NormPlan, codes: Ints) -> Ints:
    """Values of 2^-22 sqrt(channels) before gain and offset, (..., channels)."""
    v = round_shift(plan.align * _centred(plan.source, codes), np.array(plan.align_shift))
    if plan.centred:
        total = v.sum(-1, keepdims=True)
        v -= round_shift(total * plan.reciprocal, np.array(plan.reciprocal_shift))
    squares = np.maximum((v * v).sum(-1, keepdims=True) + plan.eps, 1)
    root, exponent = reciprocal_root(squares)
    return round_shift(v * root, exponent + 2)


def reciprocal_root(w: Ints) -> tuple[Ints, Ints]:
    """(r, n) with 1 / sqrt(w) = r 2^(-24-n) to 2^-17, for w from 1 to 2^53: a table and one Newton step."""
    n = (np.frexp(w.astype(np.float64))[1].astype(np.int64) - 1) // 2
    m = np.where(n >= 11, w >> np.maximum(2 * n - 22, 0), w << np.maximum(22 - 2 * n, 0))
    first = root_table()[(m >> 15) - 128]
    error = 3 * (1 << 46) - m * round_shift(first * first, np.array(8))
    return round_shift(first * round_shift(error, np.array(22)), np.array(17)), n


def norm_codes(plan: NormPlan, codes: Ints) -> Ints:
    """The output's codes (..., channels)."""
    return _finished(plan, normalized(plan, codes))
