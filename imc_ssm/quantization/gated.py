"""The quantized state of a gated recurrence: integer where it has bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imc_ssm.fixedpoint import Format
from imc_ssm.graph import Place, Signal
from imc_ssm.kernels import gated_scan
from imc_ssm.layers import GatedState
from imc_ssm.quantization.context import Context, check_static, quantizes
from imc_ssm.quantization.quantizer import Quantizer
from imc_ssm.quantization.scheme import Scheme

__all__ = ["QuantizedGatedState"]


@quantizes(GatedState)
class QuantizedGatedState(nn.Module):
    """h[t] = h[t-1] + z[t] (v[t] - h[t-1]) on codes; z, v, h (batch, time, channel).

    The candidate is rounded to the state's grid, and so is every change of the state: a gate below half a step
    over the difference of two codes leaves the state where it is, so a slow state needs more bits than a fast one.
    """

    def __init__(
        self,
        inner: GatedState,
        scheme: Scheme,
        gate: Quantizer,
        state: Quantizer,
        moving: tuple[str, ...] = (),
        candidate: Quantizer | None = None,
    ) -> None:
        """`moving`: paths of the model whose ranges are dynamic; `candidate`: of v, where it has one."""
        super().__init__()
        self.inner, self.scheme, self.moving = inner, scheme, moving
        self._gate, self._candidate = [gate], (candidate,)  # owned by the modules before
        self.state = state

    @classmethod
    def of(cls, module: GatedState, context: Context) -> QuantizedGatedState:
        """With a quantizer for the state."""
        state = context.output("state", clip=context.scheme.state_clip)
        gate, candidate = context.sources()
        assert gate is not None
        return cls(module, context.scheme, gate, state, context.moving, candidate)

    def quantizers(self) -> dict[str, Quantizer]:
        """The state's."""
        return {"state": self.state}

    def formats(self) -> dict[str, Format]:
        """The state's."""
        return {} if self.state.bits is None else {"state": self.state.format()}

    def forward(self, z: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        v = self.state.part_of_range(v, -1.0)
        return self.state.part_of_range(self._run(z, v, self.inner.init_state(len(z)), mask)[0], 1.0)

    def _run(self, z: Tensor, v: Tensor, h0: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        gate, state = self._gate[0], self.state
        if state.bits is None:
            return gated_scan(z, v, h0)
        if state.observing or state.dynamic:
            with torch.no_grad():
                exact = gated_scan(z, v, h0)
            if state.observing:
                state.collect(exact[0], mask)
                return exact
            state.follow(exact[0], mask)
        (candidate,), formats = self._candidate, {"gate": gate.channels(), "state": state.channels()}
        if candidate is not None and candidate.bits is not None and not candidate.observing:
            formats["candidate"] = candidate.channels()
        return gated_scan(z, v, h0, **formats, rounding=self.scheme.nearest)

    def init_state(self, batch: int) -> Tensor:
        """The centred code of zero in every register (batch, channel); `ImcSsmError` where ranges are dynamic."""
        check_static(self.moving, "streaming")
        return self.inner.init_state(batch)

    def step(self, z: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: z, v (batch, channel) -> h (batch, channel), next state; `ImcSsmError` if dynamic."""
        check_static(self.moving, "streaming")
        h, state = self._run(z[:, None], v[:, None], state)
        return h[:, 0], state

    def graph(self, z: Signal, v: Signal, at: Place) -> Signal:
        """As in full precision, with the scheme's rounding."""
        return self.inner.graph(z, v, at, rounding=self.scheme.nearest)
