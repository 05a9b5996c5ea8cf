"""The analog product: right where nothing is imperfect, equal to aihwkit's tile where something is."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from chip_cases import apart, chip_of, ideal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from imc_ssm.chip import AnalogLinear, map_matrix, with_output_ranges
from imc_ssm.errors import ConfigError, DataError, DesignError

DAY = 86400.0
IDEAL_CELL = {"programming_scale": 0.0, "read_scale": 0.0, "drift_scale": 0.0}
"""A PCM cell without noise or drift."""


def _small(name: str = "pcm-256", noise: float = 0.0, **fields: Any) -> Any:
    """The chip of a shipped design with tiles enough for everything; `dac_bits` and `adc_bits` are ideal ones."""
    for kind in ("dac", "adc"):
        if f"{kind}_bits" in fields:
            fields[kind] = ideal(fields.pop(f"{kind}_bits"))
    return chip_of(name, tiles=10_000, noise=noise, **fields)


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 30),
    inputs=st.integers(1, 40),
    rows=st.integers(1, 16),
    columns=st.integers(1, 16),
    bits=st.sampled_from([6, 8, 12, 16]),
    programmed=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_ideal_cells_give_the_product_within_the_converters_steps(
    outputs: int,
    inputs: int,
    rows: int,
    columns: int,
    bits: int,
    programmed: bool,
    bias: bool,
    seed: int,
) -> None:
    """|y - (W x + b)| is at most half a DAC step through |W| plus half an ADC step per row tile."""
    rng = np.random.default_rng(seed)
    weight, offset = rng.normal(size=(outputs, inputs)), rng.normal(size=outputs) if bias else None
    x = rng.normal(size=(7, inputs)).astype(np.float32)
    full = float(np.abs(x).max())
    chip = _small(cell=IDEAL_CELL, rows=rows, columns=columns, columns_per_adc=1, dac_bits=bits, adc_bits=bits)
    mapped = map_matrix("m", "m", weight, offset, chip, input_range=full)
    layer = AnalogLinear(mapped, chip)
    if programmed:
        layer.program(0, 0).set_time(DAY)
    expected = x @ weight.T + (0 if offset is None else offset)
    codes = 2 ** (bits - 1) - 1
    dac = np.abs(weight).sum(axis=1) * full * 0.5 / codes
    adc = np.zeros(outputs)
    for tile in mapped.tiles:
        adc[slice(*tile.column)] += 0.5 * tile.output_range / codes
    bound = dac + adc * mapped.scale * full + 1e-5 * (np.abs(weight).sum(axis=1) * full + 1)
    assert (np.abs(layer(torch.from_numpy(x)).numpy() - expected) <= bound).all()


def _pair(chip: Any, inputs: int, outputs: int, samples: int, percentile: float = 99.0) -> Any:
    """Both implementations of one random matrix, tight ranges (so that converters clip), and inputs."""
    rng = np.random.default_rng(inputs)
    x = rng.normal(size=(samples, inputs)).astype(np.float32)
    mapped = map_matrix(
        "m", "m", rng.normal(size=(outputs, inputs)), rng.normal(size=outputs), chip, input_range=2.0
    )
    mapped = with_output_ranges(mapped, x[:500], chip, percentile)
    return AnalogLinear(mapped, chip), AnalogLinear(mapped, chip, "aihwkit"), torch.from_numpy(x)


@pytest.mark.parametrize("name", ["pcm-256", "reram-128"])
@pytest.mark.parametrize(("inputs", "outputs", "samples"), [(1, 16, 4000), (16, 32, 4000), (100, 70, 1500)])
@pytest.mark.parametrize("bits", [4, 8])
def test_fast_equals_aihwkit_without_read_noise(
    name: str, inputs: int, outputs: int, samples: int, bits: int
) -> None:
    """Equal, except within one ADC step where the analog sum lies on the edge between two codes."""
    chip = _small(name, rows=48, columns=32, columns_per_adc=1, dac_bits=bits, adc_bits=bits)
    fast, tile, x = _pair(chip, inputs, outputs, samples)
    for step in ("ideal", "programmed", "aged"):
        if step == "programmed":
            fast.program(3, 1), tile.program(3, 1)
        if step == "aged":
            fast.set_time(DAY), tile.set_time(DAY)
            assert all(map(np.array_equal, fast.alphas, tile.alphas))
        y, z = fast(x), tile(x)
        unequal = apart(y, z)
        assert unequal.float().mean() < 1e-4, step
        step_size = torch.zeros(outputs)
        for part, alpha in zip(fast.mapped.tiles, fast.alphas, strict=True):
            columns = slice(*part.column)
            size = part.output_range / (2 ** (bits - 1) - 1) * alpha[0] * 2.0 * fast.mapped.scale[columns]
            step_size[columns] = torch.maximum(step_size[columns], torch.from_numpy(np.float32(size)))
        assert ((y - z).abs() <= 1.001 * step_size).all(), step


@pytest.mark.parametrize("implementation", ["fast", "aihwkit"])
def test_read_noise_has_the_designs_standard_deviation(implementation: Any) -> None:
    """Constant input, many products: std = read_noise scale input_range (and the ADC's own step^2 / 12)."""
    chip = _small(noise=0.04, adc_bits=12)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 20))
    mapped = map_matrix("m", "m", weight, None, chip, input_range=2.0)
    layer = AnalogLinear(mapped, chip, implementation).program(0, 0)
    quiet_chip = _small(noise=0.0, adc_bits=16)
    quiet = AnalogLinear(mapped, quiet_chip, implementation).program(0, 0)
    x = torch.from_numpy(rng.normal(size=(1, 20)).astype(np.float32)).expand(20_000, 20)
    y, mean = layer(x).double().numpy(), quiet(x[:1]).double().numpy()[0]
    step = mapped.tiles[0].output_range / (2**11 - 1)
    std = math.sqrt(0.04**2 + step**2 / 12) * mapped.scale * 2.0
    n = len(y)
    assert (np.abs(y.mean(axis=0) - mean) < stats.norm.isf(1e-6) * std / math.sqrt(n) + 1e-3 * std).all()
    low, high = stats.chi2.ppf([5e-6, 1 - 5e-6], n - 1)
    ratio = y.var(axis=0, ddof=1) * (n - 1) / std**2
    assert ((low < ratio) & (ratio < high)).all()
    correlation = np.corrcoef(y.T) - np.eye(4)
    assert np.abs(correlation).max() < 0.04  # columns are independent, and so are products
    assert abs(np.corrcoef(y[1:, 0], y[:-1, 0])[0, 1]) < 0.04


@pytest.mark.parametrize("implementation", ["fast", "aihwkit"])
def test_read_noise_differs_between_times(implementation: Any) -> None:
    """With a cell that does not age, two times differ by their read noise alone."""
    chip = _small(noise=0.04, cell=IDEAL_CELL)
    mapped = map_matrix("m", "m", np.eye(8), None, chip, input_range=1.0)
    layer = AnalogLinear(mapped, chip, implementation).program(0, 0)
    early, late = (layer.set_time(time)(torch.ones(4, 8)) for time in (1.0, DAY))
    assert [alpha.tolist() for alpha in layer.alphas] == [[[1.0] * 8]]
    assert not torch.equal(early, late)


@pytest.mark.parametrize("implementation", ["fast", "aihwkit"])
def test_noise_is_seeded_by_chip_and_time(implementation: Any) -> None:
    chip = _small(noise=0.04)
    fast, tile, x = _pair(chip, 16, 32, 100)
    layer = fast if implementation == "fast" else tile
    torch.manual_seed(0)
    first = layer.program(1, 0).set_time(DAY)(x)
    state = torch.rand(1)
    assert not torch.equal(layer(x), first)  # the stream goes on
    assert torch.equal(layer.set_time(DAY)(x), first)
    assert torch.equal(layer.program(1, 0).set_time(86400)(x), first)
    assert not torch.equal(layer.program(1, 1).set_time(DAY)(x), first)
    assert not torch.equal(layer.program(2, 0).set_time(DAY)(x), first)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), state)  # torch's own generator is left alone


def test_the_ideal_state_has_no_noise() -> None:
    fast, tile, x = _pair(_small(noise=0.5), 16, 32, 50)
    for layer in (fast, tile):
        assert layer.ideal_weights
        assert torch.equal(layer(x), layer(x))
        layer.program(0, 0)
        assert not layer.ideal_weights
        assert not torch.equal(layer(x), layer(x))


def test_compensation_restores_the_slope() -> None:
    slopes = {}
    for choice in ("none", "global"):
        chip = _small(drift_compensation=choice)
        fast, _, x = _pair(chip, 128, 64, 500, 100.0)
        ideal = fast(x)
        aged = fast.program(0, 0).set_time(30 * DAY)(x)
        bias = fast.bias
        slopes[choice] = float(((aged - bias) * (ideal - bias)).sum() / (ideal - bias).square().sum())
    assert 0.4 < slopes["none"] < 0.7
    assert slopes["global"] == pytest.approx(1.0, abs=0.03)


def test_the_adc_saturates_and_has_2_to_the_bits_less_1_codes() -> None:
    chip = _small(adc_bits=4)
    mapped = map_matrix("m", "m", [[1.0, 1.0]], None, chip, input_range=1.0, output_ranges=[0.5])
    layer = AnalogLinear(mapped, chip)
    y = layer(torch.linspace(-2, 2, 4001)[:, None].expand(-1, 2))
    assert y.unique().numel() == 2**4 - 1
    assert y.max() == 0.5
    assert y.min() == -0.5


def test_a_column_of_zeros_gives_exactly_its_bias() -> None:
    weight = np.random.default_rng(0).normal(size=(3, 8))
    weight[1] = 0
    chip = _small(noise=0.1)
    mapped = map_matrix("m", "m", weight, [1.0, 2.0, 3.0], chip, input_range=1.0)
    y = AnalogLinear(mapped, chip).program(0, 0)(torch.randn(50, 8))
    assert (y[:, 1] == 2.0).all()
    assert (y[:, 0] != 1.0).any()


def test_shapes_and_pieces() -> None:
    """Any leading dimensions; more samples than one cache-sized piece change nothing without noise."""
    fast, _, x = _pair(_small(rows=48), 100, 32, 12_000)
    y = fast(x)
    assert torch.equal(torch.cat([fast(part) for part in x.split(997)]), y)
    assert torch.equal(fast(x.reshape(40, 300, 100)), y.reshape(40, 300, 32))
    assert fast(x[0]).shape == (32,)
    assert fast(x[:0]).shape == (0, 32)
    assert fast(x.double()).dtype == torch.float32
    before = x.clone()
    fast(x)
    assert torch.equal(x, before)  # in place, but never on the caller's data
    assert torch.equal(fast(x.requires_grad_()), y)  # a gradient changes no number
    assert torch.equal(copy.deepcopy(fast)(x), y)


def test_errors_say_what_to_do() -> None:
    fast, _, _ = _pair(_small(), 16, 32, 10)
    with pytest.raises(DataError, match=r"'m' takes \(..., 16\), got \(3, 15\)"):
        fast(torch.zeros(3, 15))
    with pytest.raises(DesignError, match=r"program\(seed, chip\) before set_time"):
        fast.set_time(1.0)
    with pytest.raises(ConfigError, match="unknown implementation 'fastest'; did you mean 'fast'"):
        AnalogLinear(fast.mapped, fast.chip, "fastest")  # type: ignore[arg-type]


def test_a_refused_time_leaves_the_chip_as_it_was() -> None:
    chip = chip_of("reram-wan-64")
    mapped = map_matrix("m", "m", np.eye(4), None, chip, input_range=1.0)
    layer = AnalogLinear(mapped, chip).program(0, 0).set_time(DAY)
    x = torch.ones(5, 4)
    expected = layer(x)
    layer.set_time(DAY)
    with pytest.raises(DesignError, match="86400 s"):
        layer.set_time(3600.0)
    assert layer.time == DAY
    assert torch.equal(layer(x), expected)


def test_the_cpp_tile_runs_or_says_why_not() -> None:
    fast, tile, x = _pair(_small(), 16, 32, 100)
    try:
        cpp = AnalogLinear(fast.mapped, fast.chip, "aihwkit-cpp")
    except DesignError:
        with pytest.raises(DesignError, match=r"'aihwkit-cpp' does not run here: .* use 'aihwkit' .* or 'fast'"):
            AnalogLinear(fast.mapped, fast.chip, "aihwkit-cpp")
    else:
        assert (cpp(x) != tile(x)).float().mean() < 1e-3
