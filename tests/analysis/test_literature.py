"""Measures of the literature: by hand for a small model, and the savings that Zhao et al. print."""

from __future__ import annotations

import pytest
import torch

import imc_ssm
from imc_ssm.analysis import complexity
from imc_ssm.errors import ImcSsmError
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Scheme, quantize

U = torch.rand(8, 20, 1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("heads", "scheme", "saved"),
    [(16, "w4a6", 82.96), (16, "w8a8", 76.55), (64, "w4a6", 84.05), (64, "w8a8", 76.29)],
)
def test_footprints_are_those_of_the_paper(heads: int, scheme: str, saved: float) -> None:
    """Zhao et al. 2025, Table III, A8 x8; in percent, to the last digit printed."""
    model = Classifier(ModelConfig(heads=heads))
    whole = float(complexity(model, 784).footprint)
    assert whole == 32 * {16: 5434, 64: 27850}[heads]
    found = 100 * (1 - float(complexity(quantize(model, scheme, U), 784).footprint) / whole)
    assert found == pytest.approx(saved, abs=0.0061)


def test_macs_and_ace_by_hand() -> None:
    """4 heads of 3 states, 10 steps: encoder 4, a x 4, b u 2, c x 2 products a state, D 4, mixing 32, gate 4,
    decoder 40 once; full precision counts 32 bits."""
    model = Classifier(ModelConfig(heads=4, n_state=6))
    ds = complexity(model, 10)
    macs = 10 * (4 + 8 * 12 + 4 + 32 + 4) + 40
    assert ds.macs == macs
    assert ds.ace == macs * 32**2
    parameters = 4 + 4 + 6 * 12 + 4 + 32 + 8 + 40 + 10
    assert ds.model_size == 32 * parameters
    scheme = Scheme.uniform(poles=9, state=7, weights=5, activations=6)
    found = complexity(quantize(model, scheme, U), 10)
    effort = 10 * (4 * 5 * 6 + 12 * (4 * 9 * 7 + 2 * 5 * 6 + 2 * 5 * 7) + 4 * 5 * 6 + 32 * 5 * 6 + 4 * 6 * 6)
    assert found.macs == macs
    assert found.ace == effort + 40 * 5 * 6
    assert found.model_size == 2 * 12 * (9 + 5 + 5) + 5 * (4 + 4 + 32 + 40) + 16 * (4 + 8 + 10)


def test_adcs_of_a_deployment() -> None:
    """Every used column once a step, of the decoder once."""
    model = quantize(Classifier(ModelConfig(heads=4, n_state=6)), Scheme(), U)
    deployment = imc_ssm.compile_model(model, "pcm-256", U)
    ds = complexity(deployment)
    assert ds.conversions == 20 * (4 + 8) + 10
    assert ds.adc_complexity == ds.conversions * 2**deployment.chip.adc.bits
    assert all({"units", "long_name"} <= set(ds[name].attrs) for name in ds.data_vars)
    assert bool(complexity(model, 20).conversions.isnull())


def test_slow_heads_and_polar_poles_count_what_they_do() -> None:
    model = Classifier(ModelConfig(heads=4, n_state=6, dt_min=1e-3, dt_max=2e-3))
    slow = quantize(model, Scheme(rate_limit=1.0), U)
    assert complexity(slow, 64).macs < complexity(quantize(model, Scheme(), U), 64).macs
    polar = quantize(model, Scheme(pole_form="log_polar", pole_decay_bits=4), U)
    saved = complexity(quantize(model, Scheme(), U), 64).model_size - complexity(polar, 64).model_size
    assert saved == 12 * (2 * 8 - (4 + 8)) - 4 * 5 * 32  # the constants of each head's grid are stored too


@pytest.mark.parametrize("layer", ["s4d", "s5"])
def test_pruning_takes_its_share(layer: str) -> None:
    model = Classifier(ModelConfig(heads=8, n_state=16, layer={"type": layer}))
    fewer = imc_ssm.prune(model, states=0.5, scope="head")
    states = 8 if layer == "s5" else 64
    gone = 100 * (states // 2) * 8
    if layer == "s5":
        gone += 100 * 2 * (states // 2) * 8 * 2
    assert complexity(model, 100).macs - complexity(fewer, 100).macs == gone


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ImcSsmError, match="steps = None"):
        complexity(Classifier(ModelConfig(heads=2)))
    with pytest.raises(ImcSsmError, match="complexity takes a model"):
        complexity(3, 10)
