"""What studies need of chips, and the only place of theirs that knows how designs and deployments are made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imc_ssm.chip import TIMES, Deployment, compile, digest, evaluate
from imc_ssm.costs import COMPONENTS
from imc_ssm.costs import cost as price
from imc_ssm.devices import Design, load_design, resolve

if TYPE_CHECKING:
    from torch import Tensor

    from imc_ssm.layers import Classifier

__all__ = [
    "COMPONENTS",
    "TIMES",
    "Deployment",
    "Design",
    "described",
    "evaluate",
    "load_design",
    "place",
    "price",
]


def described(design: Design) -> dict[str, Any]:
    """A design in a key: its name, and a digest of the chip that it resolves to, all but its prose."""
    return {"name": design.name, "sha256": digest(resolve(design))}


def place(model: Classifier, design: Design, calibration: Tensor, lengths: Tensor | None, name: str) -> Deployment:
    """The quantized model on the chip."""
    return compile(model, design, calibration, lengths, name=name)
