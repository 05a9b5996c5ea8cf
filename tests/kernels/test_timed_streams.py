"""A sequence in many pieces is the sequence in one, whatever is kept between them, on every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scan_cases import assert_same_state, formats_for, operands
from test_state_scan import drawn
from test_state_scan import formats_for as state_formats

from imc_ssm.errors import FormatError
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
