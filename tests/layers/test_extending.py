"""The examples of docs/extending.md, run as they stand."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conformance import CHECKS

from imc_ssm import datasets
from imc_ssm.layers import LAYERS, Classifier, ModelConfig
from imc_ssm.layers.registry import LAYER_CONFIGS
from imc_ssm.quantization import OBSERVERS, QUANTIZED, Scheme, quantize
from imc_ssm.training import TrainConfig, train

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```python (\w+)\n(.*?)```", PAGE, re.DOTALL))
REGISTRIES = (LAYERS, LAYER_CONFIGS.known, QUANTIZED, OBSERVERS.known, datasets.TASKS)


@pytest.fixture(scope="module")
def page() -> Iterator[ModuleType]:
    """A module with everything that the page defines, in order; the registries are as before afterwards."""
    before = [dict(registry) for registry in REGISTRIES]
    module = ModuleType("extending_page")
    sys.modules[module.__name__] = module  # dataclasses and pydantic look names up there
    for name, text in EXAMPLES.items():
        exec(compile(text, f"docs/extending.md: {name}", "exec"), module.__dict__)
    yield module
    for registry, content in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(content)
    del sys.modules[module.__name__]


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
