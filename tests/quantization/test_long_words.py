"""More bits do not make a model worse: long words beside short ones."""

from __future__ import annotations

import pytest
import torch
from quantized_runs import check_batch_stream_and_partition, some

from imc_ssm.datasets import SequenceDataset
from imc_ssm.layers import Classifier
from imc_ssm.quantization import Bits, Rule, Scheme, quantize

LONG = {
    "weights and activations": Scheme.uniform(weights=16, activations=16),
    "poles and state alone": Scheme(bits=Bits.only(poles=8, state=8)),
    "weights": Scheme.uniform(weights=16),
    "activations": Scheme.uniform(activations=16),
    "14 bits": Scheme.uniform(weights=14, activations=14),
}


def error_of(model: Classifier, trained: Classifier, u: torch.Tensor) -> float:
    """Relative error of the recurrence's output over a batch."""
    seen: list[torch.Tensor] = []
    for one in (model, trained):
        handle = one.blocks[0].ssm.register_forward_hook(lambda _, __, y: seen.append(y))
        one(u)
        handle.remove()
    return float((seen[0] - seen[1]).square().mean().sqrt() / seen[1].square().mean().sqrt())


@pytest.mark.parametrize("granularity", ["head", "state"])
@pytest.mark.parametrize("name", LONG)
@torch.no_grad()
def test_long_words_are_no_worse_than_short_ones(
    name: str, granularity: str, trained: Classifier, digits: SequenceDataset
) -> None:
    u = some(digits, 60)
    rule = Rule(path="state", granularity=granularity)
    base, long = (quantize(trained, Scheme(rules=(*scheme.rules, rule)), u) for scheme in (Scheme(), LONG[name]))
    assert error_of(long, trained, u) < 1.1 * error_of(base, trained, u)
    check_batch_stream_and_partition(long, u[:20])
