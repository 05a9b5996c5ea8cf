"""The tiles of a chip as an array with its circuits (`arrays.ArraySpec`), and what one product on them takes.

What a design does not say (`Design.electrics`) follows from its node and its cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from imc_ssm.devices.constants import load_constants
from imc_ssm.errors import DesignError
from imc_ssm.pricing.arrays import ArrayPrices, ArraySpec, held, prices
from imc_ssm.pricing.inputs import BY_CODING, INPUTS
from imc_ssm.pricing.intervals import Number, Values, nominal
from imc_ssm.pricing.nodes import supply
from imc_ssm.pricing.presets import PRESETS

__all__ = ["TilePrices", "spec_of", "tile_prices"]


def circuit_of(dac: Any) -> str:
    """The input circuit of a design's converter: its type where that makes its coding, else the coding's own.

    Amplitudes take a converter of levels, but for one bit a line's driver; widths a comparison with a counter;
    bits in turn a driver, or one of three levels ("bipolar").
    """
    if dac.encoding == "bit-serial":
        return "bipolar" if dac.type == "bipolar" else "driver"
    if dac.encoding == "amplitude" and dac.type == "driver" and dac.bits == 1:
        return "driver"
    return BY_CODING[dac.encoding]


def spec_of(chip: Any, k: Values) -> ArraySpec:
    """A whole tile of a `Chip`; `DesignError` for a rate of a converter that integrates."""
    design, cell, given = chip.design, chip.cell, chip.design.electrics

    def or_(number: object, otherwise: Number) -> Number:
        return otherwise if number is None else number.value  # type: ignore[attr-defined]

    if given.conversion_rate is not None and not held(chip.adc.type):
        raise DesignError(
            f"electrics.conversion_rate = {given.conversion_rate.value:g} Hz: a converter of type "
            f"{chip.adc.type!r} integrates while a column is read, and takes as long as its pulse and its counts; "
            "leave the rate out"
        )
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
        dac=circuit_of(chip.dac),
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
    """J per S and full-scale pulse: V_read^2 t, with t at least as long as lines take to settle."""
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
        the conversions of the columns that share a converter.

        With p a pulse, and q the holding and the conversions behind it, n pulses in turn take n max(p, q) +
        min(p, q): columns that are held are converted while the next pulse reads, and the longer of the two sets
        the pace. A converter that integrates reads the columns that share it one after the other.
        """
        count, share = self.law.conversions, min(self.spec.share, columns)
        convert = share * self.convert_time
        if not held(self.spec.adc):
            read, convert = count * share * self.law.integration, count * convert
        else:
            read, convert = self.law.pulse_time, self.hold_time + convert
            if count > 1:
                slower = read >= convert
                read, convert = read * np.where(slower, count, 1), convert * np.where(slower, 1, count)
        return {"dac": count * self.drive_time, "cells": read, "adc": convert}


def tile_prices(chip: Any, k: Values) -> TilePrices:
    """Prices of a chip's tiles; `DesignError` for a converter without a price, or a rate that it cannot have."""
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
    if own["dac"] is None and chip.dac.type == "ideal":
        raise DesignError(
            f"a converter of type 'ideal' has no price; give dac a type: {', '.join(INPUTS)}, or a row of the "
            "design's component table"
        )
    law = prices(known, k)
    adc, dac, pulses = own["adc"], own["dac"], chip.dac.pulses
    holds, reads = spec.share > 1 and held(spec.adc), 1 if held(spec.adc) else spec.share
    return TilePrices(
        law=law,
        spec=spec,
        hold=law.conversions * chip.sample_hold.energy.value if holds else 0.0,
        convert=law.convert if adc is None else pulses * adc.energy.value,
        driver=law.driver if dac is None else reads * pulses * dac.energy.value,
        pulse_energy=spec.v_read**2 * law.pulse_time,
        drive_time=0.0 if dac is None else dac.latency.value,
        hold_time=chip.sample_hold.latency.value if holds else 0.0,
        area_hold=chip.sample_hold.area.value if holds else 0.0,
        area_converter=law.area_converter if adc is None else adc.area.value,
        area_input=law.area_input if dac is None else dac.area.value,
        convert_time=law.convert_time if adc is None else adc.latency.value,
    )


def nominal_tiles(chip: Any) -> TilePrices:
    """`tile_prices` with the nominal constants."""
    return tile_prices(chip, nominal(load_constants().entries))
