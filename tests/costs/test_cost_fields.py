"""Every field of a model, a layer and a scheme moves the costs the way that physics says, and no others.

Each row is another value of a field and what it does to every quantity, on tiles of 8 x 8: `+` more, `-` less, `>`
never less and `<` never more (where ports, lanes or tiles fill up by steps), `~` either, since weights or the plan
of the unit change with it; what is not named stays as it is. A field that has no row fails the test, and one that
has no direction says why. Control and leakage follow from the others (`test_cost_laws`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from cost_cases import placed, quantities, ways_of, wrong

from imc_ssm.errors import ImcSsmError
from imc_ssm.layers import ModelConfig
from imc_ssm.layers.registry import LAYER_CONFIGS
from imc_ssm.quantization import Bits, Rule, Scheme
from imc_ssm.quantization.scheme import Uniform


@dataclass(frozen=True)
class Row:
    """A field's other value, what it moves, and what else stands in the base."""

    changes: dict[str, Any]
    moves: str = ""
    """Groups apart by ";": "energy +adc ~cells; total +macs"."""
    why: str = ""
    """Of a field that moves nothing for sure: why."""
    base: dict[str, Any] = field(default_factory=dict)

    @property
    def ways(self) -> dict[str, str]:
        """Quantity -> sign."""
        return ways_of(self.moves)


TILES = "energy +cells +lines +dac +adc +movement; area >cells >lines >dac >adc; total >tiles"
UNIT = "energy +digital_update +memories; latency +digital_update +memories"
BLOCK = f"{TILES};{UNIT}; energy +nonlinearity; latency +nonlinearity >adc >cells >movement; area >memories"
HELD = "memory +parameters +requantization +activations +state; total +macs +memory_loaded +energy_load"
VALUES = "the values of weights alone: they move the conductances, and the multipliers of the unit's plan"
PLANNED = "energy ~digital_update ~cells; area ~digital_update"
NORM = f"{UNIT}; memory +activations +requantization; area >digital_update"
TRAINING = "training alone"

PRUNED = (
    "energy -digital_update -memories ~cells; latency -digital_update -memories; area ~digital_update <memories; "
    "memory -parameters -state; total -macs -memory_loaded"
)
MODELS: dict[str, Row] = {
    "inputs": Row(
        {"inputs": 6},
        f"energy +cells +lines +dac +movement; {UNIT}; memory +requantization; total +macs",
    ),
    "heads": Row({"heads": 8}, f"{BLOCK}; {HELD}; area ~digital_update"),
    "layers": Row({"layers": 2}, f"{BLOCK}; {HELD}; area >digital_update"),
    "outputs": Row(
        {"outputs": 9},
        f"{TILES}; {UNIT}; memory +parameters +requantization +activations; "
        "total +macs +memory_loaded +energy_load; area >memories",
    ),
    # One state of 4 complex numbers for the layer in place of 4 for each of 4 heads, between two matrices.
    "layer": Row(
        {"layer": "s5"},
        f"{TILES}; energy -digital_update ~memories; latency +adc +cells -digital_update >movement ~memories; "
        "area ~digital_update ~memories; memory -parameters +requantization -state +activations; "
        "total -macs -memory_loaded ~energy_load",
    ),
    # 4 states in each of 4 heads, of which some are pruned; other draws of what is left.
    "states": Row({"states": [[4, 1, 2, 4]]}, PRUNED),
    "norm": Row({"norm": "layer"}, f"{NORM}; energy +nonlinearity; latency +nonlinearity; area +digital_update"),
    "prenorm": Row({"prenorm": True}, why="the same operators in another order", base={"norm": "layer"}),
    "final_norm": Row(
        {"final_norm": True}, f"{NORM}; energy +nonlinearity; latency +nonlinearity", base={"norm": "rms"}
    ),
    # A comparison, a product and its constants, for an access to a table.
    "activation": Row(
        {"activation": "relu"},
        "energy ~nonlinearity >memories; latency +nonlinearity >memories; memory +requantization; "
        "area ~nonlinearity",
    ),
    "gate": Row(
        {"gate": "none"},
        "energy -adc -cells -lines -digital_update -memories -movement -nonlinearity; "
        "latency -digital_update -memories -nonlinearity <adc <movement; area <digital_update <nonlinearity; "
        "memory -activations -parameters -requantization; total -macs -memory_loaded <energy_load",
    ),
    "residual": Row(
        {"residual": False},
        "energy -digital_update -memories; latency -digital_update -memories; "
        "memory -activations -requantization; area <digital_update",
    ),
    # Both directions, and what the one keeps until the other comes; the mixing matrix is another draw.
    "bidirectional": Row(
        {"bidirectional": True},
        f"energy ~cells +movement; {UNIT}; latency +movement; area +memories ~digital_update; "
        "memory +activations +parameters +requantization +state; total +macs +memory_loaded",
    ),
    "pool": Row(
        {"pool": "last"},
        "energy -digital_update -memories; latency -digital_update -memories; area <digital_update <memories; "
        "memory -activations -requantization <state",
    ),
    "dropout": Row({"dropout": 0.3}, why=TRAINING),
}
"""Fields of a model's configuration."""
STATES = (
    f"energy ~cells; {UNIT}; area ~digital_update >memories; memory +parameters +state >requantization; "
    "total +macs +memory_loaded"
)
DIAGONAL: dict[str, Row] = {
    "type": Row({}, why="its name; the row `layer`"),
    "discretisation": Row({"discretisation": "bilinear"}, PLANNED, VALUES),
    "dt_min": Row({"dt_min": 1e-2}, PLANNED, VALUES),
    "dt_max": Row({"dt_max": 0.5}, PLANNED, VALUES),
}
LAYERS: dict[str, dict[str, Row]] = {
    "s4d": DIAGONAL
    | {
        "n_state": Row({"n_state": 16}, STATES),
        "counts": Row({"counts": [4, 1, 2, 4]}, PRUNED),
        "initialisation": Row({"initialisation": "inv"}, PLANNED, VALUES),
    },
    "s5": DIAGONAL
    | {
        "n_state": Row({"n_state": 16}, f"{STATES}; {TILES}; latency >movement; memory +activations"),
        "blocks": Row({"blocks": 2}, PLANNED, VALUES),
    },
}
"""Fields of the configuration of each registered layer."""
CHEAPER = "energy -digital_update -memories; latency -digital_update -memories"
SHARED = "energy -memories; latency -memories; memory -requantization"
POLAR = "energy +digital_update +memories; latency >memories; area ~digital_update"
SCHEMES: dict[str, Row] = {
    "rules": Row(
        {"rules": [{"path": "glu", "bits": 12}]},
        "energy +digital_update +memories; memory +activations",
        base={"bits": {}},
    ),
    # One more slot for each word of the state; the sums that follow are as short as the state.
    "rounding_placement": Row(
        {"rounding_placement": "separate"}, "energy ~digital_update; latency +digital_update; area ~digital_update"
    ),
    "rounding": Row({"rounding": "dithered"}, "energy +digital_update; area +digital_update"),
    "residual_bits": Row(
        {"residual_bits": 12},
        "energy +digital_update +memories; latency >memories; area +digital_update >memories; memory +state",
        base={"rounding": "feedback"},
    ),
    "rate_limit": Row({"rate_limit": 1.5}, f"{CHEAPER}; energy -movement; memory +state; total -macs"),
    "max_period": Row(
        {"max_period": 2},
        "energy +digital_update +memories +movement; latency +digital_update +memories; memory -state; "
        "total +macs",
        base={"rate_limit": 1.5},
    ),
    "scales": Row(
        {"scales": "power_of_two"},
        f"{CHEAPER}; energy -nonlinearity; latency -nonlinearity; area -digital_update; memory -requantization",
    ),
    # Multipliers of 16 bits that come of words of 8; fewer bits from outside, but for the grid of each head.
    "pole_form": Row({"pole_form": "polar"}, f"{POLAR}; memory +parameters; total +energy_load ~memory_loaded"),
    "pole_decay_bits": Row(
        {"pole_decay_bits": 12}, "total +memory_loaded >energy_load", base={"pole_form": "polar"}
    ),
    "pole_multiplier_bits": Row(
        {"pole_multiplier_bits": 12},
        "energy -digital_update -memories; latency <memories; area ~digital_update; memory -parameters; "
        "total -energy_load",
        base={"pole_form": "polar"},
    ),
    "weight_rounding": Row(
        {"weight_rounding": "outputs"}, "energy ~cells", "other weights in the devices, as many of them"
    ),
    "parameterisation": Row({"parameterisation": "discrete"}, why=TRAINING),
    # A sum and two products with their constants, for an access to a table.
    "gelu": Row(
        {"gelu": "piecewise"},
        "energy +nonlinearity >memories; latency +nonlinearity >memories; memory +requantization; "
        "area ~nonlinearity",
    ),
    "state_clip": Row({"state_clip": 2.0}, why="a state that has bits ends where its word does"),
    "grad_clamp": Row({"grad_clamp": 1.0}, why=TRAINING),
    "granularity": Row({"granularity": "tensor"}, SHARED),
    # Words as they are multiplied are one bit shorter where no zero point is taken off.
    "symmetric": Row(
        {"symmetric": True},
        "energy -digital_update <memories <nonlinearity; area <digital_update; total <energy_load; memory <state",
    ),
    "percentile": Row({"percentile": 99.0}, why="where a range ends, not how many bits it has"),
    "calibration": Row({"calibration": "dynamic"}, why="refused"),
    "state_calibration": Row({"state_calibration": "dynamic"}, why="refused"),
}
"""Fields of a scheme, and of the shorthand for its rules."""
WORD = "energy +memories; latency >memories; area >memories"
COEFFICIENT = f"{WORD}; energy ~digital_update; area ~digital_update; memory +parameters; total +memory_loaded"
SIGNAL = f"{WORD}; area >digital_update; memory +activations"
BITS: dict[str, Row] = {
    "poles": Row({}, COEFFICIENT),
    "b": Row({}, COEFFICIENT),
    "c": Row({}, f"{COEFFICIENT}; energy +digital_update"),
    "d": Row({}, f"{COEFFICIENT}; energy +digital_update"),
    "state": Row({}, f"{WORD}; energy ~digital_update; area ~digital_update; memory +state"),
    "weights": Row(
        {}, why="conductances have no grid of the scheme's: what is programmed are the weights as trained"
    ),
    "biases": Row({}, "energy >digital_update >memories; memory >parameters; total +memory_loaded >energy_load"),
    "input": Row({}, "energy +digital_update +memories; latency >memories; area >digital_update"),
    "encoder": Row({}, f"{SIGNAL}; energy +digital_update +movement"),
    "recurrent": Row({}, f"{SIGNAL}; energy +digital_update +movement"),
    "after_d": Row({}, f"{SIGNAL}; energy >nonlinearity >digital_update; area >nonlinearity"),
    "both": Row({}, f"{SIGNAL}; energy >nonlinearity >digital_update", base={"bidirectional": True}),
    "gelu": Row({}, f"{SIGNAL}; energy +digital_update >nonlinearity"),
    "relu": Row({}, f"{SIGNAL}; energy +digital_update >nonlinearity", base={"activation": "relu"}),
    "mixing": Row({}, f"{SIGNAL}; energy +nonlinearity >digital_update; area >nonlinearity"),
    "glu": Row({}, f"{SIGNAL}; energy +digital_update >nonlinearity"),
    "residual": Row({}, f"{SIGNAL}; energy +digital_update; memory >state"),
    "norm": Row({}, f"{SIGNAL}; energy +digital_update; memory >state", base={"norm": "layer"}),
    "pool": Row({}, f"{SIGNAL}; energy +digital_update"),
}
"""Parts of a model, each with 10 bits in place of 8."""
RULES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "path": ({"path": "gelu", "bits": 12}, {"path": "residual", "bits": 12}, "energy ~digital_update ~memories"),
    "kind": ({"kind": "state", "bits": 12}, {"kind": "parameter", "bits": 12}, "memory -state +parameters"),
    "bits": ({"path": "gelu", "bits": 8}, {"path": "gelu", "bits": 12}, "energy +memories; memory +activations"),
    "symmetric": ({}, {"symmetric": True}, "energy -digital_update"),
    "granularity": ({}, {"granularity": "tensor"}, SHARED),
    "observer": ({}, {"observer": "minmax"}, ""),  # where a range ends
    "calibration": ({}, {"path": "gelu", "calibration": "dynamic"}, "refused"),
}
"""Field of a rule: a rule behind the base's, another, and some of what changes."""


_KNOWN: dict[str, dict[str, float]] = {}


def found(model: dict[str, Any], scheme: dict[str, Any]) -> dict[str, float]:
    """`quantities` of a model and scheme, once."""
    key = repr((model, scheme))
    if key not in _KNOWN:
        _KNOWN[key] = quantities(placed(model, scheme))
    return _KNOWN[key]


def test_every_field_has_its_row() -> None:
    assert set(MODELS) == set(ModelConfig.model_fields)
    assert set(LAYERS) == set(LAYER_CONFIGS.known)
    for name, rows in LAYERS.items():
        assert set(rows) == set(LAYER_CONFIGS.known[name].model_fields), name
    assert set(SCHEMES) == (set(Scheme.model_fields) | set(Uniform.model_fields)) - {"bits"}
    assert set(BITS) == set(Bits.model_fields)
    assert set(RULES) == set(Rule.model_fields)


ROWS = [*MODELS.items(), *SCHEMES.items(), *BITS.items(), *(i for rows in LAYERS.values() for i in rows.items())]


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[name for name, _ in ROWS])
def test_what_moves_nothing_for_sure_says_why(name: str, row: Row) -> None:
    assert bool(row.why) != any(way in "+-" for way in row.ways.values())


@pytest.mark.parametrize("name", MODELS)
def test_fields_of_a_model(name: str) -> None:
    row = MODELS[name]
    assert wrong(found(row.base, {}), found(row.base | row.changes, {}), row.ways) == {}


@pytest.mark.parametrize(("layer", "name"), [(layer, name) for layer, rows in LAYERS.items() for name in rows])
def test_fields_of_a_layer(layer: str, name: str) -> None:
    row, base = LAYERS[layer][name], {"layer": layer}
    assert wrong(found(base, {}), found(base | row.changes, {}), row.ways) == {}


@pytest.mark.parametrize("name", SCHEMES)
def test_fields_of_a_scheme(name: str) -> None:
    row = SCHEMES[name]
    if row.why == "refused":
        with pytest.raises(ImcSsmError, match="dynamic"):
            found({}, row.base | row.changes)
        return
    assert wrong(found({}, row.base), found({}, row.base | row.changes), row.ways) == {}


@pytest.mark.parametrize("name", BITS)
def test_bits_of_a_part(name: str) -> None:
    row, words = BITS[name], dict.fromkeys(Bits.model_fields, 8)
    before, after = (found(row.base, {"bits": words | {name: bits}}) for bits in (8, 10))
    assert wrong(before, after, row.ways) == {}


@pytest.mark.parametrize("name", RULES)
def test_fields_of_a_rule(name: str) -> None:
    first, second, moves = RULES[name]
    if moves == "refused":
        with pytest.raises(ImcSsmError, match="dynamic"):
            found({}, {"bits": {}, "rules": [second]})
        return
    before, after = (found({}, {"bits": {}, "rules": [rule] if rule else []}) for rule in (first, second))
    ways = ways_of(moves)
    assert wrong({k: before[k] for k in ways}, after, ways) == {}
    assert bool(moves) == (before != after)


@pytest.mark.parametrize(
    ("field", "value", "changes"),
    [
        ("norm", "batch", {"energy/nonlinearity": "="}),  # its statistics are frozen: no root
        ("activation", "none", {"energy/nonlinearity": "-", "memory/activations": "-"}),
        ("activation", "gelu2", {}),  # another table
        ("pool", "none", {"energy/adc": "+", "latency/adc": "+", "memory/activations": "-"}),  # decoded every step
        ("heads", [4, 8], {"energy/digital update": "+", "memory/state": "+", "total/tiles": "+"}),
    ],
)
def test_other_values_of_a_model(field: str, value: Any, changes: dict[str, str]) -> None:
    before, after = found({}, {}), found({field: value}, {})
    assert wrong({k: before[k] for k in changes}, after, changes) == {}
    assert bool(changes) == (before != after)


@pytest.mark.parametrize(
    ("field", "value", "changes"),
    [
        ("rounding", "half_up", {}),  # the same adder
        ("rounding", "stochastic", {"energy/digital update": "+", "latency/digital update": "+"}),
        ("rounding", "feedback", {"energy/memories": "+", "memory/state": "+"}),
        ("granularity", "state", {"energy/memories": "+", "memory/requantization": "+"}),
        ("pole_form", "log_polar", {"energy/memories": "+", "total/energy load": "+"}),
    ],
)
def test_other_values_of_a_scheme(field: str, value: Any, changes: dict[str, str]) -> None:
    before, after = found({}, {}), found({}, {field: value})
    assert wrong({k: before[k] for k in changes}, after, changes) == {}
    assert bool(changes) == (before != after)
