"""How weights sit in devices: slices, polarities, reference columns, pulses; and converters with errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from chip_cases import apart, chip_of, ideal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from imc_ssm.chip import AnalogLinear, column_sums, layout_of, map_matrix, program, with_output_ranges
from imc_ssm.chip.wires import effective
from imc_ssm.devices import Draws
from imc_ssm.devices.converters import CONVERTERS
from imc_ssm.errors import ConfigError, DataError, DesignError
from imc_ssm.pricing import nominal_tiles

PURE = {"programming_scale": 0.0, "read_scale": 0.0, "drift_scale": 0.0}
"""A PCM cell that does what it is told."""


def _exact(**design: Any) -> Any:
    """A chip without noise, with converters of 16 bits."""
    fields = {"dac": ideal(16), "adc": ideal(16), "noise": 0.0, "rows": 24, "columns": 12, "columns_per_adc": 4}
    return chip_of(cell=PURE, tiles=1000, **(fields | design))


def _weight(outputs: int = 10, inputs: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(outputs, inputs))


@settings(max_examples=60, deadline=None)
@given(
    cells=st.integers(1, 4),
    bits=st.integers(1, 4),
    pair=st.booleans(),
    devices=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_conductances_hold_the_targets(cells: int, bits: int, pair: bool, devices: int, seed: int) -> None:
    """Split into slices, put into devices and read back: the target, for every layout; within the cell's range."""
    chip = _exact(
        devices=devices,
        polarity="pair" if pair else "reference",
        slicing={"cells": cells, "bits": bits} if cells > 1 else None,
    )
    layout = layout_of(chip)
    mapped = map_matrix("m", "m", _weight(seed=seed), None, chip, input_range=1.0)
    g = layout.conductances(mapped.target, mapped.blocks)
    assert g.shape[:3] == (cells, 2 if pair else 1, devices)
    assert g.min() >= 0.0
    assert g.max() <= 25e-6 * (1 + 1e-6)
    sliced = layout.weights(g[None], mapped.blocks)[0]
    assert np.abs(sliced).max() <= 1 + 1e-5
    np.testing.assert_allclose(np.tensordot(layout.shares, sliced, 1), mapped.target, atol=2e-5)
    assert math.isclose(sum(layout.shares), 1.0)
    assert mapped.conductance(chip) == pytest.approx(float(g.sum(dtype=np.float64)), rel=1e-6)
    assert mapped.device_count(chip) == g.size
    if cells > 1:
        steps = 2 ** (bits * cells) - 1
        error = np.abs(mapped.target - _weight(seed=seed).T / mapped.scale)
        assert error.max() <= 0.5 / steps + 1e-6
        assert [tile.slice for tile in mapped.tiles[:cells]] == list(range(cells))


@pytest.mark.parametrize("slicing", [None, {"cells": 3, "bits": 3}])
@pytest.mark.parametrize("polarity", ["pair", "reference"])
@pytest.mark.parametrize("encoding", ["amplitude", "pulse-width", "bit-serial"])
def test_every_layout_computes_the_product(slicing: Any, polarity: str, encoding: str) -> None:
    """Without noise and with fine converters: y = W x, whatever the slices, polarities and pulses."""
    dac = ideal(9) | {"encoding": encoding}
    chip = _exact(slicing=slicing, polarity=polarity, dac=dac, devices=2)
    weight, rng = _weight(), np.random.default_rng(1)
    x = rng.uniform(-1, 1, size=(300, 50)).astype(np.float32)
    mapped = map_matrix("m", "m", weight, np.ones(10), chip, input_range=1.0)
    mapped = with_output_ranges(mapped, x, chip, 100.0)
    layer = AnalogLinear(mapped, chip).program(0, (3, 4)).set_time(1.0)
    y = layer(torch.from_numpy(x).repeat(2, 1)).numpy().reshape(2, 300, 10)
    np.testing.assert_array_equal(y[0], y[1])  # no noise: chips are alike
    # Inputs are on 255 steps, weights on 511 of their column's largest; converters add 2^-15 of a tile's range.
    step = (
        0.5 / 255 * np.abs(weight).sum(axis=1)
        + (0.5 / 511 if slicing else 0) * mapped.scale * np.abs(x).sum(1).max()
    )
    assert (np.abs(y[0] - x @ weight.T - 1) <= step + 0.02).all()
    assert np.abs(y[0] - x @ weight.T - 1).std() < 0.1 * step.mean()


def test_pulses_of_bits_add_up_to_the_code() -> None:
    dac = _exact(dac={"type": "bipolar", "bits": 8, "encoding": "bit-serial"}).dac
    codes = torch.arange(-127.0, 128.0)
    drives = dac.drives(codes)
    assert len(drives) == dac.pulses == 7
    assert all(drive.abs().max() == 1 for drive, _ in drives)
    assert torch.equal(sum(drive * share for drive, share in drives), codes)
    # A device works for every bit that is set.
    assert dac.activity(codes) == pytest.approx(np.mean([bin(abs(int(c))).count("1") for c in codes]))
    wide = _exact(dac=ideal(8) | {"encoding": "pulse-width"}).dac
    assert wide.activity(codes) == pytest.approx(float(codes.abs().mean()) / 127)
    assert _exact(dac=ideal(8)).dac.activity(codes) == pytest.approx(float(codes.square().mean()) / 127**2)


def test_read_noise_of_bits_is_added_once_a_pulse() -> None:
    """sigma of the output: read_noise sqrt(sum 4^p) / (2^7 - 1) full scales; with one pulse read_noise."""
    bits = math.sqrt(sum(4**p for p in range(7))) / 127
    for encoding, expected in (("amplitude", 1.0), ("bit-serial", bits)):
        chip = _exact(dac=ideal(8) | {"encoding": encoding}, noise=0.05)
        mapped = map_matrix("m", "m", np.ones((1, 4)), None, chip, input_range=1.0, output_ranges=[8.0])
        y = AnalogLinear(mapped, chip).program(0, 0)(torch.full((40_000, 4), 0.5)).double()
        ratio = float(y.var()) * (len(y) - 1) / (0.05 * expected) ** 2
        low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], len(y) - 1)
        assert low < ratio < high, encoding


@pytest.mark.parametrize(("devices", "polarity"), [(1, "pair"), (2, "pair"), (4, "pair"), (2, "reference")])
def test_devices_that_share_a_current_average_their_noise(devices: int, polarity: Any) -> None:
    """Variance of a weight: sum over devices of (sigma / (n span))^2, four times that with a reference column."""
    chip = chip_of(devices=devices, polarity=polarity, rows=200, columns=200, tiles=9)
    mapped = map_matrix("m", "m", np.ones((200, 200)), None, chip, input_range=1.0)
    error = program(mapped, chip, 0).weights()[0].astype(np.float64) - 1
    full, middle, none = (0.26348 + 1.9650 * x - 1.1731 * x**2 for x in (1.0, 0.5, 0.0))  # uS, Nandakumar 2019
    if polarity == "pair":  # the unused devices are clamped at zero: half a normal distribution
        variance = (full**2 + none**2 * (0.5 - 0.5 / math.pi)) / devices / 25**2
        n = error.size
        low, high = stats.chi2.ppf([1e-6, 1 - 1e-6], n - 1)
        assert 0.99 * low < error.var() * n / variance < 1.01 * high
    else:
        # The reference of a row is common to all columns of the block.
        own = error - error.mean(axis=1, keepdims=True)
        assert own.var() == pytest.approx(4 * full**2 / devices / 25**2, rel=0.03)
        assert error.mean(axis=1).var() == pytest.approx(4 * middle**2 / devices / 25**2, rel=0.4)


@pytest.mark.parametrize("kind", ["sar", *(kind for kind in CONVERTERS if kind not in ("driver", "ideal"))])
def test_errors_of_converters_have_their_scale(kind: str) -> None:
    """10,000 chips: deviations of offset and gain, largest nonlinearity, ends at zero, one draw a converter."""
    adc = chip_of(adc={"type": kind, "bits": 8, "offset": 1.5, "gain_error": 0.02, "inl": 2.0}).adc
    found = adc.drawn(Draws(range(10_000)), 6, 4)  # two converters
    assert found.inl is not None
    assert found.gain.shape == found.offset.shape == (10_000, 6)
    for values, mean, std in ((found.gain, 1.0, 0.02), (found.offset, 0.0, 1.5)):
        assert (values[:, :4] == values[:, :1]).all()
        assert (values[:, 4:] == values[:, 4:5]).all()
        two = values[:, [0, 4]].astype(np.float64)
        assert abs(np.corrcoef(two.T)[0, 1]) < 0.05
        low, high = stats.chi2.ppf([1e-6, 1 - 1e-6], two.size - 1)
        assert low < two.var(ddof=1) * (two.size - 1) / std**2 < high
        assert abs(two.mean() - mean) < 5 * std / math.sqrt(two.size)
    peak = np.abs(found.inl[:, [0, 4]]).max(axis=-1)
    np.testing.assert_allclose(peak, 2.0, rtol=1e-5)
    assert np.abs(found.inl[..., [0, -1]]).max() < 1e-4


def test_the_adc_shifts_stretches_and_bends() -> None:
    """On one device pair: code = clip(round((1 + g) s + o + INL(s) + n)), for a chip the same at every call."""
    x = torch.linspace(-1, 1, 4001)[:, None]

    def codes(**adc: Any) -> Any:
        chip = _exact(adc={"type": "cco", "bits": 8} | adc)
        mapped = map_matrix("m", "m", [[1.0]], None, chip, input_range=1.0, output_ranges=[1.0])
        layer = AnalogLinear(mapped, chip).program(0, 5).set_time(1.0)
        y = layer(x)[:, 0].double().numpy() * 127
        if "noise" not in adc:
            np.testing.assert_array_equal(layer.set_time(3600.0)(x)[:, 0].double().numpy() * 127, y)
        return y, layer

    line = x[:, 0].double().numpy() * 127
    plain, _ = codes()
    assert np.abs(plain - line).max() <= 0.5 + 1e-3
    shifted, layer = codes(offset=3.0)
    inner = np.abs(line) < 100
    assert np.abs(shifted - line - layer.offset0[0, 0].item())[inner].max() <= 0.51
    bent, _ = codes(inl=4.0)
    level = line / 127
    assert np.abs(bent - line - 4 * (level - level**3) / (2 / 3**1.5)).max() <= 0.6
    noisy, _ = codes(noise=2.0)
    low, high = stats.chi2.ppf([1e-6, 1 - 1e-6], inner.sum() - 1)
    assert low < (noisy - line)[inner].var(ddof=1) * (inner.sum() - 1) / (4 + 1 / 12) < high


@pytest.mark.parametrize("implementation", ["fast", "aihwkit"])
def test_several_chips_are_each_the_chip_alone(implementation: Any) -> None:
    """Programmed together or one by one: equal weights, products and noise."""
    chip = _exact(noise=0.03, adc={"type": "sar", "bits": 6}, slicing={"cells": 2, "bits": 3})
    if implementation == "fast":
        chip = _exact(noise=0.03, adc={"type": "sar", "bits": 6, "offset": 1.0, "inl": 1.0, "noise": 0.5})
    mapped = map_matrix("m", "m", _weight(), None, chip, input_range=2.0)
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(3, 7, 50)).astype(np.float32))
    many = AnalogLinear(mapped, chip, implementation).program(9, (4, 0, 2)).set_time(60.0)
    together = many(x.repeat(3, 1, 1)).reshape(3, 3, 7, 10)
    for i, number in enumerate((4, 0, 2)):
        alone = AnalogLinear(mapped, chip, implementation).program(9, number).set_time(60.0)
        np.testing.assert_array_equal(alone.programmed.weights(60.0)[0], many.programmed.weights(60.0)[i])
        if implementation == "fast":  # aihwkit's noise is one stream for all chips
            assert torch.equal(alone(x), together[i])
    with pytest.raises(DataError, match=r"'m' is 3 chips and takes \(3 x sequences, ..., 50\), got \(4, 50\)"):
        many(torch.zeros(4, 50))


@pytest.mark.parametrize("dac", ["amplitude", "bit-serial"])
def test_slices_and_bits_equal_aihwkit_tile_by_tile(dac: str) -> None:
    """On programmed devices, where sums lie on no edge between two codes but by chance."""
    slicing, given = {"cells": 2, "bits": 3}, ideal(7) | {"encoding": dac}
    chip = chip_of(
        noise=0.0,
        slicing=slicing,
        adc=ideal(6),
        dac=given,
        polarity="reference",
        rows=24,
        columns=12,
        columns_per_adc=4,
    )
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(400, 50)).astype(np.float32))
    mapped = map_matrix("m", "m", _weight(), None, chip, input_range=2.0)
    mapped = with_output_ranges(mapped, x.numpy(), chip, 99.0)
    fast, tile = (AnalogLinear(mapped, chip, i).program(1, 1).set_time(1.0) for i in ("fast", "aihwkit"))
    assert apart(fast(x), tile(x)).float().mean() < 1e-3


def test_ranges_are_those_of_slices_and_pulses() -> None:
    chip = _exact(slicing={"cells": 2, "bits": 3}, dac=ideal(7) | {"encoding": "bit-serial"})
    x = np.random.default_rng(4).normal(size=(200, 50)).astype(np.float32)
    mapped = map_matrix("m", "m", _weight(), None, chip, input_range=2.0)
    sums = column_sums(mapped, x, chip)
    assert [part.shape[0] for part in sums] == [200 * 6] * len(mapped.tiles)
    tuned = with_output_ranges(mapped, x, chip, 100.0)
    for tile, part in zip(tuned.tiles, sums, strict=True):
        assert tile.output_range == pytest.approx(float(np.abs(part).max()), rel=1e-6)
    digits = layout_of(chip).split(mapped.target)
    np.testing.assert_allclose(digits * 7, np.rint(digits * 7), atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="slices of 6 bits need 64 levels a device, cell 'reram-cmo-falcone' has 32"
    ):
        chip_of("reram-128", slicing={"cells": 2, "bits": 6})
    with pytest.raises(ConfigError, match="a weight of 4 slices does not fit 3 columns"):
        chip_of(columns=3, columns_per_adc=1, slicing={"cells": 4, "bits": 2})
    with pytest.raises(ConfigError, match="encoding"):
        chip_of(adc={"type": "sar", "bits": 8, "encoding": "amplitude"})
    with pytest.raises(ConfigError, match="offset"):
        chip_of(dac={"type": "capacitive", "bits": 8, "offset": 1.0})
    with pytest.raises(DesignError, match="unknown adc type 'slope'"):
        chip_of(adc={"type": "slope", "bits": 8})
    with pytest.raises(DesignError, match="dac 'capacitive-brahms' has no numbers at 1 bits"):
        chip_of(dac={"type": "capacitive-brahms", "bits": 8, "encoding": "bit-serial"})
    with pytest.raises(DesignError, match="type 'ideal' has no price"):
        nominal_tiles(_exact(adc={"type": "ideal", "bits": 8}))
    bad = _exact(adc={"type": "sar", "bits": 8, "inl": 1.0})
    mapped = map_matrix("m", "m", _weight(), None, bad, input_range=1.0)
    with pytest.raises(DesignError, match="nonlinearity"):
        AnalogLinear(mapped, bad, "aihwkit")
    with pytest.raises(ConfigError, match="at least one chip"):
        AnalogLinear(mapped, bad).program(0, ())


@pytest.mark.parametrize("polarity", ["pair", "reference"])
def test_wires_lower_the_weights_tile_by_tile(polarity: Any) -> None:
    """Each part of a matrix through `wires.effective` by itself, all of its bit lines side by side."""
    ohm = {"value": 30.0, "unit": "ohm", "source": "assumed: a test"}
    fields = {"polarity": polarity, "slicing": {"cells": 2, "bits": 3}, "noise": 0.0, "rows": 24, "columns": 12}
    plain = chip_of(columns_per_adc=4, tiles=100, **fields)
    wired = chip_of(columns_per_adc=4, tiles=100, wires={"row": ohm, "column": ohm}, **fields)
    exact = chip_of(columns_per_adc=4, tiles=100, wires={"row": ohm, "column": ohm, "solve": "nodal"}, **fields)
    mapped = map_matrix("m", "m", _weight(), None, plain, input_range=1.0)
    chips = {name: program(mapped, chip, 1, (0, 1)) for name, chip in (("plain", plain), ("wired", wired))}
    g = chips["plain"].at(1.0)
    np.testing.assert_array_equal(chips["wired"].at(1.0), g)  # the devices are the same
    row, column = mapped.parts[1]
    columns = list(range(*column)) + ([] if polarity == "pair" else [mapped.outputs])
    part = g[..., slice(*row), columns]
    seen = effective(part.reshape(2, -1, *part.shape[-2:]), 30.0, 30.0).reshape(part.shape)
    whole = g.copy()
    whole[..., slice(*row), columns] = seen
    expected = chips["plain"].layout.weights(whole, mapped.blocks)
    found = chips["wired"].state(1.0)[0]
    np.testing.assert_allclose(found[..., slice(*row), slice(*column)], expected[..., slice(*row), slice(*column)])
    assert np.abs(chips["wired"].weights(1.0) - chips["plain"].weights(1.0)).max() > 1e-3
    np.testing.assert_allclose(program(mapped, exact, 1, (0, 1)).state(1.0)[0], found, atol=2e-3)


def test_every_pulse_and_slice_is_priced() -> None:
    """Conversions, holds and codes of each pulse and slice; their sums but one; a scale a column and row tile."""
    slicing, serial = {"cells": 2, "bits": 3}, {"type": "bipolar", "bits": 8, "encoding": "bit-serial"}
    plain, cut = (
        chip_of(rows=32, columns=16, columns_per_adc=4, tiles=99, **fields)
        for fields in ({}, {"slicing": slicing, "dac": serial, "devices": 2})
    )
    counts = {}
    for name, chip in (("plain", plain), ("cut", cut)):
        mapped = map_matrix("m", "m", _weight(), None, chip, input_range=1.0)
        found = mapped.actions(chip, 8, 8)
        counts[name] = {(a.verb, a.purpose.split(",")[0].split(" of ")[0]): a.count for a in found}
        assert mapped.columns == sum(t.column[1] - t.column[0] for t in mapped.tiles)
    one, many = counts["plain"], counts["cut"]
    # 50 inputs on tiles of 32 rows: two row tiles; 10 outputs, of two slices each: tiles of 8 weights, two blocks.
    assert one["adc", "one conversion per used column"] == 2 * 10
    assert many["adc", "one conversion per used column"] == 7 * 2 * 2 * 10
    assert many["sample hold", "one per used column"] == 7 * 2 * 2 * 10
    assert one["dac", "one conversion per used row"] == 50
    assert many["dac", "one conversion per used row"] == 7 * 50 * 2
    assert many["add", "shift and add pulses and slices"] == 7 * 2 * 2 * 10 - 2 * 10
    assert ("add", "shift and add pulses and slices") not in one
    assert one["multiply", "scale"] == many["multiply", "scale"] == 2 * 10
    assert one["cell", "used devices"] == 2 * 500
    assert many["cell", "used devices"] == 2 * 2 * 2 * 500
    prices = [nominal_tiles(chip) for chip in (plain, cut)]
    # Columns are converted while the next pulse reads: seven times the longer, and the shorter once.
    pulse, convert = (prices[0].times(16)[part] for part in ("cells", "adc"))
    assert sum(prices[1].times(16).values()) == pytest.approx(7 * max(pulse, convert) + min(pulse, convert))
    areas = [p.law.area_cell * chip.design.bit_lines for p, chip in zip(prices, (plain, cut), strict=True)]
    assert areas[1] == 2 * areas[0]
