"""The integer form of everything between recurrences and norms: plans and the int64 functions that define them.

A plan holds the integers of one operator, chosen from formats once: multipliers, shifts, zero points, bounds.
The specification is docs/integer_model.md. Channels are the last axis of codes; codes are stored words q, and
q' = q - z is what is multiplied. Every rounding is half to even unless a plan says otherwise. No word is longer
than 53 bits: `requantize` takes the largest value of each product and chooses the shift so that their sum fits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint.formats import Format, Nearest
from imc_ssm.fixedpoint.norms import ALIGN_BITS, VALUE_BITS
from imc_ssm.fixedpoint.requantization import MULTIPLIER_BITS, WORD_BITS, Requantizer, requantize, round_shift

__all__ = ["GATE_BITS", "Aligned", "Channels", "GatePlan", "GatedPlan", "LinearPlan", "MeanPlan", "SumPlan"]
__all__ += ["align_codes", "function_table", "gate_codes", "gate_table", "gated_codes", "grid_values"]
__all__ += ["linear_codes", "look_up_codes", "mean_codes", "of_parts", "plan_align", "plan_gate", "plan_gated"]
__all__ += ["plan_linear", "plan_mean", "plan_scale_add", "plan_sum", "scale_add_codes", "sum_codes"]

GATE_BITS = 16
"""A sigmoid of 1 is 2^16 in a gate's table."""
MULTIPLIER_ROOM = 16
"""Bits that the alignment of a matrix's inputs leaves to its multiplier, where it can."""
_PART, _CODES = 2.0**-8, 2.0**-4
"""What the rounding of a multiplier may do to its product: so much of itself, or so many codes (section 5)."""

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Channels:
    """A signal's words, one entry for each channel."""

    zero: Ints
    """Zero points z."""
    low: Ints
    """Lowest code in use."""
    high: Ints
    """Highest code in use."""

    def clamp(self, centred: Ints) -> Ints:
        """Stored codes of rounded, centred ones."""
        return np.asarray(np.clip(centred + self.zero, self.low, self.high), np.int64)


def of_parts(fmt: Format, parts: int) -> Format:
    """The format with one entry for each channel, where `parts` (2: real, imaginary) share theirs."""
    if parts == 1 or not fmt.scale.ndim:
        return fmt
    return Format(fmt.bits, np.tile(fmt.scale, parts), np.tile(fmt.zero_point, parts), fmt.symmetric, fmt.clip)


def _split(fmt: Format, channels: int, what: str) -> tuple[Reals, Ints, Channels]:
    """Scale (float64), largest centred magnitude (at least 1) and words, each (channels,)."""
    if fmt.scale.shape not in ((), (channels,)):
        raise FormatError(
            f"the format of {what} has shape {fmt.scale.shape}; allowed is one for all, or one for each of "
            f"{channels} channels"
        )
    scale = np.broadcast_to(fmt.scale.astype(np.float64), channels)
    words = (np.broadcast_to(v, channels).astype(np.int64) for v in (fmt.zero_point, fmt.low, fmt.high))
    return scale, np.broadcast_to(np.maximum(fmt.magnitude(), 1), channels), Channels(*words)


def _requantized(ratios: list[Reals], bounds: list[Ints], what: str, *, first: bool = False) -> Requantizer:
    """Multipliers of products of these scales (over the result's) and largest magnitudes; all of one shape.

    Each has 24 significant bits, unless the words are too short: the kind of the smallest ratio is the first one
    of `requantize`, whose multiplier has no left shift; or with `first` the first one given.

    Raises `FormatError` where no words fit, or a multiplier is so coarse that rounding it moves its product by
    more than 2^-8 of it and 2^-4 of a code.
    """
    r, b = np.stack(np.broadcast_arrays(*ratios)), np.stack(np.broadcast_arrays(*bounds)).astype(np.int64)
    order = np.argsort(np.zeros_like(r) if first else r, axis=0, kind="stable")
    try:
        found = requantize(*(np.take_along_axis(v, order, 0) for v in (r, b)), allow_narrow=False)
    except FormatError as error:
        raise FormatError(f"{what}: {error}") from None
    multipliers = np.empty_like(found.multipliers)
    np.put_along_axis(multipliers, order, found.multipliers, 0)
    made = replace(found, multipliers=multipliers)
    unit = np.exp2(made.shift)
    exact = r * unit
    off = np.abs(multipliers - exact)
    if made.lost or np.any((off > _PART * exact) & (off * b > _CODES * unit)):
        raise FormatError(
            f"{what}: words of 53 bits leave a multiplier fewer than 8 bits; use fewer bits, or a coarser format "
            "of the result"
        )
    return made


# --- matrices


@dataclass(frozen=True, eq=False)
class Aligned:
    """v_i = round(align_i x'_i / 2^align_shift): channels with scales of their own in one unit.

    Where all scales are equal, align = 1 and align_shift = 0. Otherwise align_i = half_even(2^23 s_i / max s), and
    align_shift = 23 - f: f is what the words leave beside a multiplier of 16 bits, but at least so much that the
    widest channel has values up to 2^17, as in norms (section 12).
    """

    zero: Ints
    """(inputs,), the input's zero points."""
    align: Ints
    """(inputs,), 2^23 for the widest channel."""
    align_shift: int
    unit: float
    """The real value of v = 1."""
    bound: Ints
    """(inputs,), the largest |v|."""


def plan_align(source: Format, inputs: int, factor: int) -> Aligned:
    """Constants of the alignment of `inputs` channels, which are multiplied by integers up to `factor` and added.

    Raises `FormatError` for a format of another shape.
    """
    scale, largest, words = _split(source, inputs, "a matrix's input")
    widest = float(scale.max())
    if np.all(scale == widest):
        return Aligned(words.zero, np.ones(inputs, np.int64), 0, widest, largest)
    room = WORD_BITS - 2 - MULTIPLIER_ROOM - (int(largest.sum()) * factor).bit_length()
    bits = min(max(room, VALUE_BITS - int(largest.max()).bit_length()), ALIGN_BITS)
    align = np.rint(2.0**ALIGN_BITS * scale / widest).astype(np.int64)
    shift = ALIGN_BITS - bits
    bound = np.maximum(round_shift(align * largest, np.asarray(shift)), 1)
    return Aligned(words.zero, align, shift, widest / 2.0**bits, bound)


def align_codes(plan: Aligned, codes: Ints) -> Ints:
    """v (..., inputs) of stored codes."""
    return round_shift(plan.align * (codes - plan.zero), np.asarray(plan.align_shift))


@dataclass(frozen=True, eq=False)
class LinearPlan:
    """y_o = clamp(round((m_o sum_i W'_oi v_i + B_o) / 2^shift_o) + z_o), v of `Aligned`.

    Without an output format (a decoder's logits): the integers m_o sum + B_o themselves, which count in units of
    2^-shift, one shift for all rows.
    """

    source: Aligned
    weight_zero: Ints
    """(outputs,)"""
    multiplier: Ints
    """(outputs,)"""
    bias: Ints
    """(outputs,): half_even(bias / s_y 2^shift), or half_even(bias 2^shift) of logits."""
    shift: Ints
    """(outputs,); of logits all equal."""
    output: Channels | None


def plan_linear(
    weight: Format, source: Format, output: Format | None, shape: tuple[int, int], bias: Reals | None = None
) -> LinearPlan:
    """Constants of W x + bias for W of `shape` (outputs, inputs).

    `bias` (outputs,): its real values in float64, on their grid (`Format.dequantize` of its codes) or in full
    precision.

    Raises `FormatError` for formats of other shapes, a bias that is not finite, or words that do not fit.
    """
    outputs, inputs = shape
    scale, largest, words = _split(weight, outputs, "a matrix")
    aligned = plan_align(source, inputs, int(largest.max()))
    offset = np.zeros(outputs) if bias is None else np.asarray(bias, np.float64)
    if offset.shape != (outputs,) or not np.all(np.isfinite(offset)):
        raise FormatError(
            f"a bias of shape {offset.shape} for {outputs} outputs; needed are finite numbers, one each"
        )
    bound = largest * int(aligned.bound.sum())
    to, made_of = np.ones(outputs), None
    if output is not None:
        to, _, made_of = _split(output, outputs, "a matrix's output")
    ratio, offset = scale * aligned.unit / to, offset / to
    # The bias has a word of its own length; 2^-23 more than it covers the rounding to 24 bits, so B is no longer.
    ratios = [ratio, np.abs(offset) * (1 + 2.0**-23)]
    made = _requantized(ratios, [bound, np.ones_like(bound)], "a matrix", first=True)
    multiplier, shift = made.multipliers[0], made.shift
    if output is None:
        shift = np.full(outputs, shift.min())
        multiplier = np.rint(ratio * np.exp2(shift)).astype(np.int64)
        if np.any(multiplier >= 1 << MULTIPLIER_BITS):
            raise FormatError("a matrix without an output format: its rows need multipliers of more than 24 bits")
    biases = np.rint(offset * np.exp2(shift)).astype(np.int64)
    return LinearPlan(aligned, words.zero, multiplier, biases, shift, made_of)


def linear_codes(plan: LinearPlan, codes: Ints, weight: Ints) -> Ints:
    """y (..., outputs) of codes (..., inputs) and the matrix's codes (outputs, inputs)."""
    centred = (weight - plan.weight_zero[:, None]).T
    total = align_codes(plan.source, codes) @ np.ascontiguousarray(centred)
    total = plan.multiplier * total + plan.bias
    return total if plan.output is None else plan.output.clamp(round_shift(total, plan.shift))


# --- sums


@dataclass(frozen=True, eq=False)
class SumPlan:
    """clamp(round((m_1 p_1 + m_2 p_2) / 2^shift) + z), p_1 = x'; p_2 = y' of a sum, D' u' of a scaled sum."""

    zeros: tuple[Ints, ...]
    """(channels,) each: of x and y; of y, D and u."""
    first: Ints
    """m_1 (channels,)"""
    second: Ints
    """m_2 (channels,)"""
    shift: Ints
    """(channels,)"""
    output: Channels


def plan_sum(first: Format, second: Format, output: Format, channels: int) -> SumPlan:
    """Constants of x + y; `FormatError` for formats of other shapes or words that do not fit."""
    (s_x, p_x, x), (s_y, p_y, y) = (_split(fmt, channels, "a sum's input") for fmt in (first, second))
    s_out, _, out = _split(output, channels, "a sum")
    made = _requantized([s_x / s_out, s_y / s_out], [p_x, p_y], "a sum")
    return SumPlan((x.zero, y.zero), made.multipliers[0], made.multipliers[1], made.shift, out)


def sum_codes(plan: SumPlan, x: Ints, y: Ints) -> Ints:
    """x + y (..., channels)."""
    total = plan.first * (x - plan.zeros[0]) + plan.second * (y - plan.zeros[1])
    return plan.output.clamp(round_shift(total, plan.shift))


def plan_scale_add(y: Format, d: Format, u: Format, output: Format, channels: int) -> SumPlan:
    """Constants of y + D u; `FormatError` for formats of other shapes or words that do not fit."""
    parts = [_split(fmt, channels, what) for fmt, what in ((y, "y"), (d, "D"), (u, "u"))]
    (s_y, p_y, _), (s_d, p_d, _), (s_u, p_u, _) = parts
    s_out, _, out = _split(output, channels, "y + D u")
    made = _requantized([s_y / s_out, s_d * s_u / s_out], [p_y, p_d * p_u], "y + D u")
    return SumPlan(
        tuple(words.zero for *_, words in parts), made.multipliers[0], made.multipliers[1], made.shift, out
    )


def scale_add_codes(plan: SumPlan, y: Ints, d: Ints, u: Ints) -> Ints:
    """y + D u (..., channels); d (channels,)."""
    of_y, of_d, of_u = plan.zeros
    total = plan.first * (y - of_y) + plan.second * (d - of_d) * (u - of_u)
    return plan.output.clamp(round_shift(total, plan.shift))


# --- functions of one code


def grid_values(source: Format, channels: int, first: int = 0) -> Reals:
    """The real values of all 2^bits codes from the lowest upwards, (channels, codes), of channels from `first`.

    s (q - z) in single precision, as activations lie in memory, widened; a symmetric format uses all but the last.
    """
    scale, _, words = _split(source, channels, "a function's input")
    codes = (np.arange(1 << source.bits) + (words.low - words.zero)[first:, None]).astype(np.float32)
    return np.asarray(codes * scale[first:, None].astype(np.float32), np.float64)


def function_table(values: Reals, output: Format) -> Ints:
    """Codes of a function's values (channels, codes) at `grid_values`: clamp(half_even(f / s) + z).

    The value is rounded to single precision, and so is its quotient by the scale.
    """
    scale, _, words = _split(output, len(values), "a function's output")
    with np.errstate(over="ignore"):  # an infinite quotient saturates like any other
        nearest = np.rint(values.astype(np.float32) / scale.astype(np.float32)[:, None]).astype(np.float64)
    zero, low, high = (v[:, None] for v in (words.zero, words.low, words.high))
    return np.asarray(np.clip(nearest + zero, low, high), np.int64)


def look_up_codes(table: Ints, low: Ints, codes: Ints) -> Ints:
    """table[c, q - low_c] for codes (..., channels); table (channels or 1, codes) from the lowest code upwards."""
    rows = np.arange(len(table)) if len(table) > 1 else np.zeros((), np.int64)
    return np.asarray(table[rows, codes - low], np.int64)


@dataclass(frozen=True, eq=False)
class GatePlan:
    """clamp(round(m x_1' T[x_2] / 2^shift) + z): x_1 sigmoid(x_2), half as many outputs as inputs."""

    source: Channels
    """(2 channels,): of x_1, then of x_2."""
    multiplier: Ints
    """(channels,)"""
    shift: Ints
    """(channels,)"""
    output: Channels


def gate_table(values: Reals) -> Ints:
    """T = half_even(2^16 sigmoid(x)) of x (channels, codes) float64; at most 2^16."""
    with np.errstate(over="ignore"):  # the sigmoid of what exp cannot hold is 0
        return np.asarray(np.rint((1 << GATE_BITS) / (1.0 + np.exp(-values))), np.int64)


def plan_gate(source: Format, output: Format, channels: int) -> GatePlan:
    """Constants of a gate with so many outputs; `FormatError` for formats of other shapes or no words."""
    scale, largest, words = _split(source, 2 * channels, "a gate's input")
    s_out, _, out = _split(output, channels, "a gate")
    ratio, bound = scale[:channels] / (s_out * (1 << GATE_BITS)), largest[:channels] << GATE_BITS
    made = _requantized([ratio], [bound], "a gate")
    return GatePlan(words, made.multipliers[0], made.shift, out)


def gate_codes(plan: GatePlan, codes: Ints, table: Ints) -> Ints:
    """x_1 T[x_2] (..., channels) of codes (..., 2 channels); table (channels or 1, codes)."""
    half = len(plan.shift)
    opened = look_up_codes(table, plan.source.low[half:], codes[..., half:])
    total = plan.multiplier * ((codes[..., :half] - plan.source.zero[:half]) * opened)
    return plan.output.clamp(round_shift(total, plan.shift))


# --- the mean over time


@dataclass(frozen=True, eq=False)
class MeanPlan:
    """clamp(round(m sum_t x'_t / 2^shift) + z), for sequences of given lengths."""

    zero: Ints
    """(channels,), of the input."""
    multiplier: Ints
    """(lengths, channels)"""
    shift: Ints
    """(lengths, channels)"""
    output: Channels


def plan_mean(source: Format, output: Format, lengths: ArrayLike, channels: int) -> MeanPlan:
    """Constants of the mean over so many steps, for each of `lengths` (n,) at least 1.

    Raises `FormatError` for formats of other shapes or words that do not fit.
    """
    steps = np.asarray(lengths, np.int64)
    if steps.ndim != 1 or np.any(steps < 1):
        raise FormatError(f"lengths {steps.tolist()!r} of a mean; allowed are numbers of steps, 1 at least")
    (scale, largest, words), (s_out, _, out) = (
        _split(fmt, channels, what) for fmt, what in ((source, "a mean's input"), (output, "a mean"))
    )
    made = _requantized([scale / (s_out * steps[:, None])], [largest * steps[:, None]], "a mean")
    return MeanPlan(words.zero, made.multipliers[0], made.shift, out)


def mean_codes(plan: MeanPlan, codes: Ints, lengths: ArrayLike) -> Ints:
    """The mean (batch, channels) over the first `lengths` (batch,) steps of codes (batch, time, channels).

    `plan` is of one length for all, or of these lengths.
    """
    inside = np.arange(codes.shape[1]) < np.asarray(lengths)[:, None]
    total = np.where(inside[..., None], codes - plan.zero, 0).sum(1)
    return plan.output.clamp(round_shift(plan.multiplier * total, plan.shift))


# --- a state behind a gate


@dataclass(frozen=True, eq=False)
class GatedPlan:
    """v'_h = clamp(round(m_v v' / 2^shift_v)),  h' <- clamp(h' + round(m_z z' (v'_h - h') / 2^shift_z)).

    The first rounding is half to even, the second one `rounding`; clamp to the state's codes.
    """

    gate_zero: Ints
    candidate_zero: Ints
    candidate: Ints
    """m_v (channels,)"""
    candidate_shift: Ints
    gate: Ints
    """m_z (channels,): s_z 2^shift_z, exact for words of up to 13 bits."""
    gate_shift: Ints
    output: Channels
    rounding: Nearest


def plan_gated(
    gate: Format, candidate: Format, state: Format, channels: int, rounding: Nearest = "half_even"
) -> GatedPlan:
    """Constants of h + z (v - h); `FormatError` for formats of other shapes or words that do not fit."""
    s_z, p_z, z = _split(gate, channels, "a gate")
    s_v, p_v, v = _split(candidate, channels, "a candidate")
    s_h, _, h = _split(state, channels, "a state")
    to_state = _requantized([s_v / s_h], [p_v], "a candidate")
    change = _requantized([s_z], [p_z * (h.high - h.low)], "the change of a state behind a gate")
    return GatedPlan(
        z.zero,
        v.zero,
        to_state.multipliers[0],
        to_state.shift,
        change.multipliers[0],
        change.shift,
        h,
        rounding,
    )


def gated_codes(plan: GatedPlan, z: Ints, v: Ints, h0: Ints | None = None) -> tuple[Ints, Ints]:
    """h (batch, time, channels) of codes z and v, and the last state (batch, channels); h0: codes, None: of 0."""
    low, high = plan.output.low - plan.output.zero, plan.output.high - plan.output.zero
    given = round_shift(plan.candidate * (v - plan.candidate_zero), plan.candidate_shift)
    given = np.clip(given, low, high)
    opened = z - plan.gate_zero
    h = np.zeros(given[:, 0].shape, np.int64) if h0 is None else h0 - plan.output.zero
    out = np.empty(given.shape, np.int64)
    for t in range(given.shape[1]):
        change = plan.gate * (opened[:, t] * (given[:, t] - h))
        h = np.clip(h + round_shift(change, plan.gate_shift, plan.rounding), low, high)
        out[:, t] = h + plan.output.zero
    return out, out[:, -1]
