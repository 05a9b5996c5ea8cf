"""What studies need of chips, and the only place of theirs that knows how designs and deployments are made."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from imc_ssm.analog import Design, load_design
from imc_ssm.costs import COMPONENTS
from imc_ssm.costs import cost as price
from imc_ssm.costs.components import load_components
from imc_ssm.deployment import Deployment, compile
from imc_ssm.evaluation import TIMES, evaluate
from imc_ssm.files import canonical_json

if TYPE_CHECKING:
    from torch import Tensor

    from imc_ssm.s4d import Classifier

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

_PROSE = ("source", "sources", "description")


def described(design: Design) -> dict[str, Any]:
    """A design in a key: its name, and a digest of it, its cell and its components, all but their prose."""
    parts = {"design": design, "cell": design.load_cell(), "components": load_components(design.components)}
    text = canonical_json(_facts({name: part.model_dump(mode="json") for name, part in parts.items()}))
    return {"name": design.name, "sha256": hashlib.sha256(text.encode()).hexdigest()[:20]}


def _facts(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _facts(item) for name, item in value.items() if name not in _PROSE}
    return [_facts(item) for item in value] if isinstance(value, list) else value


def place(model: Classifier, design: Design, calibration: Tensor, lengths: Tensor | None, name: str) -> Deployment:
    """The quantized model on the chip."""
    return compile(model, design, calibration, lengths, name=name)
