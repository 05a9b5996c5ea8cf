"""What the ranges of activations are made of: clipped, without padding, and where nothing moves."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from quantized_runs import some, ssm_of

from imc_ssm.chip import compile
from imc_ssm.datasets import SequenceDataset
from imc_ssm.devices import load_design
from imc_ssm.errors import ImcSsmError, RangeWarning
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Bits, Scheme, quantize

Make = Callable[[Scheme], Classifier]


@pytest.mark.parametrize("granularity", ["tensor", "head", "state"])
@torch.no_grad()
def test_a_clip_ends_the_range(granularity: str, trained: Classifier, digits: SequenceDataset) -> None:
    """The codes are spread over what the clip leaves, and all of it."""
    u = 100 * some(digits)
    wide = ssm_of(quantize(trained, Scheme(granularity=granularity, state_clip=None), u)).state.format()
    with pytest.warns(RangeWarning, match="state_clip = 2"):
        clipped = ssm_of(quantize(trained, Scheme(granularity=granularity, state_clip=2.0), u)).state.format()
    assert (wide.scale * 255 > 4).any()
    assert (clipped.scale * 255 <= 4 + 1e-5).all()
    np.testing.assert_allclose(clipped.scale[wide.scale * 127 > 4], 4 / 255, rtol=1e-6)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("granularity", ["tensor", "head", "state"])
@torch.no_grad()
def test_padding_makes_no_range(
    dynamic: bool, granularity: str, trained: Classifier, digits: SequenceDataset
) -> None:
    u, lengths = some(digits, 12), torch.tensor([1, 5, 20, 63, 64, 33] * 2)
    kind = "dynamic" if dynamic else "static"
    options = {"granularity": granularity, "calibration": kind, "state_calibration": kind}
    logits, states, ranges = [], [], []
    for padding in (0.0, 100.0):
        inside = torch.arange(64) < lengths[:, None]
        padded = torch.where(inside[..., None], u, torch.tensor(padding))
        model = quantize(trained, Scheme.parse(options), padded, lengths)
        logits.append(model(padded, lengths))
        states.append(model.state_dict())
        if not dynamic:
            placed = compile(model, load_design("pcm-256"), padded, lengths)
            ranges.append([(m.input_range, [t.output_range for t in m.tiles]) for m in placed.matrices])
    assert torch.equal(*logits)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert dynamic or ranges[0] == ranges[1]


@torch.no_grad()
def test_lengths_of_one_call_are_not_those_of_the_next(quantized: Make, digits: SequenceDataset) -> None:
    model, u = quantized(Scheme(state_calibration="dynamic")), some(digits)
    before = model(u)
    model(u, torch.full((len(u),), 3))
    assert torch.equal(model(u), before)
    ssm, v = ssm_of(model), torch.randn(3, 40, 8)
    alone = ssm(v)
    model(u, torch.full((len(u),), 3))
    assert torch.equal(ssm(v), alone)  # a layer by itself has no padding
    with pytest.raises(ImcSsmError):
        model(u[:, :, :0], None)
    assert torch.equal(ssm(v), alone)  # nor has one after a call that was refused
    assert torch.equal(model(u), before)


@torch.no_grad()
def test_a_silent_batch_keeps_the_calibrated_range(trained: Classifier, digits: SequenceDataset) -> None:
    scheme = Scheme(bits=Bits.only(recurrent=16, state=8), state_calibration="dynamic")
    model = quantize(trained, scheme, 1e-2 * some(digits))
    ssm, calibrated = ssm_of(model), ssm_of(model).state.scale.numpy().copy()
    y = ssm(torch.zeros(2, 30, 8))
    assert torch.isfinite(y).all()
    np.testing.assert_array_equal(ssm.state.format().scale, calibrated)


@torch.no_grad()
def test_a_channel_below_single_precision_is_zero(trained: Classifier, digits: SequenceDataset) -> None:
    model = copy.deepcopy(trained)
    model.blocks[0].mixing.bias[8] = -100.0  # the first gate closes: sigmoid(-100) is about 4e-44
    assert torch.isfinite(quantize(model, Scheme(), some(digits))(some(digits))).all()


def test_an_error_names_the_site(trained: Classifier, digits: SequenceDataset) -> None:
    model = copy.deepcopy(trained)
    with torch.no_grad():
        model.blocks[0].mixing.weight[3, 0] = float("inf")
    with pytest.raises(ImcSsmError, match=r"blocks\.0\.mixing"):
        quantize(model, Scheme(bits=Bits.only(mixing=8)), some(digits))
