"""Signals, stored parameters, the formats of both, and the graph that operators make of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imc_ssm.errors import FileError, FormatError, ImcSsmError, shown
from imc_ssm.fixedpoint import Format

if TYPE_CHECKING:
    from imc_ssm.graph.operators import Operator

__all__ = ["Formats", "Graph", "Kind", "Parameter", "Place", "Rate", "Signal"]

Rate = Literal["step", "sequence"]
"""How often a signal exists: once per time step, or once per sequence (after pooling)."""
Kind = Literal["activation", "state", "parameter"]
"""What a path names: a signal, a register that keeps a signal from step to step, or something that is stored."""


@dataclass(frozen=True)
class Signal:
    """An activation: a vector of `width` real numbers."""

    name: str
    """Its path, unique in a model: the key of its format."""
    width: int
    """Channels: real numbers of one vector."""
    rate: Rate = "step"
    """How often it exists."""
    complex: bool = False
    """Real parts of width / 2 complex numbers, then their imaginary parts, which share formats."""
    kind: Kind = "activation"
    """"state" where the signal is a register."""


@dataclass(frozen=True)
class Parameter:
    """Stored numbers of one operator."""

    name: str
    """Its path, the key of its format."""
    words: int
    """Real numbers."""
    kind: Kind = "parameter"
    """"state" for registers that no signal shows."""
    pole: bool = False
    """Whether they are the poles of a recurrence."""


class Formats(Mapping[str, Format]):
    """Path of a signal, state or parameter -> its `Format`: what quantizing writes and everything else reads."""

    def __init__(self, formats: Mapping[str, Format] | Iterable[tuple[str, Format]] = ()) -> None:
        self._formats = dict(formats)

    def __getitem__(self, path: str) -> Format:
        try:
            return self._formats[path]
        except KeyError:
            raise FormatError(
                f"{path!r} is in full precision and has no format; a chip computes in words: give it bits and "
                f"quantize again (with formats are: {', '.join(sorted(self._formats)) or 'none'})"
            ) from None

    def __repr__(self) -> str:
        words = sorted({fmt.bits for fmt in self._formats.values()})
        return f"Formats({len(self)} paths, {', '.join(map(str, words)) or 'no'} bits)"

    def __contains__(self, path: object) -> bool:
        return path in self._formats

    def __iter__(self) -> Iterator[str]:
        return iter(self._formats)

    def __len__(self) -> int:
        return len(self._formats)

    def bits(self, path: str) -> int:
        """Word length at a path; `FormatError` where it is in full precision."""
        return self[path].bits

    def centred(self, path: str) -> int:
        """Width of the centred codes q - z at a path, their sign included: what multipliers and adders get.

        n bits where all zero points are 0, n + 1 where one is not (docs/fixed_point.md, sections 1 and 6); fewer
        where a clip leaves few codes in use. `FormatError` where the path is in full precision.
        """
        fmt = self[path]
        most, least = int((fmt.high - fmt.zero_point).max()), int((fmt.low - fmt.zero_point).min())
        return 1 + max(1, most.bit_length(), max(0, -least - 1).bit_length())

    def several(self, *paths: str) -> bool:
        """Whether any of these has a format for each channel, head or state: constants that follow are as many."""
        return any(self[path].scale.ndim > 0 for path in paths)

    def tensors(self) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
        """Scales and zero points by path, and the rest as JSON: what files hold (`of_tensors` reads it)."""
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        rest: dict[str, Any] = {}
        for path, fmt in self.items():
            arrays |= {f"{path}/scale": np.asarray(fmt.scale), f"{path}/zero_point": np.asarray(fmt.zero_point)}
            rest[path] = {"bits": fmt.bits, "symmetric": fmt.symmetric, "clip": fmt.clip}
        return arrays, rest

    @classmethod
    def of_tensors(cls, arrays: Mapping[str, np.ndarray[Any, Any]], rest: Mapping[str, Any]) -> Formats:
        """What `tensors` gave; `FileError` where something is missing."""
        try:
            return cls(
                {
                    path: Format(
                        int(fmt["bits"]),
                        arrays[f"{path}/scale"],
                        arrays[f"{path}/zero_point"],
                        bool(fmt["symmetric"]),
                        fmt["clip"],
                    )
                    for path, fmt in rest.items()
                }
            )
        except (KeyError, TypeError) as error:
            raise FileError(f"the formats lack {error}; compile the model again") from None


@dataclass(frozen=True)
class Graph:
    """All operators of one inference, in the order in which they run."""

    operators: tuple[Operator, ...]

    def __post_init__(self) -> None:
        made: set[str] = set()
        for op in self.operators:
            lost = [signal.name for signal in op.inputs if signal.name not in made]
            if lost:
                raise ImcSsmError(f"operator {op.name!r} reads {lost[0]!r}, which no operator before it makes")
            if op.output.name in made:
                raise ImcSsmError(f"two operators make a signal {op.output.name!r}; give each its own path")
            made.add(op.output.name)

    def __repr__(self) -> str:
        return f"Graph({len(self.operators)} operators: {shown([op.name for op in self.operators])})"

    def __iter__(self) -> Iterator[Operator]:
        return iter(self.operators)

    def __len__(self) -> int:
        return len(self.operators)

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Every signal, in the order in which they are made."""
        return tuple(op.output for op in self.operators)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Everything that is stored."""
        return tuple(parameter for op in self.operators for parameter in op.parameters)

    def kinds(self) -> dict[str, Kind]:
        """Path -> kind of everything that can have a format, in the order of the operators."""
        kinds: dict[str, Kind] = {}
        for op in self.operators:
            kinds |= {parameter.name: parameter.kind for parameter in op.parameters}
            kinds[op.output.name] = op.output.kind
        return kinds

    def of_module(self, path: str) -> tuple[Operator, ...]:
        """The operators of one module."""
        return tuple(op for op in self.operators if op.module == path)

    def modules(self) -> tuple[str, ...]:
        """Paths of the modules that have operators, in the order of their first one."""
        return tuple(dict.fromkeys(op.module for op in self.operators))


@dataclass(frozen=True)
class Place:
    """Where a module sits in a model, and the list that collects what it does."""

    path: str = ""
    operators: list[Operator] = field(default_factory=list)
    reverse: bool = False
    """Whether what stands here runs from the end of a sequence."""

    def __truediv__(self, name: str) -> Place:
        """The place of a part."""
        return replace(self, path=f"{self.path}.{name}" if self.path else name)

    def label(self, name: str = "") -> str:
        """What people call an operator here: its last name, and the number of its block from the second one on."""
        parts = self.path.split(".")
        block = f"{parts[1]}." if parts[0] == "blocks" and parts[1] != "0" else ""
        return block + (name or parts[-1])

    def signal(self, name: str = "", *, width: int, **options: Any) -> Signal:
        """A signal of the module here: its path, with a name behind it where it makes several."""
        return Signal((self / name).path if name else self.path, width, **options)

    def emit(self, op: Operator) -> Signal:
        """Add an operator; its output."""
        self.operators.append(replace(op, reverse=True) if self.reverse else op)
        return op.output
