"""The layer, observer and task of docs/extending.md, run as they stand."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from conformance import CHECKS

from imc_ssm import datasets
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Scheme, quantize
from imc_ssm.training import TrainConfig, train


@pytest.mark.parametrize("check", CHECKS)
def test_a_layer_of_ones_own_conforms(page: ModuleType, check: str) -> None:
    CHECKS[check]("delays")


@torch.no_grad()
def test_an_observer_of_ones_own_finds_ranges(page: ModuleType) -> None:
    torch.manual_seed(0)
    model, u = Classifier(ModelConfig(heads=4, n_state=8)), torch.randn(6, 20, 1)
    made = quantize(model, page.scheme, u)
    usual = quantize(model, Scheme(rules=page.scheme.rules[:1]), u)
    gelu = made.blocks[0].gelu.output
    assert type(gelu.observer) is page.Deviations
    assert not torch.equal(gelu.scale, usual.blocks[0].gelu.output.scale)
    assert torch.equal(made.encoder.output.scale, usual.encoder.output.scale)
    assert Scheme.from_json(page.scheme.to_json()) == page.scheme


def test_a_task_of_ones_own_is_learnt(page: ModuleType) -> None:
    data = datasets.load("steps")
    assert (len(data), data.channels, data.n_classes) == (300, 1, 2)
    assert "steps" in datasets.names()
    torch.manual_seed(0)
    model = Classifier(ModelConfig(heads=4, n_state=8, classes=2, dt_min=0.02, dt_max=0.5))
    history = train(model, data, TrainConfig(epochs=1, batch=50))
    assert np.isfinite(history.loss_train).all()
