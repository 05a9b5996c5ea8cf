"""`--for`: training and quantizing for a chip, and what it refuses."""

from __future__ import annotations

import pytest
from cli_runs import done, own_toml

from imc_ssm.modelfile import load_model


def test_train_and_quantize_for_a_chip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = own_toml(tmp_path, "designs", "pcm-256", adc='adc = { type = "sar", bits = 6 }')
    done(
        "train",
        "digits",
        "--epochs",
        2,
        "--heads",
        4,
        "--n-state",
        8,
        "--for",
        "reram-128",
        "--out",
        "m.safetensors",
    )
    info = load_model("m.safetensors").info
    assert info["training"]["input_ranges"] == "calibrated"  # full precision has none to learn
    assert info["chip_training"]["disturbance"]["design"] == "reram-128"
    said = done(
        *("quantize", "m.safetensors", "--for", mine, "--period", "1s,1h", "--epochs", 1, "--out", "q.safetensors")
    ).out
    info = load_model("q.safetensors").info
    assert info["chip_training"]["disturbance"]["latest"] == 3600.0
    assert info["qat"]["noise"] == 0
    assert info["qat"]["input_ranges"] == "learned"
    for word in ("chip: pcm-256", "1 s to 1 h", "DAC 8 bits, ADC 6 bits", "input ranges: learned"):
        assert word in said
        assert any(word in f"{name}: {value}" for name, value in info["chip_training"].items())


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        (("--for", "pcm-25"), "'pcm-256'"),
        (("--for", "pcm-256", "--noise", 0.1), "--noise 0.1 beside --for"),
        (("--for", "pcm-256", "--clip-input", 99), "--clip-input 99 beside --for"),
        (("--for", "pcm-256", "--epochs", 0), "--epochs is 0"),
        (("--for", "pcm-256", "--period", "1s"), "--period 1s"),
        (("--for", "pcm-256", "--period", "1d,1s"), "before earliest"),
        (("--for", "reram-wan-64", "--period", "1s,1h"), "1 s, 86400 s, 172800 s"),
        (("--period", "1s,1d"), "give the chip too"),
    ],
)
def test_refusals(refused, chain, words, naming):
    refused("quantize", chain["m.safetensors"], "--out", "new.safetensors", *words, naming=naming)
