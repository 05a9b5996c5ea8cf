"""A recurrence as chips do it in analog: step after step, the states through DAC, tile, ADC and register."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from imc_ssm.chip.crossbars import MappedRecurrence
from imc_ssm.chip.linear import AnalogLinear
from imc_ssm.errors import DataError
from imc_ssm.kernels import diagonal_scan
from imc_ssm.quantization import QuantizedS4D

__all__ = ["AnalogRecurrence"]


class AnalogRecurrence(nn.Module):
    """The SSM of all heads on the tiles of one chip, or of several; u, y (batch, time, head).

        z[t] = tile([x[t-1]; u[t] / drive])                each tile an `AnalogLinear`: DAC, sums with noise, ADC
        x[t] = clip(round(z[t] / q)) q                     q = dac.step: the registers, in full scales
        y[t] = sum of the head's parts of z[t]             then rounded to the grid of the layer's output

    A register has the codes of the DAC that reads it: nothing sees more of a state. Scale, converter range and
    drift compensation are one number a column, inside `AnalogLinear`; compensation so acts in every step.

    The tiles hold their ideal targets until they are programmed; they are programmed and aged one by one, as all
    tiles of a chip. Of several chips the first axis of u is (chip, sequence), chip by chip. Noise that is drawn in
    every product continues from call to call.

    The gradient is straight-through: that of the recurrence in full precision, with respect to the input.
    """

    def __init__(self, mapped: MappedRecurrence, tiles: Sequence[AnalogLinear], digital: QuantizedS4D) -> None:
        """In the place of `digital`, whose output's grid it takes; one `AnalogLinear` for each of its matrices."""
        super().__init__()
        self.mapped = mapped
        self.tiles = list(tiles)
        self.on_tiles = nn.ModuleList(tiles)
        self.after_d = digital.after_d
        with torch.no_grad():
            for name, value in zip("abcd", (*digital.inner.discrete(), digital.inner.D), strict=True):
                self.register_buffer(name, value.detach().resolve_conj().clone(), persistent=False)
        self.register_buffer("drive", torch.from_numpy(mapped.drive.copy()), persistent=False)
        self.a: Tensor
        self.b: Tensor
        self.c: Tensor
        self.d: Tensor
        self.drive: Tensor
        self._heads = [[part.head for part in tile] for tile in mapped.parts]
        self._ports = [[part.start + part.size - 1 for part in tile] for tile in mapped.parts]
        """Row of the input and column of the output of every part."""

    @property
    def shape(self) -> tuple[int, int]:
        """Heads, and complex states of each."""
        return self.mapped.heads, self.mapped.states

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.after_d(self._run(u, self.init_state(len(u)))[0], mask)
        if torch.is_grad_enabled() and u.requires_grad:
            rows = u.transpose(1, 2)
            smooth = (diagonal_scan(rows, self.a, self.b, self.c) + self.d[:, None] * rows).transpose(1, 2)
            y = y.detach() + (smooth - smooth.detach())
        return torch.as_tensor(y)

    def init_state(self, batch: int) -> Tensor:
        """Registers of zero, (batch, head, state, 2) in full scales."""
        return self.drive.new_zeros(batch, *self.shape, 2)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: u (batch, head) -> y (batch, head), next state of the registers."""
        y, state = self._run(u[:, None], state)
        return self.after_d(y)[:, 0], state

    @torch.no_grad()
    def _run(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """y (batch, time, head) before it is rounded, and the registers afterwards."""
        if u.ndim != 3 or u.shape[-1] != self.mapped.heads:
            raise DataError(f"{self.mapped.name!r} takes (batch, time, {self.mapped.heads}), got {tuple(u.shape)}")
        entering = u.detach().float() / self.drive
        y, after = torch.zeros_like(entering), state.clone()
        for tile, heads, ports, parts in zip(self.tiles, self._heads, self._ports, self.mapped.parts, strict=True):
            dac, index = tile.chip.dac, torch.tensor(heads, device=u.device)
            x = entering.new_empty(len(u), tile.mapped.inputs)
            for part, port in zip(parts, ports, strict=True):
                x[:, part.start : port] = state[:, part.head, slice(*part.states)].flatten(1)
            for t in range(u.shape[1]):
                x[:, ports] = entering[:, t, heads]
                z = tile(x)
                y[:, t].index_add_(1, index, z[:, ports])
                x = dac.convert_(z.div_(dac.step)).mul_(dac.step)
            for part, port in zip(parts, ports, strict=True):
                after[:, part.head, slice(*part.states)] = x[:, part.start : port].reshape(len(u), -1, 2)
        return y, after

    def extra_repr(self) -> str:
        """One line for `print(model)`."""
        heads, states = self.shape
        return f"{heads} heads, {states} states"
