"""Noise along a stream of products: its correlation from product to product, and that it is one function of time.

Inputs of one row at 1 V: an output is the noise of one device. Bounds are five standard errors; seeds are fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import sici

from imc_ssm.devices.moving import add_flicker, add_telegraph

Make = Callable[[np.ndarray, np.ndarray], np.ndarray]
STEP, DEVICES, LENGTH = 1e-6, 600, 1024
BAND = (1 / (LENGTH * STEP), 1 / (2 * STEP))


def start(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def flickers(drive: np.ndarray, starts: np.ndarray, outputs: int = DEVICES, key: int = 9) -> np.ndarray:
    out = np.zeros((*drive.shape[:2], outputs), np.float32)
    add_flicker(out, drive, np.ones((drive.shape[2], outputs), np.float32), key, BAND, STEP, starts)
    return out


def telegraphs(
    drive: np.ndarray, starts: np.ndarray, rate: float, devices: int = DEVICES, key: int = 9
) -> np.ndarray:
    out, number = np.zeros((*drive.shape[:2], devices), np.float32), np.arange(devices)
    places = (number, number % drive.shape[2], number)
    rates = np.full(devices, rate, np.float32)
    add_telegraph(out, drive, places, np.ones(devices, np.float32), rates, key, STEP, starts)
    return out


def ones(streams: int = 1, products: int = LENGTH, inputs: int = 1) -> np.ndarray:
    return np.ones((streams, products, inputs), np.float32)


def assert_covariances(series: np.ndarray, expected: dict[int, float]) -> None:
    """series (products, devices); a device's own mean over time says how sure its covariance is."""
    for lag, value in expected.items():
        own = (series[: len(series) - lag] * series[lag:]).astype(np.float64).mean(axis=0)
        error = own.std() / math.sqrt(own.size)
        assert abs(own.mean() - value) < 5 * error, (
            f"lag {lag}: {own.mean():.4g}, expected {value:.4g} +- {error:.2g}"
        )


def test_flicker_along_a_stream() -> None:
    """A whole number of octaves: the covariance is Ci(2 pi f_high tau) - Ci(2 pi f_low tau), at any lag."""
    series = flickers(ones(), start(0))[0]
    lags = (1, 2, 3, 10, 100, 500)
    expected = {n: float(sici(math.pi * n)[1] - sici(2 * math.pi * n / LENGTH)[1]) for n in lags}
    assert_covariances(series, {0: math.log(LENGTH / 2), **expected})


@pytest.mark.parametrize("rate", [3e3, 1e5, 5e6])
def test_telegraph_noise_along_a_stream(rate: float) -> None:
    """exp(-2 rate tau), from product to product and across the places where states are drawn anew."""
    series = telegraphs(ones(), start(0), rate)[0]
    assert set(np.unique(series)) == {-1.0, 1.0}
    exact = float(np.float32(rate))
    assert_covariances(series, {n: math.exp(-2 * exact * n * STEP) for n in (1, 2, 10, 100, 300)})
    assert_covariances(series[100:160], {n: math.exp(-2 * exact * n * STEP) for n in (1, 10, 40)})


@pytest.mark.parametrize("make", [flickers, lambda drive, starts: telegraphs(drive, starts, 2e4)])
def test_a_product_sees_the_same_however_many_are_computed(make: Make) -> None:
    drive = np.random.default_rng(0).standard_normal((1, 700, 3)).astype(np.float32)
    whole = make(drive, start(5000))
    for first, last in ((0, 1), (1, 130), (130, 700), (699, 700)):
        part = make(np.ascontiguousarray(drive[:, first:last]), start(5000 + first))
        np.testing.assert_array_equal(part, whole[:, first:last])
    both = make(np.ascontiguousarray(np.concatenate([drive[:, 300:500], drive[:, :200]])), start(5300, 5000))
    np.testing.assert_array_equal(both[1], whole[0, :200])
    np.testing.assert_array_equal(both[0], whole[0, 300:500])


@pytest.mark.parametrize("make", [flickers, lambda drive, starts: telegraphs(drive, starts, 2e4)])
def test_noise_of_inputs_adds_up(make: Make) -> None:
    drive = np.random.default_rng(1).standard_normal((1, 50, 4)).astype(np.float32)
    parts = []
    for i in range(4):
        alone = np.zeros_like(drive)
        alone[..., i] = drive[..., i]
        parts.append(make(alone, start(0)))
        assert parts[-1].any()
    np.testing.assert_allclose(make(drive, start(0)), np.sum(parts, axis=0), rtol=1e-3, atol=1e-4)


def test_devices_are_independent_and_a_number_is_one_device() -> None:
    for series in (flickers(ones(), start(0))[0], telegraphs(ones(), start(0), 1e5)[0]):
        for gap in (1, 8, 64):
            own = (series[:, gap:] * series[:, :-gap]).astype(np.float64).mean(axis=0)
            assert abs(own.mean()) < 5 * own.std() / math.sqrt(own.size)
    one, other = (flickers(ones(), start(0), key=key)[0] for key in (9, 10))
    own = (one * other).astype(np.float64).mean(axis=0)
    assert abs(own.mean()) < 5 * own.std() / math.sqrt(own.size)
    out = np.zeros((1, 50, 2), np.float32)
    places = (np.array([7, 7]), np.array([0, 0]), np.array([0, 1]))
    add_telegraph(out, ones(1, 50), places, np.ones(2, np.float32), np.full(2, 1e5, np.float32), 3, STEP, start(0))
    np.testing.assert_array_equal(out[..., 0], out[..., 1])
