"""Products of an array move as physics says, and two macros agree with numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from imc_ssm.devices.constants import load_constants
from imc_ssm.pricing.arrays import ArrayPrices, ArraySpec, mean_bit, prices
from imc_ssm.pricing.intervals import nominal, scenarios
from imc_ssm.pricing.presets import PRESETS

ENTRIES = load_constants().entries
ONE, ALL = nominal(ENTRIES), scenarios(ENTRIES)
CODINGS = ("bit-serial", "pulse-width", "pulse-count", "amplitude")


@st.composite
def specs(draw: st.DrawFn, **fixed: Any) -> ArraySpec:
    """Arrays of all kinds, from 8 to 1024 rows and 7 to 130 nm."""
    node = draw(st.sampled_from([7e-9, 14e-9, 22e-9, 32e-9, 40e-9, 65e-9, 90e-9, 130e-9]))
    rows = draw(st.integers(8, 1024))
    columns = draw(st.integers(8, 1024))
    one: dict[str, Any] = {
        "cell": draw(st.sampled_from(["resistive", "capacitive", "discharge"])),
        "coding": draw(st.sampled_from(CODINGS)),
        "rows": rows,
        "columns": columns,
        "cells_per_row": columns,
        "cell_area": draw(st.floats(16, 600)) * node**2,
        "node": node,
        "v_read": draw(st.floats(0.1, 0.6)),
        "v_logic": draw(st.floats(0.7, 1.8)),
        "v_analog": draw(st.floats(0.7, 1.8)),
        "g_mean": 1e-5,
        "in_bits": draw(st.integers(1, 8)),
        "in_signed": draw(st.booleans()),
        "out_bits": draw(st.integers(2, 10)),
        "adc": draw(st.sampled_from(sorted(PRESETS))),
        "pulse": draw(st.floats(1e-9, 1e-7)),
        "share": draw(st.sampled_from([1, 2, 8])),
        "phases": draw(st.integers(1, 3)),
        "word_lines_along_outputs": draw(st.booleans()),
    }
    return ArraySpec(**(one | fixed))


def energy(spec: ArraySpec) -> float:
    """J of a product of the whole array."""
    price = prices(spec, ONE)
    cells = spec.rows * spec.cells_per_row
    total = spec.rows * (price.driver + price.word_line)
    total += spec.columns * (price.bit_line + price.convert + price.hold)
    total += cells * (spec.g_mean * price.siemens if spec.cell == "resistive" else price.cell)
    return float(total * (1 + price.control))


def area(spec: ArraySpec) -> float:
    """m2 of the whole array."""
    price = prices(spec, ONE)
    parts = spec.rows * (spec.cells_per_row * price.area_cell + price.area_row + price.area_input)
    parts += spec.columns * price.area_column + math.ceil(spec.columns / spec.share) * price.area_converter
    return float(parts * price.overhead)


@settings(max_examples=200, deadline=None)
@given(specs())
def test_prices_are_finite_and_of_scenarios_the_first_is_nominal(spec: ArraySpec) -> None:
    one, many = prices(spec, ONE), prices(spec, ALL)
    for field in fields(ArrayPrices):
        value, values = getattr(one, field.name), np.ravel(getattr(many, field.name))
        assert np.isfinite(values).all(), field.name
        assert (values >= 0).all(), field.name
        assert values[0] == pytest.approx(value, rel=1e-9), field.name
    assert one.product_time >= one.pulse_time or spec.cell == "capacitive"
    assert one.pulse_time >= one.settle
    assert one.pulse_time >= spec.pulse
    assert one.overhead >= 1


@settings(max_examples=150, deadline=None)
@given(specs(), st.sampled_from(["rows", "columns", "v_read", "v_logic", "phases"]))
def test_a_larger_product_takes_more(spec: ArraySpec, field: str) -> None:
    """Rows, columns, repetitions, and the voltages that charge lines.

    By the survey a converter that waits for more rows to settle is slower, and a slower one takes less.
    """
    assume(spec.adc != "sar-survey" or field != "rows")
    more: dict[str, Any] = {field: getattr(spec, field) * 2}
    if field == "columns":
        more["cells_per_row"] = more["columns"]
    if field == "v_logic":
        assume(not spec.word_lines_along_outputs or spec.coding == "amplitude")
        spec = replace(spec, v_line=None)
        more["v_line"] = None
    assert energy(replace(spec, **more)) > energy(spec)


@settings(max_examples=150, deadline=None)
@given(specs(coding="pulse-width"))
def test_a_longer_pulse_takes_more(spec: ArraySpec) -> None:
    longer = replace(spec, pulse=spec.pulse * 4)
    settled = prices(spec, ONE).settle
    if spec.cell == "resistive" and longer.pulse > settled:
        assert energy(longer) > energy(spec)
    assert energy(longer) >= energy(spec)
    assert prices(longer, ONE).product_time >= prices(spec, ONE).product_time * (1 - 1e-12)


@settings(max_examples=150, deadline=None)
@given(specs())
def test_more_bits_in_or_out_never_take_less(spec: ArraySpec) -> None:
    """With the mean of the inputs held: the mean bit of signed Gaussian inputs is not monotone in their bits."""
    spec = replace(spec, activity=spec.mean_input)
    for field in ("in_bits", "out_bits"):
        more = replace(spec, **{field: getattr(spec, field) + 1})
        assert energy(more) >= energy(spec) * (1 - 1e-12), field
        if spec.adc not in ("cco", "sar-survey", "duration"):  # areas of the survey shrink with the rate
            assert prices(more, ONE).product_time >= prices(spec, ONE).product_time * (1 - 1e-12), field


@settings(max_examples=100, deadline=None)
@given(specs(), st.floats(0.02, 1.0), st.floats(0.02, 1.0))
def test_areas_and_times_do_not_depend_on_the_data(spec: ArraySpec, a: float, b: float) -> None:
    low, high = (replace(spec, activity=x) for x in sorted((a, b)))
    assert area(low) == area(high)
    assert prices(low, ONE).product_time == prices(high, ONE).product_time
    assert energy(low) <= energy(high) * (1 + 1e-12)


@settings(max_examples=100, deadline=None)
@given(specs())
def test_lines_settle_later_in_larger_arrays(spec: ArraySpec) -> None:
    """By more than the length: resistance and capacitance both grow."""
    line = max(spec.rows, spec.cells_per_row)
    spec = replace(spec, rows=line, cells_per_row=line)
    double = replace(spec, rows=2 * line, cells_per_row=2 * line)
    assert prices(double, ONE).settle > 2 * prices(spec, ONE).settle
    assert prices(replace(spec, out_bits=spec.out_bits + 1), ONE).settle > prices(spec, ONE).settle


def test_a_pulse_that_is_not_given_is_as_long_as_the_line_takes() -> None:
    """And cells draw current all the while: a read of no length would be free."""
    spec = ArraySpec(
        "resistive",
        "bit-serial",
        512,
        512,
        512,
        4e-14,
        40e-9,
        0.2,
        1.1,
        1.1,
        1e-5,
        in_bits=1,
        out_bits=6,
        adc="sar",
    )
    price = prices(spec, ONE)
    assert price.pulse_time == price.settle > 1e-10
    assert price.siemens == pytest.approx(0.2**2 * 0.5 * price.settle)


def test_sharing_a_converter_takes_time_and_spares_area() -> None:
    base = ArraySpec(
        "resistive",
        "bit-serial",
        128,
        128,
        128,
        4e-14,
        40e-9,
        0.2,
        1.1,
        1.1,
        1e-5,
        in_bits=8,
        out_bits=8,
        adc="sar",
    )
    alone, shared = prices(base, ONE), prices(replace(base, share=8), ONE)
    assert shared.convert == alone.convert
    assert shared.period == pytest.approx(8 * alone.period)  # 8 bits in turn, conversions longer than a pulse
    assert shared.product_time - shared.period == pytest.approx(shared.pulse_time)  # only the first pulse is seen
    assert shared.hold == pytest.approx(8 * ONE.hold)  # every bit's sample is held
    assert alone.hold == 0
    assert area(replace(base, share=8)) < area(base)


@pytest.mark.parametrize("adc", ["cco", "duration", "charge-decrement"])
def test_a_shared_integrator_integrates_column_by_column(adc: str) -> None:
    """A current cannot be held: four columns on one such converter take four times as long, reading included."""
    base = ArraySpec(
        "resistive", "pulse-width", 64, 64, 64, 4e-14, 40e-9, 0.2, 1.1, 1.1, 1e-5, 6, 6, adc=adc, pulse=5e-8
    )
    alone, shared = prices(base, ONE), prices(replace(base, share=4), ONE)
    assert shared.period == pytest.approx(4 * alone.period)
    assert shared.driver == pytest.approx(4 * alone.driver)  # rows are driven again for each
    assert shared.word_line == pytest.approx(4 * alone.word_line)
    assert shared.siemens == alone.siemens
    assert shared.convert == alone.convert


def test_a_counter_runs_through_all_pulses() -> None:
    """An oscillator counts as long as the longest train of pulses, on every kind of cell."""
    base = ArraySpec(
        "resistive", "pulse-count", 64, 64, 64, 4e-14, 40e-9, 0.2, 0.8, 0.8, 1e-5, 4, 4, adc="cco", pulse=1e-8
    )
    for cell in ("resistive", "capacitive", "discharge"):
        price = prices(replace(base, cell=cell), ONE)
        assert price.convert == pytest.approx(0.42e-3 * 150e-9)
        assert price.period == pytest.approx(152e-9)


def test_bits_in_turn_are_magnitudes() -> None:
    """Four bits with sign are three pulses and conversions, of bits that are one less often than half the time."""
    base = ArraySpec(
        "resistive", "bit-serial", 64, 64, 64, 4e-14, 40e-9, 0.2, 1.1, 1.1, 1e-5, in_bits=4, out_bits=6, adc="sar"
    )
    signed = replace(base, in_signed=True)
    assert (base.pulses, signed.pulses) == (4, 3)
    assert prices(signed, ONE).conversions == 3
    assert base.mean_input == 0.5
    assert signed.mean_input == mean_bit(3)
    codes = np.abs(np.round(np.clip(np.random.default_rng(1).normal(size=200_000) / 3, -1, 1) * 7)).astype(int)
    assert mean_bit(3) == pytest.approx(np.mean([(codes >> i) & 1 for i in range(3)]), abs=3e-3)
    assert replace(base, in_bits=1, in_signed=True).pulses == 1


def test_widths_are_read_by_their_mean() -> None:
    """Mean |x| of a Gaussian, full scale at three deviations: sqrt(2 / pi) / 3; amplitudes by mean squares."""
    base = ArraySpec(
        "resistive", "pulse-width", 64, 64, 64, 4e-14, 40e-9, 0.2, 1.1, 1.1, 1e-5, 8, 8, adc="cco", pulse=1e-7
    )
    assert prices(base, ONE).siemens == pytest.approx(0.04 * 0.26596 * 1e-7, rel=1e-4)
    assert prices(replace(base, coding="amplitude"), ONE).siemens == pytest.approx(0.04 / 9 * 1e-7)
    assert prices(replace(base, activity=0.1), ONE).siemens == pytest.approx(0.04 * 0.1 * 1e-7)
    counted = replace(base, coding="pulse-count", in_bits=4, activity=0.2, pulse=1e-9)
    assert prices(counted, ONE).siemens == pytest.approx(0.04 * 15 * 0.2 * 1e-9)


def test_discharged_lines_are_so_for_every_bit() -> None:
    base = ArraySpec("discharge", "bit-serial", 64, 64, 64, 1e-13, 28e-9, 0.9, 0.9, 0.9, 0.0, 4, 4, adc="flash")
    assert prices(base, ONE).cell == pytest.approx(4 * prices(replace(base, in_bits=1), ONE).cell)


def test_a_charge_decrement_column_by_hand() -> None:
    """NeuRRAM, 4 signed bits in, 6 bits out, 256 rows at 130 nm; cells of 125.74 squares, 1.8 V.

    Three magnitude bits are 2^3 - 1 = 7 integrations of 0.27 us and one cycle of 0.3 us; 6 decrements of 0.3 us.
    The amplifier: g_m = 9 ln 2 x 100 fF / (0.5 x 0.3 us) = 4.159 uS; 4 branches at 15 / V and 1.8 V: 1.996 uW.
    """
    spec = ArraySpec(
        cell="resistive",
        coding="bit-serial",
        rows=256,
        columns=256,
        cells_per_row=256,
        cell_area=125.74 * 130e-9**2,
        node=130e-9,
        v_read=0.5,
        v_logic=1.8,
        v_analog=1.8,
        g_mean=6.46e-6,
        in_bits=4,
        in_signed=True,
        out_bits=6,
        adc="charge-decrement",
        pulse=10e-9,
        phase_bits=(3,),
        word_lines_along_outputs=True,
    )
    price = prices(spec, ONE)
    assert price.conversions == 1
    assert price.convert_time == pytest.approx(1.8e-6)
    assert price.product_time == pytest.approx(2.19e-6 + 1.8e-6)
    assert price.convert == pytest.approx(1.9963e-6 * 3.99e-6, rel=1e-3)
    # a word line: 256 cells of 1.4577 um at 0.2 fF/um and of gates 1.04 um wide at 1 fF/um, 340.9 fF
    assert price.bit_line == pytest.approx(3 * 340.87e-15 * 1.33 * 1.8**2, rel=1e-3)
    mean = mean_bit(3)
    assert price.siemens == pytest.approx(3 * 0.25 * mean * 10e-9)
    assert price.driver == pytest.approx(3 * mean * 74.64e-15 * 1.33 * 0.25, rel=1e-3)
    assert price.word_line == 0


def test_a_shared_sar_by_hand() -> None:
    """Yao, 8 bits in turn, 8-bit SAR of 65 nm at 1.2 V shared by 4 columns; 128 x 128 cells at 130 nm.

    E = (240 fF x 8 + 2 fF x 256) x 1.44 V^2 = 3.502 pJ. A decision: 0.64 ns x 65 / 28 + 6.53 ps x 128 = 2.3216 ns
    at the nominal supply of 65 nm, 1.2 V; 8 of them 18.57 ns; 4 columns 74.29 ns, longer than a pulse of 50 ns.
    """
    spec = ArraySpec(
        cell="resistive",
        coding="bit-serial",
        rows=128,
        columns=128,
        cells_per_row=128,
        cell_area=125.74 * 130e-9**2,
        node=130e-9,
        node_periphery=65e-9,
        v_read=0.2,
        v_logic=1.8,
        v_analog=1.2,
        g_mean=4.5e-6,
        in_bits=8,
        out_bits=8,
        adc="sar",
        pulse=50e-9,
        share=4,
    )
    price = prices(spec, ONE)
    assert price.conversions == 8
    assert price.convert == pytest.approx(8 * 3.5021e-12, rel=1e-4)
    assert price.convert_time == pytest.approx(18.573e-9, rel=1e-3)
    assert price.phase_time == pytest.approx(74.29e-9, rel=1e-3)
    assert price.period == pytest.approx(8 * 74.29e-9, rel=1e-3)
    assert price.product_time == pytest.approx(8 * 74.29e-9 + 50e-9, rel=1e-3)
    assert price.siemens == pytest.approx(8 * 0.04 * 0.5 * 50e-9)
    assert price.word_line == pytest.approx(8 * 0.5 * 170.44e-15 * 1.33 * 1.8**2, rel=1e-3)
    assert price.bit_line == pytest.approx(8 * 37.318e-15 * 0.04, rel=1e-3)
    assert 128 * price.convert == pytest.approx(3.586e-9, rel=1e-3)
