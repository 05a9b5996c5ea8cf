"""A sweep as a whole: its space, its search and its objective, what it writes down of itself, and one cell of
it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imc_ssm.errors import ConfigError, FileError, ImcSsmError
from imc_ssm.sweeps.candidate import ChipObjective
from imc_ssm.sweeps.dataset import assembled, flattened, width_of
from imc_ssm.sweeps.fronts import Reading, scalar
from imc_ssm.sweeps.objective import Objective, Values, variable_named
from imc_ssm.sweeps.point import ChipPoint
from imc_ssm.sweeps.search import Search
from imc_ssm.sweeps.space import Space
from imc_ssm.sweeps.store import Found, Status, Store
from imc_ssm.sweeps.workshop import Workshop

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Plan", "SweepFile"]


_TAKEN = {"status", "trial", "chip", "time", "component", "bound"}
"""Variables and dimensions of every sweep's dataset."""


class SweepFile(Search):
    """A sweep as a TOML says it: the fields of `Search`, `[objective]` (`ChipPoint`) and `[space]`.

    title = "Converters"
    method = "sobol"
    trials = 200

    [objective]
    start = "q.safetensors"

    [space]
    design.adc.bits = [4, 6, 8]
    design.read_noise = { low = 0.01, high = 0.1, log = true }
    """

    title: str = "Sweep"
    """One line for people."""
    objective: dict[str, Any]
    """Fields of `ChipPoint`."""
    space: dict[str, Any]
    """Axes (`Space`)."""

    @classmethod
    def plan(cls, path: str | Path) -> Plan:
        """The sweep of a TOML; paths in it are relative to it. Raises `FileError` or `ConfigError`."""
        path = Path(path)
        read = cls.from_toml(path)
        given = dict(read.objective)
        for name in ("start", "task", "design"):
            if isinstance(given.get(name), str):
                given[name] = _beside(path, given[name])
        try:
            point = ChipPoint.parse(given)
            search = Search.parse({name: getattr(read, name) for name in Search.model_fields})
            return Plan(Space.of(_paths(path, read.space)), search, ChipObjective(point), title=read.title)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None


def _beside(path: Path, text: str) -> str:
    """A file that lies beside the TOML; a name as it is."""
    if Path(text).suffix in (".toml", ".safetensors", ".npz", ".ts") and not Path(text).is_absolute():
        return str(path.parent / text)
    return text


def _paths(path: Path, space: Any) -> Any:
    if isinstance(space, Mapping):
        return {name: _paths(path, content) for name, content in space.items()}
    if isinstance(space, list):
        return [_beside(path, value) if isinstance(value, str) else value for value in space]
    return space


class Plan:
    """What is varied, how it is searched and what is measured."""

    def __init__(self, space: Space, search: Search, objective: Objective, *, title: str = "Sweep") -> None:
        """Raises `ConfigError` for axes, goals or constraints that cannot be."""
        self.space, self.search, self.objective, self.title = space, search, objective, title
        objective.check(space)
        self.variables = objective.variables
        self.declared = {variable.name: variable for variable in self.variables}
        for name in space.axes:
            if name in self.declared or name in _TAKEN:
                what = "a variable" if name in self.declared else "what every sweep's dataset has"
                raise ConfigError(f"axis {name!r} has the name of {what}; choose another")
        for text in (*search.goals, *(constraint.name for constraint in search.constraints)):
            variable_named(self.variables, Reading.of(text).name)
        _ = search.count(space)

    def configuration(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "space": self.space.model_dump(mode="json", exclude_none=True) | {"order": list(self.space.axes)},
            "search": self.search.model_dump(mode="json"),
            "objective": self.objective.described(),
        }

    def identity(self) -> dict[str, Any]:
        """What makes it this sweep: all but how many trials, and where a model's file lies."""
        whole = self.configuration()
        whole["search"].pop("trials")
        if not self.search.guided:
            for name in ("maximise", "minimise", "hopeless"):
                whole["search"].pop(name)
        objective = whole["objective"]
        if "point" in objective:
            whole["objective"] = objective | {
                "point": {n: v for n, v in objective["point"].items() if n != "start"}
            }
        return whole

    def store(self, folder: str | Path) -> Store:
        """Its folder, made if there is none; `FileError` for that of another sweep."""
        about = {"title": self.title, "configuration": self.configuration()}
        return Store.create(Path(folder), about, self.identity(), self.width)

    @property
    def width(self) -> int:
        """Numbers of a cell's record."""
        return len(self.space.axes) + width_of(self.variables)

    def dataset(self, store: Store) -> xr.Dataset:
        """What was found so far."""
        cells = store.read(len(self.space.axes))
        configuration = store.about["configuration"] | {"search": self.search.model_dump(mode="json")}
        about = {"title": self.title, "configuration": configuration}  # the store's: a model file may be gone
        return assembled(self.space, self.search, self.objective, cells, about)

    def measured(
        self,
        number: int,
        point: Mapping[str, Any],
        shop: Workshop,
        hopeless: Callable[[Values], bool] | None = None,
    ) -> Found:
        """One cell. `hopeless`: whether to leave it, from its costs and its first chip.

        Raises `FileError` where a file cannot be read or written.
        """
        start = time.perf_counter()
        found: Values = {}
        status, message = Status.DONE, ""
        try:
            changes = self.space.changes(point)
            for piece in self.objective.measure(changes, shop, probe=hopeless is not None):
                found |= piece
                whole = all(np.isfinite(found[n]).all() if n in found else False for n in self.declared)
                if len(found) == len(self.declared) and whole:
                    break
                if self._broken(found):
                    status = Status.INFEASIBLE
                    break
                if hopeless is not None and hopeless(found):
                    status = Status.HOPELESS
                    break
        except FileError:
            raise
        except ImcSsmError as error:
            status, message, found = Status.REFUSED, str(error), {}
        return Found(
            number,
            status,
            round(time.perf_counter() - start, 4),
            np.asarray(self.space.numbers(point)),
            flattened(self.variables, found),
            message,
        )

    def _broken(self, found: Values) -> bool:
        for constraint in self.search.constraints:
            number = scalar(self.declared, found, constraint.name)
            if number is not None and constraint.violation(number) > 0:
                return True
        return False


def plan_of(about: Mapping[str, Any]) -> Plan:
    """The plan that a store, or the attributes of a dataset, say (`Plan.configuration`).

    Raises `ConfigError` for the sweep of a function, which no file holds.
    """
    configuration = about["configuration"]
    if "point" not in configuration["objective"]:
        name = configuration["objective"].get("function", "a function")
        raise ConfigError(f"the objective was {name}, which no file holds; give objective = the function")
    objective = ChipObjective(ChipPoint.parse(configuration["objective"]["point"]))
    axes = configuration["space"]["axes"]
    space = Space.of({name: axes[name] for name in configuration["space"]["order"]})
    return Plan(space, Search.parse(configuration["search"]), objective, title=str(about.get("title", "Sweep")))
