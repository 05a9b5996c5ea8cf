"""Factors that undo drift: the published one, and those of least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from imc_ssm.chip import map_matrix, program
from imc_ssm.chip.compensation import MODES, factors
from imc_ssm.devices import resolve
from imc_ssm.errors import ConfigError, DataError
from imc_ssm.units import DAY, HOUR


def weights(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def rms(error: Any) -> float:
    return float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))


def test_every_mode_undoes_a_gain_exactly() -> None:
    before = weights(3, 20, 7)
    gain = np.array([1.0, 0.5, 0.25], np.float32)[:, None, None]
    for mode in MODES:
        wanted = 1.0 if mode == "none" else 1 / gain[:, 0]
        assert factors(before, before * gain, mode) == pytest.approx(np.broadcast_to(wanted, (3, 7)), rel=1e-6)


def test_only_columns_undo_what_differs_between_columns() -> None:
    before = weights(1, 30, 4)
    gain = np.array([1.0, 0.8, 0.5, 0.2], np.float32)
    assert factors(before, before * gain, "column") == pytest.approx(1 / gain[None], rel=1e-6)
    for mode in ("global", "tile"):
        found = factors(before, before * gain, mode)
        assert (found == found[0, 0]).all()
        assert 1 < found[0, 0] < 5


def test_least_squares_is_the_best_factor_and_the_published_one_is_not() -> None:
    before = np.where(np.random.default_rng(1).random((1, 200, 50)) < 0.05, weights(1, 200, 50), 0)
    now = before + weights(1, 200, 50, seed=2) * np.float32(0.1)
    best = float(factors(before, now, "tile")[0, 0])
    reached = rms(best * now - before)
    for other in (0.98 * best, 1.02 * best, float(factors(before, now, "global")[0, 0])):
        assert rms(other * now - before) > reached
    each = factors(before, now, "column")
    assert rms(each[:, None] * now - before) < reached


def test_tiles_and_chips_are_apart() -> None:
    before, now = weights(3, 10, 9), weights(3, 10, 9, seed=1)
    for mode in MODES:
        found = factors(before, now, mode, [(0, 4), (4, 9)])
        left, right = factors(before[..., :4], now[..., :4], mode), factors(before[..., 4:], now[..., 4:], mode)
        assert (found == np.concatenate([left, right], axis=1)).all()
        for chip in range(3):
            one = slice(chip, chip + 1)
            assert (factors(before[one], now[one], mode, [(0, 4), (4, 9)]) == found[one]).all()
        same = factors(np.repeat(before[:1], 3, axis=0), now, mode)
        assert (factors(before[:1], now, mode) == same).all()


def test_nothing_to_read_is_left_alone() -> None:
    before, nothing = weights(1, 5, 3), np.zeros((1, 5, 3), np.float32)
    for mode in MODES:
        assert (factors(before, nothing, mode) == 1).all()
    assert (factors(nothing, nothing, "column") == 1).all()
    # What stands for the opposite of what was stored is left out, not turned round.
    assert (factors(before, -before, "column") == 0).all()


@pytest.mark.parametrize("design", ["pcm-256", "reram-128"])
@pytest.mark.parametrize("density", [1.0, 0.05])
def test_on_cells_columns_are_best_and_nothing_is_worse_than_none(design: str, density: float) -> None:
    """Errors of the weights of 4 chips of 64 x 64 against the targets (docs/populations.md has them)."""
    rng, chip = np.random.default_rng(0), resolve(design)
    matrix = np.where(rng.random((64, 64)) < density, rng.normal(size=(64, 64)), 0)
    mapped = map_matrix("m", "m", matrix, None, chip, input_range=1.0)
    made = program(mapped, chip, 0, range(4))
    before = made.weights()
    for time in (1.0, HOUR, DAY, 30 * DAY):
        now = made.weights(time)
        error = {mode: rms(factors(before, now, mode)[:, None] * now - mapped.target) for mode in MODES}
        assert error["column"] <= error["tile"] <= min(error["none"], error["global"]) * 1.01, (time, error)
        if (design, density, time) == ("reram-128", 0.05, 1.0):
            # Read noise of the zeros raises mean |w|: the published factor turns the weights down by a tenth.
            assert error["global"] > 2 * error["none"]


def test_bad_input_is_refused() -> None:
    good = weights(2, 5, 3)
    with pytest.raises(ConfigError, match="columns"):
        factors(good, good, "columns")  # type: ignore[arg-type]
    for before, now in ((good[0], good[0]), (weights(3, 5, 3), good), (weights(2, 4, 3), good)):
        with pytest.raises(DataError, match="do not fit"):
            factors(before, now, "global")
    for columns in ([(0, 2)], [(0, 2), (1, 3)], [(2, 3), (0, 2)], [(0, 4)]):
        with pytest.raises(DataError, match="each once"):
            factors(good, good, "global", columns)
