"""A whole model in integers: `run` folds over the operators of a graph, int64 throughout.

The graph is anything whose operators have `name`, `inputs`, `output`, `reverse` and `integer(formats, words)`
(`imc_ssm.graph.Graph`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imc_ssm.errors import FormatError, unknown
from imc_ssm.fixedpoint.formats import Format
from imc_ssm.fixedpoint.operations import Operation, reversed_codes
from imc_ssm.fixedpoint.oracle import Overflows

__all__ = ["IntegerRun", "input_codes", "operations_of", "run"]

Ints = NDArray[np.int64]
_CHUNK = 1 << 22
"""Numbers of the widest signal that are worked on at a time."""


@dataclass(frozen=True, eq=False)
class IntegerRun:
    """What `run` found."""

    codes: dict[str, Ints]
    """Signal -> its stored codes, (batch, time, channel), or (batch, channel) behind a pool."""
    logits: Ints
    """The integers of the last operator, whose output has no format, (batch, K) or (batch, time, K)."""
    unit: float
    """The real value of a logit's 1: a power of two."""
    overflows: dict[str, Overflows]
    """Output of a recurrence -> how many words saturated, padding included."""

    @property
    def values(self) -> NDArray[np.float32]:
        """The logits: integer times unit, exact in double precision, rounded once to single."""
        return (self.logits * self.unit).astype(np.float32)


def input_codes(fmt: Format, values: ArrayLike) -> Ints:
    """Codes (batch, time, channel) of a sequence: clamp(half_even(x / s) + z), the quotient in float32."""
    with np.errstate(over="ignore"):  # an infinite quotient saturates like any other
        nearest = np.rint(np.asarray(values, np.float32) / fmt.scale).astype(np.float64)
    return np.asarray(np.clip(nearest + fmt.zero_point, fmt.low, fmt.high), np.int64)


def operations_of(
    graph: Iterable[Any], formats: Mapping[str, Format], words: Mapping[str, NDArray[Any]]
) -> list[tuple[Any, Operation | None]]:
    """Every operator of a graph with its integer form; None for the source.

    Raises `FormatError` naming the first path in full precision.
    """
    return [(op, op.integer(formats, words)) for op in graph]


def run(
    graph: Iterable[Any],
    formats: Mapping[str, Format],
    words: Mapping[str, NDArray[Any]],
    codes: ArrayLike,
    lengths: ArrayLike | None = None,
    signals: Collection[str] | None = None,
) -> IntegerRun:
    """Run a quantized model on the codes of its input (batch, time, channel), int64 throughout.

    `words`: path -> codes of every parameter (`quantization.words_of`). `lengths` (batch,): valid steps of each
    sequence; what follows them becomes the code of 0. `signals`: those whose codes are wanted, None: all (a batch
    is worked through in pieces, but what is wanted is kept).

        >>> import imc_ssm, torch
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))
        >>> model = imc_ssm.quantize(model, "uniform", torch.rand(8, 12, 1))
        >>> words, formats = imc_ssm.quantization.words_of(model), imc_ssm.quantization.formats_of(model)
        >>> codes = imc_ssm.fixedpoint.input_codes(formats["input"], torch.rand(2, 12, 1))
        >>> imc_ssm.fixedpoint.run(model.graph(), formats, words, codes).logits.shape
        (2, 10)

    Raises `FormatError` naming the first path in full precision, for codes that are not those of the input, or
    lengths outside 1 to the time steps.
    """
    steps = operations_of(graph, formats, words)
    source = steps[0][0].output
    given, ends = _checked(codes, formats[source.name], source, lengths)
    known = [op.output.name for op, _ in steps]
    wanted = set(known) if signals is None else set(signals)
    for name in sorted(wanted - set(known)):
        raise FormatError(unknown("signal", name, known))
    last = known[-1]
    width = max(op.output.width for op, _ in steps)
    size = max(1, _CHUNK // (width * given.shape[1]))
    found: dict[str, list[Ints]] = {name: [] for name in (*sorted(wanted - {last}), last)}
    for start in range(0, len(given), size):
        part = slice(start, start + size)
        made = _one(steps, given[part], None if ends is None else ends[part])
        for name, pieces in found.items():
            pieces.append(made[name])
    whole = {name: np.concatenate(pieces) for name, pieces in found.items()}
    final: Any = steps[-1][1]
    unit = 2.0 ** -float(final.plan.shift[0]) if final.kind == "linear" and final.plan.output is None else 1.0
    counted = {op.output.name: _total(form) for op, form in steps if getattr(form, "overflows", None)}
    return IntegerRun({n: v for n, v in whole.items() if n in wanted}, whole[last], unit, counted)


def _one(steps: list[tuple[Any, Operation | None]], codes: Ints, lengths: Ints | None) -> dict[str, Ints]:
    """All signals of a piece of the batch."""
    made: dict[str, Ints] = {}
    for op, form in steps:
        if form is None:
            made[op.output.name] = codes
            continue
        inputs = [made[signal.name] for signal in op.inputs]
        ends = lengths if inputs[0].ndim == 3 else None
        if not op.reverse:
            made[op.output.name] = form.run(inputs, ends)
        else:
            back = form.run([reversed_codes(z, ends) for z in inputs], ends)
            made[op.output.name] = reversed_codes(back, ends)
    return made


def _total(form: Any) -> Overflows:
    return Overflows(sum(lost.state for lost in form.overflows), sum(lost.output for lost in form.overflows))


def _checked(codes: ArrayLike, fmt: Format, source: Any, lengths: ArrayLike | None) -> tuple[Ints, Ints | None]:
    """The input's codes, with the code of 0 behind the ends, and the lengths."""
    given = np.asarray(codes)
    if given.dtype.kind not in "iu" or given.ndim != 3 or given.shape[-1] != source.width or 0 in given.shape:
        raise FormatError(
            f"the input's codes are {given.dtype} {given.shape}; needed are integers (batch, time, {source.width})"
        )
    given = given.astype(np.int64)
    if np.any((given < fmt.low) | (given > fmt.high)):
        raise FormatError(f"the input holds codes outside its format of {fmt.bits} bits")
    if lengths is None:
        return given, None
    ends = np.asarray(lengths)
    batch, time, _ = given.shape
    if ends.dtype.kind not in "iu" or ends.shape != (batch,) or ends.min() < 1 or ends.max() > time:
        raise FormatError(f"lengths {ends.dtype} {ends.shape}; needed are {batch} integers from 1 to {time}")
    inside = np.arange(time) < ends[:, None]
    return np.where(inside[..., None], given, input_codes(fmt, np.zeros(source.width))), ends.astype(np.int64)
