"""Ranges of a compiled model: of drawn samples, never of every k-th, and of events where there is little else."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

import imc_ssm.chip
from imc_ssm.chip import compile
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Scheme, quantize

Make = Callable[[Scheme], Classifier]


def input_range(values: torch.Tensor) -> float:
    """The DAC range of the encoder of a small model, for sequences (B, T, 1)."""
    torch.manual_seed(0)
    model = Classifier(ModelConfig(heads=4, n_state=8))
    return (
        compile(quantize(model, Scheme.uniform(activations=12), values), "pcm-256", values).matrices[0].input_range
    )


def test_a_period_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fourth step is large; of 512 x 16 vectors 512 are looked at (every 16th would see none of them)."""
    values = 0.1 * torch.rand(512, 16, 1, generator=torch.Generator().manual_seed(0))
    values[:, 1::4] *= 10
    expected = float(np.percentile(values.abs().numpy(), 99.5))
    assert input_range(values) == pytest.approx(expected, rel=0.01)
    monkeypatch.setattr(sys.modules["imc_ssm.chip.compiler"], "CALIBRATION_TOKENS", 512)
    found = input_range(values)
    assert found == pytest.approx(expected, rel=0.03)
    assert found == input_range(values)  # drawn by a seed


@pytest.mark.parametrize("size", [30.0, 0.02])
def test_events_are_not_ranged_by_the_zeros_between_them(size: float) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.zeros(20, 500, 1)
    values[torch.rand(20, 500, 1, generator=generator) < 0.004] = size
    assert 0.001 < float((values != 0).float().mean()) < 0.01
    assert input_range(values) == pytest.approx(size, rel=0.02)


def test_channels_of_unlike_size_are_all_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imc_ssm.chip.compiler, "CALIBRATION_TOKENS", 256)
    torch.manual_seed(0)
    values = torch.randn(64, 64, 4)
    values[..., 0] *= 0.01
    model = Classifier(ModelConfig(inputs=4, heads=4, n_state=8))
    placed = compile(quantize(model, Scheme.uniform(activations=12), values), "pcm-256", values)
    assert placed.matrices[0].input_range == pytest.approx(float(np.percentile(values.abs(), 99.5)), rel=0.15)
