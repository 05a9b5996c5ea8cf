"""Where the chip overtakes digital machines: ratios of what `compare` says, the figure, the committed study."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from imc_ssm import results
from imc_ssm.costs import baseline_names, break_even
from imc_ssm.costs.comparison import BOUNDS, compare, synthetic
from imc_ssm.devices import load_design
from imc_ssm.errors import ConfigError
from imc_ssm.plots.crossings import over_machines

STUDY = Path(__file__).parents[2] / "experiments" / "baselines"
MACHINES = ["digital", "systolic"]


@pytest.fixture(scope="module")
def over_heads() -> xr.Dataset:
    return break_even("heads", [4, 32], steps=6, machines=MACHINES)


def test_a_ratio_is_chip_over_machine(over_heads: xr.Dataset) -> None:
    design = load_design("pcm-256").with_(tiles=10**6)
    ds = compare(synthetic(4, 6, "uniform", design, 0), MACHINES)
    found = over_heads.sel(value=4, bound="nominal")
    for name in ("energy", "latency", "area"):
        chip, *machines = ds[f"{name}_total"].sel(bound="nominal").values
        assert np.allclose(found[name].values, chip / np.array(machines), rtol=1e-12, atol=0)
        low, middle, high = (over_heads[name].sel(bound=bound).values for bound in BOUNDS)
        assert (low <= middle).all()
        assert (middle <= high).all()
    chip, *machines = ds["energy_matrices"].sel(bound="nominal").values
    assert np.allclose(found["matrices"].values, chip / np.array(machines), rtol=1e-12, atol=0)


def test_wider_matrices_are_the_tiles_gain(over_heads: xr.Dataset) -> None:
    """Conversions grow with the width, products with its square."""
    narrow, wide = (over_heads["matrices"].sel(bound="nominal", value=value) for value in (4, 32))
    assert (wide < narrow).all()


def test_a_longer_sequence_is_the_gain_of_blocks_alone() -> None:
    ds = break_even("steps", [2, 64], heads=8, machines=["systolic", "systolic-sequence"])
    latency = ds["latency"].sel(bound="nominal")
    one = latency.sel(machine="systolic").values
    assert one[0] == pytest.approx(one[1], rel=0.05)
    block = latency.sel(machine="systolic-sequence").values
    assert block[1] > 1.05 * block[0]


def test_wrong_axes_are_named() -> None:
    with pytest.raises(ConfigError, match="tile"):
        break_even("tiles", [4])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="1 or more"):
        break_even("heads", [])


def test_the_figure_has_a_panel_an_axis(over_heads: xr.Dataset) -> None:
    fig = over_machines([over_heads, over_heads], "latency")
    panels = fig.get_axes()
    assert [ax.get_xlabel() for ax in panels] == ["Heads", "Heads"]
    assert panels[0].get_ylabel() == "Latency, chip / machine"
    lines = {line.get_label(): line for line in panels[0].get_lines()}
    drawn = np.asarray(lines["systolic"].get_ydata())
    assert np.allclose(drawn, over_heads["latency"].sel(machine="systolic", bound="nominal"), atol=0)
    assert any(np.allclose(np.asarray(line.get_ydata()), 1.0) for line in panels[0].get_lines())
    plt.close(fig)
    with pytest.raises(ConfigError, match="break_even"):
        over_machines([])


@pytest.mark.parametrize("axis", ["tile", "heads", "steps"])
def test_the_study_is_what_the_model_says(axis: str) -> None:
    """One value of each committed dataset, computed again."""
    kept = results.load(STUDY / f"baselines_{axis}.nc")
    assert kept["machine"].values.tolist() == baseline_names()
    value = int(kept["value"].values[1])
    again = break_even(axis, [value], design="pcm-256", heads=kept.attrs["heads"], steps=kept.attrs["steps"])  # type: ignore[arg-type]
    for name in ("energy", "matrices", "latency", "area"):
        assert np.allclose(again[name].sel(value=value), kept[name].sel(value=value), rtol=1e-6, atol=0), name
