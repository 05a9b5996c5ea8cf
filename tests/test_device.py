"""Where it is computed: training, calibration and evaluation on a device by name."""

from __future__ import annotations

import copy
import re

import pytest
import torch

from imc_ssm.datasets import SequenceDataset
from imc_ssm.errors import ImcSsmError
from imc_ssm.kernels import using
from imc_ssm.kernels.device import device_of, named_device, precision_of
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Scheme, calibration_batch, quantize
from imc_ssm.training import TrainConfig, accuracy, predict, train

RECIPE = TrainConfig(epochs=1, batch=64, learning_rate=1e-3, noise=0.02, noise_output=0.01, clip_input=99.0)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_names() -> None:
    assert named_device("cpu") == torch.device("cpu")
    for name in ("gpu", "meta", "tpu:0", ""):
        with pytest.raises(ImcSsmError, match=f"unknown device '{name}'; allowed are 'cpu', 'cuda' and 'cuda:N'"):
            named_device(name)


def test_a_gpu_that_is_not_there(no_gpu: None, trained: Classifier, digits: SequenceDataset) -> None:
    message = "device 'cuda' cannot be used: PyTorch sees no GPU; use device 'cpu'"
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    for work in (
        lambda: train(trained, digits, RECIPE, device="cuda"),
        lambda: quantize(trained, Scheme(), *calibration_batch(digits, 8, most=20), device="cuda"),
    ):
        with pytest.raises(ImcSsmError, match=message):
            work()
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


@pytest.mark.parametrize(
    ("cuda", "count", "missing"),
    [
        (None, 0, "sees no GPU; use device 'cpu', or install a PyTorch that is built for CUDA"),
        ("12.8", 0, "sees no GPU; use device 'cpu', or look at nvidia-smi: is there a driver for CUDA 12.8?"),
        ("12.8", 2, "sees 2 GPUs; use device 'cpu', or one of 'cuda:0' to 'cuda:1'"),
    ],
)
def test_the_error_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, count: int, missing: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ImcSsmError, match=re.escape(missing)):
        named_device("cuda:7")


def test_a_model_whose_matrices_are_all_on_tiles_has_its_buffers() -> None:
    model = torch.nn.BatchNorm1d(3, affine=False).double()
    assert device_of(model.to("meta")) == torch.device("meta")
    assert precision_of(model) == torch.float64
    assert precision_of(torch.nn.Identity()) == torch.get_default_dtype()


def test_named_is_as_not_named(trained: Classifier, digits: SequenceDataset) -> None:
    found = []
    for options in ({}, {"device": "cpu"}):
        model = quantize(trained, Scheme(), *calibration_batch(digits, 8, most=50), **options)
        train(model, digits, RECIPE, **options)
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_the_device_of_a_model(trained: Classifier) -> None:
    assert device_of(trained) == torch.device("cpu")
    assert device_of(torch.nn.Identity()) == torch.device("cpu")
    assert device_of(copy.deepcopy(trained).to("meta")) == torch.device("meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(trained: Classifier, digits: SequenceDataset) -> None:
    from imc_ssm.kernels import cuda

    if cuda.unavailable():
        pytest.skip(str(cuda.unavailable()))
    part = digits.split("test").take(100)
    model = quantize(trained, Scheme(), *calibration_batch(digits, 8, most=50))
    there = quantize(trained, Scheme(), *calibration_batch(digits, 8, most=50), device="cuda")
    assert device_of(there) == torch.device("cpu")
    for one, two in zip(model.buffers(), there.buffers(), strict=True):
        assert (one - two).abs().max() <= 1e-4 * one.abs().max()
    expected = predict(model, part)
    on_gpu = copy.deepcopy(model).cuda()
    assert (predict(on_gpu, part) == expected).all()
    history = train(there, digits, RECIPE, device="cuda")
    assert device_of(there) == torch.device("cpu")
    assert history.loss_train[0] < 2.0


def test_the_whole_way_through_the_references(trained: Classifier, digits: SequenceDataset) -> None:
    # What a device without kernels of its own runs: calibration, an epoch of noise-aware QAT, evaluation.
    few = digits.split("test").take(40)
    model = quantize(trained, Scheme(), *calibration_batch(digits, 8, most=20))
    with using("reference"):
        other = quantize(trained, Scheme(), *calibration_batch(digits, 8, most=20))
        # The states are those of full precision, a loop in single precision here.
        for one, two in zip(model.buffers(), other.buffers(), strict=True):
            assert (one - two).abs().max() <= (1 if one.dtype == torch.int64 else 1e-4 * one.abs().max())
        found, reached = predict(model, few), accuracy(model, few)
    assert (found == predict(model, few)).all()
    assert reached == accuracy(model, few)
