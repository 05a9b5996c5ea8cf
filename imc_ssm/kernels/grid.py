"""What operators read besides activations: grids and tables, with a copy on every device that asked."""

from __future__ import annotations

from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imc_ssm.fixedpoint import Format, broadcast_heads

__all__ = ["Array", "DeviceArray", "Grid", "from_rows", "rows_of"]

Array = NDArray[Any]


class DeviceArray:
    """Numbers that never change, as a tensor on any device."""

    @torch.inference_mode(False)  # it is read in training, too, wherever it was made
    def __init__(self, numbers: Array) -> None:
        self.numbers = np.ascontiguousarray(numbers)
        self._copies = {torch.device("cpu"): torch.from_numpy(self.numbers)}

    def on(self, device: torch.device) -> Tensor:
        """The numbers there; the first call copies."""
        found = self._copies.get(device)
        return self._copied(device) if found is None else found

    @torch.inference_mode(False)
    def _copied(self, device: torch.device) -> Tensor:
        found = self._copies[device] = torch.from_numpy(self.numbers).to(device)
        return found


class Grid(DeviceArray):
    """A format's step and lowest and highest centred code per channel, (3, channels) float32."""

    _known: ClassVar[WeakKeyDictionary[Format, dict[int, Grid]]] = WeakKeyDictionary()

    def __init__(self, fmt: Format, channels: int) -> None:
        parts = fmt.scale, fmt.low - fmt.zero_point, fmt.high - fmt.zero_point
        super().__init__(np.stack([np.broadcast_to(v.ravel(), channels).astype(np.float32) for v in parts]))
        self.scale, self.low, self.high = self.numbers

    @classmethod
    def of(cls, fmt: Format, channels: int) -> Grid:
        """The format's grid of so many channels, made once."""
        grids = cls._known.get(fmt)
        if grids is None:
            grids = cls._known[fmt] = {}
        if channels not in grids:
            grids[channels] = cls(fmt, channels)
        return grids[channels]

    def round(self, x: Array) -> tuple[Array, Array]:
        """The nearest values of x (channels, ...) on the grid, float32, and where x lies inside it."""
        scale, low, high = (broadcast_heads(v, x.ndim, 0) for v in (self.scale, self.low, self.high))
        nearest = np.rint(x.astype(np.float32) / scale)
        kept = np.clip(nearest, low, high)
        return kept * scale, nearest == kept


def rows_of(x: Tensor) -> Tensor:
    """x (batch, time, channel) as contiguous rows (batch, channel, time): no copy where it lies so in memory.

    Any other number of axes before the channels counts as time of one sequence.
    """
    channels = x.shape[-1]
    if x.numel() == channels:  # one vector, as in streaming
        return x.reshape(1, channels, 1)
    whole = x if x.ndim == 3 else x.reshape(1, -1, channels)
    return whole.transpose(1, 2).contiguous()


def from_rows(rows: Tensor, shape: torch.Size) -> Tensor:
    """Rows (batch, channel, time) as the activation they are, all axes but the channels from `shape`."""
    if len(shape) == 3:
        return rows.transpose(1, 2)
    flat = rows if rows.shape[2] == 1 else rows.transpose(1, 2)
    return flat.reshape(*shape[:-1], rows.shape[1])
