"""Fixtures shared by the tests of models: real data, one small trained model and its quantized form."""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from imc_ssm import datasets
from imc_ssm.datasets import SequenceDataset
from imc_ssm.devices import CELLS, CONVERTERS
from imc_ssm.layers import LAYERS, Classifier, ModelConfig
from imc_ssm.layers.registry import LAYER_CONFIGS
from imc_ssm.quantization import OBSERVERS, QUANTIZED, Scheme, calibration_batch, quantize
from imc_ssm.study import initial_steps
from imc_ssm.training import TrainConfig, train


@pytest.fixture(scope="session")
def digits() -> SequenceDataset:
    """The handwritten digits."""
    return datasets.load("digits")


@pytest.fixture(scope="session")
def _trained(digits: SequenceDataset) -> Classifier:
    dt_min, dt_max = initial_steps(digits.time)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(ModelConfig(heads=8, n_state=32, dt_min=dt_min, dt_max=dt_max))
    train(model, digits, TrainConfig(epochs=6, batch=32, learning_rate=2e-2))
    return model


@pytest.fixture
def trained(_trained: Classifier) -> Classifier:
    """A classifier of 8 heads that has learnt something about the digits (a copy: change it freely)."""
    return copy.deepcopy(_trained)


@pytest.fixture
def quantized(trained: Classifier, digits: SequenceDataset) -> Callable[[Scheme], Classifier]:
    """The trained model quantized with a scheme."""
    return lambda scheme: quantize(trained, scheme, *calibration_batch(digits, 8, most=200))


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """A folder with the real MNIST; skips without."""
    candidates = [Path(os.environ.get("IMC_SSM_DATA", "")), Path(__file__).parents[2] / "shared" / "data"]
    for folder in candidates:
        for base in (folder, folder / "mnist"):
            if any((base / f"t10k-labels-idx1-ubyte{suffix}").is_file() for suffix in ("", ".gz")):
                return folder
    pytest.skip("the real MNIST is not here: set IMC_SSM_DATA to a folder that holds it")


DOCS = Path(__file__).parent.parent / "docs"


@contextmanager
def defined(name: str, **given: Any) -> Iterator[ModuleType]:
    """Everything that the examples of a page of docs/ define, in order; the registries are as before afterwards.

    `given`: what the examples find already.
    """
    registries = (LAYERS, LAYER_CONFIGS.known, QUANTIZED, OBSERVERS.known, CELLS, CONVERTERS, datasets.TASKS)
    before = [dict(registry) for registry in registries]
    module = ModuleType(f"{name}_page")
    module.__dict__.update(given)
    sys.modules[module.__name__] = module  # dataclasses and pydantic look names up there
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for block, text in re.findall(r"```python (\w+)\n(.*?)```", page, re.DOTALL):
        exec(compile(text, f"docs/{name}.md: {block}", "exec"), module.__dict__)
    yield module
    for registry, content in zip(registries, before, strict=True):
        registry.clear()
        registry.update(content)
    del sys.modules[module.__name__]


@pytest.fixture(scope="module")
def page() -> Iterator[ModuleType]:
    """Everything that docs/extending.md defines."""
    with defined("extending") as module:
        yield module


@pytest.fixture(scope="module")
def own_model_page() -> Iterator[ModuleType]:
    """Everything that docs/own_model.md defines, trained for a few epochs."""
    with defined("own_model", EPOCHS=6) as module:
        yield module


@pytest.fixture(scope="module")
def time_page() -> Iterator[ModuleType]:
    """Everything that docs/time.md defines."""
    with defined("time") as module:
        yield module
