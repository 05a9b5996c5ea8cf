"""Integer gradients against an emulation of straight-through estimation in PyTorch's autograd.

The emulation is written from the definition alone: real and imaginary parts apart, double precision, every
rounding a function that returns the exact integer result forwards and passes the gradient where the word did
not saturate backwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scan_cases import formats_for, operands
from torch import Tensor

from imc_ssm.fixedpoint import Format, ScanFormats, broadcast_heads, plan_scan, round_shift
from imc_ssm.kernels import diagonal_scan


class Rounded(torch.autograd.Function):
    """Forward: `value`, whatever the real number was. Backward: the gradient where `free`, clamped."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, value: Tensor, free: Tensor, bound: float) -> Tensor:
        ctx.free, ctx.bound = free, bound
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return (grads[0] * ctx.free).clamp(-ctx.bound, ctx.bound), None, None, None


def tensor(x: Any) -> Tensor:
    return torch.from_numpy(np.array(x))


def on_grid(value: Tensor, fmt: Format, axis: int) -> tuple[Tensor, Tensor]:
    """Centred codes (int64) and the straight-through real value (float64) of an operand."""

    def on_axis(x: Any) -> Tensor:
        return tensor(broadcast_heads(np.asarray(x), value.ndim, axis))

    scale, zero = on_axis(fmt.scale.astype(np.float64)), on_axis(fmt.zero_point)
    wanted = torch.round(value.detach() / scale) + zero  # torch rounds half to even
    codes = wanted.clamp(on_axis(fmt.low), on_axis(fmt.high))
    centred = (codes - zero).to(torch.int64)
    return centred, Rounded.apply(value, scale * centred, wanted == codes, np.inf)


def emulate(
    u: Tensor,
    a: Tensor,
    b: Tensor | None,
    c: Tensor | None,
    formats: ScanFormats,
    clamp: float | None,
    x0: Tensor | None = None,
) -> Tensor:
    """y of the integer recurrence, with the gradient that straight-through estimation gives it (float64)."""
    heads, states, _ = a.shape
    plan = plan_scan(formats, heads, states)
    bound = np.inf if clamp is None else clamp
    one = torch.zeros(heads, states, 2, dtype=torch.float64)
    one[..., 0] = 1
    qu, ru = on_grid(u, formats.u, 1)
    qa, ra = on_grid(a, formats.a, 0)
    qb, rb = (one.long(), one) if b is None or formats.b is None else on_grid(b, formats.b, 0)
    qc, rc = (one.long(), one) if c is None or formats.c is None else on_grid(c, formats.c, 0)
    s_x = tensor(broadcast_heads(formats.x.scale.astype(np.float64), 3, 1))
    m_a, m_b, shift, shift_b, low, high = plan.m_a, plan.m_b, plan.shift, plan.shift_b, plan.low, plan.high
    if x0 is None:
        x0 = torch.zeros(u.shape[0], heads, states, 2, dtype=torch.int64)
    kr, ki = x0[..., 0], x0[..., 1]  # centred codes
    xr, xi = s_x * kr, s_x * ki  # their real values, in the graph

    def kept(real: Tensor, wanted: Any, limit: float = np.inf) -> tuple[Tensor, Tensor]:
        codes = np.clip(wanted, low, high)
        value = tensor(codes)
        return value, Rounded.apply(real, s_x * value, tensor(wanted == codes), limit)

    def state(ax: Tensor, bu: Tensor, word_a: Tensor, word_b: Tensor) -> tuple[Tensor, Tensor]:
        words = m_a * word_a.numpy(), m_b * word_b.numpy()
        if formats.rounding_placement == "joint":
            return kept(ax + bu, round_shift(words[0] + words[1], shift, formats.rounding), bound)
        one, real_a = kept(ax, round_shift(words[0], shift, formats.rounding))
        two, real_b = kept(bu, round_shift(words[1], shift_b, formats.rounding))
        return kept(real_a + real_b, (one + two).numpy(), bound)

    outputs = []
    for t in range(u.shape[-1]):
        qv, rv = qu[:, :, t, None], ru[:, :, t, None]
        (kr, xr), (ki, xi) = (
            state(
                ra[..., 0] * xr - ra[..., 1] * xi,
                rb[..., 0] * rv,
                qa[..., 0] * kr - qa[..., 1] * ki,
                qb[..., 0] * qv,
            ),
            state(
                ra[..., 0] * xi + ra[..., 1] * xr,
                rb[..., 1] * rv,
                qa[..., 0] * ki + qa[..., 1] * kr,
                qb[..., 1] * qv,
            ),
        )
        total = (tensor(plan.m_c) * (qc[..., 0] * kr - qc[..., 1] * ki)).sum(-1).numpy()
        real = 2 * (rc[..., 0] * xr - rc[..., 1] * xi).sum(-1)
        if formats.y is None or plan.m_y is None or plan.shift_y is None:
            outputs.append(real)
            continue
        zero_y = plan.zero("y")
        wanted = round_shift(plan.m_y * total, plan.shift_y, formats.rounding) + zero_y
        low_y, high_y, s_y = (
            np.broadcast_to(v, heads) for v in (formats.y.low, formats.y.high, formats.y.scale.astype(float))
        )
        codes = np.clip(wanted, low_y, high_y)
        outputs.append(Rounded.apply(real, tensor(s_y * (codes - zero_y)), tensor(wanted == codes), np.inf))
    return torch.stack(outputs, dim=-1)


def compare(
    u: Tensor,
    a: Tensor,
    b: Tensor | None,
    c: Tensor | None,
    formats: ScanFormats,
    clamp: float | None = None,
    size: float = 1.0,
    x0: Tensor | None = None,
) -> dict[str, Tensor]:
    """Assert that values and gradients of the fused scan are those of the emulation; returns the gradients."""
    weight = size * torch.randn(u.shape, generator=torch.Generator().manual_seed(9))
    leaves = {
        n: z.detach().clone().requires_grad_() for n, z in zip("uabc", (u, a, b, c), strict=True) if z is not None
    }
    y = diagonal_scan(
        leaves["u"],
        leaves["a"],
        leaves.get("b"),
        leaves.get("c"),
        formats=formats,
        grad_clamp=clamp,
        x0=x0,
    )
    (y * weight).sum().backward()
    pairs = {
        n: (z if n == "u" else torch.view_as_real(z)).detach().double().requires_grad_() for n, z in leaves.items()
    }
    centred = None
    if x0 is not None:
        centred = x0 - tensor(broadcast_heads(formats.x.zero_point, 4, 1))
    emulated = emulate(pairs["u"], pairs["a"], pairs.get("b"), pairs.get("c"), formats, clamp, centred)
    (emulated * weight.double()).sum().backward()
    assert torch.allclose(y.double(), emulated, rtol=1e-6, atol=1e-7 * float(emulated.detach().abs().max()))
    found = {}
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        exact = pairs[name].grad
        assert exact is not None
        grad = leaf.grad if name == "u" else torch.view_as_real(leaf.grad)
        assert (grad - exact).abs().max() <= 1e-4 * exact.abs().max(), name
        # Masked means exactly zero, not small.
        assert torch.equal(grad == 0, exact == 0), name
        found[name] = grad
    return found


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("identity", ["", "b", "c", "bc"])
@pytest.mark.parametrize("bare", [False, True])
def test_plain(bits: int, identity: str, bare: bool) -> None:
    u, a, b, c = operands(1, 19, 2, 3, 20, radius=0.95)
    b_, c_ = (None if name in identity else z for name, z in (("b", b), ("c", c)))
    compare(u, a, b_, c_, formats_for(u, a, b_, c_, bits, bare=bare))


@pytest.mark.parametrize("bits", [4, 8, 12])
@pytest.mark.parametrize("order", ["joint", "separate"])
@pytest.mark.parametrize("rounding", ["half_even", "half_up", "half_away"])
@pytest.mark.parametrize("per_state", ["", "abcx"])
def test_orders_roundings_and_formats_per_state(bits: int, order: str, rounding: str, per_state: str) -> None:
    u, a, b, c = operands(8, 19, 2, 3, 20, radius=0.97)
    shrink = {"x": 0.6, "y": 0.8}
    formats = formats_for(
        u, a, b, c, bits, rounding_placement=order, rounding=rounding, per_state=per_state, shrink=shrink
    )
    compare(u, a, b, c, formats, clamp=0.7)


@pytest.mark.parametrize("symmetric", [False, True])
def test_many_blocks_of_sequences(symmetric: bool) -> None:
    u, a, b, c = operands(2, 150, 2, 2, 6)
    compare(u, a, b, c, formats_for(u, a, b, c, 8, symmetric=symmetric))


@pytest.mark.parametrize("part", ["u", "a", "b", "c", "x", "y"])
@pytest.mark.parametrize("bits", [8, 12])
def test_saturation_masks_the_gradient(part: str, bits: int) -> None:
    u, a, b, c = operands(3, 6, 2, 4, 15)
    formats = formats_for(u, a, b, c, bits, shrink={part: 0.5})
    masked = compare(u, a, b, c, formats)
    open_ = compare(u, a, b, c, formats_for(u, a, b, c, bits))
    zeros = {name: int((grad == 0).sum()) for name, grad in masked.items()}
    if part in "uabc":
        assert zeros[part] > 0
        assert all(zeros[p] == 0 for p in "uabc" if p != part)
    else:
        # A saturated state or output stops what flows through it, so the gradients are others.
        assert not torch.allclose(masked["a"], open_["a"], rtol=1e-2)


def test_everything_saturates_at_once() -> None:
    u, a, b, c = operands(4, 20, 3, 4, 25)
    shrink = {"u": 0.6, "a": 0.9, "b": 0.7, "c": 0.7, "x": 0.5, "y": 0.6}
    compare(u, a, b, c, formats_for(u, a, b, c, 8, shrink=shrink, clip=1.5))


def test_a_saturated_constant_input_has_no_gradient_at_all() -> None:
    u = torch.full((1, 1, 4), 100.0)
    a, b, c = (torch.full((1, 1), z, dtype=torch.complex64) for z in (0.5 + 0.1j, 0.5 + 0.5j, 0.5 + 0.5j))
    unit = Format.from_range(-1.0, 1.0, 8)
    grads = compare(u, a, b, c, ScanFormats(a=unit, u=unit, x=Format.from_range(-4.0, 4.0, 8), b=unit, c=unit))
    assert grads["u"].abs().max() == 0
    assert grads["b"].abs().min() > 0


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("size", [1.0, 1e6])
@pytest.mark.parametrize("order", ["joint", "separate"])
def test_gradient_clamp(bits: int, size: float, order: str) -> None:
    u, a, b, c = operands(5, 18, 2, 3, 30, radius=1.02)
    formats = formats_for(u, a, b, c, bits, rounding_placement=order)
    clamped = compare(u, a, b, c, formats, clamp=0.5, size=size)
    # The gradient of a state is at most 0.5 in each part, so that of an input is bounded by sum |b| / 2.
    limit = 0.5 * (b.real.abs() + b.imag.abs()).sum(1) * 1.02
    assert torch.all(clamped["u"].abs().amax((0, 2)) <= limit)
    if size > 1:
        free = compare(u, a, b, c, formats, size=size)
        assert free["u"].abs().max() > 100 * clamped["u"].abs().max()


@pytest.mark.parametrize("bits", [8, 16])
def test_from_an_initial_state(bits: int) -> None:
    u, a, b, c = operands(6, 17, 2, 3, 10)
    formats = formats_for(u, a, b, c, bits)
    x0 = torch.randint(-20, 20, (17, 2, 3, 2), generator=torch.Generator().manual_seed(4))
    compare(u, a, b, c, formats, x0=x0)
