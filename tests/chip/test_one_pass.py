"""The product in one pass: the steps' codes, noise by number, the order of memory kept, gradients as before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from chip_cases import apart, chip_of
from torch import Tensor

from imc_ssm.chip import AnalogLinear, map_matrix, with_output_ranges
from imc_ssm.devices import CONVERTERS, Converter
from imc_ssm.fixedpoint import Format
from imc_ssm.kernels import quantize

DAY = 86400.0


def layer_of(noise: float, inputs: int = 40, outputs: int = 50, **fields: Any) -> AnalogLinear:
    """A random matrix over six tiles, tight ranges."""
    chip = chip_of(tiles=10_000, noise=noise, **{"rows": 16, "columns": 32, "columns_per_adc": 1, **fields})
    rng = np.random.default_rng(inputs)
    bias = rng.normal(size=outputs)
    mapped = map_matrix("m", "m", rng.normal(size=(outputs, inputs)), bias, chip, input_range=2.0)
    return AnalogLinear(with_output_ranges(mapped, rng.normal(size=(500, inputs)), chip, 99.0), chip)


def inputs_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("chips", [(0,), (3, 1, 4)])
def test_without_noise_it_is_what_the_steps_compute(
    chips: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layer_of(0.0).program(0, chips).set_time(DAY)
    x = inputs_of(len(chips) * 5, 70, 40)
    y = layer(x)
    assert layer._in_one_pass
    monkeypatch.setattr(AnalogLinear, "_in_one_pass", False)
    # Equal but where a sum lies on the edge between two codes.
    assert apart(layer(x), y).float().mean() < 2e-5


def test_noise_goes_by_the_number_of_the_product() -> None:
    """Cuts between sequences change nothing, nor do other chips beside it."""
    chips = (3, 1)
    layer = layer_of(0.04).program(0, chips).set_time(DAY)
    x = inputs_of(8, 70, 40)
    both = torch.cat([x, x])
    whole = layer(both)
    later = layer(both)
    assert not torch.equal(whole, later)
    for place, chip in enumerate(chips):
        alone = layer_of(0.04).program(0, chip).set_time(DAY)
        parts = [alone(part) for part in x.split(3)]
        assert torch.equal(torch.cat(parts), whole[8 * place : 8 * (place + 1)])
        assert torch.equal(alone(x), later[8 * place : 8 * (place + 1)])
    layer.set_time(DAY)
    assert torch.equal(layer(both), whole)
    assert not torch.equal(whole[:8], whole[8:])
    assert not torch.equal(layer_of(0.04).program(1, chips).set_time(DAY)(both), whole)


def test_row_tiles_have_noise_of_their_own() -> None:
    """The deviation of a sum over four tiles of a column is twice that of one."""
    layer = layer_of(0.05, 64, 4, adc={"type": "ideal", "bits": 14}, drift_compensation="none").program(0, 0)
    x = inputs_of(1, 64).expand(40_000, 64)
    deviation = (layer(x) / (torch.from_numpy(layer.mapped.scale) * 2.0)).std(0)
    np.testing.assert_allclose(deviation, 0.05 * 2, rtol=5 / np.sqrt(2 * 40_000))


def test_time_may_lie_last_in_memory() -> None:
    """Activations are (batch, time, channel) that lie as (batch, channel, time): so does what comes out."""
    layer = layer_of(0.04).program(0, 0)
    x = inputs_of(6, 50, 40)
    rows = x.transpose(1, 2).contiguous().transpose(1, 2)
    y = layer(x)
    assert y.is_contiguous()
    layer.set_time(1.0), layer.program(0, 0)
    z = layer(rows)
    assert z.transpose(1, 2).is_contiguous()
    assert torch.equal(y, z)


class Floored(Converter):
    """A converter that truncates."""

    def convert_(self, signal: Tensor) -> Tensor:
        return signal.floor_().clamp_(*self.codes)


def test_converters_with_a_rule_of_their_own_take_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONVERTERS, "floored", Floored)
    x, plain = inputs_of(50, 40), layer_of(0.0).program(0, 0)
    for change in (
        {"adc": {"type": "floored", "bits": 8}},
        {"dac": {"type": "floored", "bits": 8}},
        {"adc": {"type": "sar", "bits": 8, "inl": 1.0}},
        {"dac": {"type": "ideal", "bits": 8, "encoding": "bit-serial"}},
    ):
        other = layer_of(0.0, **change).program(0, 0)
        assert not other._in_one_pass
        assert (other(x) != plain(x)).float().mean() > 0.1
    assert layer_of(0.0, adc={"type": "sar", "bits": 8, "gain_error": 0.01, "noise": 0.5})._in_one_pass


def test_offset_and_gain_of_converters_are_those_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of(0.0, adc={"type": "ideal", "bits": 8, "offset": 3.0, "gain_error": 0.05}).program(0, (0, 1))
    x = inputs_of(100, 40)
    y = layer(x)
    monkeypatch.setattr(AnalogLinear, "_in_one_pass", False)
    assert apart(layer(x), y).float().mean() < 1e-3
    plain = layer_of(0.0, adc={"type": "ideal", "bits": 8}).program(0, (0, 1))
    assert (plain(x) != y).float().mean() > 0.5


@pytest.mark.parametrize("noise", [0.0, 0.04])
def test_outputs_come_to_their_grid_in_the_same_pass(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of(noise).program(0, (2, 5))
    fmt = Format.from_range(-np.linspace(3, 20, 50), np.linspace(4, 15, 50), 6)
    x = inputs_of(8, 30, 40)
    found = layer(x, fmt=fmt)
    layer.program(0, (2, 5))
    assert torch.equal(found, quantize(layer(x), fmt, -1))
    # With a gradient, and step by step, rounding follows the product.
    layer.program(0, (2, 5))
    leaf = x.clone().requires_grad_()
    y = layer(leaf, fmt=fmt)
    assert torch.equal(y.detach(), found)
    y.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().max() > 0
    monkeypatch.setattr(AnalogLinear, "_in_one_pass", False)
    grid = layer(x, fmt=fmt)
    assert torch.equal(quantize(grid, fmt, -1), grid)
    assert noise or torch.equal(grid, found)
