"""An imported model is one like any other: it quantizes, streams, goes onto a chip and has a price."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from s4_models import Example, Sequence, build
from torch import nn

from imc_ssm.chip import compile as compile_model
from imc_ssm.costs import cost
from imc_ssm.datasets import SequenceDataset
from imc_ssm.foreign import load_foreign
from imc_ssm.quantization import Scheme, quantize

MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "s4d.py, norms last": ({"kind": "s4d", "container": Example}, {}),
    "s4d.py, norms first": ({"kind": "s4d", "container": Example, "prenorm": True}, {"prenorm": True}),
    "version 3, norms last": ({"kind": "version 3", "container": Sequence, "how": "bilinear"}, {}),
    "version 4, a norm behind all": ({"kind": "version 4", "container": Sequence, "prenorm": True}, {}),
    "version 4, batch norm": ({"kind": "version 4", "container": Sequence, "norm": nn.BatchNorm1d}, {}),
}


@pytest.fixture(scope="module")
def data() -> SequenceDataset:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 16, 2)).astype(np.float32)
    splits = {"train": np.arange(24), "validation": np.arange(24, 32), "test": np.arange(32, 40)}
    return SequenceDataset(values, rng.integers(0, 3, 40), splits)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_on_a_chip(name: str, data: SequenceDataset) -> None:
    options, hints = MODELS[name]
    model = load_foreign(build(**options).state_dict(), **hints)
    u = torch.from_numpy(data.split("train").values)
    fine = quantize(model, Scheme.uniform(poles=12, state=12, weights=12, activations=12), u)
    assert float((fine(u) - model(u)).abs().max()) < 0.05 * float(model(u).abs().max())
    made = quantize(model, Scheme(), u)
    logits = made(u)
    state = made.init_state(len(u))
    for t in range(u.shape[1]):
        step, state = made.step(u[:, t], state)
    assert torch.equal(step, logits)
    deployment = compile_model(made, "pcm-256", data)
    price = cost(deployment)
    assert float(price["energy"].sum()) > 0
