"""One activation's quantizer: observe, calibrate, then round; straight-through backwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imc_ssm.errors import ImcSsmError
from imc_ssm.fixedpoint import Format, broadcast_heads
from imc_ssm.kernels import quantize as fake_quantize
from imc_ssm.kernels.ranges import Range
from imc_ssm.quantization.kept import PerThread
from imc_ssm.quantization.observers import MinMax, Observer

__all__ = ["Quantizer", "fake_quantize", "parameter_format", "rounded_codes"]


def parameter_format(
    value: NDArray[Any] | Tensor, bits: int, granularity: str, *, symmetric: bool, power_of_two: bool = False
) -> Format:
    """The format over the range of a parameter's current values; but for "tensor" one for each index of axis 0.

    Complex parameters come as pairs on the last axis. There is none for each state: the range of two values has
    one of them at its end, where every word length is exact. Raises `ImcSsmError` for a value that is not finite.
    """
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    flat = array.reshape(*array.shape[: int(granularity != "tensor")], -1)
    low, high = flat.min(-1), flat.max(-1)
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        raise ImcSsmError("a parameter is not finite; try a smaller learning rate")
    return Format.from_range(low, high, bits, symmetric=symmetric, power_of_two=power_of_two)


def rounded_codes(value: NDArray[Any], fmt: Format) -> NDArray[np.int64]:
    """Codes of a parameter as `fake_quantize` rounds it, formats on axis 0: the quotient in single precision."""
    scale, zero, low, high = (
        broadcast_heads(v, value.ndim, 0) for v in (fmt.scale, fmt.zero_point, fmt.low, fmt.high)
    )
    nearest = np.rint(value.astype(np.float32) / scale).astype(np.float64)
    return np.asarray(np.clip(nearest + zero, low, high), np.int64)


class Quantizer(nn.Module):
    """The quantizer of one signal: `bits` (None: passes everything through), ranges by an observer.

    Buffers `scale` float32 and `zero_point` int64 in `shape`: () or (channels,), or what a state needs. Between
    `observe()` and `calibrate()` it collects what passes; `calibrate()` then fixes the range. `axis` is the
    channel axis of the activation. With `parts` = 2 the channels are real parts and then imaginary parts, which
    share formats: `format()` has half as many as there are channels, `channels()` one for each.

    Where a padding mask (batch, time) comes with the values, what it leaves out is rounded, but makes no range. A
    `dynamic` one takes the range of every call's values instead, and rounds to that; its buffers keep the
    calibrated range.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        bits: int | None,
        shape: int | tuple[int, ...] | None,
        *,
        axis: int = -1,
        symmetric: bool = False,
        power_of_two: bool = False,
        clip: float | None = None,
        dynamic: bool = False,
        observer: Observer | None = None,
        parts: int = 1,
    ) -> None:
        super().__init__()
        self.power_of_two = power_of_two
        self.bits, self.axis, self.symmetric, self.clip, self.parts = bits, axis, symmetric, clip, parts
        self.dynamic, self.observer = dynamic and bits is not None, observer or MinMax()
        size = () if shape is None else (shape,) if isinstance(shape, int) else shape
        self.register_buffer("scale", torch.ones(size, dtype=torch.float32))
        self.register_buffer("zero_point", torch.zeros(size, dtype=torch.int64))
        self.clipped = False
        self._seen: list[Tensor] | None = None
        self._ranges: list[Range] = []
        self._fixed: tuple[Format, Format] | None = None
        self._moving: PerThread[tuple[Format, Format]] = PerThread()

    @property
    def observing(self) -> bool:
        """True between `observe()` and `calibrate()`."""
        return self._seen is not None

    def observe(self) -> None:
        """Start collecting."""
        self._seen, self._ranges = [], []

    def collect(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Remember values (channels to the front, the rest flat)."""
        if self._seen is not None and self.bits is not None:
            self._seen.append(self._samples(x.detach(), mask))

    def collect_range(self, low: np.ndarray[Any, Any], high: np.ndarray[Any, Any]) -> None:
        """Remember a range in the shape of `scale`, of values that are too many to keep; the widest counts."""
        self._ranges.append((low, high))

    def _samples(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Values of x (batch, ...) as (series, samples), without padding."""
        rows = x.movedim(self.axis, 0)
        flat = rows[:, mask] if mask is not None and rows.ndim > 2 else rows.reshape(len(rows), -1)
        return flat if self.parts == 1 else torch.cat(flat.chunk(self.parts), 1)

    def calibrate(self) -> None:
        """Fix scale and zero point from what was collected; `ImcSsmError` if nothing was.

        `clipped` then says whether the range ends at the clip.
        """
        seen, ranges, self._seen, self._ranges = self._seen, self._ranges, None, []
        self._forget()
        if self.bits is None:
            return
        if ranges:
            low, high = np.min([r[0] for r in ranges], axis=0), np.max([r[1] for r in ranges], axis=0)
        elif seen:
            low, high = self._range(torch.cat(seen, dim=1))
        else:
            raise ImcSsmError("a quantizer saw no data; calibrate with at least one sequence")
        # Single precision stands just inside the clip now and then.
        self.clipped = self.clip is not None and bool(np.maximum(-low, high).max() >= self.clip * (1 - 1e-6))
        fmt = self._over(low, high)
        self.scale.copy_(torch.from_numpy(np.asarray(fmt.scale)))
        self.zero_point.copy_(torch.from_numpy(np.asarray(fmt.zero_point)))

    def _over(self, low: NDArray[Any], high: NDArray[Any]) -> Format:
        """The format over a range."""
        assert self.bits is not None
        return Format.from_range(low, high, self.bits, symmetric=self.symmetric, power_of_two=self.power_of_two)

    def _range(self, values: Tensor) -> Range:
        """The range of values (series, samples) in the shape of `scale`."""
        assert self.bits is not None
        array = values.cpu().numpy()
        if self.scale.ndim:
            return self.observer.range(array, self.bits, self.symmetric)
        low, high = self.observer.range(array.reshape(1, -1), self.bits, self.symmetric)
        return low[0], high[0]

    def follow(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Take the range of these values (a dynamic quantizer)."""
        self.follow_range(*self._range(self._samples(x.detach().float(), mask)))

    def follow_range(self, low: np.ndarray[Any, Any], high: np.ndarray[Any, Any]) -> None:
        """Take a range, in the shape of `scale`; where it is empty (all zero), the calibrated one stays."""
        assert self.bits is not None
        fmt = self._over(low, high)
        empty = (np.asarray(low) >= 0) & (np.asarray(high) <= 0)
        scale = np.where(empty, self.scale.cpu().numpy(), fmt.scale)
        zero = np.where(empty, self.zero_point.cpu().numpy(), fmt.zero_point)
        self._moving.value = self._paired(scale, zero)

    def _paired(self, scale: NDArray[Any], zero: NDArray[Any]) -> tuple[Format, Format]:
        """The format, and the one with an entry for each channel where parts share theirs."""
        assert self.bits is not None
        fmt = Format(self.bits, scale, zero, self.symmetric, self.clip)
        if self.parts == 1 or not fmt.scale.ndim:
            return fmt, fmt
        return fmt, replace(fmt, scale=np.tile(scale, self.parts), zero_point=np.tile(zero, self.parts))

    def _formats(self) -> tuple[Format, Format]:
        """What is in force, both at once: threads may share a model."""
        found = self._moving.value if self.dynamic else None
        found = self._fixed if found is None else found
        if found is None:
            found = self._paired(self.scale.cpu().numpy().copy(), self.zero_point.cpu().numpy().copy())
            self._fixed = found
        return found

    def _forget(self) -> None:
        self._fixed, self._moving = None, PerThread()

    def format(self) -> Format:
        """The fixed-point format in force (cached; refreshed when a state is loaded).

        A dynamic one: that of the last values that this thread saw, else the calibrated one.
        """
        if self.bits is None:
            raise ImcSsmError("this site is in full precision and has no format")
        return self._formats()[0]

    def channels(self) -> Format:
        """The format in force with one entry for each channel, where parts share theirs."""
        if self.bits is None:
            raise ImcSsmError("this site is in full precision and has no format")
        return self._formats()[1]

    def fixed(self) -> Format | None:
        """`channels()`, where they are known before the values are: static and calibrated; else None."""
        return None if self.bits is None or self.dynamic or self.observing else self.channels()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self._seen is not None:
            self.collect(x, mask)
            return x
        if self.bits is None:
            return x
        if self.dynamic:
            self.follow(x, mask)
        return fake_quantize(x, self.channels(), self.axis)
