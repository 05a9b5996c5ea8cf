"""A chip design as what training meets: every step another chip, at another age (`noise.Disturbance`)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from torch.nn.functional import linear

from imc_ssm.chip.linear import AnalogLinear
from imc_ssm.chip.mapping import map_matrix, with_output_ranges
from imc_ssm.chip.programming import program
from imc_ssm.config import Config
from imc_ssm.devices import Chip, Draws, resolve, stream_seed
from imc_ssm.files import canonical_json
from imc_ssm.graph import Rate
from imc_ssm.kernels import drawn
from imc_ssm.noise import Product, Step

__all__ = ["ChipDisturbance", "digest"]

_VECTORS = 2048
"""Input vectors of a batch from which the ranges of output converters are taken, drawn from all of them."""
_PROSE = ("source", "sources", "description")
_PRICED: Any = {
    "design": {"node", "clock", "lanes", "components", "sample_hold", "electrics"},
    "cell": {"area", "v_read"},
    "dac": {"price"},
    "adc": {"price"},
    "sample_hold": True,
    "digital": True,
}
"""Fields of a chip that nothing computed on it follows from."""


class ChipDisturbance(Config):
    """A `noise.Disturbance`: in every step of a training the matrices sit on another chip of the design.

    The clean weights are mapped onto tiles (`map_matrix`), programmed (`program`), aged to a time drawn
    log-uniformly between `earliest` and `latest`, compensated as the design says, and multiplied by
    `AnalogLinear`: what a step computes is what `evaluate` would compute on that chip, converters and read noise
    included. The ADC's range is that of the batch. With a strength s below 1, y = W x + s (chip's - W x).

    The gradient is straight-through: that of W~ clip(x) without rounding and read noise, W~ the chip's weights, to
    the clean weights; zero to inputs that the DAC clips. An input range r that is learned has the gradient of
    r round(clip(x / r)), and of the error of the product, which grows with r.

    Chip number `step` of a training is the same whatever else is trained (seeds: the training's, the step and the
    place of the matrix), and none that `evaluate` programs.
    """

    chip: Chip
    """The design, resolved."""
    earliest: float = Field(ge=0)
    """Start of the period in which the chip is used, s after programming."""
    latest: float
    """Its end, s."""
    devices: Literal["drawn", "fixed"] = "drawn"
    """Other devices in every step, or those of one chip, written again: the same ones are stuck, or drift fast."""
    input_percentile: float = Field(99.5, gt=50, le=100)
    """Percentile of a matrix's input magnitudes that its DAC covers, where its range is not learned."""
    output_percentile: float = Field(99.99, gt=50, le=100)
    """Percentile of the column sums that an ADC covers."""

    @field_validator("chip", mode="before")
    @classmethod
    def _resolved(cls, design: Any) -> Any:
        return design if isinstance(design, Chip | dict) else resolve(design)

    @model_validator(mode="after")
    def _period(self) -> Self:
        for time in (self.earliest, self.latest):
            self.chip.cell.check_time(time)
        if self.latest < self.earliest:
            raise ValueError(f"latest = {self.latest:g} s is before earliest = {self.earliest:g} s")
        return self

    def describe(self) -> dict[str, Any]:
        """As `noise.Disturbance`: the settings, and the design as its name and a digest."""
        rest = self.model_dump(mode="json", exclude={"chip"})
        return {"design": self.chip.design.name, "sha256": digest(self.chip), **rest}

    def time(self, step: Step) -> float:
        """The age of the step's chip, s."""
        part = np.random.default_rng(stream_seed("training", step.seed, "time", step.number)).random()
        if only := [t for t in self.chip.cell.times.only if self.earliest <= t <= self.latest]:
            return only[int(part * len(only))]
        if self.earliest == self.latest:
            return self.latest
        first = max(self.earliest, self.latest * 1e-12, 1e-12)
        age = math.exp(math.log(first) + part * (math.log(self.latest) - math.log(first)))
        return min(max(age, self.earliest), self.latest)

    def analog(self, index: int, module: str, step: Step, weight: Tensor, span: float, x: Tensor) -> AnalogLinear:
        """The matrix `weight` (outputs, inputs) on the step's chip; x (..., inputs): what goes into it."""
        clean = weight.detach().cpu().numpy()
        rate: Rate = "sequence" if x.ndim == 2 else "step"
        mapped = map_matrix(module, module, clean, None, self.chip, input_range=span, rate=rate)
        flat = x.detach().reshape(-1, x.shape[-1])
        picked = drawn(len(flat), _VECTORS, seed=step.number)
        seen = flat if picked is None else flat[picked.to(flat.device)]
        mapped = with_output_ranges(mapped, seen.float().cpu().numpy(), self.chip, self.output_percentile)
        tile = AnalogLinear(mapped, self.chip, index=index)
        seed = stream_seed("training", step.seed)
        tile.program(seed, step.number)
        if self.devices == "fixed":
            known = program(mapped, self.chip, seed, (0,), index=index)
            draws = Draws([stream_seed(seed, step.number, index, "programming")])
            again = self.chip.cell.reprogram(known.devices, draws)
            tile.programmed = replace(known, chips=(step.number,), devices=again)
        return tile.set_time(self.time(step)).to(x.device)

    def product(self, index: int, module: str, step: Step) -> Product:
        """As `noise.Disturbance`."""
        kept: list[tuple[AnalogLinear, Tensor]] = []

        def on_chip(x: Tensor, weight: Tensor, span: Tensor | float) -> Tensor:
            if not kept:  # a step's chunks meet one chip
                tile = self.analog(index, module, step, weight, float(torch.as_tensor(span).detach()), x)
                kept.append((tile, tile.weight[0].to(weight.dtype)))
            tile, noisy = kept[0]
            r = torch.as_tensor(span, dtype=x.dtype, device=x.device)
            return torch.as_tensor(_OnChip.apply(x, weight, r, tile, noisy, step.strength))  # type: ignore[no-untyped-call]

        return on_chip


class _OnChip(torch.autograd.Function):
    """The product on tiles forward, the product in full precision at their weights backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, span: Tensor, tile: AnalogLinear, noisy: Tensor, strength: float
    ) -> Tensor:
        dac, r = tile.chip.dac, float(span)
        y = tile(x).to(x.dtype)
        low, high = (r * limit for limit in dac.limits)
        # what the chip's weights are multiplied with
        driven = dac.transfer(x.to(torch.float32), r).mul_(dac.step * r).to(x.dtype)
        if strength < 1:
            clean = linear(x, weight)
            y = clean + strength * (y - clean)
            noisy = weight + strength * (noisy - weight)
        ctx.learned = ctx.needs_input_grad[2]
        error = y - linear(driven, noisy) if ctx.learned else None
        ctx.save_for_backward(x, driven, noisy, error)
        ctx.low, ctx.high, ctx.span = low, high, r
        return torch.as_tensor(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (g,) = grads
        x, driven, noisy, error = ctx.saved_tensors
        outer = g.reshape(-1, g.shape[-1])
        of_weight = outer.T @ driven.reshape(-1, driven.shape[-1])
        back = g @ noisy
        inside = (x >= ctx.low) & (x <= ctx.high)
        of_span = None
        if ctx.learned:
            # r round(clip(x / r)): the rounding error inside, the limit outside; scaled as Esser et al. 2020
            # (arXiv:1902.08153), so that it is of the size of other gradients
            moved = torch.where(inside, driven - x, driven) / ctx.span
            of_span = ((back * moved).sum() + (g * error).sum() / ctx.span) / math.sqrt(x.numel())
        return back * inside, of_weight, of_span, None, None, None


def digest(chip: Chip) -> str:
    """Of everything about a chip that decides what it computes, its prices left out: 20 hexadecimal digits of
    SHA-256."""
    facts = _facts(chip.model_dump(mode="json", exclude=_PRICED))
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()[:20]


def priced_digest(chip: Chip) -> str:
    """Of everything about a chip that decides a number, prices too: 20 hexadecimal digits of SHA-256."""
    return hashlib.sha256(canonical_json(_facts(chip.model_dump(mode="json"))).encode()).hexdigest()[:20]


def _facts(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _facts(item) for name, item in value.items() if name not in _PROSE}
    return [_facts(item) for item in value] if isinstance(value, list) else value
