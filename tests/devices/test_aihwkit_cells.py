"""Every noise model of aihwkit from a TOML: the same numbers as aihwkit itself, and one sentence for a mistake."""

from __future__ import annotations

import math
import tomllib
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from imc_ssm.chip import map_matrix, program
from imc_ssm.devices import Cell, Draws, device_path, load_cell, parse_cell, resolve
from imc_ssm.devices.aihwkit import noise_models
from imc_ssm.devices.oracle import generator_at
from imc_ssm.errors import ConfigError, DesignError

N, P = 40_000, 1e-5
DAY = 86400.0
CUSTOM = {"g_lst": [0.0, 12.5, 25.0], "nu_mean_lst": [0.1, 0.06, 0.04], "nu_std_lst": [0.02, 0.01, 0.01]}
CASES: dict[str, tuple[dict[str, Any], tuple[float, float], tuple[float, ...]]] = {
    "StateIndependentNoiseModel": ({}, (0.0, 25e-6), ()),
    "PCMLikeNoiseModel": ({}, (0.0, 25e-6), ()),
    "CustomDriftPCMLikeNoiseModel": ({"custom_drift_model": CUSTOM}, (0.0, 25e-6), ()),
    "HermesNoiseModel": ({"num_devices": 1}, (0.0, 10.35e-6), ()),
    "ReRamWan2022NoiseModel": ({}, (1e-6, 40e-6), (1.0, DAY, 2 * DAY)),
    "ReRamCMONoiseModel": ({"acceptance_range": 2}, (9e-6, 88.2e-6), ()),
}
"""Arguments, conductances and times of a cell of each."""
NATIVE = {
    "PCMLikeNoiseModel": "pcm-nandakumar-2019",
    "HermesNoiseModel": "pcm-hermes-single",
    "ReRamWan2022NoiseModel": "reram-wan-2022",
    "ReRamCMONoiseModel": "reram-cmo-falcone",
}


def cell_of(noise_model: str, **changes: Any) -> Cell:
    raw = tomllib.loads(device_path("cells", "state-independent").read_text(encoding="utf-8"))
    arguments, (low, high), only = CASES.get(noise_model, ({}, (0.0, 25e-6), ()))
    times = {"earliest": 1.0, "latest": 3e8, "source": "assumed: a test"}
    raw |= {"noise_model": noise_model, "arguments": arguments, "times": times | ({"only": only} if only else {})}
    for field, value in (("g_min", low), ("g_max", high)):
        raw[field] = {**raw[field], "value": changes.pop(field, value)}
    return parse_cell(raw | changes)


def test_every_noise_model_of_aihwkit_has_a_case() -> None:
    assert set(noise_models()) == set(CASES)


@pytest.mark.filterwarnings("ignore")  # of aihwkit, called as it is
@pytest.mark.parametrize("name", CASES)
def test_it_draws_what_aihwkit_draws(name: str) -> None:
    """Number by number, from the same seed; the caller's generator of torch is left alone."""
    cell = cell_of(name)
    model = cell.reference()
    target = np.linspace(cell.g_min.value, cell.g_max.value, 500).astype(np.float32)
    micro = torch.from_numpy((target.astype(np.float64) * 1e6).astype(np.float32))
    time = cell.usual_times()[-1]
    state = torch.get_rng_state()
    devices = cell.program(target, Draws([1, 2]))
    read = cell.read(devices, time, Draws([3, 4]))
    assert torch.equal(state, torch.get_rng_state())
    for i, (one, two) in enumerate(((1, 3), (2, 4))):
        with generator_at(one), np.errstate(all="ignore"):
            g = model.apply_programming_noise_to_conductance(micro.clone())
            kept = model.generate_drift_coefficients(micro.clone())
        np.testing.assert_allclose(devices.g[i], g.numpy() * 1e-6, rtol=1e-5)
        with generator_at(two):
            later = model.apply_drift_noise_to_conductance(g, kept, time)
        np.testing.assert_allclose(read[i], later.numpy() * 1e-6, rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("name", NATIVE)
def test_it_is_the_native_cell_of_the_same_fit(name: str) -> None:
    """Two-sample Kolmogorov-Smirnov, n = 40,000 each, p > 1e-4, as programmed and at two times."""
    one, two = cell_of(name), load_cell(NATIVE[name])
    target = np.full(N, one.g_min.value + 0.4 * one.span, np.float32)
    a, b = one.program(target, Draws([1])), two.program(target, Draws([2]))
    assert stats.ks_2samp(a.g[0], b.g[0], method="asymp").pvalue > 1e-4
    for time in one.usual_times()[-2:]:
        g, h = one.read(a, time, Draws([3])), two.read(b, time, Draws([4]))
        assert stats.ks_2samp(g[0], h[0], method="asymp").pvalue > 1e-4


def test_the_formulas_of_the_shipped_one() -> None:
    """Programming 0.2 uS whatever the conductance; ln(G(t) / G) falls by |N(0.1, 0.05)| ln((t + t_0) / t_0).

    Bounds: two-sided quantiles (1e-5) of the normal and chi-square distributions, n = 40,000.
    """
    cell = cell_of("StateIndependentNoiseModel", arguments={"read_noise_scale": 0.0})
    for g in (5e-6, 20e-6):
        devices = cell.program(np.full(N, g, np.float32), Draws([1]))
        error = 1e6 * (devices.g[0].astype(np.float64) - g)
        low, high = stats.chi2.ppf([P / 2, 1 - P / 2], N - 1)
        assert low < error.var(ddof=1) * (N - 1) / 0.2**2 < high
        read = cell.read(devices, DAY, Draws([2]))[0].astype(np.float64)
        nu = -np.log(read / devices.g[0]) / math.log((DAY + 20) / 20)
        folded = stats.foldnorm(2.0, scale=0.05)
        assert abs(nu.mean() - folded.mean()) < stats.norm.isf(P / 2) * folded.std() / math.sqrt(N)
        assert stats.kstest(nu, folded.cdf).pvalue > P


def test_arguments_decide() -> None:
    loud, quiet = (cell_of("PCMLikeNoiseModel", arguments={"prog_noise_scale": scale}) for scale in (2.0, 0.0))
    target = np.full(1000, 10e-6, np.float32)
    assert np.ptp(quiet.program(target, Draws([1])).g) == 0
    assert np.std(loud.program(target, Draws([1])).g) > 1.5e-6
    days = {"1.0": [0.5, 0.0], "86400.0": [1.0, 0.0]}
    times = {"earliest": 1.0, "latest": DAY, "only": [1.0, DAY], "source": "assumed: a test"}
    own = cell_of("ReRamWan2022NoiseModel", arguments={"coeff_dic": days}, times=times)
    devices = own.program(target, Draws([1]))
    assert np.std(own.read(devices, DAY, Draws([2]))) == pytest.approx(1e-6, rel=0.1)
    assert parse_cell(own.model_dump()) == own


def test_a_part_of_the_window_has_the_published_noise() -> None:
    """A smaller g_max is where weights are mapped; aihwkit's own rescaling is asked for by its argument."""
    target = np.full(1000, 4e-6, np.float32)
    whole, part = cell_of("PCMLikeNoiseModel"), cell_of("PCMLikeNoiseModel", g_max=5e-6)
    np.testing.assert_array_equal(whole.program(target, Draws([1])).g, part.program(target, Draws([1])).g)
    rescaled = cell_of("PCMLikeNoiseModel", g_max=5e-6, arguments={"g_max": 5.0})
    assert rescaled.program(target, Draws([1])).g.std() < 0.5 * whole.program(target, Draws([1])).g.std()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("HermesNoiseModl", {}, "did you mean 'HermesNoiseModel'.* known: .*StateIndependentNoiseModel"),
        (
            "HermesNoiseModel",
            {"arguments": {"num_device": 1}},
            "did you mean 'num_devices'.* known: .*read_noise_scale",
        ),
        ("HermesNoiseModel", {"arguments": {"num_devices": 3}}, "does not take .* 1 or 2 devices"),
        ("HermesNoiseModel", {"arguments": {"g_converter": 1}}, "unknown argument of HermesNoiseModel"),
        ("HermesNoiseModel", {"g_max": 20.7e-6}, "g_max = 20.7 uS is outside the 0 to 10.35 uS"),
        (
            "PCMLikeNoiseModel",
            {"g_max": 100e-6},
            "g_max = 100 uS is outside the 0 to 25 uS .* give arguments a g_max",
        ),
        ("PCMLikeNoiseModel", {"arguments": {"prog_coeff": "many"}}, "does not take arguments"),
        ("PCMLikeNoiseModel", {"arguments": {"t_0": "soon"}}, "does not take arguments"),
        ("PCMLikeNoiseModel", {"arguments": {"t_0": -300.0}}, "has no number at 3600 s"),
        ("PCMLikeNoiseModel", {"programming_scale": 0.5}, "scale the noise in arguments"),
        ("ReRamCMONoiseModel", {"arguments": {}}, "needs acceptance_range, in percent; it has 0.2, 2"),
        (
            "ReRamCMONoiseModel",
            {"arguments": {"acceptance_range": 0.02}},
            "replaces acceptance_range = 0.02 by 0.2",
        ),
        ("ReRamWan2022NoiseModel", {"times": None}, r"these times only: only = \[1.0, 86400.0, 172800.0\] s"),
        ("CustomDriftPCMLikeNoiseModel", {"arguments": {}}, "custom_drift_model"),
    ],
)
def test_a_mistake_is_one_sentence(name: str, changes: dict[str, Any], message: str) -> None:
    if changes.get("times", 1) is None:
        changes = {"times": {"earliest": 1.0, "latest": 9.0, "source": "assumed: a test"}}
    with pytest.raises(ConfigError, match=message) as caught:
        cell_of(name, **changes)
    assert "\n" not in str(caught.value)


def test_without_aihwkit_it_is_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is listed; drawing says what is missing."""
    import imc_ssm.devices.aihwkit as module

    def missing() -> dict[str, Any]:
        raise ImportError("No module named 'aihwkit'")

    monkeypatch.setattr(module, "noise_models", missing)
    cell = load_cell("state-independent")
    with pytest.raises(DesignError, match="aihwkit cannot be imported"):
        cell.program(np.zeros(3, np.float32), Draws([1]))


def test_on_a_chip_it_draws_as_cells_do() -> None:
    chip = resolve("reram-128").with_(cell=cell_of("ReRamCMONoiseModel"))
    mapped = map_matrix("m", "m", np.random.default_rng(1).normal(size=(9, 13)), None, chip, input_range=1.0)
    native = program(mapped, chip, 9, (4, 0)).weights(DAY)
    oracle = program(mapped, chip, 9, (4, 0), noise="aihwkit").weights(DAY)
    np.testing.assert_array_equal(native, oracle)
