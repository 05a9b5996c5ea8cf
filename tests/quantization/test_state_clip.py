"""A state clip that cuts what the data need is said in calibration."""

from __future__ import annotations

import warnings

import pytest
import torch

from imc_ssm.errors import RangeWarning
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Scheme, quantize

LAYERS = ("s4d", "s5")


@pytest.fixture(params=LAYERS)
def model(request: pytest.FixtureRequest) -> Classifier:
    torch.manual_seed(0)
    return Classifier(ModelConfig.parse({"heads": 4, "n_state": 8, "layer": request.param}))


def test_raw_counts_are_said(model: Classifier) -> None:
    """An ADC's values, 32,768 times as large as they should be."""
    u = 32_768 * torch.randn(8, 60, 1).clamp(-1, 1)
    said = r"states of blocks.0.ssm.*state reach state_clip = 50 .* the input reaches 3.277e\+04: scale it"
    with pytest.warns(RangeWarning, match=said):
        quantize(model, Scheme(), u)


@pytest.mark.parametrize("clip", [None, 1e9])
def test_nothing_is_said_where_nothing_is_cut(model: Classifier, clip: float | None) -> None:
    u = torch.randn(8, 60, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize(model, Scheme(), u)
        quantize(model, Scheme(state_clip=clip), 32_768 * u)


@pytest.mark.parametrize(("clip", "cut"), [(0.5, True), (2.0, False)])
def test_the_border(clip: float, cut: bool) -> None:
    """A pole of nothing: the state is the input, 1 at most."""
    torch.manual_seed(0)
    model = Classifier(ModelConfig(heads=2, n_state=2, discretisation="bilinear"))  # type: ignore[call-arg]
    ssm = model.blocks[0].ssm
    with torch.no_grad():
        ssm.log_dt.zero_()
        ssm.log_neg_real.fill_(0.6931472)
        ssm.imag.zero_()
        ssm.B.zero_()
        ssm.B[..., 0] = 2.0
        model.encoder.weight.fill_(1.0)
        model.encoder.bias.zero_()
    u = torch.linspace(-1, 1, 100)[None, :, None]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        quantize(model, Scheme(state_clip=clip), u)
    assert any(issubclass(w.category, RangeWarning) for w in seen) == cut
