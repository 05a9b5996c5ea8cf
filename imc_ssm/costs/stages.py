"""What occupies which part of a chip, and for how long, operator by operator: the parts of a schedule.

A product on tiles occupies its tiles with their converters; everything else of an operator, its bus transfers and
memory accesses included, the digital unit. Tiles that one product reads together, or that products share, are one
resource. The times of all stages of a step add up to those of `cost`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imc_ssm.chip.crossbars import OnCrossbar
from imc_ssm.chip.deployment import deployment_of
from imc_ssm.chip.packing import pack
from imc_ssm.costs.counts import Taken, actions_of, on_tiles, rounds_of, stores
from imc_ssm.costs.model import energies
from imc_ssm.costs.prices import ON_TILES_PARTS, Prices, kinds_of_steps, serial
from imc_ssm.devices.constants import ConstantsLike, constants_of
from imc_ssm.errors import DesignError
from imc_ssm.graph.signals import Rate
from imc_ssm.pricing.intervals import nominal

if TYPE_CHECKING:
    from imc_ssm.chip import Deployment

__all__ = ["UNIT", "Stage", "stages_of"]

UNIT = "digital unit"
"""The resource that all digital work shares."""


@dataclass(frozen=True)
class Stage:
    """Work of one operator on one resource, without interruption."""

    name: str
    """Unique in a list of stages."""
    operator: str
    """Whose work it is."""
    component: str
    """What takes most of its time."""
    resource: str
    """What it occupies: nothing else runs there meanwhile."""
    time: float
    """s, in the longest step: the one in which every slow head is updated."""
    mean: float = math.nan
    """s, mean over the steps; NaN: `time`."""
    energy: float = 0.0
    """J each time that it runs, mean over the steps."""
    rate: Rate = "step"
    """Whether it runs every step or once per sequence."""
    after: tuple[str, ...] = ()
    """Stages of the same step that end before it starts."""
    carried: bool = False
    """Whether the operator has a state: its stages of a step start when those of the step before have ended."""

    def __post_init__(self) -> None:
        if math.isnan(self.mean):
            object.__setattr__(self, "mean", self.time)


def stages_of(deployment: Deployment, *, constants: ConstantsLike = None) -> list[Stage]:
    """The stages of a deployment in an order in which each comes after those that it needs.

    Operators that take neither time nor energy have none. Raises `DesignError` for a layer that runs from the end
    of a sequence: no sample of it is done before the last has come. `constants`, of which the nominal values
    count, as in `cost`; `ConfigError` for what are none.
    """
    deployment = deployment_of(deployment, "stages_of")
    k = nominal(constants_of(constants).entries)
    backward = next((op for op in deployment.graph if op.reverse), None)
    if backward is not None:
        raise DesignError(
            f"operator {backward.name!r} runs from the end of a sequence, so that no sample is done before the "
            "last has come; a schedule of samples needs a model that is not bidirectional"
        )
    operations = actions_of(deployment)
    joules = energies(deployment, operations, k=k)
    whole = tuple(t for t in operations if t.action.rate == "step")
    steps, kinds = deployment.steps, kinds_of_steps(whole, deployment.steps)
    prices = Prices(deployment.chip, stores(deployment), k)
    named, rounds = _tiles(deployment), rounds_of(deployment)
    out: list[Stage] = []
    ends: dict[str, tuple[str, ...]] = {}  # signal -> stages after which it is there
    known: Counter[str] = Counter()
    for op in deployment.graph:
        own = [(t, e) for t, e in zip(operations, joules, strict=True) if t.operator is op]
        after = tuple(dict.fromkeys(name for signal in op.inputs for name in ends.get(signal.name, ())))
        carried = isinstance(op, OnCrossbar) or any(t.action.store == "state" for t, _ in own)
        label = op.name if not known[op.name] else f"{op.name} ({op.output.name})"
        known[op.name] += 1
        matrices = on_tiles(deployment, op)
        if matrices:
            parts = prices.tiles.times(max(m.widest() for m in matrices))
            parts = {part: rounds[op] * time for part, time in parts.items()}
            spent = sum(e for t, e in own if t.action.component in ON_TILES_PARTS) / (
                steps if op.rate == "step" else 1
            )
            name, place = f"{label}: product", named[op.output.name]
            time = float(sum(parts.values()))
            out.append(Stage(name, op.name, _most(parts), place, time, time, spent, op.rate, after, carried))
            after = (name,)
            own = [(t, e) for t, e in own if t.action.component not in ON_TILES_PARTS]
        rates: tuple[Rate, ...] = ("step", "sequence")
        for rate in rates:  # a mean sums in every step, and divides once
            works = [t for t, _ in own if t.action.rate == rate]
            each = {kind: _times(prices, works, kind) for kind in (kinds if rate == "step" else (1,))}
            longest = each[max(each)]
            time = float(sum(longest.values()))
            mean = time
            if rate == "step":
                mean = float(sum(count * sum(each[kind].values()) for kind, count in kinds.items()) / steps)
            spent = sum(e for t, e in own if t.action.rate == rate) / (steps if rate == "step" else 1)
            if time > 0 or spent > 0:
                name = f"{label}: digital" if matrices else label
                name += ": once" if rate != op.rate else ""
                most = _most(longest)
                loop = carried and rate == "step"
                out.append(Stage(name, op.name, most, UNIT, time, mean, spent, rate, after, loop))
                after = (name,)
        ends[op.output.name] = after
    return out


def _most(parts: Mapping[str, float]) -> str:
    return max(parts, key=lambda part: parts[part])


def _times(prices: Prices, works: Iterable[Taken], kind: int) -> dict[str, float]:
    """Digital time of an operator by component where periods up to `kind` are due, s."""
    return serial(prices, (t for t in works if t.action.period <= kind))


def _tiles(deployment: Deployment) -> dict[str, str]:
    """By output of each operator on tiles: the resource that it occupies."""
    places = dict(zip(map(id, deployment.placed), pack(deployment.placed, deployment.chip), strict=True))
    used: dict[str, set[int]] = {}
    for op in deployment.graph:
        if own := on_tiles(deployment, op):
            used[op.output.name] = {spot.tile for matrix in own for spot in places[id(matrix)]}
    groups: list[set[int]] = []
    for tiles in used.values():
        met = [group for group in groups if group & tiles]
        groups = [group for group in groups if not group & tiles] + [tiles.union(*met)]
    return {name: next(_named(group) for group in groups if tiles <= group) for name, tiles in used.items()}


def _named(tiles: set[int]) -> str:
    first, last = min(tiles), max(tiles)
    if len(tiles) == 1:
        return f"tile {first}"
    return f"tiles {first}-{last}" if last - first + 1 == len(tiles) else f"{len(tiles)} tiles from {first}"
