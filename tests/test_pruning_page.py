"""`docs/pruning.md`: its code runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from scripts import script_of

from imc_ssm import results
from imc_ssm.pruning import CRITERIA

PAGE = (Path(__file__).parent.parent / "docs" / "pruning.md").read_text(encoding="utf-8")


def test_the_code_runs() -> None:
    found: dict[str, Any] = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(block, "pruning.md", "exec"), found)
    finally:
        CRITERIA.pop("slowest last", None)
    assert found["smaller"].config.heads == 12
    assert found["smaller"].config.states is not None


def test_every_criterion_is_in_the_table() -> None:
    assert set(CRITERIA) == set(
        re.findall(r"^\| `(\w+)`.*\|.*\|.*\|.*\|$", PAGE.split("## What goes first")[1], re.M)
    ) & set(CRITERIA)


def test_the_table_is_that_of_the_study() -> None:
    folder = Path(__file__).parent.parent / "experiments" / "pruning"
    study = script_of(folder / "run.py")
    lines = study.table(results.load(study.DATASET))
    assert len(lines) > 4
    for line in lines:
        assert line in PAGE
