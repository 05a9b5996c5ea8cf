"""What is kept between calls of a model that is not trained follows its parameters and formats."""

from __future__ import annotations

import copy
from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from quantized_runs import some, ssm_of

from imc_ssm.datasets import SequenceDataset
from imc_ssm.kernels import unit
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Scheme
from imc_ssm.quantization.kept import Kept

Make = Callable[[Scheme], Classifier]


class TestKept:
    def test_made_again_when_something_changes(self) -> None:
        made: list[int] = []
        kept: Kept[int] = Kept()
        p, fmt = torch.nn.Parameter(torch.zeros(3)), object()

        def get(formats: tuple[object, ...] = (fmt,)) -> int:
            return kept.get([p], formats, lambda: made.append(1) or len(made))

        with torch.no_grad():
            assert [get(), get()] == [1, 1]
            p.add_(1.0)
            assert [get(), get()] == [2, 2]
            p.data = p.data + 1.0
            assert [get(), get()] == [3, 3]
            assert [get((object(),)), get()] == [4, 5]

    def test_nothing_is_kept_where_gradients_are_recorded(self) -> None:
        kept: Kept[object] = Kept()
        p = torch.nn.Parameter(torch.zeros(3))
        assert kept.get([p], (), object) is not kept.get([p], (), object)

    def test_numbers_that_went_are_not_mistaken_for_those_that_take_their_place(self) -> None:
        kept: Kept[float] = Kept()
        p = torch.nn.Parameter(torch.zeros(1000))
        clean = p.data
        with torch.no_grad():
            for n in range(20):
                p.data = clean + n
                assert kept.get([p], (), lambda: float(p[0])) == n
                p.data = clean

    def test_a_copy_starts_afresh(self) -> None:
        kept: Kept[object] = Kept()
        with torch.no_grad():
            first = kept.get([], (), object)
            assert copy.deepcopy(kept).get([], (), object) is not first


@torch.no_grad()
def test_a_stream_plans_once(quantized: Make, digits: SequenceDataset) -> None:
    model, u = quantized(Scheme()), some(digits, 3)
    state = model.init_state(3)
    with patch.object(unit, "plan_scan", wraps=unit.plan_scan) as plan:
        for t in range(5):
            _, state = model.step(u[:, t], state)
    assert plan.call_count == 1
    with patch("imc_ssm.quantization.scheme.spec_of", side_effect=AssertionError("rules were read again")):
        model.step(u[:, 5], state)


@pytest.mark.parametrize("name", ["log_dt", "C", "D"])
@torch.no_grad()
def test_the_recurrence_follows_its_parameters(name: str, quantized: Make, digits: SequenceDataset) -> None:
    model, u = quantized(Scheme()), some(digits, 3)
    before = model(u)
    parameter = getattr(ssm_of(model).inner, name)
    clean = parameter.detach().clone()
    parameter.mul_(1.5)
    assert not torch.equal(model(u), before)
    parameter.copy_(clean)
    assert torch.equal(model(u), before)


@torch.no_grad()
def test_matrices_follow_their_weights(quantized: Make, digits: SequenceDataset) -> None:
    model, u = quantized(Scheme()), some(digits, 3)
    before = model(u)
    model.decoder.matrix.weight.mul_(-1.0)
    assert not torch.equal(model(u), before)


@torch.no_grad()
def test_the_recurrence_follows_its_formats(quantized: Make, digits: SequenceDataset) -> None:
    model, u = quantized(Scheme()), some(digits, 3)
    before = model(u)
    state = model.state_dict()
    for key in state:
        if "ssm.state.scale" in key:
            state[key] = state[key] * 2
    model.load_state_dict(state)
    assert not torch.equal(model(u), before)
