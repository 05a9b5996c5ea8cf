"""What `imc_ssm.cli.process.keep_pages` saves: processor time of QAT steps and of evaluating the model.

`python pages.py` compares a process as it is with one that keeps its pages; `python pages.py MODEL KEPT` prints
the figures of one as JSON.
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
from imc_ssm.quantization import Scheme, calibration_batch, quantize
from imc_ssm.training import TrainConfig, accuracy, train

BATCH, TIME, STEPS = 64, 784, 16
MODELS = ("s4d-16h", "s4d-64h")


def measure(name: str, kept: bool) -> dict[str, float]:
    """Seconds of processor time of a step and of evaluating as many sequences, the system's share of both in
    percent, and peak memory in bytes."""
    if kept:
        keep_pages()
    torch.manual_seed(0)
    data = sequences(STEPS * BATCH, TIME)
    model = quantize(Classifier(preset(name)), Scheme.w4a6(), *calibration_batch(data, 64, most=64))
    config = TrainConfig(epochs=1, batch=BATCH)
    found: dict[str, float] = {}
    for what, job in (
        ("step", lambda: train(model, data, config)),
        ("evaluation", lambda: accuracy(model, data.split("train"))),
    ):
        user, system = processor_time(job, warm=3)
        found |= {what: (user + system) / STEPS, f"{what}, system": 100 * system / (user + system)}
    return found | {"peak": peak()}


def main() -> None:
    columns = ("model", "pages", "QAT step (s)", "of it system", "evaluation (s)", "of it system", "peak (GB)")
    table = Table(*columns, "ratios")
    for name in MODELS:
        first: dict[str, float] = {}
        for kept in ("fresh", "kept"):
            words = [sys.executable, __file__, name, kept]
            figures = json.loads(
                subprocess.run(words, capture_output=True, text=True, check=True, env=ONE_THREAD).stdout
            )
            first = first or figures
            cells = [name, kept]
            for what in ("step", "evaluation"):
                cells += [f"{figures[what]:.3f}", f"{figures[f'{what}, system']:.0f} %"]
            ratios = (figures[what] / first[what] for what in ("step", "evaluation"))
            table.add_row(*cells, f"{figures['peak'] / 1e9:.2f}", " ".join(f"{ratio:.2f}" for ratio in ratios))
    Console(width=110).print(f"processor time for {BATCH} sequences of {TIME} steps, one thread", table)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measure(sys.argv[1], sys.argv[2] == "kept")))
    else:
        main()
