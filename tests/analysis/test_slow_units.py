"""The analysis of units that truncate and of slow heads, which count in updates."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from rich.console import Console

from imc_ssm.analysis import Saturation, inspect_model, kernel_errors, rounded_coefficients, unit_coefficients
from imc_ssm.analysis.layers import Coefficients, layer_inputs
from imc_ssm.cli.inspection import inspection_tables
from imc_ssm.datasets import SequenceDataset
from imc_ssm.fixedpoint import scan_codes
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Scheme, quantize

WIDE = Scheme.uniform(poles=12, state=16, weights=12, activations=10, rate_limit=2.0, max_period=4)


@pytest.fixture
def slow(trained: Classifier, digits: SequenceDataset) -> Callable[[Scheme], Classifier]:
    """The trained model with heads from slow to fast, quantized with a scheme."""
    with torch.no_grad():
        trained.blocks[0].ssm.log_dt.copy_(torch.linspace(-6, -2, 8)[[3, 0, 5, 7, 2, 4, 1, 6]])
    return lambda scheme: quantize(trained, scheme, digits)


@pytest.mark.parametrize(
    ("order", "rounding", "most"),
    [
        ("joint", "half_even", 0.5),
        ("joint", "dithered", 1.0),
        ("separate", "dithered", 1.0),
        ("joint", "feedback", 1.0),
    ],
)
@torch.no_grad()
def test_the_unit_follows_its_coefficients(slow, order, rounding, most) -> None:
    """x[j] = a x[j-1] + b mean(u) + e[j] with |e| <= r units at every update, nothing in between."""
    layer = slow(WIDE.with_(rounding_placement=order, rounding=rounding)).blocks[0].ssm
    a, b, error = unit_coefficients(layer)
    assert error == most
    counter = Saturation(layer)
    formats, plan = layer.scan_formats(), counter.plan
    codes = formats.u.quantize(np.random.default_rng(0).normal(0, 0.2, (2, len(a), 16)), 1)
    u = formats.u.dequantize(codes, 1)
    unit = np.asarray(formats.x.scale, float)[:, None]
    before, state, farthest = np.zeros((2, *a.shape), complex), None, 0.0
    for t in range(16):
        _, state, lost = scan_codes(plan, codes[..., t : t + 1], *counter.codes, x0=state)
        assert lost.state.sum() == 0
        parts = formats.x.dequantize(state.x, 1)
        now = parts[..., 0] + 1j * parts[..., 1]
        for h, k in enumerate(plan.periods):
            if (t + 1) % k:
                assert np.array_equal(now[:, h], before[:, h])
                continue
            off = now[:, h] - a[h] * before[:, h] - b[h] * u[:, h, t + 1 - k : t + 1].mean(1)[:, None]
            farthest = max(farthest, float(np.abs(np.stack([off.real, off.imag]) / unit[h]).max()))
        before = now
    assert set(plan.periods.tolist()) == {1, 2, 4}
    assert 0.7 * most < farthest <= most * (1 + 1e-9)


@torch.no_grad()
def test_saturation_is_of_updates(slow, digits) -> None:
    model = slow(Scheme.uniform(state=4, percentile=90, rounding="dithered", rate_limit=2.0, max_period=4))
    layer = model.blocks[0].ssm
    (_, u, _) = next(iter(layer_inputs(model, digits.split("test").take(6), 6)))
    lengths = torch.tensor([64, 10, 3, 1, 64, 33])
    counter = Saturation(layer)
    counter.add(u, lengths)
    updates = [sum(end // k for end in lengths.tolist()) for k in layer.rates()]
    assert counter.updates.tolist() == updates
    state, output = counter.shares()
    np.testing.assert_allclose(state, 100 * counter.state / (np.array(updates) * 32))
    np.testing.assert_allclose(output, 100 * counter.output / np.array(updates))
    assert 0 < state.max() <= 100


def test_kernels_count_updates() -> None:
    draw = np.random.default_rng(0)
    before, after = (
        Coefficients(
            *(draw.uniform(0.2, 0.6, (3, 4)) * np.exp(1j * draw.uniform(0, 1, (3, 4))) for _ in "abc"), (4, 1, 4)
        )
        for _ in range(2)
    )
    errors = kernel_errors(before, after, [1, 2, 3, 7, 8, 40])
    for h, grid in enumerate(([1, 1, 1, 1, 2, 10], [1, 2, 3, 7, 8, 40], [1, 1, 1, 1, 2, 10])):
        one, two = (Coefficients(z.a[h : h + 1], z.b[h : h + 1], z.c[h : h + 1]) for z in (before, after))
        unique, places = np.unique(grid, return_inverse=True)
        np.testing.assert_allclose(errors[:, h], kernel_errors(one, two, unique)[:, 0, places])


def test_an_inspection(slow, digits) -> None:
    model = slow(WIDE)
    rates = np.array(model.blocks[0].ssm.rates())
    ds = inspect_model(model, digits, sequences=20).isel(layer=0)
    usual = inspect_model(slow(WIDE.with_(rate_limit=None)), digits, sequences=20).isel(layer=0)
    assert ds["period"].values.tolist() == rates.tolist()
    assert usual["period"].values.tolist() == [1.0] * 8
    before, *_ = rounded_coefficients(model.blocks[0].ssm)
    np.testing.assert_array_equal(ds["pole"].sel(stage="before", part="real"), before.a.real)
    for name in ("state_largest", "bound_calibrated"):
        np.testing.assert_allclose(ds[name][rates == 1], usual[name][rates == 1], rtol=1e-5)
        assert np.all(ds[name].values[rates > 1] > 0)
        assert np.any(ds[name].values[rates > 1] != usual[name].values[rates > 1])
    assert np.all(ds["state_largest"] <= ds["bound_guaranteed"].sel(stage="before") * (1 + 1e-4))
    console = Console(width=150, file=io.StringIO())
    console.print(inspection_tables(ds.expand_dims("layer")))
    said = console.file.getvalue()
    assert f"{100 * (1 / rates).mean():.1f} % of the updates" in said
    assert "every 4 steps" in said
