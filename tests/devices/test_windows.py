"""A fit holds where it was published: windows of conductance, rescaling on purpose, and where conductances end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from imc_ssm.chip import Reference
from imc_ssm.devices import Cell, Cited, Draws, load_cell
from imc_ssm.errors import ConfigError, DesignError

N, P = 40_000, 1e-5
DAY = 86400.0
WINDOWS = {
    "pcm-nandakumar-2019": (0.0, 25e-6),
    "pcm-hermes-single": (0.0, 10.35e-6),
    "pcm-hermes-dual": (0.0, 20.7e-6),
    "reram-cmo-falcone": (9e-6, 88.2e-6),
    "reram-wan-2022": (1e-6, 40e-6),
}


def changed(name: str, **changes: Any) -> Cell:
    cell = load_cell(name)
    cited = {field: getattr(cell, field) for field in changes if isinstance(getattr(cell, field), Cited)}
    return cell.with_(**{f: cited[f].with_(value=v) if f in cited else v for f, v in changes.items()})


def written(cell: Cell, g: float, seed: int = 1) -> np.ndarray:
    return cell.program(np.full(N, g, np.float32), Draws([seed])).g[0].astype(np.float64)


@pytest.mark.parametrize("name", WINDOWS)
def test_a_fit_is_refused_outside_its_window(name: str) -> None:
    low, high = WINDOWS[name]
    with pytest.raises(
        ConfigError, match=r'g_max = .* uS is outside the .* fitted for; .*"proportional"'
    ) as caught:
        changed(name, g_max=high * 1.01)
    assert "\n" not in str(caught.value)
    if low:
        with pytest.raises(ConfigError, match=r"g_min = .* uS is outside"):
            changed(name, g_min=low * 0.99)
    assert changed(name, g_max=high).g_max.value == high
    with pytest.raises(ConfigError, match=r"'rescaling'.*proportional"):
        changed(name, rescaling="affine")


@pytest.mark.parametrize("name", WINDOWS)
def test_a_part_of_the_window_has_the_published_noise(name: str) -> None:
    """The same devices, number by number, whatever g_max is, until something is clamped at g_max."""
    low, high = WINDOWS[name]
    whole, part = load_cell(name), changed(name, g_max=low + 0.6 * (high - low))
    target = np.full(N, low + 0.3 * (high - low), np.float32)
    time = whole.usual_times()[-1]
    for read in (False, True):
        a, b = (cell.program(target, Draws([3])) for cell in (whole, part))
        one, two = (
            (whole.read(a, time, Draws([1], [2])), part.read(b, time, Draws([1], [2]))) if read else (a.g, b.g)
        )
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("factor", [0.2, 4.0])
def test_rescaling_multiplies_every_conductance(name: str, factor: float) -> None:
    """A cell of `factor` times the window is the published one times `factor`, at every stage."""
    high = WINDOWS[name][1]
    plain = load_cell(name)
    scaled = changed(name, g_min=factor * plain.g_min.value, g_max=factor * high, rescaling="proportional")
    target = np.linspace(plain.g_min.value, high, 5000).astype(np.float32)
    a, b = plain.program(target, Draws([5])), scaled.program(target * np.float32(factor), Draws([5]))
    np.testing.assert_allclose(b.g, factor * a.g, rtol=1e-4, atol=1e-4 * factor * high)
    for time in plain.usual_times():
        one, two = plain.read(a, time, Draws([6], [7])), scaled.read(b, time, Draws([6], [7]))
        np.testing.assert_allclose(two, factor * one, rtol=1e-4, atol=1e-4 * factor * high)


def test_the_noise_that_used_to_be_stretched_without_a_word() -> None:
    """At 5 uS: 0.608 uS (the polynomial), 0.35 or 2.35 times that only where it is asked for."""
    x = 5 / 25
    published = 0.26348 + 1.9650 * x - 1.1731 * x**2
    for changes, expected in (
        ({"g_max": 5e-6}, published),
        ({"g_max": 5e-6, "rescaling": "proportional"}, (0.26348 + 1.9650 - 1.1731) * 5 / 25),
        ({"g_max": 100e-6, "rescaling": "proportional"}, (0.26348 + 1.9650 / 20 - 1.1731 / 400) * 100 / 25),
    ):
        sample = 1e6 * written(changed("pcm-nandakumar-2019", **changes), 5e-6)
        ratio = sample.var(ddof=1) * (N - 1) / expected**2
        assert stats.chi2.ppf(P / 2, N - 1) < ratio < stats.chi2.isf(P / 2, N - 1), changes


def test_a_rescaled_filament_relaxes_by_its_share_of_the_range() -> None:
    """Over 1 to 10 uS: 1.3 uS in a month, a third of the range, unscaled; here as much of it as published."""
    cell = changed("reram-cmo-falcone", g_min=1e-6, g_max=10e-6, rescaling="proportional", clamp="physical")
    devices = cell.program(np.full(N, 6e-6, np.float32), Draws([1]))
    shift = cell.read(devices, 30 * DAY, Draws([2], [3]))[0].astype(np.float64).mean() - 6e-6
    assert shift == pytest.approx(-0.08900206e-6 * math.log(30 * DAY) * 10 / 88.2, rel=0.05)


def test_where_conductances_end_decides_how_noisy_zero_weights_are() -> None:
    """Clamped at g_min they become quieter with age, which no device does; the fit itself says louder.

    Deviation of (g_plus - g_minus) / span of two devices at g_min; a standard error is 0.5 %.
    """
    expected = {"window": (0.00473, 0.00391), "physical": (0.00781, 0.01617)}
    for clamp, deviations in expected.items():
        cell = changed("reram-cmo-falcone", clamp=clamp)
        devices = cell.program(np.full((2, N), cell.g_min.value, np.float32), Draws([1]))
        for time, deviation in zip((1.0, DAY), deviations, strict=True):
            g = cell.read(devices, time, Draws([2], [3]))[0].astype(np.float64)
            assert ((g[0] - g[1]) / cell.span).std() == pytest.approx(deviation, rel=0.03)
    # of the fit: programming, relaxation and read noise of two devices
    for time, deviation in zip((1.0, DAY), expected["physical"], strict=True):
        parts = (
            0.0112185391 + 0.01129027418 * 9,
            0.41183342 + 0.04201137 * math.log(time),
            0.0277316483 * math.log10(9) * math.sqrt(math.log((time + 1e-6) / 2e-6)),
        )
        assert math.sqrt(2) * math.hypot(*parts) / 79.2 == pytest.approx(deviation, rel=0.03)


def test_a_cell_says_nothing_of_what_is_not_changed() -> None:
    """Deployments and studies of before these fields keep their digests."""
    for name in WINDOWS:
        assert not {"rescaling", "clamp"} & load_cell(name).model_dump().keys()
    text = changed("reram-cmo-falcone", clamp="physical", g_max=90e-6, rescaling="proportional")
    assert type(text).from_json(text.to_json()) == text


def test_aihwkit_refuses_what_it_has_no_model_of() -> None:
    larger = changed("pcm-hermes-dual", g_max=50e-6, rescaling="proportional")
    with pytest.raises(DesignError, match=r"aihwkit refuses it .*use noise='native'") as caught:
        Reference(larger)
    assert "\n" not in str(caught.value)
