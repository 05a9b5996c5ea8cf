"""What dithers, residuals and slow heads cost beside rounding to nearest, in one process.

    python benchmarks/roundings.py [--heads 16,64] [--rounds 15] [--roundings dithered] [--no-backward]

Processor times of one thread; the jobs of a size take turns, and the smallest of its times counts for each: other
programs disturb little. The recurrence is the fused CPU kernel on 8-bit formats per head, rounded once.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace

import numba
import torch
from jobs import Shape, formats_over, operands
from rich.console import Console
from rich.table import Table

from imc_ssm.kernels import ScanUnit

NEAREST = "half_even"
PERIODS = {"1": (1,), "1 and 4": (1, 4), "1, 2, 4, 8": (1, 2, 4, 8), "16": (16,)}
"""Steps between two updates; the heads take them in turn."""
ROUND = "dithered"
"""Of the slow heads."""


def jobs(heads: int, options: argparse.Namespace) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """Forwards and training steps by name, and the share of the updates that each makes."""
    found: dict[str, Callable[[], object]] = {}
    share: dict[str, float] = {}
    cases = [(r, r, (1,)) for r in (NEAREST, *options.roundings.split(","))]
    cases += [(f"{ROUND}, periods {name}", ROUND, periods) for name, periods in PERIODS.items() if name != "1"]
    u, a, b, c = operands(Shape(options.batch, heads, options.states, options.steps))
    nearest = formats_over(u, a, b, c, 8)
    for name, rounding, periods in cases:
        every = tuple(periods[h % len(periods)] for h in range(heads))
        formats = replace(nearest, rounding=rounding, periods=None if max(every) == 1 else every)
        unit = ScanUnit(a, b, c, formats=formats)
        leaves = [z.clone().requires_grad_() for z in (u, a, b, c)]
        trained = ScanUnit(*leaves[1:], formats=formats)

        def step(u: torch.Tensor = leaves[0], unit: ScanUnit = trained) -> object:
            y, _ = unit(u, backend="cpu")
            y.sum().backward()
            return y

        found[f"forward, {name}"] = lambda u=u, unit=unit: unit(u, backend="cpu")
        if options.backward:
            found[f"step, {name}"] = step
        share[name] = sum(1 / k for k in periods) / len(periods)
    return found, share


def smallest(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The smallest processor time of each in s, the calls taking turns."""
    for call in calls.values():
        call()
    least = dict.fromkeys(calls, math.inf)
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            least[name] = min(least[name], time.process_time() - start)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", default="16,64", help="with commas between (default: %(default)s)")
    parser.add_argument("--states", type=int, default=32, help="complex states a head (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="sequences (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=784, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=15, help="turns (default: %(default)s)")
    parser.add_argument("--roundings", default="dithered,stochastic,feedback", help="default: %(default)s")
    parser.add_argument("--no-backward", dest="backward", action="store_false", help="leave out training steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    console = Console(width=120)
    for heads in (int(word) for word in options.heads.split(",")):
        calls, share = jobs(heads, options)
        least = smallest(calls, options.rounds)
        made = Table(title=f"batch {options.batch}, {heads} heads, {options.states} states, {options.steps} steps")
        for column in ("", "ms", f"/ {NEAREST}", "share of the updates", "per update / that"):
            made.add_column(column, justify="right" if column else "left")
        for name, spent in least.items():
            kind, _, case = name.partition(", ")
            ratio = spent / least[f"{kind}, {NEAREST}"]
            made.add_row(
                name, f"{1e3 * spent:.2f}", f"{ratio:.3f}", f"{share[case]:.3f}", f"{ratio / share[case]:.3f}"
            )
        console.print(made)


if __name__ == "__main__":
    main()
