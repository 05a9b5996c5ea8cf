"""What the tests of sweeps share: a small quantized model in a file, and its sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from imc_ssm import datasets
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.modelfile import StoredModel, save_model
from imc_ssm.quantization import calibration_batch, quantize
from imc_ssm.study import initial_steps
from imc_ssm.training import TrainConfig, train


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files of a small model that knows a little about the digits: in full precision, and quantized."""
    folder, data = tmp_path_factory.mktemp("start"), datasets.load("digits")
    dt_min, dt_max = initial_steps(data.time)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(ModelConfig(heads=4, n_state=8, dt_min=dt_min, dt_max=dt_max))
    train(model, data, TrainConfig(epochs=4, batch=32, learning_rate=2e-2), mode="convolution")
    quantized = quantize(model, "uniform", *calibration_batch(data, 4, most=64))
    paths = folder / "full.safetensors", folder / "q.safetensors"
    save_model(paths[0], StoredModel(model, None, {"task": "digits"}))
    save_model(paths[1], StoredModel(quantized, quantized.scheme, {"task": "digits"}))
    return paths


@pytest.fixture
def small(started: tuple[Path, Path]) -> dict[str, Any]:
    """An objective that takes milliseconds: two chips on forty sequences."""
    return {"start": str(started[1]), "chips": 2, "sequences": 40, "calibration": 32}
