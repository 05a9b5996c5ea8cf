"""The component table: numbers, their sources and their scaling."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imc_ssm.devices import Cited, Components, device_names, load_components
from imc_ssm.errors import ConfigError, DesignError

TABLE = load_components("periphery-32nm")


def numbers(value: object, path: str = "") -> list[tuple[str, Cited]]:
    """All cited numbers below a value, with where they are."""
    if isinstance(value, Cited):
        return [(path, value)]
    if isinstance(value, dict):
        return [n for key, item in value.items() for n in numbers(item, f"{path}.{key}")]
    if isinstance(value, tuple):
        return [n for i, item in enumerate(value) for n in numbers(item, f"{path}.{i}")]
    fields = getattr(type(value), "model_fields", {})
    return [n for key in fields for n in numbers(getattr(value, key), f"{path}.{key}")]


@pytest.mark.parametrize("name", device_names("components"))
def test_every_number_is_cited(name: str) -> None:
    found = numbers(load_components(name))
    assert len(found) > 40
    for path, number in found:
        assert number.value > 0, path
        assert re.search(r"doi:10\.\d{4,}/|arXiv:\d{4}\.", number.source), f"{path}: {number.source}"
        assert "memory" not in number.source, path


def test_logic_is_scaled_as_stillmaker_and_baas() -> None:
    """E = a V^2 + b V + c at 0.9 V, from 45 nm (Horowitz) to 32 nm: 0.2 pJ and 0.03 pJ."""
    at_45 = 1.103 * 0.9**2 - 0.362 * 0.9 + 0.2767
    at_32 = 0.9559 * 0.9**2 - 0.7823 * 0.9 + 0.471
    assert TABLE.multiply.energy.value == pytest.approx(0.2e-12 * at_32 / at_45, rel=1e-3)
    assert TABLE.add.energy.value == pytest.approx(0.03e-12 * at_32 / at_45, rel=1e-3)


def test_wide_operations_agree_with_published_ones() -> None:
    """Horowitz, 32 bits at 45 nm: 3.1 pJ a product, 0.1 pJ a sum; the 8-bit entries are 0.2 and 0.03 pJ."""
    assert TABLE.multiply.scale(32, 32) == pytest.approx(3.1 / 0.2, rel=0.05)
    assert TABLE.add.scale(32) == pytest.approx(0.1 / 0.03, rel=0.25)


@given(st.integers(1, 32), st.integers(1, 32))
def test_products_grow_with_both_widths(first: int, second: int) -> None:
    assert TABLE.multiply.scale(first, second) == TABLE.multiply.scale(second, first)
    assert TABLE.multiply.scale(2 * first, second) == pytest.approx(2 * TABLE.multiply.scale(first, second))
    assert TABLE.multiply.scale(8, 8) == 1.0


def test_memory_passes_through_the_rows() -> None:
    for row in TABLE.sram:
        memory = TABLE.memory(row.capacity)
        assert memory.read == pytest.approx(row.read.value)
        assert memory.write == pytest.approx(row.write.value)
        assert memory.area == pytest.approx(row.area.value)
        assert memory.latency == pytest.approx(row.latency.value)


def test_memory_between_rows_is_the_geometric_mean() -> None:
    """Half way in log capacity between 1 KB (0.014 pJ/bit) and 8 KB (0.0538 pJ/bit)."""
    middle = TABLE.memory(round(math.sqrt(8192 * 65536)))
    assert middle.read == pytest.approx(math.sqrt(0.014e-12 * 0.0538e-12), rel=1e-4)


def test_memory_outside_the_rows() -> None:
    assert TABLE.memory(0).read == TABLE.memory(8192).read
    double = TABLE.memory(2 * 8388608)
    assert double.read == TABLE.sram[-1].read.value
    assert double.area == pytest.approx(2 * TABLE.sram[-1].area.value)


@given(st.integers(1, 2**24), st.integers(1, 2**24))
def test_memory_grows_with_capacity(first: int, second: int) -> None:
    small, large = TABLE.memory(min(first, second)), TABLE.memory(max(first, second))
    assert small.read <= large.read * (1 + 1e-12)
    assert small.write <= large.write * (1 + 1e-12)
    assert small.area <= large.area * (1 + 1e-12)


def test_the_published_converters_are_as_published() -> None:
    """ISAAC's 8-bit SAR, BRAHMS' capacitive DAC, ISAAC's driver: J, s, m2."""
    for kind, name, bits, numbers in (
        ("adc", "sar-isaac", 8, (1.667e-12, 0.833e-9, 1200e-12)),
        ("adc", "sar-isaac", 6, (1.2e-12, 0.833e-9 * 6 / 8, 627e-12)),
        ("adc", "sar-isaac", 4, (0.79e-12, 0.833e-9 * 4 / 8, 361e-12)),
        ("adc", "cco-hermes", 8, (48.8e-12, 2e-9, 2480e-12)),
        ("dac", "capacitive-brahms", 8, (0.291e-12, 0.909e-9, 438e-12)),
        ("dac", "driver-isaac", 1, (0.4167e-12, 1e-9, 0.166e-12)),
    ):
        found = TABLE.conversion(kind, name, bits)  # type: ignore[arg-type]
        assert (found.energy.value, found.latency.value, found.area.value) == pytest.approx(numbers, rel=1e-12)


@pytest.mark.parametrize("name", device_names("components"))
def test_more_bits_never_cost_less(name: str) -> None:
    table = load_components(name)
    for kind in ("adc", "dac"):
        for converter in getattr(table, kind).values():
            prices = [converter.at(bits) for bits in converter.resolutions()]
            for fewer, more in pairwise(prices):
                assert fewer.latency.value <= more.latency.value
                assert fewer.energy.value < more.energy.value
                assert fewer.area.value < more.area.value


def test_a_scaled_converter_says_from_what_and_why() -> None:
    """50 fF V^2 a bit: half the energy at half the bits; 2^bits unit capacitors."""
    four, eight = (TABLE.conversion("dac", "capacitive-brahms", bits) for bits in (4, 8))
    assert four.energy.value == pytest.approx(eight.energy.value / 2)
    assert four.area.value == pytest.approx(eight.area.value / 16)
    assert four.latency.value == eight.latency.value
    assert "x 0.5 from 8 to 4 bits" in four.energy.source
    assert "arXiv:2405.14978" in four.energy.source


def test_converters_that_the_table_does_not_have() -> None:
    with pytest.raises(
        DesignError, match=r"'sar-isaac' has no numbers at 12 bits .* it has 4, 5, 6, 7, 8, 9, 10 "
    ):
        TABLE.conversion("adc", "sar-isaac", 12)
    with pytest.raises(DesignError, match=r"'cco-hermes' has no numbers at 6 bits .* it has 8 "):
        TABLE.conversion("adc", "cco-hermes", 6)
    with pytest.raises(DesignError, match="unknown adc type 'sar-isac'; did you mean 'sar-isaac'"):
        TABLE.conversion("adc", "sar-isac", 8)
    with pytest.raises(DesignError, match="unknown sample-and-hold 'hold'"):
        TABLE.hold("hold")


def test_wrong_tables_are_refused() -> None:
    data = TABLE.model_dump()
    with pytest.raises(ConfigError, match="must grow from row to row"):
        Components.parse(data | {"sram": data["sram"][::-1]})
    wrong = data["add"] | {"energy": {"value": 1.0, "unit": "pJ", "source": "nobody, nowhere"}}
    with pytest.raises(ConfigError, match=r"add.energy.*unit is 'pJ', give the value in 'J'"):
        Components.parse(data | {"add": wrong})
    with pytest.raises(DesignError, match="unknown component table 'periphery-32'; did you mean"):
        load_components("periphery-32")
