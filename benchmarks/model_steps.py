"""A quantized model's training step, evaluation and step of a stream, against another version of the library.

    python benchmarks/model_steps.py [--against FOLDER] [--models s4d-16h,s4d-64h] [--rounds 5] [--repeats 5]

8 bits, 64 sequences of 784 steps, one thread, whose processor time is taken. The versions take turns in processes
of their own, so that a change of the machine's load meets both; medians over rounds of the medians of each
process, and of the rounds' ratios.
FOLDER is a checkout of the other version.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BATCH, TIME = 64, 784
HERE = Path(__file__).resolve().parents[1]


def measured(name: str, repeats: int) -> dict[str, float]:
    """Medians in s of one process."""
    import torch

    from imc_ssm import Classifier, Scheme, preset, quantize

    torch.set_num_threads(1)
    torch.manual_seed(0)
    u, labels = torch.rand(BATCH, TIME, 1), torch.arange(BATCH) % 10
    model = quantize(Classifier(preset(name)), Scheme(), u)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def train() -> None:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(u), labels).backward()
        optimiser.step()

    @torch.no_grad()
    def evaluate() -> None:
        model(u)

    state = [model.init_state(1)]

    @torch.no_grad()
    def step() -> None:
        state[0] = model.step(u[:1, 0], state[0])[1]

    times = {}
    for what, job, number in (
        ("evaluation", evaluate, repeats),
        ("stream", step, 300),
        ("training", train, repeats),
    ):
        job()
        taken = []
        for _ in range(number):
            start = time.process_time()
            job()
            taken.append(time.process_time() - start)
        times[what] = float(np.median(taken))
    return times


def run(folder: Path, name: str, repeats: int) -> dict[str, float]:
    """Those of a version of the library."""
    threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    # glibc gives large arrays back after every call in some processes and not in others: half a small evaluation.
    memory = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
    environment = {**os.environ, **threads, **memory, "PYTHONPATH": str(folder)}
    command = [sys.executable, str(Path(__file__).resolve()), "--one", name, "--repeats", str(repeats)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="a checkout of another version")
    parser.add_argument(
        "--models", default="s4d-16h,s4d-64h", help="shipped configurations (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="processes of each version (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="calls of a process (default: %(default)s)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one, options.repeats)))
        return
    folders = [HERE] if options.against is None else [HERE, options.against.resolve()]
    for name in options.models.split(","):
        rounds = [[run(f, name, options.repeats) for f in folders] for _ in range(options.rounds)]
        for what in rounds[0][0]:
            times = np.array([[one[what] for one in each] for each in rounds])
            text = " against ".join(f"{1e3 * t:.3f} ms" for t in np.median(times, 0))
            if len(folders) == 2:
                ratios = times[:, 0] / times[:, 1]
                text += f", ratio {np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f})"
            print(f"{name} {what}: {text}", flush=True)


if __name__ == "__main__":
    main()
