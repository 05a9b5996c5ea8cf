"""The wall of quantized modules: which class takes the place of which, and what it needs to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import nn

from imc_ssm.errors import ImcSsmError
from imc_ssm.fixedpoint import Format
from imc_ssm.graph import Graph, Signal
from imc_ssm.quantization.quantizer import Quantizer
from imc_ssm.quantization.rules import FormatSpec
from imc_ssm.quantization.scheme import Scheme

__all__ = ["QUANTIZED", "Context", "QuantizedModule", "all_fixed", "check_static", "fits"]
__all__ += ["quantized_class", "quantizes"]


@dataclass(frozen=True)
class Context:
    """What a quantized module is made from, besides the module whose place it takes."""

    path: str
    """The module's."""
    scheme: Scheme
    specs: Mapping[str, FormatSpec]
    """Path -> what the scheme says, of everything in the model."""
    graph: Graph
    """Of the model in full precision."""
    quantizers: Mapping[str, Quantizer]
    """Signal -> its quantizer, of the modules before this one."""

    def spec(self, name: str = "") -> FormatSpec:
        """What the scheme says of the module's own signal, state or parameter."""
        return self.specs[f"{self.path}.{name}" if name else self.path]

    @property
    def moving(self) -> tuple[str, ...]:
        """Paths of all signals and states of the model whose ranges follow the batch."""
        kinds = self.graph.kinds()
        read = {signal.name for op in self.graph for signal in op.inputs}
        return tuple(
            path
            for path, spec in self.specs.items()
            if spec.bits is not None and spec.calibration == "dynamic" and (path in read or kinds[path] == "state")
        )

    def source(self, index: int = 0) -> Quantizer:
        """The quantizer of a signal that enters the module's first operator; the module before it owns it."""
        return self.quantizers[self.graph.of_module(self.path)[0].inputs[index].name]

    def sources(self) -> tuple[Quantizer | None, ...]:
        """The quantizers of all signals that enter the module's first operator; None for one that has none."""
        return tuple(self.quantizers.get(s.name) for s in self.graph.of_module(self.path)[0].inputs)

    def output(self, name: str = "", **options: Any) -> Quantizer:
        """A new quantizer for a signal that the module makes."""
        path = f"{self.path}.{name}" if name else self.path
        signal = next(s for s in self.graph.signals if s.name == path)
        return self.quantizer(name, _shape(signal), parts=1 + signal.complex, **options)

    def quantizer(self, name: str, shape: int | tuple[int, ...], **options: Any) -> Quantizer:
        """A new quantizer as the scheme says of `name`, in a shape of its own unless there is one for the
        tensor."""
        spec = self.spec(name)
        return Quantizer(
            spec.bits,
            None if spec.granularity == "tensor" else shape,
            symmetric=spec.symmetric,
            power_of_two=spec.power_of_two,
            dynamic=spec.calibration == "dynamic",
            observer=spec.observer,
            **options,
        )


def all_fixed(quantizers: tuple[Quantizer | None, ...]) -> tuple[Format, ...] | None:
    """The formats of all of them, one entry a channel; None where one is not known before the values are."""
    formats = []
    for quantizer in quantizers:
        fmt = None if quantizer is None else quantizer.fixed()
        if fmt is None:
            return None
        formats.append(fmt)
    return tuple(formats)


def fits(fmt: Format, channels: int) -> bool:
    """Whether it is for all channels, or for each of so many: a module of one's own may stack several vectors."""
    return not fmt.scale.ndim or len(fmt.scale) == channels


def check_static(moving: Sequence[str], what: str) -> None:
    """`ImcSsmError`: `what` needs fixed formats, where the ranges of some paths (`moving`) are dynamic."""
    if moving:
        named = ", ".join(moving[:3]) + (f" and {len(moving) - 3} more" if len(moving) > 3 else "")
        raise ImcSsmError(
            f"{what} needs fixed formats, but the ranges of {named} are dynamic: they follow each batch; quantize "
            "with static calibration"
        )


def _shape(signal: Signal) -> int:
    return signal.width // 2 if signal.complex else signal.width


class QuantizedModule(Protocol):
    """A `torch.nn.Module` in the place of another one, with the same `forward`, `step` and `graph`."""

    @classmethod
    def of(cls, module: Any, context: Context) -> nn.Module:
        """The module, wrapped as the scheme says."""
        ...

    def quantizers(self) -> dict[str, Quantizer]:
        """Quantizers of the signals and states that it owns, by their last names ("": the module's own path)."""
        ...

    def formats(self) -> dict[str, Format]:
        """Formats in force of its signals, states and parameters, by their last names."""
        ...


QUANTIZED: dict[type[nn.Module], Any] = {}
"""Class of a module -> class of its quantized form."""

Q = TypeVar("Q", bound=type)


def quantizes(*modules: type[nn.Module]) -> Callable[[Q], Q]:
    """Class decorator: the quantized form of these modules."""

    def known(made: Q) -> Q:
        QUANTIZED.update(dict.fromkeys(modules, made))
        return made

    return known


def quantized_class(module: nn.Module, path: str) -> Any:
    """The quantized form of a module; `ImcSsmError` where there is none."""
    for kind in type(module).__mro__:
        if kind in QUANTIZED:
            return QUANTIZED[kind]
    raise ImcSsmError(
        f"{path}: {type(module).__name__} has no quantized form yet; build the model without it, or "
        "register one with imc_ssm.quantization.quantizes"
    )
