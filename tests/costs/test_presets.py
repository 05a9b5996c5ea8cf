"""Every converter preset and input circuit: positive, monotone in bits, alike for floats and scenarios."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

import numpy as np
import pytest

from imc_ssm.devices.constants import load_constants
from imc_ssm.errors import ConfigError
from imc_ssm.pricing.arrays import ArraySpec, prices
from imc_ssm.pricing.inputs import BY_CODING, INPUTS, Driven, input_of
from imc_ssm.pricing.intervals import Values, nominal, scenarios
from imc_ssm.pricing.presets import PRESETS, Conversion, preset_of

ENTRIES = load_constants().entries
ONE, ALL = nominal(ENTRIES), scenarios(ENTRIES)
BITS = range(1, 13)
CODINGS = {circuit: coding for coding, circuit in reversed(BY_CODING.items())} | {"bipolar": "bit-serial"}


def spec(**changes: object) -> ArraySpec:
    """An ordinary array of memristive cells at 40 nm."""
    base = ArraySpec(
        cell="resistive",
        coding="bit-serial",
        rows=128,
        columns=64,
        cells_per_row=128,
        cell_area=4e-14,
        node=40e-9,
        v_read=0.2,
        v_logic=1.1,
        v_analog=1.1,
        g_mean=1e-5,
        in_bits=4,
        out_bits=6,
        adc="sar",
        pulse=1e-8,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def converted(name: str, k: Values = ONE, **changes: object) -> Conversion:
    return preset_of(name)(spec(adc=name, **changes), k, 1e-8)


def driven(name: str, k: Values = ONE, **changes: object) -> Driven:
    return input_of(name)(spec(coding=CODINGS[name], dac=name, **changes), k)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", PRESETS)
def test_a_conversion_takes_energy_time_and_area(name: str, bits: int) -> None:
    for found in (converted(name, out_bits=bits), converted(name, ALL, out_bits=bits)):
        for part in (found.energy, found.time, found.area, found.integration):
            assert np.all(np.isfinite(part))
            assert np.all(np.asarray(part) > 0)


@pytest.mark.parametrize("name", PRESETS)
def test_more_bits_never_take_less(name: str) -> None:
    """Energy and time never fall with the bits, nor does the area of those that the survey does not size."""
    found = [converted(name, out_bits=bits) for bits in BITS]
    taken = np.array([(f.energy, f.time + f.integration, f.area) for f in found])
    taken = taken[:, :2] if name in ("cco", "sar", "sar-survey", "duration") else taken  # slower ones are smaller
    assert (np.diff(taken, axis=0) >= -1e-12 * taken[:-1]).all()


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"duration"}))
def test_bits_move_energy_and_time(name: str) -> None:
    """Of every preset but `duration`, whose bits are in its pulse, 12 bits take more than 4; `flash` no longer."""
    few, many = converted(name, out_bits=4), converted(name, out_bits=12)
    assert many.energy > 1.2 * few.energy
    if name != "flash":
        assert many.time > 1.2 * few.time


@pytest.mark.parametrize("name", PRESETS)
def test_a_float_is_the_first_scenario(name: str) -> None:
    for one, many in zip(converted(name), converted(name, ALL), strict=True):
        assert isinstance(one, float)
        assert np.ravel(many)[0] == pytest.approx(one, rel=1e-12)


@pytest.mark.parametrize("name", PRESETS)
def test_scenarios_lie_in_the_order_of_the_constants(name: str) -> None:
    """Scenario 1 + 2 i is what the i-th constant alone gives at its low end, 2 + 2 i at its high one."""
    moved = 0
    many = np.broadcast_to(converted(name, ALL).energy, (1 + 2 * len(ALL.names),))
    for i, constant in enumerate(ALL.names):
        for j, end in enumerate((ENTRIES[constant].low, ENTRIES[constant].high)):
            own = Values({n: c.value for n, c in ENTRIES.items()} | {constant: end})
            assert many[1 + 2 * i + j] == pytest.approx(converted(name, own).energy, rel=1e-12)
            moved += many[1 + 2 * i + j] != many[0]
    assert moved >= 2


@pytest.mark.parametrize("name", PRESETS)
def test_a_higher_analog_supply_costs_energy(name: str) -> None:
    low, high = converted(name, v_analog=0.9), converted(name, v_analog=1.2)
    if name == "sar-survey":  # the survey has no supply: faster at a higher one, never cheaper
        assert high.energy >= low.energy
    else:
        assert high.energy > low.energy


@pytest.mark.parametrize("registry", [PRESETS, INPUTS], ids=["converters", "inputs"])
def test_each_says_formula_units_and_where_it_holds(registry: dict[str, object]) -> None:
    for name, made in registry.items():
        text = " ".join((inspect.getdoc(type(made)) or "").split())
        assert re.search(r"\bE = ", text), name
        assert re.search(r"\bJ\b", text) or "E = 0" in text, name
        assert "Holds for" in text, name


def test_adding_one_is_one_class() -> None:
    """A preset of one's own is priced like those that ship."""

    class Free:
        serial = True

        def __call__(self, spec: ArraySpec, k: Values, pulse: float) -> Conversion:
            return Conversion(3e-12 * spec.out_bits, 1e-9, 1e-10, pulse)

    PRESETS.add("own")(Free)
    try:
        assert prices(spec(adc="own"), ONE).convert == pytest.approx(4 * 3e-12 * 6)
    finally:
        del PRESETS["own"]


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"sarr.*did you mean 'sar'"):
        preset_of("sarr")
    with pytest.raises(ConfigError, match=r"drivers.*did you mean 'driver'"):
        input_of("drivers")
    with pytest.raises(ConfigError, match="drivers"):
        prices(spec(dac="drivers"), ONE)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", INPUTS)
def test_an_input_circuit_of_any_length(name: str, bits: int) -> None:
    """One bit is allowed; more never take less; only a plain driver takes nothing beside its line."""
    found, many = driven(name, in_bits=bits), driven(name, ALL, in_bits=bits)
    more = driven(name, in_bits=bits + 1)
    for part, parts, next_ in zip(found, many, more, strict=True):
        assert (part == 0) == (name == "driver")
        assert next_ >= part
        assert np.ravel(parts)[0] == pytest.approx(part, rel=1e-12)
    assert (more.energy > found.energy) == (name != "driver")


@pytest.mark.parametrize("coding", BY_CODING)
def test_bits_of_the_input_move_a_product(coding: str) -> None:
    """The issue's flat field: from 2 to 8 bits a row's price grows, whatever the coding is; 1 bit is allowed."""

    def row(bits: int) -> float:
        price = prices(spec(coding=coding, in_bits=bits, activity=0.25), ONE)
        return float(price.driver + price.word_line)

    assert 0 < row(1) <= row(2) < row(8)
