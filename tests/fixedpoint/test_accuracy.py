"""How close the integer update is to the real recurrence: as bits grow, and in a free decay."""

from itertools import pairwise

import numpy as np
import pytest

from imc_ssm.fixedpoint import Format, ScanFormats, plan_scan, scan_codes


def test_approaches_the_real_recurrence_as_bits_grow() -> None:
    rng = np.random.default_rng(5)
    heads, states, time = 2, 4, 60
    a = 0.95 * np.exp(1j * rng.uniform(0, 3, (heads, states)))
    b, c = (rng.standard_normal((heads, states)) + 1j * rng.standard_normal((heads, states)) for _ in range(2))
    u = rng.standard_normal((3, heads, time))
    x, xs, ys = np.zeros((3, heads, states), complex), [], []
    for t in range(time):
        x = a * x + b * u[..., t, None]
        xs.append(x)
        ys.append(2 * (c * x).real.sum(-1))
    exact = np.stack(ys, axis=-1)

    def parts(z: np.ndarray) -> np.ndarray:
        return np.stack([z.real, z.imag], axis=-1)

    errors = []
    for bits in (6, 8, 10, 12, 14, 16):
        span = [(v.min(), v.max()) for v in (parts(a), u, parts(np.stack(xs)), parts(b), parts(c), exact)]
        fa, fu, fx, fb, fc, fy = (Format.from_range(low, high, bits) for low, high in span)
        plan = plan_scan(ScanFormats(a=fa, u=fu, x=fx, b=fb, c=fc, y=fy), heads, states)
        coded = (f.quantize(parts(z)) for f, z in ((fa, a), (fb, b), (fc, c)))
        y, _, overflow = scan_codes(plan, fu.quantize(u), *coded)
        errors.append(np.abs(fy.dequantize(y) - exact).max() / np.abs(exact).max())
        assert overflow.output.sum() <= y.size * 0.01
    # Two more bits: about four times less error, and never less than twice.
    assert all(later < earlier / 2 for earlier, later in pairwise(errors)), errors
    assert errors[-1] < 5e-4


@pytest.mark.parametrize("order", ["joint", "separate"])
@pytest.mark.parametrize("coarse", [2, 4, 8, 16, None])
@pytest.mark.parametrize("fine", [8, 12, 16])
def test_a_free_decay_follows_the_pole_whatever_the_inputs_word(fine: int, coarse: int | None, order: str) -> None:
    # 0.97 (cos 0.1 + i sin 0.1), no input: what decays is the poles' multiplier alone. None: b is exactly 1 and
    # the input is as fine as the state, over eight times its range.
    pole = 0.97 * np.exp(0.1j)
    part = np.array([[[pole.real, pole.imag]]])
    fa = Format.from_range(-1.0, 1.0, fine)
    fx = Format.from_range(-4.0, 4.0, fine)
    fu = Format.from_range(-1.0, 1.0, coarse) if coarse else Format.from_range(-32.0, 32.0, fine)
    fb = Format.from_range(-1.0, 1.0, coarse) if coarse else None
    plan = plan_scan(ScanFormats(a=fa, u=fu, x=fx, b=fb, rounding_placement=order), 1, 1)  # type: ignore[arg-type]
    x0 = fx.quantize(np.array([[[[3.0, 0.0]]]]))
    zero = fu.quantize(np.zeros((1, 1, 20)))
    _, last, overflow = scan_codes(
        plan, zero, fa.quantize(part), None if fb is None else fb.quantize(part), None, x0
    )
    assert overflow.state.tolist() == [0]
    stored = complex(*fa.dequantize(fa.quantize(part)).ravel())
    start = complex(*fx.dequantize(x0).ravel())
    exact = start * stored**20
    found = complex(*fx.dequantize(last).ravel())
    # 20 roundings of the state, each at most half a code per part; the multiplier's relative error, 2^-12 at most.
    allowed = 20 * 0.71 * float(fx.scale) + 20 * 2.0**-12 * abs(exact)
    assert abs(found - exact) < allowed
