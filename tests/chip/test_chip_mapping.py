"""Mapping: every weight sits in exactly one place, on a level, and nothing too large is accepted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from chip_cases import chip_of
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.chip import check_fit, column_sums, map_matrix, tiles_needed, with_output_ranges
from imc_ssm.errors import ConfigError, DataError, DesignError

PCM = chip_of("pcm-256")  # continuous
RERAM = chip_of("reram-128")  # 32 levels


def _gaussian(outputs: int, inputs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(outputs, inputs)).astype(np.float32)


def _sized(rows: int, columns: int) -> Any:
    return chip_of(rows=rows, columns=columns, columns_per_adc=1, tiles=10_000)


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 40),
    inputs=st.integers(1, 40),
    rows=st.integers(1, 17),
    columns=st.integers(1, 17),
    scale=st.sampled_from(["column", "tile"]),
)
def test_tiles_cover_the_matrix_once_and_weights_return(
    outputs: int, inputs: int, rows: int, columns: int, scale: Any
) -> None:
    weight = _gaussian(outputs, inputs)
    design = _sized(rows, columns)
    mapped = map_matrix("m", "path.m", weight, None, design, input_range=1.0, scale=scale)
    covered = np.zeros((inputs, outputs), int)
    for tile in mapped.tiles:
        assert 0 < tile.row[1] - tile.row[0] <= rows
        assert 0 < tile.column[1] - tile.column[0] <= columns
        covered[slice(*tile.row), slice(*tile.column)] += 1
    assert (covered == 1).all()
    assert len(mapped.tiles) == tiles_needed(inputs, outputs, design)
    assert np.abs(mapped.target).max() == 1.0
    np.testing.assert_allclose((mapped.target * mapped.scale).T, weight, rtol=3e-7, atol=1e-12)


def test_scales() -> None:
    weight = np.array([[1.0, -4.0], [0.5, 0.25], [2.0, 0.0]])
    by_column = map_matrix("m", "m", weight, None, _sized(1, 2), input_range=1.0)
    np.testing.assert_array_equal(by_column.scale, np.float32([4.0, 0.5, 2.0]))  # one for both row tiles
    by_tile = map_matrix("m", "m", weight, None, _sized(1, 2), input_range=1.0, scale="tile")
    np.testing.assert_array_equal(by_tile.scale, np.float32([4.0, 4.0, 2.0]))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**31))
def test_level_quantization_is_bounded_by_half_a_level(outputs: int, inputs: int, seed: int) -> None:
    weight = _gaussian(outputs, inputs, seed)
    mapped = map_matrix("m", "m", weight, None, RERAM, input_range=1.0)
    level = mapped.target.astype(np.float64) * 31
    assert np.abs(level - np.rint(level)).max() < 1e-5
    error = np.abs(mapped.target - weight.T.astype(np.float64) / mapped.scale)
    assert error.max() <= 0.5 / 31 + 1e-6
    assert np.abs(mapped.target).max() == 1.0  # the largest weight of a column is exact


def test_columns_of_zeros_and_a_matrix_of_zeros() -> None:
    weight = _gaussian(5, 7)
    weight[2] = 0.0
    mapped = map_matrix("m", "m", weight, None, _sized(3, 2), input_range=1.0)
    assert mapped.scale[2] == 0.0
    assert not mapped.target[:, 2].any()
    zeros = map_matrix("z", "z", np.zeros((3, 4)), None, PCM, input_range=1.0)
    assert not zeros.scale.any()
    assert [tile.output_range for tile in zeros.tiles] == [1.0]
    again = with_output_ranges(zeros, np.zeros((10, 4)), PCM)
    assert all(tile.output_range > 0 for tile in again.tiles)


def test_default_output_ranges_are_the_largest_sum() -> None:
    chip = _sized(8, 8)
    mapped = map_matrix("m", "m", _gaussian(20, 30), None, chip, input_range=1.0)
    worst = np.where(mapped.target > 0, 1.0, -1.0).T  # one input per column that drives it to its largest sum
    for tile, sums in zip(mapped.tiles, column_sums(mapped, worst, chip), strict=True):
        assert np.abs(sums).max() == pytest.approx(tile.output_range, rel=1e-6)


def test_calibrated_output_ranges_are_the_percentile_of_the_sums() -> None:
    rng = np.random.default_rng(1)
    chip = _sized(16, 8)
    mapped = map_matrix("m", "m", _gaussian(12, 40), None, chip, input_range=2.0)
    x = rng.normal(size=(500, 40))
    drive = np.clip(x / 2.0, -1, 1)
    for percentile in (90.0, 100.0):
        tuned = with_output_ranges(mapped, x, chip, percentile)
        for tile in tuned.tiles:
            sums = drive[:, slice(*tile.row)] @ mapped.target[slice(*tile.row), slice(*tile.column)]
            assert tile.output_range == pytest.approx(np.percentile(np.abs(sums), percentile), rel=1e-5)
    assert mapped.tiles[0].output_range != tuned.tiles[0].output_range  # the original is untouched


def test_too_small_a_design_says_what_is_needed() -> None:
    small = chip_of("reram-wan-64")
    with pytest.raises(DesignError, match=r"needs 9 tiles of 64 x 64, .* has 4 \(5 too few\); use .*pcm-256"):
        map_matrix("mixing", "m", np.ones((130, 130)), None, small, input_range=1.0)
    parts = [map_matrix(f"m{i}", "m", np.ones((64, 65)), None, small, input_range=1.0) for i in range(3)]
    assert check_fit(parts[:2], small) == 4
    with pytest.raises(DesignError, match="model needs 6 tiles"):
        check_fit(parts, small)


def test_bad_arguments() -> None:
    good = _gaussian(3, 4)
    bad = good.copy()
    bad[1, 1] = np.nan
    with pytest.raises(DataError, match=r"'m' holds NaN"):
        map_matrix("m", "m", bad, None, PCM, input_range=1.0)
    with pytest.raises(DataError, match=r"shape \(4,\)"):
        map_matrix("m", "m", good[0], None, PCM, input_range=1.0)
    with pytest.raises(DataError, match="3 outputs"):
        map_matrix("m", "m", good, np.zeros(4), PCM, input_range=1.0)
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="input_range"):
            map_matrix("m", "m", good, None, PCM, input_range=value)
    with pytest.raises(ConfigError, match="output_range"):
        map_matrix("m", "m", good, None, PCM, input_range=1.0, output_ranges=[0.0])
    with pytest.raises(ConfigError, match="1 tiles, 2 output_ranges"):
        map_matrix("m", "m", good, None, PCM, input_range=1.0, output_ranges=[1.0, 1.0])
    with pytest.raises(ConfigError, match="'column' or 'tile'"):
        map_matrix("m", "m", good, None, PCM, input_range=1.0, scale="matrix")  # type: ignore[arg-type]
    mapped = map_matrix("m", "m", good, None, PCM, input_range=1.0)
    with pytest.raises(DataError, match=r"give \(samples, 4\)"):
        column_sums(mapped, np.zeros((5, 3)), PCM)
    with pytest.raises(DataError, match="NaN"):
        with_output_ranges(mapped, np.full((5, 4), np.nan), PCM)
    with pytest.raises(ConfigError, match="percentile"):
        with_output_ranges(mapped, np.ones((5, 4)), PCM, 0.0)
