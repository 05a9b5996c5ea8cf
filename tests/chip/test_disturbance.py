"""Training on a design's chips: what a step computes, its gradients, its draws, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chip_cases import chip_of, ideal
from scipy import stats
from torch import Tensor, nn

from imc_ssm.chip import DAY, AnalogLinear, ChipDisturbance, compile, map_matrix
from imc_ssm.datasets import SequenceDataset
from imc_ssm.devices import Chip, load_cell
from imc_ssm.errors import CheckpointError, ConfigError, DesignError
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.modelfile import StoredModel, load_model, save_model
from imc_ssm.noise import Injection, Step, matrices_of
from imc_ssm.quantization import Scheme
from imc_ssm.training import TrainConfig, train

SHAPE = (16, 24)  # outputs, inputs


def met(chip: Chip | str = "pcm-256", **given: Any) -> ChipDisturbance:
    return ChipDisturbance.parse({"chip": chip, "earliest": DAY, "latest": DAY} | given)


def weights(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def inputs(count: int = 200) -> Tensor:
    return torch.randn(count, SHAPE[1], generator=torch.Generator().manual_seed(9))


def errors(chips: int, weight: Tensor, disturbance: ChipDisturbance) -> np.ndarray:
    """Relative to the columns' largest, of so many steps."""
    peak = weight.abs().amax(1, keepdim=True)
    x = inputs()
    made = [disturbance.analog(0, "m", Step(n, 1), weight, 2.0, x).weight[0] for n in range(chips)]
    return torch.stack([(noisy - weight) / peak for noisy in made]).numpy().ravel()


def programmed(chips: int, weight: Tensor, chip: Chip, time: float) -> np.ndarray:
    """The same of chips that are made as `evaluate` makes them."""
    mapped = map_matrix("m", "m", weight.numpy(), None, chip, input_range=2.0)
    peak = weight.abs().amax(1, keepdim=True)
    tile = AnalogLinear(mapped, chip, index=0)
    made = [tile.program(0, n).set_time(time).weight[0] for n in range(chips)]
    return torch.stack([(noisy - weight) / peak for noisy in made]).numpy().ravel()


class TestStatistics:
    @pytest.mark.parametrize("design", ["pcm-256", "reram-128"])
    def test_weights_are_those_of_chips_that_are_programmed(self, design: str) -> None:
        chip, weight = chip_of(design), weights()
        found = errors(60, weight, met(chip))
        assert stats.ks_2samp(found, programmed(60, weight, chip, DAY)).pvalue > 1e-4
        assert stats.ks_2samp(found, programmed(60, weight, chip, 1.0)).pvalue < 1e-6  # it would see another age

    def test_every_step_is_another_chip_and_the_same_again(self) -> None:
        disturbance, weight = met(), weights()
        x = inputs()
        first, again, other, seeded = (
            disturbance.analog(0, "m", step, weight, 2.0, x).weight[0]
            for step in (Step(3, 1), Step(3, 1), Step(4, 1), Step(3, 2))
        )
        assert torch.equal(first, again)
        assert abs(np.corrcoef((first - weight).ravel(), (other - weight).ravel())[0, 1]) < 0.4
        assert abs(np.corrcoef((first - weight).ravel(), (seeded - weight).ravel())[0, 1]) < 0.4
        mapped = map_matrix("m", "m", weight.numpy(), None, disturbance.chip, input_range=2.0)
        evaluated = AnalogLinear(mapped, disturbance.chip, index=0).program(1, 3).set_time(DAY).weight[0]
        assert not torch.equal(first, evaluated)  # none that `evaluate` programs

    def test_ages_are_even_in_their_logarithm(self) -> None:
        disturbance = met(earliest=1.0, latest=1e6)
        ages = np.log10([disturbance.time(Step(n, 0)) for n in range(2000)])
        assert stats.kstest(ages, stats.uniform(0, 6).cdf).pvalue > 1e-4
        measured = met("reram-wan-64", earliest=1.0, latest=86400.0)
        times = [measured.time(Step(n, 0)) for n in range(400)]
        assert set(times) == {1.0, 86400.0}
        assert stats.binomtest(times.count(1.0), 400, 0.5).pvalue > 1e-4

    def test_faults_are_drawn_in_every_step_or_stay(self) -> None:
        cell = {"stuck_low": {"value": 0.2, "unit": "1", "source": "assumed: many"}}
        noiseless = {"programming_error": None, "read_noise": None, "read_noise_1f": None, "drift": None}
        chip = chip_of("reram-128").with_(cell=load_cell("generic-reram").with_(**cell, **noiseless))
        weight = torch.full(SHAPE, 1.0)

        def lost(n: int, devices: str) -> Tensor:
            tile = met(chip, devices=devices).analog(0, "m", Step(n, 0), weight, 2.0, inputs())
            assert tile.programmed is not None
            return torch.from_numpy(tile.programmed.devices.g[0, 0, 0, 0] < 0.9 * chip.cell.g_max.value)

        share = float(torch.stack([lost(n, "drawn") for n in range(40)]).double().mean())
        assert stats.binomtest(round(share * 40 * weight.numel()), 40 * weight.numel(), 0.2).pvalue > 1e-4
        assert not torch.equal(lost(0, "drawn"), lost(1, "drawn"))
        assert torch.equal(lost(1, "fixed"), lost(7, "fixed"))
        assert 0.1 < float(lost(1, "fixed").double().mean()) < 0.3


class TestProduct:
    def test_is_what_the_tile_computes(self) -> None:
        disturbance, weight, x, step = met(), weights(), inputs(), Step(5, 2)
        tile = disturbance.analog(1, "m", step, weight, 2.0, x)
        assert torch.equal(disturbance.product(1, "m", step)(x, weight, 2.0), tile(x))

    def test_a_strength_scales_every_error(self) -> None:
        disturbance, weight, x = met(), weights(), inputs()
        clean = nn.functional.linear(x, weight)
        full = disturbance.product(0, "m", Step(0, 0))(x, weight, 2.0) - clean
        half = disturbance.product(0, "m", Step(0, 0, 0.5))(x, weight, 2.0) - clean
        assert torch.allclose(half, full / 2, atol=1e-5)
        assert float(full.abs().mean()) > 0.01

    def test_gradients(self) -> None:
        """Of W~ clip(x): to clean weights, to inputs that are not clipped, to the range of those that are."""
        chip = chip_of(dac=ideal(16), adc=ideal(16), noise=0.0)
        disturbance, step = met(chip), Step(0, 0)
        weight, x = weights().requires_grad_(), inputs().requires_grad_()
        span = torch.tensor(1.5, requires_grad=True)
        g = torch.randn(len(x), SHAPE[0])
        (disturbance.product(0, "m", step)(x, weight, span) * g).sum().backward()
        noisy = disturbance.analog(0, "m", step, weight, 1.5, x).weight[0]
        clipped = x.detach().clamp(-1.5, 1.5)
        assert weight.grad is not None
        assert x.grad is not None
        assert span.grad is not None
        assert torch.allclose(weight.grad, g.T @ clipped, atol=1e-2)
        back = g @ noisy
        assert torch.allclose(x.grad, back * (x.detach().abs() <= 1.5), atol=1e-5)
        of_span = float((back * x.detach().sign() * (x.detach().abs() > 1.5)).sum()) / x.numel() ** 0.5
        assert float(span.grad) == pytest.approx(of_span, rel=0.02)

    def test_read_noise_speaks_for_a_smaller_range(self) -> None:
        """The mean square of the error falls with the range where nothing is clipped: its gradient is positive."""
        chip, weight, x = chip_of(noise=0.2), weights(), inputs().clamp(-2, 2)
        clean, found = nn.functional.linear(x, weight), []
        for n in range(20):
            span = torch.tensor(8.0, requires_grad=True)
            y = met(chip).product(0, "m", Step(n, 0))(x, weight, span)
            (y - clean).square().mean().backward()
            found.append(float(span.grad))  # type: ignore[arg-type]
        assert np.mean(found) > 4 * np.std(found) / 20**0.5 > 0

    def test_more_inputs_than_rows(self) -> None:
        disturbance, weight, x = met(chip_of(rows=10, columns=7, columns_per_adc=7)), weights(), inputs()
        step = Step(0, 0)
        y = disturbance.product(0, "m", step)(x, weight, 3.0)
        tile = disturbance.analog(0, "m", step, weight, 3.0, x)
        assert len(tile.mapped.tiles) == 9
        assert torch.equal(y, tile(x))
        assert float((tile.weight[0] - weight).abs().max()) < 0.5 * float(weight.abs().max())


class TestInjection:
    def test_every_matrix_meets_its_tile_and_is_itself_again(self, quantized: Callable[..., Classifier]) -> None:
        model, u = quantized(Scheme()), torch.randn(6, 64, 1)
        with torch.no_grad():
            clean = model(u)
            with Injection(model, disturbance=met(), step=Step(0, 0)):
                first = model(u)
            with Injection(model, disturbance=met(), step=Step(0, 0)):
                again = model(u)
            with Injection(model, disturbance=met(), step=Step(1, 0)):
                other = model(u)
            assert torch.equal(model(u), clean)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert not torch.equal(first, clean)
        assert not any("forward" in vars(product) for product in matrices_of(model).values())

    def test_outputs_are_on_their_grids(self, quantized: Callable[..., Classifier]) -> None:
        model, seen = quantized(Scheme()), []
        handle = model.encoder.register_forward_hook(lambda _, __, y: seen.append(y))
        with torch.no_grad(), Injection(model, disturbance=met(), step=Step(0, 0)):
            model(torch.randn(4, 64, 1))
        handle.remove()
        fmt = model.encoder.output.format()  # type: ignore[union-attr, operator]
        codes = fmt.quantize(seen[0].numpy(), -1)
        assert torch.equal(torch.from_numpy(fmt.dequantize(codes, -1)).float(), seen[0])

    def test_inputs_of_zeros(self, trained: Classifier) -> None:
        with torch.no_grad(), Injection(trained, disturbance=met(), step=Step(0, 0)):
            assert torch.isfinite(trained(torch.zeros(2, 64, 1))).all()


QUICK = TrainConfig(epochs=2, batch=100, learning_rate=1e-3)


class Interrupted(Exception):
    """What stops a run in a test."""


class TestTraining:
    @pytest.mark.parametrize("ranges", ["calibrated", "learned"])
    def test_goes_on_to_the_same_parameters(
        self, ranges: str, quantized: Callable[..., Classifier], digits: SequenceDataset, tmp_path: Path
    ) -> None:
        config, path = QUICK.with_(input_ranges=ranges, noise_ramp=1.5), tmp_path / "run.safetensors"
        whole, cut = quantized(Scheme()), quantized(Scheme())
        given: dict[str, Any] = {"disturbance": met(earliest=1.0)}
        expected = train(whole, digits, config, **given)

        def stop(done: int, total: int, note: str) -> None:
            if done == total // 2 + 3:
                raise Interrupted

        with pytest.raises(Interrupted):
            train(cut, digits, config, checkpoint=path, progress=stop, **given)
        again = quantized(Scheme())
        found = train(again, digits, config, checkpoint=path, **given)
        assert found.loss_train == expected.loss_train
        there = whole.state_dict()
        assert all(torch.equal(value, there[name]) for name, value in again.state_dict().items())

    def test_a_checkpoint_of_another_chip_is_refused(
        self, quantized: Callable[..., Classifier], digits: SequenceDataset, tmp_path: Path
    ) -> None:
        path = tmp_path / "run.safetensors"

        def stop(done: int, total: int, note: str) -> None:
            if done == total // 2 + 1:
                raise Interrupted

        with pytest.raises(Interrupted):
            train(quantized(Scheme()), digits, QUICK, checkpoint=path, progress=stop, disturbance=met())
        for other in (None, met("reram-128"), met(latest=2 * DAY)):
            with pytest.raises(CheckpointError, match="disturbance"):
                train(quantized(Scheme()), digits, QUICK, checkpoint=path, disturbance=other)

    def test_learned_ranges_are_stored_and_compiled(
        self, quantized: Callable[..., Classifier], digits: SequenceDataset, tmp_path: Path
    ) -> None:
        model = quantized(Scheme())
        config = QUICK.with_(input_ranges="learned", epochs=1, learning_rate=1e-2)
        train(model, digits, config, disturbance=met())
        learned = {path: product.input_range for path, product in matrices_of(model).items()}
        save_model(tmp_path / "m.safetensors", StoredModel(model, Scheme()))
        again = load_model(tmp_path / "m.safetensors").model
        assert {path: product.input_range for path, product in matrices_of(again).items()} == learned
        deployment = compile(again, "pcm-256", digits)
        assert {m.module: m.input_range for m in deployment.matrices} == learned
        deployment.save(tmp_path / "d.safetensors")
        assert type(deployment).load(tmp_path / "d.safetensors").digest() == deployment.digest()
        started = compile(quantized(Scheme()), "pcm-256", digits)
        moved = [abs(m.input_range / learned[m.module] - 1) for m in started.matrices]  # type: ignore[operator]
        assert max(moved) > 0.01
        assert max(moved) < 1.0

    def test_what_is_kept_is_the_last(self, digits: SequenceDataset) -> None:
        """Accuracy without noise, which falls from the first epoch on here, does not choose the epoch."""
        model = Classifier(ModelConfig(heads=4, n_state=4))
        ends: list[Tensor] = []

        def look(done: int, total: int, note: str) -> None:
            if "validation" in note:
                ends.append(model.decoder.weight.detach().clone())

        # a rate that falls to nothing: the second epoch changes little, and accuracies may be the same
        train(model, digits, QUICK, disturbance=met(), progress=look)
        assert torch.equal(model.decoder.weight, ends[-1])
        assert not torch.equal(ends[0], ends[1])


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"latest": 1.0}, "before earliest"),
            ({"earliest": 0.0, "latest": 1e30}, "no model at 1e"),
            ({"chip": "pcm-257"}, "pcm-256"),
            ({"devices": "none"}, "devices"),
            ({"input_percentile": 40.0}, "input_percentile"),
        ],
    )
    def test_one_error(self, given: dict[str, Any], said: str) -> None:
        with pytest.raises((ConfigError, DesignError), match=said) as caught:
            met(**given)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["noise", "noise_output", "noise_multiplicative"])
    def test_noise_beside_it(self, name: str, trained: Classifier, digits: SequenceDataset) -> None:
        with pytest.raises(ConfigError, match=f"{name} = 0.05 beside a disturbance"):
            train(trained, digits, QUICK.with_({name: 0.05}), disturbance=met())

    def test_what_has_no_matrices_or_no_grid(self, trained: Classifier, digits: SequenceDataset) -> None:
        with pytest.raises(ConfigError, match="no matrix on analog tiles"):
            train(nn.Linear(1, 10), digits, QUICK, disturbance=met())
        with pytest.raises(ConfigError, match="quantize it first"):
            train(trained, digits, QUICK.with_(input_ranges="learned"), disturbance=met())

    def test_a_matrix_larger_than_the_chip(self) -> None:
        disturbance = met(chip_of(rows=8, columns=8, columns_per_adc=8, tiles=2))
        with pytest.raises(DesignError, match="tiles"):
            disturbance.product(0, "m", Step(0, 0))(inputs(), weights(), 1.0)
