"""The fused GPU implementation with gradients: full precision and integer (Triton).

On a machine without a GPU the same kernels run through Triton's interpreter, for tests: set TRITON_INTERPRET=1
before Python starts.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imc_ssm.errors import FormatError, ImcSsmError
from imc_ssm.fixedpoint import Noise, ScanFormats, ScanPlan, plan_scan
from imc_ssm.fixedpoint.gaussian import GAUSSIAN_ONE, gaussian_table
from imc_ssm.kernels import fused
from imc_ssm.kernels.codes import Array, Operands

__all__ = ["check_available", "interpreting", "scan_codes_triton", "scan_integer", "scan_real", "unavailable"]

TILE = 64
"""Complex states of a program on a GPU: two for each thread of a warp."""
INTERPRETED_TILE = 2**15
"""Through the interpreter a step takes milliseconds whatever the tile: as many states as memory allows."""
PROGRAMS_PER_UNIT = 8
"""Programs of the backward pass per multiprocessor: each has a tape of its states, which bounds memory."""


def interpreting() -> bool:
    """Whether Triton runs its interpreter in this process (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def unavailable() -> str | None:
    """None, or one sentence: why this backend cannot run here and what to do."""
    if importlib.util.find_spec("triton") is None:
        return 'Triton is not installed; pip install "imc-ssm[gpu]"'
    if not torch.cuda.is_available() and not interpreting():
        return "PyTorch sees no GPU; use backend='cpu' (for tests: set TRITON_INTERPRET=1 before Python starts)"
    return None


def check_available() -> None:
    """`ImcSsmError` that says why this backend cannot run here, where it cannot."""
    if (reason := unavailable()) is not None:
        raise ImcSsmError(f"backend 'cuda' cannot run here: {reason}")


def _check(device: torch.device, shape: tuple[int, ...], noise: Noise | None) -> None:
    """`ImcSsmError` unless the kernels can run on the device, `FormatError` where the noise's counters end."""
    check_available()
    if device.type != "cuda" and not interpreting():
        raise ImcSsmError(
            f"backend 'cuda' takes tensors on a GPU, u is on {device}; use u.cuda() or backend='cpu'"
        )
    if noise is not None:
        noise.check(shape[0], shape[-1])


@cache
def _gauss(device: torch.device) -> Tensor:
    """The table of the Gaussian numbers on a device."""
    return torch.from_numpy(gaussian_table().copy()).to(device)


def _power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


@dataclass(frozen=True, eq=False)
class _Launch:
    """Everything that the kernels read besides u (batch, head, time); names as in `triton_kernels`."""

    start: Tensor
    """(batch, head, state, 2), int32 or float32"""
    table: Tensor
    real: Tensor
    inputs: Tensor | None
    outputs: Tensor | None
    unit: Tensor | None
    key: Tensor | None
    formats: ScanFormats | None
    clip: float | None = None

    def _arguments(self, time: int) -> tuple[dict[str, Any], dict[str, Any], int]:
        """Arguments and constants that both kernels share, and the number of tiles."""
        batch, heads, states, _ = self.start.shape
        rows, wide, device = batch * heads, _power_of_two(states), self.start.device
        most = INTERPRETED_TILE if interpreting() else TILE
        tall = max(1, min(_power_of_two(rows), most // wide))
        f = self.formats
        arguments = {
            "x0": self.start,
            "table": self.table,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "key": self.key,
            "gauss": None if self.key is None else _gauss(device),
            "clip": 0.0 if self.clip is None else self.clip,
            "rows": rows,
            "heads": heads,
            "states": states,
            "time": time,
        }
        constants = {
            "ROWS": tall,
            "STATES": wide,
            "INTEGER": f is not None,
            "NOISE": self.key is not None,
            "SEPARATE": f is not None and f.rounding_placement == "separate",
            "QUANTIZED": self.outputs is not None,
            "ROUNDING": "" if f is None else f.rounding,
            "CLIP": self.clip is not None,
            "num_warps": max(1, min(8, tall * wide // TILE)),
        }
        return arguments, constants, -(-rows // tall)

    def forward(self, u: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """y (batch, head, time) and the last state (batch, head, state, 2), centred on its zero point."""
        from imc_ssm.kernels import triton_kernels

        y, last = torch.empty(u.shape, dtype=dtype, device=u.device), torch.empty_like(self.start)
        arguments, constants, tiles = self._arguments(u.shape[-1])
        if tiles:
            with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]
                triton_kernels.forward[(tiles,)](u=u, y=y, last=last, unit=self.unit, **arguments, **constants)
        return y, last

    def backward(self, u: Tensor, grad: Tensor, clamp: float | None) -> tuple[Tensor, Tensor]:
        """The gradient of u, and the sums (3, head, state, 2) for those of a, b, c, float64."""
        from imc_ssm.kernels import triton_kernels

        batch, heads, states, _ = self.start.shape
        grad_u = torch.empty_like(u)
        sums = torch.empty((batch * heads, 6, states), dtype=torch.float32, device=u.device)
        arguments, constants, tiles = self._arguments(u.shape[-1])
        if tiles:
            with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]
                programs = min(tiles, self._programs(u.device))
                shape = (programs, u.shape[-1] + 1, 2, constants["ROWS"], constants["STATES"])
                tape = torch.empty(shape, dtype=self.start.dtype, device=u.device)
                triton_kernels.backward[(programs,)](
                    u=u,
                    grad=grad,
                    grad_u=grad_u,
                    sums=sums,
                    real=self.real,
                    tape=tape,
                    clamp=0.0 if clamp is None else clamp,
                    CLAMP=clamp is not None,
                    **arguments,
                    **constants,
                )
        # One row's sums apart from the next one's: their order is fixed, whoever computed them.
        total = sums.view(batch, heads, 3, 2, states).sum(0, dtype=torch.float64)
        return grad_u, total.permute(1, 0, 3, 2).contiguous()

    @staticmethod
    def _programs(device: torch.device) -> int:
        if interpreting():
            return 1
        return PROGRAMS_PER_UNIT * torch.cuda.get_device_properties(device).multi_processor_count


def _key(noise: Noise, device: torch.device) -> Tensor:
    """The generator's key and where its counters start."""
    words = np.array([noise.seed, noise.sample, noise.time], np.uint64).view(np.int64)
    return torch.from_numpy(words).to(device)


def _real_launch(
    a: Tensor, b: Tensor, c: Tensor, start: Tensor, noise: Noise | None, clip: float | None
) -> _Launch:
    """Full precision: the table in float32."""
    parts = [part for z in (a, b, c) for part in (z.real, z.imag)]
    deviation = 0.0 if noise is None else noise.state
    table = torch.stack([*parts, torch.full_like(a.real, deviation / GAUSSIAN_ONE)])
    key = None if noise is None or deviation == 0 else _key(noise, a.device)
    return _Launch(start, table, table, None, None, None, key, None, clip)


def _integer_launch(operands: Operands, start: Tensor, noise: Noise | None) -> _Launch:
    """The integer update; `start` is centred on the state's zero point."""
    plan, device = operands.plan, start.device
    word = np.int32 if plan.word == 32 else np.int64

    def tensor(planes: list[Array], dtype: Any) -> Tensor:
        return torch.from_numpy(np.stack(planes).astype(dtype)).to(device)

    key, m_z = None, np.zeros_like(plan.m_a)
    if noise is not None and plan.m_z is not None:
        key, m_z = _key(noise, device), plan.m_z
    coefficients = [k[..., part] for k in (operands.a, operands.b, operands.c) for part in (0, 1)]
    table = [*coefficients, m_z, plan.shift, plan.shift_b, plan.low, plan.high]
    real = [k[..., part] for k in operands.real for part in (0, 1)]
    outputs, unit, y = None, plan.sum_scale, plan.formats.y
    if y is not None and plan.m_y is not None and plan.shift_y is not None:
        low, high = (np.broadcast_to(v - y.zero_point, plan.heads) for v in (y.low, y.high))
        outputs = tensor([plan.m_y, plan.shift_y, low, high], np.int64)
        unit = np.broadcast_to(y.scale, plan.heads)
    return _Launch(
        start,
        tensor(table, word),
        tensor(real, np.float32),
        tensor(list(operands.input()), np.float32),
        outputs,
        tensor([unit], np.float64),
        key,
        plan.formats,
    )


@dataclass(frozen=True, eq=False)
class _Scan:
    """A launch, for `fused`."""

    launch: _Launch
    operands: Operands | None
    """None: full precision."""

    def forward(self, u: Tensor, trained: bool) -> tuple[Tensor, Tensor, None]:
        y, last = self.launch.forward(u)
        if self.operands is None:
            return y, torch.view_as_complex(last), None
        return y, last + torch.from_numpy(self.operands.plan.zero("x"))[..., None].to(u.device), None

    def backward(self, u: Tensor, grad: Tensor, kept: None, clamp: float | None) -> tuple[Tensor | None, ...]:
        grad_u, sums = self.launch.backward(u, grad, clamp)
        if self.operands is None:
            return grad_u, *torch.view_as_complex(sums.float())
        e_x, e_u, g_x = sums.cpu().numpy()
        found = self.operands.gradients((e_x, e_u, g_x))
        return grad_u, *(None if g is None else g.to(u.device) for g in found)


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
    """Full precision in float32; gradients with respect to u, a, b, c (the state returned has none).

    Raises `ImcSsmError` where the backend cannot run.
    """
    _check(u.device, u.shape, noise)
    shape = (u.shape[0], *a.shape, 2)
    start = u.new_zeros(shape) if x0 is None else torch.view_as_real(x0.detach().resolve_conj()).contiguous()
    launch = _real_launch(a.detach(), b.detach(), c.detach(), start, noise, clip)
    return fused.run(_Scan(launch, None), u, a, b, c, clamp)


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
    """The integer update; x0 and the last state are codes (batch, head, state, 2), returned as int64.

    Raises `ImcSsmError` where the backend cannot run, `FormatError` where the formats do not fit.
    """
    _check(u.device, u.shape, noise)
    heads, states = a.shape
    plan = plan_scan(formats, heads, states, noise.state if noise else 0.0)
    operands = Operands.of_values(plan, a, b, c)
    if x0 is None:
        start = torch.zeros((u.shape[0], *a.shape, 2), dtype=torch.int32, device=u.device)
    else:
        zero_x = torch.from_numpy(plan.zero("x"))[..., None].to(u.device)
        start = (x0.to(u.device) - zero_x).to(torch.int32).contiguous()
    return fused.run(_Scan(_integer_launch(operands, start, noise), operands), u, a, b, c, clamp)


def scan_codes_triton(
    plan: ScanPlan,
    u: Array,
    a: Array,
    b: Array | None = None,
    c: Array | None = None,
    x0: Array | None = None,
    noise: Noise | None = None,
) -> tuple[Array, Array]:
    """The fused GPU kernel on codes: same arguments and same codes as `fixedpoint.scan_codes`, no counters.

    Raises `ImcSsmError` where the backend cannot run, `FormatError` for a wrong shape.
    """
    if u.ndim != 3 or u.shape[1] != plan.heads:
        raise FormatError(f"u has shape {u.shape}; needed is (any, {plan.heads}, any)")
    device = torch.device("cpu" if interpreting() else "cuda")
    _check(device, u.shape, noise)
    zero_x, zero_u, zero_y = plan.zero("x")[..., None], plan.zero("u")[:, None], plan.zero("y")[:, None]
    shape = (u.shape[0], plan.heads, plan.states, 2)
    x = np.zeros(shape, np.int32) if x0 is None else (x0 - zero_x).astype(np.int32)
    launch = _integer_launch(Operands.of_codes(plan, a, b, c), torch.from_numpy(x).to(device), noise)
    # Steps of 1 at both ends: centred codes in, and centred codes (or bare sums) out, exact in float64.
    assert launch.inputs is not None
    assert launch.unit is not None
    steps = torch.ones_like(launch.inputs[:1])
    launch = replace(launch, inputs=torch.cat([steps, launch.inputs[1:]]), unit=torch.ones_like(launch.unit))
    y, last = launch.forward(torch.from_numpy((u - zero_u).astype(np.float32)).to(device), torch.float64)
    return y.cpu().numpy().astype(np.int64) + zero_y, last.cpu().numpy().astype(np.int64) + zero_x
