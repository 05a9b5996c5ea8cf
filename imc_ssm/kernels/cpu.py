"""The recurrences on the CPU: what the operators hand over, as the fused kernels take it."""

from __future__ import annotations

import math
import threading
from functools import cache, partial
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from imc_ssm.fixedpoint.normal import gaussian_table
from imc_ssm.kernels import reverse, update
from imc_ssm.kernels.codes import DITHERED, SEPARATE, STOCHASTIC, states_of, through
from imc_ssm.kernels.grid import Array
from imc_ssm.kernels.pointwise import mask
from imc_ssm.kernels.vector import LANES

__all__ = ["rules_of", "scan", "scan_backward", "scan_codes_cpu", "scratch"]

CHUNKS = 8
"""The batch is split into at most this many chunks whose coefficient gradients are summed in order."""


SMALL = 1 << 16
"""Numbers of a room that is kept for the next call: what streaming needs, whose steps are short."""


class _Rooms(threading.local):
    """What a thread of the caller keeps; kernels that run at the same time have rooms of their own."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, int, type], Array] = {}


_ROOMS = _Rooms()


def scratch(numbers: int, dtype: type) -> Array:
    """Room for every thread, each row starting on a cache line; what it holds is left over from before."""
    threads = numba.get_num_threads()
    key = threads, numbers, dtype
    if (found := _ROOMS.kept.get(key)) is not None:
        return found
    line = 64 // np.dtype(dtype).itemsize
    pitch = math.ceil(numbers / line) * line
    flat = np.empty(threads * pitch + line, dtype)
    first = -(flat.ctypes.data // flat.itemsize) % line
    room = flat[first : first + threads * pitch].reshape(threads, pitch)
    if flat.size <= SMALL:
        if len(_ROOMS.kept) >= 8:
            _ROOMS.kept.clear()
        _ROOMS.kept[key] = room
    return room


@cache
def _gauss(noisy: bool) -> Array:
    """The table of the Gaussian numbers; an empty one: no noise."""
    return gaussian_table().copy() if noisy else np.zeros(0, np.int32)


def _noise(draws: list[int]) -> tuple[Any, ...]:
    """Noise as the kernels take it: table, seed, first sample, first step."""
    seed, sample, time = draws or (0, 0, 0)
    return _gauss(bool(draws)), np.uint64(seed & (2**64 - 1)), sample, time


def rules_of(how: list[int], start: Tensor) -> tuple[int, int, float, int, int, bool]:
    """Placement, rounding, 2^m of the residuals, steps done before, number of states, whether heads are slow."""
    return how[0], how[1], float(1 << how[5]), how[4], states_of(start.shape[2], how), bool(how[6])


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
    x, y = start.clone(), torch.empty(u.shape, dtype=u.dtype)
    free = mask(trained and bool(how[3]), u.shape)
    doubles, singles = update.forward_sizes(k.shape[1], bool(draws))
    room = scratch(doubles, np.float64), scratch(singles, np.float32)
    arrays = u.numpy(), k.numpy(), inp.numpy(), out.numpy()
    update.forward_codes(*arrays, rules_of(how, start), _noise(draws), x.numpy(), y.numpy(), free.numpy(), room)
    return y, x, free


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
    batch, heads, time = u.shape
    chunks = min(CHUNKS, math.ceil(batch / LANES))
    rules = rules_of(how, start)
    parts = tuple(np.zeros((heads, chunks, rules[4], 2), np.float32) for _ in range(3))
    truncated = how[1] in (DITHERED, STOCHASTIC)
    sizes = reverse.backward_sizes(k.shape[1], time, bool(draws), how[0] == SEPARATE, truncated)
    room = tuple(scratch(n, kind) for n, kind in zip(sizes, (np.float32, np.uint16, np.float64), strict=True))
    grad_u = torch.empty(u.shape, dtype=torch.float32)
    reverse.backward_codes(
        u.numpy(),
        k.numpy(),
        g.numpy(),
        inp.numpy(),
        rules,
        _noise(draws),
        start.numpy(),
        grad.numpy(),
        free.numpy(),
        np.float32(bound),
        grad_u.numpy(),
        parts,
        room,
    )
    return grad_u, torch.from_numpy(np.stack([part.sum(1) for part in parts]))


scan_codes_cpu = partial(through, scan)
"""The fused CPU kernel on codes: `fixedpoint.scan_codes` without counters."""
