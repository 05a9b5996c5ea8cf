"""`docs/gates.md` and the dataset of `benchmarks/gates`: what was measured, and what the page says of it."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from imc_ssm import results

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "gates.md").read_text(encoding="utf-8")
DATA = results.load(ROOT / "benchmarks" / "gates" / "gates.nc")
LANES = [b for b in DATA["block"].values if b.startswith("lane")]


def module(name: str):
    """A module of the benchmark, which is no part of the installed package."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib.import_module(f"benchmarks.gates.{name}")


compare, laws = module("compare"), module("laws")


def test_two_nodes_and_all_word_lengths() -> None:
    assert len(set(DATA["node"].values)) >= 2
    assert DATA["bits"].values.tolist() == [4, 6, 8, 10, 12, 16, 20, 24]
    blocks = DATA.sel(block=[b for b in DATA["block"].values if b not in LANES])
    assert bool(blocks["energy"].notnull().all())
    assert len(LANES) == 3
    assert bool(DATA["energy"].sel(block=LANES, bits=[4, 6, 8, 12, 16]).notnull().all())


@pytest.mark.parametrize("name", ["area", "energy", "delay", "leakage", "toggles"])
def test_positive_with_units(name: str) -> None:
    values = DATA[name]
    assert (values.values[np.isfinite(values.values)] > 0).all()
    assert values.attrs["units"]
    assert values.attrs["long_name"]


@pytest.mark.parametrize("name", ["area", "energy", "leakage"])
def test_more_bits_cost_more(name: str) -> None:
    """At every library and bound. A lane's multipliers get shorter as its state gets longer, their sum being of
    fixed length: of a step that the mapping decides, at most 2 % downwards."""
    for block in DATA["block"].values:
        values = DATA[name].sel(block=block).dropna("bits", how="all")
        step = values.values[:, 1:] / values.values[:, :-1]  # bits are the second dimension
        assert (step > (0.98 if block in LANES and name != "area" else 1.0)).all(), block
        assert (values.isel(bits=-1) > 1.3 * values.isel(bits=0)).all(), block


@pytest.mark.parametrize("name", ["energy", "delay", "toggles"])
def test_bounds_are_in_order(name: str) -> None:
    low, mid, high = (DATA[name].sel(bound=b).values for b in ("low", "nominal", "high"))
    there = np.isfinite(mid)
    assert (low[there] <= mid[there]).all()
    assert (mid[there] <= high[there]).all()


def test_what_is_in_a_block_costs_less_than_the_block() -> None:
    nominal = DATA["energy"].sel(bound="nominal")
    one = nominal.sel(block="multiply_accumulate")
    assert bool((one > nominal.sel(block="multiply")).all())
    assert bool((nominal.sel(block="multiply") > nominal.sel(block="add")).all())
    lanes = nominal.dropna("bits", how="any")
    assert bool((lanes.sel(block="lane_shifts") < lanes.sel(block="lane_folded")).all())
    # four products with the state and two of 8 bits: more than four n x 8 multiplications
    assert bool((lanes.sel(block="lane_shifts") > 4 * lanes.sel(block="multiply_8")).all())


def test_registers_hold_a_flip_flop_a_bit() -> None:
    flops = DATA["flip_flops"]
    assert (flops.sel(block="register") == DATA["bits"]).all()
    assert (flops.sel(block="multiply_accumulate") == 2 * DATA["bits"] + 8).all()
    assert (flops.sel(block="multiply") == 0).all()
    for lane in LANES:
        found = flops.sel(block=lane).dropna("bits")
        assert (found == 2 * found["bits"]).all()
    # the clock is a part of a register's energy, and none of a multiplier's
    assert (DATA["clock_energy"].sel(block="register") > 0).all()
    assert (DATA["clock_energy"].sel(block="register") < DATA["energy"].sel(block="register")).all()
    assert (DATA["clock_energy"].sel(block="multiply") == 0).all()


def test_the_laws_follow_from_the_numbers() -> None:
    again = laws.fit(DATA[["energy", "area"]])
    for name in ("coefficient", "residual", "exponent"):
        np.testing.assert_allclose(again[name].values, DATA[name].values, rtol=1e-12)
    sizes = np.array([1.0, 2.0, 4.0])
    assert laws.relative(3 * sizes, sizes) == pytest.approx((3.0, 0.0))


def test_where_the_numbers_come_from() -> None:
    configuration = json.loads(DATA.attrs["configuration"])
    assert configuration["tools"]["pyosys"]
    for name in DATA["library"].values:
        entry = configuration["libraries"][name]
        assert len(entry["sha256"]) == len(entry["files"])
        assert all(len(digest) == len(hashlib.sha256().hexdigest()) for digest in entry["sha256"].values())
        assert entry["source"]


@pytest.mark.parametrize("table", compare.TABLES, ids=lambda table: table.__name__)
def test_the_tables_are_the_dataset(table) -> None:
    for row in table(DATA):
        assert row in PAGE, row


def span(values, digits: int) -> str:
    """ "low to high" over libraries, as the sentences of the page print it."""
    return f"{float(np.min(values)):.{digits}f} to {float(np.max(values)):.{digits}f}"


def test_the_sentences_are_the_dataset() -> None:
    text = " ".join(PAGE.split())
    energy, area = (DATA[name].sel(bits=8) for name in ("energy", "area"))
    nominal = energy.sel(bound="nominal")
    folded, shifts = (nominal.sel(block=name).values for name in ("lane_folded", "lane_shifts"))
    assert f"take {span(folded / shifts, 1)} times less energy" in text
    ratio = area.sel(block="lane_folded").values / area.sel(block="lane_shifts").values
    assert span(ratio, 1) == "2.4 to 2.4"
    assert "2.4 times less area" in text
    calm = energy.sel(bound="low", block="lane_folded").values / folded
    assert f"takes {span(calm, 2)} of its nominal energy" in text
    small = 6 * nominal.sel(block="multiply_8").values / shifts
    large = 6 * nominal.sel(block="multiply_24").values / folded
    assert f"multiplications are {span(small, 2)} of the energy" in text
    assert f"six 8 x 24 of {span(large, 2)} with folded" in text
    found = compare.ratios(DATA)

    def of(block: str, source: str, quantity: str = "energy", libraries=("sky130", "ihp130")) -> list[float]:
        return [v for k, v in found.items() if k[:2] == (block, quantity) and source in k[2] and k[3] in libraries]

    assert f"within {span(of('add', 'horowitz'), 1)} times" in text
    assert f"takes {span(of('multiply', 'horowitz'), 1)} times Horowitz's" in text
    assert f"and {span(of('multiply', 'aladdin'), 2)} of Aladdin's" in text
    areas = [v for block in ("add", "multiply", "register") for v in of(block, "periphery", "area")]
    assert f"gates take {span(areas, 2)} of the areas" in text
    scaled = of("add", "horowitz", libraries=("asap7",)) + of("multiply", "horowitz", libraries=("asap7",))
    assert span(scaled, 1) == "5.6 to 11.1"


def test_scaling_is_that_of_the_component_table() -> None:
    """0.640992 from 45 to 32 nm at 0.9 V, as devices/components/periphery-32nm.toml has it."""
    assert compare.energy_factor(45e-9, 0.9, (32e-9, 0.9)) == pytest.approx(0.640992, abs=1e-6)
    assert compare.energy_factor(45e-9, 0.9) == 1.0
    assert compare.area_factor(130e-9) == pytest.approx(0.16)


def test_every_block_is_named_and_drawn() -> None:
    assert set(DATA["block"].values) == set(laws.SIZES) == set(compare.NAMES)
    figure = compare.draw(DATA)
    assert len(figure.axes) == 3
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)
