"""Energy, latency, area and memory of a deployment, by component, with intervals.

Modelled, from cited constants (`devices/constants.toml`, `devices/components`, `devices/cells`) and the counts of
`counts.py`; the laws are those of `arrays`, `presets` and `tiles`:

  cells           read current of every used device: E = activity V_read^2 G t, summed over the mapped conductances
                  G+ = g_min + max(target, 0) (g_max - g_min) and G- alike for -target
  lines           word lines of used rows and bit lines of used columns, whole
  dac, adc        the input circuit of every used row, and a conversion of every used column and pulse
                  (differential pairs are subtracted as currents), of every tile; holding is counted with the adc
  control         a share of the above for timing and references, and a fixed power of each tile while it is read
  digital update  products (energy ~ product of both widths), sums and accumulator registers (~ width), shifts of
                  scales that are powers of two (~ width x stages)
  memories        coefficients and state in a bank a lane, activations in one of their own
  nonlinearity    one table access per GELU and per sigmoid, and the product of the GLU
  movement        bits over the on-chip bus, to and from tiles and recurrence
  leakage         of all area but the cells, for as long as it takes

Latency is the serial time that each component adds: operators run one after the other, the tiles of one matrix
side by side; a product takes its pulses and the conversions of the columns that share a converter (cells, adc),
and of bits in turn the longer of the two sets the pace; columns that share an integrator are read one by one; a
line settles before a pulse is over, and draws current until it has. The digital unit starts `lanes` slots per
cycle, no shorter than the slowest stage of the table; components of one's own (`others`), one in every lane,
take their latency for each group of `lanes` actions; a memory reads 64 bits at once for each lane, that of the
activations 64 in all; a bus transfer moves as many bits as the bus has wires. Operators do not overlap.

Area is that of the tiles in use, whole (unused cells included, with an overhead for what is not counted), of
`lanes` multipliers, adders, accumulators and lookup units as wide as the widest word, of the memories and of one
bus.

Intervals: every constant at both ends of its range (`intervals.bounds`); numbers of a component table are logic,
and have the range of `logic_spread`.

Not modelled: instruction fetch; supply regulation; programming and its verification; calibration and drift
measurements; chip input and output; padding and unused tiles in the area.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from imc_ssm.chip.deployment import deployment_of
from imc_ssm.chip.packing import tiles_of, utilisation
from imc_ssm.costs.counts import Taken, actions_of, loaded, loads_of, on_tiles, stores, widest
from imc_ssm.costs.given import activity_of
from imc_ssm.costs.merits import macs_of, metrics
from imc_ssm.costs.plan import DEFAULT_ACTIVITY, CostPlan
from imc_ssm.costs.prices import ANALOG, ON_TILES, Prices, weight
from imc_ssm.devices.constants import ConstantsLike, constants_of
from imc_ssm.graph import COMPONENTS, Operator, Recurrence
from imc_ssm.pricing.intervals import BOUNDS, Number, Values, bounds, nominal, scenarios

if TYPE_CHECKING:
    from imc_ssm.chip import Deployment

__all__ = ["COMPONENTS", "DEFAULT_ACTIVITY", "by_operator", "cost", "energies"]


def cost(
    deployment: Deployment, *, activity: float = DEFAULT_ACTIVITY, constants: ConstantsLike = None
) -> xr.Dataset:
    """Cost of one inference of `deployment.steps` time steps.

        >>> import imc_ssm
        >>> data = imc_ssm.load_dataset("digits")
        >>> model = imc_ssm.Classifier(imc_ssm.ModelConfig(heads=4, n_state=4))
        >>> deployment = imc_ssm.compile_model(imc_ssm.quantize(model, "uniform", data), "pcm-256", data)
        >>> imc_ssm.cost(deployment)["energy_total"].attrs["units"]
        'J'

    `activity`, in [0, 1], is the mean energy of a device over that in a full-scale pulse (with amplitudes the mean
    square of inputs over full scale squared). It is read for matrices without a calibrated `input_activity` alone:
    compiling calibrates one for each, so that of a compiled model it changes nothing. `constants` (the path of a
    TOML, or what `devices.load_constants` returns) take the place of those that ship.

    Returns a dataset over `component`: `energy` (J per inference), `energy_step` (J per time step, operators
    of rate "step" alone), `latency` and `latency_step` (s), `area` (m2), `memory` (bits; only "memories" has
    any); their totals; over `bound` (low, nominal, high) the intervals `energy_bounds`, `latency_bounds`,
    `area_bounds` and those of the totals (`energy_total_bounds` ...), and `throughput` (inferences a second),
    `tops` (1e12 operations a second, two a multiply-accumulate), `tops_per_watt`, `tops_per_mm2`,
    `energy_per_mac` (J), `power` (W, while it runs without a pause), and the peak of its tiles, whole and never
    idle, without the digital unit: `tops_peak`, `tops_per_watt_peak`, `tops_per_mm2_peak`; `macs` of an
    inference; `memory_part` (part), `devices`, `tiles`, `utilisation`; `latency_longest_step` (s), `updates`
    (share of the state updates that slow heads leave), `energy_load` (J, once when the model is loaded) and
    `memory_loaded` (bits of parameters as they come from outside). NaN: the quantity has no meaning there.

    Raises `ConfigError` for an activity outside [0, 1] or constants that are none, `DesignError` for an operator
    that is not mapped, or an action or a converter without a price.
    """
    deployment, activity = deployment_of(deployment, "cost"), activity_of(activity)
    chip, parts = deployment.chip, stores(deployment)
    laws = constants_of(constants)
    k = scenarios(laws.entries)
    found = CostPlan(deployment, activity=activity, constants=laws).priced(k)
    out: dict[str, Any] = {}

    def put(name: str, dims: Any, values: Any, units: str, label: str) -> None:
        out[name] = (dims, values, {"units": units, "long_name": label})

    for name, units, label in (
        ("energy", "J", "Energy per inference"),
        ("energy_step", "J", "Energy per time step"),
        ("latency", "s", "Serial time per inference"),
        ("latency_step", "s", "Serial time per time step"),
        ("area", "m2", "Silicon area"),
    ):
        each = np.stack(bounds(getattr(found, name).T, k), axis=-1)
        put(name, "component", each[:, 1], units, label)
        if not name.endswith("_step"):
            total = np.array(bounds(found.total(name), k))
            put(f"{name}_total", (), float(total[1]), units, f"{label}, all components")
            put(f"{name}_bounds", ("component", "bound"), each, units, label)
            put(f"{name}_total_bounds", "bound", total, units, f"{label}, all components")
    bits = [float(sum(parts.values())) if name == "memories" else math.nan for name in COMPONENTS]
    put("memory", "component", np.array(bits), "bit", "Digital memory")
    put("memory_total", (), float(sum(parts.values())), "bit", "Digital memory, all components")
    put("memory_part", "part", np.array([float(b) for b in parts.values()]), "bit", "Digital memory by content")
    longest = float(bounds(found.longest, k).nominal)
    label = "Serial time of the longest step: one at which every head is updated"
    put("latency_longest_step", (), longest, "s", label)
    put("macs", (), macs_of(deployment), "1", "Multiply-accumulates of matrices and states")
    for name, values, units, label in metrics(deployment, found, k, activity):
        put(name, "bound", np.array(bounds(values, k)), units, label)
    load = sum(energies(deployment, loads_of(deployment), activity, nominal(laws.entries)))
    put("energy_load", (), load, "J", "Energy of making coefficients, once, at loading")
    label = "Parameters of the digital unit as stored outside and loaded"
    put("memory_loaded", (), float(loaded(deployment)), "bit", label)
    used = [matrix for op in deployment.graph for matrix in on_tiles(deployment, op)]
    put("updates", (), _updates(deployment), "1", "State updates, of one a step each")
    devices = float(sum(matrix.device_count(chip) for matrix in used))
    put("devices", (), devices, "1", "Memristive devices in use")
    put("utilisation", (), utilisation(used, chip), "1", "Share of the tiles' places that hold a weight")
    put("tiles", (), float(tiles_of(used, chip)), "1", "Tiles in use")
    attrs = {
        "title": f"Cost on {chip.design.name}",
        "design": chip.design.name,
        "components": chip.digital.name,
        "steps": deployment.steps,
        "activity": activity,
    }
    coords = {"component": list(COMPONENTS), "bound": list(BOUNDS), "part": list(parts)}
    return xr.Dataset(out, coords, attrs)


def _updates(deployment: Deployment) -> float:
    """Share of the updates of all S4D states that are left where slow heads are not updated in every step.

    NaN without such a recurrence.
    """
    units = [op for op in deployment.graph if isinstance(op, Recurrence)]
    states = sum(op.total for op in units)
    return sum(op.updates * op.total for op in units) / states if states else math.nan


def energies(
    deployment: Deployment,
    operations: Iterable[Taken],
    activity: float = DEFAULT_ACTIVITY,
    k: Values | None = None,
    *,
    constants: ConstantsLike = None,
) -> list[Number]:
    """Energy per inference of every one of the deployment's actions, J; with leakage they add up to `cost`'s.

    Control is the share of what the tiles of its operator take among `operations`. `activity` and `constants`, of
    which the nominal values count, as in `cost`, which raises the same; `k`: values or scenarios in their place.
    """
    deployment, activity = deployment_of(deployment, "energies"), activity_of(activity)
    k = nominal(constants_of(constants).entries) if k is None else k
    prices = Prices(deployment.chip, stores(deployment), k)
    taken = list(operations)
    joules: list[Number] = []
    analog: dict[int, Number] = {}
    for one in taken:
        action, place = one.action, id(one.operator)
        times = action.times(deployment.steps) * weight(deployment, one, activity)
        price: Any = 0.0
        if action.verb in ON_TILES:
            price = prices.on_tile(action.verb, widest(deployment, one.operator))
        elif action.verb != "control":
            price = prices.digital(action.verb, action.store)
        joules.append(times * price)
        if action.component in ANALOG:
            analog[place] = analog.get(place, 0.0) + joules[-1]
    for i, one in enumerate(taken):
        if one.action.verb == "control":
            joules[i] = prices.tiles.law.control * analog.get(id(one.operator), 0.0)
    return joules


def by_operator(
    deployment: Deployment, *, activity: float = DEFAULT_ACTIVITY, constants: ConstantsLike = None
) -> dict[Operator, dict[str, float]]:
    """Energy per inference of every operator of a deployment by component, J; with the leakage of the whole chip
    they add up to that of `cost`. `activity`, `constants` and errors: as those of `cost`."""
    deployment = deployment_of(deployment, "by_operator")
    operations = actions_of(deployment)
    out: dict[Operator, dict[str, float]] = {op: dict.fromkeys(COMPONENTS, 0.0) for op in deployment.graph}
    for taken, joules in zip(
        operations, energies(deployment, operations, activity, constants=constants), strict=True
    ):
        out[taken.operator][taken.action.component] += joules
    return out
