"""`demo`, with a recipe of seconds: interrupted, it goes on; done, it leaves the dataset and the figure alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runs import done, run

from imc_ssm import results
from imc_ssm.study import demo


def test_interrupted_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = demo.RECIPE.with_(pretraining__epochs=2, pretraining__learning_rate=2e-2, qat__epochs=1)
    monkeypatch.setattr(demo, "RECIPE", quick)
    words = ("demo", "--chips", 1, "--times", "1s,1d", "--seed", 2)
    whole, out = tmp_path / "whole.nc", tmp_path / "part.nc"
    printed = done(*words, "--out", whole).out
    for title in (
        "train s4d seed 2",
        "QAT s4d seed 2 a8-x4-recommended",
        "evaluate s4d seed 2 QAT a8-x12-recommended on 1 chip",
    ):
        assert f"{title}: 100 %" in printed
    assert "qat-a8-x12" in printed
    stopped = run(*words, "--out", out, interrupt_at="QAT s4d seed 2 a8-x6-recommended: 10 %")
    assert stopped.code == 130, stopped
    assert stopped.err.startswith("interrupted; nothing is half written; demo, ")
    assert {path.name for path in tmp_path.iterdir()} == {"whole.nc", "whole.png", ".part.nc.study"}
    again = done(*words, "--out", out).out
    assert "train s4d" not in again
    assert "QAT s4d seed 2 a8-x4-recommended" not in again
    assert {path.name for path in tmp_path.iterdir()} == {"whole.nc", "whole.png", "part.nc", "part.png"}
    assert results.values_equal(results.load(out), results.load(whole))
    ds = results.load(out)
    assert ds["accuracy"].dims == ("model", "chip", "time")
    assert (ds.attrs["seed"], ds.attrs["title"]) == (2, "S4D on digits, deployed on pcm-256")
    shown = done("show", out).out
    assert "qat-a8-x12" in shown
