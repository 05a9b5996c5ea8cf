"""Guaranteed ranges: closed forms, the worst input, and the integer unit that keeps them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.analysis import impulse_norms, rounding_gains, word_length
from imc_ssm.errors import ImcSsmError


def run(a: complex, b: complex, u: np.ndarray) -> np.ndarray:
    """The state after every step, by the definition."""
    x, out = 0j, []
    for value in u:
        x = a * x + b * value
        out.append(x)
    return np.array(out)


def worst(a: complex, b: complex, part: str, steps: int) -> np.ndarray:
    """The input of size 1 that drives a part of the state as far as it goes in so many steps."""
    response = getattr(b * a ** np.arange(steps), part)
    return np.where(response >= 0, 1.0, -1.0)[::-1]


@pytest.mark.parametrize("a", [0.0, 0.3, 0.9, 0.9995])
def test_a_real_positive_pole(a):
    norms, modulus = impulse_norms(a, 2.0)
    assert norms[0] == pytest.approx(2 / (1 - a), rel=1e-9)
    assert norms[0] >= 2 / (1 - a) * (1 - 1e-12)
    assert norms[1] == 0
    assert modulus == 2 / (1 - a)


def test_other_closed_forms():
    # a = i r: real parts are b (1, 0, r^2, ...), imaginary parts b (r, 0, r^3, ...)
    norms, _ = impulse_norms(0.8j, 1.0, tolerance=1e-12)
    np.testing.assert_allclose(norms, [1 / (1 - 0.64), 0.8 / (1 - 0.64)], rtol=1e-10)
    norms, _ = impulse_norms(-0.8, 1 - 3j, tolerance=1e-12)
    np.testing.assert_allclose(norms, [5, 15], rtol=1e-9)


@pytest.mark.parametrize("a", [1.0 + 0j, 1j, 0.6 + 0.8j, 1.05 * np.exp(0.3j), 1e200j])
def test_no_bound_on_or_outside_the_unit_circle(a):
    norms, modulus = impulse_norms(a, 0.01 + 0.02j)
    assert np.all(np.isinf(norms))
    assert np.isinf(modulus)
    assert np.isinf(rounding_gains(a))


def test_a_part_that_nothing_drives_stays_zero():
    norms, modulus = impulse_norms([1.5, 1.5, 0.5], [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(norms, [[np.inf, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(modulus, [np.inf, 0, 0])


def test_nan_stays_nan_and_touches_nothing_else():
    norms, modulus = impulse_norms([np.nan, 0.5], [1.0, 1.0])
    assert np.all(np.isnan(norms[0]))
    assert np.isnan(modulus[0])
    np.testing.assert_allclose(norms[1], [2, 0])


poles = st.builds(
    lambda radius, angle: complex(radius * np.exp(1j * angle)), st.floats(0, 0.995), st.floats(-math.pi, math.pi)
)
gains = st.complex_numbers(min_magnitude=1e-3, max_magnitude=10, allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(a=poles, b=gains, seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 300))
def test_random_inputs_stay_below_the_bound(a, b, seed, steps):
    rng = np.random.default_rng(seed)
    u = rng.uniform(-1, 1, steps) if seed % 2 else np.sign(rng.uniform(-1, 1, steps))
    x = run(a, b, u)
    (real, imaginary), modulus = impulse_norms(a, b)
    assert np.abs(x.real).max() <= real * (1 + 1e-12)
    assert np.abs(x.imag).max() <= imaginary * (1 + 1e-12)
    assert max(real, imaginary) <= modulus


@settings(max_examples=40, deadline=None)
@given(a=poles, b=gains, part=st.sampled_from(["real", "imag"]))
def test_the_worst_input_reaches_the_bound(a, b, part):
    steps = math.ceil(math.log(1e-12) / math.log(max(abs(a), 1e-6))) + 1
    reached = abs(getattr(run(a, b, worst(a, b, part, steps))[-1], part))
    norms, modulus = impulse_norms(a, b, tolerance=1e-9)
    bound = norms[0 if part == "real" else 1]
    assert reached <= bound * (1 + 1e-12)
    assert bound - reached <= 2e-9 * modulus


def test_few_steps_leave_a_wider_bound_that_still_holds():
    a, b = 0.999 * np.exp(0.1j), 1.0
    exact = impulse_norms(a, b, tolerance=1e-10)[0]
    short, modulus = impulse_norms(a, b, most=100)
    assert np.all(short > exact)
    assert np.all(short <= modulus)
    loose = impulse_norms(a, b, tolerance=0.1)[0]
    assert np.all(loose >= exact)
    assert np.all(loose - exact <= 0.1 * modulus)


def test_many_states_of_different_memory_at_once():
    rng = np.random.default_rng(0)
    a = (1 - np.logspace(-4, -0.3, 700)) * np.exp(1j * rng.uniform(0, np.pi, 700))
    b = rng.normal(size=700) + 1j * rng.normal(size=700)
    together, _ = impulse_norms(a.reshape(70, 10), b.reshape(70, 10))
    one = np.stack([impulse_norms(p, q)[0] for p, q in zip(a[::100], b[::100], strict=True)])
    np.testing.assert_allclose(together.reshape(700, 2)[::100], one, rtol=2e-4)


@settings(max_examples=40, deadline=None)
@given(a=poles, seed=st.integers(0, 2**32 - 1))
def test_rounding_stays_below_its_bound(a, seed):
    rng = np.random.default_rng(seed)
    x, reach = 0j, rounding_gains(a)
    for _ in range(200):
        x = a * x + complex(*rng.choice([-1.0, 1.0], 2))
        assert max(abs(x.real), abs(x.imag)) <= reach * (1 + 1e-12)


@pytest.mark.parametrize(
    ("bound", "resolution", "bits"),
    [
        (0.0, 1.0, 1),  # never leaves the code 0
        (0.49, 1.0, 1),
        (1.0, 1.0, 2),  # codes -1, 0, 1
        (1.49, 1.0, 2),
        (1.5, 1.0, 3),
        (127.0, 1.0, 8),
        (127.5, 1.0, 9),  # 128 is not an 8-bit code
        (1.0, 2.0**-15, 17),
        (np.inf, 0.1, np.inf),
        (np.nan, 0.1, np.nan),
        (1.0, np.nan, np.nan),
    ],
)
def test_word_lengths(bound, resolution, bits):
    np.testing.assert_equal(float(word_length(bound, resolution)), float(bits))


@given(bound=st.floats(0, 1e6), resolution=st.floats(1e-6, 1e3))
def test_the_word_holds_the_bound_and_one_bit_less_does_not(bound, resolution):
    bits = int(word_length(bound, resolution))
    code = math.floor(bound / resolution + 0.5)
    assert code <= 2 ** (bits - 1) - 1
    assert bits == 1 or code > 2 ** (bits - 2) - 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: impulse_norms(0.5, 1.0, tolerance=0.0),
        lambda: impulse_norms(0.5, 1.0, tolerance=1.0),
        lambda: impulse_norms(0.5, 1.0, most=0),
        lambda: word_length(-1.0, 1.0),
        lambda: word_length(1.0, 0.0),
        lambda: word_length(1.0, np.inf),
    ],
)
def test_bad_arguments(call):
    with pytest.raises(ImcSsmError):
        call()
