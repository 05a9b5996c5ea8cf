"""Saliency is a derivative: of the loss by the scale of everything that belongs to a head, a state or a weight."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from imc_ssm.datasets import SequenceDataset
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.losses import Loss
from imc_ssm.pruning import Case, Structure, scores_of

HEADS, EPSILON = 4, 1e-5
Mask = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def data() -> SequenceDataset:
    """A training split that is one batch, so that the mean of magnitudes over batches is one magnitude."""
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(40, 10, 2)).astype(np.float32), rng.integers(0, 3, 40)
    splits = {"train": np.arange(20), "validation": np.arange(20, 30), "test": np.arange(30, 40)}
    return SequenceDataset(values, labels, splits, task="random")


def derivative(model: Classifier, data: SequenceDataset, mask: Mask) -> float:
    """|d loss / d s| where the entries of a mask are scaled by s, at s = 1, in float64, by central differences."""
    split = data.split("train")
    ((values, wanted, _),) = split.batches(64)
    loss_of, losses = Loss(split, torch.device("cpu")), []
    for sign in (1, -1):
        own = copy.deepcopy(model).double().eval()
        with torch.no_grad():
            for name, entries in mask.items():
                own.get_parameter(name).mul_(1 + sign * EPSILON * entries)
            losses.append(float(loss_of(own(torch.as_tensor(values).double()), wanted, None)))
    return abs(losses[0] - losses[1]) / (2 * EPSILON)


def entries(model: Classifier, name: str, choose: Callable[[torch.Tensor], None]) -> torch.Tensor:
    """1 where `choose` sets it, of a parameter."""
    mask = torch.zeros(model.get_parameter(name).shape, dtype=torch.float64)
    choose(mask)
    return mask


def of_head(model: Classifier, head: int) -> Mask:
    """What is written of a head on the page: its rows and columns, recurrence and D; by hand."""

    def rows(mask: torch.Tensor) -> None:
        mask[head::HEADS] = 1

    def rows_and_column(mask: torch.Tensor) -> None:
        mask[head::HEADS] = 1
        mask[:, head] = 1

    def column(mask: torch.Tensor) -> None:
        mask[:, head] = 1

    found = {name: entries(model, name, rows) for name in ("encoder.weight", "encoder.bias")}
    for block in range(model.config.layers):
        at = f"blocks.{block}"
        found |= {
            f"{at}.{name}": entries(model, f"{at}.{name}", rows) for name in ("ssm.C", "ssm.D", "mixing.bias")
        }
        found[f"{at}.mixing.weight"] = entries(model, f"{at}.mixing.weight", rows_and_column)
    return found | {"decoder.weight": entries(model, "decoder.weight", column)}


@pytest.mark.parametrize("fields", [{}, {"gate": "none"}, {"layers": 2}])
def test_of_heads(fields: dict[str, object], data: SequenceDataset) -> None:
    torch.manual_seed(0)
    model = Classifier(
        ModelConfig.parse({"heads": HEADS, "n_state": 6, "inputs": 2, "outputs": 3} | fields)
    ).eval()
    found = scores_of("saliency", Case(Structure(model), data), "heads")[0]
    expected = [derivative(model, data, of_head(model, head)) for head in range(HEADS)]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_of_states_and_weights(data: SequenceDataset) -> None:
    torch.manual_seed(1)
    model = Classifier(ModelConfig(heads=HEADS, n_state=6, inputs=2, outputs=3)).eval()
    case = Case(Structure(model), data)
    states, weights = (scores_of("saliency", case, part) for part in ("states", "weights"))
    for head, state in ((0, 0), (1, 2), (3, 1)):

        def one(mask: torch.Tensor, head: int = head, state: int = state) -> None:
            mask[head, state] = 1

        expected = derivative(model, data, {"blocks.0.ssm.C": entries(model, "blocks.0.ssm.C", one)})
        assert states["blocks.0.ssm"][head, state] == pytest.approx(expected, rel=2e-3)
        expected = derivative(
            model, data, {"blocks.0.mixing.weight": entries(model, "blocks.0.mixing.weight", one)}
        )
        assert weights["blocks.0.mixing"][head, state] == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("layer", ["s4d", "s5"])
def test_magnitudes_of_heads_count_every_weight_once(layer: str) -> None:
    """Outside of the layer: the row of the encoder, rows and column of the mixing matrix, the column of the
    decoder."""
    torch.manual_seed(2)
    model = Classifier(ModelConfig.parse({"heads": HEADS, "n_state": 6, "layer": {"type": layer}}))
    found = scores_of("magnitude", Case(Structure(model)), "heads")[0]
    mixing, ssm = model.blocks[0].mixing.weight.detach(), model.blocks[0].ssm
    for head in range(HEADS):
        own = torch.zeros_like(mixing, dtype=torch.bool)
        own[head::HEADS], own[:, head] = True, True
        squares = [mixing[own], model.encoder.weight[head], model.decoder.weight[:, head]]
        if layer == "s5":
            squares += [ssm.drive.weight[:, head], ssm.readout.weight[head]]
        expected = np.sqrt(sum(float(w.detach().square().sum()) for w in squares))
        assert found[head] == pytest.approx(expected, rel=1e-5)
