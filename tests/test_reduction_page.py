"""`docs/reduction.md`: its tables are those of the datasets, and what it says about them holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts import script_of

from imc_ssm import results

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reduction.md").read_text(encoding="utf-8")
FOLDER = ROOT / "experiments" / "qs4d"


@pytest.mark.parametrize("name", ["parts", "sizes", "prunable"])
def test_a_table_is_that_of_its_dataset(name: str) -> None:
    lines = getattr(script_of(FOLDER / "tables.py"), name)()
    assert len(lines) > 4
    assert "\n".join(lines) in PAGE


def test_the_table_of_complexity_is_that_of_its_dataset() -> None:
    study = script_of(FOLDER / "complexity.py")
    lines = study.table(results.load(study.DATASET))
    assert len(lines) > 2
    assert "\n".join(lines) in PAGE


def test_the_loop_needs_the_bits_and_the_rest_learns_two() -> None:
    found = results.load(FOLDER / "results" / "parts.nc")["accuracy"].mean("seed")
    exact = float(found.sel(part="all", bits=32, training="ptq"))
    for part in ("A", "state"):
        assert float(found.sel(part=part, bits=4, training="ptq")) < 30
        assert float(found.sel(part=part, bits=4, training="scratch")) > 90
    for part in ("B", "C", "mixing", "coder"):
        assert exact - float(found.sel(part=part, bits=2, training="scratch")) < 0.75
        assert exact - float(found.sel(part=part, bits=2, training="ptq")) > 2.5
    assert float(found.sel(part="all", bits=4, training="scratch")) < 80


def test_heads_carry_the_accuracy() -> None:
    found = results.load(FOLDER / "results" / "sizes.nc")["accuracy"].mean("seed")
    wide, usual = found.sel(heads=32, n_state=64), found.sel(heads=16, n_state=64)
    assert float(wide.sel(bits=4)) > float(usual.sel(bits=32)) - 0.5
    assert float(usual.sel(bits=32)) > float(found.sel(heads=8, n_state=64, bits=32)) + 2
    few = found.sel(heads=16, n_state=16)
    assert abs(float(few.sel(bits=32) - usual.sel(bits=32))) < 0.5
    assert float(few.sel(bits=32) - few.sel(bits=4)) < float(usual.sel(bits=32) - usual.sel(bits=4))
