"""Matrices and means: one order of the sum, one pass with the rounding, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from imc_ssm.fixedpoint import Format
from imc_ssm.kernels import linear, mean
from imc_ssm.layers import MeanPool, padding_mask
from imc_ssm.quantization import fake_quantize


def drawn(seed: int, *shape: int) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 3),
    st.integers(1, 300),
    st.integers(1, 9),
    st.integers(1, 9),
    st.booleans(),
)
def test_sums_take_the_inputs_in_order(
    seed: int, batch: int, time: int, inputs: int, outputs: int, biased: bool
) -> None:
    x, w, b = drawn(seed, batch, time, inputs), drawn(seed + 1, outputs, inputs), drawn(seed + 2, outputs)
    total = b.double().expand(batch, time, outputs) if biased else torch.zeros(batch, time, outputs).double()
    for i in range(inputs):
        total = total + x[..., i, None].double() * w[:, i].double()
    found = linear(x, w, b if biased else None)
    assert torch.equal(found, total.float())
    # As vectors, and time step by time step: the same numbers.
    assert torch.equal(linear(x.reshape(-1, inputs), w, b if biased else None), found.reshape(-1, outputs))
    assert torch.equal(linear(x[:, 0], w, b if biased else None), found[:, 0])


@pytest.mark.parametrize("size", [(1, 16), (16, 32), (5, 7), (130, 140)])
@pytest.mark.parametrize("per_row", [False, True])
def test_product_and_rounding_in_one_pass(size: tuple[int, int], per_row: bool) -> None:
    x, w = drawn(1, 3, 70, size[0]).requires_grad_(), drawn(2, size[1], size[0]).requires_grad_()
    b = drawn(3, size[1]).requires_grad_()
    ends = np.random.default_rng(0).uniform(2, 9, size[1] if per_row else ())
    fmt = Format.from_range(-ends, ends, 6)
    fused, apart = linear(x, w, b, fmt), fake_quantize(linear(x, w, b), fmt, -1)
    assert torch.equal(fused, apart)
    nearest = np.rint(linear(x, w, b).detach().numpy() / fmt.scale) + fmt.zero_point
    inside = torch.from_numpy((nearest >= fmt.low) & (nearest <= fmt.high))
    assert inside.any()
    assert not inside.all()
    weight = drawn(4, *fused.shape)
    one, two = (torch.autograd.grad((y * weight).sum(), (x, w, b)) for y in (fused, apart))
    exact = (weight * inside).double().flatten(0, 1)
    assert (one[1] - exact.T @ x.double().flatten(0, 1)).abs().max() <= 1e-5 * one[1].abs().max()
    for f, a in zip(one, two, strict=True):
        assert (f - a).abs().max() <= 1e-5 * a.abs().max()


@pytest.mark.parametrize("seen", [False, True])
def test_mean(seen: bool) -> None:
    x = drawn(5, 4, 70, 3).requires_grad_()
    lengths = torch.tensor([70, 1, 33, 8]) if seen else None
    found = mean(x, lengths)
    exact = MeanPool()(x.double(), padding_mask(lengths, 70))
    assert found.dtype == torch.float64
    assert (found - exact).abs().max() <= 1e-15 * 70
    weight = drawn(6, 4, 3).double()
    one, two = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, exact))
    assert torch.equal(one == 0, two == 0)
    assert (one - two).abs().max() <= 1e-6 * two.abs().max()


def test_a_mean_of_grid_values_is_exact() -> None:
    scale = np.float32(0.00137)
    codes = torch.randint(-32768, 32768, (2, 5000, 4), generator=torch.Generator().manual_seed(0))
    x = codes.float() * float(scale)
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(1))
    whole = torch.tensor(
        [[sum(map(float, column)) / 5000 for column in one.T] for one in x.double().numpy()], dtype=torch.float64
    )
    assert torch.equal(mean(x, None), whole)
    assert torch.equal(mean(x[:, order], None), whole)
