"""Devices that are written again: what is drawn anew, and what is theirs for life."""

from __future__ import annotations

import numpy as np
import pytest

from imc_ssm.devices import Draws, load_cell


def test_a_generic_device_keeps_its_drift_and_its_defect() -> None:
    cell = load_cell("generic-reram")
    share = cell.stuck_low.with_(value=0.05)  # type: ignore[attr-defined]
    cell = cell.with_(stuck_low=share, stuck_high=share)
    target = np.full((4000,), 0.5 * (cell.g_min.value + cell.g_max.value), np.float32)
    first = cell.program(target, Draws([1, 2]))
    again = cell.reprogram(first, Draws([3, 4]))
    np.testing.assert_array_equal(first.kept, again.kept)
    assert first.stuck is not None
    np.testing.assert_array_equal(first.stuck, again.stuck)
    stuck = first.stuck > 0
    assert 0.08 < stuck.mean() < 0.12  # 8,000 devices, 10 %: 6 sigma
    np.testing.assert_array_equal(first.g[stuck], again.g[stuck])
    errors = [(made.g - target)[~stuck] for made in (first, again)]
    assert abs(np.corrcoef(*errors)[0, 1]) < 4 / np.sqrt(errors[0].size)
    assert errors[1].std() == pytest.approx(errors[0].std(), rel=0.05)


def test_where_nothing_is_known_to_stay_all_is_new() -> None:
    cell = load_cell("pcm-nandakumar-2019")
    target = np.full((500,), 0.5 * cell.g_max.value, np.float32)
    first = cell.program(target, Draws([1]))
    again = cell.reprogram(first, Draws([2]))
    alone = cell.program(target, Draws([2]))
    np.testing.assert_array_equal(again.g, alone.g)
    np.testing.assert_array_equal(again.kept, alone.kept)
    assert (again.kept != first.kept).any()
