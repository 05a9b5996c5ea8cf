"""Weights rounded for the least error of their outputs: on their grids, better than nearest, for every model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_runs import stream

from imc_ssm.datasets import SequenceDataset
from imc_ssm.fixedpoint import Format
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.modelfile import StoredModel, load_model, save_model
from imc_ssm.quantization import FormatSpec, Scheme, quantize
from imc_ssm.quantization.fitting import Moments, fitted, rounded_row
from imc_ssm.quantization.modules import DigitalMatrix
from imc_ssm.quantization.recurrent import QuantizedS4D


def correlated(rng: np.random.Generator, n: int) -> np.ndarray:
    """Mean f f^T of features that share one strong part, as activations do."""
    f = rng.normal(size=(400, n)) + 2 * rng.normal(size=(400, 1))
    return f.T @ f / 400


def rounded_alone(rows: np.ndarray, bits: int) -> np.ndarray:
    fmts = [Format.from_range(min(r.min(), 0), max(r.max(), 0), bits) for r in rows]
    return np.stack([f.dequantize(f.quantize(r)) for f, r in zip(fmts, rows, strict=True)])


def test_less_error_than_nearest_codes() -> None:
    """64 rows of 24 weights at 4 bits: the mean squared error of the outputs."""
    rng = np.random.default_rng(1)
    square, rows = correlated(rng, 24), rng.normal(size=(64, 24))
    made = fitted(square, rows @ square, rows, FormatSpec(4))
    near = rounded_alone(rows, 4)
    wrong = [np.einsum("ki,ij,kj->k", e, square, e) for e in (made - rows, near - rows)]
    assert wrong[0].mean() < 0.35 * wrong[1].mean()
    assert np.all(wrong[0] <= 1.1 * wrong[1])  # the damping is no part of this error


def test_the_best_of_all_codes_is_not_far() -> None:
    """Three weights at 2 bits, the extremes at their ends: every code of the one that is left."""
    rng = np.random.default_rng(2)
    fmt = Format.from_range(-1.0, 2.0, 2)
    values = fmt.dequantize(np.arange(-2, 2))
    for _ in range(50):
        square = correlated(rng, 3)
        row = np.array([-1.0, 2.0, rng.uniform(-1, 2)])
        found = rounded_row(row, square, fmt, {0: -1.0, 1: 2.0})
        best = min(values, key=lambda v: abs(v - row[2]))
        assert found.tolist() == [-1.0, 2.0, best]
    # All free: no worse than twice the best of the 64 combinations, on average.
    ratios = []
    for _ in range(50):
        square, row = correlated(rng, 3), rng.uniform(-1, 2, 3)
        found = rounded_row(row, square, fmt, {})
        every = np.array(list(itertools.product(values, repeat=3)))
        errors = np.einsum("ki,ij,kj->k", every - row, square, every - row)
        ratios.append(float((found - row) @ square @ (found - row)) / float(errors.min()))
    assert np.mean(ratios) < 2.5


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 8),
    st.booleans(),
    st.sampled_from(["head", "tensor"]),
    st.booleans(),
)
def test_results_are_on_the_grids_of_their_own_ranges(
    seed: int, bits: int, symmetric: bool, per: str, powers: bool
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(rng.uniform(-1, 1), 1, size=(rng.integers(1, 5), rng.integers(1, 9)))
    square = correlated(rng, rows.shape[1])
    spec = FormatSpec(bits, symmetric, per, power_of_two=powers)  # type: ignore[arg-type]
    made = fitted(square, rows @ square, rows, spec)
    shared = per == "tensor" or rows.shape[1] == 1
    for row in [made] if shared else made:
        fmt = Format.from_range(row.min(), row.max(), bits, symmetric=symmetric, power_of_two=powers)
        assert np.allclose(fmt.dequantize(fmt.quantize(row)), row, rtol=1e-5, atol=1e-7)


def test_full_precision_is_least_squares() -> None:
    rng = np.random.default_rng(3)
    f, w = rng.normal(size=(500, 6)), rng.normal(size=(2, 6))
    moments = Moments.empty(6, 2)
    moments.add(f, f @ w.T + 3.0)
    square, cross = moments.means(centred=True)
    assert np.allclose(fitted(square, cross.T, w, FormatSpec(None)), w)
    assert np.allclose((moments.targets - w @ moments.features) / moments.count, 3.0)
    # Held where the inputs say nothing: a feature that is never there keeps its weight.
    f[:, 2] = 0
    moments = Moments.empty(6, 2)
    moments.add(f, f @ w.T)
    square, cross = moments.means(centred=False)
    assert np.allclose(fitted(square, cross.T, w, FormatSpec(None))[:, 2], w[:, 2])


W4 = Scheme.uniform(weights=4, activations=6, granularity="state", rounding="dithered")


def small(**fields: object) -> Classifier:
    torch.manual_seed(5)
    shape: dict[str, object] = {"inputs": 1, "heads": 8, "n_state": 8, "classes": 10}
    return Classifier(ModelConfig.parse(shape | fields))


@pytest.mark.parametrize("fields", [{}, {"layers": 2, "norm": "layer"}, {"layer": {"type": "s5"}}])
def test_a_model_is_nearer_to_its_full_precision(digits: SequenceDataset, fields: dict[str, object]) -> None:
    model = small(**fields).train()
    u = torch.from_numpy(digits.split("test").take(200).values)
    made = [quantize(model, W4.with_(weight_rounding=how), digits) for how in ("nearest", "outputs")]
    assert model.training  # as it was
    model.eval()
    with torch.no_grad():
        wanted = model(u)
        near, fit = (float((q(u) - wanted).pow(2).mean()) for q in made)
    assert fit < 0.6 * near
    for module in made[1].modules():
        if isinstance(module, DigitalMatrix):
            assert torch.equal(module.grid(module.weight), module.grid(module.grid(module.weight)))
            assert torch.allclose(module.grid(module.weight), module.weight, rtol=1e-5, atol=1e-7)
        if isinstance(module, QuantizedS4D):
            *_, c, formats = module.coefficients()
            pairs = torch.view_as_real(c).detach().numpy()
            grid = formats["c"].dequantize(formats["c"].quantize(pairs))
            assert np.allclose(grid, pairs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"scales": "power_of_two"},
        {"rate_limit": 1.5, "max_period": 4},
        {"rounding": "feedback"},
        {"rounding": "half_even", "rounding_placement": "separate"},
        {"symmetric": True, "granularity": "tensor"},
        {"parameterisation": "discrete"},
        {"calibration": "dynamic"},
    ],
)
def test_every_scheme(digits: SequenceDataset, options: dict[str, object]) -> None:
    scheme = W4.with_(options).with_(weight_rounding="outputs")
    q = quantize(small(), scheme, digits)
    u = torch.from_numpy(digits.split("test").take(5).values)
    with torch.no_grad():
        assert torch.isfinite(q(u)).all()
        if options.get("calibration") != "dynamic":
            assert torch.equal(stream(q, u), q(u))


def test_padding_is_not_looked_at(digits: SequenceDataset) -> None:
    model, u = small(), torch.from_numpy(digits.split("train").take(40).values)
    lengths = torch.full((40,), 50)
    u[:, 50:] = 0.0
    loud = u.clone()
    loud[:, 50:] = 100.0 * torch.randn(40, 14, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    scheme = W4.with_(weight_rounding="outputs")
    ranges = quantize(model, scheme, u, lengths).state_dict()
    again = quantize(model, scheme, torch.where(torch.arange(64)[:, None] < 50, loud, u), lengths).state_dict()
    padded = quantize(model, scheme, loud.clamp(u.min(), u.max()), lengths).state_dict()
    for name, value in ranges.items():
        assert torch.equal(value, again[name])
        assert torch.equal(value, padded[name]), name


def test_a_file_keeps_what_was_fitted(digits: SequenceDataset, tmp_path: object) -> None:
    scheme = W4.with_(weight_rounding="outputs")
    q = quantize(small(), scheme, digits)
    path = tmp_path / "q.safetensors"  # type: ignore[operator]
    save_model(path, StoredModel(q, scheme, {"task": "digits"}))
    again = load_model(path)
    assert again.scheme is not None
    assert again.scheme.weight_rounding == "outputs"
    u = torch.from_numpy(digits.split("test").take(20).values)
    with torch.no_grad():
        assert torch.equal(again.model(u), q(u))
