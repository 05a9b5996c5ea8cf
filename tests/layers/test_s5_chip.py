"""S5 on the digits, all the way: trained, quantized to 8 bits, deployed on pcm-256, costed; and beside S4D over
seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from imc_ssm import results
from imc_ssm.chip import compile, evaluate
from imc_ssm.costs import cost
from imc_ssm.datasets import SequenceDataset
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Scheme, calibration_batch, quantize
from imc_ssm.training import TrainConfig, accuracy, train

STUDIED = Path(__file__).parents[2] / "experiments" / "layers" / "results" / "layers.nc"
SHAPE = {"heads": 16, "n_state": 64, "dt_min": 0.0125, "dt_max": 0.5}


def test_from_training_to_a_costed_chip(digits: SequenceDataset) -> None:
    torch.manual_seed(0)
    model = Classifier(ModelConfig.parse(SHAPE | {"layer": "s5"}))
    train(model, digits, TrainConfig(epochs=12, batch=32, weight_decay=0.05), mode="convolution")
    test = digits.split("test")
    full = accuracy(model, test)
    calibration = calibration_batch(digits, 16)
    quantized = quantize(model, Scheme.uniform(poles=8, state=8), *calibration)
    # Chance is 10 %: this says that everything is in its place, not how good one training is.
    assert full > 60
    assert abs(accuracy(quantized, test) - full) < 15
    placed = compile(quantized, "pcm-256", *calibration)
    assert [matrix.name for matrix in placed.matrices] == ["encoder", "drive", "readout", "mixing", "decoder"]
    chips = evaluate(placed, digits, 2, [1.0])
    assert float(chips["accuracy_digital"]) == accuracy(quantized, test)
    assert (chips["accuracy"] > 40).all()
    # One state update instead of sixteen: the unit and its memories shrink, the tiles take two matrices more.
    other = quantize(Classifier(ModelConfig.parse(SHAPE)), Scheme.uniform(poles=8, state=8), *calibration)
    mine, theirs = cost(placed), cost(compile(other, "pcm-256", *calibration))
    for component, fewer in (("digital update", True), ("memories", True), ("adc", False), ("cells", False)):
        at = {"component": component}
        assert (float(mine["energy"].sel(at)) < float(theirs["energy"].sel(at))) == fewer, component
    assert float(mine["tiles"]) == float(theirs["tiles"]) + 2


@pytest.mark.parametrize("name", ["accuracy_digital", "accuracy"])
def test_is_as_good_as_s4d_over_seeds(name: str) -> None:
    """The committed study: five trainings each; within two points, by the mean and by its standard error."""
    ds = results.load(STUDIED)
    found = ds[name] if name == "accuracy_digital" else ds[name].isel(time=0).mean("chip")
    difference = (found.sel(layer="s5") - found.sel(layer="s4d")).values
    assert len(difference) == 5
    assert np.isfinite(difference).all()
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    assert abs(difference.mean()) + 2 * error < 2, difference
