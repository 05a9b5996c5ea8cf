"""The quantization scheme: rules that give every path of a model its format, and what the digital unit
computes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from imc_ssm.config import Config
from imc_ssm.errors import ConfigError, unknown
from imc_ssm.fixedpoint import Rounding, RoundingPlacement
from imc_ssm.fixedpoint.formats import Nearest, nearest_of
from imc_ssm.graph import Kind
from imc_ssm.quantization.observers import Percentile
from imc_ssm.quantization.rules import ROLES, Calibration, FormatSpec, Granularity, Rule, spec_of
from imc_ssm.units import card

__all__ = ["NAMED", "Bits", "Scheme"]

Word = Field(8, ge=2, le=16)
Word16 = Field(16, ge=2, le=16)
Parameterisation = Literal["continuous", "discrete", "frozen"]
Gelu = Literal["exact", "piecewise"]
WeightRounding = Literal["nearest", "outputs"]
Scales = Literal["free", "power_of_two"]
PoleForm = Literal["cartesian", "polar", "log_polar"]


class Bits(Config):
    """Word length of every part of an S4D classifier, 2 to 16 bits, or None: that part stays in full precision.

    A shorthand for the rules of a `Scheme` (`rules`).
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
    both: int | None = Word
    """Sum of the two directions of a bidirectional block."""
    gelu: int | None = Word
    """Output of the GELU."""
    relu: int | None = Word
    """Output of the ReLU, in its place."""
    mixing: int | None = Word
    """Output of the mixing matrix."""
    glu: int | None = Word
    """Output of the gated linear unit."""
    residual: int | None = Word
    """Output of the residual sum."""
    norm: int | None = Word
    """Output of the norm."""
    pool: int | None = Word
    """The mean over time, input of the decoder."""

    @classmethod
    def only(cls, **parts: int) -> Self:
        """The named parts with their bits, everything else in full precision: `Bits.only(poles=6)`.

        Raises `ConfigError` for an unknown part.
        """
        return cls.parse(dict.fromkeys(cls.model_fields) | parts)

    def rules(self) -> list[Rule]:
        """One rule for every kind with the word length that most of its parts have, and one for every other
        part."""
        rules = []
        for kind in ("activation", "parameter", "state"):
            own = {part: width for part, width in self.by_role().items() if ROLES[part] == kind}
            usual = _usual(list(own.values()))
            if usual is not None:
                rules.append(Rule(kind=kind, bits=usual))
            rules += [Rule(path=part, bits=width or "full") for part, width in own.items() if width != usual]
        return rules

    def by_role(self) -> dict[str, int | None]:
        """Word lengths by the last name of a path."""
        return {_ROLE.get(part, part): getattr(self, part) for part in type(self).model_fields}


_ROLE = {"weights": "weight", "biases": "bias"}


def _usual(widths: list[int | None]) -> int | None:
    return max(widths, key=widths.count)


class Uniform(Config):
    """Shorthand for a scheme whose rules are the same in every layer."""

    bits: Bits = Bits()
    """Word lengths."""
    granularity: Granularity = "head"
    """What shares a scale (`Rule`)."""
    symmetric: bool = False
    """Zero point fixed at 0, or free."""
    percentile: float = Field(99.999, gt=50, le=100)
    """Share of an activation's values inside the range, in percent, both tails together."""
    calibration: Calibration = "static"
    """Ranges of the activations other than the state: of the calibration data, or of each batch."""
    state_calibration: Calibration = "static"
    """Ranges of the state likewise; dynamic: of the full-precision states that the batch would have."""

    def rules(self) -> list[Rule]:
        """Options that are not the default, then the word lengths."""
        plain, base = type(self)(), {}
        for name in ("granularity", "symmetric", "calibration"):
            if getattr(self, name) != getattr(plain, name):
                base[name] = getattr(self, name)
        if self.percentile != plain.percentile:
            base["observer"] = Percentile(percent=self.percentile)
        rules = [Rule.parse(base)] if base else []
        if self.state_calibration != self.calibration:
            rules.append(Rule(kind="state", calibration=self.state_calibration))
        return rules + self.bits.rules()


class Scheme(Config):
    """A quantization of a model. Source: Zhao et al. 2025 (arXiv:2506.12480), Sec. II-III.

    `rules` give every signal, state and parameter of a model its word length, symmetry, granularity and observer,
    in order: later ones win, what no rule names stays in full precision. Where a scheme is the same in all layers,
    the fields of `Uniform` say so more briefly, before the rules: `Scheme(bits=Bits(poles=6), percentile=99.9)`.
    Without either everything has 8 bits, biases 16.

        >>> import imc_ssm
        >>> scheme = imc_ssm.Scheme.uniform(poles=8, state=8).with_(state=6)
        >>> scheme.label
        'a8-x6'

    Static ranges of activations are found on calibration data and fixed afterwards; dynamic ones are those of the
    batch that is being run. Ranges of parameters are those of the current values, so that QAT follows them. The
    integer recurrence has no floats: where a state has bits, what its unit reads and writes and has none gets the
    unit's widest word, 16 bits.
    """

    rules: tuple[Rule, ...] = tuple(Uniform().rules())
    """Path pattern -> format, in order."""
    rounding_placement: RoundingPlacement = "joint"
    """The unit rounds A x + B u once, or A x and B u each to the state's format (`fixedpoint.ScanFormats`).
    This and `rounding` are of the integer recurrence: without bits for the state they change nothing."""
    rounding: Rounding = "half_even"
    """How the unit rounds; "dithered", "stochastic" and "feedback" are of the state of a linear recurrence, whose
    output, and a state behind a gate, are then rounded half to even."""
    residual_bits: int = Field(8, ge=1, le=16)
    """Bits of the remainder that rounding with "feedback" keeps of every part of the state."""
    rate_limit: float | None = Field(None, gt=0)
    """Multi-rate heads: a head is updated every k-th step, k the largest power of two for which its fastest pole
    turns by at most this angle, in rad, in k steps; None: every head in every step. Chosen by `quantize`, never
    beyond the longest calibration sequence; only S4D layers in the digital unit have slow heads."""
    max_period: int = Field(16, ge=1, le=256)
    """Most steps between two updates of a head: a power of two, 1 to 256."""
    scales: Scales = "free"
    """Scales of the formats: any, or powers of two, so that every requantization is a shift."""
    pole_form: PoleForm = "cartesian"
    """What the bits of a pole say: its real and imaginary part; or its decay and its phase, the decay as |a|
    ("polar") or as -log |a| ("log_polar")."""
    pole_decay_bits: int | None = Field(None, ge=1, le=16)
    """Word length of the decay of a polar pole; None: the poles', which is the phase's."""
    pole_multiplier_bits: int = Word16
    """Word length of the parts by which the unit multiplies where poles are polar."""
    weight_rounding: WeightRounding = "nearest"
    """How `quantize` rounds matrices and C: every weight to its nearest code, or layer by layer for the least
    error of what comes out ("outputs", `quantization.fitting`)."""
    parameterisation: Parameterisation = "continuous"
    """What QAT trains: dt, A and B of the continuous system; the discrete A and B themselves, from their
    values at wrapping; or the discrete B with A frozen. C and D are trained in all three."""
    gelu: Gelu = "exact"
    """GELU, or x min(max(0, x + 2), 4) / 4, the form that needs no table."""
    state_clip: float | None = Field(50.0, gt=0)
    """The state's real and imaginary parts are clipped to +- this value; None: only by its word."""
    grad_clamp: float | None = Field(1000.0, gt=0)
    """Bound on the gradient of the state in QAT; None: unbounded."""

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, data: Any) -> Any:
        """The fields of `Uniform` become rules, before those that are given."""
        if not isinstance(data, dict):
            return data
        for name in data:
            if name not in cls.model_fields and name not in Uniform.model_fields:
                raise ConfigError(unknown("field", str(name), [*cls.model_fields, *Uniform.model_fields]))
        brief = {name: value for name, value in data.items() if name in Uniform.model_fields}
        if not brief:
            return data
        rest = {name: value for name, value in data.items() if name not in brief}
        return rest | {"rules": [*Uniform.parse(brief).rules(), *rest.get("rules", ())]}

    @field_validator("max_period")
    @classmethod
    def _power_of_two(cls, period: int) -> int:
        if period & (period - 1):
            raise ValueError("allowed is a power of two, 1 to 256")
        return period

    @model_validator(mode="after")
    def _rounded_once(self) -> Self:
        if self.rounding == "feedback" and self.rounding_placement == "separate":
            raise ValueError(
                "rounding = 'feedback' keeps what one rounding of A x + B u leaves, but rounding_placement = "
                "'separate' rounds twice; use 'joint', or another rounding"
            )
        return self

    @model_serializer(mode="wrap")
    def _dumped(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """All fields but the `_LATER` ones that are at their defaults."""
        out: dict[str, Any] = fields(self)
        own = type(self).model_fields
        return {n: v for n, v in out.items() if n not in _LATER or getattr(self, n) != own[n].default}

    def described(self, name: str) -> str:
        """As `Config.described`, also of the fields of `Uniform`."""
        return Uniform().described(name) if name in Uniform.model_fields else super().described(name)

    def spec(self, path: str, kind: Kind | None = None) -> FormatSpec:
        """What a path of a model gets; its kind is known where its last name is one of `ROLES`."""
        known = ROLES.get(path.rsplit(".", 1)[-1], "activation")
        spec = spec_of(self.rules, path, known if kind is None else kind)
        if self.scales == "free":
            return spec
        return replace(spec, power_of_two=True, observer=spec.observer.for_powers_of_two())

    @property
    def nearest(self) -> Nearest:
        """How everything is rounded but the state of a linear recurrence."""
        return nearest_of(self.rounding)

    @property
    def bits(self) -> Bits:
        """Word lengths of the parts of an S4D classifier, where no rule tells layers apart."""
        return Bits.parse({part: self.spec(_ROLE.get(part, part)).bits for part in Bits.model_fields})

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
    def recommended(cls, **options: Any) -> Self:
        """As `uniform`, with its arguments and 8 bits, in the forms that keep the most accuracy for their energy.

        The state is dithered, every register has a range of its own, poles are words of decay and phase (`poles`
        bits each), slow heads are updated when their fastest pole has turned by up to 1.5 rad, scales are powers
        of two, and weights are rounded for the least error of their outputs. With ranges that follow the batch no
        head is slow. What each is worth: `docs/quantization.md`.
        """
        fixed = "dynamic" not in (options.get("calibration"), options.get("state_calibration"))
        forms: dict[str, Any] = _RECOMMENDED if fixed else _RECOMMENDED | {"rate_limit": None}
        return cls.uniform(**(forms | options))

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
        """The scheme of a name ("recommended", "uniform", "w4a6", "w8a8"); `ConfigError` names the nearest one."""
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
        parts = [part for part in Bits.model_fields if ROLES.get(part) == "activation"]
        widths: dict[str, int | None] = dict.fromkeys(parts, activations)
        widths |= dict.fromkeys(("b", "c", "d", "weights"), weights)
        widths |= {"poles": poles, "state": state, **bits}
        return cls.parse({"bits": Bits.parse(widths), **options})

    def with_(self, changes: Mapping[str, Any] | None = None, /, **fields: Any) -> Self:
        """As `Config.with_`; the fields of `Uniform` can be changed too, in all layers alike:
        `bits__state=6`, or `state=6`."""
        given = dict(changes or {}) | {name.replace("__", "."): value for name, value in fields.items()}
        uniform = self._uniform()
        own = type(self).model_fields
        given = {n if n in own else uniform._whole(n, given): value for n, value in given.items()}
        brief = {n: value for n, value in given.items() if n.partition(".")[0] in Uniform.model_fields}
        rest = {name: value for name, value in given.items() if name not in brief}
        made = self
        if brief:
            rules = uniform.with_(brief).rules()
            made = super().with_({"rules": rules})
        return Config.with_(made, rest) if rest else made

    def with_bits(self, bits: Bits) -> Self:
        """The same in all layers alike, with these word lengths in the place of its own."""
        return self.with_(bits=bits)

    @property
    def label(self) -> str:
        """Short name, different for different schemes and fit for file names.

        Word lengths of poles and state, then what differs from the defaults: "a8-x8", "a8-x8-w4-u6-frozen",
        "a8-x6-recommended"; where rules tell more than that, a hash of them.
        """
        uniform = self._uniform()
        bits, plain, words = (
            uniform.bits,
            Bits(),
            [f"a{_bits(uniform.bits.poles)}", f"x{_bits(uniform.bits.state)}"],
        )
        groups = {
            "w": ("b", "c", "d", "weights"),
            "u": tuple(p for p in Bits.model_fields if ROLES.get(p) == "activation"),
            "bias": ("biases",),
        }
        for short, parts in groups.items():
            widths = [getattr(bits, part) for part in parts]
            usual = _usual(widths)
            if usual != getattr(plain, parts[0]):
                words.append(f"{short}{_bits(usual)}")
            words += [f"{p}{_bits(w)}" for p, w in zip(parts, widths, strict=True) if w != usual]
        forms = {n: getattr(uniform if n == "granularity" else self, n) for n in _RECOMMENDED}
        known = ("bits", "rules", *(_RECOMMENDED if forms == _RECOMMENDED else ()))
        if forms == _RECOMMENDED:
            words.append("recommended")
        for source in (uniform, self):
            for name, field in type(source).model_fields.items():
                value = getattr(source, name)
                if name not in known and value != field.default:
                    words.append(_SHORT.get(name, "{}").format("none" if value is None else value))
        if tuple(uniform.rules()) != self.rules:
            text = "".join(rule.to_json() for rule in self.rules)
            words.append("rules" + hashlib.sha256(text.encode()).hexdigest()[:8])
        return "-".join(words)

    def _card(self) -> tuple[str, dict[str, str]]:
        rows = {}
        for rule in self.rules:
            where = " ".join(part for part in ("" if rule.path == "*" else rule.path, rule.kind) if part)
            others = {
                name: value for name, value in rule._changes().items() if name not in ("path", "kind", "bits")
            }
            words = [] if rule.bits is None else ["full precision" if rule.bits == "full" else f"{rule.bits} bits"]
            rows[where or "everything"] = ", ".join([*words, *(f"{n} {v}" for n, v in others.items())])
        rows |= {name: value for name, value in self._changes().items() if name != "rules"}
        return f"Scheme {self.label}", rows

    def __repr__(self) -> str:
        """Its label and its rules, ten lines at most."""
        return card(*self._card())

    __str__ = __repr__

    def _uniform(self) -> Uniform:
        """The shorthand that says most of the scheme."""
        other, state = self.spec("gelu"), self.spec("state")
        percent = other.observer.percent if isinstance(other.observer, Percentile) else 99.999
        return Uniform(
            bits=self.bits,
            granularity=state.granularity,
            symmetric=other.symmetric,
            percentile=percent,
            calibration=other.calibration,
            state_calibration=state.calibration,
        )


NAMED = ("recommended", "uniform", "w4a6", "w8a8")
"""Names that `Scheme.named` knows."""
_RECOMMENDED = {
    "granularity": "state",
    "rounding": "dithered",
    "pole_form": "log_polar",
    "pole_multiplier_bits": 12,
    "rate_limit": 1.5,
    "scales": "power_of_two",
    "weight_rounding": "outputs",
}
_PAPER = {"rounding_placement": "separate", "gelu": "piecewise"}
_SHORT = {
    "symmetric": "sym",
    "percentile": "p{}",
    "calibration": "{}",
    "state_calibration": "{}-x",
    "state_clip": "clip{}",
    "grad_clamp": "clamp{}",
    "residual_bits": "residual{}",
    "rate_limit": "rate{}",
    "max_period": "period{}",
    "scales": "pow2",
    "pole_decay_bits": "decay{}",
    "pole_multiplier_bits": "multiplier{}",
}
"""How an option that differs from its default is named in a label; {} where nothing stands here."""
_LATER = (
    "residual_bits",
    "rate_limit",
    "max_period",
    "scales",
    "pole_form",
    "pole_decay_bits",
    "pole_multiplier_bits",
    "weight_rounding",
)
"""Fields that came after files and results had been written: left out of them at their defaults, so that these
(and digests and keys) stay what they were. For the same reason their defaults must stay."""


def _bits(width: int | None) -> str:
    return "fp" if width is None else str(width)
