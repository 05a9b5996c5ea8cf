"""Energy, latency, area and memory of a deployment, by component.

Modelled, from cited constants (`devices/components`, `devices/cells`) and the counts of `counts.py`:

  cells           read current of every used device: E = activity V_read^2 G t_read, summed over the mapped
                  conductances G+ = g_min + max(target, 0) (g_max - g_min) and G- alike for -target
  dac, adc        one conversion per used row, and per used column (differential pairs are subtracted as
                  currents), of every tile; sample-and-hold is counted with the adc
  digital update  products (energy ~ product of both widths), sums and accumulator registers (~ width), shifts of
                  scales that are powers of two (~ width x stages)
  memories        coefficients, state and activation buffer, each a static memory of its own size
  nonlinearity    one table access per GELU and per sigmoid, and the product of the GLU
  movement        bits over the on-chip bus, to and from tiles and recurrence

Latency is the serial time that each component adds: operators run one after the other, the tiles of one
matrix side by side; a product takes one DAC conversion, t_read, the hold, then `columns_per_adc` conversions
in a row; the digital unit starts `lanes` slots per clock; components of one's own (`others`), one in every
lane, take their latency for each group of `lanes` actions; memory reads are pipelined but for the first of
each operator and store; a bus transfer moves as many bits as the bus has wires. Operators do not overlap.

Area is that of the tiles in use, whole (unused cells included), of `lanes` multipliers, adders, accumulators
and lookup units as wide as the widest word, of the memories and of one bus.

Not modelled: leakage and clock tree; control and instruction fetch; charging of the array's wires beyond the
converters' own energy; reference and supply regulation; programming and its verification; calibration and
drift measurements; chip input and output; padding, wiring overhead and unused tiles in the area. Predictions
are therefore low against a measured chip (see `tests/costs/test_cost_published.py` for how low).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from imc_ssm.chip.deployment import deployment_of
from imc_ssm.chip.packing import pack, tiles_of, utilisation
from imc_ssm.costs.counts import Taken, actions_of, loaded, loads_of, on_tiles, stores
from imc_ssm.devices import Chip, Digital, Memory
from imc_ssm.errors import ConfigError, DesignError
from imc_ssm.graph import COMPONENTS, Operator, Recurrence

if TYPE_CHECKING:
    from imc_ssm.chip import Deployment

__all__ = ["COMPONENTS", "DEFAULT_ACTIVITY", "by_operator", "cost", "energies"]

DEFAULT_ACTIVITY = 1.0 / 9.0
"""Mean squared input over squared DAC full scale: the range of a centred input set at three deviations."""


def cost(deployment: Deployment, *, activity: float = DEFAULT_ACTIVITY) -> xr.Dataset:
    """Cost of one inference of `deployment.steps` time steps.

        >>> import imc_ssm
        >>> data = imc_ssm.load_dataset("digits")
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))
        >>> deployment = imc_ssm.compile_model(imc_ssm.quantize(model, "uniform", data), "pcm-256", data)
        >>> imc_ssm.cost(deployment)["energy_total"].attrs["units"]
        'J'

    `activity`, in [0, 1], is the mean squared DAC input over its squared full scale, for matrices without a
    calibrated `input_activity` of their own. (Pulse-width inputs would need the mean magnitude instead.)

    Returns a dataset over `component`: `energy` (J per inference), `energy_step` (J per time step, operators
    of rate "step" alone), `latency` and `latency_step` (s), `area` (m2), `memory` (bits; only "memories" has
    any); their totals; `memory_part` (part), `devices`, `tiles`; `latency_longest_step` (s), `updates` (share of
    the state updates that slow heads leave), `energy_load` (J, once when the model is loaded) and `memory_loaded`
    (bits of parameters as they come from outside). NaN: the quantity has no meaning there.

    Raises `ConfigError` for an activity outside [0, 1], `DesignError` for an operator that is not mapped, or an
    action or a converter without a price.
    """
    deployment = deployment_of(deployment, "cost")
    if not 0.0 <= activity <= 1.0:
        raise ConfigError(f"activity = {activity!r}; allowed is a mean square between 0 and 1")
    chip = deployment.chip
    operations = actions_of(deployment)
    parts = stores(deployment)
    memories = _memories(chip.digital, parts)

    energy = _energy(deployment, memories, operations, activity)
    latency, longest = _latency(deployment, memories, operations)
    area = _area(deployment, memories, operations)
    bits = dict.fromkeys(COMPONENTS, math.nan) | {"memories": float(sum(parts.values()))}
    steps = deployment.steps
    whole = {name: steps * energy["step"][name] + energy["sequence"][name] for name in COMPONENTS}
    time = {name: steps * latency["step"][name] + latency["sequence"][name] for name in COMPONENTS}
    used = [matrix for op in deployment.graph for matrix in on_tiles(deployment, op)]
    devices = sum(matrix.device_count(chip) for matrix in used)

    out = xr.Dataset(coords={"component": list(COMPONENTS), "part": list(parts)})
    for name, values, units, label in (
        ("energy", whole, "J", "Energy per inference"),
        ("energy_step", energy["step"], "J", "Energy per time step"),
        ("latency", time, "s", "Serial time per inference"),
        ("latency_step", latency["step"], "s", "Serial time per time step"),
        ("area", area, "m2", "Silicon area"),
        ("memory", bits, "bit", "Digital memory"),
    ):
        row = np.array([values[component] for component in COMPONENTS])
        out[name] = ("component", row, {"units": units, "long_name": label})
        if not name.endswith("_step"):
            total = float(np.nansum(row))
            out[f"{name}_total"] = ((), total, {"units": units, "long_name": f"{label}, all components"})
    out["memory_part"] = (
        "part",
        np.array([float(value) for value in parts.values()]),
        {"units": "bit", "long_name": "Digital memory by content"},
    )
    out["latency_longest_step"] = (
        (),
        longest,
        {"units": "s", "long_name": "Serial time of the longest step: one at which every head is updated"},
    )
    load = sum(energies(deployment, loads_of(deployment), activity))
    out["energy_load"] = ((), load, {"units": "J", "long_name": "Energy of making coefficients, once, at loading"})
    out["memory_loaded"] = (
        (),
        float(loaded(deployment)),
        {"units": "bit", "long_name": "Parameters of the digital unit as stored outside and loaded"},
    )
    out["updates"] = ((), _updates(deployment), {"units": "1", "long_name": "State updates, of one a step each"})
    out["devices"] = ((), float(devices), {"units": "1", "long_name": "Memristive devices in use"})
    tiles = tiles_of(used, chip)
    out["utilisation"] = (
        (),
        utilisation(used, chip),
        {"units": "1", "long_name": "Share of the tiles' places that hold a weight"},
    )
    out["tiles"] = ((), float(tiles), {"units": "1", "long_name": "Tiles in use"})
    out.attrs = {
        "title": f"Cost on {chip.design.name}",
        "design": chip.design.name,
        "components": chip.digital.name,
        "steps": steps,
        "activity": activity,
    }
    return out


def _updates(deployment: Deployment) -> float:
    """Share of the updates of all S4D states that are left where slow heads are not updated in every step.

    NaN without such a recurrence.
    """
    units = [op for op in deployment.graph if isinstance(op, Recurrence)]
    states = sum(op.heads * op.states for op in units)
    return sum(op.updates * op.heads * op.states for op in units) / states if states else math.nan


def _memories(digital: Digital, parts: dict[str, int]) -> dict[str, Memory]:
    """The three static memories of the digital unit, each of the size it needs."""
    return {
        "coefficients": digital.memory(parts["parameters"] + parts["requantization"]),
        "state": digital.memory(parts["state"]),
        "activations": digital.memory(parts["activations"]),
    }


def _actors(chip: Chip) -> dict[str, Callable[..., float]]:
    """Energy of one action on words of given widths, J, by the name of the action; memories and cells apart."""
    digital = chip.digital
    return {
        "adc": lambda _: chip.adc.priced().joules(),
        "dac": lambda _: chip.dac.priced().joules(),
        "sample hold": lambda _: chip.sample_hold.joules(),
        "multiply": digital.multiply.joules,
        "add": digital.add.joules,
        "shift": digital.shift.joules,
        "register": digital.flip_flop.joules,
        "lookup": digital.lookup.joules,
        "bus": digital.bus.joules,
        **{verb: other.joules for verb, other in digital.others.items()},
    }


def _energy(
    deployment: Deployment, memories: dict[str, Memory], operations: Iterable[Taken], activity: float
) -> dict[str, dict[str, float]]:
    """Energy by rate and component, J, each time that the operators of that rate run."""
    one = _pricer(deployment, memories, activity)
    out = {rate: dict.fromkeys(COMPONENTS, 0.0) for rate in ("step", "sequence")}
    for taken in operations:
        op = taken.action
        share = op.times(deployment.steps) / deployment.steps if op.rate == "step" else 1.0
        out[op.rate][op.component] += op.count * one(taken) * share
    return out


def energies(
    deployment: Deployment, operations: Iterable[Taken], activity: float = DEFAULT_ACTIVITY
) -> list[float]:
    """Energy per inference of every one of the deployment's actions, J; they add up to that of `cost`."""
    one = _pricer(deployment, _memories(deployment.chip.digital, stores(deployment)), activity)
    return [taken.action.times(deployment.steps) * taken.action.count * one(taken) for taken in operations]


def by_operator(deployment: Deployment, *, activity: float = DEFAULT_ACTIVITY) -> dict[Operator, dict[str, float]]:
    """Energy per inference of every operator of a deployment by component, J; they add up to that of `cost`."""
    operations = actions_of(deployment)
    out: dict[Operator, dict[str, float]] = {op: dict.fromkeys(COMPONENTS, 0.0) for op in deployment.graph}
    for taken, joules in zip(operations, energies(deployment, operations, activity), strict=True):
        out[taken.operator][taken.action.component] += joules
    return out


def _pricer(deployment: Deployment, memories: dict[str, Memory], activity: float) -> Callable[[Taken], float]:
    """The energy of one action, J."""
    chip = deployment.chip
    actors = _actors(chip)

    def one(taken: Taken) -> float:
        """Energy of one action, J."""
        op = taken.action
        if op.verb in ("read", "write"):
            memory = memories[str(op.store)]
            return (memory.read if op.verb == "read" else memory.write) * op.bits[0]
        if op.verb == "cell" and (placed := on_tiles(deployment, taken.operator)):
            shares = (activity if m.input_activity is None else m.input_activity for m in placed)
            each = (chip.cell.read_energy(m.conductance(chip), own) for m, own in zip(placed, shares, strict=True))
            return sum(each) / op.count
        if op.verb not in actors:
            known = ", ".join(("cell", "read", "write", *actors))
            raise DesignError(f"operator {taken.operator.name!r}: action {op.verb!r} has no price; known: {known}")
        return actors[op.verb](*op.bits)

    return one


def _latency(
    deployment: Deployment, memories: dict[str, Memory], operations: Iterable[Taken]
) -> tuple[dict[str, dict[str, float]], float]:
    """Serial time by rate and component, s, each time the operators of that rate run, and of the longest step.

    At rate "step" the mean over the steps, which differ where some actions are not done in all of them.
    """
    chip = deployment.chip
    out = {rate: dict.fromkeys(COMPONENTS, 0.0) for rate in ("step", "sequence")}
    rounds = _rounds(deployment)
    for operator in deployment.graph:
        own = on_tiles(deployment, operator)
        for component, time in (chip.product_latency(max(m.widest() for m in own)) if own else {}).items():
            out[operator.rate][component] += rounds[operator] * time
    analog, longest = sum(out["step"].values()), 0.0
    for component, time in _serial(chip, memories, (t for t in operations if t.action.rate == "sequence")).items():
        out["sequence"][component] += time
    for period, count in _kinds_of_steps(operations, deployment.steps).items():
        due = (t for t in operations if t.action.rate == "step" and t.action.period <= period)
        times = _serial(chip, memories, due)
        longest = max(longest, sum(times.values()))
        for component, time in times.items():
            out["step"][component] += count / deployment.steps * time
    return out, analog + longest


def _rounds(deployment: Deployment) -> dict[Operator, int]:
    """How often the tiles of an operator are read in one product: parts that share a tile run one by one."""
    places = dict(zip(map(id, deployment.placed), pack(deployment.placed, deployment.chip), strict=True))
    out = {}
    for operator in deployment.graph:
        shared = Counter(place.tile for matrix in on_tiles(deployment, operator) for place in places[id(matrix)])
        out[operator] = max(shared.values(), default=0)
    return out


def _kinds_of_steps(operations: Iterable[Taken], steps: int) -> dict[int, int]:
    """Longest period that is due (of those in use, each of which divides the next) -> steps at which it is."""
    periods = sorted({1} | {taken.action.period for taken in operations})
    due = [steps // period for period in periods]
    counts = (most - more for most, more in zip(due, [*due[1:], 0], strict=True))
    return {period: count for period, count in zip(periods, counts, strict=True) if count}


def _serial(chip: Chip, memories: dict[str, Memory], operations: Iterable[Taken]) -> dict[str, float]:
    """Time of digital operators that run one after the other, s, by component."""
    clock, lanes, bus = chip.design.clock.value, chip.design.lanes, chip.digital.bus
    out = dict.fromkeys(COMPONENTS, 0.0)
    slots: dict[tuple[str, str], int] = {}
    lookups: dict[tuple[str, str], int] = {}
    traffic: dict[str, int] = {}
    others: dict[tuple[str, str, str], int] = {}
    touched: dict[tuple[str, str], None] = {}  # in the order of the graph, which sums keep
    for taken in operations:
        op, name = taken.action, taken.operator.output.name
        place = (op.component, name)
        slots[place] = slots.get(place, 0) + op.slots
        if op.verb == "lookup":
            lookups[place] = lookups.get(place, 0) + op.count
        elif op.verb == "bus":
            traffic[name] = traffic.get(name, 0) + op.count * op.bits[0]
        elif op.verb in chip.digital.others:
            others[*place, op.verb] = others.get((*place, op.verb), 0) + op.count
        elif op.verb == "read":
            touched[name, str(op.store)] = None
    for work in (slots, lookups):
        for (component, _), count in work.items():
            out[component] += math.ceil(count / lanes) / clock
    for (component, _, verb), count in others.items():
        out[component] += math.ceil(count / lanes) * chip.digital.others[verb].latency.value
    for amount in traffic.values():
        out["movement"] += math.ceil(amount / bus.bits) * bus.latency.value
    for _, store in touched:
        out["memories"] += memories[store].latency
    return out


def _area(deployment: Deployment, memories: dict[str, Memory], operations: list[Taken]) -> dict[str, float]:
    """Area by component, m2."""
    digital, lanes = deployment.chip.digital, deployment.design.lanes
    tiles = tiles_of([m for op in deployment.graph for m in on_tiles(deployment, op)], deployment.chip)
    actions = [taken.action for taken in operations]
    multiplier = max((digital.multiply.scale(*op.bits) for op in actions if op.verb == "multiply"), default=0.0)
    widest = max((op.bits[0] for op in actions if op.verb == "add" and not op.parallel), default=0)
    shifter = max((digital.shift.scale(*op.bits) for op in actions if op.verb == "shift"), default=0.0)
    lane = (
        multiplier * digital.multiply.area.value
        + digital.add.scale(widest) * digital.add.area.value
        + digital.flip_flop.scale(widest) * digital.flip_flop.area.value
    )
    lane += shifter * digital.shift.area.value
    beside: dict[tuple[str, str], float] = {}
    for op in actions:
        if op.parallel:
            part = digital.add if op.verb == "add" else digital.flip_flop
            key = op.verb, op.purpose
            beside[key] = max(beside.get(key, 0.0), part.scale(*op.bits) * part.area.value)
    lane += sum(beside.values())
    for verb, other in digital.others.items():
        lane += max((other.scale(*op.bits) for op in actions if op.verb == verb), default=0.0) * other.area.value
    looks_up = any(op.verb == "lookup" for op in actions)
    return {component: tiles * area for component, area in deployment.chip.tile_area().items()} | {
        "digital update": lanes * lane,
        "memories": sum(memory.area for memory in memories.values()),
        "nonlinearity": lanes * digital.lookup.area.value if looks_up else 0.0,
        "movement": digital.bus.area.value,
    }
