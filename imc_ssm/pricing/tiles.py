"""The tiles of a chip as an array with its circuits (`arrays.ArraySpec`), and what one product on them takes.

What a design does not say (`Design.electrics`) follows from its node and its cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from imc_ssm.devices.constants import load_constants
from imc_ssm.errors import DesignError
from imc_ssm.pricing.arrays import ArrayPrices, ArraySpec, prices
from imc_ssm.pricing.intervals import Number, Values, nominal
from imc_ssm.pricing.nodes import supply
from imc_ssm.pricing.presets import PRESETS

__all__ = ["TilePrices", "spec_of", "tile_prices"]

INPUTS = {"amplitude": "capacitive", "pulse-width": "pulse-width", "bit-serial": "driver"}
"""The input circuit of a coding."""


def spec_of(chip: Any, k: Values) -> ArraySpec:
    """A whole tile of a `Chip`."""
    design, cell, given = chip.design, chip.cell, chip.design.electrics

    def or_(number: object, otherwise: Number) -> Number:
        return otherwise if number is None else number.value  # type: ignore[attr-defined]

    logic = or_(given.logic_supply, supply(k, design.node.value))
    return ArraySpec(
        cell="resistive",
        coding=chip.dac.encoding,
        rows=design.rows,
        columns=design.columns,
        cells_per_row=design.bit_lines,
        cell_area=cell.area.value,
        node=design.node.value,
        v_read=cell.v_read.value,
        v_logic=logic,
        v_analog=or_(given.analog_supply, supply(k, design.node.value)),
        v_line=or_(given.line_voltage, logic),
        g_mean=0.0,
        in_bits=chip.dac.bits,
        in_signed=chip.dac.signed,
        out_bits=chip.adc.bits,
        adc=chip.adc.type,
        dac=INPUTS[chip.dac.encoding],
        pulse=or_(given.pulse, cell.t_read.value),
        lines_per_column=max(design.bit_lines // design.columns, 1),
        share=design.columns_per_adc,
        adc_rate=or_(given.conversion_rate, None),
        t_cycle=or_(given.cycle, None),
    )


@dataclass(frozen=True)
class TilePrices:
    """What products on a tile take: laws, with the prices of a table's own converters in their place."""

    law: ArrayPrices
    """By law."""
    spec: ArraySpec
    """What they are for."""
    hold: Number
    """J per converted column, all pulses; none where every column has a converter of its own."""
    convert: Number
    """J per converted column, all pulses."""
    driver: Number
    """J per driven row, all pulses."""
    pulse_energy: Number
    """J per S and full-scale pulse: V_read^2 t."""
    drive_time: Number
    """s before a pulse that a table's own input circuit takes; by law it is part of the pulse."""
    hold_time: Number
    """s until a column is held."""
    area_hold: Number
    """m2 per column."""
    area_converter: Number
    """m2."""
    area_input: Number
    """m2 per row."""
    convert_time: Number
    """s of one conversion."""

    def times(self, columns: int) -> dict[str, Number]:
        """s of one product on a tile that uses so many columns, by component: inputs, while the array is read, and
        the conversions of the columns that share a converter."""
        count, share = self.law.conversions, min(self.spec.share, columns)
        return {
            "dac": count * self.drive_time,
            "cells": count * self.law.pulse_time,
            "adc": count * (self.hold_time + share * self.convert_time),
        }


def tile_prices(chip: Any, k: Values) -> TilePrices:
    """Prices of a chip's tiles; `DesignError` for a converter without a price."""
    spec = spec_of(chip, k)
    known = spec
    own = {kind: getattr(chip, kind).price for kind in ("dac", "adc")}
    if spec.adc not in PRESETS:
        if own["adc"] is None:
            raise DesignError(
                f"a converter of type {spec.adc!r} has no price; known: {', '.join(PRESETS)}, or a row of the "
                "design's component table"
            )
        known = replace(spec, adc="sar")
    law = prices(known, k)
    adc, dac, pulses = own["adc"], own["dac"], chip.dac.pulses
    return TilePrices(
        law=law,
        spec=spec,
        hold=law.conversions * chip.sample_hold.energy.value if spec.share > 1 else 0.0,
        convert=law.convert if adc is None else pulses * adc.energy.value,
        driver=law.driver if dac is None else pulses * dac.energy.value,
        pulse_energy=spec.v_read**2 * spec.pulse,
        drive_time=0.0 if dac is None else dac.latency.value,
        hold_time=chip.sample_hold.latency.value if spec.share > 1 else 0.0,
        area_hold=chip.sample_hold.area.value if spec.share > 1 else 0.0,
        area_converter=law.area_converter if adc is None else adc.area.value,
        area_input=law.area_input if dac is None else dac.area.value,
        convert_time=law.convert_time if adc is None else adc.latency.value,
    )


def nominal_tiles(chip: Any) -> TilePrices:
    """`tile_prices` with the nominal constants."""
    return tile_prices(chip, nominal(load_constants().entries))
