"""Torch's default type and inference mode change nothing of a model, made before or after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import imc_ssm

RNG = np.random.default_rng(0)
U = RNG.normal(size=(12, 10, 2)).astype(np.float32)
DATA = imc_ssm.SequenceDataset(
    U, np.arange(12) % 3, {"train": np.arange(6), "validation": np.arange(6, 9), "test": np.arange(9, 12)}
)
RECIPE = imc_ssm.TrainConfig(epochs=1, batch=3)
KINDS: dict[str, dict[str, Any]] = {
    "s4d": {},
    "s5": {"layer": "s5"},
    "layer norms": {"layers": 2, "norm": "layer", "prenorm": True, "final_norm": True},
    "batch norms": {"layers": 2, "heads": [4, 6], "norm": "batch", "discretisation": "bilinear"},
}


@pytest.fixture(autouse=True)
def default() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


def built(fields: dict[str, Any]) -> imc_ssm.Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = imc_ssm.ModelConfig(inputs=2, outputs=3, heads=4, n_state=4)
        return imc_ssm.Classifier(config.with_(fields))


def everything(model: imc_ssm.Classifier, folder: Any) -> list[Tensor]:
    """Logits by both modes and by steps, of the model, trained, quantized, trained again, loaded; on a chip."""
    found: list[Tensor] = []

    def run(one: imc_ssm.Classifier) -> None:
        u = torch.from_numpy(U)
        with torch.no_grad():
            found.extend(one.eval().set_mode(mode)(u) for mode in ("convolution", "recurrent"))
            state = one.init_state(12)
            for t in range(4):
                logits, state = one.step(u[:, t], state)
        found.append(logits)

    imc_ssm.train(model, DATA, RECIPE)
    run(model)
    quantized = imc_ssm.quantize(model, "uniform", DATA)
    run(quantized)
    imc_ssm.train(quantized, DATA, RECIPE)
    run(quantized)
    imc_ssm.save_model(folder / "m.safetensors", quantized)
    run(imc_ssm.load_model(folder / "m.safetensors").model)
    deployment = imc_ssm.compile_model(quantized, "pcm-256", DATA)
    on_chips = imc_ssm.evaluate(deployment, DATA, chips=1, times=[1.0])
    found.append(torch.from_numpy(on_chips["accuracy"].values.astype(np.float32)))
    recipe = imc_ssm.training_for("pcm-256", RECIPE)
    imc_ssm.train(quantized, DATA, recipe.config, disturbance=recipe.disturbance)
    run(quantized)
    if model.config.layer.type == "s4d":
        analog = imc_ssm.compile_model(quantized, "pcm-256", DATA, recurrence="analog").analog()[0]
        found.append(analog(torch.from_numpy(U)))
    return [one.detach() for one in found]


@pytest.mark.parametrize("kind", KINDS)
def test_double_precision_as_default(kind: str, tmp_path: Any) -> None:
    wanted = everything(built(KINDS[kind]), tmp_path)
    before = built(KINDS[kind])
    torch.set_default_dtype(torch.float64)
    for model in (before, built(KINDS[kind])):
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        for one, two in zip(wanted, everything(model, tmp_path), strict=True):
            assert two.dtype == torch.float32
            assert torch.equal(one, two)
    assert torch.get_default_dtype() == torch.float64


def test_built_under_inference_mode_and_trained_outside(tmp_path: Any) -> None:
    results = []
    for within in (nullcontext(), torch.inference_mode()):
        with within:
            model = built({"norm": "batch"})
        results.append(everything(model, tmp_path))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_a_drive_of_nothing_is_priced() -> None:
    """Every multiplier m_b is 0: B too small for a code, or 0 itself."""
    for factor in (1e-12, 0.0):
        model = built({})
        with torch.no_grad():
            model.blocks[0].ssm.B.mul_(factor)
        deployment = imc_ssm.compile_model(imc_ssm.quantize(model, "uniform", DATA), "pcm-256", DATA)
        assert 0 < float(imc_ssm.cost(deployment)["energy_total"]) < 1e-6
