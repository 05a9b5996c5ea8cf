"""The product of a tile, and the evaluation of many chips: our fused product, aihwkit's torch tile, `nn.Linear`.

    python benchmarks/tiles.py                                            the product, on 1 and 2 threads
    python benchmarks/tiles.py --chips 4 --times 2 --images 1000          and the evaluation (whole: 20, 5, 10000)
    python benchmarks/tiles.py --processor                  processor time, where others use the machine: 1 thread

Everything runs in one process and takes turns; times are medians. 8-bit converters, float32; the noise is the
output noise of the design. The evaluation programs, ages and runs chips of `s4d-16h` on sequential MNIST twice,
with the same kernels for all that is digital: `evaluate`, and a plain loop over chips, times and aihwkit's tiles.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

import imc_ssm
from imc_ssm.chip.reference import reference_tile
from imc_ssm.devices.converters import Converter
from imc_ssm.kernels import tile_product
from imc_ssm.pretrained import pretrained_path
from imc_ssm.training import metrics

SHAPES = ((16, 32, 32768), (64, 128, 16384), (256, 256, 8192), (512, 512, 4096))
"""Inputs, outputs, vectors."""
NOISE = 0.04
"""Output noise in units of the largest weight."""


def medians(
    jobs: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Median time in s of every job over its number of repeats, in turns, after one call to warm up."""
    for job in jobs.values():
        job()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            start = clock()
            job()
            times[name].append(clock() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


@contextmanager
def threads(count: int) -> Any:
    """Both torch and Numba on so many threads."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(count)
    numba.set_num_threads(count)
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])


def jobs_of(inputs: int, outputs: int, vectors: int) -> dict[str, Callable[[], Tensor]]:
    """One product each, of the same numbers; every one allocates its result."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(vectors, inputs, generator=generator)
    weight = torch.rand(inputs, outputs, generator=generator) * 2 - 1
    bias = torch.randn(outputs, generator=generator)
    linear = nn.Linear(inputs, outputs)
    linear.weight.data, linear.bias.data = weight.T.contiguous(), bias
    converter = Converter.parse({"type": "sar", "bits": 8})
    full, span = 3.0, float(inputs) ** 0.5
    quiet, loud = (reference_tile(weight.numpy(), span, converter, converter, s, cpp=False) for s in (0.0, NOISE))
    common: dict[str, Any] = {
        "weight": (weight * (converter.step / span / converter.step))[None],
        "full_scale": full,
        "step_in": converter.step,
        "codes_in": converter.codes,
        "codes_out": converter.codes,
        "factor": torch.full((1, outputs), span * converter.step * full),
        "bias": bias,
    }
    noise = {"spread": NOISE / span / converter.step, "seed": torch.tensor([1])}
    scaled = x / full
    return {
        "nn.Linear": lambda: linear(x),
        "ours": lambda: tile_product(x[None], **common),
        "ours, noise": lambda: tile_product(x[None], **common, **noise),
        # Scales and bias as in `AnalogLinear`: a pass each.
        "aihwkit": lambda: quiet.forward(scaled, is_test=True).mul_(full).add_(bias),
        "aihwkit, noise": lambda: loud.forward(scaled, is_test=True).mul_(full).add_(bias),
    }


@torch.no_grad()
def products(repeats: int, counts: tuple[int, ...], clock: Callable[[], float]) -> None:
    """The table of products."""
    for count in counts:
        with threads(count):
            print(f"\n{count} thread{'s' * (count > 1)}: ns per vector (times nn.Linear)")
            for inputs, outputs, vectors in SHAPES:
                jobs = jobs_of(inputs, outputs, vectors)
                found = medians(jobs, repeats, clock)
                base = found["nn.Linear"]
                parts = [f"{name} {1e9 * t / vectors:.0f} ({t / base:.2f})" for name, t in found.items()]
                print(f"  {inputs} x {outputs}, {vectors} vectors: " + ", ".join(parts))


def evaluation(chips: int, times: int, images: int, rounds: int, clock: Callable[[], float]) -> None:
    """Both evaluations, in turns."""
    data = imc_ssm.load_dataset("smnist")
    model = imc_ssm.load_model(pretrained_path("s4d-16h"))
    deployment = imc_ssm.compile_model(imc_ssm.quantize(model, "uniform", data), "pcm-256", data)
    few = {name: places[:images] for name, places in data.splits.items()}
    part = replace(data, splits=few)
    moments = [1.0, 60.0, 3600.0, 86400.0, 30 * 86400.0][:times]

    def whole() -> object:
        return imc_ssm.evaluate(deployment, part, chips, moments)

    def loop() -> None:
        model, tiles = deployment.analog("aihwkit")
        for chip in range(chips):
            for tile in tiles:
                tile.program(0, chip)
            for moment in moments:
                for tile in tiles:
                    tile.set_time(moment)
                metrics(model, part.split("test"))

    imc_ssm.evaluate(deployment, replace(data, splits={n: p[:50] for n, p in few.items()}), 1, moments[:1])
    found: dict[Callable[[], object], list[float]] = {whole: [], loop: []}
    for _ in range(rounds):
        for job, spent in found.items():
            start = clock()
            job()
            spent.append(clock() - start)
    ours, theirs = (float(np.median(spent)) for spent in found.values())
    print(
        f"\n{chips} chips x {len(moments)} times, {images} images, {torch.get_num_threads()} threads, "
        f"{rounds} rounds: ours {ours:.2f} s, loop over aihwkit's tiles {theirs:.2f} s, ratio {ours / theirs:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", type=int, default=0)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--processor", action="store_true")
    given = parser.parse_args()
    clock = time.process_time if given.processor else time.perf_counter
    most = 1 if given.processor else numba.config.NUMBA_NUM_THREADS
    if given.repeats:
        products(given.repeats, (1, 2)[:most], clock)
    if given.chips:
        with threads(min(2, most)):
            evaluation(given.chips, given.times, given.images, given.rounds, clock)


if __name__ == "__main__":
    main()
