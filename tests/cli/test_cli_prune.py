"""`imc-ssm prune`: the file is the smaller model of `imc_ssm.prune`, and the table is of both."""

from __future__ import annotations

import re

import pytest
from cli_runs import done, run

import imc_ssm
from imc_ssm.modelfile import load_model
from imc_ssm.pruning import sparsity


def row(text: str, name: str) -> list[str]:
    """The cells of a line of the table."""
    (line,) = (line for line in text.splitlines() if line.strip().startswith(name))
    return re.split(r"\s{2,}", line.strip())[1:]


def test_a_quantized_model_gets_smaller_and_goes_on(chain, tmp_path):
    out = tmp_path / "p.safetensors"
    words = ("--states", 0.5, "--heads", 0.25, "--weights", 0.5, "--scope", "head", "--criterion", "magnitude")
    text = done("prune", chain["q.safetensors"], "-o", out, *words).out
    stored, before = load_model(out), load_model(chain["q.safetensors"])
    own = imc_ssm.prune(
        before.model, states=0.5, heads=0.25, weights=0.5, scope="head", criterion="magnitude", data="digits"
    )
    assert stored.model.config == own.config
    assert stored.scheme == before.scheme
    assert stored.info["pruned"]["states"] == 0.5
    assert all((a == b).all() for a, b in zip(stored.model.parameters(), own.parameters(), strict=True))
    config = before.model.config
    assert row(text, "heads") == [f"{config.width}", f"{config.width * 3 // 4}", "75 %"]
    heads, states = config.width * 3 // 4, config.layer.n_state // 2
    assert row(text, "complex states")[:2] == [f"{config.width * states:,}", f"{heads * states // 2:,}"]
    assert float(row(text, "ADC conversions")[2].rstrip(" %")) < 80
    assert row(text, "words, bit")[2] < "60 %"
    assert sparsity(stored.model, "*.mixing") == pytest.approx(0.5, abs=0.01)
    done("deploy", out, "--chips", 1, "--times", "1s", "--sequences", 20, "--out", tmp_path / "d.nc")
    assert "11 heads" in done("show", out).out or f"{heads} heads" in done("show", out).out


def test_training_in_rounds_and_the_greedy_search(chain, tmp_path):
    out = tmp_path / "p.safetensors"
    done("prune", chain["m.safetensors"], "-o", out, "--heads", 0.5, "--rounds", 2, "--epochs", 1, "--batch", 200)
    info = load_model(out).info
    assert [len(history["loss_train"]) for history in info["pruned_history"]] == [1, 1]
    text = done("prune", chain["m.safetensors"], "-o", out, "--states", 0.5, "--tolerance", 1).out
    assert "models were evaluated on the validation split" in text
    assert "ADC conversions" not in text  # no chip computes in full precision


def test_a_stopped_command_goes_on_from_its_round(chain, tmp_path):
    words = ("--states", 0.5, "--weights", 0.3, "--rounds", 2, "--epochs", 2, "--batch", 200)
    done("prune", chain["q.safetensors"], "-o", tmp_path / "whole.safetensors", *words)
    out, stopped = (
        tmp_path / "p.safetensors",
        run("prune", chain["q.safetensors"], "-o", tmp_path / "p.safetensors", *words, interrupt_at="round 2"),
    )
    assert stopped.code == 130
    assert not out.exists()
    assert [path.name for path in tmp_path.glob(".p*")] == [".p.round-1.safetensors.checkpoint.safetensors"]
    text = done("prune", chain["q.safetensors"], "-o", out, *words).out
    assert "going on from epoch 2 of 2" in text
    expected, found = (load_model(path) for path in (tmp_path / "whole.safetensors", out))
    assert found.info["pruned_history"][1]["loss_train"] == expected.info["pruned_history"][1]["loss_train"]
    assert all((a == b).all() for a, b in zip(expected.model.parameters(), found.model.parameters(), strict=True))
    assert not list(tmp_path.glob(".p*"))


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        ((), "nothing to prune"),
        (("--states", 1), "states = 1.0"),
        (("--states", 0.5, "--criterion", "enery"), "did you mean 'energy'"),
        (("--states", 0.5, "--scope", "layer"), "unknown scope 'layer'"),
        (("--weights", 0.5, "--matrices", "mixing"), "unknown matrix 'mixing'"),
        (("--states", 0.5, "--distill", 0.5), "--epochs is 0"),
        (("--states", 0.5, "--tolerance", -1), "tolerance = -1"),
    ],
)
def test_refusals(refused, chain, words, naming):
    refused("prune", chain["m.safetensors"], "--out", "new.safetensors", *words, naming=naming)
