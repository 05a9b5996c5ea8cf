"""Poles and kernel errors against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.analysis import Coefficients, circle_distance, kernel_errors, pole_displacement, step_grid
from imc_ssm.analysis.poles import PARTS
from imc_ssm.errors import ImcSsmError


def coefficients(seed: int, heads: int = 3, states: int = 4, radius: float = 0.99) -> Coefficients:
    rng = np.random.default_rng(seed)
    shape = (heads, states)
    a = rng.uniform(0.5, radius, shape) * np.exp(1j * rng.uniform(0, np.pi, shape))
    b, c = (rng.normal(size=shape) + 1j * rng.normal(size=shape) for _ in range(2))
    return Coefficients(a, b, c)


def moved(k: Coefficients, seed: int, by: float = 1e-3) -> Coefficients:
    rng = np.random.default_rng(seed)

    def shake(z: np.ndarray) -> np.ndarray:
        return z + by * (rng.normal(size=z.shape) + 1j * rng.normal(size=z.shape))

    return Coefficients(shake(k.a), shake(k.b), shake(k.c))


def kernel(a: np.ndarray, b: np.ndarray, c: np.ndarray, steps: int) -> np.ndarray:
    """k[t] = 2 Re(sum_n c a^t b), (head, steps), by the recurrence."""
    x, out = b.copy(), []
    for _ in range(steps):
        out.append(2 * (c * x).sum(-1).real)
        x = a * x
    return np.stack(out, axis=-1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 400))
def test_errors_by_the_definition(seed, steps):
    before = coefficients(seed)
    after = moved(before, seed + 1)
    grid = step_grid(steps)
    exact = kernel(before.a, before.b, before.c, steps)
    errors = kernel_errors(before, after, grid)
    assert errors.shape == (4, 3, len(grid))
    variants = {
        "a": (after.a, before.b, before.c),
        "b": (before.a, after.b, before.c),
        "c": (before.a, before.b, after.c),
        "all": (after.a, after.b, after.c),
    }
    for i, part in enumerate(PARTS):
        other = kernel(*variants[part], steps)
        for j, length in enumerate(grid):
            difference = np.linalg.norm((other - exact)[:, :length], axis=1)
            expected = difference / np.linalg.norm(exact[:, :length], axis=1)
            np.testing.assert_allclose(errors[i, :, j], expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("part", ["a", "b", "c"])
def test_what_is_not_rounded_has_no_error(part):
    before = coefficients(0)
    values = {"a": before.a, "b": before.b, "c": before.c}
    errors = dict(
        zip(
            PARTS,
            kernel_errors(before, Coefficients(**values | {part: values[part] * 1.001}), step_grid(3000)),
            strict=True,
        )
    )
    for other in "abc":
        if other == part:
            assert np.all(errors[other][:, 3:] > 1e-5)
        else:
            assert np.all(errors[other] == 0)
    np.testing.assert_allclose(errors["all"], errors[part], rtol=1e-9)
    assert np.all(kernel_errors(before, before, step_grid(3000)) == 0)


def test_one_head_that_is_not_rounded():
    before = coefficients(1)
    a = before.a.copy()
    a[1:] *= 0.999
    errors = kernel_errors(before, Coefficients(a, before.b, before.c), [1, 10, 1000])
    assert np.all(errors[:, 0] == 0)
    assert np.all(errors[0, 1:, 1:] > 0)


def test_a_single_pole_in_closed_form():
    # k = 2 a^t, k_q = 2 q^t: sums of geometric series
    a, q = 0.98, 0.97
    one = np.ones((1, 1), complex)
    steps = np.array([1, 2, 50, 5000])
    errors = kernel_errors(Coefficients(a * one, one, one), Coefficients(q * one, one, one), steps)

    def series(r: float) -> np.ndarray:
        return (1 - r**steps) / (1 - r)

    expected = np.sqrt((series(a * a) - 2 * series(a * q) + series(q * q)) / series(a * a))
    np.testing.assert_allclose(errors[0, 0], expected, rtol=1e-9, atol=1e-12)


def test_pieces_do_not_show(monkeypatch):
    from imc_ssm.analysis import poles

    before = coefficients(2, radius=0.9999)
    after = moved(before, 3)
    whole = kernel_errors(before, after, step_grid(900))
    monkeypatch.setattr(poles, "_CHUNK", 16)
    np.testing.assert_allclose(kernel_errors(before, after, step_grid(900)), whole, rtol=1e-9)


def test_a_kernel_beyond_float64_has_an_infinite_error():
    before = coefficients(4)
    errors = kernel_errors(before, Coefficients(before.a * 2.5, before.b, before.c), [1, 10, 100_000])
    assert errors[0, 0, 0] == 0
    assert np.all(np.isfinite(errors[:, :, 1]))
    assert np.all(np.isinf(errors[[0, 3], :, 2]))
    assert np.all(errors[1:3] == 0)


def test_a_kernel_of_zero():
    before = coefficients(5)
    silent = Coefficients(before.a, before.b * 0, before.c)
    errors = kernel_errors(silent, Coefficients(before.a, before.b, before.c), [1, 10])
    assert np.all(np.isinf(errors[1]))
    assert np.all(errors[[0, 2]] == 0)


def test_displacement_and_distance():
    assert pole_displacement([0.5 + 0.5j], [0.8 + 0.9j])[0] == pytest.approx(0.5)
    np.testing.assert_allclose(circle_distance([0.6 + 0.8j, 0.3, -1.5j]), [0, 0.7, -0.5], atol=1e-15)


@pytest.mark.parametrize("most", [1, 2, 3, 10, 784, 100_000])
def test_the_grid(most):
    grid = step_grid(most)
    assert (grid[0], grid[-1]) == (1, most)
    assert np.all(np.diff(grid) > 0)
    assert len(grid) <= 8 * np.log10(most) + 2


@pytest.mark.parametrize("steps", [[], [0, 1], [2, 2], [3, 1], [[1, 2]]])
def test_bad_steps(steps):
    before = coefficients(0)
    with pytest.raises(ImcSsmError, match="must rise"):
        kernel_errors(before, before, steps)


def test_bad_shapes_and_grids():
    before, other = coefficients(0), coefficients(0, states=5)
    with pytest.raises(ImcSsmError, match=r"\(3, 4\), \(3, 5\)"):
        kernel_errors(before, other, [1])
    with pytest.raises(ImcSsmError):
        step_grid(0)
