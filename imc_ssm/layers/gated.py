"""What gated recurrences are made of: a gate, and the state that it opens.

Feng et al. 2024, "Were RNNs All We Needed?" (arXiv:2410.01201): the minimal GRU, z = sigmoid(W_z u), v = W_v u,
h[t] = (1 - z[t]) h[t-1] + z[t] v[t], has neither a matrix nor a nonlinearity in its feedback; so its matrices can
stand on tiles, and its state in the digital unit. docs/own_model.md builds one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from imc_ssm.graph import GatedUpdate, LookUp, Place, Signal
from imc_ssm.kernels import gated_scan

__all__ = ["GatedState", "Sigmoid"]


class Sigmoid(nn.Sigmoid):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x)

    def graph(self, x: Signal, at: Place) -> Signal:
        """A table."""
        return at.emit(LookUp(at.label(), at.path, (x,), at.signal(width=x.width, rate=x.rate), "sigmoid"))


class GatedState(nn.Module):
    """h[t] = h[t-1] + z[t] (v[t] - h[t-1]) = (1 - z[t]) h[t-1] + z[t] v[t] on every channel; h[-1] = 0.

    z in [0, 1], v and h are (B, T, H). A state stays between the candidates v that it has seen.
    """

    zero: Tensor

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(heads, dtype=torch.float32), persistent=False)

    def forward(self, z: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return gated_scan(z, v, self.init_state(len(z)))[0]

    def init_state(self, batch: int) -> Tensor:
        """h[-1] = 0, (B, H)."""
        return self.zero.double().repeat(batch, 1)

    def step(self, z: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One time step: z, v (B, H) -> h (B, H), next state."""
        h, state = gated_scan(z[:, None], v[:, None], state)
        return h[:, 0], state

    def graph(self, z: Signal, v: Signal, at: Place, **rules: Any) -> Signal:
        """The update; the state is its output. `rules`: how its change is rounded."""
        h = at.signal("state", width=v.width, kind="state")
        return at.emit(GatedUpdate(at.label("recurrence"), at.path, (z, v), h, **rules))
