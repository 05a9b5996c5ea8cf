"""A training step of a wide model at once and in chunks: processor time and peak memory.

`python chunks.py` compares them, each in a process of its own; `python chunks.py MODEL CHUNK` prints the figures
of one as JSON. Processor time, with the system's part beside it: large arrays cost fresh pages in every step.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy

from imc_ssm.s4d import Classifier, preset

BATCH, TIME = 512, 784
STEPS = 4
CASES = (("s4d-16h", 512), ("s4d-16h", 64), ("s4d-64h", 512), ("s4d-64h", 64), ("s4d-64h", 16))


def measure(name: str, chunk: int) -> dict[str, float]:
    """Seconds of processor time of a step, the system's share, and peak resident memory in bytes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Classifier(preset(name))
    model.set_mode("recurrent")
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    values, labels = torch.rand(BATCH, TIME, 1), torch.randint(0, 10, (BATCH,))

    def step() -> None:
        optimiser.zero_grad()
        for first in range(0, BATCH, chunk):
            part = slice(first, first + chunk)
            loss = cross_entropy(model(values[part]), labels[part]) * (len(labels[part]) / BATCH)
            loss.backward()
        optimiser.step()

    step()  # compiles
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(STEPS):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    # ru_maxrss is in KiB on Linux and in bytes on macOS
    peak = after.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": (user + system) / STEPS, "system": system / STEPS, "peak": peak}


def main() -> None:
    table = Table("model", "sequences at once", "processor s a step", "of it system", "peak memory (GB)", "ratio")
    whole: dict[str, float] = {}
    for name, chunk in CASES:
        done = subprocess.run(
            [sys.executable, __file__, name, str(chunk)], capture_output=True, text=True, check=True
        )
        figures = json.loads(done.stdout)
        ratio = figures["seconds"] / whole.setdefault(name, figures["seconds"])
        cells = (figures["seconds"], figures["system"], figures["peak"] / 1e9, ratio)
        table.add_row(name, str(chunk), *(f"{value:.2f}" for value in cells))
    Console(width=100).print(f"a step of {BATCH} sequences of {TIME} steps, one thread", table)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
