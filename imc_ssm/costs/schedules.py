"""A pipeline schedule: when each stage of each sample runs on which resource.

    streaming   samples come one by one; the stages of a sample run one after the other, and the next sample starts
                when all have ended: period = latency = sum of the times
    throughput  all samples are there (a stored sequence, or several): a stage of one sample runs beside other
                stages of other samples. The period is the least that resources and recurrences allow,
                max(max_r busy_r, max_c loop_c / q), for busy_r = sum of the times on resource r, loop_c = sum of
                the times of an operator with a state, and q sequences whose samples take turns.

That period is reached: on each resource the stages stand back to back, in the order of the graph, modulo the
period (a modulo schedule; Rau, MICRO 27 (1994), doi:10.1145/192724.192731), and each starts as soon after what it
needs as its place allows. Samples may wait between stages, in the activation buffer, whose growth is not counted.

Where slow heads are updated in some steps alone, a fixed period has to fit the longest step; with samples that
queue, the mean is what counts in the long run. Both are given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import xarray as xr

from imc_ssm.chip.deployment import deployment_of
from imc_ssm.costs.stages import Stage, stages_of
from imc_ssm.errors import ConfigError, unknown

if TYPE_CHECKING:
    from imc_ssm.chip import Deployment
    from imc_ssm.devices.constants import ConstantsLike

__all__ = ["Mode", "Schedule", "ScheduleRow", "schedule", "schedule_of"]

Mode = Literal["streaming", "throughput"]
_SLACK = 1e-9
"""Of a period: less is rounding."""


@dataclass(frozen=True)
class ScheduleRow:
    """One stage of one sample."""

    stage: Stage
    """What runs."""
    sample: int
    """Of which sample, from 0."""
    start: float
    """s since the first sample's first stage."""
    end: float
    """s."""


@dataclass(frozen=True)
class Schedule:
    """When what runs, of one time step and of as many as are asked for."""

    mode: Mode
    stages: tuple[Stage, ...]
    """All, those of once a sequence behind."""
    starts: tuple[float, ...]
    """s, of each stage that runs every step, of the first sample."""
    period: float
    """s from one sample to the next, in a row of longest steps."""
    period_mean: float
    """s from one sample to the next in the long run: slow heads are not updated in every step."""
    latency: float
    """s from a sample's start to its last output, in the longest step."""
    critical: Stage
    """The longest stage of what sets the period."""
    bottleneck: str
    """What sets the period: a resource, or the recurrence of an operator."""
    interleaved: int = 1
    """Sequences whose samples take turns."""
    title: str = "Schedule"

    @property
    def every_step(self) -> tuple[Stage, ...]:
        """The stages of each step."""
        return tuple(stage for stage in self.stages if stage.rate == "step")

    @property
    def tail(self) -> float:
        """s that follow the last sample of a sequence: what runs once, such as a classifier's last matrix."""
        return math.fsum(stage.time for stage in self.stages if stage.rate == "sequence")

    @property
    def latency_mean(self) -> float:
        """s from a sample's start to its last output; when streaming, the mean over the steps."""
        return self.period_mean if self.mode == "streaming" else self.latency

    @property
    def utilisation(self) -> dict[str, float]:
        """Share of the period in which each resource is busy, in the longest step."""
        busy = _busy(self.every_step)
        return {resource: time / self.period for resource, time in busy.items()}

    def energy(self, steps: int) -> float:
        """J of a sequence of so many steps: whatever the order, the same work."""
        per = {rate: math.fsum(s.energy for s in self.stages if s.rate == rate) for rate in ("step", "sequence")}
        return steps * per["step"] + per["sequence"]

    def time(self, steps: int) -> float:
        """s from the first sample of a sequence to its result, on average over steps; `ConfigError` below 1."""
        if steps < 1:
            raise ConfigError(f"steps = {steps!r}; a sequence has 1 or more")
        return (steps - 1) * self.period_mean + self.latency_mean + self.tail

    def rows(self, samples: int = 1) -> list[ScheduleRow]:
        """Every stage of the first `samples` samples, each of the longest step; `ConfigError` below 1."""
        if samples < 1:
            raise ConfigError(f"samples = {samples!r}; give 1 or more")
        return [
            ScheduleRow(stage, i, i * self.period + start, i * self.period + start + stage.time)
            for i in range(samples)
            for stage, start in zip(self.every_step, self.starts, strict=True)
        ]

    def to_dataset(self, samples: int = 1) -> xr.Dataset:
        """`start` and `end` (row; s), with stage, operator, component, place, sample of each row as coordinates;
        `utilisation` (resource); `period`, `period_mean`, `latency`, `latency_mean`, `tail` (s)."""
        rows = self.rows(samples)
        named = {
            "stage": [row.stage.name for row in rows],
            "operator": [row.stage.operator for row in rows],
            "component": [row.stage.component for row in rows],
            "place": [row.stage.resource for row in rows],
        }
        out = xr.Dataset(coords={name: ("row", values) for name, values in named.items()})
        out = out.assign_coords(sample=("row", [row.sample for row in rows]), resource=list(self.utilisation))
        for name in ("start", "end"):
            values = np.array([getattr(row, name) for row in rows])
            out[name] = ("row", values, {"units": "s", "long_name": f"{name.capitalize()} of the stage"})
        label = "Share of the period in which the resource is busy"
        out["utilisation"] = ("resource", list(self.utilisation.values()), {"units": "1", "long_name": label})
        for name, label in (
            ("period", "Time from one sample to the next, longest steps"),
            ("period_mean", "Time from one sample to the next, mean over steps"),
            ("latency", "Time from a sample to its output, longest step"),
            ("latency_mean", "Time from a sample to its output, mean over steps"),
            ("tail", "Time after the last sample of a sequence"),
        ):
            out[name] = ((), float(getattr(self, name)), {"units": "s", "long_name": label})
        out.attrs = {"title": self.title, "mode": self.mode, "critical": self.critical.name}
        return out.assign_attrs(bottleneck=self.bottleneck, interleaved=self.interleaved)


def schedule_of(
    deployment: Deployment,
    mode: Mode = "streaming",
    *,
    interleaved: int = 1,
    constants: ConstantsLike = None,
) -> Schedule:
    """The schedule of a deployment (see `schedule`), `constants` as in `cost`; `DesignError` for a bidirectional
    model, `ConfigError` for constants that are none."""
    deployment = deployment_of(deployment, "schedule_of")
    title = f"{deployment.name} on {deployment.design.name}, {mode}"
    return schedule(stages_of(deployment, constants=constants), mode, interleaved=interleaved, title=title)


def schedule(
    stages: Sequence[Stage], mode: Mode = "streaming", *, interleaved: int = 1, title: str = "Schedule"
) -> Schedule:
    """Schedule stages, each of which comes after those that it needs.

    `interleaved`: sequences whose samples take turns, in the mode "throughput"; the state of each is kept, which
    is not counted. Raises `ConfigError` for another mode, stages that take no time or a stage that does not come
    after what it needs.
    """
    if mode not in get_args(Mode):
        raise ConfigError(unknown("mode", mode, get_args(Mode)))
    if interleaved < 1 or (interleaved > 1 and mode == "streaming"):
        raise ConfigError(f"interleaved = {interleaved!r}; streaming has 1 sequence, throughput 1 or more")
    steps = [stage for stage in stages if stage.rate == "step"]
    _check(stages)
    if not math.fsum(stage.time for stage in steps) > 0:
        raise ConfigError("no stage of a step takes time; give those of a deployment (stages_of)")
    if mode == "streaming":
        ends = np.cumsum([stage.time for stage in steps])
        starts = (0.0, *(float(end) for end in ends[:-1]))
        total = float(ends[-1])
        longest = max(steps, key=lambda stage: stage.time)
        mean = math.fsum(stage.mean for stage in steps)
        return Schedule(mode, tuple(stages), starts, total, mean, total, longest, "all stages", 1, title)
    joined = _joined(steps)
    needs = _needs(steps, joined, interleaved)
    bottleneck = max(needs, key=lambda name: needs[name][0])
    period = needs[bottleneck][0]
    mean = max(need[1] for need in needs.values())
    found = _modulo(steps, joined, period)
    latency = max(start + stage.time for stage, start in zip(steps, found, strict=True))
    critical = max(needs[bottleneck][2], key=lambda stage: stage.time)
    return Schedule(mode, tuple(stages), found, period, mean, latency, critical, bottleneck, interleaved, title)


def _check(stages: Sequence[Stage]) -> None:
    known: set[str] = set()
    for stage in stages:
        late = [name for name in stage.after if name not in known]
        if late or stage.name in known:
            why = f"needs {late[0]!r}, which does not come before it" if late else "is there twice"
            raise ConfigError(f"stage {stage.name!r} {why}; give the stages in the order of the graph")
        known.add(stage.name)
    steps = [stage for stage in stages if stage.rate == "step"]
    for name, loop in _loops(steps).items():
        at = steps.index(loop[0])
        if steps[at : at + len(loop)] != loop:
            raise ConfigError(
                f"stages of {name!r}, which has a state, stand apart; give them one behind the other"
            )


def _busy(stages: Sequence[Stage]) -> dict[str, float]:
    out: dict[str, float] = {}
    for stage in stages:
        out[stage.resource] = out.get(stage.resource, 0.0) + stage.time
    return out


def _loops(stages: Sequence[Stage]) -> dict[str, list[Stage]]:
    """The stages of each operator that carries a state."""
    out: dict[str, list[Stage]] = {}
    for stage in stages:
        if stage.carried:
            out.setdefault(stage.operator, []).append(stage)
    return out


def _joined(stages: Sequence[Stage]) -> dict[str, str]:
    """Resource -> the one whose stages stand back to back with its own.

    The stages of a loop are not to wait for one another. In front of its last, each can be placed freely where it
    has its resource for itself; else the resources of the loop are one.
    """
    joined = {stage.resource: stage.resource for stage in stages}
    for loop in _loops(stages).values():
        front = [stage.resource for stage in loop[:-1]]
        own = {stage.name for stage in loop}
        others = {stage.resource for stage in stages if stage.name not in own} | {loop[-1].resource}
        if len(set(front)) < len(front) or others & set(front):
            met = {joined[stage.resource] for stage in loop}
            name = " and ".join(sorted(met))
            joined = {resource: name if to in met else to for resource, to in joined.items()}
    return joined


def _needs(
    stages: Sequence[Stage], joined: dict[str, str], interleaved: int
) -> dict[str, tuple[float, float, list[Stage]]]:
    """What bounds the period: s in the longest step, s in the mean, and the stages that make it."""
    held: dict[str, list[Stage]] = {}
    for stage in stages:
        held.setdefault(joined[stage.resource], []).append(stage)
    out = {name: (_sum(own, "time"), _sum(own, "mean"), own) for name, own in held.items()}
    for name, loop in _loops(stages).items():
        times = _sum(loop, "time") / interleaved, _sum(loop, "mean") / interleaved
        out[f"recurrence of {name}"] = (*times, loop)
    return out


def _sum(stages: Sequence[Stage], name: str) -> float:
    return float(sum(getattr(stage, name) for stage in stages))


def _modulo(stages: Sequence[Stage], joined: dict[str, str], period: float) -> tuple[float, ...]:
    """s at which each stage of the first sample starts."""
    first: dict[str, float] = {}  # start of the first stage of a resource
    taken: dict[str, float] = {}  # its time so far
    starts: dict[str, float] = {}
    ends: dict[str, float] = {}

    def place(stage: Stage, ready: float) -> float:
        """Earliest start from `ready` at which the place behind the resource's other stages comes round."""
        resource = joined[stage.resource]
        offset = first.setdefault(resource, ready) + taken.get(resource, 0.0)
        taken[resource] = taken.get(resource, 0.0) + stage.time
        return offset + math.ceil((ready - offset) / period - _SLACK) * period

    loops = _loops(stages)
    for stage in stages:
        if stage.name in starts:
            continue
        loop = loops[stage.operator] if stage.carried else [stage]
        ready = max((ends[name] for one in loop for name in one.after if name in ends), default=0.0)
        if len(loop) > 1 and len({joined[one.resource] for one in loop}) > 1:
            *front, last = loop
            at = place(last, ready + sum(one.time for one in front))
            starts[last.name], ends[last.name] = at, at + last.time
            for one in reversed(front):
                at -= one.time
                starts[one.name], ends[one.name] = at, at + one.time
            continue
        at = place(stage, ready)
        starts[stage.name], ends[stage.name] = at, at + stage.time
    return tuple(starts[stage.name] for stage in stages)
