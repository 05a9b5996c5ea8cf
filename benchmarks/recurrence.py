"""The fused recurrence against what a PyTorch user would write: `make bench`.

    python benchmarks/recurrence.py [--only steps,memory] [--threads 2] [--figure docs/recurrence_scaling.png]

Times are medians measured in one process; memory and start-up are measured in processes of their own. For
meaningful numbers nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numba
import torch
from jobs import EAGER, FFT, JOBS, QUANTIZED_OPERATIONS, REAL_OPERATIONS, STEP, job
from measure import medians
from memory import additional
from rich.console import Console
from rich.table import Table
from scaling import COMPARED, draw, grown
from startup import starts
from stream import step_times, stream

PRODUCT = 2048
"""Rows and columns of the matrices whose float32 product is the machine's arithmetic ceiling."""
SHAPE = f"batch {STEP.batch}, {STEP.heads} heads, {STEP.states} complex states, {STEP.time} steps"


def table(title: str, columns: tuple[str, ...], caption: str) -> Table:
    """An empty table: the first column names, the others hold numbers."""
    made = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for k, column in enumerate(columns):
        made.add_column(column, justify="right" if k else "left", no_wrap=not k)
    return made


def steps(options: argparse.Namespace) -> Table:
    """Forward and training step of every implementation."""
    jobs = {name: job(name) for name in JOBS}
    repeats = {name: 3 if name == EAGER else options.repeats for name in jobs}
    left, right = torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT)
    product = "product"
    forward = medians(
        {name: j.forward for name, j in jobs.items()} | {product: lambda: left @ right},
        repeats | {product: options.repeats},
    )
    step = medians({name: j.step for name, j in jobs.items()}, repeats)
    ceiling = 2 * PRODUCT**3 / forward[product]
    made = table(
        f"One training step: {SHAPE}, {torch.get_num_threads()} threads",
        ("", "forward (ms)", "step (ms)", "step / FFT's step", "forward rate / product's", "eager step / step"),
        f"Medians of {options.repeats} (eager loop: 3). Required: 8-bit with one rounding at most 1.00 of the FFT "
        "step and at least 50 % of the product's rate; with three roundings 2.00 and 25 %; full precision 1.00.\n"
        f"Rates count {QUANTIZED_OPERATIONS} operations a quantized complex update, {REAL_OPERATIONS} in full "
        f"precision; the float32 product of {PRODUCT} x {PRODUCT} matrices runs at {ceiling / 1e9:.0f} GFLOP/s.",
    )
    for name, j in jobs.items():
        rate = "" if j.operations is None else f"{STEP.updates * j.operations / forward[name] / ceiling:.0%}"
        ratios = f"{step[name] / step[FFT]:.2f}", rate, f"{step[EAGER] / step[name]:.0f}"
        made.add_row(name, f"{1e3 * forward[name]:.1f}", f"{1e3 * step[name]:.1f}", *ratios)
    return made


def memory(options: argparse.Namespace) -> Table:
    """Peak additional memory of a training step."""
    made = table(
        f"Peak memory of that step besides y and the gradients of u and y, in sizes of u "
        f"({STEP.input_bytes / 2**20:.1f} MiB)",
        ("", "allocated", "of it NumPy", "of it torch", "resident"),
        "Allocated: every allocation of NumPy (tracemalloc) and torch (its profiler), the sum of the two peaks. "
        "Required: at most 1.00 for the fused ones.\nResident: growth of the resident memory to its peak, while "
        "freed memory goes back to the system at once; counts workspaces of libraries too.",
    )
    for name in JOBS:
        found = additional(name, options.threads)
        grown = "" if found.resident is None else f"{found.resident:.2f}"
        made.add_row(name, f"{found.allocated:.2f}", f"{found.arrays:.2f}", f"{found.tensors:.2f}", grown)
    return made


def scaling(options: argparse.Namespace) -> Table:
    """Step time against batch, heads, states and length."""
    times = grown()
    if options.figure is not None:
        draw(times, options.threads, options.figure)
    made = table(
        f"How a training step grows ({SHAPE} where not said otherwise), {options.threads} threads",
        ("", *(f"{name} (ms)" for name in COMPARED), *(f"{name} / FFT" for name in ("full precision", "8-bit"))),
        "Medians of 15; the same shape appears in each of the four parts.",
    )
    for field, rows in times.items():
        for value, row in rows.items():
            ratios = (f"{row[name] / row[FFT]:.2f}" for name in COMPARED[1:])
            made.add_row(f"{field} {value}", *(f"{1e3 * row[name]:.2f}" for name in COMPARED), *ratios)
        made.add_section()
    return made


def startup(options: argparse.Namespace) -> Table:
    """From the start of a process to its first result."""
    made = table(
        "Seconds from the start of a process",
        ("process", "imported", "first output", "first gradient"),
        "The first finds an empty cache of compiled kernels. Later ones: medians of 5; required: under 3 s.",
    )
    for name, found in starts().items():
        made.add_row(name, *(f"{x:.2f}" for x in (found.imported, found.forward, found.backward)))
    return made


def streaming(options: argparse.Namespace) -> Table:
    """A long stream, and steps one at a time."""
    made = table(
        f"Streams: {STEP.heads} heads, {STEP.states} complex states, 8-bit codes",
        ("", "", "time", "per step (us)", "growth of resident memory"),
        "Growth: the largest after the first per cent of the stream. Required: constant memory.",
    )
    found = stream(options.stream)
    growth = "not told" if found.growth is None else f"{found.growth / 2**10:.0f} KiB"
    pieces = f"{found.steps:,} steps in pieces of {found.piece}"
    made.add_row(
        "diagonal_scan, 1 sequence",
        pieces,
        f"{found.seconds:.2f} s",
        f"{1e6 * found.seconds / found.steps:.2f}",
        growth,
    )
    for batch in (1, 64):
        for name, time in step_times(batch).items():
            made.add_row(f"{name}, batch {batch}", "step by step", "", f"{1e6 * time:.0f}", "")
    return made


PARTS: dict[str, Callable[[argparse.Namespace], Table]] = {
    "steps": steps,
    "memory": memory,
    "scaling": scaling,
    "startup": startup,
    "stream": streaming,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default=",".join(PARTS), help="parts, with commas between (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--repeats", type=int, default=15, help="of which the median counts (default: %(default)s)"
    )
    parser.add_argument("--stream", type=int, default=1_000_000, help="steps of the stream (default: %(default)s)")
    parser.add_argument("--figure", type=Path, help="where to draw the part scaling")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    if options.threads > numba.config.NUMBA_NUM_THREADS:
        parser.error(f"{options.threads} threads, but Numba may use {numba.config.NUMBA_NUM_THREADS}")
    torch.set_num_threads(options.threads)
    numba.set_num_threads(options.threads)
    console = Console(width=120)
    load = f", load of the machine before: {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    console.print(f"torch {torch.__version__}, Numba {numba.__version__}, {options.threads} threads{load}")
    for part in chosen:
        with console.status(f"{part} ..."):
            made = PARTS[part](options)
        console.print(made, "")


if __name__ == "__main__":
    main()
