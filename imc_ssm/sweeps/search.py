"""Which points of a space a sweep visits, and what it looks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from imc_ssm.config import Config
from imc_ssm.errors import ConfigError
from imc_ssm.sweeps.space import Space

__all__ = ["Constraint", "Method", "Search"]

Method = Literal["grid", "random", "sobol", "tpe", "nsga2"]
GUIDED = ("tpe", "nsga2")
"""Methods whose next point depends on what was found before."""
_BLOCK = 1024
"""Random points that are drawn at once."""
_RELATION = re.compile(r"\s*(.+?)\s*(<=|>=)\s*([-+0-9.eE]+)\s*")


class Constraint(Config):
    """What a point has to keep: "latency_total <= 1e-3"."""

    name: str
    """A number of a point, as `fronts.value` takes it."""
    relation: Literal["<=", ">="]
    """At most, or at least."""
    bound: float
    """In the number's own unit."""

    @classmethod
    def of(cls, text: Any) -> Constraint:
        """Read `text`; `ConfigError` for what is none."""
        if isinstance(text, Constraint | Mapping):
            return text if isinstance(text, Constraint) else cls.parse(text)
        match = _RELATION.fullmatch(str(text))
        try:
            bound = float(match[3]) if match else None
        except ValueError:
            bound = None
        if match is None or bound is None:
            raise ConfigError(f"constraint {text!r} is not understood; give one such as 'latency_total <= 1e-3'")
        return cls.parse({"name": match[1], "relation": match[2], "bound": bound})

    def violation(self, value: float) -> float:
        """How far `value` is beyond the bound, in its unit; at most 0: it is kept."""
        return value - self.bound if self.relation == "<=" else self.bound - value

    def __str__(self) -> str:
        return f"{self.name} {self.relation} {self.bound:g}"


class Search(Config):
    """How a space is searched."""

    method: Method = "grid"
    """"grid": every point; "random" and "sobol" (scrambled, `scipy.stats.qmc`): points drawn by the seed; "tpe"
    and
    "nsga2": guided by what was found (optuna)."""
    trials: int | None = Field(None, ge=1, le=10**7)
    """How many points; not of a grid. More can be asked for later: those that are there stay."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Decides which points are drawn."""
    maximise: tuple[str, ...] = ()
    """Numbers of a point that should be large, as `fronts.value` takes them ("accuracy@1d")."""
    minimise: tuple[str, ...] = ()
    """Numbers of a point that should be small ("energy_total")."""
    constraints: tuple[Constraint, ...] = ()
    """What a point has to keep. One that its costs break already is not evaluated."""
    hopeless: float | None = Field(None, ge=0)
    """A guided search leaves a trial after its first chip where another one costs no more and is by so much better
    on the same chip in all that is maximised; None: never."""

    @model_validator(mode="before")
    @classmethod
    def _texts(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        out = dict(data)
        for name in ("maximise", "minimise", "constraints"):
            if isinstance(out.get(name), str):
                out[name] = (out[name],)
        if "constraints" in out:
            out["constraints"] = tuple(Constraint.of(text) for text in out["constraints"])
        return out

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.method == "grid" and self.trials is not None:
            raise ValueError("a grid has as many points as it has; leave trials out, or draw with method 'sobol'")
        if self.method != "grid" and self.trials is None:
            raise ValueError(f"method {self.method!r}: give trials, how many points")
        if self.guided and not self.goals:
            raise ValueError(f"method {self.method!r} looks for something: give maximise or minimise")
        if self.hopeless is not None and not (self.guided and self.maximise):
            raise ValueError("hopeless trials are left by method 'tpe' and 'nsga2', where something is maximised")
        twice = set(self.maximise) & set(self.minimise)
        if twice:
            raise ValueError(f"{sorted(twice)[0]!r} is both maximised and minimised; leave one out")
        return self

    @property
    def guided(self) -> bool:
        """Whether the next point depends on what was found."""
        return self.method in GUIDED

    @property
    def goals(self) -> dict[str, Literal["maximize", "minimize"]]:
        """Number -> direction."""
        return {**dict.fromkeys(self.maximise, "maximize"), **dict.fromkeys(self.minimise, "minimize")}

    def count(self, space: Space) -> int:
        """How many points there are."""
        return self.trials if self.trials is not None else int(np.prod(space.shape))

    def points(self, space: Space) -> list[dict[str, Any]]:
        """The points in their order, of a method that is not guided; the first ones stay where more are asked for.

        Raises `ConfigError` for a guided method, and for a range in a grid that does not say how many values.
        """
        if self.method == "grid":
            return space.grid()
        if self.guided:
            raise ConfigError(f"the points of method {self.method!r} are known when they were found")
        assert self.trials is not None
        cube = _sobol if self.method == "sobol" else _random
        return [space.at(unit) for unit in cube(len(space.axes), self.trials, self.seed)]


def _random(size: int, count: int, seed: int) -> Iterator[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    for start in range(0, count, _BLOCK):  # in blocks, so that a longer sequence begins as a shorter one
        yield from rng.random((_BLOCK, size))[: count - start]


def _sobol(size: int, count: int, seed: int) -> Iterator[np.ndarray[Any, Any]]:
    """The first points of a scrambled Sobol sequence."""
    from scipy.stats import qmc

    if size > qmc.Sobol.MAXDIM:
        raise ConfigError(
            f"{size} axes; a Sobol sequence has at most {qmc.Sobol.MAXDIM}, draw with method 'random'"
        )
    engine = qmc.Sobol(size, scramble=True, rng=np.random.default_rng(seed))
    yield from engine.random_base2(max(count - 1, 1).bit_length())[:count]
