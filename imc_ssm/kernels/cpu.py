"""The fused CPU implementation with gradients: full precision and integer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Noise, ScanFormats, ScanPlan, plan_scan
from imc_ssm.fixedpoint.gaussian import GAUSSIAN_ONE, gaussian_table
from imc_ssm.kernels import fused, reverse, update
from imc_ssm.kernels.codes import Array, Ints, Operands, complex_of, pair
from imc_ssm.kernels.vector import LANES

__all__ = ["scan_codes_cpu", "scan_integer", "scan_real"]

CHUNKS = 8
"""The batch is split into at most this many chunks whose coefficient gradients are summed in order."""


def _scratch(numbers: int, dtype: type) -> Array:
    """Room for every thread, each row starting on a cache line."""
    line = 64 // np.dtype(dtype).itemsize
    pitch = math.ceil(numbers / line) * line
    threads = numba.get_num_threads()
    flat = np.empty(threads * pitch + line, dtype)
    first = -(flat.ctypes.data // flat.itemsize) % line
    return flat[first : first + threads * pitch].reshape(threads, pitch)


def _even(x: Array) -> Array:
    """x (head, state, ...) with a state of zeros where their number is odd: the kernels take two at a time."""
    return np.pad(x, ((0, 0), (0, x.shape[1] % 2)) + ((0, 0),) * (x.ndim - 2))


class _Update:
    """One update as the kernels take it: k, g, inp, out, how, noise of `update` and `reverse`."""

    def __init__(
        self, k: Array, g: Array, inp: Array, out: Array, how: tuple[int, int], noise: Noise | None
    ) -> None:
        self.k, self.g, self.inp, self.out, self.how = _even(k), _even(g), inp, out, how
        table = np.zeros(0, np.int32) if noise is None else gaussian_table().copy()
        self.noise = (table, np.uint64(noise.seed if noise else 0)) + (
            (noise.sample, noise.time) if noise else (0, 0)
        )

    @classmethod
    def integer(cls, operands: Operands, noise: Noise | None) -> _Update:
        plan = operands.plan
        k = np.zeros((plan.heads, plan.states, update.COLUMNS))
        shift, shift_b = np.exp2(plan.shift)[..., None], np.exp2(plan.shift_b)[..., None]
        k[..., 0:2] = operands.a / shift
        k[..., 2:4] = operands.b / shift_b
        k[..., 4:6] = operands.c * (1, -1)
        k[..., 6], k[..., 7] = plan.low, plan.high
        if plan.m_z is not None:
            k[..., 8] = plan.m_z / shift[..., 0]
        g = np.concatenate([*operands.real, k[..., 6:8]], axis=-1).astype(np.float32)
        # Without a format the output is the bare sum times its unit.
        output = operands.output() or (*np.zeros((3, plan.heads)), plan.sum_scale)
        how = (
            update.ROUNDING_PLACEMENTS[plan.formats.rounding_placement],
            update.ROUNDINGS[plan.formats.rounding],
        )
        draws = noise if plan.m_z is not None else None
        return cls(k, g, np.stack(operands.input(), axis=1), np.stack(output, axis=1), how, draws)

    @classmethod
    def real(cls, a: Tensor, b: Tensor, c: Tensor, noise: Noise | None, clip: float | None) -> _Update:
        heads, states = a.shape
        coefficients = [pair(z) for z in (a, b, c)]
        k = np.zeros((heads, states, update.COLUMNS))
        k[..., :6] = np.concatenate(coefficients, axis=-1)
        k[..., 5] *= -1
        bound = math.inf if clip is None else clip
        k[..., 6], k[..., 7] = -bound, bound
        noisy = noise is not None and noise.state > 0
        if noise is not None and noisy:
            k[..., 8] = noise.state / GAUSSIAN_ONE
        g = np.concatenate([*coefficients, k[..., 6:8]], axis=-1).astype(np.float32)
        inp = np.tile(np.array([1.0, -np.inf, np.inf], np.float32), (heads, 1))
        out = np.tile([0.0, 0.0, 0.0, 2.0], (heads, 1))
        return cls(k, g, inp, out, (update.JOINT, update.ROUNDINGS["none"]), noise if noisy else None)

    def forward(self, u: Array, x: Array, y: Array, free: Array | None = None) -> None:
        """y from u; x holds the initial state and receives the last one."""
        doubles, singles = update.forward_sizes(self.k.shape[1], self.noise[0].size > 0)
        scratch = _scratch(doubles, np.float64), _scratch(singles, np.float32)
        free = np.zeros((0, 0, 0), np.uint8) if free is None else free
        update.forward_codes(u, self.k, self.inp, self.out, self.how, self.noise, x, y, free, scratch)

    def backward(
        self, u: Array, x0: Array, grad: Array, free: Array | None, clamp: float | None
    ) -> tuple[Tensor, tuple[Array, Array, Array]]:
        """The gradient of u, and the sums of `reverse.backward_codes`, (head, state, 2)."""
        batch, heads, time = u.shape
        chunks = min(CHUNKS, math.ceil(batch / LANES))
        parts = tuple(np.zeros((heads, chunks, x0.shape[2], 2), np.float32) for _ in range(3))
        singles, masks = reverse.backward_sizes(
            self.k.shape[1], time, self.noise[0].size > 0, self.how[0] == update.SEPARATE
        )
        scratch = _scratch(singles, np.float32), _scratch(masks, np.uint16)
        free = np.zeros((0, 0, 0), np.uint8) if free is None else free
        limit = np.float32(math.inf if clamp is None else clamp)
        grad_u = torch.empty(u.shape)
        reverse.backward_codes(
            u,
            self.k,
            self.g,
            self.inp,
            self.how,
            self.noise,
            x0,
            grad,
            free,
            limit,
            grad_u.numpy(),
            parts,
            scratch,
        )
        a, b, c = (part.sum(1) for part in parts)
        return grad_u, (a, b, c)


@dataclass(frozen=True, eq=False)
class _Scan:
    """An update and the state (batch, head, state, 2) that it starts from, for `fused`."""

    update: _Update
    start: Array
    operands: Operands | None
    """None: full precision."""

    def forward(self, u: Tensor, trained: bool) -> tuple[Tensor, Tensor, Array | None]:
        x, y = self.start.copy(), torch.empty(u.shape)
        rounded = self.operands is not None and self.operands.plan.formats.y is not None
        free = np.empty(u.shape, np.uint8) if trained and rounded else None
        self.update.forward(u.numpy(), x, y.numpy(), free)
        if self.operands is None:
            return y, complex_of(x), free
        return y, torch.from_numpy(x + self.operands.plan.zero("x")[..., None]), free

    def backward(
        self, u: Tensor, grad: Tensor, kept: Array | None, clamp: float | None
    ) -> tuple[Tensor | None, ...]:
        grad_u, sums = self.update.backward(u.numpy(), self.start, grad.numpy(), kept, clamp)
        return grad_u, *(map(complex_of, sums) if self.operands is None else self.operands.gradients(sums))


def scan_real(
    u: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    x0: Tensor,
    clamp: float | None,
    noise: Noise | None = None,
    clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Full precision: float32 in and out; gradients of u, a, b, c (the state returned has none)."""
    return fused.run(_Scan(_Update.real(a, b, c, noise, clip), pair(x0), None), u, a, b, c, clamp)


def _centred(plan: ScanPlan, batch: int, x0: Array | None) -> Array:
    """The initial state in codes centred on the zero point, int32."""
    shape = (batch, plan.heads, plan.states, 2)
    return (
        np.zeros(shape, np.int32) if x0 is None else np.ascontiguousarray(x0 - plan.zero("x")[..., None], np.int32)
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
    """The integer update; the last state is returned as codes (batch, head, state, 2) int64."""
    plan = plan_scan(formats, a.shape[0], a.shape[1], noise.state if noise else 0.0)
    operands = Operands.of_values(plan, a, b, c)
    start = _centred(plan, u.shape[0], None if x0 is None else x0.numpy())
    return fused.run(_Scan(_Update.integer(operands, noise), start, operands), u, a, b, c, clamp)


def scan_codes_cpu(
    plan: ScanPlan,
    u: Ints,
    a: Ints,
    b: Ints | None = None,
    c: Ints | None = None,
    x0: Ints | None = None,
    noise: Noise | None = None,
) -> tuple[Ints, Ints]:
    """The fused CPU kernel on codes: same arguments and same codes as `fixedpoint.scan_codes`, no counters.

    Raises `FormatError` if u is not (any, head, any).
    """
    if u.ndim != 3 or u.shape[1] != plan.heads:
        raise FormatError(f"u has shape {u.shape}; needed is (any, {plan.heads}, any)")
    if noise is not None:
        noise.check(u.shape[0], u.shape[2])
    update = _Update.integer(Operands.of_codes(plan, a, b, c), noise)
    update.inp[:, 0] = 1.0  # codes come in: a scale of 1
    update.out[:, 3] = 1.0  # and go out
    x = _centred(plan, u.shape[0], x0)
    signal = (u - plan.zero("u")[:, None]).astype(np.float64)
    y = np.empty(u.shape)
    update.forward(signal, x, y)
    zero_y = plan.zero("y")[:, None] if plan.formats.y is not None else 0
    return y.astype(np.int64) + zero_y, x + plan.zero("x")[..., None]
