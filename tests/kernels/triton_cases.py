"""What the tests of the fused GPU kernels share.

Without a GPU the kernels run through Triton's interpreter, which must be chosen before Triton is imported: their
tests are then collected only in processes of their own, which `interpreted` starts. With a GPU they run on it as
well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imc_ssm.fixedpoint import Format, Noise, ScanFormats
from imc_ssm.kernels import cuda, diagonal_scan

RUNS = cuda.unavailable() is None
DEVICE = torch.device("cpu" if cuda.interpreting() else "cuda")
ROUNDING_PLACEMENTS = ["joint", "separate"]
ROUNDINGS = ["half_even", "half_up", "half_away"]


def interpreted(file: str, group: str) -> None:
    """Run a group of tests through the interpreter."""
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", f"{file}::{group}"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=Path(file).parents[2]
    )
    assert done.returncode == 0, done.stdout + done.stderr  # 5 where it finds no tests


def on_device(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if z is None else z.to(DEVICE) for z in tensors]


def formats_around(
    reach: float,
    bits: int,
    heads: int = 2,
    shrink: str = "",
    b: bool = True,
    c: bool = True,
    y: bool = True,
    **rest: Any,
) -> ScanFormats:
    """Formats per head over ranges that `operands` fills; the parts in `shrink` saturate often."""

    def fmt(part: str, size: float) -> Format:
        wide = size * np.linspace(1.0, 1.2, heads) * (0.3 if part in shrink else 1.0)
        return Format.from_range(-wide, 0.9 * wide, bits)

    return ScanFormats(
        a=fmt("a", 1.2),
        u=fmt("u", 3.0),
        x=fmt("x", 4 * reach),
        b=fmt("b", 2.5) if b else None,
        c=fmt("c", 2.5) if c else None,
        y=fmt("y", 16 * reach) if y else None,
        **rest,
    )


def gradients(
    run: Callable[..., Tensor], weight: Tensor, *leaves: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """y and the gradients of sum(weight y) with respect to u, a, b, c, complex as pairs, on the host."""
    own = [None if z is None else z.detach().clone().requires_grad_() for z in leaves]
    y = run(*own)
    (y * weight.to(y)).sum().backward()
    found = {name: z.grad for name, z in zip("uabc", own, strict=True) if z is not None}
    pairs = {n: (torch.view_as_real(z) if z.is_complex() else z).cpu() for n, z in found.items()}
    return y.detach().cpu(), pairs


def close(found: dict[str, Tensor], exact: dict[str, Tensor], relative: float) -> None:
    assert found.keys() == exact.keys()
    for name, grad in found.items():
        assert (grad - exact[name]).abs().max() <= relative * exact[name].abs().max(), name


def scan_real(
    u: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    x0: Tensor | None,
    clamp: float | None,
    noise: Noise | None = None,
    clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Full precision on the GPU."""
    return diagonal_scan(
        u, a, b, c, x0=x0, return_state=True, grad_clamp=clamp, noise=noise, state_clip=clip, backend="cuda"
    )


def scan_integer(
    u: Tensor,
    a: Tensor,
    b: Tensor | None,
    c: Tensor | None,
    formats: ScanFormats,
    x0: Tensor | None,
    clamp: float | None,
    noise: Noise | None = None,
) -> tuple[Tensor, Tensor]:
    """The integer update on the GPU."""
    return diagonal_scan(
        u, a, b, c, formats=formats, x0=x0, return_state=True, grad_clamp=clamp, noise=noise, backend="cuda"
    )
