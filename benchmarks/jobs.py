"""What is compared: the same function of u, a, b and c, computed by different implementations.

    x[t] = a x[t-1] + b u[t],  y[t] = 2 Re(sum_n c x[t]);  gradients of u, a, b, c

None of them discretises or adds D u, so nothing but the recurrence is timed. The float32 FFT convolution is that
of `imc_ssm.layers` in its mode "convolution", its kernel included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imc_ssm.fixedpoint import Format, Noise, ScanFormats
from imc_ssm.fixedpoint.formats import RoundingPlacement
from imc_ssm.kernels import diagonal_scan
from imc_ssm.kernels.scan import Backend
from imc_ssm.layers import S4D
from imc_ssm.layers.s4d import S4DConfig, convolve, powers

__all__ = ["EAGER", "FFT", "FUSED", "JOBS", "STEP", "Job", "Shape", "formats_over", "job", "operands"]

QUANTIZED_OPERATIONS = 26
"""Of one complex quantized update: 14 as below; then the real and the imaginary part each take a multiplier,
rounding's half, the tie's bit, a shift and two bounds."""
REAL_OPERATIONS = 14
"""Of one complex update in full precision: a x (6), + b u (4), Re(c x) and its sum (4)."""


@dataclass(frozen=True)
class Shape:
    """The size of one recurrence."""

    batch: int = 64
    heads: int = 16
    states: int = 32
    time: int = 784

    @property
    def updates(self) -> int:
        """Complex state updates of one forward pass."""
        return self.batch * self.heads * self.states * self.time

    @property
    def input_bytes(self) -> int:
        """Size of u (and of y) in float32."""
        return 4 * self.batch * self.heads * self.time


STEP = Shape()
"""The training step that the requirements speak of."""


@dataclass(frozen=True)
class Job:
    """One implementation on given operands."""

    forward: Callable[[], Tensor]
    """y alone, no gradient."""
    step: Callable[[], tuple[Tensor, ...]]
    """y, and the gradients of u, a, b and c for a given gradient of y; nothing is kept between calls."""
    operations: int | None
    """Counted operations of one complex update; None where an update is not computed as such."""


@dataclass(frozen=True)
class Kind:
    """How an implementation is called."""

    bits: int | None = None
    rounding_placement: RoundingPlacement = "joint"
    noise: float = 0.0
    backend: Backend = "cpu"
    """"cpu": the fused implementation of the device that the operands lie on."""


FFT, FUSED, EAGER = "FFT convolution, float32", "fused, full precision", "eager loop, full precision"
JOBS: dict[str, Kind | None] = {
    FFT: None,
    FUSED: Kind(),
    "fused, 8-bit, one rounding": Kind(8),
    "fused, 8-bit, three roundings": Kind(8, rounding_placement="separate"),
    "fused, 16-bit, one rounding": Kind(16),
    "fused, 8-bit, noise in the state": Kind(8, noise=0.01),
    EAGER: Kind(backend="reference"),
}
"""Every implementation that is compared, by the name it has in the tables. Three roundings: of a x, of b u and
of the output."""


def operands(shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(u, a, b, c): standard normal input, coefficients of an S4D layer at its initialisation."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        layer = S4D(shape.heads, S4DConfig(n_state=2 * shape.states))
        u = torch.randn(shape.batch, shape.heads, shape.time)
        a, b, c = (z.clone() for z in layer.discrete())
    return u, a, b, c


@torch.no_grad()
def formats_over(
    u: Tensor, a: Tensor, b: Tensor, c: Tensor, bits: int, order: RoundingPlacement = "joint"
) -> ScanFormats:
    """Formats per head over what occurs in the first sequences: nothing saturates by much, no range is wasted."""
    some = u[:4]
    x = torch.zeros(len(some), *a.shape, dtype=a.dtype)
    low, high = torch.zeros(2, len(a))
    for t in range(u.shape[-1]):
        x = a * x + b * some[..., t, None]
        low = torch.minimum(low, torch.view_as_real(x).amin((0, 2, 3)))
        high = torch.maximum(high, torch.view_as_real(x).amax((0, 2, 3)))

    def over(z: Tensor, axes: tuple[int, ...]) -> Format:
        return Format.from_range(z.amin(axes).numpy(), z.amax(axes).numpy(), bits)

    poles, drive, mix = (over(torch.view_as_real(z), (1, 2)) for z in (a, b, c))
    state = Format.from_range(low.numpy(), high.numpy(), bits)
    output = over(by_fft(some, a, b, c), (0, 2))
    return ScanFormats(poles, over(u, (0, 2)), state, drive, mix, output, rounding_placement=order)


def by_fft(u: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """y by the kernel K[t] = 2 Re(sum_n c a^t b) and FFTs of twice the length."""
    return convolve(u, 2 * torch.einsum("hn,hnt->ht", b * c, powers(a, u.shape[-1])).real)


def job(name: str, shape: Shape = STEP, device: str = "cpu") -> Job:
    """The implementation of that name on operands of that shape, which lie on the device."""
    kind, values = JOBS[name], operands(shape)  # formats are those of the CPU's numbers, wherever it runs
    gradient = torch.from_numpy(np.random.default_rng(0).standard_normal(values[0].shape, np.float32)).to(device)
    leaves = [z.to(device).requires_grad_() for z in values]
    run: Callable[..., Tensor]
    if kind is None:
        run, operations = by_fft, None
    else:
        run, operations = _scan(kind, values, device)

    def forward() -> Tensor:
        with torch.no_grad():
            return run(*leaves)

    def step() -> tuple[Tensor, ...]:
        y = run(*leaves)
        return y, *torch.autograd.grad(y, leaves, gradient)

    return Job(forward, step, operations)


def _scan(kind: Kind, values: tuple[Tensor, ...], device: str) -> tuple[Callable[..., Tensor], int]:
    """`diagonal_scan` as `kind` says, and the operations of its update."""
    formats = None
    if kind.bits is not None:
        u, a, b, c = (z.detach() for z in values)
        formats = formats_over(u, a, b, c, kind.bits, kind.rounding_placement)
    noise = None if kind.noise == 0 else Noise(1, state=kind.noise)
    backend: Backend = "cuda" if kind.backend == "cpu" and device != "cpu" else kind.backend

    def run(u: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return diagonal_scan(u, a, b, c, formats=formats, noise=noise, backend=backend)

    return run, REAL_OPERATIONS if formats is None else QUANTIZED_OPERATIONS
