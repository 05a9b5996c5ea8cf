"""What is quantized under `torch.inference_mode()` can be trained, and runs there."""

import torch

from imc_ssm.layers import Classifier, ModelConfig
from imc_ssm.quantization import Scheme, quantize


def test_quantized_in_inference_mode_and_trained_outside() -> None:
    torch.manual_seed(0)
    model, u = Classifier(ModelConfig(heads=4)), torch.randn(8, 30, 1)
    with torch.inference_mode():
        inside = quantize(model, Scheme(), u)
        logits = inside(u).clone()
    outside = quantize(model, Scheme(), u)
    assert torch.equal(logits, outside(u))
    results = []
    for one in (inside, outside):
        one(u).square().sum().backward()
        results.append([p.grad for p in one.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True) if a is not None)
