"""What docs/wires.md says is in the committed file, and the file says what the closed form is held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripts import script_of

from imc_ssm import results
from imc_ssm.devices import device_names

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "wires"
PAGE = (ROOT / "docs" / "wires.md").read_text(encoding="utf-8")


def _module() -> Any:
    return script_of(FOLDER / "run.py")


run = _module()


def test_the_page_is_the_files() -> None:
    ds = results.load(FOLDER / "wires.nc")
    assert run.put(PAGE, ds) == PAGE
    assert (ROOT / "docs" / "wires.png").stat().st_size > 10_000


def test_every_shipped_design_is_within_five_percent() -> None:
    """Of the drop, which is the stricter: of the current it is within one."""
    ds = results.load(FOLDER / "wires.nc")
    assert set(ds["design"].values) == set(device_names("designs"))
    own = ds.sel(factor=1.0)
    assert float(own["drop"].min()) > 0.01
    assert float(own["closed"].max()) < 0.05
    assert float(own["current"].max()) < 0.01
    assert float(ds["closed"].max()) < 0.05


@pytest.mark.parametrize("ohm", [0.42, 6.72])
def test_the_numbers_of_a_design_come_again(ohm: float) -> None:
    ds = results.load(FOLDER / "wires.nc").sel(design="reram-wan-64")
    found = run.measured(run.programmed("reram-wan-64"), ohm)
    there = ds.isel(factor=int(np.abs(ds["factor"].values * float(ds["resistance"]) - ohm).argmin()))
    for name in run.MEASURES:
        np.testing.assert_allclose(found[name], there[name], rtol=0.05, atol=2e-4)
