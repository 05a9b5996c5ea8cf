"""Windows of slow heads: what the kernels sum and hold, against the definition step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit

from imc_ssm.kernels import windows
from imc_ssm.kernels.vector import LANES, pointer


def of_arrays(function: Callable[..., Any], count: int) -> Any:
    """One of the kernels' parts, which take pointers, for `count` arrays and three numbers."""
    if count == 1:
        return njit(lambda z, *rest: function(pointer(z), *rest))
    return njit(lambda z, w, *rest: function(pointer(z), pointer(w), *rest))


collect, hold = of_arrays(windows.collect, 2), of_arrays(windows.hold, 2)
hold_gradient, sum_gradient = of_arrays(windows.hold_gradient, 1), of_arrays(windows.sum_gradient, 1)


@pytest.mark.parametrize("period", [2, 4, 8, 256])
@pytest.mark.parametrize("steps", [1, 3, 8, 9, 40, 300])
def test_sums_and_what_is_held(period: int, steps: int) -> None:
    rng = np.random.default_rng(steps)
    for phase in sorted({0, 1, period // 2, period - 1}):
        count = (phase + steps) // period
        given = rng.integers(-9, 9, (steps, LANES)).astype(np.float32)
        before = rng.integers(-9, 9, LANES).astype(np.float32)
        window = (phase + np.arange(steps)) // period  # of every step; those from `count` on have not ended

        own, sums = given.copy(), before.copy()
        assert collect(own.reshape(-1), sums, steps, period, phase) == count
        for i in range(count + 1):
            total = given[window == i].sum(0) + (before if i == 0 else 0)
            assert np.array_equal(own[i] if i < count else sums, total)

        # Outputs and their gradients: from a window's last step, which updates, to the step before the next one.
        total, held = given.astype(np.float64), before.astype(np.float64)
        hold(total.reshape(-1), held, steps, period, phase)
        own = given.copy()
        assert sum_gradient(own.reshape(-1), steps, period, phase) == count
        latest = (phase + np.arange(steps) + 1) // period - 1
        for t, i in enumerate(latest):
            assert np.array_equal(total[t], before if i < 0 else given[i])
        assert np.array_equal(held, total[-1])
        for i in range(count):
            assert np.array_equal(own[i], given[latest == i].sum(0))

        own = given.copy()
        hold_gradient(own.reshape(-1), steps, period, phase)
        for t, i in enumerate(window):
            assert np.array_equal(own[t], given[i] if i < count else np.zeros(LANES))
