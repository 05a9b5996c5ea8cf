"""What studies need of chips, and the only place of theirs that knows how designs and deployments are made."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from imc_ssm.chip import TIMES, Deployment, compile, evaluate
from imc_ssm.costs import COMPONENTS
from imc_ssm.costs import cost as price
from imc_ssm.devices import Design, load_design, resolve
from imc_ssm.files import canonical_json

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

_PROSE = ("source", "sources", "description")


def described(design: Design) -> dict[str, Any]:
    """A design in a key: its name, and a digest of the chip that it resolves to, all but its prose."""
    text = canonical_json(_facts(resolve(design).model_dump(mode="json")))
    return {"name": design.name, "sha256": hashlib.sha256(text.encode()).hexdigest()[:20]}


def _facts(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _facts(item) for name, item in value.items() if name not in _PROSE}
    return [_facts(item) for item in value] if isinstance(value, list) else value


def place(model: Classifier, design: Design, calibration: Tensor, lengths: Tensor | None, name: str) -> Deployment:
    """The quantized model on the chip."""
    return compile(model, design, calibration, lengths, name=name)
