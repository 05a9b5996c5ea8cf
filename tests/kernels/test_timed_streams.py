"""A sequence in many pieces is the sequence in one, whatever is kept between them, on every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scan_cases import assert_same_state, formats_for, operands
from test_state_scan import drawn
from test_state_scan import formats_for as state_formats

from imc_ssm.errors import FormatError, ImcSsmError
from imc_ssm.fixedpoint import UnitState, plan_scan
from imc_ssm.fixedpoint.formats import ROUNDINGS
from imc_ssm.kernels import ScanUnit, StateScanUnit, state_scan

PIECES = [1, 1, 1, 3, 0, 7, 1, 16, 2, 1, 9]
KINDS = [(r, p) for r in ROUNDINGS for p in ("joint", "separate") if (r, p) != ("feedback", "separate")]


@pytest.mark.parametrize(("rounding", "placement"), KINDS)
@pytest.mark.parametrize("periods", [None, (1, 2, 16), (8, 8, 8)])
def test_many_pieces(rounding: str, placement: str, periods: tuple[int, ...] | None) -> None:
    u, a, b, c = operands(5, 3, 3, 3, sum(PIECES))
    formats = formats_for(u, a, b, c, 6, rounding=rounding, order=placement, shrink={"x": 0.7})
    formats = replace(formats, periods=periods, rounding_placement=placement)
    unit = ScanUnit(a, b, c, formats=formats)
    whole, end = unit(u, backend="reference")
    assert isinstance(end, UnitState) == formats.timed
    state, found = None, []
    for k, piece in enumerate(u.split(PIECES, -1)):
        y, state = unit(piece, state, backend=("cpu", "reference")[k % 2])
        found.append(y)
    assert torch.equal(torch.cat(found, -1), whole)
    assert_same_state(state, end)
    assert_same_state(unit(u, backend="cpu")[1], end)


@pytest.mark.parametrize(("rounding", "placement"), KINDS)
def test_many_pieces_of_a_complex_input(rounding: str, placement: str) -> None:
    v, a, b = drawn(7, 3, 4, sum(PIECES))
    formats = state_formats(v, a, b, 6, 0.7, rounding=rounding, rounding_placement=placement)
    unit = StateScanUnit(a, b, formats=formats)
    whole, end = unit(v, backend="reference")
    state, found = None, []
    for k, piece in enumerate(v.split(PIECES, -1)):
        x, state = unit(piece, state, backend=("cpu", "reference")[k % 2])
        found.append(x)
    assert torch.equal(torch.cat(found, -1), whole)
    assert_same_state(state, end)


def test_the_counter_goes_round_as_a_number_does() -> None:
    # What a counter of 16 bits sees: 65,536 updates later every word is the same.
    u, a, b, c = operands(6, 2, 2, 3, 30)
    formats = replace(formats_for(u, a, b, c, 8), rounding="dithered", periods=(1, 4))
    unit = ScanUnit(a, b, c, formats=formats)
    codes = torch.zeros(2, 2, 3, 2, dtype=torch.int64)
    y, last = unit(u, UnitState(codes, 0))
    later, end = unit(u, UnitState(codes, 4 * 2**16))
    other, _ = unit(u, UnitState(codes, 4))
    assert torch.equal(later, y)
    assert torch.equal(end.x, last.x)
    assert (last.time, end.time) == (30, 30 + 4 * 2**16)
    assert not torch.equal(other, y)


def test_states_between_matrices_have_no_periods() -> None:
    v, a, b = drawn(8, 2, 3, 4)
    formats = replace(state_formats(v, a, b, 8), periods=(1, 2, 4))
    with pytest.raises(FormatError, match="periods of 3 heads for 3 states between matrices"):
        state_scan(v, a, b, formats=formats)
    assert np.array_equal(plan_scan(replace(formats, periods=None), 3, 1, complex_drive=True).periods, np.ones(3))


def test_what_a_unit_cannot_hold_is_refused_and_what_is_left_out_is_at_rest() -> None:
    u, a, b, c = operands(9, 2, 2, 3, 7)
    formats = replace(formats_for(u, a, b, c, 8), rounding="feedback", residual_bits=6, periods=(1, 4))
    unit = ScanUnit(a, b, c, formats=formats)
    zero = torch.from_numpy(unit.plan.zero("x"))[..., None].expand(2, 2, 3, 2).clone()
    none = torch.zeros(2, 2, dtype=torch.int64)
    half = torch.full((2, 2, 3, 2), 32)
    y, end = unit(u, UnitState(zero, 3, none, half))
    for state in (
        UnitState(None, 3),
        UnitState(zero, 3),
        UnitState(None, 3, none),
        UnitState(None, 3, None, half),
    ):
        again, last = unit(u, state)
        assert torch.equal(again, y)
        assert_same_state(last, end)
    ends = np.abs(np.array([formats.u.low, formats.u.high]) - formats.u.zero_point).max(0)
    most = 3 * int(np.broadcast_to(ends, 2)[1])  # of three inputs, at the head of period 4
    sums = torch.tensor([[0, most], [0, -most]])
    unit(u, UnitState(zero, 3, sums, half))
    for state, kind, message in (
        (UnitState(zero + 300), FormatError, "x0 holds codes outside its format of 8 bits"),
        (UnitState(zero, 3, sums + 1), FormatError, "sums of inputs are larger"),
        (UnitState(zero, 3, none, half * 2), FormatError, "a residual is outside its 6 bits"),
        (UnitState(zero, 3, none, -half), FormatError, "a residual is outside its 6 bits"),
        (UnitState(zero, 3, none + 2**40), FormatError, "sums of inputs are larger"),
        (UnitState(zero, 3, none.float()), ImcSsmError, "sums of inputs are torch.float32"),
        (
            UnitState(zero, 3, none[:1]),
            ImcSsmError,
            r"sums of inputs are torch.int64 \(1, 2\); needed are integers",
        ),
        (UnitState(zero, 3, none, half[:1]), ImcSsmError, "residuals are torch.int64"),
        (UnitState(zero, -1), FormatError, "time -1"),
    ):
        with pytest.raises(kind, match=message):
            unit(u, state)
