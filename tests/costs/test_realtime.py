"""Real time: the verdict and the power by hand, what moves them and which way."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from imc_ssm import results
from imc_ssm.chip import Deployment
from imc_ssm.costs import cost, real_time, schedule_of
from imc_ssm.errors import ConfigError

Factory = Callable[..., Deployment]


def test_power_by_hand(deployment: Factory) -> None:
    """10 W/m2 on what leaks, 1 nJ and 1 us to wake up, 16 kHz."""
    placed = deployment()
    ds, rate, steps = cost(placed), 16e3, placed.steps
    got = real_time(placed, rate, leakage=10.0, wake_energy=1e-9, wake_time=1e-6).isel(sample_rate=0)
    area = ds["area"]
    leaks, kept = float(area.sum() - area.sel(component="cells")), float(area.sel(component="memories"))
    work = rate * float(ds["energy_total"] - ds["energy"].sel(component="leakage")) / steps
    power = got["power_total"].sel(bound="nominal")
    assert float(power.sel(idle="on")) == pytest.approx(work + 10 * leaks, rel=1e-9, abs=0)
    duty = rate * (float(ds["latency_total"]) / steps + 1e-6)
    gated = work + 10 * (leaks * duty + kept * (1 - duty)) + 1e-9 * rate
    assert float(power.sel(idle="gated")) == pytest.approx(gated, rel=1e-9, abs=0)
    longest = float(ds["latency_longest_step"]) + schedule_of(placed).tail
    assert float(got["slack"].sel(idle="on")) == pytest.approx(1 / rate - longest, rel=1e-9, abs=0)
    assert float(got["slack"].sel(idle="gated")) == pytest.approx(1 / rate - longest - 1e-6, rel=1e-9, abs=0)
    assert float(got["slack_percent"].sel(idle="on")) == pytest.approx(100 * (1 - longest * rate))
    assert float(got["duty_cycle"].sel(idle="gated")) == pytest.approx(duty)
    assert float(got["energy_sample"].sel(idle="on", bound="nominal")) == pytest.approx(
        (work + 10 * leaks) / rate, rel=1e-9, abs=0
    )


def test_the_largest_rate_is_just_kept(deployment: Factory) -> None:
    placed = deployment()
    most = float(real_time(placed, 1.0)["sample_rate_max"].sel(idle="on"))
    got = real_time(placed, [0.999 * most, 1.001 * most]).sel(idle="on")
    assert got["keeps_up"].values.tolist() == [True, False]
    assert np.isfinite(got["power_total"].isel(sample_rate=0)).all()
    assert np.isnan(got["power_total"].isel(sample_rate=1)).all()


def test_slow_heads_help_the_mean_alone(deployment: Factory) -> None:
    plain, slow = (real_time(deployment(scheme=s), 1e3).sel(idle="on") for s in (None, {"rate_limit": 1.5}))
    assert float(slow["sample_rate_max"]) == pytest.approx(float(plain["sample_rate_max"]), rel=0.02)
    assert float(slow["sample_rate_mean"]) > 1.02 * float(plain["sample_rate_mean"])


def test_power_moves_as_physics_says(deployment: Factory) -> None:
    placed = deployment()

    def total(rate: float = 1e4, **rest: Any) -> dict[str, float]:
        found = real_time(placed, rate, **rest)["power_total"].isel(sample_rate=0).sel(bound="nominal")
        return {str(idle): float(found.sel(idle=idle)) for idle in ("on", "gated")}

    for idle in ("on", "gated"):
        assert all(a < b for a, b in pairwise(total(leakage=x)[idle] for x in (0.0, 1.0, 100.0)))
        assert all(a < b for a, b in pairwise(total(rate)[idle] for rate in (1e2, 1e3, 1e5)))
    assert total()["gated"] < total()["on"]
    assert total(leakage=0.0)["gated"] == total(leakage=0.0)["on"]
    assert total(wake_energy=1e-9)["on"] == total()["on"]
    assert total(wake_energy=1e-9)["gated"] == pytest.approx(total()["gated"] + 1e-9 * 1e4, rel=1e-9, abs=0)


def test_leakage_carries_its_interval(deployment: Factory, tmp_path: Any) -> None:
    ds = real_time(deployment(), [1e3, 1e6])
    low, middle, high = (ds["power"].sel(bound=b, part="leakage", idle="on") for b in ("low", "nominal", "high"))
    assert (low < middle).all()
    assert (middle < high).all()
    assert float(middle[0]) == pytest.approx(float(middle[1]), rel=1e-9, abs=0)
    results.save(ds, tmp_path / "r.nc")
    assert results.values_equal(results.load(tmp_path / "r.nc"), ds)


def test_throughput_is_never_slower(deployment: Factory) -> None:
    placed = deployment(layers=2)
    stream, flow = (real_time(placed, 1e3, mode=m)["sample_rate_max"] for m in ("streaming", "throughput"))
    assert (flow > stream).all()


def test_a_pipeline_is_awake_until_its_samples_are_done(deployment: Factory) -> None:
    """Slow samples: for the latency of each. Faster than it: always, with no power to save."""
    placed = deployment(layers=2)
    flow = schedule_of(placed, "throughput")
    assert 1.2 * flow.period + flow.tail < flow.latency
    rates = [1e3, 1 / (1.2 * flow.period + flow.tail)]
    got = real_time(placed, rates, mode="throughput").sel(idle="gated")
    slow = 1e3 * (flow.latency + flow.tail / placed.steps)
    assert got["duty_cycle"].values.tolist() == pytest.approx([slow, 1.0])
    assert got["keeps_up"].all()


@pytest.mark.parametrize(
    ("rate", "rest"), [(0.0, {}), (-1.0, {}), (float("nan"), {}), ([], {}), (1.0, {"leakage": -1.0})]
)
def test_wrong_numbers_are_refused(deployment: Factory, rate: Any, rest: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"sample_rate|leakage"):
        real_time(deployment(), rate, **rest)
