"""What a sweep varies: axes over fields, their values in a grid, at a point of the unit cube, and in a record."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from imc_ssm.config import Config
from imc_ssm.errors import ConfigError, shown, unknown

__all__ = ["Axis", "Space"]

Number = int | float
MOST = 10**7
"""Points of a grid, at most."""


class Axis(Config):
    """One direction of a space: values that are listed, or a range.

        Axis(values=(4, 6, 8))                          listed; also texts, None, true and false, tables
        Axis(low=0.01, high=0.1, log=True)              any number between, even in the logarithm
        Axis(low=8, high=64, step=8)                    8, 16, ..., 64
        Axis(low=0.01, high=0.1, points=5)              in a grid: so many, evenly spaced
        Axis(values=(64, 128), fields=("design.rows", "design.columns"))       several fields at once

    Where both ends are whole numbers, so is everything between.
    """

    values: tuple[Any, ...] | None = None
    """Listed values, in the order of the dimension."""
    low: Number | None = None
    """Lowest value of a range, included."""
    high: Number | None = None
    """Highest value, included."""
    log: bool = False
    """Whether values are spread evenly in their logarithm."""
    step: Number | None = Field(None, gt=0)
    """Distance between the values of a range; None: any."""
    points: int | None = Field(None, ge=2, le=100_000)
    """How many values of a range a grid has."""
    fields: tuple[str, ...] = ()
    """Paths of the fields that take the value; none: the axis's name is one."""

    @field_validator("values", mode="before")
    @classmethod
    def _listed(cls, values: Any) -> Any:
        if isinstance(values, str) or (values is not None and not hasattr(values, "__iter__")):
            raise ValueError(f"give a list, [{values!r}]")
        return values if values is None else tuple(np.asarray(values).tolist() if _is_array(values) else values)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        ranged = self.low is not None or self.high is not None
        if (self.values is None) != ranged:
            raise ValueError("give either values = [...], or low and high")
        if self.values is not None:
            if self.log or self.step is not None or self.points is not None:
                raise ValueError("log, step and points belong to low and high; leave them out beside values")
            if any(isinstance(value, float) and not math.isfinite(value) for value in self.values):
                raise ValueError(f"values = {shown(self.values)}; give finite numbers")
            labels = [_text(value) for value in self.values]
            if not labels or len(set(labels)) < len(labels):
                raise ValueError(f"values = {shown(self.values)}; give at least one, each once")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"low = {self.low}, high = {self.high}; give both, low below high")
        if self.log and not self.low > 0:
            raise ValueError(f"low = {self.low} has no logarithm; give a positive one")
        if self.step is not None and (self.log or self.points is not None):
            raise ValueError("step and log or points say two things; leave one out")
        return self

    @property
    def whole(self) -> bool:
        """Whether a range has whole numbers alone."""
        return isinstance(self.low, int) and isinstance(self.high, int) and not isinstance(self.step, float)

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return self.values is None or all(_is_number(value) for value in self.values)

    @property
    def listed(self) -> tuple[Any, ...] | None:
        """The values that it can take; None: any number of a range."""
        if self.values is not None:
            return self.values
        assert self.low is not None
        assert self.high is not None
        if self.step is None:
            return None
        count = math.floor((self.high - self.low) / self.step * (1 + 1e-12)) + 1
        return tuple(self.low + i * self.step for i in range(count))

    def grid(self) -> tuple[Any, ...]:
        """Its values in a grid; `ConfigError` for a range that does not say how many."""
        if (listed := self.listed) is not None:
            return listed
        if self.points is None:
            raise ConfigError("a range has no end of values; for a grid give it points = 5, or step")
        return tuple(dict.fromkeys(self.at(u) for u in np.linspace(0.0, 1.0, self.points)))

    def at(self, u: float) -> Any:
        """Its value at 0 <= u <= 1: each listed one over an equal share, a range over all of it."""
        if (listed := self.listed) is not None:
            return listed[min(int(u * len(listed)), len(listed) - 1)]
        assert self.low is not None
        assert self.high is not None
        low, high = float(self.low), float(self.high)
        if self.whole and not self.log:
            return int(self.low) + min(int(u * (self.high - self.low + 1)), int(self.high - self.low))
        if self.log:
            value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
        else:
            value = low + u * (high - low)
        value = min(max(value, low), high)
        return round(value) if self.whole else value

    def number(self, value: Any) -> float:
        """A value as a record keeps it: its place in `values`, or the number of a range."""
        if self.values is None:
            return float(value)
        return float([_text(v) for v in self.values].index(_text(value)))

    def value(self, number: float) -> Any:
        """The value behind `number`."""
        if self.values is not None:
            return self.values[int(number)]
        return round(number) if self.whole else float(number)

    def label(self, value: Any) -> int | float | str:
        """A value as a coordinate: the number, or, where not all are numbers, a text."""
        return value if self.numeric else _text(value)

    def labelled(self, label: Any) -> Any:
        """The value of a coordinate; `ConfigError` names the nearest for one that it does not have."""
        label = label.item() if isinstance(label, (np.generic, np.ndarray)) else label
        if self.values is None:
            return round(label) if self.whole else float(label)
        found = {self.label(value): value for value in self.values}
        if label not in found:
            raise ConfigError(unknown("value", str(label), map(str, found), sort=False))
        return found[label]


class Space(Config):
    """The axes of a sweep, by name: the path of the field that an axis varies, or any name where it has `fields`.

    Made of a mapping too: `{"design.adc.bits": [4, 6, 8], "design.read_noise": {"low": 0.01, "high": 0.1}}`;
    tables within tables are paths.
    """

    axes: dict[str, Axis]
    """Name -> axis, in the order of the dimensions."""

    @classmethod
    def of(cls, given: Any) -> Space:
        """A space, or what a mapping says; `ConfigError` for anything else."""
        if isinstance(given, Space):
            return given
        if not isinstance(given, Mapping):
            raise ConfigError(f"a space is a mapping from fields to values, not a {type(given).__name__}")
        axes = _flat("", given)
        if not axes:
            raise ConfigError('the space is empty; give what is varied, such as "design.adc.bits" = [4, 6, 8]')
        made = {}
        for name, content in axes.items():
            if not isinstance(content, Axis | Mapping):
                content = {"values": content}
            made[name] = content if isinstance(content, Axis) else Axis.parse(content, where=f"axis {name!r}")
        return cls.parse({"axes": made})

    @field_validator("axes")
    @classmethod
    def _apart(cls, axes: dict[str, Axis]) -> dict[str, Axis]:
        paths = [path for name, axis in axes.items() for path in (axis.fields or (name,))]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        if twice:
            raise ValueError(f"{twice[0]!r} is varied by several axes; leave one out")
        return axes

    def changes(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Path of a field -> value, at a point (name -> value)."""
        return {path: value for name, value in point.items() for path in (self.axes[name].fields or (name,))}

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the grid."""
        sizes = []
        for name, axis in self.axes.items():
            try:
                sizes.append(len(axis.grid()))
            except ConfigError as error:
                raise ConfigError(f"axis {name!r}: {error}") from None
        if math.prod(sizes) > MOST:
            raise ConfigError(f"the grid has {math.prod(sizes)} points; at most {MOST}: draw some of them instead")
        return tuple(sizes)

    def grid(self) -> list[dict[str, Any]]:
        """Every point of the grid, the last axis fastest."""
        _ = self.shape
        each = [axis.grid() for axis in self.axes.values()]
        return [dict(zip(self.axes, values, strict=True)) for values in itertools.product(*each)]

    def at(self, unit: Iterable[float]) -> dict[str, Any]:
        """The point at coordinates of the unit cube."""
        return {name: axis.at(float(u)) for (name, axis), u in zip(self.axes.items(), unit, strict=True)}

    def numbers(self, point: Mapping[str, Any]) -> list[float]:
        """A point as a record keeps it."""
        return [axis.number(point[name]) for name, axis in self.axes.items()]

    def point(self, numbers: Iterable[float]) -> dict[str, Any]:
        """The point behind `numbers`."""
        return {name: axis.value(float(n)) for (name, axis), n in zip(self.axes.items(), numbers, strict=True)}


def _flat(path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Tables within tables as paths, down to what an axis is made of."""
    out: dict[str, Any] = {}
    for name, content in given.items():
        inner = f"{path}.{name}" if path else str(name)
        if isinstance(content, Mapping) and content and not content.keys() & Axis.model_fields.keys():
            out |= _flat(inner, content)
        else:
            out[inner] = content
    return out


def _is_array(values: Any) -> bool:
    return hasattr(values, "dtype")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    """A value in words: texts as they are, tables as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Config):
        return value.to_json()
    return "none" if value is None else json.dumps(value, sort_keys=True, default=str)
