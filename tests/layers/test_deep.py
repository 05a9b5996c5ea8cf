"""Deep models with norms and the other blocks, from training to the chip and its price."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance import BLOCKS, streamed

from imc_ssm.chip import Deployment, compile, evaluate
from imc_ssm.costs import actions_of, cost
from imc_ssm.datasets import SequenceDataset
from imc_ssm.datasets.sequence import SPLITS
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.modelfile import StoredModel, load_model, save_model
from imc_ssm.quantization import Rule, Scheme, formats_of, quantize
from imc_ssm.training import TrainConfig, train

DEEP: dict[str, dict[str, Any]] = {
    f"{norm}, {'first' if prenorm else 'last'}": {"layers": 4, "norm": norm, "prenorm": prenorm}
    for norm in ("layer", "rms", "batch")
    for prenorm in (False, True)
}
OTHERS = {name: fields for name, fields in BLOCKS.items() if name not in ("deep", "every step")}


@pytest.fixture(scope="module")
def few(digits: SequenceDataset) -> SequenceDataset:
    """100 sequences of each split of the digits."""
    return replace(digits, splits={n: digits.splits[n][:100] for n in SPLITS})


def made(fields: dict[str, Any], data: SequenceDataset) -> tuple[Classifier, Classifier]:
    """A model trained for an epoch, and trained on quantized for another."""
    torch.manual_seed(0)
    shape = {"heads": 6, "layers": 2, "n_state": 8, "dt_min": 0.02, "dt_max": 0.5}
    model = Classifier(ModelConfig.parse(shape | fields))
    recipe = TrainConfig(epochs=1, batch=50)
    train(model, data, recipe)
    quantized = quantize(model, Scheme(), torch.from_numpy(data.split("train").values))
    before = {n: b.clone() for n, b in quantized.named_buffers() if "running" in n}
    train(quantized, data, recipe, keep="last")
    after = dict(quantized.named_buffers())
    assert all(torch.equal(after[n], b) for n, b in before.items())  # statistics are frozen
    return model, quantized


@pytest.mark.parametrize("name", [*DEEP, *OTHERS])
def test_from_training_to_the_chip(name: str, few: SequenceDataset, tmp_path: Path) -> None:
    fields = DEEP.get(name) or OTHERS[name]
    model, quantized = made(fields, few)
    u = torch.from_numpy(few.split("test").values[:5])
    with torch.no_grad():
        logits = quantized.eval()(u)
        if not quantized.config.bidirectional:
            assert torch.equal(streamed(quantized, u), logits)
    save_model(tmp_path / "q.safetensors", StoredModel(quantized, Scheme()))
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "q.safetensors").model.eval()(u), logits)
    deployment = compile(quantized, "pcm-256", torch.from_numpy(few.split("train").values))
    assert deployment.graph == model.graph()
    deployment.save(tmp_path / "d.safetensors")
    again = Deployment.load(tmp_path / "d.safetensors")
    results = [(cost(d), evaluate(d, few, 1, [1.0])) for d in (deployment, again)]
    assert results[0][0].equals(results[1][0])
    assert results[0][1].equals(results[1][1])
    assert deployment.digest() == again.digest()
    assert 0 < float(results[0][0]["energy_total"]) < 1e-3
    assert np.isfinite(results[0][1]["accuracy"]).all()


def test_a_norm_is_priced_by_its_own_actions(few: SequenceDataset) -> None:
    """Every operator has a price; layer norm costs more than RMS norm, that more than a scale and a shift."""
    energy = {}
    for norm in ("none", "batch", "rms", "layer"):
        torch.manual_seed(0)
        model = Classifier(ModelConfig.parse({"heads": 6, "layers": 2, "n_state": 8, "norm": norm}))
        u = torch.from_numpy(few.split("train").values)
        deployment = compile(quantize(model, Scheme(), u), "pcm-256", u)
        energy[norm] = float(cost(deployment)["energy_total"])
        own = [taken for taken in actions_of(deployment) if taken.operator.module.endswith("norm")]
        assert sum(t.action.verb == "lookup" for t in own) == (2 if norm in ("rms", "layer") else 0)
    assert list(energy) == sorted(energy, key=lambda norm: energy[norm])


def test_rules_reach_norms_and_blocks_apart(few: SequenceDataset) -> None:
    u = torch.from_numpy(few.split("train").values)
    model = Classifier(ModelConfig.parse({"heads": (6, 4), "n_state": 8, "norm": "layer"}))
    scheme = Scheme(rules=[Rule(bits=8), Rule(path="norm", bits=10), Rule(path="blocks.1.*", bits=5)])
    formats = formats_of(quantize(model, scheme, u))
    assert (formats.bits("blocks.0.norm"), formats.bits("blocks.1.norm")) == (10, 5)
    assert formats["blocks.0.norm"].scale.shape == (4,)
    assert {formats.bits(path) for path in formats if path.startswith("blocks.1.")} == {5}


@torch.no_grad()
def test_a_norm_in_full_precision_stands_among_integers(few: SequenceDataset) -> None:
    u = torch.from_numpy(few.split("train").values)
    torch.manual_seed(0)
    model = Classifier(ModelConfig.parse({"heads": 6, "layers": 2, "n_state": 8, "norm": "layer"}))
    free = quantize(model, Scheme(rules=[Rule(bits=12), Rule(path="norm", bits="full")]), u)
    bound = quantize(model, Scheme(rules=[Rule(bits=12)]), u)
    assert "blocks.1.norm" not in formats_of(free)
    assert formats_of(free).bits("blocks.0.norm") == 16  # the next layer's integers read it
    assert float((free(u) - bound(u)).abs().max()) < 0.02 * float(bound(u).abs().max())
