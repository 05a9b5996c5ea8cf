"""What a macro takes, predicted: energy by component, times, throughput and area, each with its interval.

Energy of one product of one array, prices of `pricing.arrays`, R rows that are driven, N conversions:

    E = (R (driver + word line) + N (bit line + convert + hold) + sum of G siemens + cells cell + digital)
        x (1 + control) + traffic to buffers and links + (power of the tile's control + leakage) x period

Links and the tile's control are the chip's alone (`scope = "chip"`). Throughput = arrays x operations / period; an
operation is half a multiply-accumulate. With a workload all of it is by step: the arrays that run, one after the
other or side by side, and the gates' operations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from imc_ssm.costs.macros import Macro
from imc_ssm.devices.constants import ConstantsLike, constants_of
from imc_ssm.pricing.arrays import ArrayPrices, ArraySpec, prices
from imc_ssm.pricing.intervals import BOUNDS, Number, Values, bounds, most, nominal, scenarios
from imc_ssm.pricing.nodes import logic_scale, supply
from imc_ssm.units import quantity

__all__ = ["MEASURED", "PARTS", "defaulted", "predict", "spec_of_macro"]

PARTS = ("cells", "lines", "dac", "adc", "digital", "control", "movement", "tile", "leakage")
"""Who takes the energy; "tile" and the links of "movement" are a chip's."""
MEASURED = ("energy", "latency", "tops", "tops_per_watt", "tops_per_mm2", "area")
"""Quantities that papers publish, as `Published` names them; of the dataset `energy_total` and `area_total`."""


def predict(macro: Macro, constants: ConstantsLike = None) -> xr.Dataset:
    """Prediction for a macro from constants (default: those shipped).

    Returns a dataset over `bound` (low, nominal, high) and `component`: `energy` (J per product of one array; with
    a workload per step), `energy_share` (1), `area` (m2 of all arrays), their totals `energy_total` and
    `area_total`; `latency` and `period` (s), `throughput` (products or steps per s), `tops`, `tops_per_watt`,
    `tops_per_mm2` (1e12 operations, two a multiply-accumulate), `energy_per_mac` (J), `power` (W of all arrays),
    and `macs` (of one product or step). What was published stands beside it as `published` (quantity) and `ratio`
    (quantity, bound), NaN where nothing was.

    Raises `ConfigError` for a converter that there is no preset of, or a design that it cannot have.
    """
    constants = constants_of(constants)
    k = scenarios(constants.entries)
    found = _step(macro, k) if macro.workload is not None else _product(macro, k)
    operations, arrays = 2.0 * found.macs, found.arrays
    total = sum(found.energy.values())
    area = sum(found.area.values())
    rate = operations * found.side_by_side / found.period
    unit = "step" if macro.workload is not None else "product"
    out = xr.Dataset(coords={"bound": list(BOUNDS), "component": list(PARTS)})

    def put(name: str, values: Any, units: str, label: str) -> None:
        rows = values if isinstance(values, dict) else None
        if rows is None:
            out[name] = ("bound", _three(values, k), {"units": units, "long_name": label})
        else:
            each = np.array([_three(rows[part], k) for part in PARTS])
            out[name] = (("component", "bound"), each, {"units": units, "long_name": label})

    put("energy", found.energy, "J", f"Energy per {unit} by component")
    put("energy_total", total, "J", f"Energy per {unit}")
    put(
        "energy_share", {part: joules / total for part, joules in found.energy.items()}, "1", "Share of the energy"
    )
    put("area", found.area, "m2", "Area by component, all arrays")
    put("area_total", area, "m2", "Area, all arrays")
    put("latency", found.latency, "s", f"Time of one {unit}, inputs to outputs")
    put("period", found.period, "s", f"Time from one {unit} to the next")
    put("throughput", found.side_by_side / found.period, "1/s", f"Rate of {unit}s, all arrays")
    put("tops", rate / 1e12, "TOPS", "Throughput, 1e12 operations (two a multiply-accumulate) per second")
    put("tops_per_watt", operations / total / 1e12, "TOPS/W", "Operations per energy")
    put("tops_per_mm2", rate / 1e12 / (area * 1e6), "TOPS/mm2", "Throughput by area")
    put("energy_per_mac", total / found.macs, "J", "Energy per multiply-accumulate")
    put("power", total * found.side_by_side / found.period, "W", "Power, all arrays at work")
    out["macs"] = ((), float(found.macs), {"units": "1", "long_name": f"Multiply-accumulates of one {unit}"})
    out["arrays"] = ((), float(arrays), {"units": "1", "long_name": f"Arrays that one {unit} takes"})
    out.attrs = {
        "title": f"{macro.name}, predicted",
        "macro": macro.name,
        "unit": unit,
        "defaulted": "; ".join(f"{field} = {words}" for field, words in defaulted(macro, constants).items()),
    }
    return _compared(out, macro)


def _compared(out: xr.Dataset, macro: Macro) -> xr.Dataset:
    """With what was published, and predicted over published."""
    said = macro.published
    numbers = [math.nan if said is None or (x := getattr(said, name)) is None else float(x) for name in MEASURED]
    own = {"energy": "energy_total", "area": "area_total"}
    ratio = np.array(
        [out[own.get(name, name)].values / number for name, number in zip(MEASURED, numbers, strict=True)]
    )
    out = out.assign_coords(quantity=list(MEASURED))
    if macro.period is not None:  # rates are an input then, no prediction
        ratio[[MEASURED.index("tops"), MEASURED.index("tops_per_mm2")]] = math.nan
    text = {"units": "1", "long_name": "As published, in the unit of the prediction"}
    out["published"] = ("quantity", np.array(numbers), text)
    out["ratio"] = (("quantity", "bound"), ratio, {"units": "1", "long_name": "Predicted over published"})
    return out


def _three(values: Number, k: Values) -> np.ndarray:
    return np.array([float(part) for part in bounds(values, k)])


@dataclass(frozen=True)
class _Found:
    """What one product, or one step, takes; numbers are of all scenarios."""

    energy: dict[str, Number]
    """J by component."""
    area: dict[str, Number]
    """m2 by component, of all arrays."""
    latency: Number
    """s."""
    period: Number
    """s."""
    macs: int
    arrays: int
    """Arrays that run in it."""
    side_by_side: int
    """Products (or steps) at the same time on all arrays."""


@dataclass(frozen=True)
class _Array:
    """One array: J per product by component, W by component that flow all the time, times, m2 by component."""

    energy: dict[str, Number]
    power: dict[str, Number]
    latency: Number
    period: Number
    area: dict[str, Number]


def spec_of_macro(macro: Macro, k: Values) -> ArraySpec:
    """A macro as the laws of arrays see it; what it leaves out is taken from the constants."""
    nominal_supply = supply(k, macro.node)
    logic = macro.supply if macro.supply is not None else nominal_supply
    analog = macro.supply_analog
    if analog is None:
        other = macro.node_periphery
        analog = logic if other is None or other == macro.node else supply(k, other)
    area = macro.cell_area
    if area is None:
        area = (k.resistive_cell if macro.kind == "resistive" else k.sram_cell) * macro.node**2
    bits, serial = macro.in_bits, macro.coded == "bit-serial"
    if serial and macro.pulse_bits > 1:  # so many fewer pulses
        sign = 1 if macro.in_signed else 0
        bits = math.ceil(max(bits - sign, 1) / macro.pulse_bits) + sign
    return ArraySpec(
        cell=macro.kind,
        coding=macro.coded,
        rows=macro.rows,
        columns=macro.conversions,
        lines_per_column=macro.joined,
        cells_per_row=macro.columns,
        cell_area=area,
        node=macro.node,
        node_periphery=macro.node_periphery or macro.node,
        v_read=_read_voltage(macro, logic, k),
        v_logic=logic,
        v_analog=analog,
        v_line=macro.line_voltage if macro.line_voltage is not None else logic,
        g_mean=_conductance(macro, k),
        activity=macro.activity,
        in_bits=bits,
        in_signed=macro.in_signed,
        out_bits=macro.out_bits,
        weight_bits=macro.weight_bits,
        adc=macro.adc,
        dac={"amplitude": "capacitive", "pulse-width": "pulse-width"}.get(macro.coded, "driver"),
        pulse=_pulse(macro, k),
        phases=macro.phases,
        phase_bits=None if macro.phase_bits is None else tuple(macro.phase_bits),
        share=macro.shared,
        adc_rate=macro.adc_rate,
        t_cycle=macro.cycle,
        t_step=macro.step,
        period=None,
        word_lines_along_outputs=macro.word_lines_along_outputs,
    )


def defaulted(macro: Macro, constants: ConstantsLike = None) -> dict[str, str]:
    """The fields of a macro that were not given and matter, and what took their place."""
    spec = spec_of_macro(macro, nominal(constants_of(constants).entries))
    out = macro.choices()
    numbers = {
        "supply": (spec.v_logic, "V"),
        "supply_analog": (spec.v_analog, "V"),
        "read_voltage": (spec.v_read, "V"),
        "line_voltage": (spec.v_line, "V"),
    }
    if macro.kind == "resistive":
        numbers["pulse"] = (spec.pulse, "s")
        if macro.g_max is None:
            numbers["g_mean"] = (spec.g_mean, "S")
    for field, (value, unit) in numbers.items():
        if getattr(macro, field) is None:
            out[field] = quantity(float(value), unit)
    if macro.cell_area is None:
        out["cell_area"] = f"{spec.cell_area * 1e12:.3g} um2"
    if macro.activity is None:
        out["activity"] = "that of Gaussian inputs"
    return out


def _read_voltage(macro: Macro, logic: Number, k: Values) -> Number:
    if macro.read_voltage is not None:
        return macro.read_voltage
    return k.read_voltage if macro.kind == "resistive" else logic


def _conductance(macro: Macro, k: Values) -> Number:
    """Mean conductance of a cell, S: g_min + mean |w| (g_max - g_min), half of the latter in pairs."""
    if macro.kind != "resistive":
        return 0.0
    if macro.g_mean is not None:
        return macro.g_mean
    g_max = macro.g_max
    if g_max is None:
        g_max = k.conductance_pcm if macro.device == "pcm" else k.conductance_reram
    g_min = macro.g_min or 0.0
    return g_min + k.weight_mean * (0.5 if macro.differential else 1.0) * (g_max - g_min)


def _pulse(macro: Macro, k: Values) -> Number:
    """Length of a read pulse, s; of widths the longest: one least time a code of the magnitude."""
    if macro.pulse is not None:
        return macro.pulse
    if macro.kind != "resistive":
        return 0.0
    if macro.coded == "pulse-width":
        return k.pulse_unit * 2 ** max(macro.in_bits - 1, 1)
    return k.read_pulse


def _array(macro: Macro, k: Values) -> _Array:
    spec = spec_of_macro(macro, k)
    price: ArrayPrices = prices(spec, k)
    rows, conversions = macro.driven, macro.conversions
    # A bit line that is discharged is so with all its rows, few of which may be on.
    cells = (macro.rows if macro.kind == "discharge" else rows) * macro.read
    scale = logic_scale(k, spec.node_periphery)
    digital = conversions * price.conversions * k.shift_add * (macro.out_bits / 8)
    if macro.affine:
        digital = digital + conversions * k.affine
    energy: dict[str, Number] = {
        "cells": cells * spec.g_mean * price.siemens + cells * price.cell,
        "lines": rows * price.word_line + conversions * price.bit_line,
        "dac": rows * price.driver,
        "adc": conversions * (price.convert + price.hold),
        "digital": digital * scale,
    }
    energy["control"] = price.control * sum(energy.values())
    energy["movement"] = macro.io_bits * k.io_bit
    area: dict[str, Number] = {
        "cells": macro.rows * macro.columns * price.area_cell,
        "lines": macro.rows * price.area_row + macro.columns * price.area_column,
        "dac": rows * price.area_input,
        "adc": math.ceil(conversions / macro.shared) * price.area_converter,
    }
    counted = sum(area.values())
    area["control"] = (price.overhead - 1.0) * counted
    whole = price.overhead * counted
    area["tile"] = macro.tile_area / macro.arrays_per_tile
    leaking = whole - area["cells"] if macro.kind == "resistive" else whole
    power: dict[str, Number] = {"leakage": price.leakage_density * leaking}
    if macro.scope == "chip":
        power["tile"] = k.tile_power * logic_scale(k, macro.node) / logic_scale(k, 14e-9) / macro.arrays_per_tile
        power["movement"] = k.link_bit * macro.link_rate / macro.arrays
    return _Array(energy, power, price.product_time, price.period, area)


def _whole(energy: dict[str, Number], power: dict[str, Number], period: Number) -> dict[str, Number]:
    """J by component: that of the product, and what flows all the time until the next."""
    return {part: energy.get(part, 0.0) + power.get(part, 0.0) * period for part in PARTS}


def _product(macro: Macro, k: Values) -> _Found:
    one = _array(macro, k)
    period = one.period if macro.period is None else macro.period
    area = {part: macro.arrays * one.area.get(part, 0.0) for part in PARTS}
    energy = _whole(one.energy, one.power, period)
    return _Found(energy, area, one.latency, period, macro.macs, 1, macro.arrays)


def _step(macro: Macro, k: Values) -> _Found:
    """A step of the workload: arrays of one layer run side by side, layers one after the other.

    Layers are pipelined over steps, but a recurrent one starts its next step with its own outputs: the period is
    the longest of their products' periods, of recurrent ones latencies. The gates' time is not in it.
    """
    assert macro.workload is not None
    one = _array(macro, k)
    layers = macro.workload.layers
    latency = sum(layer.products * one.latency for layer in layers)
    period: Number = macro.period if macro.period is not None else 0.0
    if macro.period is None:
        for layer in layers:
            period = most(period, layer.products * (one.period if layer.kind == "dense" else one.latency))
    runs = sum(macro.tiles_of(layer) * layer.products for layer in layers)
    tiles = sum(macro.tiles_of(layer) for layer in layers)
    if macro.workload.tiles is not None:
        runs, tiles = runs + macro.workload.tiles - tiles, macro.workload.tiles
    energy = {part: runs * joules for part, joules in one.energy.items()}
    if macro.workload.gates:
        energy["digital"] = energy["digital"] + _gates(macro, k)
    power = {part: tiles * watts for part, watts in one.power.items()}
    area = {part: macro.arrays * one.area.get(part, 0.0) for part in PARTS}
    macs = sum(layer.rows * layer.columns * layer.products for layer in layers)
    return _Found(_whole(energy, power, period), area, latency, period, macs, tiles, 1)


def _gates(macro: Macro, k: Values) -> Number:
    """J per step: products, sums and tables of recurrent cells, and sums over the arrays of a column."""
    assert macro.workload is not None
    products = sums = lookups = 0
    for layer in macro.workload.layers:
        a, b, c = layer.gates
        blocks = math.ceil(layer.rows / (macro.rows // macro.rows_per_weight))
        products, lookups = products + a * layer.products, lookups + c * layer.products
        sums += (b + (blocks - 1) * layer.columns) * layer.products
    scale = logic_scale(k, macro.node_periphery or macro.node)
    return (products * k.byte_product + sums * k.byte_sum + lookups * k.byte_lookup) * scale
