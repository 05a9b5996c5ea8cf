"""The cost of a deployment as a function of numbers of its design, for sweeps: its graph is folded once.

Energy does not depend on how many lanes there are, on their clock, or on how many columns share a converter. Time
is ceil(slots / lanes) of every operator, and min(shared, columns) conversions of every product; area is linear in
the lanes and in the converters. Resolutions change the words: each pair of them is folded once, and kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from imc_ssm.chip.deployment import deployment_of
from imc_ssm.chip.packing import tiles_of
from imc_ssm.costs.counts import actions_of, on_tiles
from imc_ssm.costs.model import DEFAULT_ACTIVITY, _kinds_of_steps, _rounds, cost
from imc_ssm.devices import Chip, device_names, load_components
from imc_ssm.devices.converters import converter
from imc_ssm.errors import ConfigError, DesignError
from imc_ssm.graph import COMPONENTS

if TYPE_CHECKING:
    from imc_ssm.chip import Deployment

__all__ = ["CostPlan", "PlannedCost"]

Numbers = npt.NDArray[np.float64]
KINDS: tuple[Literal["adc", "dac"], ...] = ("adc", "dac")
_PLACE = {component: index for index, component in enumerate(COMPONENTS)}


@dataclass(frozen=True, eq=False)
class PlannedCost:
    """What one inference costs, by component in the order of `COMPONENTS`, the last axis; `cost`'s numbers."""

    energy: Numbers
    """(component,), J: one for all designs of a sweep over lanes, clock and sharing."""
    latency: Numbers
    """(..., component), s."""
    area: Numbers
    """(..., component), m2."""


@dataclass(frozen=True, eq=False)
class _Folded:
    """A deployment with converters of two resolutions, folded."""

    energy: Numbers
    """(component,), J."""
    area: Numbers
    """(component,), m2, without lanes and converters."""
    area_lane: Numbers
    """(component,), m2 of a lane."""
    area_converter: float
    """m2 of one converter on every tile."""
    latency: Numbers
    """(component,), s of what no number changes."""
    slots: Numbers
    """(work,), slots of an operator in one step."""
    clocked: Numbers
    """(work, component), how often in an inference, in cycles."""
    timed: Numbers
    """(work, component), how often in an inference, times the latency of components of one's own, s."""
    widths: Numbers
    """(product,), columns in use on its widest tile."""
    conversions: Numbers
    """(product,), s of one conversion times how often it is done in an inference."""


class CostPlan:
    """`cost` of one deployment for other numbers of its design, in microseconds a call.

        >>> import imc_ssm
        >>> from imc_ssm.costs import CostPlan
        >>> data = imc_ssm.load_dataset("digits")
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))
        >>> plan = CostPlan(imc_ssm.compile_model(imc_ssm.quantize(model, "uniform", data), "pcm-256", data))
        >>> plan(lanes=[8, 16, 32], clock=5e8, adc_bits=6).latency.shape
        (3, 7)

    `activity` as in `cost`. Fields that move weights to other tiles (rows, columns, slices, packing) need a new
    deployment. Raises what `cost` raises.
    """

    def __init__(self, deployment: Deployment, *, activity: float = DEFAULT_ACTIVITY) -> None:
        self.deployment = deployment_of(deployment, "CostPlan")
        self.activity = activity
        self._folded: dict[tuple[int, int], _Folded] = {}
        self._at(self.deployment.chip.adc.bits, self.deployment.chip.dac.bits)

    def __call__(
        self,
        *,
        lanes: npt.ArrayLike | None = None,
        clock: npt.ArrayLike | None = None,
        columns_per_adc: npt.ArrayLike | None = None,
        adc_bits: int | None = None,
        dac_bits: int | None = None,
    ) -> PlannedCost:
        """The cost with other lanes, clock (Hz), columns that share a converter, and resolutions; None: as it is.

        The first three may be arrays that broadcast. Raises `ConfigError` for a number out of the range of the
        design's field, `DesignError` for a resolution without a price.
        """
        chip = self.deployment.chip
        design = chip.design
        many = _numbers("lanes", design.lanes if lanes is None else lanes, 1, 10**6, whole=True)
        rate = _numbers("clock", design.clock.value if clock is None else clock, 1.0, math.inf)
        shared = columns_per_adc if columns_per_adc is not None else design.columns_per_adc
        share = _numbers("columns_per_adc", shared, 1, design.columns, whole=True)
        folded = self._at(
            chip.adc.bits if adc_bits is None else adc_bits, chip.dac.bits if dac_bits is None else dac_bits
        )
        rounds = np.ceil(folded.slots / many)
        latency = folded.latency + (rounds @ folded.clocked) / rate + rounds @ folded.timed
        area = folded.area + folded.area_lane * many
        adc = np.zeros(len(COMPONENTS))
        adc[_PLACE["adc"]] = 1.0
        latency = latency + adc * (np.minimum(share, folded.widths) @ folded.conversions)[..., None]
        area = area + adc * folded.area_converter * np.ceil(design.columns / share)
        return PlannedCost(folded.energy, latency, area)

    def _at(self, adc: int, dac: int) -> _Folded:
        if (adc, dac) not in self._folded:
            chip = _with_bits(self.deployment.chip, adc, dac)
            self._folded[adc, dac] = _fold(replace(self.deployment, chip=chip), self.activity)
        return self._folded[adc, dac]


def _numbers(name: str, given: npt.ArrayLike, least: float, most: float, *, whole: bool = False) -> Numbers:
    """As (..., 1)."""
    values = np.asarray(given, np.float64)[..., None]
    # Extremes, since comparing an empty or large array to a scalar twice costs more than the arithmetic.
    if not (values.min() >= least and values.max() <= most) or (whole and (values % 1).any()):
        kind = "whole numbers" if whole else "numbers"
        raise ConfigError(f"{name} = {given!r}; allowed are {kind} from {least:g} to {most:g}")
    return values


def _with_bits(chip: Chip, adc: int, dac: int) -> Chip:
    """The chip with converters of other resolutions, from the shipped table that it was resolved with.

    Raises `DesignError` for a chip of another table: it embeds the prices of its own resolutions alone.
    """
    if (adc, dac) == (chip.adc.bits, chip.dac.bits):
        return chip
    name = chip.design.components
    table = load_components(name) if name in device_names("components") else None
    own = chip.adc.price, chip.dac.price
    if table is None or own != tuple(converter(k, getattr(chip.design, k), table).price for k in KINDS):
        raise DesignError(
            f"the chip has prices at its own resolutions alone, its table {name!r} is not the shipped one; "
            f"compile for the design with adc_bits={adc}, dac_bits={dac}, and plan that"
        )
    design = chip.design.with_(adc_bits=adc, dac_bits=dac)
    return chip.with_(
        design=design, adc=converter("adc", design.adc, table), dac=converter("dac", design.dac, table)
    )


def _fold(deployment: Deployment, activity: float) -> _Folded:
    ds = cost(deployment, activity=activity)
    chip, steps = deployment.chip, deployment.steps
    design, digital = chip.design, chip.digital
    operations = actions_of(deployment)
    kinds = _kinds_of_steps(operations, steps)

    slots: list[int] = []
    rows: list[tuple[int, float, float]] = []  # component, cycles, seconds
    for rate, period, often in (("sequence", 1, 1), *(("step", p, n) for p, n in kinds.items())):
        due = [
            t for t in operations if t.action.rate == rate and (rate == "sequence" or t.action.period <= period)
        ]
        work: dict[tuple[str, str, str], int] = {}
        for taken in due:
            own = taken.action
            place = own.component, taken.operator.output.name
            if own.slots:
                work[*place, ""] = work.get((*place, ""), 0) + own.slots
            if own.verb == "lookup" or own.verb in digital.others:
                work[*place, own.verb] = work.get((*place, own.verb), 0) + own.count
        for (component, _, verb), count in work.items():
            slots.append(count)
            timed = digital.others[verb].latency.value if verb in digital.others else 0.0
            rows.append((_PLACE[component], 0.0 if timed else often, timed * often))
    clocked, timed_ = np.zeros((len(rows), len(COMPONENTS))), np.zeros((len(rows), len(COMPONENTS)))
    for i, (place_, cycles, seconds) in enumerate(rows):
        clocked[i, place_], timed_[i, place_] = cycles, seconds

    rounds = _rounds(deployment)
    widths, conversions = [], []
    for operator in deployment.graph:
        if placed := on_tiles(deployment, operator):
            widths.append(max(m.widest() for m in placed))
            often = steps if operator.rate == "step" else 1
            one = chip.dac.pulses * chip.adc.priced().latency.value
            conversions.append(often * rounds[operator] * one)

    now = np.ceil(np.array(slots, float) / design.lanes)
    adc = np.zeros(len(COMPONENTS))
    adc[_PLACE["adc"]] = 1.0
    width, each = np.array(widths, float), np.array(conversions, float)
    moving = (now @ clocked) / design.clock.value + now @ timed_
    moving = moving + adc * float(np.minimum(design.columns_per_adc, width) @ each)
    by_lane = np.isin(COMPONENTS, ("digital update", "nonlinearity"))
    area = np.asarray(ds["area"].values, float)
    tiles = tiles_of([m for op in deployment.graph for m in on_tiles(deployment, op)], chip)
    converters = math.ceil(design.columns / design.columns_per_adc)
    one_each = tiles * chip.adc.priced().area.value
    return _Folded(
        energy=np.asarray(ds["energy"].values, float),
        area=np.where(by_lane, 0.0, area - adc * one_each * converters),
        area_lane=np.where(by_lane, area / design.lanes, 0.0),
        area_converter=one_each,
        latency=np.asarray(ds["latency"].values, float) - moving,
        slots=np.array(slots, float),
        clocked=clocked,
        timed=timed_,
        widths=width,
        conversions=each,
    )
