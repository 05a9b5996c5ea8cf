"""Matrices and elementwise operators: what each joins, stores and does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import Format, of_parts, plan_gate, plan_linear, plan_scale_add, plan_sum
from imc_ssm.fixedpoint import operations as integer
from imc_ssm.fixedpoint.requantization import CONSTANT_BITS, MULTIPLIER_BITS
from imc_ssm.graph.actions import Action, Actions, Multiplication, Stored, grown
from imc_ssm.graph.requantizing import Kind, Requantized
from imc_ssm.graph.signals import Formats, Parameter, Rate, Signal

__all__ = ["Gate", "Join", "Last", "LookUp", "Matrix", "Mean", "Operator", "Piecewise", "Rectify"]
__all__ += ["Scale", "Source", "Sum", "Words"]

Words = Mapping[str, NDArray[Any]]
"""Path of a parameter -> its codes."""


@dataclass(frozen=True)
class Operator(ABC):
    """One operation of an inference."""

    name: str
    """For people; it decides nothing."""
    module: str
    """Dotted path of the module that does it."""
    inputs: tuple[Signal, ...]
    """What it reads."""
    output: Signal
    """What it makes."""
    reverse: bool = field(default=False, kw_only=True)
    """Whether it runs from the end of a sequence to its start."""

    @property
    def rate(self) -> Rate:
        """How often it runs: as often as its inputs exist."""
        return self.inputs[0].rate

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Paths and sizes of the numbers that it uses and that are stored."""
        return ()

    @property
    def codes(self) -> tuple[str, ...]:
        """Paths that must have formats where any of the operator's states has one: it computes on integers."""
        return ()

    @abstractmethod
    def actions(self, formats: Formats, steps: int) -> list[Action]:
        """What the hardware does each time it runs, in an inference of `steps` steps.

        Raises `FormatError` where something that has to be a word has no format.
        """

    def products(self, bits: Callable[[str], int]) -> list[Multiplication]:
        """What its equation multiplies each time it runs; `bits`: width of the words of a path."""
        return []

    def integer(self, formats: Formats, words: Words) -> integer.Operation | None:
        """What it does in integers, from the formats of everything and the codes of all parameters by path.

        None: nothing, it is the source. Raises `FormatError` where something has no format.
        """
        raise FormatError(f"operator {self.name!r} has no integer form; give its class a method `integer`")

    def stored(self, formats: Formats, steps: int) -> list[Stored]:
        """What it keeps in digital memories: its output in the activation buffer, and its constants."""
        return [
            Stored("activations", self.output.width, self.output_bits(formats, steps)),
            *self._constants(formats),
        ]

    def output_bits(self, formats: Formats, steps: int) -> int:
        """Width of the output's words."""
        return formats.bits(self.output.name)

    def load(self, formats: Formats) -> list[Action]:
        """What the hardware does once, when the model is loaded, beyond writing words as they come."""
        return []

    def saved(self, formats: Formats) -> int:
        """Bits by which parameters are shorter as they come from outside than as they are kept for use."""
        return 0

    def _constants(self, formats: Formats) -> list[Stored]:
        """Parameters and requantization constants."""
        return []

    def _to_output(self, formats: Formats, *kinds: Kind) -> Requantized:
        """From products to the output's grid."""
        return Requantized.of(formats, self.output.name, self.output.width, *kinds)

    def _input(self, formats: Formats, index: int = 0) -> int:
        return formats.bits(self.inputs[index].name)

    def _format(self, formats: Formats, index: int | None = None) -> Format:
        """Of the output, or of an input, with one entry a channel unless it is one for all."""
        signal = self.output if index is None else self.inputs[index]
        return of_parts(formats[signal.name], 1 + signal.complex)

    def _words(self, words: Words, name: str) -> NDArray[Any]:
        """The codes of one of the module's parameters; `FormatError` where there are none."""
        path = f"{self.module}.{name}"
        if path not in words:
            raise FormatError(f"{path!r} has no codes; make them of the quantized model: quantization.words_of")
        return np.asarray(words[path])

    def _read(self, at: Actions, formats: Formats, purpose: str = "inputs", index: int = 0) -> Action:
        return at.read("activations", self.inputs[index].width, self._input(formats, index), purpose)

    def _write(self, at: Actions, formats: Formats, steps: int) -> Action:
        return at.write("activations", self.output.width, self.output_bits(formats, steps), "outputs")


@dataclass(frozen=True)
class Source(Operator):
    """The sequence itself: it comes from outside, and costs nothing here."""

    @property
    def rate(self) -> Rate:
        return self.output.rate

    def integer(self, formats: Formats, words: Words) -> None:
        self._format(formats)

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        return []

    def stored(self, formats: Formats, steps: int) -> list[Stored]:
        return []


@dataclass(frozen=True)
class Matrix(Operator):
    """A dense matrix-vector product y = W x + bias.

    It belongs on analog crossbar tiles: a chip that has it there says itself what that takes. `actions` is the
    product on the digital unit, from weights in memory.
    """

    biased: bool = True

    @property
    def weight(self) -> str:
        """Path of W (outputs, inputs)."""
        return f"{self.module}.weight"

    @property
    def bias(self) -> str | None:
        """Path of the bias (outputs,)."""
        return f"{self.module}.bias" if self.biased else None

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        words = [Parameter(self.weight, self.inputs[0].width * self.output.width)]
        if self.bias is not None:
            words.append(Parameter(self.bias, self.output.width))
        return tuple(words)

    def products(self, bits: Callable[[str], int]) -> list[Multiplication]:
        (x,) = self.inputs
        return [Multiplication(x.width * self.output.width, (bits(self.weight), bits(x.name)))]

    def integer(self, formats: Formats, words: Words) -> integer.LinearOperation:
        source, weight = self._format(formats, 0), formats[self.weight]
        output = self._format(formats) if self.output.name in formats else None
        bias = None
        if self.bias is not None:
            given = self._words(words, "bias")
            bias = formats[self.bias].dequantize(given) if self.bias in formats else given.astype(np.float64)
        shape = self.output.width, self.inputs[0].width
        return integer.LinearOperation(
            plan_linear(weight, source, output, shape, bias), self._words(words, "weight")
        )

    def _sum_bits(self, formats: Formats) -> int:
        product = formats.bits(self.weight) + self._input(formats)
        return grown(product, self.inputs[0].width + int(self.biased))

    def output_bits(self, formats: Formats, steps: int) -> int:
        """Width of the output's words: of the whole sums where they have no format (a decoder's logits)."""
        if self.output.name in formats:
            return formats.bits(self.output.name)
        return self._scaled(formats).bits

    def _scaled(self, formats: Formats) -> Requantized:
        """From sums to the output's grid; inputs with scales of their own are on one before."""
        target = self.output.name if self.output.name in formats else None
        sums = Kind(self._sum_bits(formats), (self.weight,), "y")
        return Requantized.of(formats, target, self.output.width, sums, also=(self.inputs[0].name,))

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, inputs, outputs = Actions(self.rate), self.inputs[0].width, self.output.width
        width, total, scaled = formats.bits(self.weight), self._sum_bits(formats), self._scaled(formats)
        out = [
            self._read(at, formats),
            at.read("coefficients", inputs * outputs, width, "weights"),
            at.multiply(inputs * outputs, width, self._input(formats), "W x"),
            *at.add(inputs * outputs, total, "sum over inputs"),
        ]
        if self.bias is not None:
            out.append(at.read("coefficients", outputs, formats.bits(self.bias), "bias"))
            out += at.add(outputs, total, "bias", own_slot=True)
        out += [
            at.read("coefficients", outputs, scaled.constant, "requantization of each output"),
            *scaled.products(at, outputs),
            self._write(at, formats, steps),
        ]
        return out

    def _constants(self, formats: Formats) -> list[Stored]:
        words = [Stored("parameters", p.words, formats.bits(p.name)) for p in self.parameters]
        return [*words, Stored("requantization", self.output.width, self._scaled(formats).constant)]


@dataclass(frozen=True)
class Scale(Operator):
    """y + D u on every channel; inputs (y, u)."""

    @property
    def d(self) -> str:
        """Path of D."""
        return f"{self.module}.d"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (Parameter(self.d, self.output.width),)

    def products(self, bits: Callable[[str], int]) -> list[Multiplication]:
        return [Multiplication(self.output.width, (bits(self.d), bits(self.inputs[1].name)))]

    def integer(self, formats: Formats, words: Words) -> integer.ScaleAddOperation:
        y, u = (self._format(formats, i) for i in (0, 1))
        plan = plan_scale_add(y, formats[self.d], u, self._format(formats), self.output.width)
        return integer.ScaleAddOperation(plan, self._words(words, "d"))

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, width, scaled = Actions(self.rate), self.output.width, self._scaled(formats)
        u, d = self._input(formats, 1), formats.bits(self.d)
        return [
            self._read(at, formats),
            self._read(at, formats, "input of the layer", 1),
            at.read("coefficients", width, d, "D"),
            at.multiply(width, d, u, "D u"),
            *scaled.products(at, width),
            *at.add(width, scaled.bits, "y + D u"),
            *scaled.rounded(at, width, "round y + D u"),
            self._write(at, formats, steps),
        ]

    def _scaled(self, formats: Formats) -> Requantized:
        y, u = (signal.name for signal in self.inputs)
        product = Kind(formats.bits(self.d) + formats.bits(u), (self.d, u), "D u")
        return self._to_output(formats, product, Kind(formats.bits(y), (y,), "y"))

    def _constants(self, formats: Formats) -> list[Stored]:
        return [
            Stored("parameters", self.output.width, formats.bits(self.d)),
            Stored("requantization", 2, self._scaled(formats).constant),
        ]


class Tabled(Operator):
    """A function of one code, whatever computes it: in integers a table, the module's words `table`."""

    def integer(self, formats: Formats, words: Words) -> integer.TableOperation:
        source, _ = self._format(formats, 0), self._format(formats)
        low = np.broadcast_to(source.low, self.output.width)
        return integer.TableOperation(self._words(words, "table"), low)


@dataclass(frozen=True)
class LookUp(Tabled):
    """A function of one code: one access to its table for each value."""

    function: str = "GELU"

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, bits = Actions(self.rate, "nonlinearity"), self._input(formats)
        return [
            self._read(at, formats),
            at.other("nonlinearity", "lookup", self.output.width, bits, self.function),
            self._write(at, formats, steps),
        ]


@dataclass(frozen=True)
class Piecewise(Tabled):
    """x min(max(0, x + 2), 4) / 4: a sum, a clamp, a product and a shift."""

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, bits, width = Actions(self.rate, "nonlinearity"), self._input(formats), self.output.width
        return [
            self._read(at, formats),
            *at.add(width, bits + 1, "x + 2, clamped", own_slot=True),
            at.multiply(width, bits, bits + 1, "x (x + 2)"),
            *self._scaled(formats).products(at, width),
            self._write(at, formats, steps),
        ]

    def _scaled(self, formats: Formats) -> Requantized:
        (x,) = (signal.name for signal in self.inputs)
        return self._to_output(formats, Kind(2 * formats.bits(x) + 1, (x, x), "", -2))

    def _constants(self, formats: Formats) -> list[Stored]:
        return [Stored("requantization", 1, self._scaled(formats).constant)]


@dataclass(frozen=True)
class Rectify(Tabled):
    """max(0, x), from one grid to another: a comparison and a product."""

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, bits, width = Actions(self.rate, "nonlinearity"), self._input(formats), self.output.width
        return [
            self._read(at, formats),
            *at.add(width, bits + 1, "x > 0", own_slot=True),
            *self._scaled(formats).products(at, width),
            self._write(at, formats, steps),
        ]

    def _scaled(self, formats: Formats) -> Requantized:
        (x,) = (signal.name for signal in self.inputs)
        return self._to_output(formats, Kind(formats.bits(x) + 1, (x,), ""))

    def _constants(self, formats: Formats) -> list[Stored]:
        return [Stored("requantization", 1, self._scaled(formats).constant)]


@dataclass(frozen=True)
class Gate(Operator):
    """x_1 sigmoid(x_2): half as many outputs as inputs, one table access and one product each."""

    def products(self, bits: Callable[[str], int]) -> list[Multiplication]:
        own = bits(self.inputs[0].name)
        return [Multiplication(self.output.width, (own, own))]

    def integer(self, formats: Formats, words: Words) -> integer.GateOperation:
        plan = plan_gate(self._format(formats, 0), self._format(formats), self.output.width)
        return integer.GateOperation(plan, self._words(words, "table"))

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, bits, width = Actions(self.rate, "nonlinearity"), self._input(formats), self.output.width
        return [
            self._read(at, formats, "value and gate"),
            at.other("nonlinearity", "lookup", width, bits, "sigmoid of the gate"),
            at.multiply(width, bits, bits, "value x sigmoid"),
            *self._scaled(formats).products(at, width),
            self._write(at, formats, steps),
        ]

    def _scaled(self, formats: Formats) -> Requantized:
        (x,), bits = (signal.name for signal in self.inputs), self._input(formats)
        return self._to_output(formats, Kind(2 * bits, (x,), "", 1 - bits))

    def _constants(self, formats: Formats) -> list[Stored]:
        return [Stored("requantization", 1, self._scaled(formats).constant)]


@dataclass(frozen=True)
class Sum(Operator):
    """The residual sum; inputs (branch, input of the layer)."""

    def integer(self, formats: Formats, words: Words) -> integer.AddOperation:
        first, second = (self._format(formats, i) for i in (0, 1))
        return integer.AddOperation(plan_sum(first, second, self._format(formats), self.output.width))

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, width, scaled = Actions(self.rate), self.output.width, self._scaled(formats)
        return [
            self._read(at, formats),
            self._read(at, formats, "input of the layer", 1),
            *scaled.products(at, width),
            *at.add(width, scaled.bits, "residual sum"),
            *scaled.rounded(at, width, "round the residual sum"),
            self._write(at, formats, steps),
        ]

    def _scaled(self, formats: Formats) -> Requantized:
        names = ("the branch", "the input of the layer")
        kinds = (Kind(formats.bits(s.name), (s.name,), n) for s, n in zip(self.inputs, names, strict=True))
        return self._to_output(formats, *kinds)

    def _constants(self, formats: Formats) -> list[Stored]:
        return [Stored("requantization", 2, self._scaled(formats).constant)]


@dataclass(frozen=True)
class Join(Sum):
    """The sum of what ran forward and backward in time.

    The one direction waits for the other: the input and one output of every step are kept.
    """

    def stored(self, formats: Formats, steps: int) -> list[Stored]:
        waiting = (steps - 1) * self.output.width
        kept = (self._input(formats), self._input(formats, 1))
        return [*super().stored(formats, steps), *(Stored("activations", waiting, bits) for bits in kept)]


@dataclass(frozen=True)
class Last(Operator):
    """The last step of a sequence: what is in the buffer when it ends."""

    def integer(self, formats: Formats, words: Words) -> integer.EndOperation:
        self._format(formats, 0)
        return integer.EndOperation()

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        return []

    def stored(self, formats: Formats, steps: int) -> list[Stored]:
        return []


@dataclass(frozen=True)
class Mean(Operator):
    """Running mean over time: a sum every step, one product at the end of a sequence."""

    def integer(self, formats: Formats, words: Words) -> integer.MeanOperation:
        return integer.MeanOperation(self._format(formats, 0), self._format(formats), self.output.width)

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, once, width = Actions(self.rate), Actions("sequence"), self.output.width
        total = grown(self._input(formats), steps)
        return [
            self._read(at, formats),
            *at.add(width, total, "running sum", own_slot=True),
            once.multiply(width, total, MULTIPLIER_BITS, "1 / steps"),
            self._write(once, formats, steps),
        ]

    def _constants(self, formats: Formats) -> list[Stored]:
        return [Stored("requantization", 1, CONSTANT_BITS)]
