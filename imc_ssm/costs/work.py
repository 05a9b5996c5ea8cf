"""What a quantized model asks of any machine: its graph, its words, and how often each action is taken."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imc_ssm.chip import Deployment
from imc_ssm.chip.crossbars import OnCrossbar
from imc_ssm.devices import Digital, load_components
from imc_ssm.errors import ConfigError, DesignError, ImcSsmError
from imc_ssm.graph import Action, Formats, Graph, Matrix, Operator
from imc_ssm.layers import classifier_of
from imc_ssm.quantization import formats_of

if TYPE_CHECKING:
    from imc_ssm.layers import Classifier

__all__ = ["CONTENT", "Work", "cycles", "due"]

CONTENT = {"parameters": "coefficients", "requantization": "coefficients", "state": "state"}
CONTENT["activations"] = "activations"
"""What is stored -> the memory that holds it."""


@dataclass(frozen=True)
class Work:
    """A quantized model, for machines that compute its matrices digitally too."""

    graph: Graph
    formats: Formats
    steps: int
    """Of one inference."""
    digital: Digital
    """The table of digital components."""
    clock: float
    """Hz, of machines that name none."""
    lanes: int
    """Of the digital unit, of machines that name none."""

    @classmethod
    def of(
        cls,
        model: Deployment | Classifier,
        *,
        steps: int | None = None,
        components: str = "periphery-32nm",
        clock: float = 1e9,
        lanes: int = 16,
    ) -> Work:
        """Of a deployment, with its steps, components, clock and lanes; of a quantized model, with those given.

        Raises `DesignError` for a deployment whose recurrences are on tiles, `ImcSsmError` for a model without
        formats.
        """
        if isinstance(model, Deployment):
            moved = [op.name for op in model.graph if isinstance(op, OnCrossbar)]
            if moved:
                raise DesignError(
                    f"recurrence {moved[0]!r} is on tiles and has no words that another machine could compute "
                    "with; compile with recurrence 'digital'"
                )
            digital, clock = model.chip.digital, model.design.clock.value
            return cls(model.graph, model.formats, model.steps, digital, clock, model.design.lanes)
        model = classifier_of(model, "compare")
        if getattr(model, "scheme", None) is None:
            raise ImcSsmError("the model is in full precision; quantize it first (imc_ssm.quantize)")
        if steps is None or steps < 1:
            raise ConfigError(f"steps = {steps!r}; a model has no length: give those of an inference, 1 or more")
        return cls(model.graph(), formats_of(model), steps, load_components(components).digital(), clock, lanes)

    @property
    def matrices(self) -> Iterator[Matrix]:
        """The dense products."""
        return (op for op in self.graph if isinstance(op, Matrix))

    def actions(self, operator: Operator) -> list[Action]:
        """All of an operator, on digital hardware."""
        return operator.actions(self.formats, self.steps)

    def macs(self, operator: Matrix) -> int:
        """Multiply-accumulates each time that it runs."""
        return operator.inputs[0].width * operator.output.width

    def runs(self, operator: Operator) -> int:
        """How often an operator runs in an inference."""
        return self.steps if operator.rate == "step" else 1

    def weights(self) -> int:
        """Bits of all weights."""
        return sum(self.macs(op) * self.formats.bits(op.weight) for op in self.matrices)

    def vectors(self) -> int:
        """Bits of one step's activations: every operator's output."""
        ops = (op for op in self.graph if op.output.rate == "step" and any(self.actions(op)))
        return sum(op.output.width * op.output_bits(self.formats, self.steps) for op in ops)

    def widest_weight(self) -> int:
        """Bits of the longest weights; 1 without any."""
        return max((self.formats.bits(op.weight) for op in self.matrices), default=1)

    def stored(self) -> dict[str, int]:
        """Bits by memory: coefficients, state, activations, and the weights of matrices apart."""
        held = dict.fromkeys((*CONTENT.values(), "weights"), 0)
        for op in self.graph:
            for words in op.stored(self.formats, self.steps):
                held[CONTENT[words.content]] += words.count * words.bits
        held["weights"] = self.weights()
        held["coefficients"] -= held["weights"]
        return held


def due(actions: Iterable[Action], steps: int) -> Iterator[tuple[list[Action], int]]:
    """Kinds of times at which some of an operator's actions of one rate are taken: those actions, and how often.

    At rate "step" actions of period k are taken in every k-th step, and periods divide each other.
    """
    actions = list(actions)
    periods = sorted({action.period for action in actions if action.rate == "step"})
    times = [steps // period for period in periods]
    for i, period in enumerate(periods):
        count = times[i] - (times[i + 1] if i + 1 < len(times) else 0)
        if count:
            yield [a for a in actions if a.rate == "step" and a.period <= period], count
    once = [a for a in actions if a.rate == "sequence"]
    if once:
        yield once, 1


def cycles(bits: int, width: int) -> int:
    """Transfers of `bits` over a port or a register of `width`."""
    return math.ceil(bits / width)
