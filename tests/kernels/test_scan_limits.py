"""What the fused CPU recurrence needs and refuses: memory, threads, and errors before any work is done."""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np
import pytest
import torch
from scan_cases import formats_for, operands

from imc_ssm.errors import FormatError, ImcSsmError
from imc_ssm.fixedpoint import Format, Noise, ScanFormats
from imc_ssm.kernels import cpu, diagonal_scan


def counting() -> ModuleType:
    """The benchmarks' module that counts memory."""
    spec = importlib.util.spec_from_file_location(
        "benchmarks_measure", Path(__file__).parents[2] / "benchmarks" / "measure.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


MEASURE = counting()


@pytest.fixture
def two_threads() -> Iterator[None]:
    """At most two threads: every one has a tape of its own."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(2, before))
    yield
    numba.set_num_threads(before)


class TestMemory:
    def test_what_is_counted(self) -> None:
        # One array and one tensor of known sizes, and a tensor that is gone before the larger one comes.
        def job() -> object:
            torch.empty(1000)
            return np.ones(10_000), torch.empty(50_000)

        peak = MEASURE.peak_memory(job)
        assert 80_000 <= peak.arrays < 90_000
        assert peak.tensors == 200_000
        assert peak.bytes == peak.arrays + peak.tensors

    @pytest.mark.usefixtures("two_threads")
    @pytest.mark.parametrize(
        ("bits", "order", "noise"),
        [
            (None, "joint", None),
            (8, "joint", None),
            (8, "separate", None),
            (16, "joint", None),
            (8, "joint", Noise(1, state=0.1)),
        ],
    )
    def test_a_training_step(self, bits: int | None, order: str, noise: Noise | None) -> None:
        u, a, b, c = operands(1, 64, 16, 32, 784)
        formats = None if bits is None else formats_for(u[:2], a, b, c, bits, rounding_placement=order)
        leaves = [z.requires_grad_() for z in (u, a, b, c)]
        gradient = torch.ones_like(u)

        def step() -> tuple[torch.Tensor, ...]:
            y = diagonal_scan(*leaves, formats=formats, noise=noise, backend="cpu")
            return y, *torch.autograd.grad(y, leaves, gradient)

        size = u.numel() * u.element_size()
        additional = MEASURE.peak_memory(step).bytes - 2 * size  # besides y and the gradient of u
        assert 0 < additional <= size

    @torch.no_grad()
    def test_a_long_stream(self) -> None:
        # Its inputs and outputs are 12.8 MB, its states 820 MB; the states handed on alone would be 0.8 MB.
        u, a, b, c = operands(2, 1, 16, 32, 1000)
        formats = formats_for(u, a, b, c, 8)
        state = diagonal_scan(u, a, b, c, formats=formats, return_state=True)[1]
        gc.collect()
        before = MEASURE.resident()
        tracemalloc.start()
        try:
            for number in range(100):
                piece = u.roll(number, -1)
                _, state = diagonal_scan(piece, a, b, c, formats=formats, x0=state, return_state=True)
                if number == 1:
                    early = tracemalloc.get_traced_memory()[0]
                    tracemalloc.reset_peak()
            growth = tracemalloc.get_traced_memory()[0] - early
            # At any moment no more than the tables, the workers' room and the states of one piece.
            peak = tracemalloc.get_traced_memory()[1] - early
        finally:
            tracemalloc.stop()
        assert growth < 300_000
        assert peak < 1_000_000 * numba.get_num_threads()
        if before is not None:
            assert MEASURE.resident() - before < 6_000_000


U, A, B, C = operands(3, 3, 2, 4, 5)
FORMATS = formats_for(U, A, B, C, 8)


def format_of(**changes: Any) -> Format:
    return Format(**({"bits": 8, "scale": np.float32(0.1), "zero_point": np.int64(0)} | changes))


def with_format(part: str, fmt: Format) -> ScanFormats:
    parts = {name: getattr(FORMATS, name) for name in "auxbcy"}
    return ScanFormats(**(parts | {part: fmt}))


FAULTS: dict[str, tuple[Callable[[], object], type[ImcSsmError], str]] = {
    "integers": (lambda: diagonal_scan(U.int(), A, B, C), ImcSsmError, "u has dtype torch.int32"),
    "codes as input": (
        lambda: diagonal_scan(U.int(), A, B, C, formats=FORMATS),
        ImcSsmError,
        "takes float32.* u is torch.int32",
    ),
    "complex input": (lambda: diagonal_scan(U + 0j, A, B, C), ImcSsmError, "u has dtype torch.complex64"),
    "no batch": (lambda: diagonal_scan(U[0], A, B, C, formats=FORMATS), ImcSsmError, "u has shape"),
    "heads": (lambda: diagonal_scan(U, A[:1], B[:1], C[:1]), ImcSsmError, r"a has shape \(1, 4\)"),
    "states": (
        lambda: diagonal_scan(
            U,
            A,
            B,
            C,
            formats=with_format("x", format_of(scale=np.ones((2, 3), np.float32), zero_point=[[0] * 3] * 2)),
        ),
        FormatError,
        "format of x is for 3 states, the recurrence has 4",
    ),
    "input per state": (
        lambda: with_format("u", format_of(scale=np.ones((2, 4), np.float32), zero_point=[[0] * 4] * 2)),
        FormatError,
        "format of u is per state",
    ),
    "missing c": (lambda: diagonal_scan(U, A, B, formats=FORMATS), FormatError, "c and formats.c"),
    "noise that ends": (
        lambda: diagonal_scan(U, A, B, C, noise=Noise(1, state=0.1, time=2**32 - 4)),
        FormatError,
        "counters end",
    ),
    "state too fine": (
        lambda: diagonal_scan(U, A, B, C, formats=with_format("x", format_of(scale=np.float32(1e-12)))),
        FormatError,
        "state is so much finer than its input",
    ),
    "output too fine": (
        lambda: diagonal_scan(U, A, B, C, formats=with_format("y", format_of(scale=np.float32(1e-30)))),
        FormatError,
        "needs words of more than 53 bits",
    ),
    "code outside": (
        lambda: diagonal_scan(
            U, A, B, C, formats=FORMATS, x0=torch.full((3, 2, 4, 2), 200, dtype=torch.int64), backend="cpu"
        ),
        FormatError,
        "x0 holds codes outside",
    ),
    "not a number": (
        lambda: diagonal_scan(U.index_fill(2, torch.tensor([4]), float("nan")), A, B, C, formats=FORMATS),
        ImcSsmError,
        "u is not finite",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refused_before_any_work(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: object) -> None:
        raise AssertionError("the kernel ran")

    monkeypatch.setattr(cpu.update, "forward_codes", work)
    job, kind, message = FAULTS[fault]
    with pytest.raises(kind, match=message) as caught:
        job()
    assert "\n" not in str(caught.value)


def test_a_finite_input_whose_sum_is_not() -> None:
    large = torch.full_like(U, 3e38)
    assert torch.isfinite(diagonal_scan(large, A, B, C, formats=FORMATS)).all()


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e-39, 1e39])
def test_a_scale_that_cannot_be_held(scale: float) -> None:
    with pytest.raises(FormatError, match="cannot be held by float32"):
        format_of(scale=scale)


@pytest.mark.parametrize(("low", "high"), [(-1e39, 1e39), (-1e300, 1e300)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_range_whose_scale_cannot_be_held(low: float, high: float, symmetric: bool) -> None:
    with pytest.raises(FormatError, match="cannot be held by float32"):
        Format.from_range(low, high, 2, symmetric=symmetric)


# Values and gradients as one digest per number of threads; 70 sequences fill five vectors of lanes, not wholly.
DIGESTS = """
import hashlib, numba, torch
from scan_cases import formats_for, operands
from imc_ssm.fixedpoint import Noise
from imc_ssm.kernels import diagonal_scan
u, a, b, c = operands(3, 70, 3, 5, 30)
noise = Noise(7, state=0.2, poles=0.01, sample=5, time=9)
separate = formats_for(u, a, b, c, 8, rounding_placement="separate", shrink={"x": 0.7})
cases = [(separate, None), (separate, noise), (formats_for(u, a, b, c, 8), noise), (None, noise)]
for threads in (1, 2, 3):
    numba.set_num_threads(threads)
    digest = hashlib.sha256()
    for formats, drawn in cases:
        leaves = [z.clone().requires_grad_() for z in (u, a, b, c)]
        y, last = diagonal_scan(*leaves, formats=formats, noise=drawn, return_state=True)
        (y * y.detach().cos()).sum().backward()
        for z in (y.detach(), last, *(leaf.grad for leaf in leaves)):
            digest.update(torch.view_as_real(z).numpy().tobytes() if z.is_complex() else z.numpy().tobytes())
    print(digest.hexdigest())
"""


def test_threads_change_nothing_with_separate_rounding_and_noise() -> None:
    # A process of its own: the number of threads is bounded when Numba is imported.
    environment = os.environ | {"NUMBA_NUM_THREADS": "3", "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", DIGESTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    digests = done.stdout.split()
    assert len(digests) == 3
    assert len(set(digests)) == 1
