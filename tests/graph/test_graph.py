"""Graphs, signals and formats: what an operator joins, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from imc_ssm.errors import FileError, FormatError, ImcSsmError
from imc_ssm.fixedpoint import Format
from imc_ssm.graph import (
    COMPONENTS,
    Affine,
    Formats,
    Gate,
    Graph,
    Join,
    Last,
    LookUp,
    Matrix,
    Mean,
    Normalize,
    Operator,
    Piecewise,
    Rectify,
    Recurrence,
    Scale,
    Signal,
    Source,
    StateUpdate,
    Sum,
)

U, V, X = Signal("u", 4), Signal("v", 4), Signal("x", 4)
CONTENTS = {"parameters", "requantization", "state", "activations"}


def fmt(bits: int, shape: tuple[int, ...] = ()) -> Format:
    return Format.from_range(np.full(shape, -1.0), np.full(shape, 1.0), bits)


def every(bits: int = 8) -> list[tuple[Operator, Formats]]:
    """One operator of each class, and formats of everything that it has to do with."""
    y, pooled = Signal("y", 4), Signal("y", 4, "sequence")
    drive, state = Signal("v", 4, complex=True), Signal("m.state", 4, complex=True, kind="state")
    made: list[Operator] = [
        Source("m", "m", (), y),
        Matrix("m", "m", (U,), y),
        Matrix("m", "m", (U,), y, biased=False),
        Recurrence("m", "m", (U,), y, heads=4, states=3),
        Recurrence("m", "m", (U,), y, heads=4, states=3, rounding_placement="separate"),
        StateUpdate("m", "m", (drive,), state),
        StateUpdate("m", "m", (drive,), state, rounding_placement="separate"),
        Scale("m", "m", (U, V), y),
        LookUp("m", "m", (U,), y),
        Piecewise("m", "m", (U,), y),
        Gate("m", "m", (Signal("u", 8),), y),
        Sum("m", "m", (U, V), y),
        Mean("m", "m", (U,), pooled),
        Normalize("m", "m", (U,), y),
        Normalize("m", "m", (U,), y, centred=False),
        Affine("m", "m", (U,), y),
        Rectify("m", "m", (U,), y),
        Join("m", "m", (U, V), y, entering=X),
        Last("m", "m", (U,), pooled),
    ]
    out = []
    for op in made:
        paths = [s.name for s in (*op.inputs, op.output)] + [p.name for p in op.parameters]
        paths += [op.entering.name] if isinstance(op, Join) else []
        out.append((op, Formats({path: fmt(bits) for path in paths})))
    return out


CASES = [pytest.param(op, formats, id=f"{type(op).__name__}-{i}") for i, (op, formats) in enumerate(every())]


@pytest.mark.parametrize(("op", "formats"), CASES)
def test_actions_are_sound(op: Operator, formats: Formats) -> None:
    """Counts and widths are positive, memories are named where one is used, products take slots."""
    for action in op.actions(formats, 16):
        assert action.component in COMPONENTS
        assert action.count > 0
        assert all(bits > 0 for bits in action.bits)
        assert (action.store is not None) == (action.verb in ("read", "write"))
        assert len(action.bits) == (2 if action.verb in ("multiply", "lookup") else 1)
        assert action.slots == (action.count if action.verb == "multiply" else action.slots)
    for words in op.stored(formats, 16):
        assert words.content in CONTENTS
        assert words.count > 0
        assert words.bits > 0


@pytest.mark.parametrize(("op", "formats"), CASES)
def test_every_input_is_read_and_the_output_written(op: Operator, formats: Formats) -> None:
    if isinstance(op, Source | Last):
        return
    actions = op.actions(formats, 16)
    read = sum(a.count for a in actions if a.verb == "read" and a.store == "activations")
    assert read == sum(signal.width for signal in op.inputs)
    store = "state" if isinstance(op, StateUpdate) else "activations"
    assert sum(a.count for a in actions if a.verb == "write" and a.store == store) == op.output.width
    kept = "state" if isinstance(op, StateUpdate) else "activations"
    waiting = 2 * 15 * op.output.width if isinstance(op, Join) else 0  # of 15 steps, input and output
    assert sum(w.count for w in op.stored(formats, 16) if w.content == kept) == op.output.width + waiting


@pytest.mark.parametrize(("op", "formats"), CASES)
def test_stored_parameters_are_those_it_declares(op: Operator, formats: Formats) -> None:
    own = sum(p.words for p in op.parameters if p.kind == "parameter")
    assert sum(w.count for w in op.stored(formats, 16) if w.content == "parameters") == own
    states = sum(p.words for p in op.parameters if p.kind == "state")
    if states:
        assert sum(w.count for w in op.stored(formats, 16) if w.content == "state") == states


@pytest.mark.parametrize(("op", "formats"), CASES)
def test_wider_words_are_never_less_work(op: Operator, formats: Formats) -> None:
    """The widths of all actions grow, or stay, with the width of any one path."""
    for path in formats:
        wider = Formats({**formats, path: fmt(10)})
        for one, two in zip(op.actions(formats, 16), op.actions(wider, 16), strict=True):
            assert (one.verb, one.count, one.purpose) == (two.verb, two.count, two.purpose)
            if "requantize a x" in one.purpose or "requantize b" in one.purpose or one.purpose in ("a x + b u",):
                continue  # the plan shares the accumulator's bits out between its multipliers
            assert all(a <= b for a, b in zip(one.bits, two.bits, strict=True)), (path, one, two)


@pytest.mark.parametrize(("op", "formats"), CASES)
def test_a_path_without_format_is_named(op: Operator, formats: Formats) -> None:
    if isinstance(op, Source | Last):
        return
    for path in formats:
        if path == op.output.name and isinstance(op, Matrix):
            continue  # whole sums
        if isinstance(op, Matrix) and path == op.bias:
            assert op.load(formats)
            with pytest.raises(FormatError, match=f"'{path}' is in full precision"):
                op.load(Formats({p: f for p, f in formats.items() if p != path}))
            continue  # since loading it is as long as the sum
        if isinstance(op, Join) and path == op.entering.name:
            with pytest.raises(FormatError, match=f"'{path}' is in full precision"):
                op.stored(Formats({p: f for p, f in formats.items() if p != path}), 16)
            continue  # which is kept, not read again here
        lacking = Formats({p: f for p, f in formats.items() if p != path})
        with pytest.raises(FormatError, match=f"'{path}' is in full precision and has no format"):
            op.actions(lacking, 16)


def test_graphs_know_their_parts() -> None:
    graph = Graph(
        (
            Source("in", "a", (), U),
            Matrix("w", "b", (U,), V),
            Recurrence("r", "c", (V,), Signal("y", 4), heads=4, states=2),
        )
    )
    assert [s.name for s in graph.signals] == ["u", "v", "y"]
    assert graph.modules() == ("a", "b", "c")
    assert [op.name for op in graph.of_module("b")] == ["w"]
    assert graph.kinds() == {
        "u": "activation",
        "b.weight": "parameter",
        "b.bias": "parameter",
        "v": "activation",
        "c.poles": "parameter",
        "c.b": "parameter",
        "c.c": "parameter",
        "c.state": "state",
        "y": "activation",
    }
    assert {p.name: p.words for p in graph.parameters}["c.poles"] == 2 * 4 * 2


def test_graphs_that_do_not_hang_together() -> None:
    with pytest.raises(ImcSsmError, match="operator 'w' reads 'u', which no operator before it makes"):
        Graph((Matrix("w", "b", (U,), V),))
    source = Source("in", "a", (), U)
    with pytest.raises(ImcSsmError, match="two operators make a signal 'u'"):
        Graph((source, source))


class TestFormats:
    def test_tensors_and_back(self) -> None:
        formats = Formats({"a": fmt(4, (3,)), "b.c": Format(8, np.float32(0.5), np.int64(0), True, 2.0)})
        arrays, rest = formats.tensors()
        again = Formats.of_tensors(arrays, rest)
        assert list(again) == list(formats)
        for path, f in formats.items():
            g = again[path]
            assert (f.bits, f.symmetric, f.clip) == (g.bits, g.symmetric, g.clip)
            assert np.array_equal(f.scale, g.scale)
            assert np.array_equal(f.zero_point, g.zero_point)

    def test_what_a_file_lacks_is_named(self) -> None:
        arrays, rest = Formats({"a": fmt(4)}).tensors()
        with pytest.raises(FileError, match="lack 'a/scale'"):
            Formats.of_tensors({}, rest)
        with pytest.raises(FileError, match="lack 'bits'"):
            Formats.of_tensors(arrays, {"a": {}})
