"""Oracle, fused CPU kernel and streaming step of a trained model on real images: how many codes differ.

    python benchmarks/parity.py MODEL [--images 10000] [--data-dir DIR] [--threads 1]

MODEL is what `imc-ssm quantize` writes for smnist. On the inputs that every recurrence of the model meets, the
int64 oracle runs step by step, and against it are compared, in every step of every image:

- the outputs of the fused CPU kernel, and its last states (`diagonal_scan` over whole sequences);
- the states and the outputs of the layer's streaming `step()`, and the outputs of its `forward()`.

Exit status 1 if a single code differs. About ten minutes for 10,000 images of an s4d-16h on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import numba
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor
from trained import Layer, inputs_of, layers_of, load_quantized

from imc_ssm import datasets
from imc_ssm.errors import ImcSsmError
from imc_ssm.fixedpoint import scan_codes
from imc_ssm.kernels import diagonal_scan
from imc_ssm.kernels.codes import input_codes
from imc_ssm.training import predict

BATCH = 500
"""Images at a time."""


class Tally:
    """Numbers of codes compared and of codes that differ, by what was compared."""

    def __init__(self) -> None:
        self.compared: Counter[str] = Counter()
        self.differing: Counter[str] = Counter()

    def add(self, what: str, found: Tensor, exact: Tensor) -> None:
        """Compare with `==`; a shape that differs is an error."""
        assert found.shape == exact.shape, f"{what}: {tuple(found.shape)} and {tuple(exact.shape)}"
        self.compared[what] += exact.numel()
        self.differing[what] += int((found != exact).sum())


@torch.no_grad()
def compare(layer: Layer, u: Tensor, whole: Tensor, tally: Tally, progress: Progress) -> None:
    """One layer on its inputs u (batch, head, time); `whole` is what the layer's `forward()` made of them.

    Outputs are compared as the real values of their codes, of which no two are equal.
    """
    codes, module, y_format = input_codes(u.numpy(), layer.plan), layer.module, layer.formats.y
    assert y_format is not None
    y_cpu, last_cpu = diagonal_scan(
        u, layer.a, layer.b, layer.c, formats=layer.formats, return_state=True, backend="cpu"
    )
    state = module.init_state(len(u))
    exact: np.ndarray | None = None
    task = progress.add_task("  steps", total=u.shape[2])
    for t in range(u.shape[2]):
        y_codes, exact, _ = scan_codes(layer.plan, codes[..., t : t + 1], *layer.codes, exact)
        y = torch.from_numpy(y_format.dequantize(y_codes, head_axis=1)).float()
        tally.add("CPU kernel, outputs", y_cpu[..., t : t + 1], y)
        out, state = module.step(u[..., t], state)
        tally.add("step(), states", state, torch.from_numpy(exact))
        # What the layer does after the recurrence: D u and the quantizer behind it.
        after = module.after_d(y + module.direct()[:, None] * u[..., t : t + 1])[..., 0]
        tally.add("step(), outputs", out, after)
        tally.add("forward(), outputs", whole[..., t], after)
        progress.advance(task)
    progress.remove_task(task)
    assert exact is not None
    tally.add("CPU kernel, last states", last_cpu, torch.from_numpy(exact))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a quantized model of smnist")
    parser.add_argument("--images", type=int, default=10_000, help="test images (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, help="where MNIST is")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    numba.set_num_threads(options.threads)
    console = Console()
    try:
        model = load_quantized(options.model)
        split = datasets.load("smnist", options.data_dir).split("test").take(options.images)
    except ImcSsmError as error:
        console.print(f"[red]{error}[/]")
        return 2
    layers, tally = layers_of(model), Tally()
    predict(model, split.take(1))  # compiles
    start = time.perf_counter()
    right = float(np.mean(predict(model, split) == split.labels))
    spent = time.perf_counter() - start
    console.print(
        f"{len(split):,} images end to end: {spent:.2f} s on {options.threads} threads, "
        f"{100 * right:.2f} % recognised"
    )
    with Progress(console=console) as progress:
        task = progress.add_task("images", total=len(split))
        for values, _, _ in split.batches(BATCH):
            inputs, outputs = inputs_of(model, layers, torch.from_numpy(values))
            for layer, u, whole in zip(layers, inputs, outputs, strict=True):
                compare(layer, u.contiguous(), whole, tally, progress)
            progress.advance(task, len(values))
    table = Table(title=f"Against the oracle: {len(split):,} images, {len(layers)} recurrences")
    for column in ("", "codes compared", "differing"):
        table.add_column(column, justify="right" if column else "left")
    for what, compared in tally.compared.items():
        table.add_row(what, f"{compared:,}", f"{tally.differing[what]:,}")
    console.print(table)
    return 1 if tally.differing.total() else 0


if __name__ == "__main__":
    sys.exit(main())
