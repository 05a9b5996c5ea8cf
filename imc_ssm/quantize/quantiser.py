"""One activation's quantiser: observe, calibrate, then round; straight-through backwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from imc_ssm.errors import ImcSsmError
from imc_ssm.fixedpoint import Format
from imc_ssm.quantize import pointwise

__all__ = ["Quantiser", "fake_quantise", "parameter_format"]


class _FakeQuantise(torch.autograd.Function):
    """scale * clamp(round_half_even(x / scale), low - zero, high - zero); gradient 1 inside, 0 where saturated."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        rounded = (x / scale).round_()
        if not ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            return rounded.clamp_(low, high).mul_(scale)
        codes = rounded.clamp(low, high)
        ctx.save_for_backward(rounded == codes)
        return codes.mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None, None


def fake_quantise(x: Tensor, fmt: Format, axis: int) -> Tensor:
    """The values of x on the format's grid, with straight-through gradient. `axis` counts heads.

    One fused pass on the CPU; elsewhere PyTorch's operations, to the same values.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32:
        return pointwise.quantise(x, fmt, axis)

    def spread(v: np.ndarray[Any, Any]) -> Tensor:
        t = torch.as_tensor(np.asarray(v, np.float32), device=x.device)
        if t.ndim == 0:
            return t
        shape = [1] * x.ndim
        shape[axis] = -1
        return t.reshape(shape)

    low, high = fmt.low - fmt.zero_point, fmt.high - fmt.zero_point
    out: Tensor = _FakeQuantise.apply(x, spread(fmt.scale), spread(low), spread(high))  # type: ignore[no-untyped-call]
    return out


def parameter_format(value: Tensor, bits: int, *, per_head: bool, symmetric: bool) -> Format:
    """The format over the range of a parameter's current values; heads (rows) on axis 0, complex as pairs."""
    flat = value.detach().reshape(value.shape[0], -1) if per_head else value.detach().reshape(1, -1)
    low, high = flat.amin(1).numpy(), flat.amax(1).numpy()
    if not per_head:
        low, high = low[0], high[0]
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        raise ImcSsmError("a parameter is not finite; try a smaller learning rate")
    return Format.from_range(low, high, bits, symmetric=symmetric)


class Quantiser(nn.Module):
    """A static activation quantiser of `bits` (None: passes everything through).

    Buffers `scale` float32 and `zero_point` int64, () or (channels,). Between `observe()` and `calibrate()`
    it collects what passes; `calibrate(percentile)` then fixes the range so that `percentile` % of the values
    lie inside, tails split evenly. `axis` is the channel axis of the activation.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        bits: int | None,
        channels: int | None,
        *,
        axis: int = -1,
        symmetric: bool = False,
        clip: float | None = None,
    ) -> None:
        super().__init__()
        self.bits, self.axis, self.symmetric, self.clip = bits, axis, symmetric, clip
        shape = () if channels is None else (channels,)
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int64))
        self._seen: list[Tensor] | None = None
        self._format: Format | None = None

    @property
    def observing(self) -> bool:
        """True between `observe()` and `calibrate()`."""
        return self._seen is not None

    def observe(self) -> None:
        """Start collecting."""
        self._seen = []

    def collect(self, x: Tensor) -> None:
        """Remember values (channels to the front, the rest flat)."""
        if self._seen is not None and self.bits is not None:
            self._seen.append(x.detach().movedim(self.axis, 0).reshape(x.shape[self.axis], -1))

    def calibrate(self, percentile: float) -> None:
        """Fix scale and zero point from what was collected; `ImcSsmError` if nothing was."""
        seen, self._seen, self._format = self._seen, None, None
        if self.bits is None:
            return
        if not seen:
            raise ImcSsmError("a quantiser saw no data; calibrate with at least one sequence")
        values = torch.cat(seen, dim=1).numpy()
        if self.scale.ndim == 0:
            values = values.reshape(1, -1)
        low, high = _range(values, percentile)
        if self.scale.ndim == 0:
            low, high = low[0], high[0]
        fmt = Format.from_range(low, high, self.bits, symmetric=self.symmetric)
        self.scale.copy_(torch.from_numpy(np.asarray(fmt.scale)))
        self.zero_point.copy_(torch.from_numpy(np.asarray(fmt.zero_point)))

    def format(self) -> Format:
        """The fixed-point format in force (cached; refreshed when a state is loaded)."""
        if self.bits is None:
            raise ImcSsmError("this site is in full precision and has no format")
        if self._format is None:
            self._format = Format(
                self.bits,
                self.scale.numpy().copy(),
                self.zero_point.numpy().copy(),
                self.symmetric,
                self.clip,
            )
        return self._format

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._format = None
        super()._load_from_state_dict(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        if self._seen is not None:
            self.collect(x)
            return x
        return x if self.bits is None else fake_quantise(x, self.format(), self.axis)


def _range(values: np.ndarray[Any, Any], percentile: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Lower and upper bound per row so that `percentile` % of the values lie between them."""
    tail = (100.0 - percentile) / 2
    low, high = np.percentile(values, [tail, 100.0 - tail], axis=1)
    return low, high
