"""Noise within a sequence: its variance is that of the held noise, its correlation that of the spectrum.

Ideal converters and no noise but the devices': outputs are column sums. Bounds are five standard errors over chips
or columns; seeds are fixed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import sici

from imc_ssm.chip import AnalogLinear, Stream, map_matrix
from imc_ssm.devices import Chip, load_cell, load_design, parse_cell, resolve
from imc_ssm.errors import ConfigError, DesignError

DAY, STEP, STEPS, OUTPUTS = 86400.0, 1e-6, 64, 400


def number(value: float, unit: str = "1") -> dict[str, Any]:
    return {"value": value, "unit": unit, "source": "assumed: a test"}


def band(low: float, high: float) -> dict[str, Any]:
    return {"low": number(low, "Hz"), "high": number(high, "Hz")}


def chip_of(cell: Any, **fields: Any) -> Chip:
    ideal = {"type": "ideal", "bits": 16}
    plain = {"dac": ideal, "adc": ideal, "read_noise__value": 0.0, "drift_compensation": "none", "rows": 8}
    return resolve(load_design("pcm-256").with_(**plain | fields)).with_(cell=cell)


def generic(**fields: Any) -> Any:
    kept = load_cell("generic-reram").model_dump(mode="json")
    plain = (
        "name",
        "kind",
        "description",
        "model",
        "source",
        "v_read",
        "t_read",
        "times",
        "area",
        "g_min",
        "g_max",
    )
    return parse_cell({field: kept[field] for field in plain} | fields)


def flicker_cell(low: float, high: float) -> Any:
    return generic(read_noise=number(0.05), read_noise_1f=number(1.0), read_noise_band=band(low, high))


def telegraph_cell(low: float, high: float, share: float = 1.0) -> Any:
    return generic(telegraph={"deviation": number(0.05), "share": number(share), "rates": band(low, high)})


def layer(chip: Chip, inputs: int = 4, rate: Any = "step") -> AnalogLinear:
    """Weights of one half."""
    weight, full = np.full((OUTPUTS, inputs), 0.5), np.ones(OUTPUTS)
    mapped = map_matrix("m", "m", weight / full[:, None], None, chip, input_range=1.0, rate=rate)
    return AnalogLinear(mapped, chip)


def noise(own: AnalogLinear, stream: Stream | None, sequences: int = 20, time: float = DAY) -> np.ndarray:
    """(steps, sequences x outputs): what a constant input of 0.5 at all rows gives, about the mean of all."""
    own.program(1, 0).set_time(time, stream=stream)
    with torch.no_grad():
        y = own(torch.full((sequences, STEPS, own.mapped.inputs), 0.5)).double().numpy()
    return np.asarray(np.moveaxis(y - y.mean(), 1, 0).reshape(STEPS, -1))


def assert_close(found: np.ndarray, expected: float, what: str = "") -> None:
    """The mean of independent numbers."""
    error = found.std() / math.sqrt(found.size)
    assert abs(found.mean() - expected) < 5 * error, (
        f"{what} {found.mean():.5g}, expected {expected:.5g} +- {error:.2g}"
    )


def covariance(lag: float, low: float, high: float) -> float:
    return float(sici(2 * math.pi * high * lag)[1] - sici(2 * math.pi * low * lag)[1])


CASES = {
    "pcm": load_cell("pcm-nandakumar-2019").with_(programming_scale=0.0, drift_scale=0.0),
    "generic": flicker_cell(1e-3, 1e8),
    "telegraph": telegraph_cell(1.0, 1e7),
}


@pytest.mark.parametrize("within", ["white", "correlated"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_the_variance_is_that_of_a_held_reading(name: str, within: Any) -> None:
    """Over devices and sequences; what moves is less in the mean over a sequence than what stands still."""
    chip = chip_of(CASES[name])
    held = noise(layer(chip), None)[0, :OUTPUTS]
    moving = noise(layer(chip), Stream(STEP, STEPS, within))
    by_output = np.square(moving).reshape(STEPS, 20, OUTPUTS).mean(axis=(0, 1))
    difference = by_output.mean() - np.square(held).mean()
    error = math.hypot(np.square(held).std(), by_output.std()) / math.sqrt(OUTPUTS)
    assert abs(difference) < 5 * error
    still, means = np.square(held).mean(), np.square(moving.mean(axis=0)).mean()
    assert means < still
    rest = moving - moving.mean(axis=0)
    neighbours = (rest[1:] * rest[:-1]).mean() / np.square(rest).mean()
    assert (neighbours > 0.1) if within == "correlated" else (abs(neighbours) < 0.05)


def test_1f_noise_is_correlated_as_its_spectrum_says() -> None:
    """The band lies within a sequence: all of it moves, nothing is redrawn."""
    low, high = 1 / (STEP * STEPS), 1 / (2 * STEP)
    own = layer(chip_of(flicker_cell(low, high)))
    series = noise(own, Stream(STEP, STEPS))
    device = (0.05 / own.chip.cell.span) ** 2 / math.log(high / low)
    g = own.programmed.devices.g[0, 0, :, 0, :, 0].astype(np.float64)  # type: ignore[union-attr]
    size = device * float(np.square(0.5 * g).sum()) * float(own.mapped.scale[0]) ** 2
    for lag in (0, 1, 3, 10, 30):
        expected = math.log(high / low) if lag == 0 else covariance(lag * STEP, low, high)
        found = (series[: STEPS - lag] * series[lag:]).reshape(-1, 20, OUTPUTS).mean(axis=(0, 1))
        assert_close(found / size, expected, f"lag {lag}:")


@pytest.mark.parametrize("layout", [{}, {"polarity": "reference"}, {"devices": 2}])
def test_telegraph_noise_is_correlated_as_its_rate_says(layout: dict[str, Any]) -> None:
    rate = 2e4
    own = layer(chip_of(telegraph_cell(rate, rate * 1.0001), **layout))
    series = noise(own, Stream(STEP, STEPS))
    by_lag = [
        (series[: STEPS - lag] * series[lag:]).reshape(-1, 20, OUTPUTS).mean(axis=(0, 1)) for lag in (0, 1, 5, 20)
    ]
    for found, lag in zip(by_lag[1:], (1, 5, 20), strict=True):
        correlation = found - math.exp(-2 * rate * lag * STEP) * by_lag[0]
        assert_close(correlation / by_lag[0].mean(), 0.0, f"lag {lag}:")
    between = np.corrcoef(series.reshape(STEPS * 20, OUTPUTS), rowvar=False)
    others = between[~np.eye(OUTPUTS, dtype=bool)].mean()
    # columns of a reference share its devices
    assert (others > 0.1) if layout.get("polarity") == "reference" else (abs(others) < 0.01)


def test_slower_than_a_sequence_stands_still() -> None:
    for cell in (flicker_cell(1e-3, 1e3), telegraph_cell(1e-3, 1e3)):
        chip = chip_of(cell)
        held, moving = noise(layer(chip), None), noise(layer(chip), Stream(STEP, STEPS))
        np.testing.assert_array_equal(held, moving)
        assert held.std() > 0
    chip = chip_of(CASES["pcm"])
    np.testing.assert_array_equal(noise(layer(chip), None), noise(layer(chip), Stream(STEP, STEPS, "held")))


@pytest.mark.parametrize("cell", [flicker_cell(2e4, 4e5), telegraph_cell(2e4, 4e5, 0.5)])
def test_steps_and_batches_see_the_same(cell: Any) -> None:
    """One sequence step by step, several in pieces; and a stream that goes on where another reading began."""
    own, stream = layer(chip_of(cell)), Stream(STEP, STEPS, start=DAY)
    x = torch.rand(2, STEPS, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own.program(1, 0).set_time(DAY, stream=stream)
        whole = own(x)
        own.set_time(DAY).set_time(DAY, stream=stream)  # from the beginning
        for n in range(10):
            torch.testing.assert_close(own(x[:1, n]), whole[:1, n], rtol=0, atol=1e-6)
        own.set_time(DAY, stream=stream)  # goes on
        torch.testing.assert_close(own(x[:1, 10:]), whole[:1, 10:], rtol=0, atol=1e-6)
        side = own.set_time(DAY).set_time(DAY, stream=stream)(x[:, 0])
        torch.testing.assert_close(side[0], whole[0, 0], rtol=0, atol=1e-6)
        assert not torch.allclose(side[1], own.set_time(DAY).set_time(DAY, stream=stream)(x[1:, 0])[0])


def test_a_chip_is_the_same_alone_and_among_others() -> None:
    own, stream = layer(chip_of(flicker_cell(2e4, 4e5))), Stream(STEP, STEPS)
    x = torch.rand(3, STEPS, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = own.program(1, (3, 5)).set_time(DAY, stream=stream)(torch.cat([x, x]))
        alone = own.program(1, 5).set_time(DAY, stream=stream)(x)
    torch.testing.assert_close(together[3:], alone, rtol=0, atol=1e-6)
    assert not torch.allclose(together[:3], together[3:])


def test_a_matrix_that_runs_once_a_sequence_has_no_steps() -> None:
    """Its noise is held, or another number in every sequence."""
    own = layer(chip_of(CASES["pcm"]), rate="sequence")
    own.program(1, 0).set_time(DAY, stream=Stream(STEP, STEPS))
    y = own(torch.full((50, 4), 0.5)).double().numpy()
    rest = y - y.mean(axis=0)
    assert rest.std() > 0
    assert abs((rest[1:] * rest[:-1]).mean() / np.square(rest).mean()) < 0.05


def test_mistakes_are_one_sentence() -> None:
    for make, message in (
        (lambda: Stream(0.0, 4), "a step of 0.0 s"),
        (lambda: Stream(1.0, 0), "0 steps of a sequence"),
        (lambda: Stream(1.0, 4, "pink"), "within 'pink'"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match=message):
            make()
    mapped = layer(chip_of(CASES["pcm"])).mapped
    chip = chip_of(CASES["pcm"])
    own = AnalogLinear(mapped, chip, noise="aihwkit").program(1, 0)
    with pytest.raises(DesignError, match="use noise='native'"):
        own.set_time(DAY, stream=Stream(STEP, STEPS))
    own = AnalogLinear(mapped, chip_of(load_cell("state-independent"))).program(1, 0)
    with pytest.raises(DesignError, match="is a model of aihwkit"):
        own.set_time(DAY, stream=Stream(STEP, STEPS))
    own = AnalogLinear(mapped, chip, "aihwkit").program(1, 0)
    with pytest.raises(DesignError, match="use implementation 'fast'"):
        own.set_time(DAY, stream=Stream(STEP, STEPS))


@pytest.mark.parametrize("within", ["white", "correlated"])
def test_what_moves_has_the_variance_of_its_frequencies(within: Any) -> None:
    """All of the noise is faster than a sequence; most of it faster than two products, which is redrawn."""
    low, high = 1 / (STEP * STEPS), 1e8
    own = layer(chip_of(flicker_cell(low, high)))
    series = noise(own, Stream(STEP, STEPS, within))
    g = own.programmed.devices.g[0, 0, :, 0, :, 0].astype(np.float64)  # type: ignore[union-attr]
    expected = (0.05 / own.chip.cell.span) ** 2 * float(np.square(0.5 * g).sum()) * float(own.mapped.scale[0]) ** 2
    found = np.square(series).reshape(-1, 20, OUTPUTS).mean(axis=(0, 1)) / expected
    assert found.std() / math.sqrt(OUTPUTS) < 0.01
    assert_close(found, 1.0)
