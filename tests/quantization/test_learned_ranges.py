"""Ranges that are learned: every quantizer's gradient is that of the straight-through estimator, training moves
them and leaves a model like any other, and a run goes on to the same parameters."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imc_ssm.datasets import SequenceDataset
from imc_ssm.errors import ConfigError
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.modelfile import StoredModel, load_model, save_model
from imc_ssm.quantization import Scheme, quantize
from imc_ssm.quantization.quantizer import Quantizer, learn_ranges, settle_ranges
from imc_ssm.quantization.states import QuantizedStateUnit
from imc_ssm.quantization.wrapping import quantizers_of
from imc_ssm.training import TrainConfig, _optimiser, train

LEARNED = TrainConfig(epochs=2, batch=128, learning_rate=1e-2, ranges="learned")
MODELS: dict[str, dict[str, Any]] = {
    "s4d": {},
    "norms": {"layers": 2, "norm": "layer", "prenorm": True, "final_norm": True},
    "batch": {"norm": "batch", "activation": "relu", "gate": "none"},
    "both ways": {"bidirectional": True, "norm": "rms"},
    "s5": {"layer": "s5"},
}


def made(digits: SequenceDataset, fields: dict[str, Any], scheme: Scheme) -> Classifier:
    torch.manual_seed(0)
    part = torch.from_numpy(digits.split("train").take(64).values)
    shape = {"heads": 4, "n_state": 8, "dt_min": 0.02, "dt_max": 0.4} | fields
    return quantize(Classifier(ModelConfig.parse(shape)), scheme, part)


def gradients(model: Classifier, u: Tensor) -> dict[str, Tensor]:
    """Of the ranges, of a weighted sum of the logits."""
    model.zero_grad()
    logits = model(u)
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal(logits.shape).astype(np.float32))
    (weight * logits).sum().backward()
    found = {}
    for path, quantizer in quantizers_of(model).items():
        if quantizer.log_factor is not None and quantizer.log_factor.grad is not None:
            found[path] = quantizer.log_factor.grad.clone()
    return found


def through(self: Quantizer, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """`Quantizer.forward` by torch's own differentiation: clamp(round(v / s)) s, straight-through."""
    if self.bits is None:
        return x
    fmt = self.channels()
    shape = [-1 if d == self.axis % x.ndim else 1 for d in range(x.ndim)] if fmt.scale.ndim else []
    s0, low, high = (
        torch.from_numpy(np.asarray(z, np.float64)).reshape(shape)
        for z in (fmt.scale, fmt.low - fmt.zero_point, fmt.high - fmt.zero_point)
    )
    assert self.log_factor is not None
    values = x.numel() / len(x) / max(1, self.log_factor.numel())
    # The gradient is multiplied by LSQ's size.
    moving = (self.log_factor.double() - self.log_factor.detach()) / math.sqrt(values * (2 ** (self.bits - 1) - 1))
    moving = moving.repeat(self.parts) if moving.ndim else moving
    scale = s0 * torch.exp(moving).reshape(shape)
    nearest = torch.round(x / s0.float()).double()
    kept = torch.clamp(nearest, low, high)
    ratio = x.double() / scale
    out = scale * (kept.detach() + (nearest == kept) * (ratio - ratio.detach()))
    return out.to(x.dtype)


@pytest.mark.parametrize("name", MODELS)
def test_gradients(name: str, digits: SequenceDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch finds them where every module is computed in full precision and then rounded."""
    model = made(digits, MODELS[name], Scheme.uniform(activations=4, state=8))
    learn_ranges(model)
    u = torch.from_numpy(digits.split("test").take(32).values)
    found = gradients(model, u)
    assert found.keys() == quantizers_of(model).keys()
    monkeypatch.setattr(Quantizer, "fixed", lambda self: None)
    monkeypatch.setattr(Quantizer, "forward", through)
    wanted = gradients(model, u)
    for path, one in found.items():
        if path.endswith(("state", "recurrent")):  # of the integer unit: tests/kernels/test_learned.py
            assert torch.isfinite(one).all()
            assert one.abs().max() > 0
        else:
            # A code that the integers round to another side is another gradient of one value.
            assert float((one - wanted[path]).norm()) <= 0.05 * float(wanted[path].norm()) + 1e-6, path


def test_a_model_without_learned_ranges_has_no_parameter_more(digits: SequenceDataset) -> None:
    model = made(digits, {}, Scheme())
    before = set(dict(model.named_parameters()))
    learn_ranges(model)
    assert len(set(dict(model.named_parameters())) - before) == len(quantizers_of(model))
    formats = {path: q.format() for path, q in quantizers_of(model).items()}
    settle_ranges(model)
    assert set(dict(model.named_parameters())) == before
    for path, q in quantizers_of(model).items():
        assert np.array_equal(q.format().scale, formats[path].scale)


def test_powers_of_two_stay_powers_of_two(digits: SequenceDataset) -> None:
    model = made(digits, {}, Scheme.uniform(state=6, scales="power_of_two"))
    before = {path: q.format().scale for path, q in quantizers_of(model).items()}
    learn_ranges(model)
    with torch.no_grad():
        for q in quantizers_of(model).values():
            assert q.log_factor is not None
            q.log_factor.copy_(torch.linspace(-1.5, 1.5, q.log_factor.numel()).reshape(q.log_factor.shape))
    for path, q in quantizers_of(model).items():
        assert q.log_factor is not None
        steps = np.rint(q.log_factor.detach().numpy() / np.log(2))
        assert np.array_equal(q.format().scale, before[path] * np.exp2(steps).astype(np.float32)), path
    assert np.ptp(np.log2(quantizers_of(model)["encoder"].format().scale / before["encoder"])) > 2
    gradients(model, torch.from_numpy(digits.split("test").take(8).values))  # straight through the rounding
    assert all(q.log_factor.grad.abs().max() > 0 for q in quantizers_of(model).values())  # type: ignore[union-attr]
    scales = {path: q.format().scale for path, q in quantizers_of(model).items()}
    settle_ranges(model)
    for path, q in quantizers_of(model).items():
        assert np.array_equal(q.format().scale, scales[path])
        assert (np.frexp(q.format().scale)[0] == 0.5).all()


def test_groups(digits: SequenceDataset) -> None:
    model = made(digits, {}, Scheme())
    config = TrainConfig(learning_rate=0.1, learning_rate_ssm=1e-3, learning_rate_ranges=1e-4, weight_decay=0.1)
    plain, _ = _optimiser(model, config, 10)
    assert [g["initial_lr"] for g in plain.param_groups] == [0.1, 1e-3]
    learn_ranges(model)
    optimiser, _ = _optimiser(model, config, 10)
    assert [g["initial_lr"] for g in optimiser.param_groups] == [0.1, 1e-3, 1e-4]
    assert [g["weight_decay"] for g in optimiser.param_groups] == [0.1, 0.0, 0.0]
    factors = {id(q.log_factor) for q in quantizers_of(model).values()}
    assert {id(p) for p in optimiser.param_groups[2]["params"]} == factors
    usual, _ = _optimiser(model, TrainConfig(learning_rate=3e-3), 10)
    assert usual.param_groups[2]["initial_lr"] == 3e-3


class TestTraining:
    def test_moves_scales_and_leaves_an_ordinary_model(self, digits: SequenceDataset, tmp_path: Path) -> None:
        model = made(digits, {}, Scheme.uniform(state=6, activations=4))
        before = {path: q.format() for path, q in quantizers_of(model).items()}
        train(model, digits, LEARNED)
        for path, q in quantizers_of(model).items():
            assert q.log_factor is None
            moved = np.abs(np.log(q.format().scale / before[path].scale))
            assert 0 < moved.max() < 0.5, path
            assert np.array_equal(q.format().zero_point, before[path].zero_point)
        u = torch.from_numpy(digits.split("test").take(16).values)
        save_model(tmp_path / "q.safetensors", StoredModel(model, model.scheme))
        assert torch.equal(load_model(tmp_path / "q.safetensors").model(u), model(u))
        state, logits = model.init_state(len(u)), torch.zeros(0)
        for t in range(u.shape[1]):
            logits, state = model.step(u[:, t], state)
        assert torch.equal(logits, model(u))

    def test_calibrated_is_the_run_without(self, digits: SequenceDataset) -> None:
        start = made(digits, {}, Scheme())
        models = [copy.deepcopy(start), copy.deepcopy(start)]
        for model, config in zip(models, (LEARNED.with_(ranges="calibrated"), TrainConfig()), strict=True):
            train(model, digits, config.with_(epochs=1, batch=128, learning_rate=1e-2))
        for one, two in zip(*(m.state_dict().values() for m in models), strict=True):
            assert torch.equal(one, two)

    @pytest.mark.parametrize("stop", [8, 17])
    def test_goes_on_to_the_same_parameters(self, stop: int, digits: SequenceDataset, tmp_path: Path) -> None:
        path, start = tmp_path / "run.safetensors", made(digits, {}, Scheme.uniform(state=6))
        whole, cut, again = (copy.deepcopy(start) for _ in range(3))
        expected = train(whole, digits, LEARNED)

        def interrupt(done: int, total: int, note: str) -> None:
            if done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(cut, digits, LEARNED, checkpoint=path, progress=interrupt)
        assert all(q.log_factor is None for q in quantizers_of(cut).values())
        history = train(again, digits, LEARNED, checkpoint=path)
        assert history.loss_train == expected.loss_train
        for one, two in zip(*(m.state_dict().values() for m in (again, whole)), strict=True):
            assert torch.equal(one, two)

    def test_with_chunks_and_a_teacher(self, digits: SequenceDataset) -> None:
        start = made(digits, {}, Scheme.uniform(state=6))
        exact = Classifier(ModelConfig(heads=4, n_state=8, dt_min=0.02, dt_max=0.4))
        found = []
        for size in (None, 50):
            model = copy.deepcopy(start)
            config = LEARNED.with_(epochs=1, distill=0.5, micro_batch=size)
            found.append(train(model, digits, config, teacher=exact).loss_train[0])
        assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_dynamic_ranges_stay_dynamic(digits: SequenceDataset) -> None:
    model = made(digits, {}, Scheme(state_calibration="dynamic"))
    train(model, digits, LEARNED.with_(epochs=1))
    with pytest.raises(ConfigError, match=r"no static ranges to learn \(its ranges follow each batch\)"):
        learn_ranges(made(digits, {}, Scheme(calibration="dynamic", state_calibration="dynamic")))
    with pytest.raises(ConfigError, match=r"no static ranges to learn \(it is in full precision\)"):
        train(Classifier(ModelConfig(heads=4)), digits, LEARNED)


def test_of_the_states_between_matrices(digits: SequenceDataset) -> None:
    """S5's states, step by step in double precision, with saturation."""
    model = made(digits, {"layer": "s5", "n_state": 8}, Scheme.uniform(state=6))
    (unit,) = (m for m in model.modules() if isinstance(m, QuantizedStateUnit))
    unit.state.scale *= 0.25
    learn_ranges(model)
    seen: list[Tensor] = []
    handle = unit.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    model(torch.from_numpy(digits.split("test").take(6).values))
    handle.remove()
    x = unit(seen[0])
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal(x.shape))
    (weight * x).sum().backward()
    a, b, formats = unit._coefficients()
    grids = []
    for name, z in (("poles", a), ("b", b)):
        pairs = torch.view_as_real(z.detach().resolve_conj()).numpy()
        codes = formats[name].dequantize(formats[name].quantize(pairs))
        grids.append(torch.view_as_complex(torch.from_numpy(codes)))
    fmt = unit.state.format()
    s0, low, high = (
        torch.from_numpy(np.asarray(z, np.float64))[:, None]
        for z in (fmt.scale, fmt.low - fmt.zero_point, fmt.high - fmt.zero_point)
    )
    factor = torch.zeros(len(a), dtype=torch.float64, requires_grad=True)
    scale = s0 * torch.exp(factor)[:, None]
    drive = torch.complex(*seen[0].double().chunk(2, -1))
    state, steps = torch.zeros_like(drive[:, 0]), []
    for t in range(drive.shape[1]):
        ratio = torch.view_as_real(grids[0] * state + grids[1] * drive[:, t]) / scale
        codes_ = torch.clamp(torch.round(ratio), low, high).detach()
        inside = torch.round(ratio) == codes_
        state = torch.view_as_complex(scale * (codes_ + inside * (ratio - ratio.detach())))
        steps.append(torch.cat([state.real, state.imag], -1))
    same = torch.stack(steps, 1)
    torch.testing.assert_close(same.detach(), x.detach().double(), rtol=1e-5, atol=1e-5)
    (weight * same).sum().backward()
    size = 1 / math.sqrt(2 * x.shape[1] * 31)
    assert unit.state.log_factor is not None
    assert factor.grad is not None
    found = unit.state.log_factor.grad
    assert found is not None
    torch.testing.assert_close(
        found.double(), size * factor.grad, rtol=1e-2, atol=1e-2 * float(size * factor.grad.abs().max())
    )
