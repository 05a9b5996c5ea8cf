"""The quantized state unit of a MIMO layer: integer where the state has bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from imc_ssm.errors import ImcSsmError
from imc_ssm.fixedpoint import Format, PoleGrid, ScanFormats
from imc_ssm.graph import Place, Signal
from imc_ssm.kernels import state_scan
from imc_ssm.kernels.codes import Coefficient
from imc_ssm.layers import StateUnit
from imc_ssm.layers.s5 import parts_of, vector_of
from imc_ssm.quantization.context import Context, check_static, quantizes
from imc_ssm.quantization.poles import grid_of, polar, stored_poles, stored_words
from imc_ssm.quantization.quantizer import Quantizer, parameter_format
from imc_ssm.quantization.recurrent import State, at_rest, rounded
from imc_ssm.quantization.rules import FormatSpec
from imc_ssm.quantization.scheme import Scheme

__all__ = ["QuantizedStateUnit"]


@quantizes(StateUnit)
class QuantizedStateUnit(nn.Module):
    """x[t] = a x[t-1] + b v[t] in recurrent mode with quantized poles, b and states; v, x (batch, time, 2 P).

    The parameters of `inner` stay the trained ones and are rounded in every call. a and b have one format each: a
    pole alone has its larger part at the end of its range, where every word length is exact. States have formats
    of their own, unless there is one for the tensor. With bits for the state the recurrence is the integer one.
    """

    def __init__(
        self,
        inner: StateUnit,
        scheme: Scheme,
        specs: Mapping[str, FormatSpec],
        source: Quantizer,
        state: Quantizer,
        moving: tuple[str, ...] = (),
    ) -> None:
        """`specs` of "poles" and "b"; `moving`: paths of the model whose ranges are dynamic."""
        super().__init__()
        self.inner, self.scheme, self.specs = inner, scheme, dict(specs)
        self._source = [source]  # owned by the matrix before
        self.state, self.moving = state, moving

    @classmethod
    def of(cls, module: StateUnit, context: Context) -> QuantizedStateUnit:
        """With a quantizer for the states; `ImcSsmError` for a scheme that trains discrete or frozen poles."""
        if context.scheme.parameterisation != "continuous":
            raise ImcSsmError(
                f"{context.path}: parameterisation = {context.scheme.parameterisation!r}, but states between "
                "matrices have continuous parameters only; use 'continuous'"
            )
        specs = {part: context.spec(part) for part in ("poles", "b")}
        state = context.output("state", clip=context.scheme.state_clip)
        return cls(module, context.scheme, specs, context.source(), state, context.moving)

    def quantizers(self) -> dict[str, Quantizer]:
        """The states'."""
        return {"state": self.state}

    def _coefficients(self) -> tuple[Tensor, Tensor, dict[str, Format]]:
        """(a, b), each (P,) complex, and the formats of those that have bits."""
        a, b = self.inner.discrete()
        formats: dict[str, Format] = {}
        if (made := polar(a[None], self.scheme, self._pole_spec)) is not None:
            a, formats["poles"] = made[0][0], made[1]
        for name, value in (("poles", a), ("b", b)):
            spec = self.specs[name]
            if spec.bits is not None and name not in formats:
                pairs = torch.view_as_real(value.detach().resolve_conj())
                rules: Any = {"symmetric": spec.symmetric, "power_of_two": spec.power_of_two}
                formats[name] = parameter_format(pairs, spec.bits, "tensor", **rules)
        return a, b, formats

    @property
    def _pole_spec(self) -> FormatSpec:
        return replace(self.specs["poles"], granularity="tensor")  # every state is a head of the unit

    def pole_grid(self) -> PoleGrid | None:
        """The grid of decay and phase that the poles, (1, P), lie on; None where they are Cartesian."""
        return grid_of(self.inner.discrete()[0][None], self.scheme, self._pole_spec)

    def words(self) -> dict[str, Any]:
        """Codes (P, 2) of "poles" and "b"; of polar poles what is stored as well (`stored_poles`)."""
        *values, formats = self._coefficients()
        pairs = zip(("poles", "b"), values, strict=True)
        made: dict[str, Any] = {n: Coefficient.of(z, formats.get(n)).codes for n, z in pairs if n in formats}
        return made | stored_poles(self.inner.discrete()[0][None], self.pole_grid())

    def formats(self) -> dict[str, Format]:
        """Of everything that has bits."""
        *_, made = self._coefficients()
        return made if self.state.bits is None else {**made, "state": self.state.format()}

    def forward(self, v: Tensor, mask: Tensor | None = None) -> Tensor:
        v = self.state.part_of_range(v, -1.0)
        return self.state.part_of_range(self._run(parts_of(v), mask, None)[0], 1.0)

    def _run(self, v: Tensor, mask: Tensor | None, x0: State | None) -> tuple[Tensor, Any]:
        """x (batch, time, 2 P) and the last state."""
        a, b, formats = self._coefficients()
        scheme, state = self.scheme, self.state
        options: dict[str, Any] = {"x0": x0, "return_state": True, "grad_clamp": scheme.grad_clamp}
        if state.dynamic or state.observing or state.bits is None:
            exact = state_scan(v, a, b, x0=None if state.bits is not None else x0, state_clip=scheme.state_clip)
            if state.observing:
                state.collect(vector_of(exact), mask)
                return vector_of(exact), torch.zeros(0, dtype=torch.float32)
            if state.dynamic:
                state.follow(vector_of(exact), mask)
        if state.bits is None:
            a, b = (rounded(z, formats.get(p)) for p, z in (("poles", a), ("b", b)))
            x, last = state_scan(v, a, b, state_clip=scheme.state_clip, **options)
        else:
            rules: Any = {"rounding_placement": scheme.rounding_placement, "rounding": scheme.rounding}
            rules["residual_bits"] = scheme.residual_bits
            words = ScanFormats(formats["poles"], self._source[0].format(), state.format(), formats["b"], **rules)
            x, last = state_scan(v, a, b, formats=words, **options)
        return vector_of(x), last

    def init_state(self, batch: int) -> State:
        """The code of zero in every register (batch, P, 2), or a complex zero state; `ImcSsmError` if dynamic.

        A `UnitState` where the unit keeps more, a counter and residuals.
        """
        check_static(self.moving, "streaming")
        if self.state.bits is None:
            return self.inner.init_state(batch)
        states = len(self.inner.imag)
        codes = self.state.zero_point.expand(states)[:, None].expand(batch, states, 2).clone()
        return at_rest(codes, self.scheme)

    def step(self, v: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: v (batch, 2 P) -> x (batch, 2 P), next state; `ImcSsmError` where ranges are dynamic."""
        check_static(self.moving, "streaming")
        x, last = self._run(parts_of(v[:, None]), None, state)
        return x[:, 0], last

    def graph(self, v: Signal, at: Place) -> Signal:
        """As in full precision, with the scheme's roundings."""
        scheme = self.scheme
        rules: dict[str, Any] = {"rounding_placement": scheme.rounding_placement, "rounding": scheme.rounding}
        if (words := stored_words(scheme, self.specs["poles"])) is not None:
            rules["pole_words"] = words
        if scheme.rounding == "feedback":
            rules["residual_bits"] = scheme.residual_bits
        return self.inner.graph(v, at, **rules)
