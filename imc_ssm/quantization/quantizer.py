"""One activation's quantizer: observe, calibrate, then round; straight-through backwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imc_ssm.errors import ConfigError, ImcSsmError
from imc_ssm.fixedpoint import Format, broadcast_heads
from imc_ssm.kernels import quantize as fake_quantize
from imc_ssm.kernels.learned import moved, ranged
from imc_ssm.kernels.ranges import Range
from imc_ssm.quantization.kept import PerThread
from imc_ssm.quantization.observers import MinMax, Observer

__all__ = ["Quantizer", "fake_quantize", "learn_ranges", "parameter_format", "rounded_codes", "settle_ranges"]


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

    Between `learn()` and `settle()` the range is trained: its scale is that of the buffer times exp(`log_factor`),
    a parameter in the scale's shape that starts at 0; the zero point stays. Scales that are powers of two are
    multiplied by the nearest power of two, straight-through.
    """

    scale: Tensor
    zero_point: Tensor
    groups: ClassVar[dict[str, str]] = {"log_factor": "ranges"}

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
        self.log_factor: nn.Parameter | None = None
        self._fixed: tuple[int, tuple[Format, Format]] | None = None
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
        if self.dynamic and (found := self._moving.value) is not None:
            return found
        version = -1 if self.log_factor is None else self.log_factor._version
        fixed = self._fixed
        if fixed is None or fixed[0] != version:
            scale = self._scale().detach().cpu().numpy().copy()
            fixed = version, self._paired(scale, self.zero_point.cpu().numpy().copy())
            self._fixed = fixed
        return fixed[1]

    def _scale(self) -> Tensor:
        """The scale in force where the range is static."""
        if self.log_factor is None:
            return self.scale
        factor = self.log_factor.detach()
        if self.power_of_two:
            return torch.ldexp(self.scale, torch.round(factor / math.log(2)).int())
        return self.scale * torch.exp(factor)

    def learn(self) -> bool:
        """Make the range a parameter; whether it can be one: where it has bits, and does not follow the batch."""
        if self.bits is None or self.dynamic:
            return False
        if self.log_factor is None:
            self.log_factor = nn.Parameter(torch.zeros_like(self.scale))
            self._forget()
        return True

    def settle(self) -> None:
        """Keep the range as it was learned; it is no parameter any more."""
        if self.log_factor is not None:
            with torch.no_grad():
                self.scale.copy_(self._scale())
            self.log_factor = None
            self._forget()

    def learned(self, out: Tensor, before: Callable[[], Tensor], axis: int | None = None) -> Tensor:
        """`out`, which lies on this quantizer's grid, with the gradient of its range, if that is learned.

        `before()`: what it was rounded from, without gradient.
        """
        if self.log_factor is None or not torch.is_grad_enabled():
            return out
        return ranged(out, self.log_factor, self.channels(), self.axis if axis is None else axis, before)

    def part_of_range(self, x: Tensor, sign: float) -> Tensor:
        """x (batch, ..., channel), with the gradient sign <x, dL/dx> of the range, if that is learned.

        A state with one drive, x[t] = round(a x[t-1] + b v[t]), has the sum of dL/dx x, over what reads it, less
        that of dL/dv v: what goes from one step to the next cancels (`kernels.unit.Scales.ranges`).
        """
        if self.bits is None or self.log_factor is None or not torch.is_grad_enabled():
            return x
        return moved(x, self.log_factor, self.bits, -1, sign)

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
        if self.bits is None or self.dynamic or self._seen is not None:
            return None
        return self._formats()[1]

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
        out = fake_quantize(x, self.channels(), self.axis)
        seen = x.detach()
        return self.learned(out, lambda: seen)


def learn_ranges(model: nn.Module) -> None:
    """Make the static ranges of a quantized model parameters; `ConfigError` where there are none."""
    found = [module.learn() for module in model.modules() if isinstance(module, Quantizer)]
    if not any(found):
        why = "its ranges follow each batch" if found else "it is in full precision"
        raise ConfigError(f"the model has no static ranges to learn ({why}); quantize it with static calibration")


def settle_ranges(model: nn.Module) -> None:
    """Keep the ranges that were learned as buffers, as a calibrated model has them."""
    for module in model.modules():
        if isinstance(module, Quantizer):
            module.settle()
