"""The page in a browser: it loads, filters, shows a point that is clicked, exports it, and asks nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from known_sweeps import known_sweep

import imc_ssm
from imc_ssm.devices import load_design
from imc_ssm.errors import ConfigError
from imc_ssm.explorer import Points

# What Bokeh 3.9 does with a table of pandas 3.
OF_BOKEH = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")
PLANE = "[...Bokeh.documents[0]._all_models.values()].filter(m => m.name == 'plane').at(-1)"
"""The plane that is shown: replaced ones stay in the document's list for a while."""
LABEL = PLANE + ".left[0].axis_label.replace('\\n', ' ')"
PLACE = """([x, y]) => {
    const view = Bokeh.index.find_one(PLANE);
    const box = view.canvas_view.el.getBoundingClientRect();
    return [box.x + view.frame.x_scale.compute(x), box.y + view.frame.y_scale.compute(y)];
}""".replace("PLANE", PLANE)
"""Where numbers of the plane are on the screen."""


def choose(page: Any, label: str, option: str) -> None:
    """Take an option of the selection under a label."""
    page.get_by_label(label, exact=True).first.select_option(label=option)


def see(page: Any, text: str) -> None:
    """Wait until a text is there."""
    page.get_by_text(text, exact=True).first.wait_for(timeout=15000)


def test_a_visit(browser: Any, address: str, tmp_path: Path) -> None:
    """One visit, since loading the page is what takes long."""
    points = Points(known_sweep())
    wrong: list[str] = []
    local = (address, address.replace("http", "ws"), "data:", "blob:")
    page = browser.new_page(viewport={"width": 1400, "height": 1300})
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error.stack)))
    page.on("request", lambda asked: None if asked.url.startswith(local) else wrong.append(asked.url))
    page.goto(address)
    page.get_by_text("12 of 12 points; 6 on the front").wait_for(timeout=30000)
    assert page.title() == "Known sweep - imc-ssm"
    see(page, "Point 6")  # the middle of the front

    with page.expect_download() as waiting:
        page.get_by_text("Design as TOML").click()
    assert waiting.value.suggested_filename == "point-6.toml"
    waiting.value.save_as(tmp_path / "point.toml")
    same = load_design("pcm-256").with_(adc_bits=6, cell="reram-wan-2022")
    assert load_design(tmp_path / "point.toml") == same

    x, y = points.scaled("energy").values, points.scaled("accuracy").values
    page.mouse.click(*page.evaluate(PLACE, [x[11], y[11]]))
    see(page, "Point 11")
    command = page.get_by_label("Make it again").input_value()
    assert '{"design.adc.bits": 2, "design.cell": 1, "seed": 1}' in command

    page.locator(".tabulator-row").nth(0).click()
    see(page, "Point 0")

    choose(page, "Across", "Latency [latency_total]")
    choose(page, "time", "1h")
    choose(page, "chip", "worst")
    page.get_by_text("12 of 12 points; 3 on the front").wait_for(timeout=15000)
    page.wait_for_function(LABEL + " == 'Accuracy of programmed chips, worst of 4 chips, after 1h (%)'")
    shown = page.evaluate(f"Array.from({PLANE}.renderers[0].data_source.data['y'])")
    np.testing.assert_allclose(shown, points.numbers("accuracy@1h:worst"))

    page.get_by_placeholder("all").nth(1).click()
    page.get_by_role("option", name="pcm-nandakumar-2019").click()
    page.get_by_text("6 of 12 points; 3 on the front").wait_for(timeout=15000)
    page.wait_for_function(f"{PLANE}.renderers[0].data_source.data['y'].length == 6")

    page.close()
    assert not wrong


@OF_BOKEH
def test_what_the_widgets_say_is_drawn_without_a_browser(known: xr.Dataset) -> None:
    pytest.importorskip("panel")
    from imc_ssm.explorer.page import Page

    page = Page(Points(known), source="sweep")
    assert (page.chosen, len(page.dots.data["x"])) == (6, 12)
    assert page.ring.data["x"].tolist() == pytest.approx([15.0])
    page.filters["seed"].value = ["1"]
    assert sorted(page.dots.data["point"]) == [1, 3, 5, 7, 9, 11]
    assert page.chosen in (5, 7)
    page.small.value, page.large.value = [], []
    assert "front" not in page.said.object
    page.small.value = ["latency_total", "energy"]
    assert "1 on the front" in page.said.object
    page.choose(11)
    assert '"seed": 1' in page.command.value
    assert page.toml.filename == "point-11.toml"
    page.x.select.value = "design.adc.bits"
    assert page.small.value == []
    assert page.large.value == ["accuracy"]
    page.colour.value = "latency_total"
    assert page.plane.object.xaxis[0].axis_label == "Resolution, adc.bits"
    page.filters["design.cell"].value = ["reram-wan-2022"]
    page.filters["seed"].value = []
    assert len(page.dots.data["x"]) == 6
    page.filters["design.adc.bits"].value = ["4"]
    assert sorted(page.dots.data["point"]) == [2, 3]


@OF_BOKEH
def test_a_notebook_gets_the_page(known: xr.Dataset) -> None:
    panel = pytest.importorskip("panel")
    made = imc_ssm.explore(known, x="latency_total", y="accuracy@1h:worst", colour="design.cell")
    assert isinstance(made, panel.Column)
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        imc_ssm.explore(known, y="acuracy")
