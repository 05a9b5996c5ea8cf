"""What is measured at a point of a sweep, whatever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imc_ssm.errors import ConfigError, ImcSsmError, shown, unknown
from imc_ssm.study.jobs.base import Variable
from imc_ssm.sweeps.space import Space

if TYPE_CHECKING:
    from imc_ssm.sweeps.workshop import Workshop

__all__ = ["FunctionObjective", "Objective", "Values", "shape_of"]

Values = dict[str, npt.NDArray[np.float64]]
"""Variable -> numbers."""


def shape_of(variable: Variable) -> tuple[int, ...]:
    """Sizes of a variable's own dimensions, which have to be known beforehand."""
    return tuple(len(dimension.labels or ()) for dimension in variable.dimensions)


class Objective(ABC):
    """What is measured. A point is a mapping from fields to values (`Space.changes`)."""

    @property
    @abstractmethod
    def variables(self) -> tuple[Variable, ...]:
        """What `measure` finds; their dimensions have labels."""

    @abstractmethod
    def check(self, space: Space) -> None:
        """`ConfigError` for an axis whose fields or values cannot be."""

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """All that decides the numbers, as JSON."""

    @abstractmethod
    def coordinate(self, path: str) -> tuple[str, str]:
        """Unit and long name of a field."""

    @abstractmethod
    def measure(self, changes: Mapping[str, Any], shop: Workshop, *, probe: bool = False) -> Iterator[Values]:
        """What is found at a point, in pieces, the cheap ones first: whoever asks may stop after each.

        `probe`: also what the first chip alone finds. Raises `ImcSsmError` for a point that cannot be.
        """

    def group(self, changes: Mapping[str, Any], shop: Workshop) -> str:
        """A key that points share whose measuring has a part in common: they are best done by one process."""
        return ""

    def prepared(self, changes: Mapping[str, Any], shop: Workshop) -> str | None:
        """The key of what several groups need first (a trained model) and is not there yet; None: nothing."""
        return None

    def prepare(self, changes: Mapping[str, Any], shop: Workshop) -> None:
        """Make that."""
        return

    def about(self) -> dict[str, Any]:
        """Attributes of the dataset."""
        return {}


class FunctionObjective(Objective):
    """A function of a point: `f({"x": 0.5}) -> {"loss": 1.2}`, a number a variable."""

    def __init__(
        self, function: Callable[[dict[str, Any]], Mapping[str, float]], variables: Mapping[str, tuple[str, str]]
    ) -> None:
        """`variables`: name -> (units, long name) of what it returns."""
        if not variables:
            raise ConfigError(
                "a function as objective: give variables = {name: (units, long name)} of its results"
            )
        self.function = function
        self._variables = tuple(Variable(name, *about) for name, about in variables.items())

    @property
    def variables(self) -> tuple[Variable, ...]:
        """As declared."""
        return self._variables

    def check(self, space: Space) -> None:
        """Any axis will do."""
        return

    def described(self) -> dict[str, Any]:
        """Its name, which is all that can be said of a function."""
        return {"function": getattr(self.function, "__qualname__", type(self.function).__name__)}

    def coordinate(self, path: str) -> tuple[str, str]:
        """The path itself."""
        return "1", path

    def measure(self, changes: Mapping[str, Any], shop: Workshop, *, probe: bool = False) -> Iterator[Values]:
        """Call it."""
        found = self.function(dict(changes))
        names = [variable.name for variable in self._variables]
        if not isinstance(found, Mapping) or set(found) != set(names):
            given = sorted(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
            raise ImcSsmError(f"the objective returned {given}; it was declared to return {', '.join(names)}")
        try:
            values = {name: np.asarray(float(found[name])) for name in names}
        except (TypeError, ValueError):
            said = ", ".join(f"{name} = {shown(found[name])}" for name in names)
            raise ImcSsmError(f"the objective returned {said}; give a number for each") from None
        yield values


def variable_named(variables: tuple[Variable, ...], name: str) -> Variable:
    """The variable of a name; `ConfigError` names the nearest."""
    found = {variable.name: variable for variable in variables}
    if name not in found:
        raise ConfigError(unknown("variable", name, found))
    return found[name]
