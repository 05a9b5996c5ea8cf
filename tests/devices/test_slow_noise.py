"""Slow noise as a function of time: spectra, correlations, dwell times, independence, purity.

Expectations are written out here: the covariance of a spectrum 1 / f is Ci(2 pi f_high tau) - Ci(2 pi f_low tau),
that of telegraph noise exp(-2 rate tau). Seeds are fixed; bounds are five standard errors, tests have p > 1e-5.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import sici

from imc_ssm.devices.processes import flicker, octaves, switching_rates, telegraph
from imc_ssm.devices.spectra import OCTAVES
from imc_ssm.errors import DesignError

N, P = 100_000, 1e-5
HIGH = 2e6
KEY = [20_261_126]


def covariance(lag: float, low: float, high: float) -> float:
    """Of the one-sided spectrum 1 / f from `low` to `high`."""
    if lag == 0:
        return math.log(high / low)
    return float(sici(2 * math.pi * high * lag)[1] - sici(2 * math.pi * low * lag)[1])


def assert_covariance(a: np.ndarray, b: np.ndarray, expected: float) -> None:
    product = a.astype(np.float64) * b
    error = product.std() / math.sqrt(product.size)
    assert abs(product.mean() - expected) < 5 * error, (
        f"{product.mean():.5g}, expected {expected:.5g} +- {error:.2g}"
    )


@pytest.mark.parametrize("low", [1 / 21, 1e-3, 1e-5 * math.pi])
@pytest.mark.parametrize("time", [0.0, 1.0, 86400.0, 3e8])
def test_flicker_is_normal_with_the_variance_of_its_spectrum(low: float, time: float) -> None:
    n = flicker(KEY, (N,), time, low, HIGH)[0]
    std = math.sqrt(math.log(HIGH / low))
    assert stats.kstest(n, "norm", (0, std)).pvalue > P
    bounds = stats.chi2.ppf([P / 2, 1 - P / 2], N) / N
    assert bounds[0] < np.square(n, dtype=np.float64).mean() / std**2 < bounds[1]


@pytest.mark.parametrize("lag", [2.0**-22, 1e-6, 1e-4, 1e-2, 1.0, 100.0])
@pytest.mark.parametrize("time", [1.0, 86400.0, 1e8])
def test_flicker_has_the_covariance_of_its_spectrum(time: float, lag: float) -> None:
    """At a lag of half a period of the fastest line ten years after programming too: the phase is exact there.

    `low` is a whole number of octaves below `high`: the covariance is that of the spectrum to the last digit.
    """
    low = HIGH / 2.0**28
    later = time + lag
    one, two = (flicker(KEY, (N,), t, low, HIGH)[0] for t in (time, later))
    assert_covariance(one, two, covariance(later - time, low, HIGH))


def test_flicker_has_its_spectrum() -> None:
    """Periodogram (Hann) of 1,000 devices in bands of an octave: level 1 in each, slope -1."""
    n, step = 1024, 1e-3
    low, high = 0.5, 256.0
    series = np.stack([flicker(KEY, (1000,), 7.0 + i * step, low, high)[0] for i in range(n)], axis=1)
    window = np.hanning(n)
    power = 2 * step * np.square(np.abs(np.fft.rfft(series * window))) / np.square(window).sum()
    f = np.fft.rfftfreq(n, step)
    level, error, middle = [], [], []
    for first in (8.0, 16.0, 32.0, 64.0, 128.0):
        inside = (f >= first) & (f < 2 * first)
        ratio = (power * f)[:, inside].mean(axis=1)
        level.append(ratio.mean())
        error.append(ratio.std() / math.sqrt(len(ratio)))
        middle.append(first * math.sqrt(2))
    z = (np.array(level) - 1) / np.array(error)
    assert np.abs(z).max() < 5, f"levels {np.round(level, 3)}, in standard errors {np.round(z, 1)}"
    slope, spread = np.polyfit(np.log(middle), np.log(level), 1)[0] - 1, max(error) / math.log(4)
    assert max(error) < 0.06
    assert abs(slope + 1) < 5 * spread
    above = power[:, f > 300].mean(axis=1)
    assert above.mean() < 1e-2 / 300  # nothing beyond the band


def test_a_reading_long_after_shares_what_is_slower() -> None:
    """Lines of periods longer than the first time are not there yet: low = 1 / t at each of both."""
    early, late = 64.0, 1024.0
    one, two = (flicker(KEY, (N,), t, 1 / t, 1024.0)[0] for t in (early, late))
    assert_covariance(one, two, covariance(late - early, 1 / early, 1024.0))


def test_bands_cut_the_variance() -> None:
    for cut in (1.0, 1000.0, math.pi):
        parts = [octaves(1e-3, HIGH, band) for band in ((0.0, cut), (cut, math.inf))]
        assert [np.square(p).sum() for p in parts] == pytest.approx([math.log(cut / 1e-3), math.log(HIGH / cut)])
    assert octaves(1.0, 2.0, (2.0, 4.0)).size == 0
    slow = flicker(KEY, (N,), 5.0, 1e-3, HIGH, (0.0, 1.0))[0]
    assert_covariance(slow, slow, math.log(1e3))
    assert_covariance(slow, flicker(KEY, (N,), 5.0 + 1e-3, 1e-3, HIGH, (0.0, 1.0))[0], math.log(1e3))
    assert not flicker(KEY, (3,), 5.0, 1e-3, 1.0, (2.0, 3.0)).any()
    with pytest.raises(DesignError, match=f"{OCTAVES} octaves"):
        flicker(KEY, (3,), 5.0, 1e-40, 1.0)


@pytest.mark.parametrize("rate", [0.01, 3.0, 1e6])
@pytest.mark.parametrize("time", [0.0, 1e3, 1e8])
def test_telegraph_has_an_exponential_autocorrelation(rate: float, time: float) -> None:
    """Also from one drawn state to the next, and beyond, and where rate x time has 14 digits."""
    own = np.full((1, N), rate, np.float32)
    exact = float(own[0, 0])
    one = telegraph(KEY, own, time)[0]
    assert set(np.unique(one)) == {-1.0, 1.0}
    assert abs(one.mean()) < 5 / math.sqrt(N)
    for periods in (0.03, 0.25, 1.0, 17.0):
        later = time + periods / rate
        assert_covariance(one, telegraph(KEY, own, later)[0], math.exp(-2 * exact * (later - time)))


def telegraphs(rate: float, step: float, count: int, devices: int) -> np.ndarray:
    own = np.full((1, devices), rate, np.float32)
    return np.stack([telegraph(KEY, own, 3.0 + i * step)[0] for i in range(count)], axis=1)


def test_telegraph_dwell_times_are_exponential() -> None:
    """Kolmogorov-Smirnov, p > 1e-4; what switches to and fro within a step of 0.01 / rate is not seen."""
    rate, step = 2.0, 0.005
    states = telegraphs(rate, step, 6000, 100)
    rng, dwell = np.random.default_rng(1), []
    for own in states:
        at = np.flatnonzero(np.diff(own))
        times = (at + rng.random(at.size)) * step
        dwell.append(np.diff(times)[times[:-1] < 15.0])  # of a window of 30 s: all of these end within
    found = np.concatenate(dwell)
    seen = (1 - math.exp(-2 * rate * step)) / 2 / step
    assert found.size > 2500
    assert stats.kstest(found, "expon", (0, 1 / seen)).pvalue > 1e-4
    first, second = np.concatenate([d[:-1] for d in dwell]), np.concatenate([d[1:] for d in dwell])
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(first.size)  # one says nothing about the next


def test_telegraph_has_a_lorentzian_spectrum() -> None:
    """Sampled every `step`, 2 step (1 - r^2) / (1 + r^2 - 2 r cos(2 pi f step)), r = exp(-2 rate step)."""
    rate, step, n = 1.0, 0.1, 1024
    series = telegraphs(rate, step, n, 500)
    window = np.hanning(n)
    power = 2 * step * np.square(np.abs(np.fft.rfft(series * window))) / np.square(window).sum()
    f, r = np.fft.rfftfreq(n, step), math.exp(-2 * rate * step)
    ratio = power / (2 * step * (1 - r**2) / (1 + r**2 - 2 * r * np.cos(2 * math.pi * f * step)))
    for low, high in ((0.05, 0.1), (0.1, 0.3), (0.3, 1.0), (1.0, 4.9)):  # corner: rate / pi
        inside = ratio[:, (f >= low) & (f < high)].mean(axis=1)
        error = inside.std() / math.sqrt(inside.size)
        assert abs(inside.mean() - 1) < 5 * error
        assert error < 0.03


def test_rates_are_log_uniform_and_shares_nest() -> None:
    few, many = (switching_rates(KEY, (N,), 1e-2, 1e4, share)[0] for share in (0.1, 0.4))
    for own, share in ((few, 0.1), (many, 0.4)):
        low, high = stats.binom.interval(1 - P, N, share)
        assert low <= np.count_nonzero(own) <= high
        logs = np.log10(own[own > 0])
        assert stats.kstest(logs, "uniform", (-2, 6)).pvalue > P
    np.testing.assert_array_equal(few[few > 0], many[few > 0])
    state = telegraph(KEY, few[None], 5.0)[0]
    np.testing.assert_array_equal(state == 0, few == 0)


def test_log_uniform_rates_are_1f_noise_together() -> None:
    """Their autocorrelation falls by the same amount in every decade between the rates."""
    rate = switching_rates(KEY, (N,), 1e-3, 1e3, 1.0)
    one = telegraph(KEY, rate, 10.0)[0]
    grid = np.geomspace(1e-3, 1e3, 2001)
    for lag in (1e-2, 1e-1, 1.0, 10.0):
        expected = float(np.exp(-2 * grid * lag).mean())
        assert_covariance(one, telegraph(KEY, rate, 10.0 + lag)[0], expected)


def noises() -> dict[str, Any]:
    """What makes (chips, n) of keys, at a time."""
    rate = {n: np.full((n, 20_000), 1.0, np.float32) for n in (1, 2, 3)}
    return {
        "flicker": lambda keys, time: flicker(keys, (20_000,), time, 1e-3, 1e3),
        "telegraph": lambda keys, time: telegraph(keys, rate[len(keys)], time),
    }


@pytest.mark.parametrize("kind", sorted(noises()))
def test_devices_and_keys_are_independent(kind: str) -> None:
    out = noises()[kind]([1, 2, 1 << 62], 9.0)
    pairs = [(out[i], out[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    pairs += [(out[0][gap:], out[0][:-gap]) for gap in (1, 2, 64, 256, 512)]
    for a, b in pairs:
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(len(a))
        assert abs(np.corrcoef(a**2 + a, b**2 + b)[0, 1]) < 5 / math.sqrt(len(a))


@pytest.mark.parametrize("kind", sorted(noises()))
def test_a_reading_depends_on_key_and_time_alone(kind: str) -> None:
    make = noises()[kind]
    times = (0.0, 1.0, 1.001, 3600.0, 86400.0)
    there = {time: make([5, 6], time) for time in times}
    for time in reversed(times):
        np.testing.assert_array_equal(make([5, 6], time), there[time])
        np.testing.assert_array_equal(make([6], time)[0], there[time][1])
    assert not np.array_equal(there[1.0], there[3600.0])
