"""Time of `cost` and of a compiled plan, one design after the other and as arrays, per design.

    python benchmarks/cost_plan.py [HEADS] [STATES] [DESIGN]

Both give the same numbers (`tests/costs/test_cost_plan.py`); here they are compared once more. Times are the
median of batches, without the first call at each pair of resolutions, which folds the graph.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

import imc_ssm
from imc_ssm.costs import CostPlan

CLOCKS = np.linspace(2e8, 1e9, 50)


def per_call(call: Callable[[int], object], batch: int, batches: int = 7) -> float:
    """Median seconds of a call, which is given its number."""
    times = []
    for _ in range(batches):
        start = time.perf_counter()
        for i in range(batch):
            call(i)
        times.append((time.perf_counter() - start) / batch)
    return float(np.median(times))


def main() -> None:
    """Compile once, then time."""
    heads, states = (int(value) for value in (*sys.argv[1:3], "16", "64")[:2])
    name = sys.argv[3] if len(sys.argv) > 3 else "pcm-256"
    torch.manual_seed(0)
    data = torch.randn(8, 64, 1)
    model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=heads, n_state=states))
    deployment = imc_ssm.compile_model(imc_ssm.quantize(model, "uniform", data), name, data)
    chip, design = deployment.chip, deployment.design

    def other(lanes: int, clock: float) -> imc_ssm.Deployment:
        made = design.with_(lanes=lanes, clock=design.clock.with_(value=clock))
        return replace(deployment, chip=chip.with_(design=made))

    start = time.perf_counter()
    plan = CostPlan(deployment)
    first = time.perf_counter() - start
    whole = other(7, 3e8)
    np.testing.assert_allclose(plan(lanes=7, clock=3e8).latency, imc_ssm.cost(whole)["latency"].values, rtol=1e-9)
    grid = plan(lanes=np.arange(1, 101)[:, None], clock=CLOCKS).latency
    assert grid.shape[:2] == (100, 50)

    print(f"{heads} heads, {states} states, {name}; {torch.get_num_threads()} thread(s)")
    print(f"cost                {per_call(lambda _: imc_ssm.cost(whole), 20) * 1e3:8.3f} ms a design")
    print(f"plan, folding       {first * 1e3:8.3f} ms once")
    one = per_call(lambda i: plan(lanes=1 + i % 64, clock=1e9, columns_per_adc=8), 2000)
    print(f"plan, one by one    {one * 1e3:8.4f} ms a design")
    swept = per_call(lambda _: plan(lanes=np.arange(1, 101)[:, None], clock=CLOCKS), 20) / 5000
    print(f"plan, 5,000 designs {swept * 1e3:8.5f} ms a design")


if __name__ == "__main__":
    main()
