"""`deploy` and `cost` with the whole recurrence on tiles."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cli_runs import done

from imc_ssm import results
from imc_ssm.chip import Deployment


def test_recurrences_on_tiles(chain, tmp_path):
    where = ("--recurrence", "analog", "--heads-per-tile", 2)
    words = ("--chips", 2, "--times", "1s", "--sequences", 30, "--deployment", tmp_path / "dep.safetensors")
    printed = done("deploy", chain["q.safetensors"], *where, *words, "--out", tmp_path / "d.nc").out
    assert "A, B, C, D" in printed
    ds = results.load(tmp_path / "d.nc")
    config = json.loads(ds.attrs["configuration"])
    assert (config["recurrence"], config["heads_per_tile"]) == ("analog", 2)
    placed = Deployment.load(tmp_path / "dep.safetensors")
    assert {r.heads_per_tile for r in placed.recurrences} == {2}
    done("cost", tmp_path / "dep.safetensors", "--operations", "--out", tmp_path / "stored.nc")
    done("cost", chain["q.safetensors"], *where, "--out", tmp_path / "made.nc")
    stored, made = (results.load(tmp_path / name) for name in ("stored.nc", "made.nc"))
    np.testing.assert_array_equal(stored["energy"], made["energy"])
    np.testing.assert_array_equal(ds["energy"].sel(model="q"), made["energy"])


@pytest.mark.parametrize(
    ("file", "words", "naming"),
    [
        ("q.safetensors", ("--recurrence", "both"), "unknown recurrence 'both'"),
        ("q.safetensors", ("--recurrence", "analog", "--heads-per-tile", 99), "heads_per_tile = 99"),
        ("dep.safetensors", ("--recurrence", "analog"), "whose recurrences are placed already"),
    ],
)
def test_mistakes(file, words, naming, chain, refused):
    refused("cost", chain[file], *words, naming=naming)
