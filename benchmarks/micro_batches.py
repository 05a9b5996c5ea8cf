"""A training step of a wide model at once and in micro-batches, as the command line does: time and memory.

`python micro_batches.py` compares them, each in a process of its own; `python micro_batches.py MODEL SIZE` prints
the figures of one as JSON. Processor time, with the system's part beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import torch
from measure import ONE_THREAD, peak, processor_time, sequences
from rich.console import Console
from rich.table import Table

from imc_ssm.cli.process import keep_pages
from imc_ssm.layers import Classifier, preset
from imc_ssm.training import TrainConfig, train

BATCH, TIME = 512, 784
STEPS = 4
CASES = (("s4d-16h", 512), ("s4d-16h", 64), ("s4d-64h", 512), ("s4d-64h", 64), ("s4d-64h", 16))


def measure(name: str, chunk: int) -> dict[str, float]:
    """Seconds of processor time of a step, the system's share, and peak resident memory in bytes."""
    keep_pages()
    torch.manual_seed(0)
    model, data = Classifier(preset(name)), sequences(STEPS * BATCH, TIME)
    config = TrainConfig(epochs=1, batch=BATCH, micro_batch=chunk)
    user, system = processor_time(lambda: train(model, data, config, mode="recurrent"))
    return {"seconds": (user + system) / STEPS, "system": system / STEPS, "peak": peak()}


def main() -> None:
    table = Table("model", "sequences at once", "processor s a step", "of it system", "peak memory (GB)", "ratio")
    whole: dict[str, float] = {}
    for name, chunk in CASES:
        done = subprocess.run(
            [sys.executable, __file__, name, str(chunk)],
            capture_output=True,
            text=True,
            check=True,
            env=ONE_THREAD,
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
