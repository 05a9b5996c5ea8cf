"""What studies need of chips, and the only place of theirs that knows how designs and deployments are made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from imc_ssm.chip import TIMES, ChipTraining, Deployment, compile, digest, evaluate, priced_digest, training_for
from imc_ssm.costs import BOUNDS, COMPONENTS, by_operator
from imc_ssm.costs import cost as price
from imc_ssm.devices import Design, load_design, resolve, stream_seed

if TYPE_CHECKING:
    from torch import Tensor

    from imc_ssm.layers import Classifier

__all__ = [
    "BOUNDS",
    "COMPONENTS",
    "TIMES",
    "ChipTraining",
    "Deployment",
    "Design",
    "OnDesign",
    "by_operator",
    "described",
    "described_price",
    "evaluate",
    "load_design",
    "loaded",
    "place",
    "price",
    "stream_seed",
    "training_for",
]


def loaded(design: Any) -> Any:
    """A design, also by its name or path."""
    return load_design(design) if isinstance(design, str) else design


OnDesign = Annotated[Design, BeforeValidator(loaded)]
"""A chip design, or the name or path of one."""


def described(design: Design) -> dict[str, Any]:
    """A design in a key: its name, and a digest of the chip that it resolves to, all but its prose and prices."""
    return {"name": design.name, "sha256": digest(resolve(design))}


def described_price(design: Design) -> dict[str, Any]:
    """As `described`, with the prices."""
    return {"name": design.name, "sha256": priced_digest(resolve(design))}


def place(model: Classifier, design: Design, calibration: Tensor, lengths: Tensor | None, name: str) -> Deployment:
    """The quantized model on the chip."""
    return compile(model, design, calibration, lengths, name=name)
