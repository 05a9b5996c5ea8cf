"""The library on a GPU: does it compute what the CPU computes there, and how fast?

    python benchmarks/gpu.py [--only equal,scan,model] [--heads 16,64] [--devices cuda,cpu] [--out gpu.json]

The same operands on both: the fused recurrence in full precision and in 8 bits, and the float32 FFT convolution;
then training steps of whole models through `imc_ssm.train`. Times are medians of what a caller waits for: they
hold the host's work, and end with a synchronization on the GPU. The first calls, which compile, do not count.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import torch
from jobs import FFT, FUSED, STEP, Job, job
from measure import medians, sequences
from rich.console import Console
from rich.table import Table

from imc_ssm.errors import ImcSsmError
from imc_ssm.kernels.device import named_device
from imc_ssm.layers import Classifier, preset
from imc_ssm.quantization import Scheme, quantize
from imc_ssm.training import TrainConfig, train

JOINT, SEPARATE = "fused, 8-bit, one rounding", "fused, 8-bit, three roundings"
COMPARED = (FFT, FUSED, JOINT)
LEAVES = ("u", "a", "b", "c")
MODELS = {
    "recurrent": "full precision, recurrent",
    "convolution": "full precision, convolution",
    "8-bit": "8-bit QAT",
}

Row = dict[str, Any]


def about() -> dict[str, Any]:
    """What it ran on."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": __import__("triton").__version__,
        "numba": numba.__version__,
        "python": platform.python_version(),
        "threads": {"torch": torch.get_num_threads(), "numba": numba.get_num_threads()},
    }


def finished(work: Callable[[], object]) -> Callable[[], None]:
    """The work, and a wait until the GPU has done it."""

    def run() -> None:
        work()
        torch.cuda.synchronize()

    return run


def equal(heads: list[int], devices: list[str]) -> Iterator[Row]:
    """The GPU against the CPU: whether values are the same; deviations relative to the largest value."""
    for count in heads:
        for name in (FUSED, JOINT, SEPARATE):
            shape = replace(STEP, heads=count)
            here, there = (job(name, shape, device).step() for device in ("cpu", "cuda"))
            pairs = [(x.detach(), y.detach().cpu()) for x, y in zip(here, there, strict=True)]
            deviations = [float((x - y).abs().max() / x.abs().max()) for x, y in pairs]
            row = {"heads": count, "what": name, "same": torch.equal(*pairs[0]), "y": deviations[0]}
            yield row | dict(zip(LEAVES, deviations[1:], strict=True))


def scan(heads: list[int], devices: list[str]) -> Iterator[Row]:
    """Seconds of a forward pass and of a training step, and the GPU's memory for a step in bytes."""
    for device in devices:
        for count in heads:
            jobs = {name: job(name, replace(STEP, heads=count), device) for name in COMPARED}
            repeats = dict.fromkeys(jobs, 30 if device == "cuda" else 3)
            forward = medians({name: finished(j.forward) for name, j in jobs.items()}, repeats)
            step = medians({name: finished(j.step) for name, j in jobs.items()}, repeats)
            for name, j in jobs.items():
                row = {
                    "device": device,
                    "heads": count,
                    "what": name,
                    "forward": forward[name],
                    "step": step[name],
                }
                yield row | {"memory": _memory(j) if device == "cuda" else None}
            del jobs
            torch.cuda.empty_cache()


def _memory(j: Job) -> int:
    """Peak of the GPU's memory that a step allocates."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    j.step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def model(heads: list[int], devices: list[str], batch: int = 64, steps: int = 6) -> Iterator[Row]:
    """Seconds of a training step of a whole model: the last of three epochs, divided by its steps."""
    data = sequences(steps * batch, STEP.time)
    config = TrainConfig(epochs=3, batch=batch)
    for device in devices:
        for count in heads:
            if device == "cpu" and count > 64:  # minutes
                continue
            for how, what in MODELS.items():
                torch.manual_seed(0)
                made = Classifier(preset(f"s4d-{count}h"))
                if how == "8-bit":
                    made = quantize(made, Scheme(), data.split("train").take(16).values, device=device)
                history = train(made, data, config, mode=None if how == "8-bit" else how, device=device)
                yield {"device": device, "heads": count, "what": what, "step": history.time[-1] / steps}


PARTS: dict[str, Callable[[list[int], list[str]], Iterator[Row]]] = {"equal": equal, "scan": scan, "model": model}
DEVICES = ("cuda", "cpu")


def shown(part: str, rows: list[Row]) -> Table:
    """A part's rows as a table; times in ms, memory in MiB."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    made = Table(*columns, title=part, title_justify="left")
    for row in rows:
        cells = []
        for name in columns:
            value = row.get(name)
            if name in ("forward", "step") and value is not None:
                cells.append(f"{1e3 * value:.2f} ms")
            elif name == "memory" and value is not None:
                cells.append(f"{value / 2**20:.0f} MiB")
            else:
                cells.append("" if value is None else f"{value:.1e}" if isinstance(value, float) else str(value))
        made.add_row(*cells)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default=",".join(PARTS), help="parts, with commas between (default: %(default)s)"
    )
    parser.add_argument("--heads", default="16,64,256,512", help="default: %(default)s")
    parser.add_argument("--devices", default=",".join(DEVICES), help="that are timed (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    chosen, heads = options.only.split(","), [int(word) for word in options.heads.split(",")]
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    try:
        named_device("cuda")
    except ImcSsmError as error:
        parser.error(str(error))
    found: dict[str, Any] = {"about": about()}
    console = Console(width=140)
    console.print(found["about"])
    for part in chosen:
        rows = found[part] = []
        for row in PARTS[part](heads, options.devices.split(",")):
            rows.append(row)
            if options.out is not None:  # after every row: an interrupted run leaves what it has
                options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        console.print(shown(part, rows), "")


if __name__ == "__main__":
    main()
