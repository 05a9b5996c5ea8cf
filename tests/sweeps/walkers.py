"""Sweeps that other processes run in the tests."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from imc_ssm.sweeps import FunctionObjective, Plan, Search, Space

SPACE = {"x": {"low": 0.0, "high": 1.0}, "k": ["a", "b", "c"]}
VARIABLES = {"y": ("1", "Y"), "cost": ("J", "Cost")}
TRIALS = 24


def parabola(at: dict[str, Any]) -> dict[str, float]:
    """Something that has an optimum, and takes a little time."""
    time.sleep(0.01)
    return {"y": (at["x"] - 0.3) ** 2 + 0.1 * "abc".index(at["k"]), "cost": at["x"]}


def slow_once(at: dict[str, Any]) -> dict[str, float]:
    """Kills its process at one point, the first time (a file remembers)."""
    mark = Path(os.environ["MARK"])
    if at["x"] > 0.8 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return parabola(at)


def plan(method: str = "sobol", function: Any = parabola) -> Plan:
    """The sweep of the tests."""
    goals: dict[str, Any] = {"minimise": ["y", "cost"]} if method in ("tpe", "nsga2") else {}
    search = Search.parse({"method": method, "trials": TRIALS, "seed": 1, **goals})
    return Plan(Space.of(SPACE), search, FunctionObjective(function, VARIABLES))
