"""`docs/constants.md` is what the tables give today, whole and readable."""

from __future__ import annotations

import re
from pathlib import Path

from imc_ssm.costs.page import constants_page
from imc_ssm.devices import load_components
from imc_ssm.devices.constants import load_constants
from imc_ssm.pricing.inputs import INPUTS
from imc_ssm.pricing.presets import PRESETS

PAGE = Path(__file__).parents[1] / "docs" / "constants.md"


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_page_is_written_from_the_tables() -> None:
    assert PAGE.read_text(encoding="utf-8") == constants_page(), "run `make constants`"


def test_every_constant_and_law_is_on_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    first = {row[0].strip("`"): row for row in rows()}
    for name, entry in load_constants().entries.items():
        assert [float(number) for number in first[name][1:4]] == [
            float(f"{number:.4g}") for number in (entry.low, entry.value, entry.high)
        ]
        assert first[name][4] == entry.unit
        assert entry.replaced_by in first[name][6]
    for name in (*PRESETS, *INPUTS):
        assert f"**`{name}`**: " in text


def test_the_numbers_of_components_are_on_it() -> None:
    """With their units, whatever table they are in; nothing but a source is long."""
    components = load_components("periphery-32nm")
    numbers = {"multiply.energy": components.multiply.energy, "bus.area": components.bus.area}
    numbers |= {f"sram[{memory.capacity}].read": memory.read for memory in components.sram}
    for name, cited in numbers.items():
        assert any(
            row[0] == f"`{name}`" and row[2] == f"{cited.value:.4g}" and row[4:] == [cited.unit, cited.source]
            for row in rows()
        ), name
    assert {len(row) for row in rows()} == {6, 7}
    assert all(len(cell) < 120 for row in rows() for cell in row[:-1])
