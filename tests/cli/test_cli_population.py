"""`deploy` of a population: subsets, yield, compensation and upkeep on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cli_runs import done

from imc_ssm import results
from imc_ssm.plots import made_here

UPKEEP = ("--compensation", "column", "--refresh", "7d", "--recalibrate", "1d")


def test_a_population(chain, tmp_path):
    words = ("--chips", 3, "--times", "1d,30d", "--sequences", 40, "--subset", "fresh", "--yield", 20, *UPKEEP)
    printed = done("deploy", chain["q.safetensors"], *words, "--out", tmp_path / "d.nc").out
    assert "95% interval (Wilson)" in printed
    assert "within 2 s.e." in printed
    ds = results.load(tmp_path / "d.nc")
    assert ds["programmings"].values.tolist() == [[1, 5]]
    assert ds["calibrations"].values.tolist() == [[1, 5 + 4 * 6 + 1]]
    assert ds["accuracy"].attrs["subset"] == "fresh"
    assert (ds.attrs["n_test"], ds["accuracy"].attrs["n_split"]) == (40, 360)
    assert dict(ds["accuracy_error"].sizes) == {"model": 1, "chip": 3, "time": 2}
    assert (ds["accuracy_error"] > 0).all()
    assert dict(ds["accuracy_quantile"].sizes) == {"model": 1, "quantile": 5, "time": 2}
    good = (ds["accuracy"].sel(model="q") > 20).mean("chip") * 100
    np.testing.assert_allclose(ds["yield"].values.reshape(-1), good.values)
    config = json.loads(ds.attrs["configuration"])
    assert config["design"]["drift_compensation"] == "column"
    asked = {name: config[name] for name in ("sequences", "subset", "refresh", "recalibrate")}
    assert asked == {"sequences": 40, "subset": "fresh", "refresh": "7d", "recalibrate": "1d"}
    assert made_here(tmp_path / "d.png")
    shown = done("show", tmp_path / "d.nc", "--out", tmp_path / "again.png").out
    assert "Accuracy in percent, 40 test sequences" in shown
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "d.png").read_bytes()


def test_designs_that_differ_in_compensation_are_compared(chain, tmp_path):
    for mode in ("none", "column"):
        words = ("--chips", 2, "--times", "30d", "--sequences", 60, "--compensation", mode)
        done("deploy", chain["q.safetensors"], *words, "--out", tmp_path / f"{mode}.nc")
    told = done("show", tmp_path / "none.nc", tmp_path / "column.nc", "--out", tmp_path / "c.png").out
    assert "drift_compensation=none" in told
    assert "drift_compensation=column" in told
    none, column = (results.load(tmp_path / f"{mode}.nc") for mode in ("none", "column"))
    np.testing.assert_array_equal(none["accuracy_digital"], column["accuracy_digital"])
    assert (none["accuracy"] != column["accuracy"]).any()


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        (("--subset", "some"), "unknown subset 'some'"),
        (("--compensation", "columns"), "drift_compensation"),
        (("--refresh", "0d"), "refresh = '0d'; give an interval above 0 s"),
        (("--refresh", "weekly"), "'weekly'"),
        (("--recalibrate", "2d", "--refresh", "1d"), "recalibrate = 2 d is not shorter than refresh = 1 d"),
        (("--recalibrate", "1d", "--compensation", "none"), "compensates no drift"),
        (("--recalibrate", "0.4s", "--times", "1s", "--design", "reram-128"), "no model at 0.8 s"),
        (("--yield", 101), "--yield 101"),
    ],
)
def test_what_cannot_be_is_refused(refused, chain, words, naming):
    deploy = ("deploy", chain["q.safetensors"], "--times", "2d", "--sequences", 10, "--out", "new.nc")
    refused(*deploy, *words, naming=naming)
