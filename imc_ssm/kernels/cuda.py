"""The fused GPU implementation with gradients: full precision and integer (Triton).

On a machine without a GPU the same kernels run through Triton's interpreter, for tests: set TRITON_INTERPRET=1
before Python starts.
"""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import torch
from torch import Tensor

from imc_ssm.errors import ImcSsmError
from imc_ssm.fixedpoint import Noise, RoundingPlacement, ScanPlan
from imc_ssm.fixedpoint.formats import NEAREST
from imc_ssm.fixedpoint.normal import gaussian_table
from imc_ssm.kernels.codes import FEEDBACK, HOW, NONE, SEPARATE, Ints, states_of, through

__all__ = ["check_available", "interpreting", "scan", "scan_backward", "scan_codes_triton", "unavailable"]

_NAMES = {number: name for name, number in HOW.items() if name not in get_args(RoundingPlacement)}

TILE = 64
"""Complex states of a program on a GPU: two for each thread of a warp."""
INTERPRETED_TILE = 2**15
"""Through the interpreter a step takes milliseconds whatever the tile: as many states as memory allows."""
SPAN = 8
"""Steps whose states the backward pass holds in registers at once."""
PROGRAMS_PER_UNIT = 16
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
    """(batch, head, row, 2), int32 or float32"""
    states: int
    table: Tensor
    real: Tensor
    inputs: Tensor | None
    outputs: Tensor | None
    unit: Tensor | None
    rates: Tensor | None
    """None: every head in every step."""
    key: Tensor | None
    how: tuple[int, str, int, int] | None
    """Rounding placement, rounding, steps done before, bits of residuals; None: full precision."""
    clip: float | None = None

    def _arguments(self, time: int) -> tuple[dict[str, Any], dict[str, Any], int]:
        """Arguments and constants that both kernels share, and the number of tiles."""
        (batch, heads, stored, _), states = self.start.shape, self.states
        rows, wide, device = batch * heads, _power_of_two(states), self.start.device
        most = INTERPRETED_TILE if interpreting() else TILE
        tall = max(1, min(_power_of_two(rows), most // wide))
        placement, rounding, first, bits = self.how or (None, "", 0, 0)
        arguments = {
            "x0": self.start,
            "table": self.table,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "rates": self.rates,
            "first": first,
            "key": self.key,
            "gauss": None if self.key is None else _gauss(device),
            "clip": 0.0 if self.clip is None else self.clip,
            "rows": rows,
            "heads": heads,
            "states": states,
            "stored": stored,
            "time": time,
        }
        constants = {
            "ROWS": tall,
            "STATES": wide,
            "INTEGER": self.how is not None,
            "NOISE": self.key is not None,
            "SEPARATE": placement == SEPARATE,
            "QUANTIZED": self.outputs is not None,
            "ROUNDING": rounding,
            "NEAREST": rounding if rounding in NEAREST else "half_even",
            "RESIDUAL": bits if rounding == "feedback" else 0,
            "PERIODS": self.rates is not None,
            "CLIP": self.clip is not None,
            "SPAN": SPAN,
            "num_warps": max(1, min(8, tall * wide // TILE)),
        }
        return arguments, constants, -(-rows // tall)

    def forward(self, u: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """y (batch, head, time) and what `start` is for the steps after these."""
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

        (batch, heads, _, _), states = self.start.shape, self.states
        grad_u = torch.empty_like(u)
        sums = torch.empty((batch * heads, 6, states), dtype=torch.float32, device=u.device)
        arguments, constants, tiles = self._arguments(u.shape[-1])
        if tiles:
            with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]
                programs = min(tiles, self._programs(u.device))
                planes = 4 if constants["ROUNDING"] == _NAMES[FEEDBACK] else 2
                span = planes * constants["ROWS"] * constants["STATES"] + constants["PERIODS"] * constants["ROWS"]
                shape = programs, -(-u.shape[-1] // SPAN), span
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


def _launch(
    start: Tensor,
    k: Tensor,
    g: Tensor,
    inp: Tensor,
    out: Tensor,
    how: list[int],
    draws: list[int],
    clip: float,
) -> _Launch:
    """From the numbers of an update (`codes.Tables`): integers again, or single precision."""
    states = states_of(start.shape[2], how)
    k, key = k[:, :states], None
    if draws:
        key = torch.tensor(draws, dtype=torch.int64, device=start.device)
    if how[1] == NONE:
        table = _planes([k[..., :5], -k[..., 5:6], k[..., 8:9]], torch.float32)
        bound = clip if math.isfinite(clip) else None
        return _Launch(start, states, table, table, None, None, None, None, key, None, bound)
    unit, unit_b = k[..., 9:10], k[..., 10:11]
    coefficients = [k[..., :2] * unit, k[..., 2:4] * unit_b, k[..., 4:5], -k[..., 5:6], k[..., 8:9] * unit]
    shifts = [_exponent(unit), _exponent(unit_b)]
    table = _planes([*coefficients, *shifts, k[..., 6:8]], torch.int32 if how[2] == 32 else torch.int64)
    outputs = None
    if how[3]:
        unit_y = out[:, 4:5]
        parts = torch.cat([out[:, :1] * unit_y, _exponent(unit_y), out[:, 1:3]], dim=1)
        outputs = parts.T.to(torch.int64).contiguous()
    real, inputs, scale = _planes([g[:, :states, :6]], torch.float32), inp.T.contiguous(), out[:, 3].contiguous()
    rates = _exponent(inp[:, 3]).to(torch.int32) if how[6] else None
    numbers = how[0], _NAMES[how[1]], how[4], how[5]
    return _Launch(start, states, table, real, inputs, outputs, scale, rates, key, numbers)


def _exponent(power: Tensor) -> Tensor:
    """e of 2^e, exactly."""
    return (torch.frexp(power).exponent - 1).to(power.dtype)


def _planes(columns: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Columns (head, state, ...) as planes (column, head, state)."""
    return torch.cat(columns, dim=-1).permute(2, 0, 1).to(dtype).contiguous()


def scan(
    u: Tensor,
    start: Tensor,
    k: Tensor,
    g: Tensor,
    inp: Tensor,
    out: Tensor,
    how: list[int],
    draws: list[int],
    trained: bool,
    clip: float,
) -> tuple[Tensor, Tensor, Tensor]:
    check_available()
    launch = _launch(start, k, g, inp, out, how, draws, clip)
    y, last = launch.forward(u.float(), u.dtype)
    return y, last, u.new_empty((0, 0, 0), dtype=torch.uint8)


def scan_backward(
    u: Tensor,
    start: Tensor,
    grad: Tensor,
    free: Tensor,
    k: Tensor,
    g: Tensor,
    inp: Tensor,
    out: Tensor,
    how: list[int],
    draws: list[int],
    bound: float,
    clip: float,
) -> tuple[Tensor, Tensor]:
    launch = _launch(start, k, g, inp, out, how, draws, clip)
    return launch.backward(u, grad, bound if math.isfinite(bound) else None)


def scan_codes_triton(
    plan: ScanPlan,
    u: Ints,
    a: Ints,
    b: Ints | None = None,
    c: Ints | None = None,
    x0: Ints | None = None,
    noise: Noise | None = None,
) -> tuple[Ints, Ints]:
    """The fused GPU kernel on codes: `fixedpoint.scan_codes` without counters.

    Raises `ImcSsmError` where the backend cannot run, `FormatError` for a wrong shape.
    """
    check_available()
    return through(scan, plan, u, a, b, c, x0, noise, "cpu" if interpreting() else "cuda")
