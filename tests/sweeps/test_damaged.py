"""What cannot be swept, and what was damaged, is one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imc_ssm.errors import ConfigError, FileError
from imc_ssm.sweeps import sweep

VARIABLES = {"y": ("1", "Y")}


def ten_times(at: dict[str, Any]) -> dict[str, float]:
    return {"y": 10 * float(next(iter(at.values())))}


@pytest.mark.parametrize("name", ["y", "status", "trial", "chip", "time", "component", "bound"])
def test_an_axis_has_a_name_of_its_own(name: str) -> None:
    with pytest.raises(ConfigError, match=f"axis '{name}' has the name of .*; choose another"):
        sweep({name: [1.0, 2.0]}, ten_times, variables=VARIABLES)


def test_values_are_finite() -> None:
    with pytest.raises(ConfigError, match="give finite numbers"):
        sweep({"x": [1.0, float("nan")]}, ten_times, variables=VARIABLES)


@pytest.mark.parametrize("result", ["abc", [1, 2], None])
def test_a_result_that_is_no_number_is_refused(result: Any) -> None:
    ds = sweep({"x": [1.0, 2.0]}, lambda at: {"y": result}, variables=VARIABLES)
    assert np.isnan(ds["y"].values).all()
    assert "give a number for each" in ds.attrs["refused"]


@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_journal_says_what_to_do_and_that_helps(damage: str, tmp_path: Path) -> None:
    space = {"r": {"low": 0, "high": 1}}
    how: dict[str, Any] = {
        "variables": VARIABLES,
        "method": "tpe",
        "minimise": "y",
        "seed": 1,
        "folder": tmp_path / "s",
    }
    before = sweep(space, ten_times, trials=4, **how)
    journal = tmp_path / "s" / "journal.log"
    content = journal.read_bytes()
    journal.write_bytes(content[:-20] + b"\n" if damage == "cut" else content + b"xx\n")
    with pytest.raises(FileError, match=r"journal\.log is damaged"):
        sweep(space, ten_times, trials=6, **how)
    journal.unlink()
    after = sweep(space, ten_times, trials=6, **how)
    assert np.array_equal(after["y"].values[:4], before["y"].values)
    assert np.isfinite(after["y"].values).all()


@pytest.mark.parametrize("part", ["record", "message"])
def test_damaged_metadata_are_named(part: str, tmp_path: Path) -> None:
    sweep({"x": [1.0, 2.0]}, ten_times, variables=VARIABLES, folder=tmp_path / "s")
    (tmp_path / "s" / "cells.zarr" / part / "zarr.json").write_text("{")
    with pytest.raises(FileError, match=r"cannot read .*cells\.zarr"):
        sweep({"x": [1.0, 2.0]}, ten_times, variables=VARIABLES, folder=tmp_path / "s")
