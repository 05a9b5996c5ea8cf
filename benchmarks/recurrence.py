"""The fused recurrence against what a PyTorch user would write, in one process on one machine.

One training step (forward and backward) of one S4D layer: batch 64, 16 heads, 32 complex states, 784 steps.
Medians; ratios are against the float32 FFT convolution of the same shape. Run with `make bench`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from imc_ssm.fixedpoint import Format, ScanFormats
from imc_ssm.recurrence import diagonal_scan
from imc_ssm.s4d import S4D, ModelConfig

BATCH, HEADS, STATES, TIME = 64, 16, 32, 784
REPEATS = 9
UPDATE_OPERATIONS = 26
"""Integer operations of one complex quantised update."""


def median(job: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median time of a job in s, after one call that compiles and warms up."""
    job()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def formats(a: Tensor, b: Tensor, c: Tensor, bits: int) -> ScanFormats:
    """Per-head formats over the coefficients' ranges, round ranges for the signals."""

    def over(z: Tensor) -> Format:
        pairs = torch.view_as_real(z)
        return Format.from_range(pairs.amin((1, 2)).numpy(), pairs.amax((1, 2)).numpy(), bits)

    around = [Format.from_range(np.full(HEADS, -r), np.full(HEADS, r), bits) for r in (4.0, 2.0, 8.0)]
    return ScanFormats(over(a), around[0], around[1], over(b), over(c), around[2])


def main() -> None:
    torch.manual_seed(0)
    layer = S4D(ModelConfig(heads=HEADS, n_state=2 * STATES))
    u = torch.randn(BATCH, HEADS, TIME)
    weight = torch.randn(BATCH, HEADS, TIME)
    with torch.no_grad():
        coefficients = [z.clone() for z in layer.discrete()]

    def scan(backend: str, bits: int | None) -> tuple[Callable[[], Tensor], Callable[[], None]]:
        leaves = [z.clone().requires_grad_() for z in (u, *coefficients)]
        fmt = None if bits is None else formats(*coefficients, bits)

        def forward() -> Tensor:
            with torch.no_grad():
                return diagonal_scan(*leaves, formats=fmt, backend=backend)  # type: ignore[arg-type]

        def step() -> None:
            y = diagonal_scan(*leaves, formats=fmt, backend=backend)  # type: ignore[arg-type]
            (y * weight).sum().backward()

        return forward, step

    def convolution() -> tuple[Callable[[], Tensor], Callable[[], None]]:
        layer.mode = "convolution"
        v = u.clone().requires_grad_()

        def forward() -> Tensor:
            with torch.no_grad():
                return layer(v)

        def step() -> None:
            (layer(v) * weight).sum().backward()

        return forward, step

    jobs = {
        "FFT convolution, float32": convolution(),
        "fused, full precision": scan("cpu", None),
        "fused, 8-bit codes": scan("cpu", 8),
        "fused, 16-bit codes": scan("cpu", 16),
        "eager loop, full precision": scan("reference", None),
    }
    size = 2048
    left, right = torch.randn(size, size), torch.randn(size, size)
    ceiling = 2 * size**3 / median(lambda: left @ right)
    updates = BATCH * HEADS * STATES * TIME
    rows = {}
    for name, (forward, step) in jobs.items():
        repeats = 3 if "eager" in name else REPEATS
        rows[name] = (median(forward, repeats), median(step, repeats))
    base = rows["FFT convolution, float32"]
    threads = torch.get_num_threads()
    title = f"batch {BATCH}, {HEADS} heads, {STATES} complex states, {TIME} steps, {threads} threads"
    table = Table(title=title, caption=f"float32 matrix product of {size}: {ceiling / 1e9:.0f} GFLOP/s")
    for column in ("implementation", "forward (ms)", "step (ms)", "step / FFT step", "forward rate / product"):
        table.add_column(column, justify="left" if column == "implementation" else "right")
    for name, (forward_time, step_time) in rows.items():
        rate = "" if "FFT" in name else f"{updates * UPDATE_OPERATIONS / forward_time / ceiling:.0%}"
        ratio = f"{step_time / base[1]:.2f}"
        table.add_row(name, f"{forward_time * 1e3:.1f}", f"{step_time * 1e3:.1f}", ratio, rate)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
