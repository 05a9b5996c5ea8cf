"""`docs/quantisation.md`: its tables are those of the datasets, its code runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from imc_ssm import results

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "quantisation.md").read_text(encoding="utf-8")
RESULTS = ROOT / "experiments" / "zhao2025" / "results"


def table(first: str) -> list[list[str]]:
    """The rows of the table whose header begins with a word, header first."""
    start = PAGE.index(f"| {first} |")
    lines = PAGE[start : PAGE.index("\n\n", start)].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|--")]


def mean(name: str, **at: object) -> float:
    """Mean accuracy over the seeds that are there."""
    return float(np.nanmean(results.load(RESULTS / f"{name}.nc")["accuracy"].sel(model="s4d-16h", **at)))


def test_the_table_of_single_parts():
    header, *rows = table("Rounded")
    widths = [int(word.split()[0]) for word in header[1:]]
    for name, *cells in rows:
        for bits, cell in zip(widths, cells, strict=True):
            if name in ("x", "other activations"):
                at = {"part": "x" if name == "x" else "activations", "calibration": "static", "bits": bits}
                assert float(cell) == pytest.approx(mean("fig2b", **at), abs=0.0501), (name, bits)
            else:
                assert float(cell) == pytest.approx(mean("fig2a", part=name, bits=bits), abs=0.0501), (name, bits)


def test_table_three():
    ds = results.load(RESULTS / "table3.nc").sel(model="s4d-16h")
    _, *rows = table("Scheme")
    assert [row[0] for row in rows] == [str(name) for name in ds["scheme"].values]
    for name, ours, paper, saving in rows:
        here = ds.sel(scheme=name)
        assert float(ours.split()[0]) == pytest.approx(float(here["accuracy"].mean()), abs=0.0051), name
        assert float(paper.split()[0]) == pytest.approx(float(here["accuracy_paper"]), abs=0.0051), name
        if saving != "-":
            assert float(saving) == pytest.approx(float(here["memory_saving"]), abs=0.0051), name


def test_the_code_prints_what_it_says(capsys):
    code = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)[0]
    exec(compile(code, "quantisation.md", "exec"), {})
    said = float(re.findall(r"# (\d+\.\d+) %", code)[0])
    assert float(capsys.readouterr().out) == pytest.approx(said, abs=0.0051)
