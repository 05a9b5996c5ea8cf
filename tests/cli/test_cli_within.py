"""`deploy` with noise that moves while sequences run."""

from __future__ import annotations

import json

import pytest
from cli_runs import done

from imc_ssm import results


def test_noise_within_a_sequence(chain, tmp_path):
    found = {}
    for within in ("held", "correlated"):
        words = ("--chips", 2, "--times", "1d", "--sequences", 40, "--within", within, "--step", "1ms")
        done("deploy", chain["q.safetensors"], *words, "--out", tmp_path / f"{within}.nc")
        found[within] = results.load(tmp_path / f"{within}.nc")
    moving = found["correlated"]
    assert (moving["accuracy"].attrs["within"], moving["accuracy"].attrs["step"]) == ("correlated", "0.001 s")
    assert "within" not in found["held"]["accuracy"].attrs
    config = json.loads(moving.attrs["configuration"])
    assert (config["within"], config["step"]) == ("correlated", "1ms")
    assert (moving["accuracy"] != found["held"]["accuracy"]).any()


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        (("--within", "pink"), "unknown within 'pink'"),
        (("--within", "white", "--step", "0s"), "a step of 0.0 s"),
        (("--within", "white", "--step", "soon"), "'soon'"),
    ],
)
def test_what_cannot_be_is_refused(refused, chain, words, naming):
    refused("deploy", chain["q.safetensors"], "--sequences", 10, "--out", "new.nc", *words, naming=naming)
