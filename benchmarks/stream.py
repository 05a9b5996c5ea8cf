"""A long stream in constant memory, and the time of one step of a quantized model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jobs import Shape, formats_over, operands
from measure import resident, seconds
from torch import Tensor

from imc_ssm.kernels import diagonal_scan
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import QuantizedS4D, Scheme, quantize

__all__ = ["Stream", "step_times", "stream"]


@dataclass(frozen=True)
class Stream:
    """What a stream took."""

    steps: int
    piece: int
    seconds: float
    """In `diagonal_scan` alone."""
    before: int | None
    """Resident memory after the first per cent of the stream, bytes."""
    growth: int | None
    """Largest growth after that, bytes."""


@torch.no_grad()
def stream(steps: int = 1_000_000, piece: int = 1000) -> Stream:
    """One sequence of 8-bit codes, piece after piece, the state handed on."""
    u, a, b, c = operands(Shape(batch=1, time=piece))
    formats = formats_over(u, a, b, c, 8)
    state: Tensor | None = None
    spent, before, growth = 0.0, None, None
    first = max(1, steps // piece // 100)
    for number in range(steps // piece):
        u = torch.randn(1, len(a), piece)
        start = time.perf_counter()
        _, state = diagonal_scan(u, a, b, c, formats=formats, x0=state, return_state=True)
        spent += time.perf_counter() - start
        now = resident()
        if now is not None and number + 1 == first:
            before, growth = now, 0
        elif now is not None and before is not None and growth is not None:
            growth = max(growth, now - before)
    return Stream(steps, piece, spent, before, growth)


@torch.no_grad()
def step_times(batch: int, repeats: int = 300) -> dict[str, float]:
    """Median time in s of one time step of a quantized s4d-16h (8 bits, not trained), and of its parts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = quantize(Classifier(ModelConfig()), Scheme(), torch.randn(8, 200, 1))
        u, inner = torch.randn(batch, 1), torch.randn(batch, model.config.heads)
    layer = model.get_submodule("blocks.0.ssm")
    assert isinstance(layer, QuantizedS4D)
    a, b, c, _ = layer.coefficients()
    formats, codes, states = layer.scan_formats(), layer.init_state(batch), model.init_state(batch)
    jobs: dict[str, Callable[[], object]] = {
        "Classifier.step": lambda: model.step(u, states),
        "its QuantizedS4D.step": lambda: layer.step(inner, codes),
        "its diagonal_scan, one step": lambda: diagonal_scan(
            inner[..., None], a, b, c, formats=formats, x0=codes, return_state=True
        ),
    }
    times = {}
    for name, job in jobs.items():
        job()
        times[name] = float(np.median([seconds(job) for _ in range(repeats)]))
    return times
