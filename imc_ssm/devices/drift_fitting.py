"""Drift, its spread and retention from readings over time; a part of `fit_cell`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from imc_ssm.devices.laws import STUCK, SURE, Law, Line
from imc_ssm.devices.measurements import FEWEST, Measurements

__all__ = ["fit_drift"]

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Slopes:
    """ln G against ln t of each device."""

    nu: Numbers
    spread_of_nu: Numbers
    residual: float
    """Pooled sum of squares."""
    freedom: int


def _slopes(log_g: Numbers, log_t: Numbers, device: npt.NDArray[np.int64]) -> _Slopes:
    """Least squares device by device; those with two times or more."""
    count = np.bincount(device)
    n = np.maximum(count, 1)
    x = log_t - (np.bincount(device, log_t) / n)[device]
    y = log_g - (np.bincount(device, log_g) / n)[device]
    sxx, sxy, syy = (np.bincount(device, v) for v in (x * x, x * y, y * y))
    use = (count >= 2) & (sxx > 1e-9)
    slope = sxy[use] / sxx[use]
    rest = float(np.maximum(syy[use] - slope * sxy[use], 0).sum())
    return _Slopes(-slope, 1 / sxx[use], rest, int((count[use] - 2).sum()))


def fit_drift(
    data: Measurements,
    good: npt.NDArray[np.bool_],
    first: npt.NDArray[np.bool_],
    width: tuple[Numbers, Numbers],
    low: float,
    reading: tuple[Law, int, float, str] | None,
    fields: dict[str, Any],
    lines: list[Line],
    notes: list[str],
    source: str,
) -> float:
    """Exponent, spread and retention; returns the relative read noise that is slow (0 where unknown)."""
    if data.time is None or not data.time.max() > 2 * data.time.min():
        return 0.0
    clear = good & (data.measured > 0) & (np.interp(data.target, *width) < 0.15 * data.target)
    if clear.sum() < FEWEST or not (clear & ~first).any():
        notes.append("Too few devices are far enough above their noise: drift was not fitted.")
        return 0.0
    g, target, time = data.measured[clear], data.target[clear], data.time[clear]
    device = np.arange(len(g))
    if data.device is not None:  # one number for readings of a device at a time
        (device, time), of, count = np.unique(
            np.stack([data.device[clear].astype(float), time]), axis=1, return_inverse=True, return_counts=True
        )
        g, target = (np.bincount(of.ravel(), v) / count for v in (g, target))
        device = np.unique(device, return_inverse=True)[1]
    start = float(np.median(data.time[first]))
    log_t = np.log(time / start)

    def undone(decay: float) -> Numbers:
        """Conductances before an exponential decay to g_min of so many 1/s."""
        return np.maximum(low + (g - low) * np.exp(np.minimum(decay * time, 50.0)), 1e-3 * g)

    if data.device is not None:

        def loss(decay: float) -> float:
            found = _slopes(np.log(undone(decay)), log_t, device)
            return found.freedom * math.log(max(found.residual, 1e-300))

        plain = _slopes(np.log(g), log_t, device)
        several = plain.freedom >= FEWEST
        decay = _decay(loss, float(time.max()), SURE) if several else 0.0
        found = _slopes(np.log(undone(decay)), log_t, device)
        variance = found.residual / found.freedom if several else 0.0
        if not several and reading is not None:
            variance = float(np.median(reading[0].at(g) / g)) ** 2 / reading[2]
        keep = np.abs(found.nu - np.median(found.nu)) <= STUCK * max(
            float(stats.median_abs_deviation(found.nu, scale="normal")), 1e-9
        )
        nu, n = float(found.nu[keep].mean()), int(keep.sum())
        total, noise = float(found.nu[keep].var(ddof=1)), variance * float(found.spread_of_nu[keep].mean())
        spread = math.sqrt(max(total - noise, 0.0))
        error, of_spread = math.sqrt(total / n), total / max(spread, 1e-12) / math.sqrt(2 * n)
        p = float(stats.kstest((found.nu[keep] - nu) / math.sqrt(max(total, 1e-300)), "norm").pvalue)
        quality = f"slopes of {n} devices; Kolmogorov-Smirnov against a normal distribution p = {p:.2g}"
        fast = 0.0 if reading is None else float(np.median(reading[0].at(g) / g)) ** 2 / reading[2]
        slow = math.sqrt(max(variance - fast, 0.0)) if several else 0.0
        if slow and found.freedom * (variance / max(fast, 1e-300)) < stats.chi2.isf(SURE, found.freedom):
            slow = 0.0  # the repeats explain it
    else:
        keep = _together(np.log(g / target), time)  # stuck devices are far off when the others have drifted
        g, target, time, log_t = g[keep], target[keep], time[keep], log_t[keep]
        width_of = np.interp(target, *width) / target

        def moments(decay: float) -> tuple[float, Any]:
            y = np.log(undone(decay) / target)

            def cost(at: Numbers) -> float:
                offset, exponent, *logs = at
                of_drift, of_start = np.exp(np.clip(logs, -12.0, 3.0))
                sigma2 = (of_start * width_of) ** 2 + (of_drift * log_t) ** 2
                return float((np.log(sigma2) + (y - offset + exponent * log_t) ** 2 / sigma2).sum() / 2)

            start_at = (0.0, 0.01, math.log(0.01), 0.0)
            best = optimize.minimize(
                cost, start_at, method="Nelder-Mead", options={"xatol": 1e-5, "maxiter": 2000}
            )
            return best.fun, best.x

        decay = _decay(lambda rate: 2 * moments(rate)[0], float(time.max()), SURE)
        _, (_, nu, log_spread, log_width) = moments(decay)
        spread, n, slow = math.exp(log_spread), len(g), 0.0
        sigma2 = (math.exp(log_width) * width_of) ** 2 + (spread * log_t) ** 2
        error = 1 / math.sqrt(max(float((log_t**2 / sigma2).sum()), 1e-300))
        share = (spread * log_t) ** 2 / sigma2
        of_spread = spread / math.sqrt(max(2 * float((share**2).sum()), 1e-300))
        quality = f"mean and variance of {n} readings over time (no column device)"
        notes.append("Without a column `device` the spread of the drift comes from variances over devices.")
    nu, spread = float(nu), float(spread)
    by_time = {t: float(np.median(np.log(g[time == t] / target[time == t]))) for t in np.unique(time)[:64]}
    if decay:
        tau = 1 / decay
        said = f"{source}: likelihood-ratio test p < {SURE:g}"
        fields["retention"] = {"value": float(f"{tau:.4g}"), "unit": "s", "source": said}
        lines.append(Line("retention", tau, "s", None, n, f"decay to g_min, p < {SURE:g}"))
    elif len(by_time) > 2:
        seen, fitted = np.array(list(by_time.values())), -nu * np.log(np.array(list(by_time)) / start)
        fitted, seen = fitted - fitted.mean(), seen - seen.mean()
        if seen.std() > 0:
            r2 = 1 - float(np.square(seen - fitted).sum() / np.square(seen).sum())
            quality += f"; R2 of the medians over {len(seen)} times = {r2:.3f}"
    lines.append(Line("drift.exponent", nu, "1", (float(nu - 1.96 * error), float(nu + 1.96 * error)), n, quality))
    within = (max(spread - 1.96 * of_spread, 0.0), spread + 1.96 * of_spread)
    lines.append(Line("drift.spread", spread, "1", within, n, quality))
    fields["drift"] = {
        "exponent": {"value": float(f"{nu:.5g}"), "unit": "1", "source": f"{source}: {quality}"},
        "spread": {"value": float(f"{spread:.5g}"), "unit": "1", "source": f"{source}: {quality}"},
        "t_0": {
            "value": float(f"{start:.4g}"),
            "unit": "s",
            "source": f"{source}: median of the first readings",
        },
    }
    return slow


def _together(y: Numbers, time: Numbers) -> npt.NDArray[np.bool_]:
    """Values within `STUCK` robust deviations of the median at their time."""
    keep = np.ones(len(y), bool)
    for moment in np.unique(time):
        now = time == moment
        wide = STUCK * float(stats.median_abs_deviation(y[now], scale="normal"))
        keep[now] = np.abs(y[now] - np.median(y[now])) <= wide
    return keep


def _decay(loss: Any, last: float, sure: float) -> float:
    """Rate of the exponential decay, 1/s, if twice the logarithm of the likelihood gains enough by it, else 0."""
    found = optimize.minimize_scalar(
        lambda log: loss(math.exp(log)), bounds=(math.log(1e-3 / last), math.log(5 / last)), method="bounded"
    )
    better = loss(0.0) - found.fun > stats.chi2.isf(2 * sure, 1)  # one-sided: no decay is the edge
    return math.exp(found.x) if better and found.x > math.log(2e-3 / last) else 0.0
