"""Schedules: a golden one by hand, and what holds for any stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.chip import Deployment, compile
from imc_ssm.costs import Stage, cost, schedule, schedule_of, stages_of
from imc_ssm.costs.schedules import Schedule, ScheduleRow
from imc_ssm.costs.stages import UNIT
from imc_ssm.errors import ConfigError, DesignError
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.plots import draw, kind_of
from imc_ssm.quantization import quantize

Factory = Callable[..., Deployment]


def stage(name: str, resource: str, time: float, *after: str, **rest: Any) -> Stage:
    return Stage(name, rest.pop("operator", name), "cells", resource, time, after=after, **rest)


GOLDEN = [
    stage("in", "tile 0", 4.0),
    stage("scan", "unit", 3.0, "in", carried=True, mean=2.0),
    stage("mix", "tile 1", 2.0, "scan"),
    stage("out", "unit", 2.0, "mix"),
    stage("decode", "unit", 7.0, "out", rate="sequence", energy=5.0),
]


def test_a_pipeline_by_hand() -> None:
    """The unit takes 3 + 2 s a sample: in 0-4, scan 4-7, mix 7-9, and out in the unit's place 7 + 5 m: 12-14."""
    flow = schedule(GOLDEN, "throughput")
    assert (flow.period, flow.period_mean, flow.latency, flow.tail) == (5.0, 4.0, 14.0, 7.0)
    assert flow.starts == (0.0, 4.0, 7.0, 12.0)
    assert (flow.bottleneck, flow.critical.name) == ("unit", "scan")
    assert flow.utilisation == {"tile 0": 0.8, "unit": 1.0, "tile 1": 0.4}
    stream = schedule(GOLDEN)
    assert (stream.period, stream.latency, stream.period_mean, stream.latency_mean) == (11.0, 11.0, 10.0, 10.0)
    assert stream.starts == (0.0, 4.0, 7.0, 9.0)
    assert stream.critical.name == "in"
    assert stream.time(3) == 3 * 10 + 7
    assert flow.time(3) == 2 * 4 + 14 + 7


def test_a_recurrence_on_tiles_bounds_the_period() -> None:
    """Product 4 s, registers 1 s, the same sample by sample; two sequences that take turns halve it."""
    stages = [
        stage("product", "tile 0", 4.0, operator="scan", carried=True),
        stage("registers", "unit", 1.0, "product", operator="scan", carried=True),
        stage("out", "unit", 1.0, "registers"),
    ]
    one, two = (schedule(stages, "throughput", interleaved=n) for n in (1, 2))
    assert (one.period, one.bottleneck, one.critical.name) == (5.0, "recurrence of scan", "product")
    assert (two.period, two.bottleneck) == (4.0, "tile 0")


def drawn(times: list[tuple[int, int, bool, int]]) -> list[Stage]:
    """Stages of one operator each, or a product and the unit behind it, each after one before it."""
    out: list[Stage] = []
    for i, (time, resource, carried, back) in enumerate(times):
        after = (out[max(len(out) - 1 - back, 0)].name,) if out else ()
        rest: dict[str, Any] = {"operator": f"op{i}", "carried": carried}
        if resource:
            out.append(stage(f"p{i}", f"tile {resource}", time / 8, *after, **rest))
            after = (f"p{i}",)
        out.append(stage(f"u{i}", "unit", (1 + time % 5) / 8, *after, **rest))
    return out


STAGES = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 3), st.booleans(), st.integers(0, 3)), min_size=1, max_size=7
).map(drawn)


def _of(rows: list[ScheduleRow], name: str, sample: int) -> ScheduleRow:
    return next(row for row in rows if row.stage.name == name and row.sample == sample)


@settings(max_examples=150, deadline=None)
@given(STAGES, st.integers(1, 3))
def test_what_holds_for_any_stages(stages: list[Stage], interleaved: int) -> None:
    stream = schedule(stages)
    flow = schedule(stages, "throughput", interleaved=interleaved)
    busy: dict[str, float] = {}
    for one in stages:
        busy[one.resource] = busy.get(one.resource, 0.0) + one.time
    assert max(busy.values()) <= flow.period * (1 + 1e-9)
    assert flow.period <= flow.latency * (1 + 1e-9)
    assert flow.period <= stream.period * (1 + 1e-9)
    assert flow.time(40) <= stream.time(40) + flow.latency * (1 + 1e-9)
    assert flow.energy(7) == stream.energy(7)
    for found, turns in ((stream, 1), (flow, interleaved)):
        assert max(found.utilisation.values()) <= 1 + 1e-9
        _holds(found, turns)


def _holds(found: Schedule, turns: int) -> None:
    """No overlap on a resource, each stage after what it needs, states sample by sample."""
    samples = 2 + int(np.ceil(found.latency / found.period))
    rows, near = found.rows(samples), 1e-7
    for resource in found.utilisation:
        own = sorted((r for r in rows if r.stage.resource == resource), key=lambda r: (r.start, r.end))
        assert all(a.end <= b.start + near for a, b in pairwise(own)), resource
    for row in rows:
        assert row.end - row.start == pytest.approx(row.stage.time)
        assert all(_of(rows, name, row.sample).end <= row.start + near for name in row.stage.after)
        if row.stage.carried and row.sample >= turns:
            before = [r for r in rows if r.stage.operator == row.stage.operator and r.sample == row.sample - turns]
            assert max(r.end for r in before) <= row.start + near


@settings(max_examples=60, deadline=None)
@given(STAGES, st.floats(0.1, 1.0))
def test_a_faster_unit_is_never_slower(stages: list[Stage], factor: float) -> None:
    fast = [replace(s, time=s.time * factor, mean=s.mean * factor) if s.resource == "unit" else s for s in stages]
    for mode in ("streaming", "throughput"):
        assert schedule(fast, mode).period <= schedule(stages, mode).period * (1 + 1e-9)


@pytest.mark.parametrize("kind", [{}, {"layer": "s5"}, {"scheme": {"rate_limit": 1.5}}, {"layers": 2}])
def test_stages_add_up_to_the_cost(deployment: Factory, kind: dict[str, Any]) -> None:
    """The same time and energy as `cost`, in the longest step and in the mean; leakage is no stage's."""
    placed = deployment(**kind)
    ds, found = cost(placed), schedule_of(placed)
    assert found.period == pytest.approx(float(ds["latency_longest_step"]))
    assert found.period_mean == pytest.approx(float(ds["latency_step"].sum()))
    assert found.time(placed.steps) == pytest.approx(float(ds["latency_total"]))
    work = float(ds["energy_total"] - ds["energy"].sel(component="leakage"))
    assert found.energy(placed.steps) == pytest.approx(work, rel=1e-9, abs=0)
    per = found.energy(2) - found.energy(1)
    assert found.energy(100) - found.energy(1) == pytest.approx(99 * per, rel=1e-9, abs=0)
    assert {s.resource for s in found.stages} > {UNIT}
    _holds(schedule_of(placed, "throughput"), 1)


def test_slow_heads_shorten_the_mean_and_not_the_longest_step(deployment: Factory) -> None:
    plain, slow = (schedule_of(deployment(scheme=s)) for s in (None, {"rate_limit": 1.5}))
    assert slow.period == pytest.approx(plain.period, rel=0.02)
    assert slow.period_mean < 0.97 * plain.period_mean


def test_more_lanes_are_never_slower(deployment: Factory) -> None:
    for mode in ("streaming", "throughput"):
        periods = [schedule_of(deployment(heads=8, lanes=n), mode).period for n in (1, 4, 16, 64)]
        assert all(b <= a for a, b in pairwise(periods))
        assert periods[-1] < periods[0]


def test_matrices_that_share_tiles_take_turns(deployment: Factory) -> None:
    placed = deployment(rows=64, columns=64, packing=True)
    tiles = {s.resource for s in stages_of(placed) if s.resource != UNIT}
    assert tiles == {"tile 0"}
    _holds(schedule_of(placed, "throughput"), 1)


def test_wrong_stages_are_named() -> None:
    with pytest.raises(ConfigError, match="does not come before"):
        schedule([stage("b", "unit", 1.0, "a"), stage("a", "unit", 1.0)])
    with pytest.raises(ConfigError, match="twice"):
        schedule([stage("a", "unit", 1.0), stage("a", "unit", 1.0)])
    with pytest.raises(ConfigError, match="throughput"):
        schedule(GOLDEN, "troughput")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="takes time"):
        schedule([stage("a", "unit", 0.0)])
    with pytest.raises(ConfigError, match="interleaved"):
        schedule(GOLDEN, interleaved=2)
    with pytest.raises(ConfigError, match="samples"):
        schedule(GOLDEN).rows(0)
    with pytest.raises(ConfigError, match="stand apart"):
        schedule(
            [
                stage("a", "unit", 1.0, operator="x", carried=True),
                stage("b", "unit", 1.0),
                stage("c", "unit", 1.0, operator="x", carried=True),
            ]
        )


def test_a_schedule_is_drawn_a_row_a_stage() -> None:
    ds = schedule(GOLDEN, "throughput").to_dataset(3)
    assert kind_of(ds) == "schedule"
    figure = draw(ds)
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["in", "scan", "mix", "out"]
    assert ax.get_xlabel() == "Time (s)"
    bars = sorted((p.get_x(), p.get_width()) for p in ax.patches)
    rows = sorted((float(a), float(b - a)) for a, b in zip(ds["start"], ds["end"], strict=True))
    assert np.allclose(bars, rows)
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()][1] == "unit: busy 100 %"
    plt.close("all")


def test_a_bidirectional_model_has_no_schedule(deployment: Factory) -> None:
    placed = deployment()
    first, *rest = placed.graph
    turned = replace(
        placed, graph=replace(placed.graph, operators=(first, *(replace(o, reverse=True) for o in rest)))
    )
    with pytest.raises(DesignError, match="bidirectional"):
        stages_of(turned)


def test_a_recurrence_on_tiles_waits_for_itself() -> None:
    """Product, registers and back: with its state on tiles the loop is one stage on them and one on the unit."""
    torch.manual_seed(0)
    data = torch.randn(2, 6, 3)
    model = Classifier(ModelConfig.parse({"inputs": 3, "heads": 4, "classes": 5, "n_state": 4}))
    placed = compile(quantize(model, "uniform", data), "pcm-256", data, recurrence="analog")
    *loop, pool = [s for s in stages_of(placed) if s.carried]
    assert [s.resource == UNIT for s in loop] == [False, True]
    assert pool.rate == "step"  # the mean's sum is carried too; its division at the end waits for no later step
    flow = schedule_of(placed, "throughput")
    assert flow.period >= sum(s.time for s in loop) * (1 - 1e-9)
    assert flow.bottleneck == "recurrence of " + loop[0].operator
    assert schedule_of(placed, "throughput", interleaved=4).period < flow.period
    assert schedule_of(placed).period == pytest.approx(float(cost(placed)["latency_longest_step"]))
    _holds(flow, 1)
