"""What brings sums of products to another grid: multipliers, or shifts where scales are powers of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imc_ssm.fixedpoint.requantization import CONSTANT_BITS, MULTIPLIER_BITS, SHIFT_BITS
from imc_ssm.graph.actions import Action, Actions, Stored
from imc_ssm.graph.signals import Formats

__all__ = ["Kind", "Requantized"]


@dataclass(frozen=True)
class Kind:
    """Products of one kind, in units of the scales at `paths` multiplied, times 2^exponent."""

    bits: int
    """Their length."""
    paths: tuple[str, ...]
    name: str
    """What they are, in words."""
    exponent: int = 0


@dataclass(frozen=True)
class Requantized:
    """round(sum_k m_k p_k / 2^shift) for products p_k of some kinds.

    With free scales every m_k is a multiplier of 24 bits, the widest of the unit. Where all scales are powers of
    two, `left` has the largest left shift of each kind, over the channels, and `right` the largest right shift
    behind the sum: right = max(0, max_k -e_k), left_k = e_k + right, with ratios 2^e_k.
    """

    kinds: tuple[Kind, ...]
    left: tuple[int, ...] | None
    """None: free scales."""
    right: int = 0
    sets: int = 1
    """How many sets of constants there are: one a channel where one of the formats is, else one for the tensor."""

    @classmethod
    def of(
        cls, formats: Formats, target: str | None, channels: int, *kinds: Kind, also: Sequence[str] = ()
    ) -> Requantized:
        """From products of `kinds` on so many channels to the grid at `target` (None: of unit 1).

        `also`: paths of scales that are brought to one elsewhere; theirs have to be powers of two as well.
        """
        own = [path for kind in kinds for path in kind.paths] + ([] if target is None else [target])
        sets = channels if formats.several(*own) else 1
        paths = [*also, *own]
        powers = {}
        for path in paths:
            mantissa, exponent = np.frexp(formats[path].scale)
            if not np.all(mantissa == 0.5):
                return cls(kinds, None, sets=sets)
            powers[path] = _spread(exponent.astype(np.int64) - 1, channels)
        under = np.zeros(channels, np.int64) if target is None else powers[target]
        every = np.stack([sum(powers[p] for p in kind.paths) + kind.exponent - under for kind in kinds])
        right = np.maximum(0, -every.min(axis=0))
        left = (every + right).max(axis=1)
        return cls(kinds, tuple(int(amount) for amount in left), int(right.max(initial=0)), sets)

    @property
    def constant(self) -> int:
        """Length of a stored constant: a multiplier and a shift, or a shift alone."""
        return CONSTANT_BITS if self.left is None else SHIFT_BITS

    def stored(self) -> Stored:
        """The constants: of every kind, and in every set."""
        return Stored("requantization", self.sets * len(self.kinds), self.constant)

    def read(self, at: Actions, purpose: str = "requantization") -> list[Action]:
        """Constants that leave the memory; those of a whole tensor sit in registers at the lane."""
        held = self.stored()
        return [] if self.sets == 1 else [at.read("coefficients", held.count, held.bits, purpose)]

    @property
    def bits(self) -> int:
        """Length of the sum."""
        own = [kind.bits for kind in self.kinds]
        most = max(own) + MULTIPLIER_BITS if self.left is None else max(map(sum, zip(own, self.left, strict=True)))
        return most + (len(own) > 1)

    def products(self, at: Actions, count: int) -> list[Action]:
        """In front of the sum: multipliers, or left shifts. A single kind's is its whole requantization."""
        named = [(kind, f"requantize {kind.name}".strip()) for kind in self.kinds]
        if self.left is None:
            return [at.multiply(count, kind.bits, MULTIPLIER_BITS, purpose) for kind, purpose in named]
        whole = self.right if len(self.kinds) == 1 else 0
        return [
            at.shift(count, kind.bits + left, purpose)
            for (kind, purpose), left in zip(named, self.left, strict=True)
            if left or whole
        ]

    def rounded(self, at: Actions, count: int, purpose: str) -> list[Action]:
        """Behind the sum: the right shift of powers of two."""
        if self.left is None or not self.right:
            return []
        return [at.shift(count, self.bits, purpose)]


def _spread(exponent: NDArray[np.int64], channels: int) -> NDArray[np.int64]:
    """One for each channel: a gate's are behind those of its values, the parts of complex numbers share theirs."""
    exponent = np.atleast_1d(exponent)
    return np.resize(exponent, channels)
