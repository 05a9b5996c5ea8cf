"""`imc-ssm cost --schedule` and `--sample-rate`: when what runs, and whether the chip keeps up with samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from imc_ssm.cli.inputs import writable
from imc_ssm.cli.report import console, print_whole
from imc_ssm.errors import ConfigError, unknown
from imc_ssm.units import quantity

if TYPE_CHECKING:
    import xarray as xr

    from imc_ssm.chip import Deployment
    from imc_ssm.costs.schedules import Mode, Schedule
    from imc_ssm.devices import Constants

__all__ = ["check_timing", "print_timing", "schedule_table"]

SHOWN = {"streaming": 2, "throughput": 4}
"""Samples of a schedule's file and figure."""
IDLE = {"on": "everything on between samples", "gated": "switched off between samples but for memories"}


def check_timing(schedule: str | None, sample_rate: float | None, out: Path | None) -> None:
    """`ConfigError` for an unknown mode or a rate that is not positive, before anything is computed."""
    from imc_ssm.costs.schedules import Mode

    if schedule is not None and schedule not in get_args(Mode):
        raise ConfigError(unknown("schedule", schedule, get_args(Mode)))
    if sample_rate is not None and not 0 < sample_rate < float("inf"):
        raise ConfigError(f"--sample-rate {sample_rate:g}; give a positive number of samples a second, Hz")
    for path in _paths(schedule, sample_rate, out).values():
        writable(path, ".nc")


def print_timing(
    deployment: Deployment,
    schedule: str | None,
    sample_rate: float | None,
    out: Path | None,
    constants: Constants | None = None,
) -> None:
    """Print, and with `out` write beside it, the schedule and the verdict of those that were asked for."""
    from imc_ssm.costs.realtime import real_time
    from imc_ssm.costs.schedules import schedule_of
    from imc_ssm.plots import draw, save_figure
    from imc_ssm.results import save

    mode = cast("Mode", schedule or "streaming")
    paths = _paths(schedule, sample_rate, out)
    if schedule is not None:
        found = schedule_of(deployment, mode, constants=constants)
        print_whole(schedule_table(found.to_dataset()))
        console.print(_about(found), soft_wrap=True)
        if "schedule" in paths:
            ds = found.to_dataset(SHOWN[mode])
            save(ds, paths["schedule"])
            picture = paths["schedule"].with_suffix(".png")
            save_figure(draw(ds), picture)
            console.print(f"wrote {paths['schedule']} and {picture}", soft_wrap=True)
    if sample_rate is not None:
        ds = real_time(deployment, sample_rate, mode=mode, constants=constants)
        for line in _verdict(ds):
            console.print(line, soft_wrap=True)
        if "realtime" in paths:
            save(ds, paths["realtime"])
            console.print(f"wrote {paths['realtime']}", soft_wrap=True)


def _paths(schedule: str | None, sample_rate: float | None, out: Path | None) -> dict[str, Path]:
    asked = {"schedule": schedule, "realtime": sample_rate}
    if out is None:
        return {}
    return {name: out.with_name(f"{out.stem}-{name}.nc") for name, value in asked.items() if value is not None}


def schedule_table(ds: xr.Dataset) -> Table:
    """The first sample: each stage with its resource, start and end; the critical one with a star."""
    out = Table(title=str(ds.attrs["title"]), box=SIMPLE, padding=(0, 1, 0, 0))
    for name in ("stage", "resource", "mostly", "start", "end", "time"):
        out.add_column(name, justify="right" if name in ("start", "end", "time") else "left", no_wrap=True)
    for i in np.flatnonzero(ds["sample"].values == 0):
        row = ds.isel(row=i)
        start, end = float(row["start"]), float(row["end"])
        mark = " *" if row["stage"].item() == ds.attrs["critical"] else ""
        words = (f"{row['stage'].item()}{mark}", str(row["place"].item()), str(row["component"].item()))
        out.add_row(*words, *(quantity(time, "s") for time in (start, end, end - start)))
    return out


def _about(found: Schedule) -> str:
    busy = ", ".join(f"{name} {100 * share:.0f} %" for name, share in found.utilisation.items())
    mean = ""
    if not np.isclose(found.period_mean, found.period, rtol=1e-6, atol=0):
        mean = f" ({quantity(found.period_mean, 's')} in the mean: slow heads)"
    return (
        f"a sample every {quantity(found.period, 's')}{mean}, done after {quantity(found.latency, 's')}\n"
        f"* critical stage: {found.critical.name}; the period is set by {found.bottleneck}\n"
        f"busy: {busy}"
    )


def _verdict(ds: xr.Dataset) -> list[str]:
    """What there is to say on one rate."""
    one = ds.isel(sample_rate=0)
    on = one.sel(idle="on")
    rate = quantity(float(one["sample_rate"]), "Hz")
    most, mean = (float(on[name]) for name in ("sample_rate_max", "sample_rate_mean"))
    verdict = "keeps up" if bool(on["keeps_up"]) else "does not keep up"
    if not bool(on["keeps_up"]) and float(one["sample_rate"]) <= mean:
        verdict += " in the longest step, but does in the mean, where samples may queue"
    out = [
        f"{rate}: {verdict}, slack {_signed(float(on['slack']))} "
        f"({float(on['slack_percent']):.3g} %), duty cycle {100 * float(on['duty_cycle']):.3g} %; "
        f"at most {quantity(most, 'Hz')}"
    ]
    if not np.isclose(mean, most, rtol=0.005, atol=0):
        out[0] += f" (longest step, with what follows a sequence; {quantity(mean, 'Hz')} where samples may queue)"
    for idle, words in IDLE.items():
        power = one.sel(idle=idle)
        if not bool(power["keeps_up"]):
            continue
        low, middle, high = (quantity(float(power["power_total"].sel(bound=b)), "W") for b in ds["bound"].values)
        parts = power["power"].sel(bound="nominal")
        shares = ", ".join(f"{name} {quantity(float(parts.sel(part=name)), 'W')}" for name in ("work", "leakage"))
        out.append(f"average power, {words}: {middle} ({low} to {high}; {shares})")
    return out


def _signed(seconds: float) -> str:
    return f"{'-' if seconds < 0 else ''}{quantity(abs(seconds), 's')}"
