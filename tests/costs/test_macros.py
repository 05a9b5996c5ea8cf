"""Macros of papers: their TOMLs, what is defaulted, and predictions that move as physics says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_ssm.costs import Macro, MacroLayer, load_macro, macro_names, predict
from imc_ssm.costs.prediction import PARTS
from imc_ssm.errors import ConfigError, DesignError

TABLE: dict[str, Any] = {
    "name": "own",
    "device": "reram",
    "rows": 128,
    "columns": 128,
    "node": 40e-9,
    "in_bits": 4,
    "weight_bits": 4,
    "out_bits": 6,
    "adc": "sar",
}
"""What the table of a typical paper has."""
KINDS: dict[str, dict[str, Any]] = {
    "reram": {},
    "pcm": {"device": "pcm", "adc": "cco"},
    "duration": {"device": "pcm", "adc": "duration"},
    "neuron": {"adc": "charge-decrement", "in_signed": True, "word_lines_along_outputs": True},
    "ramp": {"adc": "ramp"},
    "flash": {"adc": "flash"},
    "charge": {"device": "sram", "weight_bits": 1},
    "ladder": {"device": "sram", "coding": "amplitude"},
    "discharge": {"device": "sram", "cell": "discharge", "coding": "pulse-count", "pulse": 0.2e-9},
}


def macro(**changes: Any) -> Macro:
    return Macro.parse(TABLE | changes)


def nominal(ds: xr.Dataset, name: str) -> float:
    return float(ds[name].sel(bound="nominal"))


@pytest.mark.parametrize("name", macro_names())
def test_shipped_macros_are_cited_and_predicted(name: str) -> None:
    found = load_macro(name)
    assert len(found.source) > 20
    assert found.published is not None
    ds = predict(found)
    assert (ds["energy_total"] > 0).all()
    for name in ("energy", "area"):
        parts = ds[name].sel(bound="nominal")
        assert float(parts.sum()) == pytest.approx(nominal(ds, f"{name}_total"))
    for variable in ds.data_vars.values():
        assert variable.attrs["units"]
        assert variable.attrs["long_name"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_enough(kind: str) -> None:
    ds = predict(macro(**KINDS[kind]))
    for name in ("energy_total", "latency", "period", "tops", "tops_per_watt", "tops_per_mm2", "area_total"):
        low, middle, high = ds[name].values
        assert 0 < low <= middle <= high < np.inf, name
    low, middle, high = ds["energy_total"].values
    assert high > 1.1 * middle  # nobody knows it better
    # One number said in three ways.
    operations = 2 * float(ds["macs"])
    assert nominal(ds, "tops_per_watt") == pytest.approx(operations / nominal(ds, "energy_total") / 1e12)
    assert nominal(ds, "energy_per_mac") == pytest.approx(nominal(ds, "energy_total") / float(ds["macs"]))
    assert nominal(ds, "power") == pytest.approx(1e12 * nominal(ds, "tops") / 1e12 / nominal(ds, "tops_per_watt"))
    assert float(ds["energy_share"].sel(bound="nominal").sum()) == pytest.approx(1.0)
    assert "supply = 1.1 V" in ds.attrs["defaulted"]  # nominal at 40 nm
    assert np.isnan(ds["published"]).all()


def test_names_as_papers_write_them() -> None:
    assert macro(device="RRAM", adc="SAR") == macro()
    assert macro(device="PCM", adc="CCO", coding="PWM") == macro(device="pcm", adc="cco", coding="pulse-width")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", ["in_bits", "out_bits", "weight_bits", "rows", "columns", "phases"])
def test_more_never_costs_less(kind: str, field: str) -> None:
    changes = TABLE | KINDS[kind]
    before = changes.get(field, 1)
    after = 2 * before if field in ("rows", "columns", "weight_bits", "phases") else before + 1
    small, large = predict(macro(**KINDS[kind])), predict(macro(**KINDS[kind] | {field: after}))
    per = "energy_per_mac" if field == "weight_bits" else "energy_total"  # wider weights are fewer in an array
    for name in (per, "latency", "period"):
        assert nominal(large, name) >= nominal(small, name) * (1 - 1e-9), name
    if field != "weight_bits":  # of memristive cells a matter of their conductances
        assert nominal(large, "energy_total") > nominal(small, "energy_total")
    for part in ("cells", "lines"):  # a converter that has more time is smaller
        area = [float(ds["area"].sel(component=part, bound="nominal")) for ds in (small, large)]
        assert area[1] >= area[0]


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    arrays=st.integers(1, 500),
    supply=st.sampled_from([0.7, 0.9, 1.2]),
    node=st.sampled_from([14e-9, 28e-9, 65e-9, 130e-9]),
)
def test_arrays_scale(kind: str, arrays: int, supply: float, node: float) -> None:
    """More arrays: area and throughput in proportion; energy of a product, and what follows, as before."""
    changes = KINDS[kind] | {"supply": supply, "node": node}
    one, many = predict(macro(**changes)), predict(macro(**changes, arrays=arrays))
    for name, power in (("area_total", 1), ("tops", 1), ("power", 1), ("energy_total", 0), ("tops_per_mm2", 0)):
        assert nominal(many, name) == pytest.approx(arrays**power * nominal(one, name)), name


@pytest.mark.parametrize("kind", KINDS)
def test_higher_supply_costs_more(kind: str) -> None:
    low, high = (predict(macro(**KINDS[kind], supply=volt, supply_analog=volt)) for volt in (0.8, 1.1))
    assert nominal(high, "energy_total") > nominal(low, "energy_total")


def test_few_rows_and_columns_at_once() -> None:
    """A product is of what is on: lines stay as long, cells and conversions are fewer."""
    whole, part = predict(macro()), predict(macro(rows_on=16, columns_on=32))
    assert float(part["macs"]) == 16 * 32
    cells = [float(ds["energy"].sel(component="cells", bound="nominal")) for ds in (whole, part)]
    assert cells[1] == pytest.approx(cells[0] * 16 * 32 / 128**2)
    lines = [float(ds["energy"].sel(component="lines", bound="nominal")) for ds in (whole, part)]
    assert cells[1] / cells[0] < lines[1] / lines[0] < 1
    area = [float(ds["area"].sel(component="cells", bound="nominal")) for ds in (whole, part)]
    assert area[0] == area[1]


def test_a_chip_pays_for_its_tiles_and_links() -> None:
    base = {"scope": "chip", "arrays": 8, "period": 1e-6}
    alone, chip = predict(macro(**base | {"scope": "macro"})), predict(macro(**base, io_bits=1000, link_rate=1e11))
    for part in ("tile", "movement"):
        assert float(alone["energy"].sel(component=part, bound="nominal")) == 0
        assert float(chip["energy"].sel(component=part, bound="nominal")) > 0
    shared = predict(macro(**base, arrays_per_tile=8))
    tile = [float(ds["energy"].sel(component="tile", bound="nominal")) for ds in (chip, shared)]
    assert tile[1] == pytest.approx(tile[0] / 8)
    slow = predict(macro(**base | {"period": 2e-6}))
    assert float(slow["energy"].sel(component="tile", bound="nominal")) == pytest.approx(2 * tile[0])


# ---------------------------------------------------------------- recurrent workloads
LSTM = {"name": "lstm", "kind": "lstm", "inputs": 200, "outputs": 256}


def step(*layers: dict[str, Any], **changes: Any) -> xr.Dataset:
    workload = {"layers": list(layers)} | changes.pop("workload", {})
    return predict(macro(rows=512, columns=512, arrays=64, **changes, workload=workload))


def test_an_lstm_is_its_matrices() -> None:
    """(200 + 256) x 1024 weights: one array high, two wide; energy is theirs, and the gates'."""
    one = predict(macro(rows=512, columns=512, arrays=64))
    whole, bare = step(LSTM), step(LSTM, workload={"gates": False})
    assert float(whole["arrays"]) == 2
    assert float(whole["macs"]) == 456 * 1024
    dynamic = [part for part in PARTS if part not in ("leakage", "tile")]
    energy = [ds["energy"].sel(component=dynamic, bound="nominal").values for ds in (one, bare, whole)]
    np.testing.assert_allclose(energy[1], 2 * energy[0])
    gates = energy[2].sum() - energy[1].sum()
    assert gates > 0
    doubled = step(LSTM | {"outputs": 512}, workload={"gates": True})  # 712 x 2048: 2 x 4 arrays, their sums too
    assert float(doubled["arrays"]) == 8
    assert nominal(whole, "period") == pytest.approx(
        nominal(one, "latency")
    )  # its next step waits for its outputs
    assert nominal(step({"name": "dense", "inputs": 200, "outputs": 256}), "period") == pytest.approx(
        nominal(one, "period")
    )


def test_layers_add_up() -> None:
    gru = {"name": "gru", "kind": "gru", "inputs": 100, "outputs": 100}
    dense = {"name": "dense", "inputs": 256, "outputs": 10}
    each = [step(layer) for layer in (LSTM, gru, dense)]
    both = step(LSTM, gru, dense)
    for name in ("macs", "arrays"):
        assert float(both[name]) == sum(float(ds[name]) for ds in each)
    assert nominal(both, "latency") == pytest.approx(sum(nominal(ds, "latency") for ds in each))
    dynamic = [part for part in PARTS if part not in ("leakage", "tile")]
    energy = [float(ds["energy"].sel(component=dynamic, bound="nominal").sum()) for ds in (both, *each)]
    assert energy[0] == pytest.approx(sum(energy[1:]))


def test_idle_tiles_are_paid() -> None:
    used, all_on = step(LSTM), step(LSTM, workload={"tiles": 10})
    adc = [float(ds["energy"].sel(component="adc", bound="nominal")) for ds in (used, all_on)]
    assert adc[1] == pytest.approx(5 * adc[0])
    assert nominal(all_on, "tops") == pytest.approx(nominal(used, "tops"))
    assert nominal(all_on, "tops_per_watt") < nominal(used, "tops_per_watt")


def test_weights_of_layers() -> None:
    """The layers of an RNN transducer have the number of weights that its paper says."""
    for name, weights in (("ibm-34-tile-chip1", 5.177e6), ("ibm-34-tile-chip4", 17.302e6)):
        assert float(predict(load_macro(name))["macs"]) == pytest.approx(weights, rel=1e-4)
    layer = MacroLayer.parse(LSTM)
    assert layer.gates == (3 * 256, 256, 5 * 256)


# ---------------------------------------------------------------- what is refused, and how
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"colums": 3}, "did you mean 'columns'?"),
    "nanometres": ({"node": 40}, "give 40e-9 for 40 nm"),
    "rows": ({"rows_on": 200}, "rows_on = 200 of 128 rows"),
    "pairs": ({"rows_per_weight": 3}, "rows_per_weight = 3 does not divide"),
    "slices": ({"columns_per_weight": 3}, "columns_per_weight = 3 does not divide"),
    "current": ({"device": "sram", "cell": "resistive"}, "no conductance is usual for sram; give g_max or g_mean"),
    "share": ({"share": 200}, "a product takes 128 conversions"),
    "converter": ({"adc": "sarr"}, "did you mean 'sar'?"),
    "conductances": ({"g_min": 2e-6, "g_max": 1e-6}, "is above g_max"),
    "device": ({"device": "mram"}, "give g_max or g_mean"),
    "nothing": ({"published": {"source": "somewhere", "scope": "macro"}}, "nothing is published"),
    "sources": ({"sources": {"row": "a paper"}}, "did you mean 'rows'?"),
    "layers": ({"workload": {"layers": [LSTM, LSTM]}}, "the same name"),
    "arrays": ({"workload": {"layers": [LSTM]}}, "take 32 arrays of 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_fields(case: str) -> None:
    changes, words = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        predict(macro(**changes))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_name() -> None:
    with pytest.raises(DesignError, match="did you mean 'hermes'"):
        load_macro("hermse")


# ---------------------------------------------------------------- every field matters
WORDS = {"name", "description", "source", "sources", "family", "published"}
CHANGED: dict[str, tuple[str, Any]] = {
    "device": ("reram", "pcm"),
    "cell": ("charge", "discharge"),
    "rows": ("reram", 256),
    "columns": ("reram", 256),
    "arrays": ("reram", 2),
    "rows_on": ("reram", 16),
    "columns_on": ("reram", 16),
    "rows_per_weight": ("reram", 2),
    "columns_per_weight": ("reram", 2),
    "columns_per_conversion": ("reram", 2),
    "cell_area": ("reram", 1e-12),
    "node": ("reram", 65e-9),
    "node_periphery": ("reram", 65e-9),
    "supply": ("reram", 1.0),
    "supply_analog": ("reram", 1.0),
    "read_voltage": ("reram", 0.3),
    "line_voltage": ("reram", 2.0),
    "in_bits": ("reram", 6),
    "in_signed": ("reram", True),
    "weight_bits": ("ladder", 8),
    "out_bits": ("reram", 8),
    "coding": ("reram", "amplitude"),
    "pulse_bits": ("reram", 2),
    "activity": ("reram", 0.1),
    "phases": ("reram", 2),
    "phase_bits": ("neuron", [2, 1]),
    "adc": ("reram", "ramp"),
    "share": ("reram", 8),
    "adc_rate": ("reram", 1e9),
    "cycle": ("ramp", 2e-9),
    "step": ("neuron", 1e-6),
    "affine": ("reram", True),
    "pulse": ("reram", 50e-9),
    "period": ("reram", 1e-3),
    "word_lines_along_outputs": ("reram", True),
    "g_min": ("reram", 1e-6),
    "g_max": ("reram", 100e-6),
    "g_mean": ("reram", 100e-6),
    "differential": ("reram", False),
    "scope": ("reram", "chip"),
    "arrays_per_tile": ("chip", 4),
    "io_bits": ("reram", 100),
    "link_rate": ("chip", 1e9),
    "tile_area": ("reram", 1e-6),
    "workload": ("reram", {"layers": [{"name": "a", "inputs": 64, "outputs": 64}]}),
}
"""Another value for every field, and where it matters."""


def test_every_field_has_its_case() -> None:
    assert set(CHANGED) == set(Macro.model_fields) - WORDS


@pytest.mark.parametrize("field", CHANGED)
def test_no_field_is_flat(field: str) -> None:
    kind, value = CHANGED[field]
    base = {"scope": "chip"} if kind == "chip" else KINDS[kind]
    before, after = predict(macro(**base)), predict(macro(**base | {field: value}))
    totals = ("energy_total", "energy_per_mac", "period", "latency", "area_total", "tops")
    assert any(nominal(after, name) != pytest.approx(nominal(before, name), rel=1e-6) for name in totals)
