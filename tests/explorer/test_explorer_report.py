"""The report: one file that opens without anything, and the command that writes it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import imc_ssm
from imc_ssm import cli
from imc_ssm.errors import ConfigError
from imc_ssm.explorer import Points, report
from imc_ssm.explorer.views import view_of


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit code, and what was printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["imc-ssm", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_it_holds_the_points_the_front_and_a_table(
    known: xr.Dataset, known_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.html"
    options = ("--report", path, "--x", "latency_total", "--y", "accuracy@1h:worst", "--colour", "design.cell")
    assert command(capsys, "explore", known_file, *options) == (0, f"wrote {path}\n")
    text = path.read_text(encoding="utf-8")
    called = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)\s*=\s*[\"']?([^\"'> ]+)", text)
    assert called == []
    traces = json.loads(re.findall(r"Plotly\.newPlot\(\s*\"[^\"]+\",\s*(\[.*?\]),\s*\{", text, re.DOTALL)[-1])
    points = Points(known)
    y = points.numbers("accuracy@1h:worst")
    assert [trace["name"] for trace in traces] == ["pcm-nandakumar-2019", "reram-wan-2022", "front", "front, 3"]
    drawn = np.concatenate([trace["y"] for trace in traces[:2]])
    np.testing.assert_allclose(np.sort(drawn), np.sort(y))
    np.testing.assert_allclose(traces[3]["x"], [1, 2, 3])
    np.testing.assert_allclose(
        traces[3]["y"], [y[points.numbers("latency_total") < 1.5e-6].max() + 5 * i for i in range(3)]
    )
    head = re.findall(r"<th>(.*?)</th>", text)
    assert head[1:3] == ["Latency (µs)", "Accuracy of programmed chips, worst of 4 chips, after 1h (%)"]
    assert text.count("<tr>") == 1 + 3
    assert "<p>validation sequences: 77</p>" in text


def test_it_opens_offline(browser: Any, known: xr.Dataset, tmp_path: Path) -> None:
    report(Points(known), tmp_path / "out.html", view_of(Points(known), colour="latency_total"))
    wrong: list[str] = []
    page = browser.new_context(offline=True).new_page()
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on(
        "request",
        lambda asked: None if asked.url.startswith(("file:", "data:", "blob:")) else wrong.append(asked.url),
    )
    page.goto((tmp_path / "out.html").as_uri())
    page.get_by_text("Energy per inference (nJ)").first.wait_for(timeout=15000)
    assert page.locator(".scatterlayer .point").count() == 12 + 6
    page.close()
    assert not wrong


def test_what_cannot_be_shown_is_one_line(
    known_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = command(capsys, "explore", known_file, "--y", "acuracy", "--report", tmp_path / "o.html")
    assert (code, said.count("\n")) == (2, 1)
    assert "did you mean 'accuracy'" in said
    code, said = command(capsys, "explore", known_file, "--over", "sead", "--report", tmp_path / "o.html")
    assert "did you mean 'seed'" in said
    code, said = command(capsys, "explore", known_file, "--report", tmp_path / "o.txt")
    assert "must end in .html" in said
    code, said = command(capsys, "explore", known_file, known_file, "--report", tmp_path / "o.html")
    assert "is given twice" in said
    assert not list(tmp_path.iterdir())


def test_a_missing_package_names_the_extra(
    known: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = r"needs {}, .*pip install 'imc-ssm\[explore\]'"
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(ConfigError, match=said.format("plotly")):
        report(Points(known), tmp_path / "out.html")
    monkeypatch.setitem(sys.modules, "panel", None)
    with pytest.raises(ConfigError, match=said.format("panel")):
        imc_ssm.explore(known)
