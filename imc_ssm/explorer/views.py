"""What the plane shows: two quantities, a colour, and what the front asks for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from imc_ssm.errors import ConfigError
from imc_ssm.explorer.points import Points
from imc_ssm.explorer.quantities import Quantity, label_of
from imc_ssm.plots.reading import MODELS

__all__ = ["CHOSEN", "FRONT", "MISSING", "NAMED", "View", "colours_of", "view_of"]

FRONT, CHOSEN, MISSING = "#222222", "#CC3311", "#BBBBBB"
NAMED = 8
"""Values that have a colour each, and a line of the legend; more numbers get a scale, of more texts the rest is
grey."""


@dataclass(frozen=True)
class View:
    """What the plane shows."""

    x: Quantity
    y: Quantity
    colour: str | None = None
    """A field or a quantity."""
    minimise: tuple[Quantity, ...] = ()
    maximise: tuple[Quantity, ...] = ()
    log_x: bool = False
    log_y: bool = False

    @property
    def plane(self) -> bool:
        """Whether the front is a line here: the two axes are what is asked for."""
        return {*self.minimise, *self.maximise} == {self.x, self.y} and self.x != self.y


def colours_of(points: Points, name: str | None) -> tuple[dict[str, str], np.ndarray[Any, Any] | None]:
    """Value in words -> colour for something with few values, else numbers (points,) for a scale."""
    if name is None:
        return {}, None
    field = next((f for f in points.varied if f.name == name), None)
    if field is None or (field.numeric and len(field.values) > NAMED):
        return {}, points.scaled(name).values
    labels = [label_of(name, value) for value in field.values]
    shown = labels[:NAMED]
    palette = (*MODELS, "#EE8866", "#777777")
    return {label: palette[i] for i, label in enumerate(shown)} | dict.fromkeys(labels[NAMED:], MISSING), None


def searched(points: Points) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a sweep was to minimise and to maximise, by its configuration, as far as the points have it."""
    try:
        search = json.loads(points.source.attrs["configuration"])["search"]
        found = tuple(search.get("minimise", ())), tuple(search.get("maximise", ()))
        for text in (*found[0], *found[1]):
            points.quantity(text)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError):
        return (), ()
    return found


def view_of(
    points: Points,
    x: str | None = None,
    y: str | None = None,
    colour: str | None = None,
    minimise: tuple[str, ...] = (),
    maximise: tuple[str, ...] = (),
) -> View:
    """What is shown where only some of it was asked for: of a sweep that looked for something its goals, on the
    axes the first of each kind; else goals that nobody gave are those of the axes.

    Raises `ConfigError` for a quantity or a field that is not there.
    """
    first = points.usual()
    if x is None and y is None and not minimise and not maximise:
        minimise, maximise = searched(points)
        if minimise and maximise:
            x, y = minimise[0], maximise[0]
    across, up = points.quantity(x or first[0]), points.quantity(y or first[1])
    colour = colour or first[2]
    if colour is not None and colour not in [field.name for field in points.varied]:
        colour = points.quantity(colour).name
    small, large = [points.quantity(q) for q in minimise], [points.quantity(q) for q in maximise]
    if not small and not large:
        small, large = points.goals(across, up)
    logs = (points.wide(across), points.wide(up))
    return View(across, up, colour, tuple(small), tuple(large), *logs)
