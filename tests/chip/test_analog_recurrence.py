"""Whole recurrences on crossbars: the block is the recurrence, its rounding is bounded, its noise adds up."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from chip_cases import chip_of, ideal

from imc_ssm.chip import AnalogLinear, AnalogRecurrence, map_matrix, map_recurrence
from imc_ssm.datasets import SequenceDataset
from imc_ssm.devices import Chip
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Scheme, calibration_batch
from imc_ssm.quantization.recurrent import QuantizedS4D

Make = Callable[[Scheme], Classifier]
SIZES = {"one": {}, "packed": {"heads_per_tile": 3}, "cut": {}}
"""Ways to lay 8 heads of 16 complex states (33 rows and columns each) on tiles."""


def exact(bits: int = 16, *, way: str = "one", noise: float = 0.0, **design: object) -> Chip:
    """A chip whose devices take what they are given."""
    size = {"rows": 12, "columns": 14, "columns_per_adc": 14, "tiles": 200} if way == "cut" else {}
    cell = {"programming_scale": 0.0}
    return chip_of(
        "pcm-256", cell=cell, dac=ideal(bits), adc=ideal(bits), noise=noise, name="exact", **(size | design)
    )


@pytest.fixture
def calibration(digits: SequenceDataset) -> torch.Tensor:
    return calibration_batch(digits, 8, most=64)[0]


@pytest.fixture
def layer(quantized: Make, calibration: torch.Tensor) -> tuple[QuantizedS4D, torch.Tensor]:
    """A layer, and what enters it in calibration."""
    model, seen = quantized(Scheme()).eval(), []
    found = next(m for m in model.modules() if isinstance(m, QuantizedS4D))
    with torch.no_grad(), found.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone())):
        model(calibration)
    return found, seen[0]


def coefficients(layer: QuantizedS4D) -> tuple[torch.Tensor, ...]:
    return *layer.inner.discrete(), layer.inner.D


def placed(layer: QuantizedS4D, u: torch.Tensor, chip: Chip, way: str = "one") -> AnalogRecurrence:
    """The layer on tiles, not a value of the calibration clipped."""
    full = {"input_percentile": 100.0, "output_percentile": 100.0}
    mapped = map_recurrence("unit", "ssm", coefficients(layer), u, None, chip, **SIZES[way], **full)  # type: ignore[arg-type]
    tiles = [AnalogLinear(m, chip, index=i) for i, m in enumerate(mapped.matrices)]
    return AnalogRecurrence(mapped, tiles, layer)


def in_doubles(layer: QuantizedS4D, u: torch.Tensor) -> np.ndarray:
    """y (batch, time, head) of the recurrence, in complex128."""
    a, b, c, d = (z.detach().numpy().astype(np.complex128) for z in coefficients(layer))
    x, out = np.zeros((len(u), *a.shape), np.complex128), []
    for now in u.double().numpy().transpose(1, 0, 2):
        x = a * x + b * now[..., None]
        out.append(2 * (c * x).real.sum(-1) + d.real * now)
    return np.stack(out, axis=1)


@pytest.mark.parametrize("way", SIZES)
def test_a_block_is_the_recurrence(way: str, layer: tuple[QuantizedS4D, torch.Tensor]) -> None:
    """Iterating the mapped weights in double precision gives the layer's outputs."""
    ssm, u = layer
    mapped = placed(ssm, u, exact(way=way), way).mapped
    y = np.zeros(u.shape)
    for matrix, tile in zip(mapped.matrices, mapped.parts, strict=True):
        weight, z = matrix.target.astype(np.float64) * matrix.scale, np.zeros((len(u), matrix.inputs))
        for t in range(u.shape[1]):
            for part in tile:
                z[:, part.start + part.size - 1] = u[:, t, part.head] / mapped.drive[part.head]
            z = z @ weight
            for part in tile:
                y[:, t, part.head] += z[:, part.start + part.size - 1]
    exact_y = in_doubles(ssm, u)
    assert np.abs(y - exact_y).max() <= 1e-5 * np.abs(exact_y).max()


def bound(recurrence: AnalogRecurrence, chip: Chip, time: int) -> np.ndarray:
    """(time, head): how far rounding can take the outputs, where nothing saturates.

    A column's code is half a step of the ADC off, the register half a step of the DAC:
    delta_j = scale_j range q_out / 2 + q_in / 2 of its full scale; the input half a step of the DAC. So a state is
    off by at most e[t] = |a| e[t-1] + eps, with eps = |(r delta)_re, (r delta)_im| + |b| drive q_in / 2, and

        |y[t] - exact| <= sum_n 2 |c a| e[t-1] + |2 Re(sum c b) + D| drive q_in / 2
                          + sum_parts scale_y range q_out / 2
    """
    mapped, heads = recurrence.mapped, recurrence.mapped.heads
    a, b, c, d = (getattr(recurrence, z).numpy() for z in "abcd")
    q_in, q_out = chip.dac.step, chip.adc.step
    delta, of_y = np.zeros(mapped.registers.shape), np.zeros(heads)
    for matrix, tile in zip(mapped.matrices, mapped.parts, strict=True):
        code = matrix.scale * matrix.tiles[0].output_range * q_out / 2
        for part in tile:
            port = part.start + part.size - 1
            delta[part.head, slice(*part.states)] = code[part.start : port].reshape(-1, 2) + q_in / 2
            of_y[part.head] += code[port]
    eps = np.linalg.norm(mapped.registers * delta, axis=-1) + np.abs(b) * mapped.drive[:, None] * q_in / 2
    direct = np.abs(2 * (c * b).real.sum(-1) + d) * mapped.drive * q_in / 2
    error, out = np.zeros_like(eps), []
    for _ in range(time):
        out.append((2 * np.abs(c * a) * error).sum(-1) + direct + of_y)
        error = np.abs(a) * error + eps
    return 1.05 * np.array(out)  # float32 sums and weights: a twentieth of a step


@pytest.mark.parametrize("way", SIZES)
@pytest.mark.parametrize("bits", [16, 10])
def test_rounding_stays_within_its_bound(bits: int, way: str, layer: tuple[QuantizedS4D, torch.Tensor]) -> None:
    ssm, u = layer
    chip = exact(bits, way=way)
    recurrence = placed(ssm, u, chip, way)
    y, _ = recurrence._run(u, recurrence.init_state(len(u)))
    error, limit = np.abs(y.numpy() - in_doubles(ssm, u)), bound(recurrence, chip, u.shape[1])
    assert (error <= limit).all()
    assert error.max() > limit.max() / 100  # the bound is about this error


def test_fewer_bits_leave_the_bound_of_more(layer: tuple[QuantizedS4D, torch.Tensor]) -> None:
    ssm, u = layer
    limit = bound(placed(ssm, u, exact(16)), exact(16), u.shape[1])
    coarse = placed(ssm, u, exact(6))
    y, _ = coarse._run(u, coarse.init_state(len(u)))
    assert (np.abs(y.numpy() - in_doubles(ssm, u)) > limit).any()


def test_registers_hold_the_codes_of_the_dac(layer: tuple[QuantizedS4D, torch.Tensor]) -> None:
    ssm, u = layer
    chip = exact(5)
    recurrence = placed(ssm, 4 * u, chip)
    _, state = recurrence._run(u, recurrence.init_state(len(u)))
    codes = (state / chip.dac.step).numpy()
    assert np.abs(codes - np.rint(codes)).max() < 1e-4
    assert np.abs(codes).max() <= chip.dac.codes[1] + 1e-4
    assert len(np.unique(np.rint(codes))) > 10


@pytest.mark.parametrize("way", SIZES)
def test_a_stream_is_the_sequence(way: str, layer: tuple[QuantizedS4D, torch.Tensor]) -> None:
    """With programming and read noise, drift compensation and the grid of the output."""
    ssm, u = layer
    size = {"rows": 12, "columns": 14, "columns_per_adc": 14, "tiles": 200} if way == "cut" else {}
    recurrence = placed(ssm, u, chip_of("pcm-256", **size), way)
    for tile in recurrence.tiles:
        tile.program(3, 5).set_time(3600.0)
    whole = recurrence(u)
    for tile in recurrence.tiles:
        tile.set_time(3600.0)
    state, steps = recurrence.init_state(len(u)), []
    for t in range(u.shape[1]):
        y, state = recurrence.step(u[:, t], state)
        steps.append(y)
    assert torch.equal(torch.stack(steps, 1), whole)
    assert len(torch.unique(whole)) > 20


def test_several_chips_are_each_as_alone(layer: tuple[QuantizedS4D, torch.Tensor]) -> None:
    ssm, u = layer
    recurrence = placed(ssm, u, chip_of("pcm-256"))

    def run(chips: int | tuple[int, ...], given: torch.Tensor) -> torch.Tensor:
        for tile in recurrence.tiles:
            tile.program(0, chips).set_time(60.0)
        return torch.as_tensor(recurrence(given))

    both = run((4, 7), torch.cat([u, u]))
    assert torch.equal(both[: len(u)], run(4, u))
    assert torch.equal(both[len(u) :], run(7, u))
    assert not torch.equal(both[: len(u)], both[len(u) :])


def test_read_noise_of_a_step_and_what_it_adds_up_to(layer: tuple[QuantizedS4D, torch.Tensor]) -> None:
    """From zero, with zero input: one step leaves sigma scale_j; T steps E|n|^2 (1 - |a|^2T) / (1 - |a|^2)."""
    ssm, u = layer
    sigma, many, steps = 0.004, 4000, 24
    recurrence = placed(ssm, u, exact(16, noise=sigma))
    mapped = recurrence.mapped
    for tile in recurrence.tiles:
        tile.program(0, 0)
    silent = torch.zeros(many, 1, mapped.heads)
    _, first = recurrence._run(silent, recurrence.init_state(many))
    scale = np.stack([m.scale[:-1].reshape(-1, 2) for m in mapped.matrices])
    one = first.numpy().astype(np.float64)
    z = (one.var(axis=0) / (sigma * scale) ** 2 - 1) / np.sqrt(2 / many)
    assert np.abs(z).max() < 5  # of 256 variances
    flat = one.reshape(many, -1)
    apart = np.corrcoef(flat.T)[np.triu_indices(flat.shape[1], 1)] * np.sqrt(many)
    assert np.abs(apart).max() < 5.5
    assert abs(apart.std() - 1) < 0.05

    _, last = recurrence._run(silent.expand(-1, steps, -1), recurrence.init_state(many))
    units = last.numpy().astype(np.float64) * mapped.registers
    power = np.square(units).sum(-1).mean(0)
    of_one = np.square(sigma * scale * mapped.registers).sum(-1)
    gain = np.square(np.abs(recurrence.a.numpy()))
    expected = of_one * (1 - gain**steps) / (1 - gain)
    assert np.abs(power / expected - 1).max() < 5 * np.sqrt(2 / many) * 1.1
    assert (expected / of_one).max() > 10


def test_the_gradient_is_that_of_full_precision(layer: tuple[QuantizedS4D, torch.Tensor]) -> None:
    ssm, u = layer
    recurrence, grads = placed(ssm, u, exact(8)), []
    for run in (recurrence, lambda x: ssm.inner.eval()(x)):
        given = u[:4].clone().requires_grad_()
        run(given).square().sum().detach()
        (run(given) * torch.linspace(-1, 1, u.shape[1])[:, None]).sum().backward()
        grads.append(given.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-4)
    assert not [p for p in recurrence.parameters() if p.requires_grad and p.grad is not None]


def test_aihwkits_tiles_give_the_same_codes(layer: tuple[QuantizedS4D, torch.Tensor]) -> None:
    pytest.importorskip("aihwkit")
    ssm, u = layer
    chip, states = exact(8), []
    mapped = placed(ssm, u, chip).mapped
    for implementation in ("fast", "aihwkit"):
        tiles = [AnalogLinear(m, chip, implementation, index=i) for i, m in enumerate(mapped.matrices)]  # type: ignore[arg-type]
        made = AnalogRecurrence(mapped, tiles, ssm)
        states.append(made._run(u[:8, :12], made.init_state(8))[1])
    off = (states[0] - states[1]).abs() / chip.dac.step
    assert float((off > 0.5).double().mean()) < 0.01  # a sum in another order may fall on the other side of a tie
    assert float(off.max()) < 1.5 * 2


@pytest.mark.parametrize("way", ["pulse-width", "bit-serial", "slices", "reference"])
def test_every_kind_of_tile_carries_a_recurrence(way: str, layer: tuple[QuantizedS4D, torch.Tensor]) -> None:
    ssm, u = layer
    changes = {
        "pulse-width": {"dac": ideal(10) | {"encoding": "pulse-width"}},
        "bit-serial": {"dac": ideal(10) | {"encoding": "bit-serial"}},
        "slices": {"slicing": {"cells": 4, "bits": 4}},
        "reference": {"polarity": "reference"},
    }[way]
    chip = chip_of(**({"dac": ideal(10), "adc": ideal(14), "noise": 0.0, "name": "other"} | changes))  # type: ignore[arg-type]
    recurrence = placed(ssm, u, chip)
    y, _ = recurrence._run(u, recurrence.init_state(len(u)))
    exact_y = in_doubles(ssm, u)
    assert np.sqrt(np.square(y.numpy() - exact_y).mean() / np.square(exact_y).mean()) < 0.05


def test_a_column_whose_sums_would_not_fit_has_smaller_conductances() -> None:
    weight, least = np.array([[0.5, -0.25], [0.1, 0.2], [0.0, 0.0]]), np.array([2.0, 0.1, 1.0])
    mapped = map_matrix("m", "m", weight, None, exact(8), input_range=1.0, least_scale=least)
    np.testing.assert_array_equal(mapped.scale, np.float32([2.0, 0.2, 0.0]))
    np.testing.assert_allclose(mapped.target * mapped.scale, weight.T, rtol=1e-6)


@pytest.mark.parametrize("way", SIZES)
def test_no_sum_of_a_calibrated_stream_saturates(way: str, layer: tuple[QuantizedS4D, torch.Tensor]) -> None:
    """The ADC's range is that of the states' registers, and outputs fit into it."""
    ssm, u = layer
    chip = exact(16, way=way)
    recurrence, seen = placed(ssm, u, chip, way), []
    for tile in recurrence.tiles:
        factor = tile.get_buffer("factor0")[0]
        tile.register_forward_hook(lambda _, given, out, factor=factor: seen.append((out / factor).abs().max()))
    recurrence._run(u, recurrence.init_state(len(u)))
    assert 0.5 * chip.adc.codes[1] < float(max(seen)) <= chip.adc.codes[1] * (1 + 1e-5)
    assert float(np.mean([float(most) >= chip.adc.codes[1] for most in seen])) < 0.05
