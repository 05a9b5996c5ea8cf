"""How the range of an activation is found: observers, told apart by `type`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor

from imc_ssm.config import Config, Kinds
from imc_ssm.fixedpoint import Format
from imc_ssm.kernels import state_range, value_range
from imc_ssm.kernels.ranges import Range

__all__ = ["OBSERVERS", "MinMax", "Mse", "Observer", "Percentile"]

Ends = np.ndarray[Any, Any]
OBSERVERS: Kinds[Observer] = Kinds("observer")


class Observer(Config):
    """Turns what was seen into a range, one per series; a subclass is registered with `OBSERVERS.register`."""

    type: str = ""

    def range(self, values: np.ndarray[Any, Any], bits: int, symmetric: bool) -> Range:
        """Bounds (series,) of values (series, samples) that will have `bits`; `ImcSsmError` where there are
        none."""
        raise NotImplementedError

    def for_powers_of_two(self) -> Observer:
        """The observer where scales are powers of two, up to the next of which a range is widened; the same."""
        return self

    @property
    def share(self) -> float | None:
        """Percent of the values that lie inside, tails split evenly; None: that is not how the range is found."""
        return None

    def states(
        self,
        u: Tensor,
        a: Tensor,
        b: Tensor,
        granularity: str,
        lengths: Tensor | None,
        addends: bool,
        bits: int,
        symmetric: bool,
    ) -> Range:
        """Bounds of the states of a recurrence that will have `bits`, in the shapes of `ranges.state_range`.

        They never lie in memory all at once: where a share of them is to lie inside, the bounds are exact;
        otherwise those of `range` for 32 sequences at 64 steps, drawn with a fixed seed. With `addends`, of a x
        and b u as well.
        """
        share = self.share
        if share is not None:
            return state_range(u, a, b, share, granularity, addends=addends, lengths=lengths)
        seen = _sampled_states(u, a, b, lengths, addends)  # (head, state, samples)
        heads, states, _ = seen.shape
        shape = {"tensor": (), "head": (heads,), "state": (heads, states)}[granularity]
        low, high = self.range(seen.reshape(int(np.prod(shape)), -1), bits, symmetric)
        return low.reshape(shape), high.reshape(shape)


@OBSERVERS.register
class Percentile(Observer):
    """`percent` % of the values lie inside, tails split evenly. Source: Zhao et al. 2025 (arXiv:2506.12480)."""

    type: Literal["percentile"] = "percentile"
    percent: float = Field(99.999, gt=50, le=100)
    """Share of the values inside the range, both tails together."""

    @property
    def share(self) -> float:
        return self.percent

    def for_powers_of_two(self) -> Percentile:
        """Of the power of two above the range's scale and the one below, that of the smaller mean square error."""
        return _PercentileOfPowers.parse(self.model_dump())

    def range(self, values: np.ndarray[Any, Any], bits: int, symmetric: bool) -> Range:
        return value_range(values, self.percent)


class _PercentileOfPowers(Percentile):
    """A percentile range as it is, or drawn in to half of what the next power of two would hold."""

    def range(self, values: np.ndarray[Any, Any], bits: int, symmetric: bool) -> Range:
        low, high = value_range(values, self.percent)
        free = Format.from_range(low, high, bits, symmetric=symmetric).scale.astype(np.float64)
        wide = Format.from_range(low, high, bits, symmetric=symmetric, power_of_two=True).scale.astype(np.float64)
        half = wide / 2 / free * (1 - 1e-6)  # at most 1
        seen = _drawn(values, _SEEN)
        errors = [_error(seen, f * low, f * high, bits, symmetric, power_of_two=True) for f in (1.0, half)]
        factor = np.where(errors[1] < errors[0], half, 1.0)
        return factor * low, factor * high


@OBSERVERS.register
class MinMax(Observer):
    """All values lie inside."""

    type: Literal["minmax"] = "minmax"

    @property
    def share(self) -> float:
        return 100.0

    def range(self, values: np.ndarray[Any, Any], bits: int, symmetric: bool) -> Range:
        return value_range(values, 100.0)


@OBSERVERS.register
class Mse(Observer):
    """The part of the whole range that rounds the values with the smallest mean square error.

    Both ends are drawn in alike, by the factor of `steps` even ones up to 1 whose error is smallest. Source: the
    search of Banner et al., NeurIPS 2019 (arXiv:1810.05723), over a grid.
    """

    type: Literal["mse"] = "mse"
    steps: int = Field(40, ge=2, le=1000)
    """Factors that are tried."""
    samples: int = Field(20_000, ge=100)
    """Values of each series that are looked at, drawn with a fixed seed where there are more."""

    def for_powers_of_two(self) -> Mse:
        """It looks at the errors that the widened ranges make."""
        return _MseOfPowers.parse(self.model_dump())

    _powers: ClassVar[bool] = False

    def range(self, values: np.ndarray[Any, Any], bits: int, symmetric: bool) -> Range:
        low, high = value_range(values, 100.0)
        values = _drawn(values, self.samples)
        best, least = np.ones(len(values)), np.full(len(values), np.inf)
        for factor in np.arange(1, self.steps + 1) / self.steps:
            error = _error(values, factor * low, factor * high, bits, symmetric, power_of_two=self._powers)
            best, least = np.where(error < least, factor, best), np.minimum(error, least)
        return best * low, best * high


class _MseOfPowers(Mse):
    """The same among scales that are powers of two."""

    _powers: ClassVar[bool] = True


def _drawn(values: Ends, most: int) -> Ends:
    """So many of the samples of each series, drawn with a fixed seed, or all."""
    if values.shape[1] <= most:
        return values
    return values[:, np.random.default_rng(0).choice(values.shape[1], most, replace=False)]


def _error(values: Ends, low: Ends, high: Ends, bits: int, symmetric: bool, *, power_of_two: bool) -> Ends:
    """Mean square error (series,) of rounding to the format over a range."""
    fmt = Format.from_range(low, high, bits, symmetric=symmetric, power_of_two=power_of_two)
    return np.asarray(np.square(fmt.dequantize(fmt.quantize(values)) - values).mean(1))


_SEEN = 20_000
"""Values of a series whose errors are looked at."""
_SEQUENCES = 32
"""Sequences whose states are looked at one by one."""


@torch.no_grad()
def _sampled_states(
    u: Tensor, a: Tensor, b: Tensor, lengths: Tensor | None, addends: bool
) -> np.ndarray[Any, Any]:
    """Parts of the states of some sequences, drawn with a fixed seed, at 64 drawn steps within the longest of
    them: (head, state, samples)."""
    rng = np.random.default_rng(0)
    chosen = torch.from_numpy(np.sort(rng.choice(len(u), min(len(u), _SEQUENCES), replace=False)))
    rows = u[chosen].to(torch.float64)
    x = torch.zeros(*rows.shape[:2], a.shape[1], dtype=torch.complex128)
    wide = a.to(torch.complex128), b.to(torch.complex128)
    ends = torch.full((len(rows),), rows.shape[-1]) if lengths is None else lengths[chosen]
    time = int(ends.max())
    steps = set(rng.choice(time, min(time, 64), replace=False).tolist())
    out = []
    for t in range(time):
        kept, driven = wide[0] * x, wide[1] * rows[:, :, t, None]
        x = kept + driven
        if t in steps:
            seen = torch.stack([x, kept, driven] if addends else [x], -1)[ends > t]
            out.append(torch.view_as_real(seen).permute(1, 2, 0, 3, 4).flatten(2))
    return torch.cat(out, 2).numpy()


AnyObserver = Annotated[SerializeAsAny[Observer], BeforeValidator(OBSERVERS.of)]
"""The type of a field that holds an observer."""
