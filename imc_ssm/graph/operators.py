"""Matrices and elementwise operators: what each joins, stores and does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imc_ssm.errors import FormatError
from imc_ssm.fixedpoint import GATE_BITS, Format, of_parts, plan_gate, plan_linear, plan_scale_add, plan_sum
from imc_ssm.fixedpoint import operations as integer
from imc_ssm.fixedpoint.requantization import MULTIPLIER_BITS
from imc_ssm.graph.actions import Action, Actions, Multiplication, Stored, grown
from imc_ssm.graph.requantizing import Kind, Requantized
from imc_ssm.graph.signals import Formats, Parameter, Rate, Signal

__all__ = [
    "Gate",
    "Join",
    "LookUp",
    "Matrix",
    "Operator",
    "Piecewise",
    "Rectify",
    "Scale",
    "Source",
    "Sum",
    "Words",
]

SIGMOID_BITS = GATE_BITS + 1
"""A gate's sigmoid."""
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
        """Width of an input's words in the buffer."""
        return formats.bits(self.inputs[index].name)

    def _centred(self, formats: Formats, index: int = 0) -> int:
        """Width of an input's centred codes: of the operands of products and sums."""
        return formats.centred(self.inputs[index].name)

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
    product on the digital unit, from weights in memory: inputs with scales of their own are brought to one, in
    words as long as theirs (those of docs/integer_model.md, which keep every bit of every channel, are longer);
    sums over inputs are requantized, and the bias, in the unit of that product since the model was loaded, is
    added behind it. Where all scales are powers of two it is added in front of the shift.
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
        return grown(formats.centred(self.weight) + self._centred(formats), self.inputs[0].width)

    def _total(self, formats: Formats) -> int:
        """Width of an output before it is rounded, bias included."""
        return self._scaled(formats).bits + int(self.biased)

    def _aligned(self, formats: Formats) -> bool:
        """Whether inputs have scales of their own, which have to meet in the sum."""
        return formats.several(self.inputs[0].name)

    def output_bits(self, formats: Formats, steps: int) -> int:
        """Width of the output's words: of the whole sums where they have no format (a decoder's logits)."""
        if self.output.name in formats:
            return formats.bits(self.output.name)
        return self._total(formats)

    def load(self, formats: Formats) -> list[Action]:
        return self.bias_loaded(formats, self._total(formats))

    def saved(self, formats: Formats) -> int:
        return self.bias_saved(formats, self._total(formats))

    def bias_loaded(self, formats: Formats, total: int) -> list[Action]:
        """Once, each bias is brought to the unit of an accumulator of `total` bits, by a multiplier of 24 bits."""
        if self.bias is None:
            return []
        at, outputs = Actions("sequence"), self.output.width
        return [
            at.multiply(outputs, formats.centred(self.bias), MULTIPLIER_BITS, "bias in the accumulator's unit"),
            at.write("coefficients", outputs, total, "bias"),
        ]

    def bias_saved(self, formats: Formats, total: int) -> int:
        """Bits by which biases are shorter as they come than in an accumulator of `total` bits."""
        return 0 if self.bias is None else self.output.width * (total - formats.bits(self.bias))

    def _scaled(self, formats: Formats) -> Requantized:
        """From sums to the output's grid; inputs with scales of their own are on one before."""
        target = self.output.name if self.output.name in formats else None
        sums = Kind(self._sum_bits(formats), (self.weight,), "y")
        return Requantized.of(formats, target, self.output.width, sums, also=(self.inputs[0].name,))

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, inputs, outputs = Actions(self.rate), self.inputs[0].width, self.output.width
        entering, scaled = self._centred(formats), self._scaled(formats)
        out = [self._read(at, formats)]
        if self._aligned(formats):
            align = self._alignment(formats)
            out += [*align.read(at, "alignment of the inputs"), *align.products(at, inputs)]
        out += [
            at.read("coefficients", inputs * outputs, formats.bits(self.weight), "weights"),
            at.multiply(inputs * outputs, formats.centred(self.weight), entering, "W x"),
            *at.add(inputs * outputs, self._sum_bits(formats), "sum over inputs"),
            *scaled.read(at, "requantization of each output"),
        ]
        products, bias = scaled.products(at, outputs), list[Action]()
        if self.bias is not None:
            shifted = scaled.left is not None
            bias = [
                at.read("coefficients", outputs, self._total(formats), "bias"),
                *at.add(outputs, self._total(formats), "bias", own_slot=shifted),
            ]
            products = [*bias, *products] if shifted else [*products, *bias]
        return [*out, *products, self._write(at, formats, steps)]

    def _alignment(self, formats: Formats) -> Requantized:
        """From inputs to words of one scale, the widest of theirs."""
        entering = self.inputs[0]
        return Requantized.of(formats, None, entering.width, Kind(self._centred(formats), (entering.name,), "x"))

    def _constants(self, formats: Formats) -> list[Stored]:
        out = [Stored("parameters", self.inputs[0].width * self.output.width, formats.bits(self.weight))]
        if self.bias is not None:
            out.append(Stored("parameters", self.output.width, self._total(formats)))
        if self._aligned(formats):
            out.append(self._alignment(formats).stored())
        return [*out, self._scaled(formats).stored()]


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
        u, d = self._centred(formats, 1), formats.centred(self.d)
        return [
            self._read(at, formats),
            self._read(at, formats, "input of the layer", 1),
            at.read("coefficients", width, formats.bits(self.d), "D"),
            *scaled.read(at),
            at.multiply(width, d, u, "D u"),
            *scaled.products(at, width),
            *at.add(width, scaled.bits, "y + D u"),
            *scaled.rounded(at, width, "round y + D u"),
            self._write(at, formats, steps),
        ]

    def _scaled(self, formats: Formats) -> Requantized:
        y, u = (signal.name for signal in self.inputs)
        product = Kind(formats.centred(self.d) + formats.centred(u), (self.d, u), "D u")
        return self._to_output(formats, product, Kind(formats.centred(y), (y,), "y"))

    def _constants(self, formats: Formats) -> list[Stored]:
        return [
            Stored("parameters", self.output.width, formats.bits(self.d)),
            self._scaled(formats).stored(),
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
        at, words = Actions(self.rate, "nonlinearity"), (self._input(formats), self.output_bits(formats, steps))
        return [
            self._read(at, formats),
            at.lookup(self.output.width, *words, self.function),
            self._write(at, formats, steps),
        ]


@dataclass(frozen=True)
class Piecewise(Tabled):
    """x min(max(0, x + 2), 4) / 4: a sum, a clamp, a product and a shift."""

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, bits, width = Actions(self.rate, "nonlinearity"), self._centred(formats), self.output.width
        scaled = self._scaled(formats)
        return [
            self._read(at, formats),
            *scaled.read(at),
            *at.add(width, bits + 1, "x + 2, clamped", own_slot=True),
            at.multiply(width, bits, bits + 1, "x (x + 2)"),
            *scaled.products(at, width),
            self._write(at, formats, steps),
        ]

    def _scaled(self, formats: Formats) -> Requantized:
        (x,) = (signal.name for signal in self.inputs)
        return self._to_output(formats, Kind(2 * formats.centred(x) + 1, (x, x), "", -2))

    def _constants(self, formats: Formats) -> list[Stored]:
        return [self._scaled(formats).stored()]


@dataclass(frozen=True)
class Rectify(Tabled):
    """max(0, x), from one grid to another: a comparison and a product."""

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, width, scaled = Actions(self.rate, "nonlinearity"), self.output.width, self._scaled(formats)
        return [
            self._read(at, formats),
            *scaled.read(at),
            *at.add(width, self._centred(formats), "x > 0", own_slot=True),
            *scaled.products(at, width),
            self._write(at, formats, steps),
        ]

    def _scaled(self, formats: Formats) -> Requantized:
        (x,) = (signal.name for signal in self.inputs)
        return self._to_output(formats, Kind(formats.centred(x), (x,), ""))

    def _constants(self, formats: Formats) -> list[Stored]:
        return [self._scaled(formats).stored()]


@dataclass(frozen=True)
class Gate(Operator):
    """x_1 sigmoid(x_2): half as many outputs as inputs, one table access and one product each.

    The sigmoid has 17 bits, 2^16 being 1, without a sign (docs/integer_model.md).
    """

    def products(self, bits: Callable[[str], int]) -> list[Multiplication]:
        own = bits(self.inputs[0].name)
        return [Multiplication(self.output.width, (own, own))]

    def integer(self, formats: Formats, words: Words) -> integer.GateOperation:
        plan = plan_gate(self._format(formats, 0), self._format(formats), self.output.width)
        return integer.GateOperation(plan, self._words(words, "table"))

    def actions(self, formats: Formats, steps: int) -> list[Action]:
        at, width, scaled = Actions(self.rate, "nonlinearity"), self.output.width, self._scaled(formats)
        return [
            self._read(at, formats, "value and gate"),
            *scaled.read(at),
            at.lookup(width, self._input(formats), SIGMOID_BITS, "sigmoid of the gate"),
            at.multiply(width, self._centred(formats), SIGMOID_BITS, "value x sigmoid"),
            *scaled.products(at, width),
            self._write(at, formats, steps),
        ]

    def _scaled(self, formats: Formats) -> Requantized:
        (x,), bits = (signal.name for signal in self.inputs), self._centred(formats)
        return self._to_output(formats, Kind(bits + SIGMOID_BITS, (x,), "", -GATE_BITS))

    def _constants(self, formats: Formats) -> list[Stored]:
        return [self._scaled(formats).stored()]


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
            *scaled.read(at),
            *scaled.products(at, width),
            *at.add(width, scaled.bits, "residual sum", own_slot=scaled.left is not None),
            *scaled.rounded(at, width, "round the residual sum"),
            self._write(at, formats, steps),
        ]

    def _scaled(self, formats: Formats) -> Requantized:
        names = ("the branch", "the input of the layer")
        kinds = (Kind(formats.centred(s.name), (s.name,), n) for s, n in zip(self.inputs, names, strict=True))
        return self._to_output(formats, *kinds)

    def _constants(self, formats: Formats) -> list[Stored]:
        return [self._scaled(formats).stored()]


@dataclass(frozen=True)
class Join(Sum):
    """The sum of what ran forward and backward in time; inputs (forward, backward).

    What runs backward begins at the end: until then what enters the layer is kept, step by step, and so is what
    came out forward, each in its own words.
    """

    entering: Signal = field(kw_only=True)
    """What both directions read."""

    def stored(self, formats: Formats, steps: int) -> list[Stored]:
        waiting = (
            Stored("activations", (steps - 1) * signal.width, formats.bits(signal.name))
            for signal in (self.entering, self.inputs[0])
        )
        return [*super().stored(formats, steps), *waiting]
