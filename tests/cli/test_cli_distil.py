"""`quantize --distill --ranges`: the teacher is the model that is quantized, and the file says what there was."""

from __future__ import annotations

import pytest
from cli_runs import done

from imc_ssm import load_dataset, quantize, train
from imc_ssm.modelfile import load_model
from imc_ssm.quantization import calibration_batch
from imc_ssm.training import TrainConfig

QUIET = ("--noise", 0, "--noise-output", 0, "--batch", 200, "--epochs", 1)


def test_as_in_python(chain, tmp_path):
    out, more = tmp_path / "q.safetensors", ("--distill-temperature", 3, "--ranges", "learned")
    done("quantize", chain["m.safetensors"], "--out", out, *QUIET, "--distill", 0.7, *more)
    stored, exact, data = load_model(out), load_model(chain["m.safetensors"]).model, load_dataset("digits")
    assert (stored.info["qat"]["distill"], stored.info["qat"]["distill_temperature"]) == (0.7, 3.0)
    own = quantize(exact, stored.scheme, *calibration_batch(data, exact.config.width, seed=0))
    config = TrainConfig(epochs=1, batch=200, distill=0.7, distill_temperature=3.0, ranges="learned")
    assert train(own, data, config, teacher=exact).loss_train == stored.info["qat_history"]["loss_train"]


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        (("--distill", 0.5), "--distill 0.5 is about training, and --epochs is 0"),
        (("--ranges", "learned"), "--ranges learned is about training, and --epochs is 0"),
        (("--ranges", "moved", "--epochs", 1), "'ranges' = 'moved'"),
        (("--distill", 2, "--epochs", 1), "'distill' = 2.0"),
        (("--distill", 0.5, "--distill-temperature", 0, "--epochs", 1), "'distill_temperature' = 0.0"),
    ],
)
def test_refusals(refused, chain, words, naming):
    refused("quantize", chain["m.safetensors"], "--out", "new.safetensors", *words, naming=naming)
