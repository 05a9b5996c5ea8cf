"""The quantisation scheme: how many bits each part has, and how its range is found."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from imc_ssm.config import Config

__all__ = ["ACTIVATIONS", "RECURRENCE", "WEIGHTS", "Bits", "Scheme"]

Word = Field(8, ge=2, le=16)

RECURRENCE = ("poles", "b", "c", "state", "encoder", "recurrent")
"""The parts that the integer recurrence needs as codes (`encoder` is its input, `recurrent` its output)."""
WEIGHTS = ("poles", "b", "c", "d", "weights", "biases")
"""The parts that are parameters; the others are activations."""
ACTIVATIONS = (
    "state",
    "input",
    "encoder",
    "recurrent",
    "after_d",
    "gelu",
    "mixing",
    "glu",
    "residual",
    "pool",
)


class Bits(Config):
    """Word length of every part, 2 to 16 bits, or None: that part stays in full precision."""

    poles: int | None = Word
    """A, the discrete poles."""
    b: int | None = Word
    """B, the discrete input coefficients."""
    c: int | None = Word
    """C, the output coefficients."""
    d: int | None = Word
    """D, the direct coefficient."""
    state: int | None = Word
    """x, the recurrent state register (not the convolution kernel)."""
    weights: int | None = Word
    """Matrices outside the SSM: encoder, mixing, decoder."""
    biases: int | None = Field(16, ge=2, le=16)
    """Their biases (digital; wide, because they are added to wide sums)."""
    input: int | None = Word
    """The sequence itself."""
    encoder: int | None = Word
    """Output of the encoder, input of the recurrence."""
    recurrent: int | None = Word
    """y = 2 Re(C x), before D."""
    after_d: int | None = Word
    """y + D u."""
    gelu: int | None = Word
    """Output of the GELU."""
    mixing: int | None = Word
    """Output of the mixing matrix."""
    glu: int | None = Word
    """Output of the gated linear unit."""
    residual: int | None = Word
    """Output of the residual sum."""
    pool: int | None = Word
    """The mean over time, input of the decoder."""

    @model_validator(mode="after")
    def _integer_recurrence(self) -> Bits:
        missing = [part for part in RECURRENCE if getattr(self, part) is None]
        if self.state is not None and missing:
            raise ValueError(
                f"state has {self.state} bits but {', '.join(missing)} none: an integer state needs all of "
                f"{', '.join(RECURRENCE)}; give them bits or leave the state in full precision"
            )
        return self


class Scheme(Config):
    """A uniform, static quantisation of a model. Source: Zhao et al. 2025 (arXiv:2506.12480), Sec. II-III.

    Ranges of activations are percentiles over calibration data, fixed afterwards; ranges of parameters are
    those of the current values, so that QAT follows them.
    """

    bits: Bits = Bits()
    """Word lengths."""
    granularity: Literal["tensor", "head"] = "head"
    """One scale and zero point per tensor, or per head (per output row for matrices)."""
    symmetric: bool = False
    """Zero point fixed at 0, or free."""
    percentile: float = Field(99.999, gt=50, le=100)
    """Share of the calibration values inside the range, in percent, both tails together."""
    state_clip: float | None = Field(50.0, gt=0)
    """The state's real and imaginary parts are clipped to +- this value; None: only by its word."""
    grad_clamp: float | None = Field(1000.0, gt=0)
    """Bound on the gradient of the state in QAT; None: unbounded."""

    @classmethod
    def uniform(
        cls,
        *,
        poles: int = 8,
        state: int = 8,
        weights: int = 8,
        activations: int = 8,
        granularity: Literal["tensor", "head"] = "head",
        symmetric: bool = False,
        percentile: float = 99.999,
    ) -> Scheme:
        """`poles` bits for A, `state` for x, `weights` for B, C, D and the matrices, `activations` elsewhere."""
        sites = {part: activations for part in ACTIVATIONS if part != "state"}
        bits = Bits.parse(
            {"poles": poles, "state": state, "b": weights, "c": weights, "d": weights, "weights": weights} | sites
        )
        return cls.parse(
            {"bits": bits, "granularity": granularity, "symmetric": symmetric, "percentile": percentile}
        )

    @property
    def label(self) -> str:
        """Short name of poles' and state's word lengths, "a8-x8"."""
        return f"a{self.bits.poles or 'fp'}-x{self.bits.state or 'fp'}"
