"""Blocks by the options of `train`, through to a chip and its price."""

from cli_runs import done

from imc_ssm.modelfile import load_model

SMALL = ("train", "digits", "--epochs", 0, "--n-state", 4)


def test_train_takes_blocks(tmp_path):
    out = tmp_path / "m.safetensors"
    words = ("--heads", "3,5", "--norm", "rms", "--prenorm", "--activation", "relu", "--gate", "none")
    done(*SMALL, *words, "--no-residual", "--bidirectional", "--pool", "last", "--out", out)
    config = load_model(out).model.config
    assert (config.heads, config.layers, config.norm, config.prenorm) == ((3, 5), 2, "rms", True)
    assert (config.activation, config.gate, config.residual) == ("relu", "none", False)
    assert (config.bidirectional, config.pool) == (True, "last")


def test_wrong_blocks_are_named(refused):
    words = ("--out", "new.safetensors")
    refused(*SMALL, "--norm", "laier", *words, naming="'norm' = 'laier'")
    refused(*SMALL, "--heads", "3,x", *words, naming="--heads 3,x: give a number, or one a block: 16,32")
    refused(*SMALL, "--heads", "3,5", "--layers", 3, *words, naming="widths of 2 blocks, layers = 3")
    refused(*SMALL, "--heads", "0", *words, naming="'heads' = 0: allowed is at least 1")


def test_a_model_with_norms_reaches_a_chip(tmp_path):
    m, q = (tmp_path / f"{name}.safetensors" for name in ("m", "q"))
    done(*SMALL, "--heads", 4, "--layers", 2, "--norm", "layer", "--prenorm", "--out", m)
    done("quantize", m, "--out", q)
    done("cost", q, "--out", tmp_path / "cost.nc")
    done("deploy", q, "--chips", 1, "--times", "1s", "--sequences", 20, "--out", tmp_path / "dep.nc")
