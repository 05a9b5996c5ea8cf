"""Percentiles of the states, against NumPy on all of them at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.analysis import RunningPercentile, state_magnitudes
from imc_ssm.errors import ImcSsmError


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(1, 400),
    percentile=st.one_of(st.floats(1, 100), st.sampled_from([50.0, 90.0, 99.0, 99.9, 99.999, 100.0])),
    pieces=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
def test_the_percentile_of_all(samples, percentile, pieces, seed):
    values = np.abs(np.random.default_rng(seed).normal(size=(3, samples))).astype(np.float32)
    running = RunningPercentile(3, samples, percentile)
    for part in np.array_split(values, pieces, axis=1):
        running.add(part)
    high, largest = running.value()
    np.testing.assert_array_equal(largest, values.max(1))
    below = np.mean(values <= high[:, None].astype(np.float32), axis=1)
    assert np.all(below * 100 >= percentile - 1e-6)  # enough of them ...
    less = np.mean(values < high[:, None].astype(np.float32), axis=1)
    assert np.all(less * 100 < percentile)  # ... and no smaller one would do


@pytest.mark.parametrize(
    ("percentile", "rank"), [(50.0, 500), (99.0, 990), (99.9, 999), (99.95, 1000), (100.0, 1000)]
)
def test_ranks_of_a_thousand(percentile, rank):
    values = np.random.default_rng(0).exponential(size=(4, 1000)).astype(np.float32)
    running = RunningPercentile(4, 1000, percentile)
    running.add(values)
    np.testing.assert_array_equal(running.value()[0], np.sort(values, axis=1)[:, rank - 1])


def test_only_the_largest_are_kept():
    running = RunningPercentile(2, 100_000, 99.9)
    for _ in range(10):
        running.add(np.random.default_rng(0).random((2, 10_000), np.float32))
    assert running._top.shape == (2, 101)


def test_bad_percentiles():
    for percentile, samples in ((0.0, 5), (101.0, 5), (99.0, 0)):
        with pytest.raises(ImcSsmError, match="percentile"):
            RunningPercentile(1, samples, percentile)
    with pytest.raises(ImcSsmError, match="higher percentile or fewer sequences"):
        RunningPercentile(32768, 10**7, 90.0)
    early = RunningPercentile(1, 5, 99.0)
    early.add(np.zeros((1, 4), np.float32))
    with pytest.raises(ImcSsmError, match="4 of 5"):
        early.value()


@pytest.mark.parametrize("buffer", [2**21, 40])
def test_states_by_the_definition(monkeypatch, buffer):
    from imc_ssm.analysis import states

    monkeypatch.setattr(states, "_BUFFER", buffer)
    rng = np.random.default_rng(0)
    u = rng.normal(size=(3, 2, 20)).astype(np.float32)
    a = (0.9 * np.exp(1j * rng.uniform(0, 3, (2, 4)))).astype(np.complex64)
    b = (rng.normal(size=(2, 4)) + 1j).astype(np.complex64)
    lengths = np.array([20, 7, 1])
    seen = list(state_magnitudes(*map(torch.from_numpy, (u, a, b)), torch.from_numpy(lengths)))
    assert (len(seen) == 1) == (buffer > 1000)
    assert sum(valid for _, valid in seen) == lengths.sum()
    got = np.sort(np.concatenate([values for values, _ in seen], axis=1), axis=1)[:, -lengths.sum() :]
    x, expected = np.zeros((3, 2, 4), complex), []
    for t in range(20):
        x = a * x + b * u[..., t, None]
        parts = np.abs(np.stack([x.real, x.imag], -1)).reshape(3, 16)
        expected += [parts[i] for i in range(3) if t < lengths[i]]
    np.testing.assert_allclose(got, np.sort(np.array(expected).T, axis=1), rtol=2e-5, atol=1e-6)
