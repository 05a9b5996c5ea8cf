"""A chip lets gradients through: of the sums as they are without noise and rounding, to whatever is in front."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from chip_cases import chip_of, ideal

from imc_ssm.chip import AnalogLinear, compile, map_matrix
from imc_ssm.datasets import SequenceDataset
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Scheme, calibration_batch

Make = Callable[[Scheme], Classifier]


@pytest.mark.parametrize("bits", [6, 16])
def test_it_is_the_weights_of_the_devices(bits: int) -> None:
    """d y_j / d x_i = scale_j alpha w_ij of the programmed chip, over several row and column tiles."""
    chip = chip_of(rows=8, columns=4, columns_per_adc=4, dac=ideal(bits), adc=ideal(bits))
    weight = np.random.default_rng(0).normal(size=(6, 20))
    layer = AnalogLinear(map_matrix("m", "m", weight, np.ones(6), chip, input_range=3.0), chip).program(1, 0)
    layer.set_time("1d")
    assert layer.programmed is not None
    x = torch.linspace(-1, 1, 20).repeat(5, 1).requires_grad_()
    y = layer(x)
    torch.manual_seed(0)
    direction = torch.randn(5, 6)
    (gradient,) = torch.autograd.grad(y, x, direction)
    (now,) = layer.programmed.weights("1d")
    effective = np.zeros((20, 6))
    for tile, alpha in zip(layer.mapped.tiles, layer.alphas, strict=True):
        part = (slice(*tile.row), slice(*tile.column))
        effective[part] = now[part] * layer.mapped.scale[part[1]] * alpha
    np.testing.assert_allclose(gradient.numpy(), direction.numpy() @ effective.T, rtol=2e-4, atol=1e-4)


def test_it_is_zero_where_a_converter_saturates() -> None:
    chip = chip_of()
    mapped = map_matrix("m", "m", [[1.0, 0.5], [-1.0, 0.2]], None, chip, input_range=1.0, output_ranges=[0.9])
    layer = AnalogLinear(mapped, chip)
    x = torch.tensor([[2.0, 0.3], [0.9, 0.9], [0.2, -0.2]], requires_grad=True)
    layer(x)[:, 0].sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0] == 0  # beyond the DAC
    assert (x.grad[1] == 0).all()  # 0.9 + 0.45 is beyond the ADC
    np.testing.assert_allclose(x.grad[2], [1.0, 0.5], rtol=1e-5)


def test_a_model_on_a_chip_has_the_gradients_of_its_reference(quantized: Make, digits: SequenceDataset) -> None:
    placed = compile(quantized(Scheme()), "pcm-256", *calibration_batch(digits, 8, most=50))
    part = digits.split("test")
    u, labels = torch.from_numpy(part.values[:40]), torch.from_numpy(part.labels[:40])
    analog, tiles = placed.analog()
    for tile in tiles:
        tile.program(0, 0).set_time(1.0)
    found = []
    for model in (placed.digital().eval(), analog):
        x = u.clone().requires_grad_()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
        assert x.grad.abs().sum() > 0
        found.append((x.grad, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (of_input, digital), (on_chip, analog_grads) = found
    # 0.78 +- 0.06 over chips
    assert torch.nn.functional.cosine_similarity(of_input.flatten(), on_chip.flatten(), dim=0) > 0.6
    assert analog_grads  # what stays digital trains through the chip
    assert set(analog_grads) <= set(digital)
    for name, gradient in analog_grads.items():
        assert torch.isfinite(gradient).all(), name


def test_training_through_a_chip_lowers_its_loss(quantized: Make, digits: SequenceDataset) -> None:
    """The recurrence's parameters learn around the errors of one chip."""
    placed = compile(quantized(Scheme()), "reram-128", *calibration_batch(digits, 8, most=50))
    part = digits.split("train")
    u, labels = torch.from_numpy(part.values[:200]), torch.from_numpy(part.labels[:200])
    model, tiles = placed.analog()
    for tile in tiles:
        tile.program(3, 0).set_time("30d")
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(u), labels)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.95 * np.mean(losses[:3])
