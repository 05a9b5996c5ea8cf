"""Noise in the loop: the same numbers on every backend, of the size that is asked for, wherever a run is cut."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scan_cases import formats_for, operands
from torch import Tensor

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Format, ScanFormats
from imc_ssm.kernels import Noise, diagonal_scan

NOISE = Noise(seed=2**63 + 11, state=0.2, sample=5, time=900)


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact.double()).abs().max() / exact.abs().max())


@pytest.mark.parametrize("states", [1, 4])
def test_full_precision_agrees(states: int) -> None:
    u, a, b, c = operands(1, 19, 3, states, 300)
    found, last = diagonal_scan(u, a, b, c, noise=NOISE, return_state=True, backend="cpu")
    wide = [u.double(), *(z.to(torch.complex128) for z in (a, b, c))]
    exact, end = diagonal_scan(*wide, noise=NOISE, return_state=True)
    assert relative(found, exact) < 1e-6
    assert relative(torch.view_as_real(last), torch.view_as_real(end)) < 1e-6
    assert relative(diagonal_scan(u, a, b, c), exact) > 0.05


@pytest.mark.parametrize("order", ["joint", "separate"])
def test_integer_codes_are_equal(order: str) -> None:
    u, a, b, c = operands(2, 19, 3, 4, 60)
    formats = formats_for(u, a, b, c, 8, rounding_placement=order)
    results = [
        diagonal_scan(u, a, b, c, formats=formats, noise=NOISE, return_state=True, backend=backend)
        for backend in ("reference", "cpu")
    ]
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("integer", [False, True])
def test_gradients_are_those_of_the_disturbed_states(integer: bool) -> None:
    u, a, b, c = operands(3, 20, 2, 3, 40, radius=0.9)
    # The noise takes states and outputs beyond the ranges they had without it.
    formats = formats_for(u, a, b, c, 16, shrink={"x": 2.0, "y": 2.0}) if integer else None
    weight = torch.randn(u.shape, generator=torch.Generator().manual_seed(1))

    def gradients(dtype: torch.dtype, backend: str, fmt: ScanFormats | None) -> list[Tensor]:
        z = torch.complex64 if dtype == torch.float32 else torch.complex128
        leaves = [x.to(dtype if not x.is_complex() else z).clone().requires_grad_() for x in (u, a, b, c)]
        (diagonal_scan(*leaves, formats=fmt, noise=NOISE, backend=backend) * weight).sum().backward()
        return [leaf.grad for leaf in leaves if leaf.grad is not None]

    # 16-bit codes resolve the full-precision recurrence to about 1e-4.
    limit = 2e-3 if integer else 1e-5
    exact = gradients(torch.float64, "reference", None)
    for one, two in zip(gradients(torch.float32, "cpu", formats), exact, strict=True):
        assert relative(torch.view_as_real(one.cfloat()), torch.view_as_real(two.cfloat())) < limit


def test_cutting_batch_and_sequence_changes_nothing() -> None:
    u, a, b, c = operands(4, 35, 2, 3, 90)
    formats = formats_for(u, a, b, c, 8)
    whole = diagonal_scan(u, a, b, c, formats=formats, noise=NOISE)
    for first, last in ((0, 3), (3, 20), (20, 35)):
        state, noise, parts = None, replace(NOISE, sample=NOISE.sample + first), []
        for piece in u[first:last].split([1, 50, 39], dim=-1):
            y, state = diagonal_scan(piece, a, b, c, formats=formats, x0=state, return_state=True, noise=noise)
            parts.append(y)
            noise = noise.later(piece.shape[-1])
        assert torch.equal(torch.cat(parts, dim=-1), whole[first:last])


@pytest.mark.parametrize("integer", [False, True])
def test_a_silent_state_has_the_variance_of_its_noise(integer: bool) -> None:
    # No input: Var x = sigma^2 / (1 - |a|^2) on each part, whatever the angle of a.
    sigma, pole = 0.05, 0.8 * np.exp(0.7j)
    heads, states, batch = 4, 8, 64
    a = torch.full((heads, states), pole, dtype=torch.complex64)
    u = torch.zeros(batch, heads, 60)
    formats = None
    if integer:
        unit = Format.from_range(-1.0, 1.0, 12)
        formats = ScanFormats(unit, unit, Format.from_range(-1.0, 1.0, 12))
    noise = Noise(3, state=sigma)
    _, last = diagonal_scan(u, a, formats=formats, noise=noise, return_state=True)
    x = torch.view_as_real(last).numpy() if formats is None else formats.x.dequantize(last.numpy(), 1)
    n = x.size
    expected = sigma**2 / (1 - abs(pole) ** 2)
    if formats is not None:  # the rounding of each step adds its own
        expected += float(formats.x.scale) ** 2 / 12 / (1 - abs(pole) ** 2)
    # 4.5 standard errors of a variance of n independent Gaussian numbers, and of their mean.
    assert abs(x.var() / expected - 1) < 4.5 * np.sqrt(2 / n)
    assert abs(x.mean()) < 4.5 * np.sqrt(expected / n)


def test_poles_are_disturbed_once_relative_to_their_size() -> None:
    heads, states = 64, 64
    a = torch.polar(torch.rand(heads, states) * 0.9 + 0.05, 6.28 * torch.rand(heads, states))
    u = torch.zeros(1, heads, 2)
    u[..., 0] = 1.0  # x[1] = a'
    noise = Noise(8, poles=0.03)
    _, last = diagonal_scan(u, a, noise=noise, return_state=True)
    error = torch.view_as_real((last[0] - a) / a.abs()).numpy() / 0.03
    n = error.size
    assert abs(error.std() - 1) < 4.5 / np.sqrt(2 * n)
    assert abs(error.mean()) < 4.5 / np.sqrt(n)
    assert np.abs(np.corrcoef(error[..., 0].ravel(), error[..., 1].ravel())[0, 1]) < 4.5 / np.sqrt(n / 2)
    # The same poles in every call of a seed, whatever the batch and the step.
    for other in (replace(noise, sample=7), replace(noise, time=3)):
        assert torch.equal(diagonal_scan(u, a, noise=other, return_state=True)[1], last)
    assert not torch.equal(diagonal_scan(u, a, noise=replace(noise, seed=9), return_state=True)[1], last)


def test_the_gradient_belongs_to_the_clean_poles() -> None:
    u, a, b, c = operands(5, 3, 2, 4, 20)
    a.requires_grad_()
    noise = Noise(8, poles=0.05)
    diagonal_scan(u, a, b, c, noise=noise).sum().backward()
    xi = torch.view_as_complex(torch.from_numpy(noise.of_poles(*a.shape))).to(a.dtype)
    moved = (a + 0.05 * a.abs() * xi).detach().requires_grad_()
    diagonal_scan(u, moved, b, c).sum().backward()
    assert a.grad is not None
    assert torch.equal(a.grad, moved.grad)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("sample", "time"), [(2**32 - 3, 0), (0, 2**32 - 5)])
def test_counters_end(backend: str, sample: int, time: int) -> None:
    u, a, b, c = operands(6, 4, 2, 3, 6)
    with pytest.raises(FormatError, match="counters end"):
        diagonal_scan(u, a, b, c, noise=Noise(1, state=0.1, sample=sample, time=time), backend=backend)
