"""The minimal GRU of docs/own_model.md: a layer like any other, trained, quantized, deployed as the page says."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from conformance import CHECKS

from imc_ssm import training
from imc_ssm.quantization import Rule, Scheme, formats_of, quantize


@pytest.mark.parametrize("check", CHECKS)
def test_it_conforms(own_model_page: ModuleType, check: str) -> None:
    CHECKS[check]("mingru")


def test_it_learns_and_runs_on_chips(own_model_page: ModuleType) -> None:
    page = own_model_page
    test = page.rows.split("test")
    for model in (page.model, page.quantized):  # ten classes; ten guess right in a hundred
        assert training.accuracy(model, test) > 50
    assert page.chips["accuracy"].sizes == {"chip": 3, "time": 1}
    assert (page.chips["accuracy"] > 30).all()
    assert float(page.price["energy_total"]) > 0
    # both matrices of each layer stand on tiles, and the state is paid by the digital unit
    names = [op.module for op in page.quantized.graph() if type(op).__name__ == "Matrix"]
    assert {"blocks.0.ssm.gate", "blocks.1.ssm.candidate"} <= set(names)
    assert float(page.price["energy"].sel(component="digital update")) > 0


@torch.no_grad()
def test_a_stream_has_the_codes_of_the_batch(own_model_page: ModuleType) -> None:
    page = own_model_page
    u = torch.from_numpy(page.rows.split("test").values[:50].copy())
    logits, state = page.quantized(u), page.quantized.init_state(len(u))
    for t in range(u.shape[1]):
        step, state = page.quantized.step(u[:, t], state)
    assert torch.equal(step, logits)
    scale = formats_of(page.quantized)["blocks.1.ssm.unit.state"].scale
    assert np.array_equal(np.rint(state[0][1].numpy()), state[0][1].numpy())
    assert scale.shape == (16,)


@torch.no_grad()
def test_a_state_of_more_bits_is_nearer_to_full_precision(own_model_page: ModuleType) -> None:
    page = own_model_page
    u = torch.from_numpy(page.rows.split("train").values[:200].copy())
    page.model.eval()
    exact = page.model(u)
    errors = []
    for bits in (4, 8, 12):
        scheme = Scheme(rules=[Rule(bits=12), Rule(kind="state", bits=bits)])
        errors.append(float((quantize(page.model, scheme, u)(u) - exact).square().mean()))
    assert errors[0] > 4 * errors[1] > 4 * errors[2]
