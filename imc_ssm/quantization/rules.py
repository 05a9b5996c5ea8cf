"""Rules: which format a path of a model gets. The last rule that says something about a field counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from imc_ssm.config import Config
from imc_ssm.graph import Kind
from imc_ssm.quantization.observers import AnyObserver, Observer, Percentile

__all__ = ["ROLES", "Calibration", "FormatSpec", "Granularity", "Rule", "spec_of"]

Granularity = Literal["tensor", "head", "state"]
Calibration = Literal["static", "dynamic"]

ROLES: dict[str, Kind] = {
    "poles": "parameter",
    "b": "parameter",
    "c": "parameter",
    "d": "parameter",
    "weight": "parameter",
    "bias": "parameter",
    "state": "state",
    "input": "activation",
    "encoder": "activation",
    "recurrent": "activation",
    "after_d": "activation",
    "both": "activation",
    "gelu": "activation",
    "relu": "activation",
    "mixing": "activation",
    "glu": "activation",
    "residual": "activation",
    "norm": "activation",
    "pool": "activation",
}
"""Last names of the paths of an S4D classifier: A, B, C, D, matrices and biases; x; outputs of the modules."""


_USUAL = Percentile()


@dataclass(frozen=True)
class FormatSpec:
    """How one path is quantized."""

    bits: int | None = None
    """Word length; None: full precision."""
    symmetric: bool = False
    """Zero point fixed at 0, or free."""
    granularity: Granularity = "head"
    """What shares a scale."""
    observer: Observer = _USUAL
    """How the range is found (activations and states; parameters: all of their values)."""
    calibration: Calibration = "static"
    """Ranges of the calibration data, or of each batch."""
    power_of_two: bool = False
    """Scale a power of two, or free (the scheme says so, of all)."""


class Rule(Config):
    """What some paths of a model get; fields that are not given leave what earlier rules said.

    `path` is matched as a file name is ("*", "?", "[...]"), against the whole path ("blocks.0.gelu", "blocks.1.*")
    or, where it has no dot, against its last name ("weight" is every matrix, "poles" those of every layer). `kind`
    narrows it to activations, states or parameters.
    """

    path: str = Field("*", min_length=1)
    """Pattern."""
    kind: Kind | None = None
    """Only paths of this kind."""
    bits: int | Literal["full"] | None = None
    """Word length, 2 to 16 bits, or "full" precision."""
    symmetric: bool | None = None
    """Zero point fixed at 0, or free."""
    granularity: Granularity | None = None
    """One scale and zero point per tensor, per head (per output row for matrices), or "state", an extension of
    ours: one for every state register, the rest per head, C in units of the registers (one format per head for C
    s_x). D, biases and a matrix with one input share one per tensor in any case: a scale for one value would make
    it exact. The same speaks against A, B and C per state: the larger part of each would be exact."""
    observer: AnyObserver | None = None
    """How the range of an activation or state is found."""
    calibration: Calibration | None = None
    """Ranges of the calibration data ("static"), or of each batch that runs ("dynamic")."""

    @field_validator("bits", mode="wrap")
    @classmethod
    def _word(cls, bits: Any, validate: Callable[[Any], int | str | None]) -> int | str | None:
        try:
            word = validate(bits)
        except ValidationError:
            word = 0
        if isinstance(word, int) and not 2 <= word <= 16:
            raise ValueError("allowed is 2 to 16 bits, or 'full'")
        return word

    def matches(self, path: str, kind: Kind) -> bool:
        """Whether the rule is about a path."""
        whole = "." in self.path
        name = path if whole else path.rsplit(".", 1)[-1]
        return self.kind in (None, kind) and fnmatchcase(name, self.path)


def spec_of(rules: Sequence[Rule], path: str, kind: Kind) -> FormatSpec:
    """What the rules say about a path, in order."""
    spec = FormatSpec()
    for rule in rules:
        if rule.matches(path, kind):
            given = {
                field: value
                for field in ("symmetric", "granularity", "observer", "calibration")
                if (value := getattr(rule, field)) is not None
            }
            if rule.bits is not None:
                given["bits"] = None if rule.bits == "full" else rule.bits
            spec = replace(spec, **given)
    return spec
