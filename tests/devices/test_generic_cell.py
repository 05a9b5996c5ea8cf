"""The generic cell: every effect has the statistics that its field says, and a wrong field is one sentence.

40,000 devices a point, written out here from the formulas; bounds are two-sided quantiles (1e-5) of the normal,
chi-square and binomial distributions.
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from imc_ssm.chip import AnalogLinear, Deployment, compile, map_matrix, program
from imc_ssm.costs import cost
from imc_ssm.devices import Cell, Draws, Programmed, device_path, load_cell, load_design, parse_cell, resolve
from imc_ssm.errors import ConfigError, DesignError
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Scheme, quantize

N, P = 40_000, 1e-5
DAY = 86400.0


def number(value: float, unit: str = "1") -> dict[str, Any]:
    return {"value": value, "unit": unit, "source": "assumed: a test"}


def cell_of(**fields: Any) -> Cell:
    """A generic cell from 10 to 50 uS with these effects alone."""
    raw = tomllib.loads(device_path("cells", "generic-reram").read_text(encoding="utf-8"))
    plain = ("name", "kind", "description", "model", "source", "v_read", "t_read", "times", "area")
    return parse_cell(
        {name: raw[name] for name in plain} | {"g_min": number(1e-5, "S"), "g_max": number(5e-5, "S")} | fields
    )


def programmed(cell: Cell, target: float, seed: int = 1) -> Programmed:
    return cell.program(np.full(N, target, np.float32), Draws([seed]))


def assert_normal(sample: np.ndarray, mean: float, std: float) -> None:
    flat = sample.astype(np.float64).ravel()
    z = (flat.mean() - mean) / (std / math.sqrt(flat.size))
    assert abs(z) < stats.norm.isf(P / 2), f"mean {flat.mean():.6g}, expected {mean:.6g}"
    ratio = flat.var(ddof=1) * (flat.size - 1) / std**2
    low, high = stats.chi2.ppf([P / 2, 1 - P / 2], flat.size - 1)
    assert low < ratio < high, f"standard deviation {flat.std():.6g}, expected {std:.6g}"
    assert stats.kstest(flat, "norm", (mean, std)).pvalue > P


TABLE = {"value": [1e-6, 3e-6], "against": [1e-5, 5e-5], "unit": "S", "source": "assumed: a test"}


@pytest.mark.parametrize(
    ("error", "target", "sigma"),
    [
        (number(0.05), 4e-5, 2e-6),
        (number(0.05), 1e-5, 5e-7),
        (number(2e-6, "S"), 4e-5, 2e-6),
        (TABLE, 1e-5, 1e-6),
        (TABLE, 2e-5, 1.5e-6),
        ({**TABLE, "value": [0.1, 0.02], "unit": "1"}, 3e-5, 0.06 * 3e-5),
    ],
)
def test_programming_error(error: dict[str, Any], target: float, sigma: float) -> None:
    assert_normal(programmed(cell_of(programming_error=error), target).g, target, sigma)
    half = cell_of(programming_error=error, programming_scale=0.5)
    assert_normal(programmed(half, target).g, target, sigma / 2)


@pytest.mark.parametrize("time", [60.0, DAY])
def test_drift_has_one_exponent_a_device(time: float) -> None:
    drift = {"exponent": number(0.05), "spread": number(0.01), "t_0": number(2.0, "s")}
    cell = cell_of(drift=drift)
    devices = programmed(cell, 4e-5)
    exponents = -np.log(cell.read(devices, time, Draws([5])) / 4e-5) / math.log(time / 2)
    assert_normal(exponents, 0.05, 0.01)
    again = -np.log(cell.read(devices, 30 * DAY, Draws([6])) / 4e-5) / math.log(30 * DAY / 2)
    np.testing.assert_allclose(exponents, again, atol=1e-5)
    np.testing.assert_array_equal(cell.read(devices, 1.0, Draws([7])), devices.g)  # before the first reading


@pytest.mark.parametrize("unit", ["1", "S"])
def test_drift_by_a_table(unit: str) -> None:
    size = 1.0 if unit == "1" else 4e-5
    table = {"times": [1.0, 1e4], "mean": [0.0, -0.2 * size], "std": [0.01 * size, 0.05 * size]}
    cell = cell_of(drift_table=table | {"unit": unit, "source": "assumed: a test"})
    devices = programmed(cell, 4e-5)
    for time, mean, std in ((1.0, 0.0, 0.01), (100.0, -0.1, 0.03), (1e4, -0.2, 0.05), (1e6, -0.2, 0.05)):
        assert_normal(cell.read(devices, time, Draws([5])) / 4e-5 - 1, mean, std)
    np.testing.assert_array_equal(cell.read(devices, 0.0, Draws([5])), devices.g)


def test_retention_decays_to_g_min() -> None:
    cell = cell_of(retention=number(100.0, "s"))
    g = cell.read(programmed(cell, 4e-5), 50.0, Draws([5]))
    np.testing.assert_allclose(g, 1e-5 + 3e-5 * math.exp(-0.5), rtol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_read_noise_is_slow_and_fast(share: float) -> None:
    cell = cell_of(read_noise=number(0.02), read_noise_1f=number(share))
    devices = programmed(cell, 4e-5)
    slow = cell.read(devices, 60.0, Draws([5]))
    if share:
        assert_normal(slow, 4e-5, 0.02 * 4e-5 * math.sqrt(share))
    else:
        np.testing.assert_array_equal(slow, devices.g)
    fast = cell.fast_noise(devices, devices.g)
    if share == 1:
        assert fast is None
    else:
        assert fast is not None
        np.testing.assert_allclose(fast, 0.02 * 4e-5 * math.sqrt(1 - share), rtol=1e-5)


def test_fast_noise_is_drawn_in_every_product() -> None:
    """Its deviation at a column's output is sqrt(sum_i d_i^2 v_ij), added to the design's in squares."""
    cell = cell_of(read_noise=number(0.1))
    ideal = {"type": "ideal", "bits": 16}
    chip = resolve(load_design("reram-128").with_(adc=ideal, dac=ideal, read_noise__value=0.03)).with_(cell=cell)
    weight = np.random.default_rng(0).uniform(-1, 1, (3, 5))
    mapped = map_matrix("m", "m", weight, None, chip, input_range=1.0, output_ranges=[50.0])
    layer = AnalogLinear(mapped, chip).program(1, 0).set_time(60.0)
    x = torch.tensor([0.9, -0.5, 0.2, 0.0, 0.7])
    out = layer(x.expand(N, 5)).double().numpy() / mapped.scale
    g = np.stack([1e-5 + np.maximum(sign * mapped.target, 0) * 4e-5 for sign in (1, -1)])
    variance = ((0.1 * g / 4e-5) ** 2).sum(0)
    for j in range(3):
        expected = math.sqrt(0.03**2 + float(x.square().double().numpy() @ variance[:, j]))
        assert_normal(out[:, j], float(x.double().numpy() @ mapped.target[:, j]), expected)
    quiet = AnalogLinear(mapped, chip)(x.expand(2, 5))
    assert torch.equal(quiet[0], quiet[1])  # the ideal layer has no devices
    with pytest.raises(DesignError, match="drawn in every product"):
        AnalogLinear(mapped, chip, "aihwkit").program(1, 0)


def test_stuck_devices_stay_stuck() -> None:
    """Counts within binomial bounds (p = 1e-5), on each chip; the same devices at every time, without noise."""
    cell = cell_of(
        stuck_low=number(0.02),
        stuck_high=number(0.005),
        g_stuck_low=number(1e-6, "S"),
        programming_error=number(0.05),
        drift={"exponent": number(0.05), "spread": number(0.01), "t_0": number(1.0, "s")},
        read_noise=number(0.02),
        read_noise_1f=number(0.5),
    )
    devices = cell.program(np.full((2, N), 3e-5, np.float32), Draws([1, 2, 3]))
    low, high = devices.g == np.float32(1e-6), devices.g == np.float32(5e-5)
    for chip in range(3):
        for stuck, rate in ((low[chip], 0.02), (high[chip], 0.005)):
            least, most = stats.binom.interval(1 - P, 2 * N, rate)
            assert least <= stuck.sum() <= most
    assert (low[0] != low[1]).any()
    # one device of a pair says nothing about the other, nor about the one beside it
    for a, b in ((low[0, 0], low[0, 1]), (low[0, 0, 1:], low[0, 0, :-1]), (low[0], low[1])):
        both, expected = (a & b).sum(), a.size * 0.02**2
        assert abs(both - expected) < 5 * math.sqrt(expected)
    for time in (1.0, DAY, 300 * DAY):
        g = cell.read(devices, time, Draws([4, 5, 6]))
        assert (g[low] == np.float32(1e-6)).all()
        assert (g[high] == np.float32(5e-5)).all()
        assert (g[~low & ~high] != devices.g[~low & ~high]).mean() > 0.99
    fast = cell.fast_noise(devices, devices.g)
    assert fast is not None
    assert (fast[low | high] == 0).all()
    assert (fast[~low & ~high] > 0).all()


def test_a_higher_rate_adds_stuck_devices() -> None:
    """The other devices of the same seed keep their numbers, whatever other effects there are."""
    few, many = (cell_of(stuck_low=number(r), programming_error=number(0.05)) for r in (0.01, 0.03))
    one, two = programmed(few, 3e-5).g, programmed(many, 3e-5).g
    stuck = one == np.float32(1e-5), two == np.float32(1e-5)
    assert (stuck[0] <= stuck[1]).all()
    np.testing.assert_array_equal(one[~stuck[1]], two[~stuck[1]])


def test_a_chip_is_the_same_alone_and_among_others() -> None:
    chip = resolve("reram-128").with_(cell=load_cell("generic-reram"))
    mapped = map_matrix("m", "m", np.random.default_rng(1).normal(size=(9, 13)), None, chip, input_range=1.0)
    many = program(mapped, chip, 9, (4, 0, 7), index=3)
    for i, chosen in enumerate((4, 0, 7)):
        alone = program(mapped, chip, 9, (chosen,), index=3)
        alone.at(1.0)  # another order of evaluation
        np.testing.assert_array_equal(alone.at(DAY)[0], many.at(DAY)[i])
        np.testing.assert_array_equal(alone.at()[0], many.at()[i])


def test_nothing_is_negative() -> None:
    cell = cell_of(programming_error=number(5.0), read_noise=number(5.0), read_noise_1f=number(1.0))
    devices = programmed(cell, 1e-5)
    assert devices.g.min() == 0.0
    assert cell.read(devices, 1.0, Draws([3])).min() == 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"programming_error": number(-0.1)}, "cannot be negative"),
        ({"programming_error": number(5, "%")}, "'S' or '1'"),
        ({"programming_error": number(50.0)}, "a fraction is not in percent"),
        ({"programming_error": {**TABLE, "value": [1e-6]}}, "1 values against 2 conductances"),
        ({"programming_error": {**TABLE, "value": 1e-6}}, "give a list of values"),
        ({"programming_error": {**TABLE, "against": [5e-5, 1e-5]}}, "rise"),
        ({"drift": {"exponent": number(0.05)}}, "t_0"),
        ({"drift": {"exponent": number(5.0), "t_0": number(1.0, "s")}}, "outside"),
        ({"drift": {"exponent": number(0.1), "t_0": number(0.0, "s")}}, "t_0 must be positive"),
        (
            {"drift_table": {"times": [1], "mean": [0, 1], "std": [0], "unit": "1", "source": "assumed: a"}},
            "1 times, 2 means and 1 deviations",
        ),
        ({"retention": number(0.0, "s")}, "must be positive"),
        ({"stuck_low": number(1.5)}, "outside"),
        ({"stuck_low": number(0.6), "stuck_high": number(0.6)}, "at most 1"),
        ({"read_noise_1f": number(0.5)}, "a share of read_noise, which is missing"),
        ({"stuck_lo": number(0.5)}, "did you mean 'stuck_low'"),
        ({"area": number(9e18, "m2")}, "outside"),
        ({"g_max": number(1.5, "S")}, "outside"),
        ({"levels": number(1e30)}, "outside"),
        ({"v_read": number(1e4, "V")}, "outside"),
        ({"t_read": number(3600.0, "s")}, "outside"),
        ({"area": number(0.0, "m2")}, "outside"),
        ({"v_read": number(0.0, "V")}, "outside"),
        ({"t_read": number(0.0, "s")}, "outside"),
    ],
)
def test_wrong_fields_are_one_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        cell_of(**fields)
    assert "\n" not in str(caught.value)


def test_a_deployment_holds_the_cell_and_reads_it_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = torch.randn(8, 12, 1)
    model = quantize(Classifier(ModelConfig(heads=4, n_state=4)), Scheme(), values)
    design = load_design("reram-128").with_(cell="generic-reram")
    placed = compile(model, design, values)
    placed.save(tmp_path / "d.safetensors")
    loaded = Deployment.load(tmp_path / "d.safetensors")
    assert loaded.chip == placed.chip
    assert loaded.digest() == placed.digest()
    assert float(cost(loaded)["energy_total"]) > 0
    outputs = []
    for deployment in (placed, loaded):
        analog, tiles = deployment.analog()
        for tile in tiles:
            tile.program(1, 0).set_time("30d")
        outputs.append(analog(values).detach())
    assert torch.equal(*outputs)
    other = compile(model, resolve(design).with_({"cell.stuck_low": number(0.5)}), values)
    assert other.digest() != placed.digest()
