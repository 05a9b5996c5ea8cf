"""The hand calculation of `docs/cost.md` is right and is what the program says; its tables are the dataset's."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import xarray as xr
from scripts import script_of

import imc_ssm
from imc_ssm import results

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "experiments" / "cost"
PAGE = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
SCALES = {"energy": 1e9, "latency": 1e6, "area": 1e12}
"""The calculation is in nJ, us and um2."""


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return script_of(FOLDER / "run.py")


@pytest.fixture(scope="module")
def arithmetic(study: ModuleType) -> ModuleType:
    return sys.modules["arithmetic"]


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return results.load(FOLDER / "cost.nc")


def test_every_line_of_the_calculation_is_right(arithmetic: ModuleType) -> None:
    """Each printed value is what its expression gives, to the digits that are printed."""
    known = arithmetic.evaluated(PAGE)
    lines = [line for _, line in arithmetic.lines(PAGE) if line is not None]
    assert sum(line.expression is not None for line in lines) > 90
    for line in lines:
        assert line.value == pytest.approx(known[line.name], rel=6e-4), line.name
    assert arithmetic.rewritten(PAGE) == PAGE


def test_a_wrong_line_is_found(arithmetic: ModuleType) -> None:
    text = "```text\na = 3          of three\nb = 2 * a = 7 bit  twice\n```\n"
    assert arithmetic.evaluated(text) == {"a": 3.0, "b": 6.0}
    right = text.replace("7 bit", "6 bit")
    assert arithmetic.rewritten(text).split() == right.split()
    assert (
        arithmetic.rewritten(text, {"a": "4"}).split() == right.replace("3 ", "4 ").replace("6 b", "8 b").split()
    )
    first, second = arithmetic.rewritten(text).splitlines()[1:3]
    assert first.index("of three") == second.index("twice")  # notes in a column
    for wrong in ("b = 2 * c = 1", "b = open(1) = 1", "b = a", "a = 4"):
        with pytest.raises(ValueError, match=r"is not arithmetic|cannot read|stands twice"):
            arithmetic.evaluated(f"```text\na = 3\n{wrong}\n```\n")


def test_its_constants_are_those_of_the_tables(arithmetic: ModuleType) -> None:
    """A line that names a constant has its value, in whatever power of ten."""
    page = (ROOT / "docs" / "constants.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", page, flags=re.MULTILINE)
    used = [
        text for text in sections if text.startswith("The laws") or "periphery-32nm.toml" in text.splitlines()[0]
    ]
    assert len(used) == 2
    rows = dict(re.findall(r"^\| `([^`]+)` \| [^|]* \| ([^|]+) \|", "\n".join(used), re.MULTILINE))
    named = [
        (line, name)
        for _, line in arithmetic.lines(PAGE)
        if line is not None
        for name in re.findall(r"`([^`]+)`", line.note)
    ]
    assert len(named) >= 25
    for line, name in named:
        value = float(rows[name])
        numbers = [float(n) for n in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", f"{line.expression} {line.printed}")]
        ratios = [math.log10(n / value) for n in numbers if n > 0]
        assert any(abs(ratio - round(ratio)) < 1e-3 for ratio in ratios), (name, line)


def test_by_hand_and_by_program_agree(study: ModuleType, arithmetic: ModuleType) -> None:
    """Energy, latency and area of every component, from the specification and the tables: within 1 %."""
    hand = arithmetic.evaluated(PAGE)
    cost = imc_ssm.cost(study.deployed("s4d-16h", "pcm-256"))
    for name, factor in SCALES.items():
        assert hand[name] == pytest.approx(factor * float(cost[f"{name}_total"]), rel=0.01)
        for component in cost["component"].values:
            code = factor * float(cost[name].sel(component=component))
            assert hand.get(f"{name}_{component.replace(' ', '_')}", 0.0) == pytest.approx(code, rel=0.01), (
                name,
                component,
            )


def test_facts_of_the_model_are_those_of_the_calculation(study: ModuleType, arithmetic: ModuleType) -> None:
    known = arithmetic.evaluated(PAGE)
    for name, value in study.facts().items():
        assert known[name] == pytest.approx(float(value), rel=1e-3), name


def test_the_dataset_is_todays(study: ModuleType, ds: xr.Dataset) -> None:
    again = study.dataset()
    assert set(again.data_vars) == set(ds.data_vars)
    for name in ds.data_vars:
        np.testing.assert_allclose(again[name].values, ds[name].values, rtol=1e-3, err_msg=str(name))
    assert sorted(ds["design"].values) == sorted(
        path.stem for path in (ROOT / "devices" / "designs").glob("*.toml")
    )


def test_the_tables_of_the_page_are_the_dataset(study: ModuleType, ds: xr.Dataset) -> None:
    tables = study.tables(ds, PAGE)
    for name in ("parts", "operators", "changes", "chips", "swings"):
        assert f"<!-- {name} -->\n{tables[name]}\n<!-- end -->" in PAGE, f"run experiments/cost/run.py: {name}"


def test_intervals_hold_their_values(ds: xr.Dataset) -> None:
    """Of every total and component: low below nominal below high; totals are the sums of their components."""
    for name in SCALES:
        low, middle, high = (ds[f"{name}_total_bounds"].sel(bound=b) for b in ("low", "nominal", "high"))
        assert bool((low < middle).all()), name
        assert bool((middle < high).all()), name
        parts = ds[f"{name}_bounds"].sel(bound="nominal").sum("component")
        np.testing.assert_allclose(parts.values, middle.values, rtol=1e-9)
