"""The wrapped recurrence: an SSM whose parts have word lengths, integer where the state has one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imc_ssm.fixedpoint import Format, ScanFormats
from imc_ssm.kernels import ScanUnit, diagonal_scan, scale_add, state_range
from imc_ssm.kernels.ranges import Range
from imc_ssm.operators import Operator
from imc_ssm.quantization.kept import Kept, parameters_of
from imc_ssm.quantization.quantizer import Quantizer, fake_quantize, parameter_format
from imc_ssm.quantization.scheme import Scheme
from imc_ssm.s4d import S4D

__all__ = ["QuantizedS4D"]

_FINEST = 2.0**-12
"""Smallest range of a state, of its head's widest."""


class QuantizedS4D(nn.Module):
    """The SSM in recurrent mode with quantized poles, B, C, D, state and outputs; u, y (batch, head, time).

    The parameters of `inner` stay the trained ones: a, b and c are made of them, then rounded to the range of
    their current values, in every call, so that training sees what is deployed. With bits for the state the
    recurrence is the integer one.

    Dynamic ranges are those of the call's batch: the state's of the full-precision states that it would have,
    the output's of the output before it is rounded. They need the whole sequence: such a layer cannot stream.
    """

    def __init__(self, inner: S4D, scheme: Scheme, source: Quantizer) -> None:
        super().__init__()
        self.inner, self.scheme = inner, scheme
        heads, states, _ = inner.B.shape
        bits = scheme.bits

        def quantizer(part: str, axis: int, shape: int | tuple[int, ...], **options: Any) -> Quantizer:
            return Quantizer(
                bits.word(part),
                None if scheme.granularity == "tensor" else shape,
                axis=axis,
                symmetric=scheme.symmetric,
                percentile=scheme.percentile,
                **options,
            )

        self._unit: Kept[ScanUnit] = Kept()
        self._direct: Kept[Tensor] = Kept()
        # The encoder's output is this recurrence's input: one quantizer, owned by the encoder.
        self._source = [source]
        per_state = (heads, states) if scheme.granularity == "state" else heads
        self.state = quantizer("state", 0, per_state, clip=scheme.state_clip, dynamic=scheme.dynamic_state)
        dynamic = scheme.calibration == "dynamic"
        self.recurrent = quantizer("recurrent", 1, heads, dynamic=dynamic)
        self.after_d = quantizer("after_d", 1, heads, dynamic=dynamic)

    def coefficients(self) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """(a, b, c) discretised, (head, state) complex, and the formats of those that have a word."""
        a, b, c = self.inner.discrete()
        return a, b, c, self._coefficient_formats(a, b, c)

    def _coefficient_formats(self, a: Tensor, b: Tensor, c: Tensor) -> dict[str, Format]:
        """Formats of a, b and c, where they have bits; of c with the registers' format in force."""
        scheme, formats = self.scheme, {}
        for part, name, value in (("a", "poles", a), ("b", "b", b), ("c", "c", c)):
            bits = scheme.bits.word(name)
            if bits is not None:
                pairs = torch.view_as_real(value.detach().resolve_conj()).cpu().numpy()
                apart = part == "c" and scheme.granularity == "state" and self.state.bits is not None
                formats[part] = (
                    _register_format(pairs, bits, self.state.format(), symmetric=scheme.symmetric)
                    if apart
                    else parameter_format(pairs, bits, scheme.granularity, symmetric=scheme.symmetric)
                )
        return formats

    def formats(self) -> ScanFormats:
        """All formats of the integer recurrence; dynamic ones are those of the last batch."""
        *_, coefficients = self.coefficients()
        return self._formats(coefficients)

    def _formats(self, coefficients: dict[str, Any]) -> ScanFormats:
        return ScanFormats(
            u=self._source[0].format(),
            x=self.state.format(),
            y=self.recurrent.format(),
            rounding_placement=self.scheme.rounding_placement,
            rounding=self.scheme.rounding,
            **coefficients,
        )

    def unit(self) -> ScanUnit:
        """The integer recurrence, ready to run; kept while parameters and (static) formats stay."""
        source, state, y = (q.format() for q in (self._source[0], self.state, self.recurrent))

        def make() -> ScanUnit:
            a, b, c, coefficients = self.coefficients()
            return ScanUnit(a, b, c, formats=self._formats(coefficients))

        return self._unit.get(parameters_of(self.inner), (source, state, y), make)

    def direct(self) -> Tensor:
        """D (head,) on its grid."""
        return self._direct.get([self.inner.D], (), self._rounded_direct)

    def _rounded_direct(self) -> Tensor:
        D, bits = self.inner.D, self.scheme.bits.d
        if bits is None:
            return D
        # One value per head: a format of its own per head would be exact and meaningless, so per tensor.
        return fake_quantize(D, parameter_format(D, bits, "tensor", symmetric=self.scheme.symmetric), 0)

    def forward(self, u: Tensor) -> Tensor:
        return self._run(u, None)[0]

    def _run(self, u: Tensor, x0: Tensor | None) -> tuple[Tensor, Tensor | None]:
        u = u.contiguous()
        y, last = self._recurrence(u, x0)
        fmt = self.after_d.fixed()
        if fmt is None:
            return torch.as_tensor(self.after_d(y + self.direct()[:, None] * u)), last
        return scale_add(y, u, self.direct(), fmt), last

    def _recurrence(self, u: Tensor, x0: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """y (batch, head, time) on its grid, and the last state."""
        scheme = self.scheme
        static = not (self.state.observing or self.state.dynamic or self.recurrent.dynamic)
        if static and scheme.bits.state is not None:
            return self.unit()(u, x0, grad_clamp=scheme.grad_clamp)
        a, b, c = self.inner.discrete()
        if self.state.observing:
            if self.state.bits is not None:
                self.state.collect_range(*self._states(u, a, b))
            return self.recurrent(diagonal_scan(u, a, b, c, state_clip=scheme.state_clip)), None
        if self.state.dynamic:
            self.state.follow_range(*self._states(u, a, b))
        coefficients = self._coefficient_formats(a, b, c)
        options: dict[str, Any] = {"x0": x0, "return_state": True, "grad_clamp": scheme.grad_clamp}
        if scheme.bits.state is None:
            a, b, c = (_rounded(z, coefficients.get(p)) for p, z in (("a", a), ("b", b), ("c", c)))
            y, last = diagonal_scan(u, a, b, c, state_clip=scheme.state_clip, **options)
            return self.recurrent(y), last
        formats = self._formats(coefficients)
        if self.recurrent.dynamic:
            with torch.no_grad():  # the same integers without the last rounding
                self.recurrent.follow(diagonal_scan(u, a, b, c, formats=replace(formats, y=None)))
            formats = replace(formats, y=self.recurrent.format())
        y, last = diagonal_scan(u, a, b, c, formats=formats, **options)
        return y, last

    def _states(self, u: Tensor, a: Tensor, b: Tensor) -> Range:
        """The range of the full-precision states, and of a x and b u where the unit gives them the same format.

        The clip ends it. Where states have ranges of their own, those below 2^-12 of their head's widest have that
        much, so that a state that hardly moves needs neither a fine format nor, in these units, a large C.
        """
        scheme = self.scheme
        separate = scheme.rounding_placement == "separate"
        lengths = self.state.ends.lengths
        low, high = state_range(u, a, b, scheme.percentile, scheme.granularity, addends=separate, lengths=lengths)
        if scheme.state_clip is not None:
            low, high = np.maximum(low, -scheme.state_clip), np.minimum(high, scheme.state_clip)
        if scheme.granularity == "state":
            width = np.maximum(high, 0) - np.minimum(low, 0)
            least = _FINEST * width.max(axis=1, keepdims=True)
            low, high = np.where(width < least, -least, low), np.where(width < least, least, high)
        return low, high

    def init_state(self, batch: int) -> Tensor:
        """The code of zero in every state register (batch, head, state, 2), or a complex zero state.

        Raises `ImcSsmError` where ranges are dynamic.
        """
        self.scheme.check_static("streaming")
        if self.scheme.bits.state is None:
            return self.inner.init_state(batch)
        heads, states, _ = self.inner.B.shape
        zero = self.state.zero_point
        zero = zero if zero.ndim == 2 else zero.expand(heads)[:, None]
        return zero[..., None].expand(batch, heads, states, 2).clone()

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: u (batch, head) -> y (batch, head), next state; `ImcSsmError` where ranges are dynamic."""
        self.scheme.check_static("streaming")
        y, last = self._run(u[..., None], state)
        assert last is not None
        return y[..., 0], last

    def operators(self) -> list[Operator]:
        """Those of the wrapped layer."""
        return self.inner.operators()


def _register_format(pairs: NDArray[Any], bits: int, registers: Format, *, symmetric: bool) -> Format:
    """C's format where every register has its own: one per head for C s_x; pairs (head, state, 2).

    C counts in units of the registers then: the products c x of a head share one scale, so that their sum needs no
    alignment, and each part of C is as fine as the output needs it.
    """
    units = registers.scale.astype(np.float64)
    shared = parameter_format(pairs * units[..., None], bits, "head", symmetric=symmetric)
    zero = np.broadcast_to(shared.zero_point[:, None], units.shape)
    return Format(bits, (shared.scale[:, None] / units).astype(np.float32), zero, symmetric)


def _rounded(z: Tensor, fmt: Format | None) -> Tensor:
    """A coefficient on its grid (full-precision state: the rounding is all there is)."""
    if fmt is None:
        return z
    return torch.view_as_complex(fake_quantize(torch.view_as_real(z), fmt, 0).contiguous())
