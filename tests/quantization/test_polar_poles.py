"""Poles with words for decay and phase: in training, in the unit, in files and on chips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from quantized_runs import check_batch_stream_and_partition, check_oracle, some, ssm_of

from imc_ssm import analysis, compile_model, load_model, save_model
from imc_ssm.chip import Deployment
from imc_ssm.datasets import SequenceDataset
from imc_ssm.fixedpoint import plan_scan
from imc_ssm.graph import Recurrence, StateUpdate
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.noise import Injection
from imc_ssm.quantization import Bits, Rule, Scheme, formats_of, quantize
from imc_ssm.quantization.poles import grid_of, polar
from imc_ssm.quantization.rules import FormatSpec
from imc_ssm.training import TrainConfig, train

SCHEMES = {
    "polar": Scheme(pole_form="polar"),
    "log_polar": Scheme(pole_form="log_polar", pole_decay_bits=3).with_(poles=5),
    "separate, symmetric": Scheme(pole_form="log_polar", symmetric=True, rounding_placement="separate"),
    "per state, per tensor": Scheme(
        pole_form="log_polar",
        rules=(*Scheme().rules, Rule(path="state", granularity="state"), Rule(path="poles", granularity="tensor")),
    ),
    "short multipliers": Scheme(pole_form="log_polar", pole_multiplier_bits=8),
}


@pytest.mark.parametrize("name", SCHEMES)
@torch.no_grad()
def test_unit_and_stream_and_oracle_agree(
    name: str, quantized: Callable[[Scheme], Classifier], digits: SequenceDataset
) -> None:
    model = quantized(SCHEMES[name])
    formats = check_oracle(model, some(digits))
    assert formats.a.bits == SCHEMES[name].pole_multiplier_bits
    check_batch_stream_and_partition(model, some(digits))


@torch.no_grad()
def test_the_unit_multiplies_by_the_points_of_the_grid(quantized: Callable[[Scheme], Classifier]) -> None:
    ssm = ssm_of(quantized(SCHEMES["log_polar"]))
    grid, (exact, *_), (a, *_, formats) = ssm.pole_grid(), ssm.exact(), ssm.coefficients()
    assert grid is not None
    assert (grid.decay_bits, grid.phase_bits) == (3, 5)
    held = grid.quantize(exact.numpy())
    scale = formats["a"].scale[:, None]
    assert np.all(np.abs(a.numpy() - held) <= scale)
    assert np.all(np.abs(a.numpy()) < 1)
    assert len(np.unique(np.abs(held).round(12))) <= 8 * len(held)
    plan = plan_scan(ssm.scan_formats(), *ssm.shape)
    used = plan.m_a / np.exp2(plan.shift)
    assert np.all(np.abs(a.numpy() * used / formats["a"].scale[:, None]) <= 1 + 2.0**-12)


@torch.no_grad()
def test_full_precision_states_are_near(
    quantized: Callable[[Scheme], Classifier], trained: Classifier, digits: SequenceDataset
) -> None:
    """Poles alone rounded: with 16 bits nothing moves, with 3 + 5 less than with 8 + 8 Cartesian ones."""

    def error(scheme: Scheme) -> float:
        u = some(digits, 40)
        return float((quantized(scheme)(u) - trained(u)).square().mean().sqrt())

    alone = Scheme(bits=Bits.only(poles=16), pole_form="log_polar")
    assert error(alone) < 1e-2
    few = alone.with_(poles=5).with_(pole_decay_bits=3)
    assert error(few) < error(Scheme(bits=Bits.only(poles=4)))


class TestGradient:
    @pytest.mark.parametrize("form", ["polar", "log_polar"])
    def test_is_straight_through_decay_and_phase(self, form: str) -> None:
        """Against the derivative of the same map by finite differences of decay and phase."""
        rng = np.random.default_rng(0)
        a = torch.from_numpy(0.9 ** rng.uniform(0.1, 9, (2, 9)) * np.exp(1j * rng.uniform(0, 2, (2, 9))))
        a.requires_grad_()
        scheme, spec = Scheme(pole_form=form, pole_decay_bits=3), FormatSpec(4)
        held, _ = polar(a, scheme, spec)  # type: ignore[misc]
        weight = torch.from_numpy(rng.standard_normal((2, 9)) + 1j * rng.standard_normal((2, 9)))
        (held * weight.conj()).real.sum().backward()
        grid = grid_of(a, scheme, spec)
        assert grid is not None
        assert a.grad is not None
        exact, points = a.detach().numpy(), grid.quantize(a.detach().numpy())

        def moved(by: np.ndarray) -> np.ndarray:
            """The points where decay and phase move as much as those of the poles do."""
            new = exact + by
            turn = np.exp(1j * (np.angle(points) + np.angle(new / exact)))
            if form == "polar":
                return (np.abs(points) + np.abs(new) - np.abs(exact)) * turn
            shift = np.log(np.log(np.abs(new)) / np.log(np.abs(exact)))
            return np.exp(np.log(np.abs(points)) * np.exp(shift)) * turn

        step = 1e-6
        for unit, part in ((1.0, a.grad.real), (1j, a.grad.imag)):
            slope = (moved(step * unit * np.ones_like(exact)) - moved(-step * unit * np.ones_like(exact))) / (
                2 * step
            )
            assert np.allclose((slope * weight.numpy().conj()).real, part.numpy(), rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("form", ["polar", "log_polar"])
    def test_no_decay_passes_outside_the_circle(self, form: str) -> None:
        a = torch.tensor([[0.5, 0.8, 1.2 + 0j, 0.0]], dtype=torch.complex64, requires_grad=True)
        held, _ = polar(a, Scheme(pole_form=form), FormatSpec(8))  # type: ignore[misc]
        held.real.sum().backward()
        assert a.grad is not None
        assert torch.isfinite(torch.view_as_real(a.grad)).all()
        assert a.grad[0, 2].real == 0
        assert a.grad[0, 0].real != 0

    @pytest.mark.parametrize("parameterisation", ["continuous", "discrete", "frozen"])
    def test_training_follows(
        self, parameterisation: str, quantized: Callable[[Scheme], Classifier], digits: SequenceDataset
    ) -> None:
        scheme = Scheme.parse({"pole_form": "log_polar", "parameterisation": parameterisation}).with_(poles=4)
        model = quantized(scheme)
        ssm = ssm_of(model)
        before = ssm.coefficients()[0].detach().clone()
        train(model, digits, TrainConfig(epochs=1, batch=256, learning_rate=1e-2))
        after = ssm.coefficients()[0].detach()
        assert torch.all(after.abs() < 1)
        assert torch.equal(before, after) == (parameterisation == "frozen")
        check_batch_stream_and_partition(model.eval(), some(digits))


@torch.no_grad()
def test_files_keep_them(
    quantized: Callable[[Scheme], Classifier], digits: SequenceDataset, tmp_path: Path
) -> None:
    model = quantized(SCHEMES["log_polar"])
    save_model(tmp_path / "m.safetensors", model)
    again = load_model(tmp_path / "m.safetensors").model
    u = some(digits)
    assert torch.equal(model(u), again(u))
    ours, theirs = ssm_of(model).pole_grid(), ssm_of(again).pole_grid()
    assert ours is not None
    assert theirs is not None
    exact = ssm_of(model).exact()[0].numpy()
    assert all(np.array_equal(p, q) for p, q in zip(ours.codes(exact), theirs.codes(exact), strict=True))


def test_deployments_know_both_words(
    quantized: Callable[[Scheme], Classifier], digits: SequenceDataset, tmp_path: Path
) -> None:
    """What is stored of a pole, and what the unit multiplies with."""
    model = quantized(SCHEMES["log_polar"].with_(biases=16))
    deployment = compile_model(model, "hermes-256", digits)
    deployment.save(tmp_path / "d.safetensors")
    for one in (deployment, Deployment.load(tmp_path / "d.safetensors")):
        [op] = [op for op in one.graph if isinstance(op, Recurrence)]
        assert op.pole_words == (3, 5)
        assert one.formats[f"{op.module}.poles"].bits == 16


@torch.no_grad()
def test_analysis_shows_both_sides(quantized: Callable[[Scheme], Classifier]) -> None:
    """Before: the poles as trained; after: what the unit multiplies with, all inside the circle."""
    ssm = ssm_of(quantized(SCHEMES["log_polar"]))
    before, after, _ = analysis.layers.rounded_coefficients(ssm)
    assert np.allclose(before.a, ssm.exact()[0].numpy())
    assert np.all(np.abs(after.a) < 1)
    assert not np.allclose(before.a, after.a)
    assert np.allclose(after.a, ssm.coefficients()[0].numpy(), atol=1e-6)


@torch.no_grad()
def test_states_between_matrices(digits: SequenceDataset) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = Classifier(ModelConfig.parse({"heads": 6, "layer": {"type": "s5", "n_state": 24}}))
    model = quantize(plain, Scheme(pole_form="log_polar", pole_decay_bits=4), digits)
    [op] = [op for op in model.graph() if isinstance(op, StateUpdate)]
    assert op.pole_words == (4, 8)
    assert formats_of(model)[f"{op.module}.poles"].bits == 16
    grid = model.get_submodule(op.module).pole_grid()
    assert grid.decay_start.shape == ()
    check_batch_stream_and_partition(model, some(digits))


@torch.no_grad()
def test_slow_heads_have_the_poles_of_their_steps(quantized: Callable[[Scheme], Classifier]) -> None:
    ssm = ssm_of(quantized(Scheme(pole_form="log_polar", rate_limit=3.0, max_period=4)))
    periods = ssm.rates()
    assert periods is not None
    exact, held = ssm.exact()[0].numpy(), ssm.coefficients()[0].numpy()
    assert np.allclose(exact, ssm.inner.discrete()[0].numpy() ** np.array(periods)[:, None], rtol=1e-4)
    grid = ssm.pole_grid()
    assert grid is not None
    assert np.abs(held - grid.quantize(exact)).max() < 2.0**-14


@torch.no_grad()
def test_noise_comes_on_top_of_the_grid(
    quantized: Callable[[Scheme], Classifier], digits: SequenceDataset
) -> None:
    """Not rounded away by the grid of decay and phase again; the unit multiplies with finer Cartesian words."""
    model = quantized(Scheme(pole_form="log_polar", pole_decay_bits=2).with_(poles=4))
    ssm, u = ssm_of(model), some(digits)
    held, clean = ssm.coefficients()[0], model(u)
    with Injection(model, poles=0.05):
        noisy, *_, formats = ssm.coefficients()
        assert formats["a"].bits == 16
        moved = torch.view_as_real(noisy - held) / torch.view_as_real(held).abs().amax((1, 2))[:, None, None]
        assert 0.04 < float(moved.std()) < 0.06
        assert not torch.equal(model(u), clean)
    assert torch.equal(ssm.coefficients()[0], held)
    assert torch.equal(model(u), clean)
