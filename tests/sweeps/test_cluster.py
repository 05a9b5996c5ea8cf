"""Sweeps on workers of dask: processes here, one of which is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster

from imc_ssm import results
from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.sweeps import Status, sweep

SPACE = {"x": {"low": 0.0, "high": 1.0}, "k": ["a", "b"]}
OPTIONS: dict[str, Any] = {"variables": {"y": ("1", "Y")}, "method": "sobol", "trials": 16}


def square(at: dict[str, Any]) -> dict[str, float]:
    time.sleep(0.05)
    return {"y": at["x"] ** 2}


def deadly(mark: Path) -> Callable[[dict[str, Any]], dict[str, float]]:
    """`square`, which kills its process once, at the first point beyond 0.7."""

    def square(at: dict[str, Any]) -> dict[str, float]:
        time.sleep(0.05)
        if at["x"] > 0.7 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"y": at["x"] ** 2}

    square.__qualname__ = "square"  # the same objective, but for its end
    return square


def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    expected = sweep(SPACE, square, **OPTIONS)
    said: list[tuple[int, int]] = []
    mark = tmp_path / "killed"
    ds = sweep(
        SPACE,
        deadly(mark),
        folder=tmp_path / "sweep",
        cluster="local",
        workers=2,
        progress=lambda done, total, _: said.append((done, total)),
        **OPTIONS,
    )
    assert mark.exists()
    assert results.values_equal(ds, expected)
    assert said[-1] == (16, 16)


def test_chips_on_the_workers_of_a_scheduler(
    started: tuple[Path, Path], small: dict[str, Any], tmp_path: Path
) -> None:
    base = {**small, "start": str(started[0]), "scheme": "uniform"}
    space = {"scheme.bits.state": [6, 8], "design.adc.bits": [5, 8], "design.tiles": [1, 64]}
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster:
        ds = sweep(space, base, folder=tmp_path / "there", cluster=cluster.scheduler_address)
        guided = sweep(
            {"design.adc.bits": [4, 6, 8], "design.lanes": {"low": 4, "high": 64, "log": True}},
            small,
            method="nsga2",
            trials=6,
            minimise=["latency_total", "area_total"],
            maximise="accuracy",
            folder=tmp_path / "guided",
            cluster=cluster.scheduler_address,
        )
    here = sweep(space, base, folder=tmp_path / "here")
    assert results.values_equal(ds, here)
    assert (ds["status"].isel({"design.tiles": 0}) == Status.REFUSED).all()
    assert guided["status"].values.tolist() == [Status.DONE] * 6
    assert np.isfinite(guided["accuracy"]).all()


def test_a_cluster_that_is_none_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imc_ssm.sweeps.cluster.ANSWER", 1.0)
    with pytest.raises(ConfigError, match="give 'local', or a scheduler"):
        sweep(SPACE, square, cluster="remote", folder=tmp_path / "a", **OPTIONS)
    with pytest.raises(ConfigError, match="has its own"):
        sweep(SPACE, square, cluster="tcp://127.0.0.1:1", workers=3, folder=tmp_path / "b", **OPTIONS)
    with pytest.raises(ConfigError, match="give cluster = 'local' too"):
        sweep(SPACE, square, workers=3, folder=tmp_path / "c", **OPTIONS)
    with pytest.raises(ImcSsmError, match=r"no scheduler answers at tcp://127\.0\.0\.1:1"):
        sweep(SPACE, square, cluster="tcp://127.0.0.1:1", folder=tmp_path / "d", **OPTIONS)
