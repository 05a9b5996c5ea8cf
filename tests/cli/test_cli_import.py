"""`imc-ssm import`: what it prints and writes, and that the next commands take it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from cli_runs import done

from imc_ssm.modelfile import load_model

HERE = Path(__file__).parent.parent / "foreign" / "data"


def test_a_checkpoint_becomes_a_model_file(tmp_path):
    out = tmp_path / "m.safetensors"
    printed = done("import", HERE / "sequence.pt", "--out", out).out
    words = printed.split()
    assert words.count("blocks.i.ssm.log_neg_real") == 1  # one row for three blocks
    assert "blocks 0 to 2" in printed
    assert "decoder.weight" in words
    assert "sign changed" in " ".join(words)
    assert "S4Block, version 4, in SequenceModel's model" in printed
    assert "  discretisation: zoh" in printed
    known = np.load(HERE / "sequence.npz")
    with torch.no_grad():
        logits = load_model(out).model.double()(torch.from_numpy(known["inputs"]))
    assert np.abs(logits.numpy() - known["logits"]).max() < 1e-6
    assert load_model(out).info["imported_from"] == "sequence.pt"


def test_options_say_what_keys_do_not(tmp_path):
    out = tmp_path / "m.safetensors"
    printed = done("import", HERE / "example.pt", "--prenorm", "--pool", "last", "--out", out).out
    assert load_model(out).model.config.prenorm
    assert load_model(out).model.config.pool == "last"
    assert "prenorm:" not in printed
    assert "pool:" not in printed
    done("import", HERE / "example.pt", "--postnorm", "--out", out)
    assert not load_model(out).model.config.prenorm


def test_with_its_task_its_accuracy_is_measured(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    np.savez(tmp_path / "own.npz", values=rng.normal(size=(60, 8, 2)), labels=labels)
    out = tmp_path / "m.safetensors"
    printed = done("import", HERE / "sequence.pt", "--dataset", tmp_path / "own.npz", "--out", out).out
    assert "test accuracy" in printed
    assert load_model(out).info["task"] == str(tmp_path / "own.npz")
    assert "accuracy_test" in load_model(out).info


def test_refusals(refused, tmp_path):
    out = ("--out", "m.safetensors")
    refused("import", "none.pt", *out, naming="cannot read none.pt")
    refused("import", HERE / "example.npz", *out, naming="no whole checkpoint of torch (file in archive")
    refused("import", HERE / "example.pt", "--pool", "max", *out, naming="'pool' = 'max'")
    refused("import", HERE / "example.pt", "--dataset", "digits", *out, naming="2 input channels")
    refused("import", HERE / "example.pt", "--out", "m.nc", naming="must end in .safetensors")
    refused("import", HERE / "example.pt", "--device", "cuda:9", *out, naming="PyTorch sees")
