"""Does a chip keep up with samples that come at a rate, and what power does it draw on average?

With f samples a second, T = 1 / f, a sample's time t (`Schedule`: of the longest step, with what follows the
last sample of a sequence), energy E a sample (mean over a sequence), leakage density l and leaking area A:

    slack       T - t - t_wake
    duty cycle  d = min((mean time from a sample to its output + t_wake) f, 1), the share of time awake
    power, on      E f + l A
    power, gated   E f + l (A d + A_kept (1 - d)) + E_wake f

Memristive cells hold their weights without power and do not leak. Power-gated, the memories stay on between
samples, since they hold states and coefficients: A_kept is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from imc_ssm.chip.deployment import deployment_of
from imc_ssm.costs.model import cost
from imc_ssm.costs.schedules import Mode, schedule_of
from imc_ssm.devices.constants import ConstantsLike, constants_of
from imc_ssm.errors import ConfigError
from imc_ssm.pricing.intervals import bounds, scenarios
from imc_ssm.pricing.nodes import leakage_density

if TYPE_CHECKING:
    from imc_ssm.chip import Deployment
    from imc_ssm.pricing.intervals import Number

__all__ = ["PARTS", "real_time"]

PARTS = ("work", "leakage", "wake-up")
"""Parts of the average power."""
_IDLE = ("on", "gated")


def real_time(
    deployment: Deployment,
    sample_rate: float | Sequence[float],
    *,
    mode: Mode = "streaming",
    interleaved: int = 1,
    leakage: float | None = None,
    wake_energy: float = 0.0,
    wake_time: float = 0.0,
    constants: ConstantsLike = None,
) -> xr.Dataset:
    """Whether a deployment keeps up with samples at `sample_rate` (Hz; one or several), with what power.

    `leakage`: W/m2 of the leaking area; None: the law of the design's node, with its interval. `wake_energy` (J)
    and `wake_time` (s): what it takes to wake up, once a sample, when power-gated; no law is known for them, so
    they are 0 unless given. `interleaved`: see `schedule`. `constants` as in `cost`: of times, energies, areas and
    leakage.

    Returns over `sample_rate` and `idle` ("on": everything stays on between samples, "gated": all but memories is
    switched off): `keeps_up`, `slack` (s), `slack_percent` of the time from sample to sample, `duty_cycle`;
    `power` (W; sample_rate, idle, bound, part), `power_total` and `energy_sample` (J; with leakage), NaN where it
    does not keep up; over `idle` `sample_rate_max` (Hz) for the longest step and `sample_rate_mean` where samples
    queue; `latency`, `latency_mean`, `period`, `period_mean`, `tail` (s); `area_leaking`, `area_kept` (m2). The
    interval is that of the leakage alone; the energy of the work is nominal.

    Raises `ConfigError` for a rate that is not positive or negative numbers, `DesignError` for a bidirectional
    model.
    """
    deployment, laws = deployment_of(deployment, "real_time"), constants_of(constants)
    rates = np.atleast_1d(np.asarray(sample_rate, float))
    if rates.ndim != 1 or not rates.size or not (np.isfinite(rates) & (rates > 0)).all():
        raise ConfigError(
            f"sample_rate = {sample_rate!r}; give one or more positive numbers of samples a second, Hz"
        )
    for name, value in (("leakage", leakage), ("wake_energy", wake_energy), ("wake_time", wake_time)):
        if value is not None and not 0 <= value < np.inf:
            raise ConfigError(f"{name} = {value!r}; give a finite number, 0 or more")
    found = schedule_of(deployment, mode, interleaved=interleaved, constants=laws)
    k = scenarios(laws.entries)
    density = leakage_density(k, deployment.design.node.value) if leakage is None else leakage
    area = _areas(cost(deployment, constants=laws)["area"])
    whole, kept = sum(area.values()) - area["cells"], area["memories"]
    work = found.energy(deployment.steps) / deployment.steps

    wake = np.array([0.0, wake_time])
    # Strict: the last sample of a sequence is done, with what follows it, before the next sample comes.
    longest = found.period + found.tail + wake
    mean = found.period_mean + found.tail / deployment.steps + wake
    every = 1.0 / rates[:, None]
    # In a pipeline a sample keeps the chip awake until it is done, beside those behind it.
    busy = found.latency_mean + found.tail / deployment.steps + wake
    slack, duty = every - longest, np.minimum(busy / every, 1.0)
    keeps = slack >= 0
    awake = np.where(np.array(_IDLE) == "on", 1.0, duty)
    leaking = whole * awake + kept * (1.0 - awake)
    woken = np.array([0.0, wake_energy])
    parts = np.stack([np.stack(_interval(work * r, k)) for r in rates])  # (rate, bound)
    power = np.empty((len(rates), 2, 3, len(PARTS)))
    power[..., 0] = parts[:, None, :]
    power[..., 1] = leaking[..., None] * np.stack(_interval(density, k))
    power[..., 2] = (woken * rates[:, None])[..., None]
    power = np.where(keeps[..., None, None], power, np.nan)

    at = ("sample_rate", "idle")
    out = xr.Dataset(
        coords={
            "sample_rate": ("sample_rate", rates, {"units": "Hz", "long_name": "Samples a second"}),
            "idle": ("idle", list(_IDLE)),
            "bound": ("bound", ["low", "nominal", "high"]),
            "part": ("part", list(PARTS)),
        }
    )
    for name, dims, values, units, label in (
        ("keeps_up", at, keeps, "1", "Whether each sample is done before the next comes"),
        ("slack", at, slack, "s", "Time left of a sample's, longest step"),
        ("slack_percent", at, 100 * slack / every, "percent", "Time left of a sample's, longest step"),
        ("duty_cycle", at, duty, "1", "Share of the time in which the chip works"),
        ("power", (*at, "bound", "part"), power, "W", "Average power"),
        ("power_total", (*at, "bound"), power.sum(-1), "W", "Average power, all parts"),
        ("energy_sample", (*at, "bound"), power.sum(-1) * every[..., None], "J", "Energy per sample, all parts"),
        ("sample_rate_max", "idle", 1 / longest, "Hz", "Largest sample rate, longest step"),
        ("sample_rate_mean", "idle", 1 / mean, "Hz", "Largest sample rate in the mean, samples queueing"),
        ("latency", (), found.latency, "s", "Time from a sample to its output, longest step"),
        ("latency_mean", (), found.latency_mean, "s", "Time from a sample to its output, mean over steps"),
        ("period", (), found.period, "s", "Time from one sample to the next, longest steps"),
        ("period_mean", (), found.period_mean, "s", "Time from one sample to the next, mean over steps"),
        ("tail", (), found.tail, "s", "Time after the last sample of a sequence"),
        ("area_leaking", (), whole, "m2", "Area that leaks"),
        ("area_kept", (), kept, "m2", "Area that leaks when power-gated: memories"),
    ):
        out[name] = (dims, values, {"units": units, "long_name": label})
    out.attrs = {
        "title": f"{deployment.name} on {deployment.design.name} in real time",
        "mode": mode,
        "critical": found.critical.name,
        "bottleneck": found.bottleneck,
        "steps": deployment.steps,
    }
    return out


def _interval(value: Number, k: object) -> list[float]:
    return [float(x) for x in bounds(value, k)]  # type: ignore[arg-type]


def _areas(area: xr.DataArray) -> dict[str, float]:
    """m2 by component, nominal."""
    nominal = area.sel(bound="nominal") if "bound" in area.dims else area
    return {str(name): float(nominal.sel(component=name)) for name in nominal["component"].values}
