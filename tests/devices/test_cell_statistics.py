"""Shipped cells against what their TOML or paper says: spreads, drift slopes, rates, and independence.

The expected numbers are written out here from the papers' formulas or read from the TOML, not from the classes.
n = 40,000 devices a point; bounds are two-sided quantiles (1e-5) of the chi-square and normal distributions, and
Clopper-Pearson intervals for rates. Distributions: test_cells_oracle.py; correlation in time: test_slow_noise.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from imc_ssm.chip import Reference, map_matrix, program
from imc_ssm.devices import Cited, Draws, device_names, load_cell, resolve

N, P = 40_000, 1e-5
DAY = 86400.0


def assert_deviation(sample: np.ndarray, expected: float) -> None:
    ratio = sample.var(ddof=1) * (sample.size - 1) / expected**2
    low, high = stats.chi2.ppf([P / 2, 1 - P / 2], sample.size - 1)
    assert low < ratio < high, f"{sample.std():.5g}, expected {expected:.5g}"


def assert_mean(sample: np.ndarray, expected: float) -> None:
    error = stats.norm.isf(P / 2) * sample.std(ddof=1) / math.sqrt(sample.size)
    assert abs(sample.mean() - expected) < error, f"{sample.mean():.5g}, expected {expected:.5g}"


SPREAD: dict[str, Callable[[float], float]] = {
    "pcm-nandakumar-2019": lambda g: 0.26348 + 1.9650 * g / 25 - 1.1731 * (g / 25) ** 2,
    "pcm-hermes-single": lambda g: (
        0.15781817 + 2.32443916 * (x := g / 10.35) - 2.16310839 * x**2 + 0.68841818 * x**3
    ),
    "pcm-hermes-dual": lambda g: 0.16603222 + 4.71806468 * (x := g / 20.7) - 8.48101252 * x**2 + 4.68961419 * x**3,
    "reram-cmo-falcone": lambda g: 0.0112185391 + 0.01129027418 * g,
    "reram-wan-2022": lambda g: 0.348 + 16.030 * (x := g / 40) - 43.853 * x**2 + 45.393 * x**3 - 16.815 * x**4,
    "reram-taox-yao": lambda g: 0.145,
    "reram-dpe-hu": lambda g: 3.2,
    "generic-reram": lambda g: float(np.interp(g, [1, 25, 50], [0.5, 1.0, 1.0])),
    "state-independent": lambda g: 0.2,
    "ideal": lambda g: 0.0,
}
"""uS, of what is written, against the target in uS."""


def test_every_shipped_cell_has_a_spread() -> None:
    assert set(SPREAD) == set(device_names("cells"))


@pytest.mark.parametrize("name", SPREAD)
@pytest.mark.parametrize("fraction", [0.3, 0.55, 0.8])
def test_programming_error_against_conductance(name: str, fraction: float) -> None:
    """Where nothing is clamped; stuck devices are told apart by where they are stuck."""
    cell = load_cell(name)
    target = np.float32(cell.g_min.value + fraction * cell.span)
    g = cell.program(np.full(N, target, np.float32), Draws([7])).g[0].astype(np.float64)
    ends = np.isclose(g, cell.g_min.value, rtol=1e-6) | np.isclose(g, cell.g_max.value, rtol=1e-6)
    assert ends.mean() < 0.01
    error = 1e6 * (g[~ends] - float(target))
    if name == "ideal":
        assert not error.any()
        return
    assert_deviation(error, SPREAD[name](1e6 * float(target)))
    assert_mean(error, 0.0)


EXPONENT: dict[str, Callable[[float], tuple[float, float]]] = {
    "pcm-nandakumar-2019": lambda x: (
        min(max(-0.0155 * math.log(x) + 0.0244, 0.049), 0.1),
        min(max(-0.0125 * math.log(x) - 0.0059, 0.008), 0.045),
    ),
    "pcm-hermes-single": lambda x: (
        -0.0436 * x**2 - 0.0126 * x + 0.0736,
        -0.0165 * x**2 + 0.0116 * x + 0.0104 if x >= 0.3039 else max(-0.0120 * math.log(x) - 0.0023, 0.0124),
    ),
    "pcm-hermes-dual": lambda x: (
        -0.0436 * x**2 - 0.0126 * x + 0.0736,
        -0.0118 * x**2 + 0.0093 * x + 0.0073 if x >= 0.3055 else max(-0.0117 * math.log(x) - 0.0057, 0.0091),
    ),
}
"""Mean and deviation of the drift exponent against G / g_max, above a tenth of it."""


@pytest.mark.parametrize("name", EXPONENT)
@pytest.mark.parametrize("x", [0.15, 0.5, 0.9])
def test_drift_slope(name: str, x: float) -> None:
    """The slope of ln G against ln((t + t_0) / t_0) of every device, read at four times without read noise."""
    cell = load_cell(name).with_(read_scale=0.0)
    devices = cell.program(np.full(N, x * cell.g_max.value, np.float32), Draws([3]))
    alive = devices.g[0] > 0.2 * x * cell.g_max.value
    t_0 = cell.t_0.value  # type: ignore[attr-defined]
    times = (1.0, 3600.0, DAY, 30 * DAY)
    log = np.log((np.array(times) + t_0) / t_0)
    g = np.stack([cell.read(devices, time, Draws([4]))[0][alive] for time in times]).astype(np.float64)
    slope = np.polyfit(log, np.log(g), 1)[0]
    mean, spread = EXPONENT[name](x)
    folded = stats.foldnorm(mean / spread, scale=spread)  # nu = |N(mean, spread)|
    assert_mean(-slope, folded.mean())
    assert_deviation(-slope, folded.std())
    np.testing.assert_allclose(np.log(g), np.log(devices.g[0][alive]) + np.outer(log, slope), atol=2e-4)


def test_relaxation() -> None:
    """CMO/HfOx over time: mean -0.089 ln t, spread 0.412 + 0.042 ln t, in uS; the written error is taken off."""
    cell = load_cell("reram-cmo-falcone").with_(read_scale=0.0, programming_scale=0.0)
    devices = cell.program(np.full(N, 50e-6, np.float32), Draws([3]))
    for time in (1.0, 3600.0, DAY, 30 * DAY):
        change = 1e6 * (cell.read(devices, time, Draws([4], [5]))[0].astype(np.float64) - 50e-6)
        assert_mean(change, -0.08900206 * math.log(time))
        assert_deviation(change, 0.41183342 + 0.04201137 * math.log(time))


@pytest.mark.parametrize("name", device_names("cells"))
@pytest.mark.parametrize("given", [False, True])
def test_stuck_rates(name: str, given: bool) -> None:
    """The rate of the TOML, or a given one, lies in the Clopper-Pearson interval (1 - 1e-5) of 200,000 devices.

    They are the same devices at every time and when all is written again, without noise.
    """
    cell = load_cell(name)
    ends = (0.25 * cell.g_min.value, 1.25 * cell.g_max.value)
    if given:
        rates = (Cited(value=r, unit="1", source="assumed: a test") for r in (0.02, 0.005))
        at = (Cited(value=g, unit="S", source="assumed: a test") for g in ends)
        cell = cell.with_(
            dict(zip(("stuck_low", "stuck_high", "g_stuck_low", "g_stuck_high"), (*rates, *at), strict=True))
        )
        assert cell.rates == (0.02, 0.005)
    middle = np.full(5 * N, cell.g_min.value + 0.5 * cell.span, np.float32)
    devices = cell.program(middle, Draws([11]))
    if sum(cell.rates) == 0:
        assert devices.stuck is None
        return
    assert devices.stuck is not None
    for state, rate in enumerate(cell.rates, 1):
        interval = stats.binomtest(int((devices.stuck == state).sum()), middle.size).proportion_ci(1 - P)
        assert interval.low <= rate <= interval.high
    again = cell.reprogram(devices, Draws([12]))
    time = cell.usual_times()[-1]
    readings = (devices.g, again.g, cell.read(devices, time, Draws([13], [14])))
    for state in (1, 2):
        stuck = devices.stuck == state
        for g in readings:
            assert np.unique(g[stuck]).size == 1
            if given:
                assert g[stuck][0] == np.float32(ends[state - 1])
    fast = cell.fast_noise(devices, readings[-1])
    assert fast is None or not fast[devices.stuck > 0].any()


@pytest.mark.parametrize("name", device_names("cells"))
def test_stuck_devices_leave_the_others_as_they_are(name: str) -> None:
    """Chips of two rates are the same chips but for the devices that are stuck, also through aihwkit."""
    cell = load_cell(name)
    rates = [Cited(value=rate, unit="1", source="assumed: a test") for rate in (0.01, 0.03)]
    target = np.full(4000, cell.g_min.value + 0.5 * cell.span, np.float32)
    few, many = (cell.with_(stuck_low=rate, stuck_high=rate).program(target, Draws([5])) for rate in rates)
    assert few.stuck is not None
    assert many.stuck is not None
    assert (few.stuck[few.stuck > 0] == many.stuck[few.stuck > 0]).all()
    works = many.stuck == 0
    np.testing.assert_array_equal(few.g[works], many.g[works])
    np.testing.assert_array_equal(cell.program(target, Draws([5])).g[works & (few.stuck == 0)], few.g[works])
    if cell.model != "generic":
        oracle = Reference(cell.with_(stuck_low=rates[1])).program(target, Draws([5]))
        assert oracle.stuck is not None
        assert (oracle.g[oracle.stuck == 1] == np.float32(cell.g_min.value)).all()


@pytest.mark.parametrize("name", device_names("cells"))
def test_the_two_devices_of_a_weight_err_apart(name: str) -> None:
    """Errors of devices that add and of those that subtract, on two chips: no pair correlates by 5 / sqrt(n)."""
    cell = load_cell(name)
    chip = resolve("reram-128").with_(cell=cell)
    mapped = map_matrix("m", "m", np.full((100, 100), 0.5), None, chip, input_range=1.0)
    devices = program(mapped, chip, 3, (0, 1)).devices
    error = (devices.g - devices.target).reshape(2, 2, -1).astype(np.float64)  # (chip, sign, weight)
    if name == "ideal":
        assert not error.any()
        return
    correlation = np.corrcoef(error.reshape(4, -1)) - np.eye(4)
    assert np.abs(correlation).max() < 5 / math.sqrt(error.shape[-1])
