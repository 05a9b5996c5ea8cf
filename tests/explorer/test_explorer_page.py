"""The page in a browser: it loads, filters, shows a point that is clicked, exports it, and asks nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from known_sweeps import known_sweep

from imc_ssm.devices import load_design
from imc_ssm.explorer import Points

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
