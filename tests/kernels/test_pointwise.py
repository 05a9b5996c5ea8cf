"""The fused passes between two grids against the modules in double precision that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from imc_ssm.fixedpoint import Format
from imc_ssm.kernels import linear
from imc_ssm.layers import Gelu, Glu, Residual
from imc_ssm.layers.parts import Direct
from imc_ssm.quantization import Percentile, QuantizedGelu, QuantizedGlu, QuantizedSum, Quantizer, fake_quantize
from imc_ssm.quantization.kept import Kept
from imc_ssm.quantization.modules import ParameterGrid
from imc_ssm.quantization.rules import FormatSpec
from imc_ssm.quantization.sites import QuantizedDirect, Site


def calibrated(values: Tensor, bits: int, per_head: bool, symmetric: bool = False) -> Quantizer:
    """A quantizer over most of the range of values (..., channels): some saturate."""
    channels = values.shape[-1] if per_head else None
    quantizer = Quantizer(bits, channels, symmetric=symmetric, observer=Percentile(percent=98.0))
    quantizer.observe()
    quantizer.collect(values)
    quantizer.calibrate()
    return quantizer


def drawn(seed: int, *shape: int) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(y: Tensor, *inputs: Tensor) -> list[Tensor]:
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
    return list(torch.autograd.grad((y * weight).sum(), inputs))


def close(one: Tensor, two: Tensor) -> bool:
    """Gradients to single precision, masked in the same places."""
    return torch.equal(one == 0, two == 0) and bool((one - two).abs().max() <= 2e-6 * two.abs().max() + 1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 16), st.booleans(), st.booleans(), st.integers(0, 2), st.integers(0, 2**31), st.booleans())
def test_rounding(bits: int, symmetric: bool, per_head: bool, axis: int, seed: int, turned: bool) -> None:
    x = drawn(seed, 3, 5, 4)
    if turned:
        x = x.transpose(0, 2)
    size = x.shape[axis] if per_head else ()
    rng = np.random.default_rng(seed)
    fmt = Format.from_range(-rng.uniform(0.5, 4, size), rng.uniform(0.5, 4, size), bits, symmetric=symmetric)
    x.requires_grad_()
    shape = [1] * 3
    shape[axis] = -1
    parts = fmt.scale, fmt.low - fmt.zero_point, fmt.high - fmt.zero_point
    spread = [torch.from_numpy(np.asarray(v, np.float32)).reshape(shape if per_head else ()) for v in parts]
    scale, low, high = spread
    nearest = torch.round(x.detach() / scale)
    kept = nearest.clamp(low, high)
    exact = kept * scale + (x - x.detach()) * (nearest == kept)
    found = fake_quantize(x, fmt, axis)
    assert torch.equal(found, exact)
    assert torch.equal(gradients(found, x)[0], gradients(exact, x)[0])


@pytest.mark.parametrize("bits", [(8, 8), (4, 6), (12, 8)])
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_gelu(bits: tuple[int, int], per_head: bool, symmetric: bool) -> None:
    x = drawn(1, 6, 70, 5)
    source = calibrated(x, bits[0], per_head, symmetric)
    site = QuantizedGelu(Gelu(), source, calibrated(nn.functional.gelu(x), bits[1], per_head, symmetric))
    on_grid = source(x).detach().requires_grad_()
    found, exact = site(on_grid), Site.forward(site, on_grid)
    assert torch.equal(found, exact)
    assert close(gradients(found, on_grid)[0], gradients(exact, on_grid)[0])
    # Heads before time in memory, and one time step: the same numbers.
    stored = on_grid.detach().transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(site(stored), exact)
    assert torch.equal(site(on_grid[:, 3]), exact[:, 3])


@pytest.mark.parametrize("bits", [(8, 8), (4, 6), (12, 8)])
@pytest.mark.parametrize("per_head", [False, True])
def test_glu(bits: tuple[int, int], per_head: bool) -> None:
    x = drawn(2, 6, 70, 10)
    source = calibrated(x, bits[0], per_head)
    site = QuantizedGlu(Glu(dim=-1), source, calibrated(nn.functional.glu(x), bits[1], per_head))
    on_grid = source(x).detach().requires_grad_()
    found, real = site(on_grid), Site.forward(site, on_grid)
    # The integers' table of sigmoids has 16 bits: next to a tie a code may differ.
    assert near(found, real, site.output)
    passed, slope = (found != real).any(-1).logical_not(), gradients(found, on_grid)[0]
    assert close(slope[passed], gradients(real, on_grid)[0][passed])
    assert torch.equal(site(on_grid[:, 3]), found[:, 3])
    # Where tables would be too large: the same codes, and to single precision the same gradients.
    site._kept, site.MOST = Kept(), 1
    without = site(on_grid)
    assert torch.equal(without, found)
    assert torch.equal(site(on_grid[:, 3]), found[:, 3])
    assert (gradients(without, on_grid)[0] - slope).abs().max() <= 1e-5 * slope.abs().max()


def near(one: Tensor, two: Tensor, output: Quantizer) -> bool:
    """Values on a grid at most one code apart, and few of them."""
    off = ((one - two).abs() / output.scale).round()
    return bool(off.max() <= 1) and float((off > 0).float().mean()) < 0.01


@pytest.mark.parametrize("per_head", [False, True])
def test_residual(per_head: bool) -> None:
    x, y = (drawn(seed, 6, 70, 5) for seed in (3, 4))
    of_x, of_y = calibrated(x, 8, per_head), calibrated(y, 7, not per_head)
    site = QuantizedSum(Residual(), of_x, of_y, calibrated(x + y, 8, per_head))
    x, y = of_x(x).detach().requires_grad_(), of_y(y).detach().requires_grad_()
    found, real = site(x, y), site._computed(None, x, y)
    assert near(found, real, site.output)
    passed = found == real
    for one, two in zip(gradients(found, x, y), gradients(real, x, y), strict=True):
        assert torch.equal(one[passed], two[passed])
    # One that is not fixed: in floating point.
    of_x.dynamic = True
    assert torch.equal(site(x, y), real)


@pytest.mark.parametrize("per_head", [False, True])
def test_direct_term(per_head: bool) -> None:
    y, u = (drawn(seed, 4, 60, 5) for seed in (6, 7))
    of_y, of_u = calibrated(y, 8, per_head), calibrated(u, 8, not per_head)
    inner = Direct(5)
    output = calibrated(y + inner.D.detach() * u, 8, per_head)
    site = QuantizedDirect(inner, ParameterGrid(FormatSpec(bits=8)), of_y, of_u, output)
    y, u = of_y(y).detach().requires_grad_(), of_u(u).detach().requires_grad_()
    found, d = site(y, u), site.grid(inner.D)
    real = output(y + d * u)
    assert near(found, real, output)
    one, two = gradients(found, y, u, inner.D), gradients(real, y, u, inner.D)
    passed = found == real
    assert close(one[0][passed], two[0][passed])
    assert close(one[1][passed], two[1][passed])
    assert (one[2] - two[2]).abs().max() <= 0.1 * two[2].abs().max()
    assert torch.equal(site(y[:, 3], u[:, 3]), found[:, 3])


@pytest.mark.parametrize("size", [(1, 6), (16, 32), (64, 128)])
@pytest.mark.parametrize("bias", [False, True])
def test_matrix(size: tuple[int, int], bias: bool) -> None:
    x, w = drawn(9, 3, 40, size[0]).requires_grad_(), drawn(10, size[1], size[0]).requires_grad_()
    b = drawn(11, size[1]).requires_grad_() if bias else None
    found = linear(x, w, b)
    wide = [None if z is None else z.detach().double().requires_grad_() for z in (x, w, b)]
    exact = nn.functional.linear(*wide)
    # Double precision differs between two orders of a sum by far less than single precision resolves.
    assert (found - exact).abs().max() <= 6e-8 * exact.abs().max()
    leaves = [z for z in (x, w, b) if z is not None]
    for one, two in zip(
        gradients(found, *leaves), gradients(exact, *(z for z in wide if z is not None)), strict=True
    ):
        assert (one - two).abs().max() <= 1e-5 * two.abs().max()


def test_a_row_does_not_see_the_others() -> None:
    x, w, b = drawn(12, 300, 16), drawn(13, 32, 16), drawn(14, 32)
    whole = linear(x, w, b)
    assert torch.equal(torch.cat([linear(x[i : i + 1], w, b) for i in range(300)]), whole)


def test_tables_follow_their_formats() -> None:
    x = drawn(15, 2, 10, 3)
    source, output = calibrated(x, 8, True), calibrated(nn.functional.gelu(x), 8, True)
    site = QuantizedGelu(Gelu(), source, output)
    before = site(source(x))
    finer = calibrated(nn.functional.gelu(x), 4, True)
    output.load_state_dict(finer.state_dict())
    after = site(source(x))
    assert not torch.equal(after, before)
    assert torch.equal(after, Site.forward(site, source(x)))


def test_a_value_beyond_the_grid_reads_the_end_of_the_table() -> None:
    x = drawn(16, 2, 10, 3)
    source = calibrated(x, 8, True)
    site = QuantizedGelu(Gelu(), source, calibrated(nn.functional.gelu(x), 8, True))
    far = torch.full((1, 1, 3), 1e6)
    assert torch.equal(site(far), site(source(far)))
