"""One model in many threads: what a call needs belongs to the call."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from imc_ssm.kernels import compiling
from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Quantizer, Scheme, quantize
from imc_ssm.quantization.kept import PerThread


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    """Sequences of very different ranges, with lengths."""
    g = torch.Generator().manual_seed(1)
    return [
        (10.0 ** (i % 3 - 1) * torch.randn(4, 40, 1, generator=g), torch.randint(5, 41, (4,), generator=g))
        for i in range(count)
    ]


@pytest.mark.parametrize("layer", ["s4d", "s5"])
@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_results_do_not_depend_on_other_threads(kind: str, layer: str) -> None:
    torch.manual_seed(0)
    model = Classifier(ModelConfig.parse({"heads": 6, "n_state": 8, "layer": layer}))
    quantized = quantize(model, Scheme(state_calibration=kind, calibration=kind), torch.randn(32, 40, 1))  # type: ignore[arg-type]

    @torch.no_grad()
    def run(one: tuple[Tensor, Tensor]) -> Tensor:
        return torch.as_tensor(quantized(*one))

    given = batches(120)
    fresh = copy.deepcopy(quantized)  # nothing is kept in it yet
    alone = [run(one) for one in given]
    for shared in (quantized, fresh):
        quantized = shared
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(run, given))
        assert all(torch.equal(one, two) for one, two in zip(alone, together, strict=True))


def test_a_dynamic_range_is_that_of_the_thread() -> None:
    q = Quantizer(8, None, dynamic=True)
    q.observe()
    q.collect(torch.tensor([[-1.0, 1.0]]))
    q.calibrate()
    calibrated = q.format().scale
    q(torch.tensor([[-4.0, 4.0]]))
    assert q.format().scale == 4 * calibrated
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: q.format().scale).result() == calibrated
    assert copy.deepcopy(q).format().scale == calibrated


def test_what_belongs_to_a_thread_is_not_copied() -> None:
    one: PerThread[int] = PerThread()
    one.value = 3
    for other in (copy.deepcopy(one), copy.copy(one)):
        assert other.value is None
    assert one.value == 3


@pytest.mark.parametrize("layer", ["s4d", "s5"])
def test_one_thread_makes_the_same_of_little(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call on the caller's thread alone, as of a stream's step, and one on all: equal to the bit."""
    torch.manual_seed(0)
    model = Classifier(ModelConfig.parse({"heads": 4, "n_state": 8, "layer": layer, "norm": "layer"}))
    u = torch.randn(3, 24, 1)
    quantized, found = quantize(model, Scheme(), u), []
    for small in (0, 1 << 40):
        monkeypatch.setattr(compiling, "SMALL", small)
        quantized.zero_grad()
        logits = quantized(u)
        logits.square().sum().backward()
        found.append([logits.detach(), *(p.grad for p in quantized.parameters() if p.grad is not None)])
    assert len(found[0]) > 8
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
