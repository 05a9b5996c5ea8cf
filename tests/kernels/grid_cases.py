"""Formats, codes and what lies on grids, for the tests of passes between two grids."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from imc_ssm.fixedpoint import Format, broadcast_heads
from imc_ssm.kernels import using

Ints = np.ndarray


@st.composite
def formats(draw: st.DrawFn, channels: int, least: int = 2, most: int = 16) -> Format:
    """Per channel or for all; any zero point, some clipped; any steps, or powers of two, which make ties."""
    bits = draw(st.integers(least, most))
    shape = draw(st.sampled_from([(), (channels,)]))
    size = channels if shape else 1
    exponents = st.integers(-6, 2) if draw(st.booleans()) else st.floats(-6, 2)
    scale = np.array([2.0 ** draw(exponents) for _ in range(size)], np.float32).reshape(shape)
    symmetric, top = draw(st.booleans()), 2 ** (bits - 1)
    zero = [0 if symmetric else draw(st.integers(-top, top - 1)) for _ in range(size)]
    clip = draw(st.sampled_from([None, None, 5.0]))
    return Format(bits, scale, np.array(zero).reshape(shape), symmetric, clip)


def drawn(fmt: Format, shape: tuple[int, ...], seed: int, axis: int = -1) -> Ints:
    """Codes in use, a fifth of them at either end; channels on `axis`."""
    rng = np.random.default_rng(seed)
    low, high = (np.broadcast_to(broadcast_heads(v, len(shape), axis), shape) for v in (fmt.low, fmt.high))
    codes, where = rng.integers(low, high + 1), rng.random(shape)
    return np.where(where < 0.2, low, np.where(where > 0.8, high, codes))


def values(fmt: Format, codes: Ints, axis: int = -1) -> Tensor:
    """What the codes mean, as activations are held: single precision."""
    scale, zero = (broadcast_heads(v, codes.ndim, axis) for v in (fmt.scale, fmt.zero_point))
    return torch.from_numpy(np.asarray((codes - zero).astype(np.float32) * scale, np.float32))


def codes_of(fmt: Format, x: Tensor, axis: int = -1) -> Ints:
    """Codes of values on the grid; that they are on it to the bit is asserted."""
    scale, zero = (broadcast_heads(v, x.ndim, axis) for v in (fmt.scale, fmt.zero_point))
    codes = np.rint(x.detach().numpy() / scale).astype(np.int64) + zero
    assert torch.equal(values(fmt, codes, axis), x.detach())
    return codes


def everywhere(function: object, *inputs: Tensor) -> list[Tensor]:
    """Results of a kernel and of its reference, with and without a gradient; the gradients agree as well."""
    found, slopes = [], []
    for implementation in ("auto", "reference"):
        leaves = [x.clone().requires_grad_() for x in inputs]
        with using(implementation):  # type: ignore[arg-type]
            y = function(*leaves)  # type: ignore[operator]
            weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
            (y * weight).sum().backward()
            found.append(y.detach())
            slopes.append([z.grad for z in leaves])
            with torch.no_grad():
                found.append(function(*leaves))  # type: ignore[operator]
    for one, two in zip(*slopes, strict=True):
        assert (one - two).abs().max() <= 1e-5 * two.abs().max()
        assert torch.equal(one == 0, two == 0)
    return found
