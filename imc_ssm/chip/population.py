"""Several programmed chips of a deployment at once: brought to a moment, and asked for answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from imc_ssm.chip.deployment import Deployment
from imc_ssm.chip.schedules import Moment
from imc_ssm.chip.streaming_noise import Stream
from imc_ssm.datasets.sequence import Split
from imc_ssm.training import at_once, predict

if TYPE_CHECKING:
    from imc_ssm.chip.linear import Implementation
    from imc_ssm.chip.programming import Noise

__all__ = ["Population"]

AT_ONCE = 8
"""Chips at once where nothing else is said."""


class Population:
    """Chips of a deployment under one seed. A chip of a number is the same chip alone and among others."""

    def __init__(
        self,
        deployment: Deployment,
        seed: int,
        implementation: Implementation,
        noise: Noise,
        device: torch.device,
        stream: Stream | None = None,
    ) -> None:
        """`stream`: what noise does while sequences run (`AnalogLinear.set_time`)."""
        model, self.tiles = deployment.analog(implementation, noise)
        self.model, self.seed, self.stream = model.to(device), seed, stream
        self.device, self.alone = device, implementation != "fast"
        self._written: tuple[tuple[int, ...], int] | None = None
        self._chips = 1

    def bring(self, chips: Sequence[int], moment: Moment) -> None:
        """Let the tiles hold these chips at a moment, programmed again where that has to be."""
        if self._written != (tuple(chips), moment.cycle):
            for tile in self.tiles:
                tile.program(self.seed, chips, cycle=moment.cycle)
            self._written, self._chips = (tuple(chips), moment.cycle), len(chips)
        for tile in self.tiles:
            tile.set_time(moment.age, calibrated=moment.calibrated, stream=self.stream)
        self.model.to(self.device)

    def together(self, chips: int | None, parts_differ: bool, split: Split) -> int:
        """How many chips can run at once: one where each has sequences of other lengths, or on aihwkit."""
        if self.alone or (parts_differ and split.lengths is not None):
            return 1
        return AT_ONCE if chips is None else chips

    def predict(self, parts: Sequence[Split], split: Split) -> list[np.ndarray[Any, Any]]:
        """What each chip finds for its part of `split` (one for all, or one for each), as `training.predict`.

        Noise is a function of a product's number, so the size of a batch is free where all sequences are full.
        Shorter ones are padded to the longest of their batch, which has to be the same however many chips run.
        """
        shares = self._chips if split.lengths is None else AT_ONCE
        batch = max(1, at_once(self.model, split) // shares)
        if self._chips == 1:
            return [predict(self.model, parts[0], batch)]
        first = parts[0]
        if len(parts) > 1:  # side by side, as channels
            first = replace(first, values=np.concatenate([part.values for part in parts], axis=-1))
        found = predict(_Abreast(self.model, self._chips, len(parts) > 1), first, batch)
        axis = 2 if split.per_step else 1
        return [np.ascontiguousarray(np.take(found, i, axis)) for i in range(self._chips)]


class _Abreast(nn.Module):
    """A model of several chips: (batch, time, channel) -> (batch, [time,] chip, output).

    Inside, chips are the slow axis of the batch, as `AnalogLinear` takes them.
    """

    def __init__(self, model: nn.Module, chips: int, apart: bool) -> None:
        super().__init__()
        self.model, self.chips, self.apart = model, chips, apart

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> Tensor:
        batch, time = values.shape[:2]
        own = values.reshape(batch, time, self.chips if self.apart else 1, -1).permute(2, 0, 1, 3)
        rows = own.expand(self.chips, -1, -1, -1).reshape(self.chips * batch, time, -1)
        out: Tensor = self.model(rows, None if lengths is None else lengths.repeat(self.chips))
        return out.reshape(self.chips, batch, *out.shape[1:]).movedim(0, -2)
