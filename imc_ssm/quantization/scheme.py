"""The quantization scheme: how many bits each part has, how its range is found, and what the unit computes."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field

from imc_ssm.config import Config
from imc_ssm.errors import ConfigError, ImcSsmError, unknown
from imc_ssm.fixedpoint.formats import MAX_BITS, Rounding, RoundingPlacement

__all__ = ["ACTIVATIONS", "NAMED", "RECURRENCE", "WEIGHTS", "Bits", "Calibration", "Granularity", "Scheme"]

Word = Field(8, ge=2, le=16)
Granularity = Literal["tensor", "head", "state"]
Calibration = Literal["static", "dynamic"]
Parameterisation = Literal["continuous", "discrete", "frozen"]
Gelu = Literal["exact", "piecewise"]

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
    """Word length of every part, 2 to 16 bits, or None: that part stays in full precision.

    The integer recurrence has no floats: where the state has bits, a part of `RECURRENCE` without any gets
    the unit's widest word, 16 bits (`word`).
    """

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

    @classmethod
    def only(cls, **parts: int) -> Self:
        """The named parts with their bits, everything else in full precision: `Bits.only(poles=6)`.

        Raises `ConfigError` for an unknown part.
        """
        return cls.parse(dict.fromkeys(cls.model_fields) | parts)

    def word(self, part: str) -> int | None:
        """Bits that a part really has: its own, or 16 where the integer recurrence needs a code; None: none."""
        width: int | None = getattr(self, part)
        return MAX_BITS if width is None and self.state is not None and part in RECURRENCE else width

    def words(self) -> dict[str, int | None]:
        """`word` of every part."""
        return {part: self.word(part) for part in type(self).model_fields}


class Scheme(Config):
    """A uniform quantization of a model. Source: Zhao et al. 2025 (arXiv:2506.12480), Sec. II-III.

    Static ranges of activations are percentiles over calibration data, fixed afterwards; dynamic ones are
    those of the batch that is being run. Ranges of parameters are those of the current values, so that QAT
    follows them.
    """

    bits: Bits = Bits()
    """Word lengths."""
    granularity: Granularity = "head"
    """One scale and zero point per tensor, per head (per output row for matrices), or "state", an extension of
    ours: one for every state register, the rest per head, C in units of the registers (one format per head for
    C s_x). D, biases and a matrix with one input share one per tensor in any case: a scale for one value would
    make it exact. The same speaks against A, B and C per state: the larger part of each would be exact."""
    symmetric: bool = False
    """Zero point fixed at 0, or free."""
    percentile: float = Field(99.999, gt=50, le=100)
    """Share of an activation's values inside the range, in percent, both tails together (parameters: all)."""
    calibration: Calibration = "static"
    """Ranges of the activations other than the state: of the calibration data, or of each batch."""
    state_calibration: Calibration = "static"
    """Ranges of the state likewise; dynamic: of the full-precision states that the batch would have."""
    rounding_placement: RoundingPlacement = "joint"
    """The unit rounds A x + B u once, or A x and B u each to the state's format (`fixedpoint.ScanFormats`).
    This and `rounding` are of the integer recurrence: without bits for the state they change nothing."""
    rounding: Rounding = "half_even"
    """How the unit rounds."""
    parameterisation: Parameterisation = "continuous"
    """What QAT trains: dt, A and B of the continuous system; the discrete A and B themselves, from their
    values at wrapping; or the discrete B with A frozen. C and D are trained in all three."""
    gelu: Gelu = "exact"
    """GELU, or x min(max(0, x + 2), 4) / 4, the form that needs no table."""
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
        **options: Any,
    ) -> Self:
        """`poles` bits for A, `state` for x, `weights` for B, C, D and the matrices, `activations` elsewhere.

        `options` are other fields of the scheme. Raises `ConfigError` for one that is unknown or out of range.
        """
        return cls._of(poles, state, weights, activations, {}, options)

    @classmethod
    def w4a6(cls, poles: int = 8, state: int = 8, **options: Any) -> Self:
        """The heterogeneous scheme of Zhao et al. 2025: 4 bits for the matrices and B, C, D, 6 bits for
        activations other than the state; A and x varied; the piecewise GELU; A x and B u rounded apart.

        Biases stay in full precision: so the memory savings that the paper prints
        (`experiments/zhao2025/memory.py`).
        """
        return cls._of(poles, state, 4, 6, {"biases": None}, _PAPER | options)

    @classmethod
    def w8a8(cls, poles: int = 8, state: int = 8, **options: Any) -> Self:
        """The same with 8 bits throughout; biases in full precision."""
        return cls._of(poles, state, 8, 8, {"biases": None}, _PAPER | options)

    @classmethod
    def named(cls, name: str, **options: Any) -> Self:
        """The scheme of a name ("uniform", "w4a6", "w8a8"); `ConfigError` names the nearest one."""
        if name not in NAMED:
            raise ConfigError(unknown("scheme", name, NAMED))
        made: Self = getattr(cls, name)(**options)
        return made

    @classmethod
    def _of(
        cls,
        poles: int,
        state: int,
        weights: int,
        activations: int,
        bits: dict[str, int | None],
        options: dict[str, Any],
    ) -> Self:
        widths: dict[str, int | None] = dict.fromkeys(ACTIVATIONS, activations)
        widths |= dict.fromkeys(("b", "c", "d", "weights"), weights)
        widths |= {"poles": poles, "state": state, **bits}
        return cls.parse({"bits": Bits.parse(widths), **options})

    @property
    def dynamic(self) -> bool:
        """Whether any range follows the batch."""
        return self.calibration == "dynamic" or self.dynamic_state

    @property
    def dynamic_state(self) -> bool:
        """Whether the state's range does."""
        return self.state_calibration == "dynamic" and self.bits.state is not None

    def check_static(self, what: str) -> None:
        """`ImcSsmError` that says that `what` needs fixed formats, where a range follows the batch."""
        if self.dynamic:
            which = "the state" if self.calibration == "static" else "the activations"
            raise ImcSsmError(
                f"{what} needs fixed formats, but the ranges of {which} are dynamic: they follow each batch; "
                "quantize with static calibration"
            )

    @property
    def label(self) -> str:
        """Short name, different for different schemes and fit for file names.

        Word lengths of poles and state, then what differs from the defaults: "a8-x8", "a8-x8-w4-u6-frozen".
        """
        bits, plain, words = self.bits, Bits(), [f"a{_bits(self.bits.poles)}", f"x{_bits(self.bits.state)}"]
        groups = {
            "w": ("b", "c", "d", "weights"),
            "u": tuple(p for p in ACTIVATIONS if p != "state"),
            "bias": ("biases",),
        }
        for short, parts in groups.items():
            widths = [getattr(bits, part) for part in parts]
            usual = max(widths, key=widths.count)
            if usual != getattr(plain, parts[0]):
                words.append(f"{short}{_bits(usual)}")
            words += [f"{p}{_bits(w)}" for p, w in zip(parts, widths, strict=True) if w != usual]
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name != "bits" and value != field.default:
                words.append(_SHORT.get(name, "{}").format("none" if value is None else value))
        return "-".join(words)


NAMED = ("uniform", "w4a6", "w8a8")
"""Names that `Scheme.named` knows."""
_PAPER = {"rounding_placement": "separate", "gelu": "piecewise"}
_SHORT = {
    "symmetric": "sym",
    "percentile": "p{}",
    "calibration": "{}",
    "state_calibration": "{}-x",
    "state_clip": "clip{}",
    "grad_clamp": "clamp{}",
}
"""How an option that differs from its default is named in a label; {} where nothing stands here."""


def _bits(width: int | None) -> str:
    return "fp" if width is None else str(width)
