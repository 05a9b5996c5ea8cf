"""One point of a design space: a model, how it is made, its chip, and how that is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from imc_ssm import datasets
from imc_ssm.chip import digest
from imc_ssm.config import Config
from imc_ssm.devices import Chip, load_design, resolve
from imc_ssm.errors import ConfigError, unknown
from imc_ssm.files import canonical_json
from imc_ssm.layers import ModelConfig
from imc_ssm.quantization import Scheme
from imc_ssm.study.chips import OnDesign
from imc_ssm.training import TrainConfig
from imc_ssm.units import DAY, moments

__all__ = ["COSTS_ONLY", "ChipPoint", "Fractions", "computed_key", "key_of", "mapped_key", "sha256_of"]

_FREE: Any = {
    "design": {
        *("name", "description", "sources", "adc", "read_noise", "drift_compensation", "tiles", "columns_per_adc"),
        *("node", "clock", "lanes", "components", "sample_hold", "electrics", "wires", "packing"),
    },
    "adc": True,
    "sample_hold": True,
    "digital": True,
}
"""Fields of a chip that where weights lie, and over which ranges, does not follow from."""


COSTS_ONLY: Any = {
    "design": {
        *("name", "description", "sources", "tiles", "columns_per_adc"),
        *("node", "clock", "lanes", "components", "sample_hold", "electrics"),
    },
    "cell": {"area", "v_read", "source", "description"},
    "dac": {"price"},
    "adc": {"price"},
    "sample_hold": True,
    "digital": True,
}
"""Fields of a chip that nothing computed on it follows from, while slow noise stands still."""


def _named_scheme(scheme: Any) -> Any:
    return Scheme.named(scheme) if isinstance(scheme, str) else scheme


OfScheme = Annotated[Scheme, BeforeValidator(_named_scheme)]
"""A scheme, or the name of one."""


class Fractions(Config):
    """What is pruned before a model is quantized, or, where it is already, before it is compiled (`imc_ssm.prune`,
    in one round without training; `ChipPoint.qat` trains what is left)."""

    states: float = Field(0.0, ge=0, lt=1)
    """Fraction of the states that goes."""
    heads: float = Field(0.0, ge=0, lt=1)
    """Fraction of the heads of every stream."""
    weights: float = Field(0.0, ge=0, lt=1)
    """Fraction of the weights of every matrix of the blocks that become 0."""
    columns: float = Field(0.0, ge=0, lt=1)
    """Fraction of their columns."""
    rows: float = Field(0.0, ge=0, lt=1)
    """Fraction of their rows."""
    criterion: str | None = None
    """Name of the criterion; None: the usual one of each part."""

    @property
    def any(self) -> bool:
        """Whether anything goes."""
        return any((self.states, self.heads, self.weights, self.columns, self.rows))


class ChipPoint(Config):
    """A model, how it is trained and quantized, the chip that it goes to, and how that is measured.

    Every field, and every field of a field, can be an axis of a sweep: "model.heads", "scheme.bits.state",
    "design.adc.bits", "cell.programming_scale".
    """

    start: str | None = None
    """A model file, quantized or to be quantized by `scheme`, or the name of a shipped model; None: `model` is
    trained."""
    task: str | None = None
    """A task, or the path of an .npz; None: what the model file says that it was trained on."""
    model: ModelConfig | None = None
    """The model that is trained in full precision."""
    training: TrainConfig = TrainConfig(epochs=30)
    """How."""
    mode: Literal["recurrent", "convolution"] = "convolution"
    """How its SSM runs in it."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's parameters trainings leave, by the validation sequences; of noisy ones the last."""
    prune: Fractions = Fractions()
    """What is taken out of it before that."""
    scheme: OfScheme | None = None
    """How the model is quantized; None: it is already."""
    qat: TrainConfig | None = None
    """Quantization-aware training; None: calibration alone."""
    qat_for_chip: bool = False
    """Whether that training meets the chip (`imc_ssm.training_for`)."""
    calibration: int | None = Field(None, ge=1)
    """Training sequences that fix ranges; None: as `imc_ssm.quantize` takes them."""
    design: OnDesign = Field(default_factory=lambda: load_design("pcm-256"))
    """The chip: the name of a design, a path, or the design itself."""
    cell: dict[str, Any] = Field(default_factory=dict)
    """Fields of its cell in the place of those of the cell's file."""
    recurrence: Literal["digital", "analog"] = "digital"
    """Where recurrences are computed."""
    heads_per_tile: int = Field(1, ge=1)
    """Of an analog recurrence."""
    chips: int = Field(5, ge=1)
    """Chips that are programmed: the same numbers, so the same draws, at every point."""
    times: Annotated[tuple[float, ...], BeforeValidator(moments)] = (1.0, DAY)
    """Times after programming, s; also words, "1h"."""
    sequences: int | None = Field(None, ge=1)
    """Sequences of the split, drawn by the seed, the same at every point; None: all."""
    split: Literal["validation", "test", "train"] = "validation"
    """Whose sequences: a point that is chosen by its test accuracy has seen the test."""
    refresh: float | None = Field(None, gt=0)
    """Interval at which chips are programmed again, s; None: never."""
    recalibrate: float | None = Field(None, gt=0)
    """Interval at which compensation is measured again, s; None: at every reading."""
    within: Literal["held", "correlated", "white"] = "held"
    """What slow noise does while sequences run (`imc_ssm.evaluate`)."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of trainings, chips and sequences."""

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.start is None) == (self.model is None):
            raise ValueError("give either start, a model file, or model, the configuration to be trained")
        if self.start is None and (self.scheme is None or self.task is None):
            raise ValueError("a model that is trained here needs a task and a scheme")
        if self.qat is not None and self.scheme is None:
            raise ValueError("qat trains a model that scheme quantizes; give scheme too")
        return self

    def at(self, changes: Mapping[str, Any]) -> Self:
        """With other values of fields, by their paths; whole ones first. Raises `ConfigError`."""
        whole = {path: value for path, value in changes.items() if "." not in path}
        inside = {path: value for path, value in changes.items() if "." in path}
        constants = {p.removeprefix("cell."): v for p, v in inside.items() if p.startswith("cell.")}
        rest = {p: v for p, v in inside.items() if not p.startswith("cell.")}
        for path in (*whole, *rest):
            if path.partition(".")[0] not in type(self).model_fields:
                raise ConfigError(unknown("field", path, type(self).model_fields))
        made = self.with_(whole) if whole else self
        if constants:
            made = made.with_({"cell": made.cell | constants})
        return made.with_(rest) if rest else made

    def chip(self) -> Chip:
        """The design with its cell and components."""
        chip = resolve(self.design)
        return chip.with_({"cell": chip.cell.with_(self.cell)}) if self.cell else chip

    def trained(self) -> dict[str, Any]:
        """What decides the model in full precision, or the one of a file."""
        if self.start is not None:
            return {"start": sha256_of(self.start)}
        assert self.model is not None
        own: dict[str, Any] = {
            "model": self.model.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
        }
        own |= {"mode": self.mode, "keep": self.keep, "seed": self.seed, "task": self.task}
        return own | {"data": datasets.digest(str(self.task))}

    def decided(self) -> dict[str, Any]:
        """What decides the quantized model."""
        taken = {"prune": self.prune.model_dump(mode="json"), "seed": self.seed} if self.prune.any else {}
        if self.scheme is None:
            return self.trained() | taken
        own: dict[str, Any] = {"scheme": self.scheme.model_dump(mode="json"), "calibration": self.calibration}
        own |= {"from": self.trained(), "task": self.task} | taken
        if self.qat is not None:
            own |= {"qat": self.qat.model_dump(mode="json"), "seed": self.seed, "keep": self.keep}
            own |= {"chip": digest(self.chip())} if self.qat_for_chip else {}
        return own


def key_of(content: Any) -> str:
    return hashlib.sha256(canonical_json(content, what="a point").encode()).hexdigest()[:20]


def sha256_of(start: str) -> str:
    from imc_ssm.pretrained import model_file

    path = Path(model_file(start))
    try:
        stat = path.stat()
    except OSError as error:
        raise ConfigError(f"start = {start!r} cannot be read: {error.strerror}; give a model file") from None
    return _hashed(path.resolve(), stat.st_mtime_ns, stat.st_size)


_HASHES: dict[tuple[Path, int, int], str] = {}


def _hashed(path: Path, changed: int, size: int) -> str:
    if (path, changed, size) not in _HASHES:
        _HASHES[path, changed, size] = hashlib.sha256(path.read_bytes()).hexdigest()
    return _HASHES[path, changed, size]


def mapped_key(chip: Chip) -> str:
    """Of everything about a chip that compiling depends on: two chips of one key have the same mapped matrices."""
    return key_of(chip.model_dump(mode="json", exclude=_FREE))


def computed_key(chip: Chip) -> str:
    """Of everything about a chip that its answers depend on: two chips of one key answer alike."""
    return key_of(chip.model_dump(mode="json", exclude=COSTS_ONLY))
