"""Models as a whole: what the unit holds, what it saturates, and the dataset that says so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from imc_ssm import results
from imc_ssm.analysis import (
    Saturation,
    full_precision,
    impulse_norms,
    inspect_model,
    rounded_coefficients,
    rounding_gains,
    unit_coefficients,
)
from imc_ssm.analysis.layers import input_quantizer, layer_inputs, layers_of
from imc_ssm.datasets import SequenceDataset
from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.fixedpoint import plan_scan, scan_codes
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Bits, Scheme, calibration_batch, quantize

SCHEMES = {
    "heads": Scheme.uniform(poles=8, state=8),
    "tensor": Scheme.uniform(poles=6, state=5, weights=6, granularity="tensor", symmetric=True),
    "wide": Scheme.uniform(poles=12, state=16, weights=12, activations=10),
}


def layer_of(model: Classifier):
    return model.get_submodule("blocks.0.ssm")


@pytest.fixture
def deep() -> Classifier:
    """Two blocks, not trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Classifier(ModelConfig(heads=4, n_state=8, layers=2, dt_min=0.02, dt_max=0.5)).eval()


@pytest.mark.parametrize("name", SCHEMES)
def test_rounded_coefficients_lie_on_the_grid_that_the_layer_uses(quantized, trained, name):
    layer = layer_of(quantized(SCHEMES[name]))
    before, after, bits = rounded_coefficients(layer)
    a, b, c, formats = layer.coefficients()
    assert bits == {part: fmt.bits for part, fmt in formats.items()}
    for part, value in (("a", a), ("b", b), ("c", c)):
        old, new = getattr(before, part), getattr(after, part)
        np.testing.assert_array_equal(old, value.detach().numpy().astype(complex))
        fmt = formats[part]
        pairs = np.stack([new.real, new.imag], -1)
        np.testing.assert_array_equal(fmt.dequantize(fmt.quantize(pairs)), pairs)
        assert np.abs(new - old).max() <= np.sqrt(0.5) * float(fmt.scale.max()) * (1 + 1e-6)
        assert np.any(new != old)
    again = rounded_coefficients(layer_of(trained), SCHEMES[name])
    for part in "abc":  # the layer in full precision with the same scheme
        np.testing.assert_array_equal(getattr(again[1], part), getattr(after, part))


def test_parts_without_bits_stay(trained):
    none = dict.fromkeys(("state", "b", "encoder", "recurrent"))
    scheme = Scheme(bits=Bits(**none))
    before, after, bits = rounded_coefficients(layer_of(trained), scheme)
    assert bits == {"a": 8, "b": None, "c": 8}
    np.testing.assert_array_equal(after.b, before.b)
    assert np.any(after.a != before.a)


def test_plain_bits_and_missing_schemes(trained, quantized):
    assert rounded_coefficients(layer_of(trained), 5)[2] == {"a": 5, "b": 5, "c": 5}
    with pytest.raises(ImcSsmError, match="give a scheme or a word length"):
        rounded_coefficients(layer_of(trained))
    with pytest.raises(ImcSsmError, match="has its scheme"):
        rounded_coefficients(layer_of(quantized(SCHEMES["heads"])), 8)


def test_the_full_precision_model_is_the_one_that_was_wrapped(quantized, trained, digits):
    plain = full_precision(quantized(SCHEMES["heads"]))
    x = torch.from_numpy(digits.values[:20])
    with torch.no_grad():
        torch.testing.assert_close(plain(x), trained.eval()(x), rtol=0, atol=0)
    assert full_precision(trained) is trained


def test_inputs_of_every_layer(deep, digits):
    model = quantize(deep, SCHEMES["heads"], *calibration_batch(digits, 4, most=50))
    part = digits.split("test").take(30)
    seen = {path: [] for path in layers_of(model)}
    for path, u, lengths in layer_inputs(model, part, 8):
        assert lengths is None
        seen[path].append(u)
    assert list(seen) == ["blocks.0.ssm", "blocks.1.ssm"]
    with torch.no_grad():
        first = model.encoder(model.input(torch.from_numpy(part.values)))
        second = model.blocks[0](first)
    for path, expected in (("blocks.0.ssm", first), ("blocks.1.ssm", second)):
        torch.testing.assert_close(torch.cat(seen[path]), expected.transpose(1, 2), rtol=0, atol=0)
        fmt = input_quantizer(model, path).format()
        u = expected.detach().transpose(1, 2).numpy()
        np.testing.assert_allclose(fmt.dequantize(fmt.quantize(u, 1), 1), u, rtol=1e-6)  # its own grid
    assert input_quantizer(deep, "blocks.1.ssm") is None


@pytest.mark.parametrize("rounding", ["half_even", "half_up", "half_away"])
@pytest.mark.parametrize("order", ["joint", "separate"])
@pytest.mark.parametrize("per_state", [False, True])
def test_the_unit_follows_its_coefficients_exactly(quantized, order, rounding, per_state):
    """x[t] = a x[t-1] + b u[t] + e[t] with |e| <= r units while nothing saturates."""
    layer = layer_of(quantized(SCHEMES["wide"]))
    formats = dataclasses.replace(layer.scan_formats(), rounding_placement=order, rounding=rounding)
    if per_state:
        scale = formats.x.scale[:, None] * np.linspace(1, 3, 16, dtype=np.float32)
        zero = np.repeat(formats.x.zero_point[:, None], 16, axis=1)
        formats = dataclasses.replace(formats, x=dataclasses.replace(formats.x, scale=scale, zero_point=zero))
    layer.scan_formats = lambda: formats
    a, b, error = unit_coefficients(layer)
    assert error == (0.5 if order == "joint" else 1.0)
    plan = plan_scan(formats, *a.shape)
    saturation = Saturation(layer)
    rng = np.random.default_rng(0)
    u = rng.normal(0, 0.2, (2, a.shape[0], 12))
    codes = formats.u.quantize(u, 1)
    u = formats.u.dequantize(codes, 1)
    before = np.zeros((2, *a.shape), complex)
    state, farthest = None, 0.0
    for t in range(12):
        _, state, lost = scan_codes(plan, codes[..., t : t + 1], *saturation.codes, x0=state)
        assert lost.state.sum() == 0
        parts = formats.x.dequantize(state, 1)
        now = parts[..., 0] + 1j * parts[..., 1]
        off = now - (a * before + b * u[..., t, None])
        unit = np.asarray(formats.x.scale, float).reshape(a.shape[0], -1)
        farthest = max(farthest, float(np.abs(np.stack([off.real, off.imag]) / unit).max()))
        before = now
    assert 0.9 * error < farthest <= error * (1 + 1e-6)
    grid = rounded_coefficients(layer)[1]
    np.testing.assert_allclose(a, grid.a, rtol=2e-3)
    np.testing.assert_allclose(b, grid.b, rtol=2e-2)


def test_a_register_that_holds_the_guaranteed_range_never_saturates(quantized):
    """The worst inputs of every state, on a unit whose register is wide enough: not one word is lost."""
    layer = layer_of(quantized(Scheme.uniform(poles=8, state=16, weights=8)))
    formats = layer.scan_formats()
    u_top = np.maximum(*(np.abs(formats.u.dequantize(v)) for v in (formats.u.low, formats.u.high)))

    def scaled(factor: float):
        coarse = dataclasses.replace(formats.x, scale=formats.x.scale * np.float32(factor), clip=None)
        return dataclasses.replace(formats, x=coarse)

    poles = rounded_coefficients(layer)[1].a
    assert np.sum(np.abs(poles) < 1) > 0.8 * poles.size
    for factor in (1.0, 8.0, 64.0, 512.0):
        layer.scan_formats = lambda f=factor: scaled(f)
        a, b, error = unit_coefficients(layer)
        unit = layer.scan_formats().x.scale.astype(float)[:, None]
        # Only states with a bound, at least where the test can wait for the worst input.
        calm = np.abs(a) < 0.995
        reach = impulse_norms(a, b)[0].max(-1) * u_top[:, None] + error * unit * rounding_gains(a)
        x = layer.scan_formats().x
        room = np.minimum(x.dequantize(x.high), -x.dequantize(x.low))[:, None]
        fits = calm & (reach < room)
        plan = plan_scan(layer.scan_formats(), *a.shape)
        codes = Saturation(layer).codes
        for n in range(a.shape[1]):
            only = fits[:, n]
            if not only.any():
                continue
            response = b[:, n, None] * a[:, n, None] ** np.arange(600)
            sign = np.where(response.real[:, ::-1] >= 0, 1.0, -1.0) * u_top[:, None] * only[:, None]
            u = formats.u.quantize(sign[None], 1)
            picked = [
                np.where(fits[..., None], z, f.quantize(np.zeros(z.shape))) for z, f in _pairs(codes, formats)
            ]
            _, _, lost = scan_codes(plan, u, *picked)
            assert lost.state.sum() == 0
    assert fits.sum() > 0.5 * fits.size  # the widest register holds most of the states


def _pairs(codes, formats):
    return zip(codes, (formats.a, formats.b, formats.c), strict=True)


def test_saturation_is_what_the_oracle_counts(quantized, digits):
    model = quantized(Scheme.uniform(poles=8, state=4, percentile=95))
    layer = layer_of(model)
    part = digits.split("test").take(20)
    counter = Saturation(layer)
    for _, u, _ in layer_inputs(model, part, 7):
        counter.add(u)
    (_, u, _) = next(iter(layer_inputs(model, part, 20)))
    f = layer.scan_formats()
    heads, states = counter.plan.heads, counter.plan.states
    *_, lost = scan_codes(counter.plan, f.u.quantize(u.numpy(), 1), *counter.codes)
    state, output = counter.shares()
    np.testing.assert_allclose(state, 100 * lost.state / (20 * 64 * states * 2))
    np.testing.assert_allclose(output, 100 * lost.output / (20 * 64))
    assert state.shape == (heads,)
    assert state.max() > 0.1


def test_saturation_stops_at_the_end_of_each_sequence(quantized, digits):
    model = quantized(Scheme.uniform(poles=8, state=4, percentile=90))
    (_, u, _) = next(iter(layer_inputs(model, digits.split("test").take(6), 6)))
    lengths = torch.tensor([64, 10, 10, 1, 64, 33])
    together, apart = Saturation(layer_of(model)), Saturation(layer_of(model))
    together.add(u, lengths)
    for i, end in enumerate(lengths.tolist()):
        apart.add(u[i : i + 1, :, :end])
    np.testing.assert_array_equal(together.state, apart.state)
    np.testing.assert_array_equal(together.output, apart.output)
    assert np.all(together.updates == int(lengths.sum()))
    assert np.all(apart.updates == together.updates)


@pytest.fixture
def inspected(quantized, digits):
    return inspect_model(quantized(SCHEMES["heads"]), digits, sequences=40)


def test_the_dataset_is_a_result(inspected, tmp_path):
    results.save(inspected, tmp_path / "i.nc")  # units and long names everywhere
    assert results.values_equal(results.load(tmp_path / "i.nc"), inspected)
    sizes = {"layer": 1, "stage": 2, "head": 8, "state": 16, "part": 2, "rounded": 4, "coefficient": 3}
    assert {name: inspected.sizes[name] for name in sizes} == sizes
    assert 64 in inspected["step"]
    assert inspected.attrs["register"] == "real"
    assert (inspected.attrs["sequences_calibration"], inspected.attrs["sequences_saturation"]) == (40, 40)
    for name in set(inspected.data_vars):
        assert not inspected[name].isnull().any(), name


def test_the_dataset_agrees_with_its_parts(inspected, quantized):
    ds = inspected.isel(layer=0)
    layer = layer_of(quantized(SCHEMES["heads"]))
    before, after, _ = rounded_coefficients(layer)
    poles = ds["pole"].sel(part="real") + 1j * ds["pole"].sel(part="imaginary")
    np.testing.assert_array_equal(poles.sel(stage="before"), before.a)
    np.testing.assert_array_equal(poles.sel(stage="after"), after.a)
    np.testing.assert_array_equal(ds["pole_displacement"], np.abs(after.a - before.a))
    outside = (ds["circle_distance"] <= 0).sum("state")
    np.testing.assert_array_equal(ds["poles_outside"], outside)
    assert outside.sel(stage="before").sum() == 0
    fmt = layer._source[0].format()
    np.testing.assert_allclose(ds["input_bound"], fmt.scale * fmt.magnitude(), rtol=1e-6)
    norms, _ = impulse_norms(before.a, before.b)
    expected = norms * ds["input_bound"].values[:, None, None]
    np.testing.assert_allclose(ds["bound_guaranteed"].sel(stage="before"), expected)
    unstable = np.abs(unit_coefficients(layer)[0]) >= 1
    np.testing.assert_array_equal(np.isinf(ds["bound_modulus"].sel(stage="after")), unstable)
    np.testing.assert_array_equal(ds["resolution"].isel(state=0), layer.scan_formats().x.scale)
    assert float(ds["bits_state"]) == 8


def test_bounds_are_ordered(inspected):
    ds = inspected.isel(layer=0)
    before = ds.sel(stage="before")
    # Observed without the quantized input: the encoder's codes clip a little.
    assert (ds["state_largest"] <= before["bound_guaranteed"] * 1.05).all()
    assert (ds["bound_calibrated"] <= ds["state_largest"]).all()
    assert (before["bound_guaranteed"] <= before["bound_modulus"] * (1 + 1e-12)).all()
    assert (ds["bits_guaranteed"] >= ds["bits_calibrated"]).mean() > 0.95
    assert (ds["saturated_state"] < 5).all()


def test_calibrated_bounds_are_percentiles_of_the_states(trained, digits):
    everything = len(digits.split("train"))
    ds = inspect_model(trained, digits, sequences=everything, percentile=97).isel(layer=0)
    u = torch.cat([u for _, u, _ in layer_inputs(trained.eval(), digits.split("train"), 200)]).numpy()
    a, b, _ = (z.detach().numpy() for z in layer_of(trained).discrete())
    x, seen = np.zeros((len(u), 16), complex), []
    for t in range(64):
        x = a[3] * x + b[3] * u[:, 3, t, None]
        seen.append(np.abs(x.real))
    expected = np.percentile(np.concatenate(seen), 97, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(ds["bound_calibrated"].values[3, :, 0], expected, rtol=1e-4)
    np.testing.assert_allclose(ds["input_bound"], np.abs(u).max((0, 2)), rtol=1e-6)


def test_full_precision(trained, digits):
    ds = inspect_model(trained, digits, sequences=30, bits=6)
    assert ds.attrs["register"] == "assumed"
    assert ds["saturated_state"].isnull().all()
    assert ds["saturated_output"].isnull().all()
    assert float(ds["bits_state"][0]) == 6
    assert ds["bits_coefficient"].values.tolist() == [[6, 6, 6]]
    assert float(ds["bits_calibrated"].max()) == 6  # the register is made for the largest state of each head
    fine = inspect_model(trained, digits, sequences=30, bits=12)
    assert (
        fine["kernel_error"].sel(rounded="all", step=64) < ds["kernel_error"].sel(rounded="all", step=64)
    ).all()


def test_a_quantized_model_with_a_state_in_full_precision(quantized, digits):
    none = dict.fromkeys(("state", "b", "encoder", "recurrent"))
    ds = inspect_model(quantized(Scheme(bits=Bits(**none))), digits, sequences=10).isel(layer=0)
    assert ds.attrs["register"] == "assumed"
    assert ds["saturated_state"].isnull().all()
    np.testing.assert_array_equal(ds["bits_coefficient"], [8, np.nan, 8])
    assert np.all(ds["kernel_error"].sel(rounded="b") == 0)
    assert (ds["input_bound"] > 0).all()


def test_every_layer_and_the_same_seed(deep, digits):
    model = quantize(deep, SCHEMES["heads"], *calibration_batch(digits, 4, most=50))
    done = []
    first = inspect_model(model, digits, sequences=12, seed=4, progress=lambda *p: done.append(p[:2]))
    assert first["layer"].values.tolist() == ["blocks.0.ssm", "blocks.1.ssm"]
    assert done[-1][0] == done[-1][1]
    assert results.values_equal(first, inspect_model(model, digits, sequences=12, seed=4))
    other = inspect_model(model, digits, sequences=12, seed=5)
    assert not np.array_equal(first["state_largest"], other["state_largest"])
    np.testing.assert_array_equal(first["bound_guaranteed"], other["bound_guaranteed"])


def test_more_sequences_than_there_are(trained, digits):
    ds = inspect_model(trained, digits, sequences=10**6, most_steps=10)
    assert ds.attrs["sequences_calibration"] == len(digits.split("train"))
    assert int(ds["step"][-1]) == 10


def test_bad_arguments(trained, digits):
    with pytest.raises(ImcSsmError, match="sequences = 0"):
        inspect_model(trained, digits, sequences=0)
    with pytest.raises(ImcSsmError, match="percentile 0"):
        inspect_model(trained, digits, percentile=0)
    with pytest.raises(ConfigError, match="5 input channels"):
        inspect_model(Classifier(ModelConfig(inputs=5)), digits)


def test_layers_of_other_widths_are_padded(digits: SequenceDataset) -> None:
    model = Classifier(ModelConfig(heads=(4, 6), n_state=8, dt_min=0.02, dt_max=0.5))
    ds = inspect_model(model, digits, sequences=4)
    assert dict(ds.sizes)["head"] == 6
    assert np.isnan(ds["input_bound"][0]).values.tolist() == [False] * 4 + [True] * 2
    assert np.isfinite(ds["input_bound"][1]).all()
