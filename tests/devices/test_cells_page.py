"""docs/devices.md, section Cells: its table has the numbers of the TOMLs, its figure those of the cells."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from imc_ssm.devices import Cell, behaviour, device_names, device_path, load_cell, parse_cell
from imc_ssm.errors import ConfigError
from imc_ssm.plots import cells_compared

PAGE = (Path(__file__).parents[2] / "docs" / "devices.md").read_text(encoding="utf-8")
SECTION = PAGE.split("\n## Cells\n")[1].split("\n## ")[0]
ROWS = {
    words[0].strip("`"): words
    for line in SECTION.splitlines()
    if line.startswith("| `") and (words := [word.strip() for word in line.strip("|").split("|")])
}


def row(cell: Cell) -> list[str]:
    stuck = sum(cell.rates)
    return [
        f"`{cell.name}`",
        f"`{cell.model}`",
        f"{1e6 * cell.g_min.value:g} to {1e6 * cell.g_max.value:g}",
        "continuous" if cell.levels is None else f"{cell.levels.value:g}",
        f"{cell.v_read.value:g} V, {1e9 * cell.t_read.value:g} ns",
        f"{100 * stuck:g} %" if stuck else "none",
    ]


def test_the_table_has_every_shipped_cell() -> None:
    assert list(ROWS) == device_names("cells")


@pytest.mark.parametrize("name", device_names("cells"))
def test_a_row_has_the_numbers_of_the_toml(name: str) -> None:
    assert ROWS[name][:6] == row(load_cell(name))
    assert len(ROWS[name]) == 8
    texts = device_path("cells", name).read_text(encoding="utf-8")
    assert bool(ROWS[name][7]) == ("assumed" in texts)


def test_what_the_page_shows_of_tomls_is_valid() -> None:
    own, example = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)
    assert own.strip() == 'rescaling = "proportional"'
    own_fields = {"model", "unit_cell", "t_0", "read_scale", "drift_scale"}
    plain = load_cell("pcm-hermes-single").model_dump(exclude=own_fields)
    cell = parse_cell(plain | tomllib.loads(example))
    assert cell.reference().num_devices == 1


def test_behaviour_has_the_numbers_of_the_page() -> None:
    """In shares of the range; n = 4,000, so a deviation has a standard error of 1.1 %."""
    names = ["pcm-hermes-single", "pcm-hermes-dual", "reram-cmo-falcone", "reram-wan-2022", "ideal"]
    ds = behaviour([load_cell(name) for name in names])
    top = ds["programming_error"].sel(level=0.875)
    assert float(top.sel(cell="pcm-hermes-single")) == pytest.approx(0.0967, rel=0.06)
    assert float(top.sel(cell="pcm-hermes-dual")) == pytest.approx(0.0459, rel=0.06)
    late = ds.sel(read_level=0.75).isel(time=-1)
    assert -0.25 < float(late["shift"].sel(cell="pcm-hermes-single")) < -0.2
    assert float(late["shift"].sel(cell="reram-cmo-falcone")) == pytest.approx(-0.0166, abs=0.001)
    wan = ds["spread"].sel(cell="reram-wan-2022", read_level=0.75)
    known = np.isfinite(wan.values)
    assert list(ds["time"].values[known]) == [1.0, 86400.0, 172800.0]
    assert 2 < float(wan.sel(time=86400.0) / wan.sel(time=1.0)) < 2.4
    for variable in ("programming_error", "shift", "spread"):
        assert float(np.abs(ds[variable].sel(cell="ideal")).max()) < 1e-6
    assert all({"units", "long_name"} <= ds[name].attrs.keys() for name in ds.variables if name != "cell")
    again = behaviour([load_cell("pcm-hermes-dual")])
    np.testing.assert_array_equal(again["spread"][0], ds["spread"].sel(cell="pcm-hermes-dual"))
    with pytest.raises(ConfigError, match="at least one, each once"):
        behaviour([load_cell("ideal")] * 2)


def test_the_figure_shows_every_cell() -> None:
    ds = behaviour([load_cell("pcm-hermes-single"), load_cell("ideal")], devices=200)
    figure = cells_compared(ds)
    assert [len(ax.lines) for ax in figure.axes] == [2, 2, 2]
    assert all(ax.get_xlabel() and "%" in ax.get_ylabel() for ax in figure.axes)
    line = figure.axes[1].lines[0].get_ydata()
    np.testing.assert_allclose(line, 100 * ds["shift"].sel(read_level=0.75).isel(cell=0))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["pcm-hermes-single", "ideal"]
