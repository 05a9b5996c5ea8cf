"""A step of QAT and an evaluation, in this version and in another one: the same updates, side by side.

    python benchmarks/steps.py OTHER [--models s4d-16h,s4d-64h] [--rounds 5] [--parts]

OTHER is the folder of another version (`git worktree add OTHER COMMIT`). Every measurement is a process of its
own, with one thread, of the two versions in turn, so that a change of the machine's load meets both; medians of
the processor time. `--parts`: how long each operator takes, in both, by the clock: for a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent.parent
TIME, BATCH, TESTED = 784, 64, 250
SCHEMES = {"8 bits": ("uniform", {}), "W4A6, A8 x8": ("w4a6", {})}
STEPS = 4
"""Steps of a measurement, after one that does not count."""


def measure(name: str, scheme: str, parts: bool) -> dict[str, Any]:
    """Processor time in s of a step and of an evaluation; with `parts` of the operators in them."""
    import torch

    from imc_ssm.layers import Classifier, preset
    from imc_ssm.quantization import Scheme, quantize

    rng = np.random.default_rng(0)
    u = torch.from_numpy(rng.random((TESTED, TIME, 1)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 10, BATCH))
    torch.manual_seed(0)
    kind, options = SCHEMES[scheme]
    model = quantize(Classifier(preset(name)), Scheme.named(kind, **options), u[:BATCH])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(u[:BATCH]), labels).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    def evaluate() -> None:
        with torch.no_grad():
            model(u)

    found: dict[str, Any] = {}
    for what, job, times, mode in (("step", step, STEPS, True), ("evaluation", evaluate, 2, False)):
        model.train(mode)
        job()
        each = []
        for _ in range(times):
            start = time.process_time()
            job()
            each.append(time.process_time() - start)
        found[what] = float(np.median(each))
        if parts:
            with torch.autograd.profiler.profile() as record:
                job()
            rows = {row.key: row.self_cpu_time_total / 1e6 for row in record.key_averages()}
            found[f"{what} parts"] = {key: seconds for key, seconds in rows.items() if seconds > 2e-4}
    return found


def run(tree: Path, name: str, scheme: str, parts: bool) -> dict[str, Any]:
    """`measure` of the version in a folder, in a process of its own."""
    words = [sys.executable, str(Path(__file__).resolve()), str(tree), "--measure", name, scheme]
    place = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(
        words + ["--parts"] * parts, capture_output=True, text=True, check=True, env=place, cwd=tree
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="folder of the other version")
    parser.add_argument("--models", default="s4d-16h,s4d-64h", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each version (default: %(default)s)")
    parser.add_argument("--parts", action="store_true", help="times of the operators, too")
    parser.add_argument("--measure", nargs=2, metavar=("MODEL", "SCHEME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(*options.measure, options.parts)))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "scheme", "", "other (ms)", "this (ms)", "this / other")
    console = Console(width=120)
    for name in options.models.split(","):
        for scheme in SCHEMES:
            seen: dict[Path, list[dict[str, Any]]] = {options.other.resolve(): [], HERE: []}
            for _ in range(options.rounds):
                for tree, rows in seen.items():
                    rows.append(run(tree, name, scheme, options.parts))
            for what in ("step", "evaluation"):
                old, new = (float(np.median([row[what] for row in rows])) for rows in seen.values())
                table.add_row(name, scheme, what, f"{1e3 * old:.1f}", f"{1e3 * new:.1f}", f"{new / old:.2f}")
                if options.parts:
                    ends = [rows[-1][f"{what} parts"] for rows in seen.values()]
                    for key in sorted({*ends[0], *ends[1]}, key=lambda k: -ends[1].get(k, 0.0)):
                        times = (f"{1e3 * end.get(key, 0.0):.1f}" for end in ends)
                        table.add_row("", "", f"  {key}", *times, "")
    console.print(table)
    console.print(f"{TIME} steps, {BATCH} sequences a training step, {TESTED} an evaluation; processor time")


if __name__ == "__main__":
    main()
