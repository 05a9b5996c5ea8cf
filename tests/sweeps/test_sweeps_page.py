"""`docs/sweeps.md`: its TOML is a sweep, its code runs, and what it names exists."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imc_ssm.sweeps import ChipPoint, SweepFile, advise, front, run_plan, sensitivity

PAGE = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_sweep_of_the_page_runs(started: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "q.safetensors").write_bytes(started[1].read_bytes())
    text = (
        blocks("toml")[0].replace("trials = 256", "trials = 4").replace("chips = 5", "chips = 1\nsequences = 20")
    )
    (tmp_path / "chips.toml").write_text(text)
    plan = SweepFile.plan(tmp_path / "chips.toml")
    ds = plan.dataset(run_plan(plan, tmp_path / "chips"))
    assert ds.attrs["cells_done"] == 4
    assert np.isfinite(ds["area_total"]).all()
    assert set(ds["size"].values.tolist()) <= {64, 128, 256}


def test_the_code_runs(started: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("q.safetensors").write_bytes(started[1].read_bytes())
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks("python"):
        low = block.replace(">= 80", ">= 5")  # the model of the tests knows little
        exec(compile(low, "sweeps.md", "exec"), names)
    assert np.array_equal(names["same"]["accuracy"], names["best"]["accuracy"])
    assert names["plain"].load()["accuracy"].equals(names["ds"]["accuracy"])
    assert names["front"].sizes["trial"] >= 1


def test_the_other_objective_is_one() -> None:
    point = ChipPoint.parse(tomllib.loads(blocks("toml")[1])["objective"])
    assert point.scheme is not None
    assert point.qat is not None


def test_the_code_for_slurm_is_code() -> None:
    (block,) = blocks("python slurm")
    imported = {
        n.module: [a.name for a in n.names] for n in ast.walk(ast.parse(block)) if isinstance(n, ast.ImportFrom)
    }
    assert imported["imc_ssm.sweeps"] == ["SweepFile", "run_plan"]


@pytest.mark.parametrize("root", re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE))))
def test_what_the_tables_name_exists(root: str) -> None:
    methods = ("grid", "random", "sobol", "tpe", "nsga2", "method")
    assert root in ChipPoint.model_fields or root in methods


@pytest.mark.parametrize("function", [front, advise])
def test_examples_of_docstrings(function: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import doctest

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sensitivity, "device_names", lambda kind: ["reram-wan-2022"])
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for example in doctest.DocTestFinder(recurse=False).find(function, globs={function.__name__: function}):
        runner.run(example)
    assert runner.tries > 0
    assert runner.failures == 0
