"""Values and gradients of the fused GPU kernels against autograd, in full precision and in integers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scan_cases import operands
from torch import Tensor
from triton_cases import (
    DEVICE,
    ROUNDING_PLACEMENTS,
    ROUNDINGS,
    RUNS,
    close,
    formats_around,
    gradients,
    interpreted,
    on_device,
    scan_integer,
    scan_real,
)

from imc_ssm.fixedpoint import Format, Noise, ScanFormats, broadcast_heads, plan_scan, round_shift
from imc_ssm.kernels import cuda, reference

Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@pytest.mark.skipif(cuda.interpreting(), reason="started by itself")
@pytest.mark.parametrize("group", ["TestFullPrecision", "TestIntegerGradients"])
def test_through_the_interpreter(group: str) -> None:
    pytest.importorskip("triton")
    interpreted(__file__, group)


class TestFullPrecision:
    __test__ = RUNS

    @pytest.mark.parametrize(("clamp", "clip"), [(None, None), (0.2, None), (None, 0.9), (0.2, 0.9)])
    def test_values_and_gradients(self, clamp: float | None, clip: float | None) -> None:
        u, a, b, c = operands(2, 3, 2, 5, 20)
        x0 = 0.1 * torch.randn(3, 2, 5, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
        weight = torch.randn(u.shape, generator=torch.Generator().manual_seed(9))

        def exact(u: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            return reference.scan(u, a, b, c, x0.to(a), clamp, None, clip)[0]

        def fused(u: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
            return scan_real(u, a, b, c, x0.to(DEVICE), clamp, None, clip)[0]

        y, expected = gradients(exact, weight, u.double(), *(z.to(torch.complex128) for z in (a, b, c)))
        y_t, found = gradients(fused, weight, *on_device(u, a, b, c))
        assert (y_t - y).abs().max() <= 1e-5 * y.abs().max()
        close(found, expected, 1e-5)

    def test_noise_is_that_of_the_generator(self) -> None:
        u, a, b, c = operands(3, 3, 2, 5, 10)
        noise = Noise(2**64 - 5, state=0.3, sample=11, time=7)
        x, outputs = torch.zeros(3, 2, 5, dtype=torch.complex128), []
        for t in range(10):
            z = noise.state * torch.from_numpy(noise.of_state(3, 2, 5, t) / 2**16)
            x = a * x + b * u[..., t, None] + torch.view_as_complex(z)
            outputs.append(2 * (c * x).real.sum(-1))
        y = torch.stack(outputs, -1)
        y_t, last = scan_real(*on_device(u, a, b, c), None, None, noise)
        assert (y_t.cpu() - y).abs().max() <= 1e-6 * y.abs().max()
        assert (last.cpu() - x).abs().max() <= 1e-6 * x.abs().max()
        still, _ = scan_real(*on_device(u, a, b, c), None, None, replace(noise, state=0.0))
        assert (y_t - still).abs().max() > 0.1

    def test_tiles_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tiles_change_nothing(monkeypatch, None)

    def test_no_sequences_and_no_steps(self) -> None:
        u, a, b, c = on_device(*operands(4, 2, 2, 3, 4))
        y, last = scan_real(u[:0], a, b, c, None, None, None)
        assert y.shape == (0, 2, 4)
        y, last = scan_real(u[..., :0], a, b, c, last.new_ones(2, 2, 3), None, None)
        assert y.shape == (2, 2, 0)
        assert torch.all(last == 1)


def tiles_change_nothing(monkeypatch: pytest.MonkeyPatch, formats: ScanFormats | None) -> None:
    """Values and gradients are the same bits for one tile and for many, in one program or several.

    A card adds floats of another tile in another order: there codes are the same bits, floats to single precision.
    """
    u, a, b, c = operands(5, 5, 2, 3, 6)

    def run(*leaves: Tensor) -> Tensor:
        if formats is None:
            return scan_real(*leaves, None, 0.5, None)[0]
        return scan_integer(*leaves, formats, None, 0.5, None)[0]

    weight = torch.randn(u.shape, generator=torch.Generator().manual_seed(9))
    whole = gradients(run, weight, *on_device(u, a, b, c))
    for tile, programs in ((4, 1), (8, 2), (16, 100)):
        for name in ("TILE", "INTERPRETED_TILE"):
            monkeypatch.setattr(cuda, name, tile)
        monkeypatch.setattr(cuda._Launch, "_programs", staticmethod(lambda device, n=programs: n))
        y, found = gradients(run, weight, *on_device(u, a, b, c))
        assert torch.equal(y, whole[0]) if DEVICE.type == "cpu" or formats is not None else near(y, whole[0])
        same = torch.equal if DEVICE.type == "cpu" else near
        assert all(same(grad, whole[1][name]) for name, grad in found.items())


def near(one: Tensor, two: Tensor) -> bool:
    """To 1e-6 of the largest."""
    return bool((one - two).abs().max() <= 1e-6 * two.abs().max())


class Rounded(torch.autograd.Function):
    """Forward: `value`, whatever the real number was. Backward: the gradient where `free`, clamped."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, value: Any, free: Any, bound: float = np.inf) -> Tensor:
        ctx.free, ctx.bound = torch.as_tensor(free), bound
        return torch.as_tensor(value, dtype=torch.float64).clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return (grads[0] * ctx.free).clamp(-ctx.bound, ctx.bound), None, None, None


def on_grid(value: Tensor, fmt: Format, axis: int) -> tuple[Ints, Tensor]:
    """Centred codes, and the straight-through real value."""
    parts = (fmt.scale.astype(np.float64), fmt.zero_point, fmt.low, fmt.high)
    scale, zero, low, high = (broadcast_heads(v, value.ndim, axis) for v in parts)
    wanted = np.rint(value.detach().numpy() / scale) + zero
    codes = np.clip(wanted, low, high)
    return (codes - zero).astype(np.int64), Rounded.apply(value, scale * (codes - zero), wanted == codes)


def emulate(
    u: Tensor,
    a: Tensor,
    b: Tensor | None,
    c: Tensor | None,
    formats: ScanFormats,
    clamp: float | None,
    x0: Ints | None,
    noise: Noise | None,
) -> Tensor:
    """y of the integer recurrence in float64, with the gradient of straight-through estimation by autograd."""
    heads, states, _ = a.shape
    plan = plan_scan(formats, heads, states, 0.0 if noise is None else noise.state)
    one = torch.zeros(heads, states, 2, dtype=torch.float64)
    one[..., 0] = 1
    qu, ru = on_grid(u, formats.u, 1)
    (qa, ra), (qb, rb), (qc, rc) = (
        (one.numpy().astype(np.int64), one) if z is None or f is None else on_grid(z, f, 0)
        for z, f in ((a, formats.a), (b, formats.b), (c, formats.c))
    )
    s_x = np.broadcast_to(broadcast_heads(formats.x.scale.astype(np.float64), 2, 0), (heads, states))
    k = [np.zeros((len(u), heads, states), np.int64)] * 2
    if x0 is not None:
        k = [x0[..., part] - plan.zero("x") for part in (0, 1)]
    x = [torch.from_numpy(s_x * part) for part in k]

    def cut(words: Ints, shift: Ints) -> tuple[Ints, Any]:
        wanted = round_shift(words, shift, formats.rounding)
        codes = np.clip(wanted, plan.low, plan.high)
        return codes, wanted == codes

    def rounded(word_a: Ints, word_b: Ints, real_a: Tensor, real_b: Tensor) -> tuple[Ints, Tensor]:
        if formats.rounding_placement == "joint":
            codes, free = cut(word_a + word_b, plan.shift)
        else:
            (code_a, free_a), (code_b, free_b) = cut(word_a, plan.shift), cut(word_b, plan.shift_b)
            real_a, real_b = (
                Rounded.apply(real_a, s_x * code_a, free_a),
                Rounded.apply(real_b, s_x * code_b, free_b),
            )
            codes, free = cut(code_a + code_b, np.int64(0))
        return codes, Rounded.apply(real_a + real_b, s_x * codes, free, np.inf if clamp is None else clamp)

    outputs = []
    for t in range(u.shape[-1]):
        v, rv = qu[:, :, t, None], ru[:, :, t, None]
        z = np.zeros((len(u), heads, states, 2), np.int64)
        if noise is not None and plan.m_z is not None:
            z = plan.m_z[..., None] * noise.of_state(len(u), heads, states, t)
        new = [
            rounded(
                plan.m_a * (qa[..., 0] * k[part] + sign * qa[..., 1] * k[1 - part]) + z[..., part],
                plan.m_b * qb[..., part] * v,
                ra[..., 0] * x[part] + sign * ra[..., 1] * x[1 - part],
                rb[..., part] * rv,
            )
            for part, sign in ((0, -1), (1, 1))
        ]
        k, x = [q for q, _ in new], [r for _, r in new]
        total = (plan.m_c * (qc[..., 0] * k[0] - qc[..., 1] * k[1])).sum(-1)
        real = 2 * (rc[..., 0] * x[0] - rc[..., 1] * x[1]).sum(-1)
        if formats.y is None or plan.m_y is None or plan.shift_y is None:
            outputs.append(Rounded.apply(real, plan.sum_scale * total, True))
            continue
        wanted = round_shift(plan.m_y * total, plan.shift_y, formats.rounding) + plan.zero("y")
        codes = np.clip(wanted, formats.y.low, formats.y.high)
        outputs.append(Rounded.apply(real, formats.y.dequantize(codes, 1), wanted == codes))
    return torch.stack(outputs, dim=-1)


def compare(
    formats: ScanFormats,
    clamp: float | None = None,
    size: float = 1.0,
    x0: Ints | None = None,
    noise: Noise | None = None,
    seed: int = 6,
) -> dict[str, Tensor]:
    """Assert that values and gradients are those of the emulation; returns the gradients."""
    u, a, b, c = operands(seed, 3, 2, 5, 12)
    leaves = (u, a, None if formats.b is None else b, None if formats.c is None else c)
    weight = size * torch.randn(u.shape, generator=torch.Generator().manual_seed(9))
    start = None if x0 is None else torch.from_numpy(x0)
    pairs = [None if z is None else (torch.view_as_real(z) if z.is_complex() else z).double() for z in leaves]
    y, exact = gradients(lambda *z: emulate(*z, formats, clamp, x0, noise), weight, *pairs)
    y_t, found = gradients(
        lambda *z: scan_integer(*z, formats, None if start is None else start.to(DEVICE), clamp, noise)[0],
        weight,
        *on_device(*leaves),
    )
    assert torch.equal(y_t, y.float())
    close(found, exact, 1e-5)
    for name, grad in found.items():  # masked means exactly zero, not small
        assert torch.equal(grad == 0, exact[name] == 0), name
    return found


class TestIntegerGradients:
    __test__ = RUNS

    @pytest.mark.parametrize("order", ROUNDING_PLACEMENTS)
    @pytest.mark.parametrize("bits", [4, 8, 16])
    @pytest.mark.parametrize("rounding", ROUNDINGS)
    def test_plain(self, order: str, bits: int, rounding: str) -> None:
        compare(formats_around(3.0, bits, rounding_placement=order, rounding=rounding))

    @pytest.mark.parametrize("absent", ["b", "c", "y", "bcy"])
    def test_absent_parts(self, absent: str) -> None:
        found = compare(formats_around(3.0, 8, **dict.fromkeys(absent, False)))
        assert set(found) == set("uabc") - set(absent)

    @pytest.mark.parametrize("order", ROUNDING_PLACEMENTS)
    @pytest.mark.parametrize("part", ["u", "a", "b", "c", "x", "y", "uabcxy"])
    def test_saturation_masks_the_gradient(self, part: str, order: str) -> None:
        masked = compare(formats_around(1.0, 8, shrink=part, rounding_placement=order))
        zeros = {name for name, grad in masked.items() if (grad == 0).any()}
        if len(part) == 1 and part in "uabc":
            assert zeros == {part}

    @pytest.mark.parametrize("order", ROUNDING_PLACEMENTS)
    def test_formats_per_state(self, order: str) -> None:
        wide = np.random.default_rng(1).uniform(0.5, 2.0, (2, 5))
        formats = formats_around(3.0, 8, rounding_placement=order)
        a, x, c = (Format.from_range(-s * wide, s * wide, 8) for s in (0.7, 5.0, 1.5))
        compare(replace(formats, a=a, x=x, c=c))

    @pytest.mark.parametrize("order", ROUNDING_PLACEMENTS)
    def test_clamp_bounds_large_gradients(self, order: str) -> None:
        formats = formats_around(1.0, 8, rounding_placement=order)
        clamped, free = compare(formats, clamp=0.5, size=1e6), compare(formats, size=1e6)
        _, _, b, _ = operands(6, 3, 2, 5, 12)
        # The gradient of a state is at most 0.5 in each part, so that of an input is bounded by sum |b| / 2.
        limit = 0.5 * (b.real.abs() + b.imag.abs()).sum(1) * 1.02
        assert torch.all(clamped["u"].abs().amax((0, 2)) <= limit)
        assert free["u"].abs().max() > 100 * clamped["u"].abs().max()

    @pytest.mark.parametrize("order", ROUNDING_PLACEMENTS)
    def test_noise_and_initial_state(self, order: str) -> None:
        x0 = np.random.default_rng(2).integers(-20, 20, (3, 2, 5, 2))
        compare(
            formats_around(2.0, 8, rounding_placement=order),
            x0=x0,
            noise=Noise(3, state=0.2, sample=5, time=9),
            clamp=2.0,
        )

    def test_tiles_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tiles_change_nothing(monkeypatch, formats_around(2.0, 8, rounding_placement="separate"))

    def test_strided_arguments(self) -> None:
        u, a, b, c = on_device(*operands(7, 2, 2, 3, 6))
        formats = formats_around(2.0, 8)
        found = []
        for z in (u, u.transpose(0, 2).contiguous().transpose(0, 2)):
            leaf = z.detach().requires_grad_()
            scan_integer(leaf, a, b, c, formats, None, None, None)[0].sum().backward()  # an expanded gradient
            found.append(leaf.grad)
        assert torch.equal(found[0], found[1])
