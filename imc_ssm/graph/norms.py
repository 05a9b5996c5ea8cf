"""Norms: what they store and do, as docs/fixed_point.md, section 12 has it."""

from __future__ import annotations

from dataclasses import dataclass

from imc_ssm.fixedpoint import operations as integer
from imc_ssm.fixedpoint import plan_affine, plan_norm
from imc_ssm.fixedpoint.norms import RECIPROCAL_BITS, ROOT_BITS, VALUE_BITS
from imc_ssm.fixedpoint.requantization import CONSTANT_BITS, MULTIPLIER_BITS, WORD_BITS
from imc_ssm.graph.actions import Action, Actions, Stored, grown
from imc_ssm.graph.operators import Operator, Words
from imc_ssm.graph.signals import Formats

__all__ = ["Affine", "Normalize"]


@dataclass(frozen=True)
class Affine(Operator):
    """A scale and a shift of every channel, in one requantization: a batch norm with fixed statistics."""

    def integer(self, formats: Formats, words: Words) -> integer.AffineOperation:
        gain, offset = (self._words(words, name) for name in ("gain", "offset"))
        return integer.AffineOperation(plan_affine(self._format(formats, 0), self._format(formats), gain, offset))

    def _scaled(self, at: Actions, bits: int) -> list[Action]:
        """From values of so many bits to the output's codes."""
        width = self.output.width
        return [
            at.read("coefficients", 2 * width, CONSTANT_BITS, "scale and shift"),
            at.multiply(width, bits, MULTIPLIER_BITS, "scale"),
            *at.add(width, WORD_BITS, "shift"),
        ]

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at = Actions(self.rate)
        scaled = self._scaled(at, self._centred(formats))
        return [self._read(at, formats), *scaled, self._write(at, formats, steps)]

    def _constants(self, formats: Formats) -> list[Stored]:
        return [Stored("requantization", 2 * self.output.width, CONSTANT_BITS)]


@dataclass(frozen=True)
class Normalize(Affine):
    """Layer norm, or without `centred` RMS norm: statistics of the vector, a reciprocal root, then the scale and
    shift."""

    centred: bool = True

    def integer(self, formats: Formats, words: Words) -> integer.NormOperation:
        gain, offset = (self._words(words, name) for name in ("gain", "offset"))
        eps = float(self._words(words, "eps"))
        source, output = self._format(formats, 0), self._format(formats)
        return integer.NormOperation(plan_norm(source, output, gain, offset, eps, centred=self.centred))

    def _aligned(self, formats: Formats) -> bool:
        """Whether channels have scales of their own, which have to meet in the statistics."""
        return bool(formats[self.inputs[0].name].scale.ndim)

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, width, word = Actions(self.rate), self.output.width, VALUE_BITS + 1
        total, squares = grown(word, width), grown(2 * word, width)
        out = [self._read(at, formats)]
        if self._aligned(formats):
            out += [
                at.read("coefficients", width, CONSTANT_BITS, "alignment"),
                at.multiply(width, self._centred(formats), MULTIPLIER_BITS, "align the channels"),
            ]
        if self.centred:
            out += [
                *at.add(width, total, "sum", own_slot=not self._aligned(formats)),
                at.multiply(1, total, RECIPROCAL_BITS + 1, "mean"),
                *at.add(width, word + 1, "deviation", own_slot=True),
            ]
        return [
            *out,
            at.multiply(width, word + 1, word + 1, "squares"),
            *at.add(width, squares, "sum of squares"),
            *at.add(1, squares, "eps", own_slot=True),
            at.lookup(1, 9, 16, "reciprocal root"),
            at.multiply(1, 16, 16, "Newton step: square"),
            at.multiply(1, 24, 24, "Newton step: error"),
            at.multiply(1, 16, 26, "Newton step: root"),
            at.multiply(width, word + 1, 24, "normalize"),
            *self._scaled(at, ROOT_BITS + 2),
            self._write(at, formats, steps),
        ]

    def _constants(self, formats: Formats) -> list[Stored]:
        count = self.output.width * (2 + self._aligned(formats)) + 1  # eps
        return [Stored("requantization", count, CONSTANT_BITS)]
